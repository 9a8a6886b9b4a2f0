//! Secrets are nowhere but where they are for: canaries go into every place
//! that holds one, every operation runs, and then everything that was written
//! is searched for them in six encodings.
//!
//! A process of its own does the work, as one secret is in its environment.
#![cfg(all(target_os = "linux", feature = "oci", feature = "sqlite"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that panics has failed, and one that cannot run says why"
)]

#[path = "common/canary.rs"]
mod canary;
mod common;

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use canary::{Canary, files_below};
use common::{eventually, soon};
use stacyvm::config::{Config, ProviderConfig};
use stacyvm::engine::{Engine, Filter};
use stacyvm::sandbox::spec::{Lifetime, SecretReference};
use stacyvm::{ErrorKind, Sandbox, SandboxSpec, SignalScope};

/// The variable of the working process that a secret refers to, and its state.
const SECRET: &str = "STACYVM_CANARY_SECRET";
const STATE: &str = "STACYVM_CANARY_STATE";
const PROVIDER: &str = "STACYVM_CANARY_PROVIDER";

fn parameter(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

/// Everything that traces say, at the finest level.
#[derive(Clone, Default)]
struct Traces(Arc<Mutex<String>>);

impl tracing::field::Visit for Traces {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        let mut all = self.0.lock().unwrap();
        let _ = writeln!(all, "{}={value:?}", field.name());
    }
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        let mut all = self.0.lock().unwrap();
        let _ = writeln!(all, "{}={value}", field.name());
    }
}

impl tracing::Subscriber for Traces {
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
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// The canaries, and what was found of them.
struct Search {
    env: Canary,
    env_secret: Canary,
    file_secret: Canary,
    exec_env: Canary,
    stdin: Canary,
    content: Canary,
    claim_env: Canary,
    claim_secret: Canary,
    claim_content: Canary,
    found: BTreeSet<String>,
    /// How much was searched, so that a search of nothing is noticed.
    searched: u64,
}

impl Search {
    fn new(env_secret: String) -> Self {
        let mut of_env = Canary::new("a secret by variable");
        of_env = of_env.with(env_secret);
        Self {
            env: Canary::new("a variable of the spec"),
            env_secret: of_env,
            file_secret: Canary::new("a secret by file"),
            exec_env: Canary::new("a variable of a command"),
            stdin: Canary::new("standard input"),
            content: Canary::new("the content of a file"),
            claim_env: Canary::new("a variable of a claim"),
            claim_secret: Canary::new("a secret of a claim"),
            claim_content: Canary::new("the content of a file of a claim"),
            found: BTreeSet::new(),
            searched: 0,
        }
    }

    fn all(&self) -> [&Canary; 9] {
        [
            &self.env,
            &self.env_secret,
            &self.file_secret,
            &self.exec_env,
            &self.stdin,
            &self.content,
            &self.claim_env,
            &self.claim_secret,
            &self.claim_content,
        ]
    }

    fn look(&mut self, place: &str, bytes: &[u8]) {
        self.searched += bytes.len() as u64;
        let mut found = Vec::new();
        for canary in self.all() {
            for form in canary.found_in(bytes) {
                found.push(format!("{} as {form} in {place}", canary.place));
            }
        }
        self.found.extend(found);
    }

    /// What people print of a value: its `Debug`, in both forms.
    fn debug(&mut self, value: &impl Debug) {
        self.look("a Debug text", format!("{value:?}{value:#?}").as_bytes());
    }

    /// What people print of an error, with what is below it.
    fn error(&mut self, error: &stacyvm::Error) {
        let mut text = format!("{error} {error:?} {error:#?}");
        let mut below: Option<&dyn std::error::Error> = std::error::Error::source(error);
        while let Some(source) = below {
            let _ = write!(text, " {source} {source:?}");
            below = source.source();
        }
        self.look("an error", text.as_bytes());
    }

