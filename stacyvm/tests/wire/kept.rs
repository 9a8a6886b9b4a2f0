//! What both sides keep of what is said: input, refusals, failures and their bounds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use stacyvm::error::Retry;
use stacyvm::provider::{OperationKind, Provider as _, Secrets};
use stacyvm::providers::http::HttpProvider;
use stacyvm::providers::mock::{Fault, FaultPlan, Mock, When};
use stacyvm::sandbox::exec::TtySize;
use stacyvm::sandbox::files::{GuestPath, ReadRequest, WriteMode, WriteRequest};
use stacyvm::sandbox::spec::SecretReference;
use stacyvm::wire::error::{ErrorBody, status};
use stacyvm::{Context, ErrorKind, ExecEvent, ExecSpec, ExitStatus, SandboxId, SandboxSpec};

use crate::served::{Served, engine, request, serve, with_body};

const FRAMES: &str = "application/vnd.stacyvm.frames";

/// A server over this mock, a client of it, and a sandbox.
async fn made(mock: Mock) -> (Served, Arc<HttpProvider>, SandboxId) {
    let served = serve(engine(Arc::new(mock)).await).await;
    let client = served.client().await;
    let request = request(SandboxSpec::image("scratch"));
    client.create(&Context::default(), &request).await.unwrap();
    (served, client, request.id)
}

/// Within ten seconds.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(10), work).await;
    done.expect("it is a matter of moments")
}

#[test]
fn each_kind_of_error_has_its_status() {
    for (kind, code) in [
        (ErrorKind::InvalidArgument, 400),
        (ErrorKind::Unauthenticated, 401),
        (ErrorKind::PermissionDenied, 403),
        (ErrorKind::NotFound, 404),
        (ErrorKind::Conflict, 409),
        (ErrorKind::AlreadyExists, 409),
        (ErrorKind::SandboxGone, 410),
        (ErrorKind::ResourceExhausted, 429),
        (ErrorKind::Internal, 500),
        (ErrorKind::Unsupported, 501),
        (ErrorKind::Protocol, 502),
        (ErrorKind::Unavailable, 503),
        (ErrorKind::Timeout, 504),
        (ErrorKind::NoSpace, 507),
    ] {
        assert_eq!(status(kind), code, "{kind:?}");
    }
}

