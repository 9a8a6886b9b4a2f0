//! Order, bounds and repetition, and what a trace shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream;

use super::{Call, Deadline, Layer, Layered, Next, Retry, Trace};
use crate::context::Context;
use crate::engine::Engine;
use crate::engine::testing::Scripted;
use crate::error::{self, Error, ErrorKind, Result};
use crate::id::{InstanceId, SandboxId};
use crate::provider::{Capabilities, CreateRequest, OperationKind, Provider, Secrets};
use crate::sandbox::exec::{ExecSpec, TtySize};
use crate::sandbox::files::{FileOperation, FileRequest, GuestPath, WriteMode, WriteRequest};
use crate::sandbox::spec::SandboxSpec;

fn flaky() -> Error {
    Error::new(ErrorKind::Unavailable, "try again").retry(error::Retry::Maybe {
        after: Duration::ZERO,
    })
}

fn request() -> CreateRequest {
    CreateRequest {
        id: SandboxId::random(),
        instance: InstanceId::random(),
        spec: SandboxSpec::host(),
        open_files_preferred: false,
        ends: None,
        secrets: Secrets::default(),
        waits: false,
    }
}

fn layered(provider: &Arc<Scripted>, layers: Vec<Arc<dyn Layer>>) -> Layered {
    Layered::new(Arc::clone(provider) as _, layers)
}