    /// Every file of the state directory but what sandboxes write themselves.
    fn state(&mut self, state: &Path, living: bool) {
        let sandboxes = state.join("sandboxes");
        let left_out: &[&Path] = if living { &[&sandboxes] } else { &[] };
        let mut files = Vec::new();
        files_below(state, left_out, &mut |path, bytes| {
            files.push((path.to_owned(), bytes.to_vec()));
        });
        assert!(files.iter().any(|(path, _)| path.ends_with("store.db")));
        // Beside the layers: lock, ledger, and whatever else a helper writes.
        if living {
            for name in std::fs::read_dir(&sandboxes)
                .into_iter()
                .flatten()
                .flatten()
            {
                let own = std::fs::read_dir(name.path())
                    .into_iter()
                    .flatten()
                    .flatten();
                for file in own.filter(|e| e.file_type().is_ok_and(|kind| kind.is_file())) {
                    files.push((file.path(), std::fs::read(file.path()).unwrap_or_default()));
                }
            }
        }
        for (path, bytes) in files {
            self.look(&path.display().to_string(), &bytes);
        }
    }

    /// Arguments of every process; environments of all but this one's and
    /// those of the commands, which are what the variables are for.
    fn processes(&mut self) {
        let own = std::process::id().to_string();
        let mut ours = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|b| b.is_ascii_digit()) || pid == own {
                continue;
            }
            let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
            let title = String::from_utf8_lossy(&read("comm")).trim().to_owned();
            self.look(&format!("the arguments of {title}"), &read("cmdline"));
            if title.starts_with("stacyvm")
                || title.starts_with("docker")
                || title.starts_with("containerd")
            {
                ours += usize::from(title.starts_with("stacyvm"));
                self.look(&format!("the environment of {title}"), &read("environ"));
            }
        }
        assert!(ours >= 2, "neither a helper nor an agent was seen");
        let ps = std::process::Command::new("ps")
            .args(["-ww", "-eo", "pid,args"])
            .output();
        self.look("ps", &ps.map(|output| output.stdout).unwrap_or_default());
    }
}

/// An engine on a state directory, with the provider that is tested.
async fn open(state: &Path) -> Engine {
    let mut config = Config::for_state_dir(state);
    config.parked_helpers = 0;
    if let Some(host) = parameter(PROVIDER) {
        config.default_provider = "docker".into();
        let docker = ProviderConfig {
            kind: "docker".into(),
            runtime: None,
            host: Some(host),
            certs: None,
            direct: None,
            users: None,
            exec: None,
            url: None,
        };
        config.providers.insert("docker".into(), docker);
    }
    Engine::open(config).await.unwrap()
}

/// The image of the provider that is tested.
fn image() -> SandboxSpec {
    if parameter(PROVIDER).is_some() {
        SandboxSpec::image("stacyvm-test/busybox")
    } else {
        SandboxSpec::host()
    }
}

/// Not a test of its own: the process that does the work.
#[tokio::test(flavor = "multi_thread")]
async fn entry() {
    let (Some(state), Some(secret)) = (parameter(STATE), parameter(SECRET)) else {
        return;
    };
    let state = PathBuf::from(state);
    let traces = Traces::default();
    tracing::subscriber::set_global_default(traces.clone()).unwrap();
    let mut search = Search::new(secret);
    let place = tempfile::tempdir().unwrap();
    let secret_file = place.path().join("secret");
    std::fs::write(&secret_file, &search.file_secret.value).unwrap();

    let engine = open(&state).await;
    let mut spec = image()
        .env("CANARY", &search.env.value)
        .lifetime(Lifetime::Detached)
        .label("purpose", "canaries");
    let by_file = secret_file.to_string_lossy().into_owned();
    spec.secrets
        .insert("BY_ENV".into(), SecretReference::Env(SECRET.into()));
    spec.secrets
        .insert("BY_FILE".into(), SecretReference::File(by_file));
    search.debug(&spec);
    search.debug(&engine.create(spec.clone()));

    let create = engine.create(spec.clone()).idempotency_key("canaries");
    let sandbox = soon(async { create.await }).await.unwrap();
    let again = engine.create(spec.clone()).idempotency_key("canaries");
    assert_eq!(
        soon(async { again.await }).await.unwrap().id(),
        sandbox.id()
    );
    let line = "echo \"$CANARY$BY_ENV$BY_FILE\" | wc -c";
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    let length =
        search.env.value.len() + search.env_secret.value.len() + search.file_secret.value.len() + 1;
    assert_eq!(
        output.stdout_text().trim(),
        length.to_string(),
        "they are inside"
    );

    errors(&engine, &sandbox, &spec, &mut search).await;
    let claimed = claim(&engine, place.path(), &mut search).await;
    work(&engine, &sandbox, &mut search).await;
    let lasting = {
        let exec = sandbox
            .exec(["sleep", "300"])
            .env("CANARY_EXEC", &search.exec_env.value);
        search.debug(&exec);
        let process = soon(exec.background().start()).await.unwrap();
        search.debug(&process);
        process.detach().unwrap()
    };
    search.debug(&sandbox.execs().await.unwrap());
    let info = sandbox.info().await.unwrap();
    search.debug(&info);
    search.look("inspect", &serde_json::to_vec(&info).unwrap());
    search.debug(&engine.list(Filter::default()).await.unwrap());
    search.debug(&engine);
    search.debug(&sandbox);
    eventually("the command is on record", async || {
        let traced = traces.0.lock().unwrap().len();
        traced > 0
    })
    .await;
    search.state(&state, true);
    search.processes();
    containers(&mut search);
    soon(sandbox.signal(&lasting, 9, SignalScope::Tree))
        .await
        .unwrap();
    soon(sandbox.kill()).await.unwrap();
    soon(claimed.kill()).await.unwrap();
    search.debug(&sandbox.info().await.unwrap());
    let traced = traces.0.lock().unwrap().clone();
    assert!(traced.contains("exec"), "no traces: {traced}");
    search.look("a trace", traced.as_bytes());
    // While it is open the newest part is in the log; then all is in the file,
    // with pages that were freed.
    search.state(&state, false);
    engine.close().await.unwrap();
    drop((engine, sandbox));
    search.state(&state, false);
    assert!(
        search.searched > 100_000,
        "{} bytes were searched",
        search.searched
    );
    assert!(search.found.is_empty(), "{:#?}", search.found);
    println!("searched {} bytes", search.searched);
}

