//! A provider whose every answer a test decides, and that counts what it is
//! asked. Commands yield the events that were put in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::Semaphore;

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, SandboxId, SnapshotId};
use crate::provider::{
    Capabilities, ClaimRequest, Connection, CreateRequest, DiskUse, Endpoint, Isolation, KillScope,
    Leftover, Level, OperationKind, PortListener, ProbeReport, Provider, ProviderInfo, PullRequest,
    Reach, Signals, SnapshotInfo, Tidied, TidyRequest, Users,
};
use crate::sandbox::exec::{
    AttachOptions, BoxStream, ExecControl, ExecEvent, ExecInfo, ExecSession, ExecSpec, LogOptions,
    SignalScope, TtySize,
};
use crate::sandbox::files::{
    Archive, ByteStream, ExportRequest, FileEntry, FileKind, FileReply, FileRequest, ImportRequest,
    ReadRequest, WatchEvent, WatchRequest, WriteRequest,
};
use crate::sandbox::spec::{Lifetime, SandboxSpec};
use crate::sandbox::state::{Observed, ObservedState, ProcessInfo, Usage};

#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) capabilities: Capabilities,
    world: Mutex<World>,
    /// A create waits here, if the test closed it.
    gate: Semaphore,
    /// A claim waits here, if the test closed it.
    claim_gate: Semaphore,
}

#[derive(Debug, Default)]
struct World {
    sandboxes: BTreeMap<SandboxId, (ObservedState, Option<SystemTime>)>,
    calls: Vec<OperationKind>,
    failures: VecDeque<(OperationKind, Error)>,
    events: Vec<ExecEvent>,
    requests: Vec<CreateRequest>,
    pulls: Vec<PullRequest>,
    claims: Vec<(SandboxId, ClaimRequest)>,
    origin: String,
    stdin: Arc<Mutex<Vec<u8>>>,
}

/// Everything, enforced.
pub(crate) fn all_capabilities() -> Capabilities {
    Capabilities {
        exec_stdin: true,
        exec_tty: true,
        users: Users::Many,
        exec_background: true,
        reattach_output: true,
        kill_scope: KillScope::Tree,
        signals: Signals::Any,
        oom_reported: true,
        files: true,
        file_watch: true,
        file_tar: true,
        dial: true,
        listen: true,
        publish_ports: true,
        endpoint: true,
        pause: true,
        snapshot_disk: true,
        snapshot_memory: true,
        outlives_host: true,
        attached_lifetime: true,
        claim: true,
        ttl: Level::Enforced,
        idle_timeout: Level::Enforced,
        processes: true,
        usage: true,
        image_host: true,
        image_directory: true,
        image_registry: true,
        image_store: true,
        mount_host: true,
        mount_tmpfs: true,
        mount_volume: true,
        mount_volume_size: true,
        limits_visible: true,
        namespaced_root: true,
        read_only_root: Level::Enforced,
        isolation: Isolation::Namespaces,
        root_mapped: Level::Enforced,
        syscall_filter: Level::Enforced,
        no_new_privileges: Level::Enforced,
        memory_limit: Level::Enforced,
        cpu_limit: Level::Enforced,
        pids_limit: Level::Enforced,
        open_files_limit: Level::Enforced,
        disk_limit: Level::Enforced,
        network_none: Level::Enforced,
        network_allow: Level::Enforced,
        network_full: true,
        env: true,
        labels: true,
    }
}

impl Scripted {
    pub(crate) fn new() -> Arc<Self> {
        Self::with(all_capabilities())
    }

    pub(crate) fn with(capabilities: Capabilities) -> Arc<Self> {
        Arc::new(Self {
            capabilities,
            world: Mutex::default(),
            gate: Semaphore::new(usize::MAX >> 4),
            claim_gate: Semaphore::new(usize::MAX >> 4),
        })
    }

    /// When a sandbox ends, as its timer has it.
    pub(crate) fn end_of(&self, id: &SandboxId) -> Option<SystemTime> {
        self.world().sandboxes.get(id).and_then(|(_, ends)| *ends)
    }

    /// Has its timer tell another end of a sandbox than it was given.
    pub(crate) fn tells_end(&self, id: &SandboxId, ends: SystemTime) {
        if let Some((_, told)) = self.world().sandboxes.get_mut(id) {
            *told = Some(ends);
        }
    }

    /// A provider whose creates wait until the gate is opened.
    pub(crate) fn gated() -> Arc<Self> {
        Arc::new(Self {
            capabilities: all_capabilities(),
            world: Mutex::default(),
            gate: Semaphore::new(0),
            claim_gate: Semaphore::new(usize::MAX >> 4),
        })
    }

    /// A provider whose claims wait for ever.
    pub(crate) fn that_claims_nothing() -> Arc<Self> {
        Arc::new(Self {
            capabilities: all_capabilities(),
            world: Mutex::default(),
            gate: Semaphore::new(usize::MAX >> 4),
            claim_gate: Semaphore::new(0),
        })
    }

