#![doc = include_str!("docs.md")]

mod bridge;
mod claim;
mod config;
mod connect;
mod create;
#[cfg_attr(not(target_os = "linux"), path = "no_direct.rs")]
mod direct;
mod discover;
mod end;
mod engine_exec;
mod error;
mod facts;
mod filling;
mod host;
mod identity;
mod images;
mod lease;
mod left;
mod life;
mod mounts;
mod network;
mod observe;
mod one_user;
mod origin;
mod patience;
mod pull;
mod pull_error;
mod refuse;
mod snapshot;
mod surround;
mod ticket;
mod tls;
mod upkeep;
mod volume;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bollard::query_parameters::{ListContainersOptions, RemoveContainerOptions, StatsOptions};
use futures_util::{StreamExt, pin_mut};

pub use config::{DEFAULT_HOST, DockerConfig};
pub use engine_exec::DockerEngineExec;
pub use tls::DockerTls;

use self::life::Life;
use self::patience::Answer;
use crate::agent::AgentClient;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, SandboxId, SnapshotId};
use crate::provider::{
    Capabilities, ClaimRequest, Connection, CreateRequest, DiskUse, Endpoint, Finding, Leftover,
    OperationKind, PortListener, ProbeReport, Provider, ProviderInfo, PullRequest, Reach,
    SnapshotInfo, Tidied, TidyRequest,
};
use crate::sandbox::exec::{
    AttachOptions, BoxStream, ExecEvent, ExecInfo, ExecSession, ExecSpec, LogOptions, SignalScope,
};
use crate::sandbox::files::{
    Archive, ByteStream, ExportRequest, FileEntry, FileReply, FileRequest, ImportRequest,
    ReadRequest, WatchEvent, WatchRequest, WriteRequest,
};
use crate::sandbox::spec::{Lifetime, SandboxSpec, Source};
use crate::sandbox::state::{Observed, ObservedState, ProcessInfo, Usage};

/// Sandboxes as containers of a Docker Engine. See the [module](self).
#[derive(Debug)]
pub struct DockerProvider {
    life: Arc<Life>,
}

impl DockerProvider {
    /// Connects to the engine and asks what it can do.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a host or runtime that cannot be used,
    /// `unavailable` where no engine answers, `permission_denied` where this
    /// user may not use it or the state directory is open to others,
    /// `unsupported` where the engine cannot run this build's agent.
    pub async fn open(config: DockerConfig) -> Result<Self> {
        let life = Life::open(config).await.map_err(|e| e.provider("docker"))?;
        Ok(Self {
            life: Arc::new(life),
        })
    }

    /// Runs one call to the agent of a sandbox within the caller's limits.
    async fn inside<T, F>(
        &self,
        cx: &Context,
        id: &SandboxId,
        operation: OperationKind,
        call: impl FnOnce(AgentClient) -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let work = async {
            let client = self.life.client(id).await?;
            call(client).await
        };
        cx.bound(work).await.map_err(|e| named(e, operation))
    }

    /// Runs one call to the engine within the caller's limits.
    async fn outside<T>(
        &self,
        cx: &Context,
        operation: OperationKind,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        cx.bound(work).await.map_err(|e| named(e, operation))
    }
}

fn named(error: Error, operation: OperationKind) -> Error {
    error.operation(operation.name()).provider("docker")
}

fn unsupported<T>(operation: OperationKind, what: &str) -> Result<T> {
    let message = format!("the docker provider does not serve {what}");
    Err(named(Error::unsupported(message), operation))
}

#[async_trait]
impl Provider for DockerProvider {
    fn info(&self) -> ProviderInfo {
        self.life.facts.info()
    }

    fn capabilities(&self) -> Capabilities {
        self.life.facts.capabilities()
    }