/// What fails, beside each secret.
async fn errors(engine: &Engine, sandbox: &Sandbox, spec: &SandboxSpec, search: &mut Search) {
    let other = spec.clone().env("CANARY", "another");
    let conflict = engine.create(other).idempotency_key("canaries").await;
    let error = conflict.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    search.error(&error);
    let mut wrong = vec![
        spec.clone().env("NOT A NAME", &search.exec_env.value),
        spec.clone()
            .env("ZERO", format!("{}\0", search.exec_env.value)),
        spec.clone()
            .env("LARGE", search.exec_env.value.repeat(20_000)),
        spec.clone().memory_mib(0),
    ];
    let mut missing = spec.clone();
    let nowhere = SecretReference::File("/nowhere/at/all".into());
    missing.secrets.insert("MISSING".into(), nowhere);
    wrong.push(missing);
    for spec in wrong {
        match soon(async { engine.create(spec).await }).await {
            Ok(made) => drop(made.kill().await.unwrap()),
            Err(error) => search.error(&error),
        }
    }
    let value = search.exec_env.value.clone();
    for name in ["NOT=A NAME", "", "FINE"] {
        let exec = sandbox
            .exec(["/nowhere"])
            .env(name, &value)
            .stdin(search.stdin.value.clone());
        search.error(&soon(exec.output()).await.unwrap_err());
    }
    let exec = sandbox.exec(["true"]).env("ZERO", format!("{value}\0"));
    search.error(&soon(exec.output()).await.unwrap_err());
    let exec = sandbox.exec(["true"]).user("nobody-here").env("A", &value);
    search.error(&soon(exec.output()).await.unwrap_err());
    let content = search.content.value.clone();
    let files = sandbox.files();
    search.error(
        &soon(files.write("/proc/nowhere", content.clone()))
            .await
            .unwrap_err(),
    );
    search.error(&soon(files.write("/tmp", content)).await.unwrap_err());
}

