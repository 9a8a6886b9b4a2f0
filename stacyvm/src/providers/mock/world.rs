//! The provider: every call checks, decides about faults, delegates.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;

use super::builder::MockBuilder;
use super::commands::Commands;
use super::decline;
use super::fault::{Decided, FaultPlan, LogEntry, injected};
use super::life::{claim, observe, watch_over};
use super::sandbox::{Fixed, Sandbox};
use super::tree::{Credentials, Tree};
use super::users::Users;
use super::{exec, files, log, ports, tar, tar_read, upkeep, watch};
use crate::clock::Clock;
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
    ReadRequest, WatchEvent, WatchRequest, WriteMode, WriteRequest,
};
use crate::sandbox::spec::{Lifetime, SandboxSpec, Source};
use crate::sandbox::state::{Observed, ProcessInfo, Usage};

/// Entries that the log keeps.
const LONGEST_LOG: usize = 100_000;

/// What a builder gathered.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) commands: Commands,
    pub(super) users: Users,
    pub(super) images: Option<BTreeSet<String>>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) disk_bytes: u64,
    pub(super) ring_bytes: usize,
    pub(super) faults: FaultPlan,
}

#[derive(Default)]
struct World {
    sandboxes: BTreeMap<SandboxId, Arc<Sandbox>>,
    snapshots: BTreeMap<SnapshotId, Tree>,
    created: u64,
    calls: BTreeMap<&'static str, u64>,
    log: VecDeque<LogEntry>,
}

/// A provider in memory, without isolation: see the module. Several engines
/// may share one by `Arc`.
pub struct Mock {
    settings: Settings,
    commands: Arc<Commands>,
    world: Mutex<World>,
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mock")
            .field("name", &self.settings.name)
            .field("sandboxes", &self.lock().sandboxes.len())
            .finish_non_exhaustive()
    }
}

impl Default for Mock {
    fn default() -> Self {
        MockBuilder::new().build()
    }
}

impl Mock {
    /// A mock with the built-in commands.
    pub fn builder() -> MockBuilder {
        MockBuilder::new()
    }

    pub(super) fn new(settings: Settings) -> Self {
        Self {
            commands: Arc::new(settings.commands.clone()),
            settings,
            world: Mutex::default(),
        }
    }

    /// The calls so far, oldest first; at most the last 100 000. Calls that
    /// were given up before their end are not in it.
    pub fn log(&self) -> Vec<LogEntry> {
        self.lock().log.iter().cloned().collect()
    }

