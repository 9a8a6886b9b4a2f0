//! A provider within layers.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;

use super::{Call, Layer, Next};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, SandboxId, SnapshotId};
use crate::provider::{
    Capabilities, ClaimRequest, Connection, CreateRequest, DiskUse, Endpoint, Leftover, Operation,
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
use crate::sandbox::spec::{Lifetime, SandboxSpec};
use crate::sandbox::state::{Observed, ProcessInfo, Usage};

type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The provider's part of a call. May be run again.
pub(super) trait Run: Send + Sync {
    fn run(&self, context: Context) -> Work<'_, ()>;
}

/// A call with its typed result put aside, so that layers need not know its type.
struct Slot<'a, T, W> {
    provider: &'a dyn Provider,
    work: W,
    result: Mutex<Option<T>>,
}

impl<'a, T, W> Run for Slot<'a, T, W>
where
    T: Send,
    W: Fn(&'a dyn Provider, Context) -> Work<'a, T> + Send + Sync,
{
    fn run(&self, context: Context) -> Work<'_, ()> {
        let work = (self.work)(self.provider, context);
        Box::pin(async move {
            let result = work.await?;
            *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            Ok(())
        })
    }
}

/// A provider within layers, the first of them outermost.
#[derive(Debug)]
pub struct Layered {
    provider: Arc<dyn Provider>,
    layers: Vec<Arc<dyn Layer>>,
    name: String,
    capabilities: Capabilities,
}

impl Layered {
    /// Puts layers around a provider, the first outermost. What the provider
    /// says of itself is asked for once, here.
    pub fn new(provider: Arc<dyn Provider>, layers: Vec<Arc<dyn Layer>>) -> Self {
        Self {
            name: provider.info().name,
            capabilities: provider.capabilities(),
            provider,
            layers,
        }
    }

    /// The same, under the name that the configuration gave it.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The provider's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the provider can do.
    pub fn claims(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn call<'a, T: Send + 'a>(
        &'a self,
        context: &'a Context,
        kind: OperationKind,
        sandbox: Option<&'a SandboxId>,
        work: impl Fn(&'a dyn Provider, Context) -> Work<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let operation = Operation {
            kind,
            idempotent: kind.is_idempotent(),
            sandbox: sandbox.cloned(),
        };
        self.call_as(context, operation, None, work).await
    }

    async fn call_as<'a, T: Send + 'a>(
        &'a self,
        context: &'a Context,
        operation: Operation,
        exec: Option<&'a ExecSpec>,
        work: impl Fn(&'a dyn Provider, Context) -> Work<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let slot = Slot {
            provider: &*self.provider,
            work,
            result: Mutex::new(None),
        };
        let call = Call {
            operation: &operation,
            provider: &self.name,
            capabilities: &self.capabilities,
            context,
            exec,
        };
        let next = Next {
            layers: &self.layers,
            call: &call,
            provider: &slot,
        };
        let name = |error: Error| {
            error
                .operation(operation.kind.name())
                .provider(self.name.as_str())
        };
        context.bound(next.run(context)).await.map_err(name)?;
        let result = slot
            .result
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        result.ok_or_else(|| {
            name(Error::new(
                ErrorKind::Internal,
                "a layer reported success without running the call",
            ))
        })
    }
}

/// An input that only one run can read.
struct Once<T>(Mutex<Option<T>>);

impl<T> Once<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(Some(value)))
    }

    fn take(&self) -> Result<T> {
        let mut value = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        value.take().ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "the input of the call was read by an earlier attempt",
            )
        })
    }
}

