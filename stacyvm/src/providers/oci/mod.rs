#![doc = include_str!("docs.md")]

mod bundle;
mod claim;
mod config;
mod directory;
mod disk_use;
mod error;
mod helper;
mod host;
mod identities;
mod images;
#[cfg(test)]
mod inherited;
mod install;
mod launch;
mod leftovers;
mod manager;
#[cfg(feature = "image")]
mod mapping;
mod monitor;
mod mountinfo;
mod obstacle;
mod open;
mod owned;
mod ownership;
mod processes;
mod program;
mod pulls;
mod quota;
mod ranges;
mod runtime;
mod sweep;
mod sys;
mod upkeep;
mod usage;
mod volumes;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stacyvm_agent::helper_protocol::{FromHelper, MonitorRequest, Report, ToHelper};

pub use config::OciConfig;
pub use install::install_helper;

use crate::agent::{AgentClient, AgentPool, ConnectOptions};
use crate::clock::{from_ms, to_ms};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, InstanceId, SandboxId, SnapshotId, TenantId};
use crate::provider::{
    Capabilities, ClaimRequest, Connection, CreateRequest, DiskUse, Endpoint, Finding, Leftover,
    Level, PortListener, ProbeReport, Provider, ProviderInfo, PullRequest, Reach, SnapshotInfo,
    Tidied, TidyRequest, Users,
};
use crate::sandbox::exec::{
    AttachOptions, BoxStream, ExecEvent, ExecInfo, ExecSession, ExecSpec, LogOptions, SignalScope,
};
use crate::sandbox::files::{
    Archive, ByteStream, ExportRequest, FileEntry, FileReply, FileRequest, ImportRequest,
    ReadRequest, WatchEvent, WatchRequest, WriteRequest,
};
use crate::sandbox::spec::{Lifetime, MountSource, SandboxSpec};
use crate::sandbox::state::{Effective, Observed, ObservedState, ProcessInfo, Usage};
use directory::{PARKED, Sandboxes};
use host::Host;
use identities::Identities;
use images::Images;
use owned::Owned;
use ownership::Ownership;
use program::{Program, unexpected};
use runtime::Runtime;
use volumes::Volumes;

const NAME: &str = "oci";

/// How long an agent may take before its helper is asked whether it stands still.
const PATIENCE: Duration = Duration::from_secs(1);

/// The embedded provider. Cheap to share; one for each state directory.
#[derive(Debug)]
pub struct Oci {
    state_dir: PathBuf,
    volumes: Volumes,
    images: Images,
    /// What was left by helpers that were killed, and taken away when this was opened.
    swept: Mutex<Vec<DiskUse>>,
    host: Host,
    many_users: bool,
    /// What makes the containers, where the helper does not do it itself.
    runtime: Option<Runtime>,
    sandboxes: Arc<Sandboxes>,
    owned: Arc<Owned>,
    ownership: Ownership,
    agents: AgentPool,
}

/// What a helper keeps of a sandbox, for whoever inspects it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    tenant: TenantId,
    instance: InstanceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<images::Note>,
}