/// What a claim brings, and claims that fail beside it.
async fn claim(engine: &Engine, place: &Path, search: &mut Search) -> Sandbox {
    let path = place.join("of-a-claim");
    std::fs::write(&path, &search.claim_secret.value).unwrap();
    let secret = SecretReference::File(path.to_string_lossy().into_owned());
    let pool = engine.pool(image()).size(1).await.unwrap();
    soon(pool.filled()).await.unwrap();
    let value = search.claim_env.value.clone();
    let content = search.claim_content.value.clone();
    let begin = || {
        pool.claim()
            .env("CANARY_CLAIM", &value)
            .secret("BY_CLAIM", secret.clone())
    };
    for wrong in [
        begin().env("NOT=A NAME", &value),
        begin().env("ZERO", format!("{value}\0")),
        begin().file("/proc/nowhere", content.clone()),
    ] {
        search.debug(&wrong);
        let failed = soon(async { wrong.await.map(|made| made.id().clone()) }).await;
        search.error(&failed.unwrap_err());
    }
    soon(pool.filled()).await.unwrap();
    let before = pool.stats().warm;
    let right = begin().file("/workspace/canary", content);
    search.debug(&right);
    let sandbox = soon(async { right.await }).await.unwrap();
    assert_eq!(pool.stats().warm, before + 1, "one that waited was claimed");
    let line = "echo \"$CANARY_CLAIM$BY_CLAIM$(cat /workspace/canary)\" | wc -c";
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    let inside = [
        &search.claim_env,
        &search.claim_secret,
        &search.claim_content,
    ];
    let length: usize = inside.iter().map(|canary| canary.value.len()).sum();
    let length = (length + 1).to_string();
    assert_eq!(output.stdout_text().trim(), length, "they are inside");
    search.debug(&pool);
    search.debug(&pool.stats());
    let info = sandbox.info().await.unwrap();
    search.debug(&info);
    search.look("inspect", &serde_json::to_vec(&info).unwrap());
    search.debug(&sandbox);
    soon(pool.drain()).await.unwrap();
    sandbox
}

/// What works, with each secret.
async fn work(engine: &Engine, sandbox: &Sandbox, search: &mut Search) {
    let value = search.exec_env.value.clone();
    let exec = sandbox.exec(["cat"]).env("CANARY_EXEC", &value);
    let output = soon(exec.stdin(search.stdin.value.clone()).output())
        .await
        .unwrap();
    assert_eq!(output.stdout_text(), search.stdin.value);
    search.debug(&output);
    let exec = sandbox.exec(["sleep", "300"]).env("CANARY_EXEC", &value);
    let exec = exec.timeout(Duration::from_millis(200));
    soon(exec.output()).await.unwrap();
    let files = sandbox.files();
    let content = search.content.value.clone();
    let written = soon(files.write("/tmp/canary", content.clone()))
        .await
        .unwrap();
    search.debug(&written);
    assert_eq!(soon(files.read("/tmp/canary")).await.unwrap(), content);
    search.debug(&files.list("/tmp").await.unwrap());
    search.debug(&sandbox.processes().await.unwrap());
    search.debug(&sandbox.usage().await.unwrap());
    let found = engine.get(sandbox.id()).await.unwrap();
    search.debug(&found);
    engine.reconcile().await.unwrap();
    soon(sandbox.extend(Duration::from_mins(1))).await.unwrap();
}

/// What a Docker engine tells of the containers.
fn containers(search: &mut Search) {
    let Some(host) = parameter(PROVIDER) else {
        return;
    };
    let ask = |arguments: &[&str]| {
        let mut docker = std::process::Command::new("docker");
        docker
            .env("DOCKER_HOST", &host)
            .args(arguments)
            .output()
            .unwrap()
            .stdout
    };
    let filter = "label=stacyvm.instance";
    let ids = String::from_utf8(ask(&["ps", "--all", "--quiet", "--filter", filter])).unwrap();
    assert!(!ids.trim().is_empty(), "no container was seen");
    for id in ids.split_whitespace() {
        search.look("docker inspect", &ask(&["inspect", id]));
        search.look("docker logs", &ask(&["logs", id]));
    }
}

/// Has a process of its own do the work on a provider.
fn search(docker: Option<String>) {
    let state = tempfile::tempdir().unwrap();
    let secret = Canary::new("the environment").value;
    let mut work = std::process::Command::new(std::env::current_exe().unwrap());
    work.args(["entry", "--exact", "--nocapture"])
        .env(SECRET, secret)
        .env(STATE, state.path().join("state"));
    if let Some(host) = docker {
        work.env(PROVIDER, host);
    }
    let output = work.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("searched "), "{text}");
}

#[test]
fn no_secret_is_in_anything_that_is_written() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: the embedded provider needs root");
        return;
    }
    search(None);
}

#[test]
fn no_secret_is_in_anything_that_is_written_on_docker() {
    match parameter("STACYVM_TEST_DOCKER_HOST") {
        Some(host) => search(Some(host)),
        None => eprintln!("not run: no docker engine (STACYVM_TEST_DOCKER_HOST)"),
    }
}