#[async_trait]
impl Provider for Layered {
    fn info(&self) -> ProviderInfo {
        ProviderInfo {
            name: self.name.clone(),
            ..self.provider.info()
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn probe(&self, cx: &Context) -> Result<ProbeReport> {
        self.call(cx, OperationKind::Probe, None, |p, cx| {
            Box::pin(async move { p.probe(&cx).await })
        })
        .await
    }

    async fn pull(&self, cx: &Context, request: &PullRequest) -> Result<()> {
        self.call(cx, OperationKind::Pull, None, |p, cx| {
            Box::pin(async move { p.pull(&cx, request).await })
        })
        .await
    }

    async fn create(&self, cx: &Context, request: &CreateRequest) -> Result<Observed> {
        self.call(cx, OperationKind::Create, Some(&request.id), |p, cx| {
            Box::pin(async move { p.create(&cx, request).await })
        })
        .await
    }

    async fn origin(&self, cx: &Context, spec: &SandboxSpec) -> Result<String> {
        self.call(cx, OperationKind::Origin, None, |p, cx| {
            Box::pin(async move { p.origin(&cx, spec).await })
        })
        .await
    }

    async fn claim(&self, cx: &Context, id: &SandboxId, request: &ClaimRequest) -> Result<()> {
        self.call(cx, OperationKind::Claim, Some(id), |p, cx| {
            Box::pin(async move { p.claim(&cx, id, request).await })
        })
        .await
    }

    async fn inspect(&self, cx: &Context, id: &SandboxId) -> Result<Observed> {
        self.call(cx, OperationKind::Inspect, Some(id), |p, cx| {
            Box::pin(async move { p.inspect(&cx, id).await })
        })
        .await
    }

    async fn list(
        &self,
        cx: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>> {
        self.call(cx, OperationKind::List, None, move |p, cx| {
            Box::pin(async move { p.list(&cx, after, limit).await })
        })
        .await
    }

    async fn set_deadline(
        &self,
        cx: &Context,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        self.call(cx, OperationKind::SetDeadline, Some(id), move |p, cx| {
            Box::pin(async move { p.set_deadline(&cx, id, ends).await })
        })
        .await
    }

    async fn set_lifetime(&self, cx: &Context, id: &SandboxId, lifetime: Lifetime) -> Result<()> {
        self.call(cx, OperationKind::SetLifetime, Some(id), move |p, cx| {
            Box::pin(async move { p.set_lifetime(&cx, id, lifetime).await })
        })
        .await
    }

    async fn pause(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.call(cx, OperationKind::Pause, Some(id), |p, cx| {
            Box::pin(async move { p.pause(&cx, id).await })
        })
        .await
    }

    async fn resume(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.call(cx, OperationKind::Resume, Some(id), |p, cx| {
            Box::pin(async move { p.resume(&cx, id).await })
        })
        .await
    }

    async fn destroy(&self, cx: &Context, id: &SandboxId) -> Result<()> {
        self.call(cx, OperationKind::Destroy, Some(id), |p, cx| {
            Box::pin(async move { p.destroy(&cx, id).await })
        })
        .await
    }

    async fn exec(&self, cx: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        let operation = Operation {
            kind: OperationKind::Exec,
            idempotent: OperationKind::Exec.is_idempotent(),
            sandbox: Some(id.clone()),
        };
        self.call_as(cx, operation, Some(spec), |p, cx| {
            Box::pin(async move { p.exec(&cx, id, spec).await })
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
        self.call(cx, OperationKind::Attach, Some(id), move |p, cx| {
            Box::pin(async move { p.attach(&cx, id, exec, options).await })
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
        self.call(cx, OperationKind::ReadLog, Some(id), move |p, cx| {
            Box::pin(async move { p.read_log(&cx, id, exec, options).await })
        })
        .await
    }

    async fn list_execs(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ExecInfo>> {
        self.call(cx, OperationKind::ListExecs, Some(id), |p, cx| {
            Box::pin(async move { p.list_execs(&cx, id).await })
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
        self.call(cx, OperationKind::SignalExec, Some(id), move |p, cx| {
            Box::pin(async move { p.signal_exec(&cx, id, exec, signal, scope).await })
        })
        .await
    }

    async fn file(&self, cx: &Context, id: &SandboxId, request: &FileRequest) -> Result<FileReply> {
        let operation = Operation {
            kind: OperationKind::File,
            idempotent: request.operation.is_idempotent(),
            sandbox: Some(id.clone()),
        };
        self.call_as(cx, operation, None, |p, cx| {
            Box::pin(async move { p.file(&cx, id, request).await })
        })
        .await
        .map_err(|error| error.context("file_operation", request.operation.name()))
    }

    async fn read_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ReadRequest,
    ) -> Result<(FileEntry, ByteStream)> {
        self.call(cx, OperationKind::ReadFile, Some(id), |p, cx| {
            Box::pin(async move { p.read_file(&cx, id, request).await })
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
        let data = Arc::new(Once::new(data));
        self.call(cx, OperationKind::WriteFile, Some(id), move |p, cx| {
            let data = Arc::clone(&data);
            Box::pin(async move { p.write_file(&cx, id, request, data.take()?).await })
        })
        .await
    }

    async fn watch(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WatchRequest,
    ) -> Result<BoxStream<Result<WatchEvent>>> {
        self.call(cx, OperationKind::Watch, Some(id), |p, cx| {
            Box::pin(async move { p.watch(&cx, id, request).await })
        })
        .await
    }

    async fn export_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ExportRequest,
    ) -> Result<Archive> {
        self.call(cx, OperationKind::ExportTar, Some(id), |p, cx| {
            Box::pin(async move { p.export_tar(&cx, id, request).await })
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
        let data = Arc::new(Once::new(data));
        self.call(cx, OperationKind::ImportTar, Some(id), move |p, cx| {
            let data = Arc::clone(&data);
            Box::pin(async move { p.import_tar(&cx, id, request, data.take()?).await })
        })
        .await
    }

    async fn dial(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Connection> {
        self.call(cx, OperationKind::Dial, Some(id), move |p, cx| {
            Box::pin(async move { p.dial(&cx, id, port).await })
        })
        .await
    }

    async fn listen(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<PortListener> {
        self.call(cx, OperationKind::Listen, Some(id), move |p, cx| {
            Box::pin(async move { p.listen(&cx, id, port).await })
        })
        .await
    }

    async fn endpoint(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Endpoint> {
        self.call(cx, OperationKind::Endpoint, Some(id), move |p, cx| {
            Box::pin(async move { p.endpoint(&cx, id, port).await })
        })
        .await
    }

    async fn processes(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ProcessInfo>> {
        self.call(cx, OperationKind::Processes, Some(id), |p, cx| {
            Box::pin(async move { p.processes(&cx, id).await })
        })
        .await
    }

    async fn usage(&self, cx: &Context, id: &SandboxId) -> Result<Usage> {
        self.call(cx, OperationKind::Usage, Some(id), |p, cx| {
            Box::pin(async move { p.usage(&cx, id).await })
        })
        .await
    }

    async fn snapshot(
        &self,
        cx: &Context,
        id: &SandboxId,
        snapshot: &SnapshotId,
    ) -> Result<SnapshotInfo> {
        self.call(cx, OperationKind::Snapshot, Some(id), |p, cx| {
            Box::pin(async move { p.snapshot(&cx, id, snapshot).await })
        })
        .await
    }

    async fn delete_snapshot(&self, cx: &Context, snapshot: &SnapshotId) -> Result<()> {
        self.call(cx, OperationKind::DeleteSnapshot, None, |p, cx| {
            Box::pin(async move { p.delete_snapshot(&cx, snapshot).await })
        })
        .await
    }

    async fn leftovers(&self, cx: &Context, reach: Reach) -> Result<Vec<Leftover>> {
        self.call(cx, OperationKind::Leftovers, None, move |p, cx| {
            Box::pin(async move { p.leftovers(&cx, reach).await })
        })
        .await
    }

    async fn remove_leftover(&self, cx: &Context, id: &str) -> Result<()> {
        self.call(cx, OperationKind::RemoveLeftover, None, move |p, cx| {
            Box::pin(async move { p.remove_leftover(&cx, id).await })
        })
        .await
    }

    async fn disk_use(&self, cx: &Context) -> Result<Vec<DiskUse>> {
        self.call(cx, OperationKind::DiskUse, None, |p, cx| {
            Box::pin(async move { p.disk_use(&cx).await })
        })
        .await
    }

    async fn tidy(&self, cx: &Context, request: &TidyRequest) -> Result<Tidied> {
        self.call(cx, OperationKind::Tidy, None, move |p, cx| {
            Box::pin(async move { p.tidy(&cx, request).await })
        })
        .await
    }
}