    pub(crate) fn open_gate(&self) {
        self.gate.add_permits(1 << 20);
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails the next call of a kind.
    pub(crate) fn fail(&self, kind: OperationKind, error: Error) {
        self.world().failures.push_back((kind, error));
    }

    pub(crate) fn say(&self, events: Vec<ExecEvent>) {
        self.world().events = events;
    }

    pub(crate) fn put(&self, id: &SandboxId, state: ObservedState) {
        self.world().sandboxes.insert(id.clone(), (state, None));
    }

    pub(crate) fn lose(&self, id: &SandboxId) {
        self.world().sandboxes.remove(id);
    }

    pub(crate) fn count(&self, kind: OperationKind) -> usize {
        self.world().calls.iter().filter(|k| **k == kind).count()
    }

    pub(crate) fn living(&self) -> Vec<SandboxId> {
        self.world().sandboxes.keys().cloned().collect()
    }

    pub(crate) fn request(&self, index: usize) -> CreateRequest {
        self.world().requests[index].clone()
    }

    /// What was claimed, in order.
    pub(crate) fn claims(&self) -> Vec<(SandboxId, ClaimRequest)> {
        self.world().claims.clone()
    }

    /// What was to be pulled, in order.
    pub(crate) fn pulls(&self) -> Vec<PullRequest> {
        self.world().pulls.clone()
    }

    /// From now on sandboxes are made from something else.
    pub(crate) fn change_origin(&self, origin: &str) {
        origin.clone_into(&mut self.world().origin);
    }

    pub(crate) fn stdin(&self) -> Vec<u8> {
        let stdin = Arc::clone(&self.world().stdin);
        stdin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn enter(&self, kind: OperationKind) -> Result<()> {
        let mut world = self.world();
        world.calls.push(kind);
        match world.failures.iter().position(|(k, _)| *k == kind) {
            None => Ok(()),
            Some(index) => Err(world
                .failures
                .remove(index)
                .map_or_else(|| Error::new(ErrorKind::Internal, "lost"), |(_, e)| e)),
        }
    }

    fn find(&self, id: &SandboxId) -> Result<Observed> {
        let world = self.world();
        let (state, ends) = world
            .sandboxes
            .get(id)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no sandbox {id}")))?;
        Ok(Observed {
            id: id.clone(),
            tenant: None,
            state: *state,
            created: None,
            ends: *ends,
            idle_ends: None,
            host_pid: None,
            effective: BTreeMap::new(),
        })
    }

    fn set(&self, id: &SandboxId, state: ObservedState) -> Result<()> {
        self.find(id)?;
        self.put(id, state);
        Ok(())
    }
}

#[derive(Debug)]
struct Control(Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl ExecControl for Control {
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(&data);
        Ok(())
    }
    async fn close_stdin(&self) -> Result<()> {
        Ok(())
    }
    async fn signal(&self, _: i32, _: SignalScope) -> Result<()> {
        Err(Error::new(ErrorKind::NotFound, "the command has ended"))
    }
    async fn resize(&self, _: TtySize) -> Result<()> {
        Ok(())
    }
}

fn no<T>() -> Result<T> {
    Err(Error::unsupported("the scripted provider does not do this"))
}

#[async_trait]
impl Provider for Scripted {
    fn info(&self) -> ProviderInfo {
        ProviderInfo {
            name: "scripted".into(),
            runtime: "none".into(),
            versions: BTreeMap::new(),
        }
    }
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }
    async fn probe(&self, _: &Context) -> Result<ProbeReport> {
        self.enter(OperationKind::Probe)?;
        Ok(ProbeReport::default())
    }
    async fn pull(&self, _: &Context, request: &PullRequest) -> Result<()> {
        self.world().pulls.push(request.clone());
        self.enter(OperationKind::Pull)
    }
    async fn create(&self, _: &Context, request: &CreateRequest) -> Result<Observed> {
        self.world().requests.push(request.clone());
        // Something is there before the create is done or fails.
        self.put(&request.id, ObservedState::Running);
        self.enter(OperationKind::Create)?;
        let opened = self.gate.acquire().await;
        drop(opened.map_err(|_| Error::new(ErrorKind::Internal, "no gate"))?);
        self.find(&request.id)
    }
    async fn origin(&self, _: &Context, _: &SandboxSpec) -> Result<String> {
        self.enter(OperationKind::Origin)?;
        Ok(self.world().origin.clone())
    }
    async fn claim(&self, _: &Context, id: &SandboxId, request: &ClaimRequest) -> Result<()> {
        self.enter(OperationKind::Claim)?;
        let opened = self.claim_gate.acquire().await;
        drop(opened.map_err(|_| Error::new(ErrorKind::Internal, "no gate"))?);
        if self.find(id)?.state != ObservedState::Running {
            return Err(Error::new(ErrorKind::Conflict, "it stands still"));
        }
        let mut world = self.world();
        let ends = request.ends;
        world
            .sandboxes
            .insert(id.clone(), (ObservedState::Running, ends));
        world.claims.push((id.clone(), request.clone()));
        Ok(())
    }
    async fn inspect(&self, _: &Context, id: &SandboxId) -> Result<Observed> {
        self.enter(OperationKind::Inspect)?;
        self.find(id)
    }
    async fn list(&self, _: &Context, _: Option<&SandboxId>, _: u32) -> Result<Vec<Observed>> {
        no()
    }
    async fn set_deadline(
        &self,
        _: &Context,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        self.enter(OperationKind::SetDeadline)?;
        self.find(id)?;
        self.world()
            .sandboxes
            .insert(id.clone(), (ObservedState::Running, ends));
        Ok(())
    }
    async fn set_lifetime(&self, _: &Context, id: &SandboxId, _: Lifetime) -> Result<()> {
        self.enter(OperationKind::SetLifetime)?;
        self.find(id).map(drop)
    }
    async fn pause(&self, _: &Context, id: &SandboxId) -> Result<()> {
        self.enter(OperationKind::Pause)?;
        self.set(id, ObservedState::Paused)
    }
    async fn resume(&self, _: &Context, id: &SandboxId) -> Result<()> {
        self.enter(OperationKind::Resume)?;
        self.set(id, ObservedState::Running)
    }
    async fn destroy(&self, _: &Context, id: &SandboxId) -> Result<()> {
        self.enter(OperationKind::Destroy)?;
        self.lose(id);
        Ok(())
    }
    async fn exec(&self, _: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        self.enter(OperationKind::Exec)?;
        self.find(id)?;
        let events = self.world().events.clone();
        Ok(ExecSession {
            exec: spec.exec.clone(),
            pid: None,
            events: Box::pin(stream::iter(events.into_iter().map(Ok))),
            control: Arc::new(Control(Arc::clone(&self.world().stdin))),
        })
    }
    async fn attach(
        &self,
        _: &Context,
        _: &SandboxId,
        _: &ExecId,
        _: AttachOptions,
    ) -> Result<ExecSession> {
        no()
    }
    async fn read_log(
        &self,
        _: &Context,
        _: &SandboxId,
        _: &ExecId,
        _: LogOptions,
    ) -> Result<BoxStream<Result<ExecEvent>>> {
        no()
    }
    async fn list_execs(&self, _: &Context, _: &SandboxId) -> Result<Vec<ExecInfo>> {
        no()
    }
    async fn signal_exec(
        &self,
        _: &Context,
        _: &SandboxId,
        _: &ExecId,
        _: i32,
        _: SignalScope,
    ) -> Result<()> {
        self.enter(OperationKind::SignalExec)
    }
    async fn file(&self, _: &Context, _: &SandboxId, _: &FileRequest) -> Result<FileReply> {
        self.enter(OperationKind::File)?;
        Ok(FileReply::Done)
    }
    async fn read_file(
        &self,
        _: &Context,
        _: &SandboxId,
        _: &ReadRequest,
    ) -> Result<(FileEntry, ByteStream)> {
        no()
    }
    async fn write_file(
        &self,
        _: &Context,
        _: &SandboxId,
        request: &WriteRequest,
        _: ByteStream,
    ) -> Result<FileEntry> {
        self.enter(OperationKind::WriteFile)?;
        Ok(FileEntry {
            path: request.path.as_bytes().to_vec(),
            kind: FileKind::File,
            size: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: SystemTime::UNIX_EPOCH,
            target: None,
            user: None,
            group: None,
        })
    }
    async fn watch(
        &self,
        _: &Context,
        _: &SandboxId,
        _: &WatchRequest,
    ) -> Result<BoxStream<Result<WatchEvent>>> {
        no()
    }
    async fn export_tar(&self, _: &Context, _: &SandboxId, _: &ExportRequest) -> Result<Archive> {
        no()
    }
    async fn import_tar(
        &self,
        _: &Context,
        _: &SandboxId,
        _: &ImportRequest,
        _: ByteStream,
    ) -> Result<()> {
        no()
    }
    async fn dial(&self, _: &Context, _: &SandboxId, _: u16) -> Result<Connection> {
        no()
    }
    async fn listen(&self, _: &Context, _: &SandboxId, _: u16) -> Result<PortListener> {
        no()
    }
    async fn endpoint(&self, _: &Context, _: &SandboxId, _: u16) -> Result<Endpoint> {
        no()
    }
    async fn processes(&self, _: &Context, _: &SandboxId) -> Result<Vec<ProcessInfo>> {
        no()
    }
    async fn usage(&self, _: &Context, _: &SandboxId) -> Result<Usage> {
        self.enter(OperationKind::Usage)?;
        Ok(Usage::default())
    }
    async fn snapshot(&self, _: &Context, _: &SandboxId, _: &SnapshotId) -> Result<SnapshotInfo> {
        no()
    }
    async fn leftovers(&self, _: &Context, _: Reach) -> Result<Vec<Leftover>> {
        no()
    }
    async fn remove_leftover(&self, _: &Context, _: &str) -> Result<()> {
        no()
    }
    async fn disk_use(&self, _: &Context) -> Result<Vec<DiskUse>> {
        no()
    }
    async fn tidy(&self, _: &Context, _: &TidyRequest) -> Result<Tidied> {
        no()
    }
    async fn delete_snapshot(&self, _: &Context, _: &SnapshotId) -> Result<()> {
        no()
    }
}