    /// The sandboxes that hold something, ended ones included that were not
    /// destroyed: an empty list means that nothing was left behind.
    pub fn leftovers(&self) -> Vec<SandboxId> {
        self.lock().sandboxes.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sandbox that lives.
    fn get(&self, cx: &Context, id: &SandboxId) -> Result<Arc<Sandbox>> {
        let sandbox = self.known(cx, id)?;
        if sandbox.expire() {
            return Err(super::sandbox::gone());
        }
        Ok(sandbox)
    }

    /// The same, to do something in it: that is use.
    fn in_use(&self, cx: &Context, id: &SandboxId) -> Result<Arc<Sandbox>> {
        let sandbox = self.get(cx, id)?;
        sandbox.lock().used = sandbox.now();
        Ok(sandbox)
    }

    /// A sandbox of this tenant. Another tenant's is not there.
    fn known(&self, cx: &Context, id: &SandboxId) -> Result<Arc<Sandbox>> {
        self.lock()
            .sandboxes
            .get(id)
            .filter(|sandbox| sandbox.fixed.tenant == cx.tenant)
            .cloned()
            .ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("there is no sandbox `{id}`"))
                    .context("sandbox", id)
            })
    }

    /// Runs one call: ends what is due, lets the plan decide, bounds the work
    /// by the context, remembers the outcome.
    async fn call<T, W: Future<Output = Result<T>>>(
        &self,
        cx: &Context,
        kind: OperationKind,
        id: Option<&SandboxId>,
        work: impl FnOnce(Decided) -> W,
    ) -> Result<T> {
        let (decided, due) = {
            let mut world = self.lock();
            let count = world.calls.entry(kind.name()).or_default();
            *count += 1;
            let nth = *count;
            let due: Vec<_> = world.sandboxes.values().cloned().collect();
            (self.settings.faults.decide(kind, nth), due)
        };
        for sandbox in due {
            sandbox.expire();
        }
        let plan = decided.clone();
        let done = cx
            .bound(async {
                if !plan.delay.is_zero() {
                    tokio::time::sleep(plan.delay).await;
                }
                if let Some(kind) = plan.before {
                    return Err(injected(kind));
                }
                let done = work(plan.clone()).await?;
                match plan.after {
                    Some(kind) => Err(injected(kind)),
                    None => Ok(done),
                }
            })
            .await
            .map_err(|error| error.operation(kind.name()).provider(&self.settings.name));
        let mut world = self.lock();
        let entry = LogEntry {
            operation: kind.name(),
            sandbox: id
                .and_then(|id| world.sandboxes.get(id))
                .map(|sandbox| sandbox.fixed.number),
            faults: decided.names,
            outcome: done.as_ref().map_or_else(|e| e.kind().code(), |_| "ok"),
        };
        if world.log.len() >= LONGEST_LOG {
            world.log.pop_front();
        }
        world.log.push_back(entry);
        done
    }

    /// The root file system of a new sandbox.
    fn tree(&self, spec: &SandboxSpec) -> Result<Tree> {
        match &spec.source {
            Source::Snapshot(name) => {
                let wanted = SnapshotId::new(name.clone())?;
                return self.lock().snapshots.get(&wanted).cloned().ok_or_else(|| {
                    Error::new(
                        ErrorKind::NotFound,
                        format!("there is no snapshot `{name}`"),
                    )
                });
            }
            Source::Image(name) => {
                if self
                    .settings
                    .images
                    .as_ref()
                    .is_some_and(|i| !i.contains(name))
                {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("there is no image `{name}`"),
                    )
                    .context("field", "image")
                    .context("remedy", "name it with the builder of the mock"));
                }
            }
            Source::Template(_) => {}
        }
        let now = self.settings.clock.now();
        let mut tree = Tree::new(self.settings.disk_bytes, now);
        let root = Credentials::ROOT;
        let mut names = (Vec::new(), Vec::new());
        for user in self.settings.users.all() {
            let (name, id, home) = (&user.name, user.uid, &user.home);
            names.0.push(format!(
                "{name}:x:{id}:{}:{name}:{home}:/bin/sh\n",
                user.gid
            ));
            names.1.push(format!("{name}:x:{}:\n", user.gid));
        }
        for (path, mode) in [
            ("/bin", 0o755),
            ("/etc", 0o755),
            ("/home", 0o755),
            ("/tmp", 0o1777),
            ("/var/tmp", 0o1777),
            ("/workspace", 0o755),
        ] {
            tree.make_dir(&root, path.as_bytes(), true, mode, now)?;
        }
        for user in self.settings.users.all().iter().filter(|u| u.home != "/") {
            let number = tree.make_dir(&root, user.home.as_bytes(), true, 0o700, now)?;
            let node = tree.node_mut(number);
            (node.uid, node.gid) = (user.uid, user.gid);
        }
        let seeded = self.settings.files.iter();
        let seeded = seeded.map(|(path, bytes)| (path.as_str(), bytes.clone()));
        for (path, bytes) in [
            ("/etc/passwd", names.0.concat().into_bytes()),
            ("/etc/group", names.1.concat().into_bytes()),
        ]
        .into_iter()
        .chain(seeded)
        {
            let how = WriteMode::Replace;
            tree.put(&root, path.as_bytes(), bytes, how, None, true, now)?;
        }
        Ok(tree)
    }

    fn make(&self, cx: &Context, request: &CreateRequest) -> Result<Arc<Sandbox>> {
        decline::check(&self.settings.name, &request.spec)?;
        let spec = &request.spec;
        let users = self.settings.users.clone();
        let account = users.resolve(spec.user.as_deref().unwrap_or("user"))?;
        let workdir = spec.workdir.clone().unwrap_or_else(|| "/workspace".into());
        let now = self.settings.clock.now();
        let mut tree = self.tree(spec)?;
        let root = Credentials::ROOT;
        let number = tree.make_dir(&root, workdir.as_bytes(), true, 0o755, now)?;
        let node = tree.node_mut(number);
        if node.uid == 0 && workdir == "/workspace" {
            (node.uid, node.gid) = (account.credentials.uid, account.credentials.gid);
        }
        tree.changes.clear();
        let mut env = BTreeMap::from([
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            (
                "PATH".to_owned(),
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ),
        ]);
        env.extend(spec.env.clone());
        env.extend(request.secrets.expose().clone());

        let mut world = self.lock();
        if let Some(there) = world.sandboxes.get(&request.id) {
            if there.fixed.tenant == cx.tenant && there.fixed.spec == *spec && !there.lock().gone {
                return Ok(Arc::clone(there));
            }
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the id `{}` belongs to another sandbox", request.id),
            ));
        }
        world.created += 1;
        let fixed = Fixed {
            id: request.id.clone(),
            number: world.created,
            tenant: cx.tenant.clone(),
            spec: spec.clone(),
            created: now,
            env,
            account,
            workdir,
            users,
            commands: Arc::clone(&self.commands),
            clock: Arc::clone(&self.settings.clock),
            ring_bytes: self.settings.ring_bytes,
        };
        let sandbox = Arc::new(Sandbox::new(fixed, tree, request.ends, request.waits));
        world
            .sandboxes
            .insert(request.id.clone(), Arc::clone(&sandbox));
        drop(world);
        watch_over(&sandbox);
        Ok(sandbox)
    }
}

