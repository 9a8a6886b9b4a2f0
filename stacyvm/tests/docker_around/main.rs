//! What lies around a Docker sandbox, on a real engine: its network, its ports, its
//! mounts, and its hardening as the engine tells it. The engine is the one that
//! `STACYVM_TEST_DOCKER_HOST` names (`scripts/docker-host.sh start`), with the image
//! `stacyvm-test/busybox`. Without it each test prints `not run`.
#![cfg(all(feature = "docker", unix))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[cfg(target_os = "linux")]
#[path = "../docker_common/mod.rs"]
mod docker_common;
mod hardened;
mod mounts;
mod network;

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use stacyvm::id::{InstanceId, SandboxId, TenantId};
use stacyvm::provider::{CreateRequest, Provider, Secrets};
use stacyvm::providers::docker::{DockerConfig, DockerProvider};
use stacyvm::sandbox::spec::SandboxSpec;
use stacyvm::{Context, ErrorKind, ExecEvent, ExecSpec, ExitStatus};

const IMAGE: &str = "stacyvm-test/busybox";
/// Far longer than anything here takes; only a hang gets there.
const SOON: Duration = Duration::from_mins(1);

/// One store's view of the engine, with its own state directory.
struct Host {
    engine: String,
    state: tempfile::TempDir,
    instance: InstanceId,
    provider: Arc<DockerProvider>,
}

impl Host {
    async fn open() -> Option<Self> {
        Self::with_runtime(None).await
    }

    /// None where there is no engine, or it has no such runtime.
    async fn with_runtime(runtime: Option<&str>) -> Option<Self> {
        let Some(engine) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
            println!("not run: no docker engine");
            return None;
        };
        let engine = engine.into_string().unwrap();
        let state = tempfile::tempdir().unwrap();
        let instance = InstanceId::random();
        let mut config = DockerConfig::new(state.path(), instance.clone()).host(&engine);
        if let Some(runtime) = runtime {
            config = config.runtime(runtime);
        }
        match DockerProvider::open(config).await {
            Ok(provider) => Some(Self {
                engine,
                state,
                instance,
                provider: Arc::new(provider),
            }),
            Err(error) if runtime.is_some() && error.kind() == ErrorKind::InvalidArgument => {
                println!("not run: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn request(&self, spec: SandboxSpec) -> CreateRequest {
        CreateRequest {
            id: SandboxId::random(),
            instance: self.instance.clone(),
            spec,
            open_files_preferred: false,
            ends: None,
            secrets: Secrets::default(),
            waits: false,
        }
    }

    async fn sandbox(&self, spec: SandboxSpec) -> SandboxId {
        let request = self.request(spec);
        self.provider.create(&cx(), &request).await.unwrap();
        request.id
    }

    /// A create that fails and leaves nothing.
    async fn refused(&self, spec: SandboxSpec) -> stacyvm::Error {
        let request = self.request(spec);
        let error = self.provider.create(&cx(), &request).await.unwrap_err();
        assert_eq!(self.held().await, Vec::<String>::new(), "{error}");
        error
    }

    /// Runs a line of shell as a user; its end and what it wrote.
    async fn sh_as(&self, id: &SandboxId, user: &str, line: &str) -> (ExitStatus, String) {
        let mut spec = ExecSpec::shell(line);
        spec.user = Some(user.to_owned());
        let session = self.provider.exec(&cx(), id, &spec).await.unwrap();
        let mut events = session.events;
        let (mut status, mut said) = (ExitStatus::SandboxGone, Vec::new());
        let work = async {
            while let Some(event) = events.next().await {
                match event.unwrap() {
                    ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => said.extend(bytes),
                    ExecEvent::Lost { .. } => {}
                    ExecEvent::Exited(end) => status = end,
                }
            }
        };
        tokio::time::timeout(SOON, work).await.expect("hangs");
        let said = String::from_utf8_lossy(&said).trim_end().to_owned();
        (status, said)
    }

    async fn sh(&self, id: &SandboxId, line: &str) -> (ExitStatus, String) {
        self.sh_as(id, "0", line).await
    }

    /// What a line of shell that succeeds says.
    async fn says(&self, id: &SandboxId, line: &str) -> String {
        let (status, said) = self.sh(id, line).await;
        assert_eq!(status, ExitStatus::Code { code: 0 }, "{line}: {said}");
        said
    }

    /// The engine's own program, as another client of it.
    async fn docker(&self, words: &[&str]) -> String {
        let (fine, said) = self.tried(words).await;
        assert!(fine, "docker {words:?}: {said}");
        said
    }

    async fn tried(&self, words: &[&str]) -> (bool, String) {
        let mut command = tokio::process::Command::new("docker");
        command.env_remove("DOCKER_CONTEXT").stdin(Stdio::null());
        let output = command
            .args(["-H", &self.engine])
            .args(words)
            .output()
            .await
            .unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        (output.status.success(), said)
    }

    /// Runs a program on the engine's host, in its network.
    async fn beside(&self, words: &[&str]) -> (bool, String) {
        let container = ["run", "--rm", "--network", "host", IMAGE];
        self.tried(&[&container[..], words].concat()).await
    }

    /// Everything that has the label of this store.
    async fn held(&self) -> Vec<String> {
        let label = format!("label=stacyvm.instance={}", self.instance);
        let mut all = Vec::new();
        for kind in [&["ps", "-a"][..], &["network", "ls"], &["volume", "ls"]] {
            let filter = ["-q", "--filter", &label];
            let found = self.docker(&[kind, &filter[..]].concat()).await;
            all.extend(found.lines().map(|line| format!("{} {line}", kind[0])));
        }
        all
    }

    async fn end(self, ids: &[&SandboxId]) {
        for id in ids {
            self.provider.destroy(&cx(), id).await.unwrap();
        }
        assert_eq!(self.held().await, Vec::<String>::new());
        let tickets = std::fs::read_dir(self.state.path()).unwrap();
        let tickets = tickets.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().ends_with(".ticket")
        });
        assert_eq!(tickets.count(), 0);
    }
}

fn cx() -> Context {
    Context::new(TenantId::default())
}

fn container(id: &SandboxId) -> String {
    format!("stacyvm-{id}")
}