/// Notes when calls pass.
#[derive(Debug)]
struct Note(&'static str, Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Layer for Note {
    fn name(&self) -> &'static str {
        self.0
    }
    async fn around(&self, call: &Call<'_>, next: Next<'_>) -> Result<()> {
        let note = |what: &str| {
            let line = format!("{what} {} {}", self.0, call.operation.kind.name());
            self.1.lock().unwrap().push(line);
        };
        note(">");
        let result = next.run(call.context).await;
        note("<");
        result
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_layer_is_outermost_and_an_inner_retry_is_one_call_to_it() {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let note = |name| Arc::new(Note(name, Arc::clone(&notes))) as Arc<dyn Layer>;
    let provider = Scripted::new();
    let layers = vec![note("outer"), Arc::new(Retry::default()), note("inner")];
    let layered = layered(&provider, layers);
    provider.fail(OperationKind::Usage, flaky());
    let id = SandboxId::random();
    layered.usage(&Context::default(), &id).await.unwrap();
    assert_eq!(
        *notes.lock().unwrap(),
        [
            "> outer usage",
            "> inner usage",
            "< inner usage",
            "> inner usage",
            "< inner usage",
            "< outer usage"
        ]
    );
}

#[tokio::test]
async fn a_layer_of_the_application_sees_what_admission_refuses() {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let provider = Scripted::with(Capabilities {
        image_host: true,
        ..Capabilities::default()
    });
    let engine = Engine::builder()
        .provider("bare", Arc::clone(&provider) as _)
        .layer(Arc::new(Note("audit", Arc::clone(&notes))))
        .build()
        .await
        .unwrap();
    let sandbox = engine.create(SandboxSpec::host()).await.unwrap();
    let exec = sandbox.exec(["sh"]).tty(TtySize::default());
    assert_eq!(
        exec.output().await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(
        sandbox.usage().await.unwrap_err().fact("need"),
        Some("usage")
    );
    assert_eq!(provider.count(OperationKind::Exec), 0);
    assert_eq!(provider.count(OperationKind::Usage), 0);
    let notes = notes.lock().unwrap();
    assert!(notes.contains(&"> audit exec".to_owned()));
    assert!(notes.contains(&"< audit usage".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_bounds_each_attempt_and_the_context_bounds_all() {
    let provider = Scripted::gated();
    let limit = Duration::from_secs(10);
    let deadline = Deadline {
        lifecycle: limit,
        ..Deadline::default()
    };
    let layers: Vec<Arc<dyn Layer>> = vec![Arc::new(Retry::default()), Arc::new(deadline)];
    let layered = layered(&provider, layers);
    let started = tokio::time::Instant::now();
    let error = layered
        .create(&Context::default(), &request())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.retryable(), error::Retry::Exhausted);
    assert_eq!(provider.count(OperationKind::Create), 3);
    assert!(started.elapsed() >= limit * 3);

    let bounded = Context::default().with_deadline(Instant::now() + Duration::from_secs(3));
    let error = layered.create(&bounded, &request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(provider.count(OperationKind::Create), 4);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_repeated_is_done_once() {
    let provider = Scripted::new();
    let layered = layered(&provider, vec![Arc::new(Retry::default())]);
    let (cx, id) = (Context::default(), SandboxId::random());
    let path = GuestPath::new("/a").unwrap();

    provider.fail(OperationKind::Exec, flaky());
    let spec = ExecSpec::new(["true"]);
    assert!(layered.exec(&cx, &id, &spec).await.is_err());
    assert_eq!(provider.count(OperationKind::Exec), 1);

    provider.fail(OperationKind::WriteFile, flaky());
    let write = WriteRequest {
        user: None,
        path: path.clone(),
        how: WriteMode::Replace,
        mode: None,
        parents: false,
    };
    let data = Box::pin(stream::empty());
    assert!(layered.write_file(&cx, &id, &write, data).await.is_err());
    assert_eq!(provider.count(OperationKind::WriteFile), 1);

    let file = |operation| FileRequest {
        user: None,
        operation,
    };
    let remove = |missing_ok| {
        file(FileOperation::Remove {
            path: path.clone(),
            recursive: false,
            missing_ok,
        })
    };
    provider.fail(OperationKind::File, flaky());
    assert!(layered.file(&cx, &id, &remove(false)).await.is_err());
    assert_eq!(provider.count(OperationKind::File), 1);
    provider.fail(OperationKind::File, flaky());
    layered.file(&cx, &id, &remove(true)).await.unwrap();
    assert_eq!(provider.count(OperationKind::File), 3);
}

#[tokio::test]
async fn an_error_that_does_not_change_is_not_repeated() {
    let provider = Scripted::new();
    let layered = layered(&provider, vec![Arc::new(Retry::default())]);
    provider.fail(
        OperationKind::Usage,
        Error::new(ErrorKind::PermissionDenied, "no"),
    );
    let id = SandboxId::random();
    let error = layered.usage(&Context::default(), &id).await.unwrap_err();
    assert_eq!(error.retryable(), error::Retry::Never);
    assert_eq!(error.failed_operation(), "usage");
    assert_eq!(error.failed_provider(), Some("scripted"));
    assert_eq!(provider.count(OperationKind::Usage), 1);
}

#[tokio::test]
async fn a_layer_cannot_claim_a_success_that_was_not() {
    #[derive(Debug)]
    struct Liar;
    #[async_trait]
    impl Layer for Liar {
        fn name(&self) -> &'static str {
            "liar"
        }
        async fn around(&self, _: &Call<'_>, _: Next<'_>) -> Result<()> {
            Ok(())
        }
    }
    let layered = layered(&Scripted::new(), vec![Arc::new(Liar)]);
    let id = SandboxId::random();
    let error = layered.usage(&Context::default(), &id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
}

/// Keeps the fields of every span, by name.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<String, String>>>);

impl tracing::field::Visit for Spans {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        self.0.lock().unwrap().insert(field.name().to_owned(), text);
    }
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut self.clone());
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut self.clone());
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_trace_names_the_call_and_its_outcome_and_no_value() {
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(spans.clone());
    let provider = Scripted::new();
    let layered = layered(&provider, vec![Arc::new(Trace)]);
    let id = SandboxId::random();
    let error = Error::new(ErrorKind::CommandNotFound, "no hunter2");
    provider.fail(OperationKind::Exec, error);
    let mut spec = ExecSpec::new(["hunter2", "hunter2"]);
    spec.env.push(("A".into(), "hunter2".into()));
    assert!(layered.exec(&Context::default(), &id, &spec).await.is_err());
    let fields = spans.0.lock().unwrap().clone();
    let field = |name: &str| fields.get(name).map(|text| text.trim_matches('"'));
    assert_eq!(field("operation"), Some("exec"));
    assert_eq!(field("provider"), Some("scripted"));
    assert_eq!(field("sandbox"), Some(id.as_str()));
    assert_eq!(field("outcome"), Some("command_not_found"));
    assert!(fields.contains_key("elapsed_us"));
    assert!(!format!("{fields:?}").contains("hunter2"));
}