#[async_trait]
impl Provider for Mock {
    fn info(&self) -> ProviderInfo {
        ProviderInfo {
            name: self.settings.name.clone(),
            runtime: "mock".to_owned(),
            versions: BTreeMap::from([(
                "stacyvm".to_owned(),
                env!("CARGO_PKG_VERSION").to_owned(),
            )]),
        }
    }

    fn capabilities(&self) -> Capabilities {
        decline::capabilities()
    }

    async fn probe(&self, cx: &Context) -> Result<ProbeReport> {
        self.call(cx, OperationKind::Probe, None, |_| async {
            Ok(ProbeReport {
                usable: true,
                findings: vec![Finding {
                    subject: "isolation".to_owned(),
                    fine: true,
                    seen: "none: commands are scripted and nothing runs on the host".to_owned(),
                    remedy: String::new(),
                }],
            })
        })
        .await
    }

    async fn pull(&self, cx: &Context, _: &PullRequest) -> Result<()> {
        // It makes every image up.
        self.call(cx, OperationKind::Pull, None, |_| async { Ok(()) })
            .await
    }

    async fn create(&self, cx: &Context, request: &CreateRequest) -> Result<Observed> {
        self.call(cx, OperationKind::Create, Some(&request.id), |_| async {
            Ok(observe(&*self.make(cx, request)?))
        })
        .await
    }

    async fn origin(&self, cx: &Context, spec: &SandboxSpec) -> Result<String> {
        self.call(cx, OperationKind::Origin, None, |_| async {
            // What an image is made of is settled with the mock.
            Ok(format!("{:?}", spec.source))
        })
        .await
    }

    async fn claim(&self, cx: &Context, id: &SandboxId, request: &ClaimRequest) -> Result<()> {
        self.call(cx, OperationKind::Claim, Some(id), |_| async {
            claim(&self.get(cx, id)?, request)
        })
        .await
    }

    async fn inspect(&self, cx: &Context, id: &SandboxId) -> Result<Observed> {
        self.call(cx, OperationKind::Inspect, Some(id), |_| async {
            Ok(observe(&*self.known(cx, id)?))
        })
        .await
    }