    async fn probe(&self, cx: &Context) -> Result<ProbeReport> {
        let daemon = async {
            let answer = self.life.docker.ping().within(&self.life.docker).await;
            Ok(match answer.map_err(error::map) {
                Ok(_) => finding("daemon", true, &self.life.facts.server, ""),
                Err(e) => finding("daemon", false, &e.to_string(), "start the docker engine"),
            })
        };
        let daemon = self.outside(cx, OperationKind::Probe, daemon).await?;
        let agent = !stacyvm_agent::AGENT.is_empty();
        let findings = vec![
            daemon,
            finding("runtime", true, &self.life.facts.runtime, ""),
            finding(
                "agent",
                agent,
                if agent { "embedded" } else { "absent" },
                if agent {
                    ""
                } else {
                    "build on linux, or name a prebuilt agent"
                },
            ),
            finding(
                "memory_limit",
                self.life.facts.memory,
                if self.life.facts.swap {
                    "with swap accounting"
                } else {
                    "without swap accounting"
                },
                if self.life.facts.memory {
                    ""
                } else {
                    "enable the memory cgroup"
                },
            ),
        ];
        Ok(ProbeReport {
            usable: findings
                .iter()
                .all(|f| f.fine || f.subject == "memory_limit"),
            findings,
        })
    }

    async fn pull(&self, cx: &Context, request: &PullRequest) -> Result<()> {
        self.outside(cx, OperationKind::Pull, self.life.pull(request))
            .await
    }

    async fn create(&self, cx: &Context, request: &CreateRequest) -> Result<Observed> {
        let operation = OperationKind::Create;
        refuse::refuse(&request.spec, &self.life.facts).map_err(|e| named(e, operation))?;
        if let Source::Snapshot(_) = request.spec.source {
            let can = self.life.facts.snapshots();
            can.map_err(|e| named(e, operation))?;
        }
        let making = Life::make(&self.life, request.clone(), cx.tenant.clone());
        self.outside(cx, operation, making).await
    }

    async fn origin(&self, cx: &Context, spec: &SandboxSpec) -> Result<String> {
        let work = async { Ok(self.life.base(spec, &cx.tenant).await?.id) };
        self.outside(cx, OperationKind::Origin, work).await
    }

    async fn claim(&self, cx: &Context, id: &SandboxId, request: &ClaimRequest) -> Result<()> {
        let work = Box::pin(self.life.claim(id, request));
        self.outside(cx, OperationKind::Claim, work).await
    }

    async fn inspect(&self, cx: &Context, id: &SandboxId) -> Result<Observed> {
        self.outside(cx, OperationKind::Inspect, self.life.observe(id))
            .await
    }

    /// The end, the process number and the limits of a sandbox are left to
    /// [`inspect`](Provider::inspect): the engine's list has none of them.
    async fn list(
        &self,
        cx: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>> {
        let work = async {
            let label = format!("{}={}", create::INSTANCE, self.life.config.instance);
            let options = ListContainersOptions {
                all: true,
                filters: Some([("label".to_owned(), vec![label])].into()),
                ..ListContainersOptions::default()
            };
            let seen = self
                .life
                .docker
                .list_containers(Some(options))
                .within(&self.life.docker)
                .await
                .map_err(error::map)?;
            let mut all: Vec<Observed> = seen.iter().filter_map(observe::listed).collect();
            all.retain(|o| after.is_none_or(|a| o.id > *a));
            all.sort_by(|a, b| a.id.cmp(&b.id));
            all.truncate(limit as usize);
            Ok(all)
        };
        self.outside(cx, OperationKind::List, work).await
    }

    async fn set_deadline(
        &self,
        cx: &Context,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        let work = self.life.set_end(id, ends);
        self.outside(cx, OperationKind::SetDeadline, Box::pin(work))
            .await
    }

    async fn set_lifetime(&self, cx: &Context, id: &SandboxId, lifetime: Lifetime) -> Result<()> {
        let attached = lifetime == Lifetime::Attached;
        let work = Life::set_attached(&self.life, id, attached);
        self.outside(cx, OperationKind::SetLifetime, Box::pin(work))
            .await
    }

    async fn pause(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        let work = self.life.freeze(id, ObservedState::Paused);
        self.outside(cx, OperationKind::Pause, work).await
    }

    async fn resume(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        let work = self.life.freeze(id, ObservedState::Running);
        self.outside(cx, OperationKind::Resume, work).await
    }

    async fn destroy(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.outside(cx, OperationKind::Destroy, Box::pin(self.life.destroy(id)))
            .await
    }

    async fn exec(&self, cx: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        self.inside(cx, id, OperationKind::Exec, |client| async move {
            client.exec(spec).await
        })
        .await
    }

    async fn attach(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        options: AttachOptions,
    ) -> Result<ExecSession> {
        self.inside(cx, id, OperationKind::Attach, |client| async move {
            client.attach(exec, options).await
        })
        .await
    }

    async fn read_log(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        options: LogOptions,
    ) -> Result<BoxStream<Result<ExecEvent>>> {
        self.inside(cx, id, OperationKind::ReadLog, |client| async move {
            client.read_log(exec, options).await
        })
        .await
    }

    async fn list_execs(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ExecInfo>> {
        self.inside(cx, id, OperationKind::ListExecs, |client| async move {
            client.list_execs().await
        })
        .await
    }

    async fn signal_exec(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        signal: i32,
        scope: SignalScope,
    ) -> Result<()> {
        self.inside(cx, id, OperationKind::SignalExec, |client| async move {
            client.signal_exec(exec, signal, scope).await
        })
        .await
    }

    async fn file(&self, cx: &Context, id: &SandboxId, request: &FileRequest) -> Result<FileReply> {
        self.inside(cx, id, OperationKind::File, |client| async move {
            client.file(request).await
        })
        .await
    }

    async fn read_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ReadRequest,
    ) -> Result<(FileEntry, ByteStream)> {
        self.inside(cx, id, OperationKind::ReadFile, |client| async move {
            client.read_file(request).await
        })
        .await
    }

    async fn write_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WriteRequest,
        data: ByteStream,
    ) -> Result<FileEntry> {
        self.inside(cx, id, OperationKind::WriteFile, |client| async move {
            client.write_file(request, data).await
        })
        .await
    }