#[test]
fn a_hint_to_try_again_is_kept_and_bounded() {
    let read = |retry: &str| {
        let text = format!(r#"{{"kind":"timeout","retry":{retry}}}"#);
        let body: ErrorBody = serde_json::from_str(&text).unwrap();
        body.into_error().retryable()
    };
    assert_eq!(read(r#""exhausted""#), Retry::Exhausted);
    let after = Duration::from_mins(1);
    let day = r#""maybe","retry_after_ms":86400000"#;
    assert_eq!(read(day), Retry::Maybe { after });
}

#[tokio::test]
async fn all_input_arrives_and_ends() {
    let (_served, client, id) = made(Mock::default()).await;
    let mut spec = ExecSpec::new(["cat"]);
    spec.stdin = true;
    let session = client.exec(&Context::default(), &id, &spec).await.unwrap();
    // More than one frame of input.
    let input = Bytes::from(vec![b'x'; 200_000]);
    let (mut events, mut seen) = (session.events, 0);
    let control = session.control;
    let writing = async {
        control.write_stdin(input.clone()).await.unwrap();
        control.close_stdin().await.unwrap();
    };
    let reading = async {
        while let Some(event) = events.next().await {
            match event.unwrap() {
                ExecEvent::Stdout(bytes) => seen += bytes.len(),
                other => assert_eq!(other, ExecEvent::Exited(ExitStatus::Code { code: 0 })),
            }
        }
    };
    soon(async { tokio::join!(writing, reading) }).await;
    assert_eq!(seen, input.len());
}

#[tokio::test]
async fn a_call_that_fails_says_so() {
    let (_served, client, id) = made(Mock::default()).await;
    let spec = ExecSpec::new(["sleep", "60"]);
    let session = client.exec(&Context::default(), &id, &spec).await.unwrap();
    let size = TtySize {
        rows: 10,
        columns: 20,
    };
    let error = soon(session.control.resize(size)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_read_that_fails_in_the_middle_is_no_short_file() {
    let fault = Fault::LoseConnection { after_bytes: 2 };
    let plan = FaultPlan::default().rule(OperationKind::ReadFile, When::Nth(1), fault);
    let mock = Mock::builder().file("/a", "hello").faults(plan).build();
    let (_served, client, id) = made(mock).await;
    let request = ReadRequest {
        user: None,
        path: GuestPath::new("/a").unwrap(),
        offset: 0,
        length: None,
    };
    let cx = Context::default();
    let (_, bytes) = client.read_file(&cx, &id, &request).await.unwrap();
    let read: Vec<_> = soon(bytes.collect()).await;
    let error = read.last().unwrap().as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxGone);
}

#[tokio::test]
async fn the_end_of_a_server_is_the_end_of_its_sessions() {
    let (served, client, id) = made(Mock::default()).await;
    let spec = ExecSpec::new(["sleep", "60"]);
    let mut session = client.exec(&Context::default(), &id, &spec).await.unwrap();
    drop(served);
    let event = soon(session.events.next()).await;
    let error = event.expect("an error, and not an end").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_long_body_is_refused_for_its_length() {
    let (served, _client, _) = made(Mock::default()).await;
    let mut body = br#"{"id":"s1","spec":{"source":{"image":"scratch"}}}"#.to_vec();
    body.resize((4 << 20) + 1, b' ');
    let request = with_body("POST", "/v1/sandboxes", "application/json", &body);
    let answer = served.raw(request).await;
    answer.refused(400, "invalid_argument", "body");
}

#[tokio::test]
async fn an_upload_is_a_head_and_data() {
    let (served, client, id) = made(Mock::default()).await;
    let frame = |kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length, &[kind][..], payload].concat()
    };
    let head = br#"{"path":"/tmp/a"}"#;
    let path = format!("/v1/sandboxes/{id}/files/write");
    for (first, second) in [(2, 2), (5, 2), (1, 5), (1, 16)] {
        let body = [frame(first, head), frame(second, b"abc"), frame(3, b"")].concat();
        let answer = served.raw(with_body("POST", &path, FRAMES, &body)).await;
        assert!(answer.status >= 400, "{first}, {second}: {answer:?}");
    }
    // The same with a head and data is a file.
    let target = WriteRequest {
        user: None,
        path: GuestPath::new("/tmp/a").unwrap(),
        how: WriteMode::Replace,
        mode: None,
        parents: false,
    };
    let data = stream::iter([Ok(Bytes::from_static(b"abc"))]).boxed();
    let cx = Context::default();
    let written = client.write_file(&cx, &id, &target, data);
    assert_eq!(written.await.unwrap().size, 3);
}

#[tokio::test]
async fn a_server_tells_what_it_carries() {
    let (served, ..) = made(Mock::default()).await;
    let answer = served.raw(with_body("GET", "/v1/provider", "", b"")).await;
    let claims = &answer.body["capabilities"];
    assert_eq!(
        (&claims["dial"], &claims["listen"]),
        (&true.into(), &false.into())
    );
}

#[tokio::test]
async fn names_of_secrets_on_this_host_are_not_sent() {
    let (_served, client, _) = made(Mock::default()).await;
    let mut request = request(SandboxSpec::image("scratch"));
    let reference = SecretReference::Env("HOME".to_owned());
    request.spec.secrets.insert("KEY".to_owned(), reference);
    request.secrets = Secrets::new([("KEY".to_owned(), "hunter2".to_owned())].into());
    client.create(&Context::default(), &request).await.unwrap();
}