    async fn list(
        &self,
        cx: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>> {
        self.call(cx, OperationKind::List, None, |_| async {
            let world = self.lock();
            Ok(world
                .sandboxes
                .iter()
                .filter(|(id, _)| after.is_none_or(|after| *id > after))
                .take(limit as usize)
                .map(|(_, sandbox)| observe(sandbox))
                .collect())
        })
        .await
    }

    async fn set_deadline(
        &self,
        cx: &Context,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        self.call(cx, OperationKind::SetDeadline, Some(id), |_| async {
            let sandbox = self.get(cx, id)?;
            sandbox.lock().ends = ends;
            watch_over(&sandbox);
            Ok(())
        })
        .await
    }

    /// What is in this process's memory always ends with it.
    async fn set_lifetime(&self, cx: &Context, id: &SandboxId, _: Lifetime) -> Result<()> {
        self.call(cx, OperationKind::SetLifetime, Some(id), |_| async {
            if self.get(cx, id)?.lock().waits {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the sandbox waits to be claimed",
                ));
            }
            Ok(())
        })
        .await
    }

    async fn pause(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.call(cx, OperationKind::Pause, Some(id), |_| async {
            self.get(cx, id)?.change(|state| state.paused = true);
            Ok(())
        })
        .await
    }

    async fn resume(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.call(cx, OperationKind::Resume, Some(id), |_| async {
            self.get(cx, id)?.change(|state| state.paused = false);
            Ok(())
        })
        .await
    }

    async fn destroy(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.call(cx, OperationKind::Destroy, Some(id), |_| async {
            let Ok(sandbox) = self.known(cx, id) else {
                return Ok(());
            };
            sandbox.end();
            self.lock().sandboxes.remove(id);
            Ok(())
        })
        .await
    }

    async fn exec(&self, cx: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        self.call(cx, OperationKind::Exec, Some(id), |decided| async move {
            exec::start(&self.in_use(cx, id)?, spec, decided.output)
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
        self.call(cx, OperationKind::Attach, Some(id), |_| async move {
            exec::attach(&self.get(cx, id)?, exec, options)
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
        self.call(cx, OperationKind::ReadLog, Some(id), |_| async move {
            log::read(&self.get(cx, id)?, exec, options)
        })
        .await
    }

    async fn list_execs(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ExecInfo>> {
        self.call(cx, OperationKind::ListExecs, Some(id), |_| async {
            exec::list(&*self.get(cx, id)?)
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
        self.call(cx, OperationKind::SignalExec, Some(id), |_| async move {
            self.get(cx, id)?.signal(exec, signal, scope)
        })
        .await
    }

    async fn file(&self, cx: &Context, id: &SandboxId, request: &FileRequest) -> Result<FileReply> {
        self.call(cx, OperationKind::File, Some(id), |_| async {
            files::operate(&*self.in_use(cx, id)?, request)
                .map_err(|error| error.operation(request.operation.name()))
        })
        .await
    }

    async fn read_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ReadRequest,
    ) -> Result<(FileEntry, ByteStream)> {
        self.call(
            cx,
            OperationKind::ReadFile,
            Some(id),
            |decided| async move {
                let (entry, data) = files::read(&*self.in_use(cx, id)?, request)?;
                Ok((entry, files::spoil(data, decided.output)))
            },
        )
        .await
    }

    async fn write_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WriteRequest,
        data: ByteStream,
    ) -> Result<FileEntry> {
        self.call(cx, OperationKind::WriteFile, Some(id), |_| async {
            let sandbox = self.in_use(cx, id)?;
            files::write(&sandbox, request, data, self.settings.disk_bytes).await
        })
        .await
    }

    async fn watch(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WatchRequest,
    ) -> Result<BoxStream<Result<WatchEvent>>> {
        self.call(cx, OperationKind::Watch, Some(id), |_| async {
            watch::watch(&self.in_use(cx, id)?, request)
        })
        .await
    }

    async fn export_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ExportRequest,
    ) -> Result<Archive> {
        self.call(
            cx,
            OperationKind::ExportTar,
            Some(id),
            |decided| async move {
                let data = tar::export(&*self.in_use(cx, id)?, request)?;
                Ok(files::spoil(data, decided.output).into())
            },
        )
        .await
    }

    async fn import_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ImportRequest,
        data: ByteStream,
    ) -> Result<()> {
        self.call(cx, OperationKind::ImportTar, Some(id), |_| async {
            let sandbox = self.in_use(cx, id)?;
            tar_read::import(&sandbox, request, data, self.settings.disk_bytes).await
        })
        .await
    }

    async fn dial(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Connection> {
        self.call(cx, OperationKind::Dial, Some(id), |_| async move {
            let connection = ports::dial(&*self.in_use(cx, id)?, port)?;
            Ok(Box::new(connection) as Connection)
        })
        .await
    }

    async fn listen(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<PortListener> {
        self.call(cx, OperationKind::Listen, Some(id), |_| async move {
            ports::listen(&self.in_use(cx, id)?, port)
        })
        .await
    }

    async fn endpoint(&self, cx: &Context, id: &SandboxId, _port: u16) -> Result<Endpoint> {
        self.call(cx, OperationKind::Endpoint, Some(id), |_| async {
            self.get(cx, id)?;
            Err(Error::unsupported(
                "the mock has no address for others; dial the port instead",
            ))
        })
        .await
    }

    async fn processes(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ProcessInfo>> {
        self.call(cx, OperationKind::Processes, Some(id), |_| async {
            let sandbox = self.get(cx, id)?;
            let state = sandbox.alive()?;
            let still = state.paused;
            let processes = state.processes.iter().map(|(pid, process)| ProcessInfo {
                pid: *pid,
                parent: process.parent,
                uid: process.credentials.uid,
                state: if still || process.stopped { "T" } else { "S" }.to_owned(),
                argv: process.argv.clone(),
                resident_bytes: 0,
                cpu_us: 0,
                exec: Some(process.exec.to_string()),
            });
            Ok(processes.collect())
        })
        .await
    }

    async fn usage(&self, cx: &Context, id: &SandboxId) -> Result<Usage> {
        self.call(cx, OperationKind::Usage, Some(id), |_| async {
            let sandbox = self.get(cx, id)?;
            let state = sandbox.alive()?;
            Ok(Usage {
                processes: u32::try_from(state.processes.len()).ok(),
                disk_bytes: Some(state.tree.used()),
                oom_kills: Some(state.oom_kills),
                ..Usage::default()
            })
        })
        .await
    }

    async fn snapshot(
        &self,
        cx: &Context,
        id: &SandboxId,
        snapshot: &SnapshotId,
    ) -> Result<SnapshotInfo> {
        self.call(cx, OperationKind::Snapshot, Some(id), |_| async {
            let sandbox = self.get(cx, id)?;
            let tree = sandbox.alive()?.tree.clone();
            let size = tree.used();
            // The same id again is the same snapshot: the first one stands.
            self.lock()
                .snapshots
                .entry(snapshot.clone())
                .or_insert(tree);
            Ok(SnapshotInfo {
                id: snapshot.clone(),
                memory: false,
                size_bytes: Some(size),
            })
        })
        .await
    }

    async fn leftovers(&self, cx: &Context, reach: Reach) -> Result<Vec<Leftover>> {
        self.call(cx, OperationKind::Leftovers, None, |_| async {
            // Nothing of it is outside of this process.
            let _ = reach;
            let world = self.lock();
            Ok(world
                .sandboxes
                .values()
                .map(|s| upkeep::leftover(s))
                .collect())
        })
        .await
    }

    async fn remove_leftover(&self, cx: &Context, id: &str) -> Result<()> {
        self.call(cx, OperationKind::RemoveLeftover, None, |_| async {
            let mut world = self.lock();
            let found = world
                .sandboxes
                .iter()
                .find(|(_, sandbox)| upkeep::leftover(sandbox).id == id)
                .map(|(key, sandbox)| (key.clone(), Arc::clone(sandbox)));
            if let Some((key, sandbox)) = found {
                upkeep::check_removal(&upkeep::leftover(&sandbox))?;
                world.sandboxes.remove(&key);
            }
            Ok(())
        })
        .await
    }

    async fn disk_use(&self, cx: &Context) -> Result<Vec<DiskUse>> {
        self.call(cx, OperationKind::DiskUse, None, |_| async {
            let world = self.lock();
            Ok(world
                .sandboxes
                .values()
                .map(|s| upkeep::disk_use(s))
                .collect())
        })
        .await
    }

    async fn tidy(&self, cx: &Context, request: &TidyRequest) -> Result<Tidied> {
        self.call(cx, OperationKind::Tidy, None, |_| async {
            let mut world = self.lock();
            // It has neither programs nor volumes; what ended is all there is.
            let mut ended = Vec::new();
            world.sandboxes.retain(|_, sandbox| {
                let goes = request.dead && sandbox.lock().gone;
                if goes {
                    ended.push(upkeep::disk_use(sandbox));
                }
                !goes || request.dry_run
            });
            Ok(Tidied {
                gone: ended,
                ..Tidied::default()
            })
        })
        .await
    }

    async fn delete_snapshot(&self, cx: &Context, snapshot: &SnapshotId) -> Result<()> {
        self.call(cx, OperationKind::DeleteSnapshot, None, |_| async {
            self.lock().snapshots.remove(snapshot);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
impl Mock {
    /// Bytes of output in a sandbox that nobody has read.
    pub(super) fn undelivered(&self, id: &SandboxId) -> usize {
        let sandbox = self.lock().sandboxes[id].clone();
        let state = sandbox.lock();
        state.execs.values().map(super::output::Exec::kept).sum()
    }
}