impl Oci {
    /// Opens the provider on a state directory, and takes away what helpers
    /// that were killed have left there.
    ///
    /// # Errors
    ///
    /// `permission_denied` for a directory that is not private to this user;
    /// `unsupported` where the helper cannot be executed, or for a runtime that
    /// is not on this host or cannot serve.
    pub async fn open(config: OciConfig) -> Result<Self> {
        let runtime = match &config.runtime {
            Some(asked) if !identities::is_host_root() => {
                return Err(Error::unsupported(format!(
                    "the runtime {asked} is asked for by an ordinary user, expected root; leave it out: the helper's own set-up needs none"
                ))
                .context("field", "runtime")
                .context("value", asked));
            }
            Some(asked) => Some(Runtime::find(asked).await?),
            None => None,
        };
        let sandboxes = Arc::new(Sandboxes::open(&config.state_dir)?);
        let cache = config.state_dir.join("cache");
        directory::make_private(&cache)?;
        let identities = Identities::look();
        let many_users = identities.are_many();
        let mut program = Program::prepare(config.helper.as_deref(), &cache)?;
        let host = Host::look(&identities, program.is_installed());
        program.start_by(host.manager());
        let program = Arc::new(program);
        #[cfg_attr(
            not(feature = "image"),
            expect(unused_mut, reason = "there is no store")
        )]
        let mut images = Images::of(&config.state_dir, &config.images);
        #[cfg(feature = "image")]
        images.serve(mapping::Mapping::of(&identities, &program));
        let provider = Self {
            volumes: Volumes::of(&config.state_dir),
            images,
            state_dir: std::fs::canonicalize(&config.state_dir)
                .unwrap_or_else(|_| config.state_dir.clone()),
            swept: Mutex::default(),
            host,
            many_users,
            owned: Arc::new(Owned::new(
                program,
                Arc::clone(&sandboxes),
                identities,
                config.parked_helpers,
                runtime.is_some(),
            )),
            runtime,
            sandboxes,
            ownership: Ownership::default(),
            agents: AgentPool::new(),
        };
        for name in provider.sandboxes.names()? {
            match provider.owned.sweep(&name).await {
                Ok(false) => {}
                Ok(true) => {
                    let mut swept = provider
                        .swept
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    swept.push(DiskUse {
                        kind: "sandbox".to_owned(),
                        name,
                        bytes: 0,
                        complete: false,
                    });
                }
                Err(error) => {
                    tracing::warn!(sandbox = name, %error, "what is left of a sandbox could not be removed");
                }
            }
        }
        provider.owned.sweep_identities();
        Ok(provider)
    }

    async fn agent(&self, id: &SandboxId) -> Result<AgentClient> {
        self.agents
            .get(id, async || {
                let directory = self.sandboxes.find(id)?;
                let stream = monitor::agent(&directory).await?;
                match AgentClient::connect(stream, ConnectOptions::default()).await {
                    Err(error) if monitor::has_ended(&directory, &error).await => {
                        Err(error::helper_gone())
                    }
                    done => done,
                }
            })
            .await
    }

    /// Has the agent do something. One that stands still does not even refuse it,
    /// so after a while the helper is asked whether it does.
    async fn on_agent<T, F>(&self, id: &SandboxId, call: impl FnOnce(AgentClient) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let work = async { call(self.agent(id).await?).await };
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(PATIENCE) => {}
        }
        let report = tokio::select! {
            biased;
            done = &mut work => return done,
            report = self.ask(id, MonitorRequest::Inspect) => report,
        };
        match report {
            Ok(FromHelper::Report(Report { paused: true, .. })) => Err(Error::new(
                ErrorKind::Conflict,
                "the sandbox is paused, expected a running one; resume it",
            )),
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
            _ => work.await,
        }
    }

    async fn ask(&self, id: &SandboxId, request: MonitorRequest) -> Result<FromHelper> {
        let directory = self.sandboxes.find(id)?;
        match monitor::ask(&directory, request).await? {
            Some(answer) => Ok(answer),
            None => Err(monitor::unreached(&directory).await),
        }
    }

    async fn done(&self, id: &SandboxId, request: MonitorRequest) -> Result<()> {
        match self.ask(id, request).await? {
            FromHelper::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Waits until nothing of a sandbox is left; the directory is its last part.
    async fn take_down(&self, id: &SandboxId, directory: &OwnedFd) -> Result<()> {
        match monitor::ask(directory, MonitorRequest::Destroy).await? {
            Some(FromHelper::Ended(ended)) if ended.left.is_empty() => {}
            Some(FromHelper::Ended(ended)) => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "something of the sandbox could not be removed",
                )
                .context("left", ended.left.join(", ")));
            }
            Some(_) => return Err(unexpected()),
            None => {}
        }
        fault_point!("destroy.answered");
        // A helper that does not answer is ending, or was killed: its lock tells.
        if self.swept(id).await? {
            return Ok(());
        }
        // Or it lives and has lost its socket.
        let (place, name) = (self.state_dir.clone(), id.to_string());
        let killed = tokio::task::spawn_blocking(move || processes::kill_helper(&place, &name))
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "looking for a helper stopped").source(e))?
            .map_err(|e| error::system("end the sandbox's helper", e))?;
        if killed && self.swept(id).await? {
            return Ok(());
        }
        let lost = !killed && directory::has_no_lock(directory);
        Err(directory::unended(&self.state_dir, id, lost))
    }

    /// Takes away a sandbox whose helper ends or has ended; false where a helper
    /// goes on to hold it.
    async fn swept(&self, id: &SandboxId) -> Result<bool> {
        let until = tokio::time::Instant::now() + Duration::from_secs(5);
        loop {
            if self.owned.sweep(id.as_str()).await? {
                return Ok(true);
            }
            if tokio::time::Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn observe(id: &SandboxId, report: Report) -> Observed {
        let record: Option<Record> = report.record.and_then(|r| serde_json::from_slice(&r).ok());
        let image = record.as_ref().and_then(|record| record.image.clone());
        let of_image = image.into_iter().flat_map(|image| {
            let command = image
                .command
                .map(|command| ("image_command".into(), command));
            [Some(("image".into(), image.digest)), command]
        });
        let in_force = report.in_force.into_iter();
        let effective: BTreeMap<String, Effective> = in_force
            .map(|holds| (holds.name, holds.value))
            .chain(of_image.flatten())
            .map(|(name, value)| {
                let level = Level::Enforced;
                (name, Effective { level, value })
            })
            .collect();
        Observed {
            id: id.clone(),
            tenant: record.map(|r| r.tenant),
            state: if report.paused {
                ObservedState::Paused
            } else {
                ObservedState::Running
            },
            created: Some(from_ms(report.started_ms)),
            ends: report
                .ends_in_ms
                .map(|ms| from_ms(to_ms(SystemTime::now()).saturating_add(ms))),
            idle_ends: report
                .idle_ends_in_ms
                .map(|ms| from_ms(to_ms(SystemTime::now()).saturating_add(ms))),
            host_pid: Some(report.pid),
            effective,
        }
    }
}

/// The range of subordinate ids of this user, for an image store that was opened
/// without a provider; `None` for root, and for who has none.
#[cfg(feature = "image")]
pub(crate) fn range_of_this_user() -> Option<Arc<dyn crate::image::Range>> {
    mapping::of_this_user()
}

#[async_trait]
impl Provider for Oci {
    fn info(&self) -> ProviderInfo {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let mut versions = BTreeMap::from([("stacyvm".to_owned(), version)]);
        let mut name = "stacyvm".to_owned();
        if let Some(runtime) = &self.runtime {
            name.clone_from(&runtime.name);
            versions.insert(runtime.name.clone(), runtime.version.clone());
        }
        ProviderInfo {
            name: NAME.to_owned(),
            runtime: name,
            versions,
        }
    }

    fn capabilities(&self) -> Capabilities {
        let own_kernel = self.runtime.as_ref().is_some_and(Runtime::has_own_kernel);
        let claims = self.host.capabilities(own_kernel);
        Capabilities {
            // What a runtime makes keeps no_new_privs.
            namespaced_root: claims.users == Users::Many && self.runtime.is_none(),
            ..claims
        }
    }

    async fn probe(&self, _cx: &Context) -> Result<ProbeReport> {
        let mut report = self.host.probe();
        if report.usable && self.runtime.is_none() {
            // What no setting tells, trying does.
            let tried = self.owned.try_out().await.map_err(Host::explain);
            report.usable = tried.is_ok();
            report.findings.push(Finding {
                subject: "sandbox".into(),
                fine: tried.is_ok(),
                seen: match &tried {
                    Ok(()) => "made and taken away".into(),
                    Err(error) => error.to_string(),
                },
                remedy: match &tried {
                    Ok(()) => String::new(),
                    Err(error) => error
                        .fact("remedy")
                        .unwrap_or("use another provider")
                        .into(),
                },
            });
        }
        if let Some(runtime) = &self.runtime {
            runtime.probe(&mut report);
        }
        Ok(report)
    }

    async fn pull(&self, cx: &Context, request: &PullRequest) -> Result<()> {
        self.images.pull(cx, request).await
    }

    async fn create(&self, cx: &Context, request: &CreateRequest) -> Result<Observed> {
        self.host.check()?;
        if self.sandboxes.find_name(request.id.as_str())?.is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "a sandbox {} exists already, expected a new id; choose another or leave it out",
                    request.id
                ),
            ));
        }
        if let Some(options) = request.spec.provider_options.get(NAME) {
            return Err(Error::invalid(
                "provider_options.oci",
                options,
                "nothing: this provider has no options of its own",
                "leave it out",
            ));
        }
        if let Some(runtime) = &self.runtime {
            runtime.check()?;
            if let Some(pids) = request.spec.resources.pids
                && runtime.has_own_kernel()
            {
                return Err(Error::unsupported(format!(
                    "pids is `{pids}`, expected nothing with the runtime {}: this host sees no processes of its kernel; leave it out",
                    runtime.name
                ))
                .context("field", "pids")
                .context("value", pids));
            }
        }
        self.check_sizes(&request.spec.mounts)?;
        let own = launch::needs_own_user(&request.spec);
        let image = self.images.get(cx, &request.spec.source, own).await?;
        let record = Record {
            image: image.as_ref().map(|image| image.note.clone()),
            tenant: cx.tenant.clone(),
            instance: request.instance.clone(),
        };
        let record = serde_json::to_vec(&record).map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot write the sandbox's record").source(e)
        })?;
        let mut locks = BTreeMap::new();
        for mount in &request.spec.mounts {
            if let MountSource::Volume(name) = &mount.source
                && !locks.contains_key(name)
            {
                locks.insert(name, self.volumes.hold(name).await?);
            }
        }
        let locks = locks.into_values().collect();
        let held = launch::Held {
            volumes: &self.volumes,
            locks,
            image,
        };
        let own_kernel = self.runtime.as_ref().is_some_and(Runtime::has_own_kernel);
        let mut prepared = launch::prepare(request, held, record, self.many_users, own_kernel)?;
        let (ours, theirs) = program::agent_connection()?;
        prepared.connect(theirs);
        fault_point!("create.prepared");
        let ready = self.owned.get_ready(prepared.own).await;
        ready.map_err(Host::explain)?;
        let (making, parked) = self.owned.take(&request.id, prepared.own)?;
        let helper = making.helper()?;
        if let Some(runtime) = &self.runtime {
            prepared.bundle(runtime, helper.users())?;
        }
        let launch = ToHelper::Launch(Box::new(prepared.launch.clone()));
        fault_point!("create.launching");
        match helper.send(&launch, &prepared.descriptors()).await {
            Ok(()) => {}
            // Nothing was sent, and the helper goes on waiting.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => return Err(error),
            Err(error) => return Err(Host::explain(helper.last_word(error).await)),
        }
        // The helper has its own copies; ours would keep the connection open.
        drop(prepared);
        fault_point!("create.launch-sent");
        if !parked {
            helper.parked().await.map_err(Host::explain)?;
        }
        fault_point!("create.parked");
        let report = match helper.receive().await? {
            FromHelper::Started(report) => report,
            FromHelper::Failed(report) => return Err(error::refused(report, &request.spec)),
            _ => return Err(unexpected()),
        };
        fault_point!("create.started");
        let stream = tokio::net::UnixStream::from_std(ours)
            .map_err(|e| error::io("use the agent's connection", e))?;
        let client = AgentClient::connect(stream, ConnectOptions::default()).await?;
        fault_point!("create.connected");
        self.agents.put(&request.id, client);
        if request.spec.lifetime == Lifetime::Detached {
            // From here on it does not end when it is given up, so nothing
            // that can be dropped may come before it is kept.
            helper.send(&ToHelper::Detach, &[]).await?;
        }
        fault_point!("create.detached");
        making.keep();
        fault_point!("create.kept");
        self.owned.refill();
        Ok(Self::observe(&request.id, report))
    }

    async fn origin(&self, _cx: &Context, spec: &SandboxSpec) -> Result<String> {
        Ok(Self::origin_of(spec, &self.images))
    }

    async fn claim(&self, _cx: &Context, id: &SandboxId, request: &ClaimRequest) -> Result<()> {
        self.give(id, request).await
    }

    async fn inspect(&self, _cx: &Context, id: &SandboxId) -> Result<Observed> {
        match self.ask(id, MonitorRequest::Inspect).await? {
            FromHelper::Report(report) => Ok(Self::observe(id, report)),
            _ => Err(unexpected()),
        }
    }

    async fn list(
        &self,
        cx: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>> {
        let mut found = Vec::new();
        for name in self.sandboxes.names()? {
            let later = after.is_none_or(|after| name.as_str() > after.as_str());
            if found.len() >= limit as usize {
                break;
            }
            if let (true, false, Ok(id)) = (later, name.starts_with(PARKED), SandboxId::new(name)) {
                match self.inspect(cx, &id).await {
                    Ok(observed) => found.push(observed),
                    // It ended since its name was read.
                    Err(error)
                        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::SandboxGone) => {
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    async fn set_deadline(
        &self,
        _cx: &Context,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        self.done(
            id,
            MonitorRequest::SetDeadline {
                in_ms: ends.map(launch::milliseconds_until),
            },
        )
        .await
    }

    async fn set_lifetime(&self, _cx: &Context, id: &SandboxId, lifetime: Lifetime) -> Result<()> {
        self.attach_to_this_process(id, lifetime == Lifetime::Attached)
            .await
    }

    async fn pause(&self, _cx: &Context, id: &SandboxId) -> Result<()> {
        self.done(id, MonitorRequest::Pause).await
    }

    async fn resume(&self, _cx: &Context, id: &SandboxId) -> Result<()> {
        self.done(id, MonitorRequest::Resume).await
    }

    async fn destroy(&self, _cx: &Context, id: &SandboxId) -> Result<()> {
        self.owned.has_time();
        // Where a create was given up its helper is taking away what it made,
        // maybe not yet under the sandbox's name.
        self.owned.given_up_ended(id).await?;
        if let Some(directory) = self.sandboxes.find_name(id.as_str())? {
            fault_point!("destroy.found");
            self.take_down(id, &directory).await?;
        }
        fault_point!("destroy.taken-down");
        self.agents.remove(id);
        self.ownership.forget(id);
        self.owned.ended(id).await
    }

    async fn exec(&self, _cx: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        if let Some(runtime) = &self.runtime
            && runtime.has_own_kernel()
            && spec.tty.is_some()
        {
            return Err(Error::unsupported(format!(
                "tty is asked for, expected none with the runtime {}: its terminals tell nobody of a new size and interrupt one process only; leave it out",
                runtime.name
            ))
            .context("field", "tty"));
        }
        self.on_agent(id, |agent| async move { agent.exec(spec).await })
            .await
    }

    async fn attach(
        &self,
        _cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        options: AttachOptions,
    ) -> Result<ExecSession> {
        self.on_agent(id, |agent| async move { agent.attach(exec, options).await })
            .await
    }

    async fn read_log(
        &self,
        _cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        options: LogOptions,
    ) -> Result<BoxStream<Result<ExecEvent>>> {
        self.on_agent(
            id,
            |agent| async move { agent.read_log(exec, options).await },
        )
        .await
    }

    async fn list_execs(&self, _cx: &Context, id: &SandboxId) -> Result<Vec<ExecInfo>> {
        self.on_agent(id, |agent| async move { agent.list_execs().await })
            .await
    }

    async fn signal_exec(
        &self,
        _cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        signal: i32,
        scope: SignalScope,
    ) -> Result<()> {
        self.on_agent(id, |agent| async move {
            agent.signal_exec(exec, signal, scope).await
        })
        .await
    }

    async fn file(
        &self,
        _cx: &Context,
        id: &SandboxId,
        request: &FileRequest,
    ) -> Result<FileReply> {
        self.on_agent(id, |agent| async move { agent.file(request).await })
            .await
    }

    async fn read_file(
        &self,
        _cx: &Context,
        id: &SandboxId,
        request: &ReadRequest,
    ) -> Result<(FileEntry, ByteStream)> {
        self.on_agent(id, |agent| async move { agent.read_file(request).await })
            .await
    }

    async fn write_file(
        &self,
        _cx: &Context,
        id: &SandboxId,
        request: &WriteRequest,
        data: ByteStream,
    ) -> Result<FileEntry> {
        self.on_agent(
            id,
            |agent| async move { agent.write_file(request, data).await },
        )
        .await
    }

    async fn watch(
        &self,
        _cx: &Context,
        id: &SandboxId,
        request: &WatchRequest,
    ) -> Result<BoxStream<Result<WatchEvent>>> {
        self.on_agent(id, |agent| async move { agent.watch(request).await })
            .await
    }

    async fn export_tar(
        &self,
        _cx: &Context,
        id: &SandboxId,
        request: &ExportRequest,
    ) -> Result<Archive> {
        self.on_agent(id, |agent| async move { agent.export_tar(request).await })
            .await
    }

    async fn import_tar(
        &self,
        _cx: &Context,
        id: &SandboxId,
        request: &ImportRequest,
        data: ByteStream,
    ) -> Result<()> {
        self.on_agent(
            id,
            |agent| async move { agent.import_tar(request, data).await },
        )
        .await
    }

    async fn dial(&self, _cx: &Context, id: &SandboxId, port: u16) -> Result<Connection> {
        self.on_agent(id, |agent| async move { agent.dial(port).await })
            .await
    }

    async fn listen(&self, _cx: &Context, id: &SandboxId, port: u16) -> Result<PortListener> {
        self.on_agent(id, |agent| async move { agent.listen(port).await })
            .await
    }

    async fn endpoint(&self, _cx: &Context, _id: &SandboxId, _port: u16) -> Result<Endpoint> {
        Err(Error::unsupported(
            "the embedded provider publishes no ports; use dial",
        ))
    }

    async fn processes(&self, _cx: &Context, id: &SandboxId) -> Result<Vec<ProcessInfo>> {
        self.on_agent(id, |agent| async move { agent.processes().await })
            .await
    }

    async fn usage(&self, _cx: &Context, id: &SandboxId) -> Result<Usage> {
        let FromHelper::Usage(outside) = self.ask(id, MonitorRequest::Usage).await? else {
            return Err(unexpected());
        };
        let seen = usage::outside(outside);
        if usage::lacks_nothing(&seen) {
            return Ok(seen);
        }
        let inside = self.on_agent(id, |agent| async move { agent.usage().await });
        Ok(usage::filled(seen, &inside.await?))
    }

    async fn snapshot(
        &self,
        _cx: &Context,
        _id: &SandboxId,
        _snapshot: &SnapshotId,
    ) -> Result<SnapshotInfo> {
        Err(Error::unsupported(
            "the embedded provider saves no snapshots",
        ))
    }

    async fn delete_snapshot(&self, _cx: &Context, _snapshot: &SnapshotId) -> Result<()> {
        Err(Error::unsupported(
            "the embedded provider saves no snapshots",
        ))
    }

    async fn leftovers(&self, _cx: &Context, reach: Reach) -> Result<Vec<Leftover>> {
        self.look(reach).await
    }

    async fn remove_leftover(&self, _cx: &Context, id: &str) -> Result<()> {
        self.remove(id).await
    }

    async fn disk_use(&self, _cx: &Context) -> Result<Vec<DiskUse>> {
        self.weigh().await
    }

    async fn tidy(&self, _cx: &Context, request: &TidyRequest) -> Result<Tidied> {
        self.tidy_up(request).await
    }
}
