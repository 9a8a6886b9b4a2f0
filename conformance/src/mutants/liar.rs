//! A provider that breaks one promise.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use stacyvm::context::Context;
use stacyvm::id::SnapshotId;
use stacyvm::provider::{
    Capabilities, ClaimRequest, Connection, CreateRequest, DiskUse, Endpoint, Leftover, Level,
    PortListener, ProbeReport, Provider, ProviderInfo, PullRequest, Reach, SnapshotInfo, Tidied,
    TidyRequest,
};
use stacyvm::sandbox::exec::{
    AttachOptions, BoxStream, ExecEvent, ExecInfo, ExecSession, ExecSpec, LogOptions, SignalScope,
};
use stacyvm::sandbox::files::{
    Archive, ByteStream, ExportRequest, FileEntry, FileOperation, FileReply, FileRequest,
    ImportRequest, ReadRequest, WatchEvent, WatchRequest, WriteRequest,
};
use stacyvm::sandbox::spec::{Lifetime, SandboxSpec};
use stacyvm::sandbox::state::{Observed, ObservedState, ProcessInfo, Usage};
use stacyvm::{Error, ErrorKind, ExecId, Result, SandboxId};

use super::{Lie, exec, files, world};

/// A provider that does one thing wrong, and else what the one inside does.
#[derive(Debug)]
pub struct Liar {
    inner: Arc<dyn Provider>,
    lie: Lie,
    /// Sandboxes that were destroyed.
    destroyed: Mutex<HashSet<SandboxId>>,
    /// The first sandbox, for the one lie that needs it.
    first: Mutex<Option<SandboxId>>,
    memory: world::Memory,
    /// Held while a command runs, for the one lie that needs it.
    busy: Arc<tokio::sync::Mutex<()>>,
}

impl Liar {
    /// Wraps a provider.
    pub fn new(inner: Arc<dyn Provider>, lie: Lie) -> Self {
        Self {
            inner,
            lie,
            destroyed: Mutex::default(),
            first: Mutex::default(),
            memory: world::Memory::default(),
            busy: Arc::default(),
        }
    }

    fn is(&self, lie: Lie) -> bool {
        self.lie == lie
    }

    /// The sandbox that is meant where one is named.
    fn meant(&self, id: &SandboxId) -> SandboxId {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*first, self.is(Lie::SharesSandboxes)) {
            (Some(first), true) => first.clone(),
            _ => id.clone(),
        }
    }
}

#[async_trait]
impl Provider for Liar {
    fn info(&self) -> ProviderInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> Capabilities {
        let mut claims = self.inner.capabilities();
        match self.lie {
            Lie::ClaimsTerminals => claims.exec_tty = true,
            Lie::ClaimsNoPause => claims.pause = false,
            Lie::ClaimsNoFiles => claims.files = false,
            Lie::ClaimsNoWatches => claims.file_watch = false,
            Lie::ClaimsNoArchives => claims.file_tar = false,
            Lie::ClaimsNoDials => claims.dial = false,
            Lie::ClaimsNoListeners => claims.listen = false,
            Lie::ClaimsLimits => {
                claims.memory_limit = Level::Enforced;
                claims.pids_limit = Level::Enforced;
            }
            lie => world::claimed(lie, &mut claims),
        }
        claims
    }

    async fn probe(&self, cx: &Context) -> Result<ProbeReport> {
        self.inner.probe(cx).await
    }

    async fn pull(&self, cx: &Context, request: &PullRequest) -> Result<()> {
        self.inner.pull(cx, request).await
    }

