//! The contract, on the mock.

mod exec;
mod faults;
mod files;
mod life;
mod ports;
mod survivors;
mod tar;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::{Mock, Script};
use crate::context::Context;
use crate::error::Result;
use crate::id::{InstanceId, SandboxId};
use crate::provider::{CreateRequest, Provider, Secrets};
use crate::sandbox::exec::{ExecEvent, ExecSession, ExecSpec, ExitStatus};
use crate::sandbox::files::{FileOperation, FileReply, FileRequest, GuestPath};
use crate::sandbox::spec::SandboxSpec;

/// A sandbox of a mock.
pub(super) struct Bench {
    pub(super) mock: Arc<Mock>,
    pub(super) cx: Context,
    pub(super) id: SandboxId,
}

pub(super) fn request(spec: SandboxSpec) -> CreateRequest {
    CreateRequest {
        id: SandboxId::random(),
        instance: InstanceId::random(),
        spec,
        open_files_preferred: false,
        ends: None,
        secrets: Secrets::default(),
        waits: false,
    }
}

pub(super) async fn bench() -> Bench {
    bench_on(Mock::default()).await
}

pub(super) async fn bench_on(mock: Mock) -> Bench {
    let (mock, cx) = (Arc::new(mock), Context::default());
    let request = request(SandboxSpec::image("any"));
    mock.create(&cx, &request).await.unwrap();
    Bench {
        mock,
        cx,
        id: request.id,
    }
}

/// What a command wrote, and how it ended.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) out: String,
    pub(super) err: String,
    pub(super) lost: (u64, u64),
    pub(super) status: Option<ExitStatus>,
}

/// Reads a session to its end and checks that the end comes once and last.
pub(super) async fn drain(mut session: ExecSession) -> Result<Ran> {
    let mut ran = Ran::default();
    while let Some(event) = session.events.next().await {
        assert_eq!(ran.status, None, "an event after the end");
        match event? {
            ExecEvent::Stdout(bytes) => ran.out += &String::from_utf8_lossy(&bytes),
            ExecEvent::Stderr(bytes) => ran.err += &String::from_utf8_lossy(&bytes),
            ExecEvent::Lost { stdout, stderr } => {
                ran.lost.0 += stdout;
                ran.lost.1 += stderr;
            }
            ExecEvent::Exited(status) => ran.status = Some(status),
        }
    }
    assert!(ran.status.is_some(), "the stream ended without an end");
    Ok(ran)
}

impl Bench {
    pub(super) async fn start(&self, spec: &ExecSpec) -> Result<ExecSession> {
        self.mock.exec(&self.cx, &self.id, spec).await
    }

    pub(super) async fn run(&self, spec: &ExecSpec) -> Result<Ran> {
        drain(self.start(spec).await?).await
    }

    pub(super) async fn shell(&self, line: &str) -> Ran {
        self.run(&ExecSpec::shell(line)).await.unwrap()
    }

    pub(super) async fn processes(&self) -> Vec<String> {
        let processes = self.mock.processes(&self.cx, &self.id).await.unwrap();
        processes.iter().map(|p| p.argv.join(" ")).collect()
    }

    pub(super) async fn file(
        &self,
        user: Option<&str>,
        operation: FileOperation,
    ) -> Result<FileReply> {
        let request = FileRequest {
            user: user.map(str::to_owned),
            operation,
        };
        self.mock.file(&self.cx, &self.id, &request).await
    }
}

pub(super) fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "compared with `Ran::status`")]
pub(super) fn code(code: i32) -> Option<ExitStatus> {
    Some(ExitStatus::Code { code })
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lets every other task run until it waits.
pub(super) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// A mock with one command more.
pub(super) fn with(name: &str, script: impl Fn() -> Script + Send + Sync + 'static) -> Mock {
    Mock::builder().command(name, move |_| script()).build()
}