    async fn watch(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WatchRequest,
    ) -> Result<BoxStream<Result<WatchEvent>>> {
        self.inside(cx, id, OperationKind::Watch, |client| async move {
            client.watch(request).await
        })
        .await
    }

    async fn export_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ExportRequest,
    ) -> Result<Archive> {
        self.inside(cx, id, OperationKind::ExportTar, |client| async move {
            client.export_tar(request).await
        })
        .await
    }

    async fn import_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ImportRequest,
        data: ByteStream,
    ) -> Result<()> {
        self.inside(cx, id, OperationKind::ImportTar, |client| async move {
            client.import_tar(request, data).await
        })
        .await
    }

    async fn dial(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Connection> {
        self.inside(cx, id, OperationKind::Dial, |client| async move {
            client.dial(port).await
        })
        .await
    }

    async fn listen(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<PortListener> {
        self.inside(cx, id, OperationKind::Listen, |client| async move {
            client.listen(port).await
        })
        .await
    }

    async fn endpoint(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Endpoint> {
        let operation = OperationKind::Endpoint;
        if !self.life.facts.publishes() {
            return unsupported(operation, "addresses of ports here; dial them instead");
        }
        let work = self.life.published_at(id, port);
        self.outside(cx, operation, work).await
    }

    async fn processes(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ProcessInfo>> {
        self.inside(cx, id, OperationKind::Processes, |client| async move {
            let mut all = client.processes().await?;
            // Bridges are ours. Only what comes from outside has no parent.
            all.retain(|p| p.parent != 0 || p.argv.get(1).is_none_or(|a| a != "bridge"));
            Ok(all)
        })
        .await
    }

    async fn usage(&self, cx: &Context, id: &SandboxId) -> Result<Usage> {
        // Its agent counts what runs, and stands still with it.
        let still = async {
            match self.life.observe(id).await?.state {
                ObservedState::Paused => Err(life::paused()),
                _ => Ok(()),
            }
        };
        self.outside(cx, OperationKind::Usage, still).await?;
        self.inside(cx, id, OperationKind::Usage, |client| async move {
            let inside = client.usage().await?;
            let options = StatsOptions {
                stream: false,
                one_shot: true,
            };
            let stats = self
                .life
                .docker
                .stats(&create::container(id), Some(options));
            pin_mut!(stats);
            let none = || Error::new(ErrorKind::Unavailable, "the docker engine sent no usage");
            let sent = async { stats.next().await.transpose() };
            let stats = sent.within(&self.life.docker).await.map_err(error::map)?;
            Ok(observe::usage(&stats.ok_or_else(none)?, inside.processes))
        })
        .await
    }

    async fn snapshot(
        &self,
        cx: &Context,
        id: &SandboxId,
        snapshot: &SnapshotId,
    ) -> Result<SnapshotInfo> {
        let saving = Life::snapshot(&self.life, id.clone(), snapshot.clone());
        self.outside(cx, OperationKind::Snapshot, saving).await
    }

    async fn leftovers(&self, cx: &Context, reach: Reach) -> Result<Vec<Leftover>> {
        let work = async {
            let label = match reach {
                Reach::Own => format!("{}={}", create::INSTANCE, self.life.config.instance),
                Reach::Host => create::INSTANCE.to_owned(),
            };
            let options = ListContainersOptions {
                all: true,
                filters: Some([("label".to_owned(), vec![label])].into()),
                ..ListContainersOptions::default()
            };
            let docker = &self.life.docker;
            let seen = docker.list_containers(Some(options)).within(docker).await;
            let seen = seen.map_err(error::map)?;
            let now = SystemTime::now();
            let mut all: Vec<Leftover> = seen
                .iter()
                .filter_map(|seen| observe::leftover(seen, now))
                .collect();
            all.extend(self.life.left_networks(reach, &seen, now).await?);
            all.extend(self.life.left_volumes(reach, &seen, now).await?);
            all.extend(self.life.left_of_snapshots(reach, &seen).await?);
            Ok(all)
        };
        self.outside(cx, OperationKind::Leftovers, work).await
    }

    async fn remove_leftover(&self, cx: &Context, id: &str) -> Result<()> {
        let found = self.leftovers(cx, Reach::Host).await?;
        let Some(leftover) = found.into_iter().find(|leftover| leftover.id == id) else {
            return Ok(());
        };
        if leftover.owner_lives {
            return Err(named(
                Error::new(
                    ErrorKind::Conflict,
                    format!("{id} is used, expected one whose sandbox has ended"),
                )
                .context("remedy", &leftover.remedy),
                OperationKind::RemoveLeftover,
            ));
        }
        let work = async {
            match leftover.kind.as_str() {
                "network" => return self.life.remove_left_network(&leftover).await,
                "volume" => return self.life.remove_left_volume(&leftover).await,
                "snapshot" => return self.life.remove_left_snapshot(&leftover.name).await,
                _ => {}
            }
            let options = RemoveContainerOptions {
                // With the unnamed volumes that its image declares.
                v: true,
                ..RemoveContainerOptions::default()
            };
            let removed = self
                .life
                .docker
                .remove_container(&leftover.name, Some(options))
                .within(&self.life.docker)
                .await;
            match removed.map_err(error::map) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        };
        self.outside(cx, OperationKind::RemoveLeftover, work).await
    }

    async fn disk_use(&self, cx: &Context) -> Result<Vec<DiskUse>> {
        self.outside(cx, OperationKind::DiskUse, self.life.disk_use())
            .await
    }

    /// The engine removes containers that ended by itself, and nothing is cached;
    /// volumes that are asked for are removed, and what is left of snapshots.
    async fn tidy(&self, cx: &Context, request: &TidyRequest) -> Result<Tidied> {
        let work = async {
            let mut tidied = self.life.tidy_volumes(request).await?;
            if request.dead {
                let more = self.life.sweep_snapshots(request.dry_run).await?;
                tidied.gone.extend(more.gone);
                tidied.failed.extend(more.failed);
            }
            Ok(tidied)
        };
        self.outside(cx, OperationKind::Tidy, work).await
    }

    async fn delete_snapshot(&self, cx: &Context, snapshot: &SnapshotId) -> Result<()> {
        let operation = OperationKind::DeleteSnapshot;
        self.life
            .facts
            .snapshots()
            .map_err(|e| named(e, operation))?;
        let work = self.life.delete_snapshot(snapshot, &cx.tenant);
        self.outside(cx, operation, work).await
    }
}

fn finding(subject: &str, fine: bool, seen: &str, remedy: &str) -> Finding {
    Finding {
        subject: subject.to_owned(),
        fine,
        seen: seen.to_owned(),
        remedy: remedy.to_owned(),
    }
}