    async fn create(&self, cx: &Context, request: &CreateRequest) -> Result<Observed> {
        let mut request = request.clone();
        match self.lie {
            Lie::IgnoresSpecEnv => request.spec.env.clear(),
            Lie::IgnoresEnds => {
                request.ends = None;
                request.spec.ttl = None;
            }
            Lie::ClaimsLimits => {
                request.spec.resources.memory_mib = None;
                request.spec.resources.pids = None;
            }
            lie => world::asked(lie, &mut request),
        }
        world::keep_secrets(self.lie, &self.memory, &request);
        if self.is(Lie::DuplicatesOnRetry) && self.memory.has_made(&request.id) {
            let id = std::mem::replace(&mut request.id, SandboxId::random());
            let made = self.inner.create(cx, &request).await?;
            return Ok(Observed { id, ..made });
        }
        let mut made = self.inner.create(cx, &request).await?;
        if self.is(Lie::MakesTwo) {
            request.id = SandboxId::random();
            self.inner.create(cx, &request).await?;
        }
        self.memory.made(&made.id);
        world::observed(self.lie, &mut made);
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| made.id.clone());
        Ok(made)
    }

    async fn origin(&self, cx: &Context, spec: &SandboxSpec) -> Result<String> {
        if self.is(Lie::TellsOneOrigin) {
            return Ok("always the same".to_owned());
        }
        self.inner.origin(cx, spec).await
    }

    async fn claim(&self, cx: &Context, id: &SandboxId, request: &ClaimRequest) -> Result<()> {
        match self.lie {
            Lie::GivesAllAway => Ok(()),
            _ => self.inner.claim(cx, id, request).await,
        }
    }

    async fn inspect(&self, cx: &Context, id: &SandboxId) -> Result<Observed> {
        self.memory.known(self.lie, id)?;
        let mut seen = self.inner.inspect(cx, id).await;
        if let Ok(seen) = &mut seen {
            world::observed(self.lie, seen);
            self.memory.tell_secrets(seen);
        }
        let gone =
            |error: &Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::SandboxGone);
        match (self.lie, seen) {
            (Lie::SeesTheDead, Err(error)) if gone(&error) => Ok(Observed {
                id: id.clone(),
                tenant: None,
                state: ObservedState::Running,
                created: None,
                ends: None,
                idle_ends: None,
                host_pid: None,
                effective: std::collections::BTreeMap::default(),
            }),
            (Lie::MakesUnknown, Err(error)) if gone(&error) => {
                Err(Error::new(ErrorKind::Internal, "something went wrong"))
            }
            (_, seen) => seen,
        }
    }

    async fn list(
        &self,
        cx: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>> {
        if self.is(Lie::ForgetsSandboxes) {
            return Ok(Vec::new());
        }
        self.inner.list(cx, after, limit).await
    }

    async fn set_deadline(
        &self,
        cx: &Context,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        if self.is(Lie::IgnoresDeadline) {
            return Ok(());
        }
        self.inner.set_deadline(cx, id, ends).await
    }

    async fn set_lifetime(&self, cx: &Context, id: &SandboxId, lifetime: Lifetime) -> Result<()> {
        if self.is(Lie::ChangesNoLifetime) {
            return Ok(());
        }
        self.inner.set_lifetime(cx, id, lifetime).await
    }

    async fn pause(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        if self.is(Lie::PausesNothing) {
            return Ok(());
        }
        self.inner.pause(cx, id).await
    }

    async fn resume(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        if self.is(Lie::NeverResumes) {
            return Ok(());
        }
        self.inner.resume(cx, id).await
    }

    async fn destroy(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        let new = {
            let mut destroyed = self
                .destroyed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            destroyed.insert(id.clone())
        };
        self.memory.ended(id);
        match self.lie {
            Lie::DestroysNothing => Ok(()),
            Lie::DestroysOnce if !new => {
                Err(Error::new(ErrorKind::NotFound, "the sandbox is not there"))
            }
            _ => self.inner.destroy(cx, id).await,
        }
    }

    async fn exec(&self, cx: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        self.memory.known(self.lie, id)?;
        self.memory.answers(self.lie, id).await;
        self.memory.runs(id, spec);
        let turn = match self.lie {
            Lie::RunsOneAtATime => Some(Arc::clone(&self.busy).lock_owned().await),
            _ => None,
        };
        if self.is(Lie::RenewsWithUse) && self.inner.inspect(cx, id).await?.ends.is_some() {
            let ends = SystemTime::now() + std::time::Duration::from_mins(5);
            self.inner.set_deadline(cx, id, Some(ends)).await?;
        }
        let id = self.meant(id);
        let mut asked = exec::asked(self.lie, spec);
        if self.is(Lie::SharesDescriptors) {
            let left = self.memory.descriptors_left(&id);
            exec::through(&mut asked, &format!("ulimit -n {left}; exec \"$@\""));
        }
        let started = self.inner.exec(cx, &id, &asked).await;
        let session = exec::started(self.lie, spec, started)?;
        let mut session = exec::told(self.lie, &self.inner, cx, &id, spec, session);
        if self.is(Lie::ForgetsBackground) && spec.background {
            let (inner, cx, exec) = (Arc::clone(&self.inner), cx.clone(), session.exec.clone());
            let guard = OnDrop(Some(move || {
                tokio::spawn(async move {
                    let _ = inner
                        .signal_exec(&cx, &id, &exec, 9, SignalScope::Tree)
                        .await;
                });
            }));
            session.events = with(session.events, guard);
        }
        if let Some(turn) = turn {
            session.events = with(session.events, turn);
        }
        Ok(session)
    }

    async fn attach(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        mut options: AttachOptions,
    ) -> Result<ExecSession> {
        if self.is(Lie::ForgetsReplay) {
            options.replay = false;
        }
        let session = self.inner.attach(cx, id, exec, options).await?;
        let spec = ExecSpec::new([""]);
        Ok(exec::told(self.lie, &self.inner, cx, id, &spec, session))
    }

    async fn read_log(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        options: LogOptions,
    ) -> Result<BoxStream<Result<ExecEvent>>> {
        let events = self.inner.read_log(cx, id, exec, options).await?;
        Ok(match self.lie {
            Lie::HidesLoss => {
                Box::pin(events.filter(|event| {
                    std::future::ready(!matches!(event, Ok(ExecEvent::Lost { .. })))
                }))
            }
            _ => events,
        })
    }

    async fn list_execs(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ExecInfo>> {
        if self.is(Lie::ForgetsCommands) {
            return Ok(Vec::new());
        }
        let mut all = self.inner.list_execs(cx, id).await?;
        if self.is(Lie::ListsAllCommands) {
            for other in self.inner.list(cx, None, 1000).await? {
                if other.id != *id {
                    let more = self.inner.list_execs(cx, &other.id).await;
                    all.extend(more.unwrap_or_default());
                }
            }
        }
        Ok(all)
    }

    async fn signal_exec(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        signal: i32,
        scope: SignalScope,
    ) -> Result<()> {
        if self.is(Lie::IgnoresSignalsById) {
            return Ok(());
        }
        self.inner.signal_exec(cx, id, exec, signal, scope).await
    }

    async fn file(&self, cx: &Context, id: &SandboxId, request: &FileRequest) -> Result<FileReply> {
        let id = self.meant(id);
        let mut request = request.clone();
        files::asked(self.lie, &mut request);
        match (self.lie, &request.operation) {
            (Lie::IgnoresAttributes, FileOperation::SetAttributes { .. }) => {
                return Ok(FileReply::Done);
            }
            (Lie::GlobsNothing, FileOperation::Glob { .. }) => {
                return Ok(FileReply::Entries(Box::pin(stream::empty())));
            }
            _ => {}
        }
        let listing = matches!(request.operation, FileOperation::List { .. });
        let done = self.inner.file(cx, &id, &request).await;
        let reply = files::ended(self.lie, done)?;
        Ok(files::told(self.lie, listing, reply).await)
    }

    async fn read_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ReadRequest,
    ) -> Result<(FileEntry, ByteStream)> {
        let id = self.meant(id);
        let mut request = request.clone();
        files::user(self.lie, &mut request.user);
        if self.is(Lie::IgnoresOffset) {
            request.offset = 0;
        }
        let done = self.inner.read_file(cx, &id, &request).await;
        let (entry, data) = files::ended(self.lie, done)?;
        let data = match self.lie {
            Lie::CutsReads => cut(data).await,
            _ => data,
        };
        Ok((entry, data))
    }

    async fn write_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WriteRequest,
        data: ByteStream,
    ) -> Result<FileEntry> {
        let id = self.meant(id);
        let request = request.clone();
        let done = files::write(self.lie, &self.inner, cx, &id, request, data).await;
        files::ended(self.lie, done)
    }

    async fn watch(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WatchRequest,
    ) -> Result<BoxStream<Result<WatchEvent>>> {
        files::watch(self.lie, &self.inner, cx, id, request.clone()).await
    }

    async fn export_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ExportRequest,
    ) -> Result<Archive> {
        let mut request = request.clone();
        files::exported(self.lie, &mut request);
        let archive = self.inner.export_tar(cx, id, &request).await?;
        if !self.is(Lie::CutsArchives) {
            return Ok(archive);
        }
        let mut bytes = Vec::new();
        let mut archive = archive;
        while let Some(piece) = archive.next().await {
            bytes.extend_from_slice(&piece?);
        }
        bytes.truncate(bytes.len() / 2);
        let data: ByteStream = Box::pin(stream::iter([Ok(Bytes::from(bytes))]));
        Ok(Archive::from(data))
    }

    async fn import_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ImportRequest,
        data: ByteStream,
    ) -> Result<()> {
        let mut request = request.clone();
        files::imported(self.lie, &mut request);
        let done = self.inner.import_tar(cx, id, &request, data).await;
        files::unpacked(self.lie, done)
    }

    async fn dial(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Connection> {
        let dialled = self.inner.dial(cx, &self.meant(id), port).await;
        files::dialled(self.lie, dialled)
    }

    async fn listen(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<PortListener> {
        let listener = self.inner.listen(cx, id, port).await?;
        Ok(files::listened(self.lie, listener))
    }

    async fn endpoint(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Endpoint> {
        let given = self.inner.endpoint(cx, id, port).await;
        files::given(self.lie, given)
    }

    async fn processes(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ProcessInfo>> {
        if self.is(Lie::HidesProcesses) {
            return Ok(Vec::new());
        }
        let mut all = self.inner.processes(cx, id).await?;
        if self.is(Lie::TrustsTitles) {
            for one in &mut all {
                if let Some((_, line)) = one.argv.iter().find_map(|word| word.split_once('\n')) {
                    line.clone_into(&mut one.state);
                }
            }
        }
        if self.is(Lie::ListsAllProcesses) {
            for other in self.inner.list(cx, None, 1000).await? {
                if other.id != *id {
                    all.extend(
                        self.inner
                            .processes(cx, &other.id)
                            .await
                            .unwrap_or_default(),
                    );
                }
            }
        }
        Ok(all)
    }

    async fn usage(&self, cx: &Context, id: &SandboxId) -> Result<Usage> {
        let usage = self.inner.usage(cx, id).await?;
        Ok(self.memory.used(self.lie, id, usage))
    }

    async fn snapshot(
        &self,
        cx: &Context,
        id: &SandboxId,
        snapshot: &SnapshotId,
    ) -> Result<SnapshotInfo> {
        self.inner.snapshot(cx, id, snapshot).await
    }

    async fn delete_snapshot(&self, cx: &Context, snapshot: &SnapshotId) -> Result<()> {
        if self.is(Lie::KeepsDeletedSnapshots) {
            return Ok(());
        }
        self.inner.delete_snapshot(cx, snapshot).await
    }

    async fn leftovers(&self, cx: &Context, reach: Reach) -> Result<Vec<Leftover>> {
        let mut all = self.inner.leftovers(cx, reach).await?;
        if self.is(Lie::LeavesUnowned) {
            all.extend(self.memory.left());
        }
        Ok(all)
    }

    async fn remove_leftover(&self, cx: &Context, id: &str) -> Result<()> {
        self.inner.remove_leftover(cx, id).await
    }

    async fn disk_use(&self, cx: &Context) -> Result<Vec<DiskUse>> {
        self.inner.disk_use(cx).await
    }

    async fn tidy(&self, cx: &Context, request: &TidyRequest) -> Result<Tidied> {
        self.inner.tidy(cx, request).await
    }
}

/// A stream without its last byte.
pub(super) async fn cut(mut data: ByteStream) -> ByteStream {
    let mut pieces: Vec<Result<Bytes>> = Vec::new();
    while let Some(piece) = data.next().await {
        pieces.push(piece);
    }
    if let Some(Ok(last)) = pieces.last_mut() {
        last.truncate(last.len().saturating_sub(1));
    }
    Box::pin(stream::iter(pieces))
}

/// A stream that keeps something until it is dropped.
pub(super) fn with<T: Send + 'static>(
    stream: BoxStream<T>,
    kept: impl Send + 'static,
) -> BoxStream<T> {
    Box::pin(stream.map(move |item| {
        let _ = &kept;
        item
    }))
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}
