//! Sandboxes without an agent: commands by the engine's own exec. What needs somebody
//! inside is not there, and capabilities say so. See the [module](super).

mod make;
mod session;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use super::life::Life;
use super::{DockerConfig, DockerProvider, named};
use crate::context::Context;
use crate::error::Result;
use crate::id::SandboxId;
use crate::provider::{
    Capabilities, CreateRequest, DiskUse, Endpoint, KillScope, Leftover, Level, OperationKind,
    ProbeReport, Provider, ProviderInfo, PullRequest, Reach, Signals, Tidied, TidyRequest,
};
use crate::sandbox::exec::{ExecSession, ExecSpec};
use crate::sandbox::spec::SandboxSpec;
use crate::sandbox::state::Observed;

/// Sandboxes whose commands are the engine's own execs, for images and engines where
/// the agent cannot be used: tens of milliseconds each, and less than with the agent.
///
/// The image has to have a program `sleep`, which holds the sandbox until its end. A
/// command that is to end before it does — by its deadline, by a signal, since nobody
/// waits for it any more — takes the sandbox with it: an engine ends no exec, and
/// nothing else surely ends all that it has started.
#[derive(Debug)]
pub struct DockerEngineExec {
    docker: DockerProvider,
}

impl DockerEngineExec {
    /// Connects to the engine and asks what it can do.
    ///
    /// # Errors
    ///
    /// Those of [`DockerProvider::open`], and `unsupported` for a runtime with a kernel
    /// of its own: that it is what it is called can be told by an agent alone.
    pub async fn open(config: DockerConfig) -> Result<Self> {
        let life = async {
            let life = Life::open(config).await?;
            make::usable(&life.facts)?;
            Ok(life)
        };
        let mut life: Life = life.await.map_err(|e: crate::Error| e.provider("docker"))?;
        life.facts.engine_exec = true;
        let life = Arc::new(life);
        Ok(Self {
            docker: DockerProvider { life },
        })
    }
}

#[async_trait]
impl Provider for DockerEngineExec {
    fn info(&self) -> ProviderInfo {
        self.docker.info()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            exec_background: false,
            reattach_output: false,
            kill_scope: KillScope::Tree,
            signals: Signals::Kill,
            files: false,
            file_watch: false,
            file_tar: false,
            dial: false,
            listen: false,
            attached_lifetime: false,
            claim: false,
            // The engine gives its execs its own.
            open_files_limit: Level::Absent,
            // What holds the sandbox counts it; a command of its user may stop that.
            ttl: Level::BestEffort,
            processes: false,
            usage: false,
            snapshot_disk: false,
            mount_host: false,
            mount_volume: false,
            ..self.docker.capabilities()
        }
    }

    async fn probe(&self, cx: &Context) -> Result<ProbeReport> {
        let mut report = self.docker.probe(cx).await?;
        report.findings.retain(|finding| finding.subject != "agent");
        let fine = |subject: &str, fine: bool| fine || subject == "memory_limit";
        let mut findings = report.findings.iter();
        report.usable = findings.all(|finding| fine(&finding.subject, finding.fine));
        Ok(report)
    }

    async fn pull(&self, cx: &Context, request: &PullRequest) -> Result<()> {
        self.docker.pull(cx, request).await
    }

    async fn create(&self, cx: &Context, request: &CreateRequest) -> Result<Observed> {
        make::refuse(request).map_err(|e| named(e, OperationKind::Create))?;
        self.docker.create(cx, request).await
    }

    async fn origin(&self, cx: &Context, spec: &SandboxSpec) -> Result<String> {
        self.docker.origin(cx, spec).await
    }

    async fn inspect(&self, cx: &Context, id: &SandboxId) -> Result<Observed> {
        self.docker.inspect(cx, id).await
    }

    async fn list(
        &self,
        cx: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>> {
        self.docker.list(cx, after, limit).await
    }

    async fn set_deadline(
        &self,
        cx: &Context,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        let set = self.docker.life.set_end_by_engine(id, ends);
        let work = std::future::ready(set);
        self.docker
            .outside(cx, OperationKind::SetDeadline, work)
            .await
    }

    async fn pause(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.docker.pause(cx, id).await
    }

    async fn resume(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.docker.resume(cx, id).await
    }

    async fn destroy(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.docker.destroy(cx, id).await
    }

    async fn exec(&self, cx: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        let work = session::open(&self.docker.life, id, spec);
        self.docker.outside(cx, OperationKind::Exec, work).await
    }

    async fn endpoint(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Endpoint> {
        self.docker.endpoint(cx, id, port).await
    }

    async fn leftovers(&self, cx: &Context, reach: Reach) -> Result<Vec<Leftover>> {
        self.docker.leftovers(cx, reach).await
    }

    async fn remove_leftover(&self, cx: &Context, id: &str) -> Result<()> {
        self.docker.remove_leftover(cx, id).await
    }

    async fn disk_use(&self, cx: &Context) -> Result<Vec<DiskUse>> {
        self.docker.disk_use(cx).await
    }

    async fn tidy(&self, cx: &Context, request: &TidyRequest) -> Result<Tidied> {
        self.docker.tidy(cx, request).await
    }

    crate::unsupported! {
        claim, set_lifetime, attach, read_log, list_execs, signal_exec, file, read_file, write_file, watch,
        export_tar, import_tar, dial, listen, processes, usage, snapshot, delete_snapshot,
    }
}
