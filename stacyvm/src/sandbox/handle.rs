//! The handle of a sandbox.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::code::Kernels;
use super::exec::{
    AttachOptions, BoxStream, ExecEvent, ExecInfo, ExecSpec, LogOptions, SignalScope,
};
use super::exec_builder::Exec;
use super::files_handle::Files;
use super::info::SandboxInfo;
use super::logs::{Logs, LogsRequest};
use super::process::Process;
use super::spec::Lifetime;
use super::state::{ProcessInfo, Usage};
use crate::context::Context;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, SandboxId, SnapshotId, TenantId};
use crate::layer::Layered;
use crate::provider::{
    Capabilities, Connection, Endpoint, PortListener, Provider as _, SnapshotInfo,
};
use crate::store::no_sandbox;

/// A sandbox. A cheap handle: clones are the same sandbox, and dropping one
/// does nothing.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> stacyvm::Result<()> {
/// # let engine = stacyvm::Engine::builder()
/// #     .provider("mock", std::sync::Arc::new(stacyvm::providers::mock::Mock::default()))
/// #     .build().await?;
/// let sandbox = engine.create(stacyvm::SandboxSpec::image("scratch")).await?;
/// let again = engine.get(sandbox.id()).await?;
/// assert_eq!(again.exec(["echo", "hi"]).output().await?.stdout_text(), "hi\n");
/// sandbox.kill().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    id: SandboxId,
    engine: Engine,
    provider: Arc<Layered>,
    context: Context,
    /// Whose it is; a context of another tenant finds nothing.
    tenant: TenantId,
    /// Whether it waited in a pool when this handle was made.
    waits: bool,
    /// The interpreters that it and its clones started.
    kernels: Arc<Kernels>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("id", &self.0.id)
            .field("provider", &self.0.provider.name())
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    pub(crate) fn new(
        engine: Engine,
        provider: Arc<Layered>,
        id: SandboxId,
        context: Context,
    ) -> Self {
        Self::with(engine, provider, id, context, false)
    }

    /// The handle of a sandbox that waits in a pool.
    pub(crate) fn waiting(
        engine: Engine,
        provider: Arc<Layered>,
        id: SandboxId,
        context: Context,
    ) -> Self {
        Self::with(engine, provider, id, context, true)
    }

    fn with(
        engine: Engine,
        provider: Arc<Layered>,
        id: SandboxId,
        context: Context,
        waits: bool,
    ) -> Self {
        let tenant = context.tenant.clone();
        Self(Arc::new(Inner {
            id,
            engine,
            provider,
            context,
            tenant,
            waits,
            kernels: Arc::default(),
        }))
    }

    /// Its id.
    pub fn id(&self) -> &SandboxId {
        &self.0.id
    }

    /// The same sandbox, its calls made in this context. The context's tenant
    /// must be the sandbox's own; another one finds nothing.
    pub fn with_context(&self, context: Context) -> Self {
        Self(Arc::new(Inner {
            id: self.0.id.clone(),
            engine: self.0.engine.clone(),
            provider: Arc::clone(&self.0.provider),
            context,
            tenant: self.0.tenant.clone(),
            waits: self.0.waits,
            kernels: Arc::clone(&self.0.kernels),
        }))
    }

    /// Its provider, for calls of its own tenant.
    ///
    /// # Errors
    ///
    /// `not_found` in the context of another one; `conflict` where it waits in a
    /// pool.
    pub(crate) fn provider(&self) -> Result<&Layered> {
        if self.0.waits {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "sandbox {} waits in a pool, expected one that was claimed; only its pool gives it away",
                    self.0.id
                ),
            )
            .context("sandbox", &self.0.id));
        }
        self.provider_to_end()
    }

    /// The same, to end it, which one that waits in a pool may be too.
    ///
    /// # Errors
    ///
    /// `not_found` in the context of another tenant.
    pub(crate) fn provider_to_end(&self) -> Result<&Layered> {
        if self.0.context.tenant == self.0.tenant {
            return Ok(&self.0.provider);
        }
        Err(no_sandbox(&self.0.id))
    }

    pub(super) fn kernels(&self) -> &Kernels {
        &self.0.kernels
    }

    pub(crate) fn context(&self) -> &Context {
        &self.0.context
    }

    /// Notes a background command without making its caller wait.
    pub(crate) fn record_exec(&self, spec: &ExecSpec) {
        self.0.engine.record_exec(&self.0.context, &self.0.id, spec);
    }

    /// What is known of it, from its record and from its provider.
    ///
    /// # Errors
    ///
    /// `not_found` once its record is gone.
    pub async fn info(&self) -> Result<SandboxInfo> {
        self.0.engine.info(&self.0.context, &self.0.id).await
    }

    /// A command, from its argument vector. Nothing runs before
    /// [`Exec::output`] or [`Exec::start`].
    pub fn exec<A: AsRef<[u8]>>(&self, argv: impl IntoIterator<Item = A>) -> Exec {
        Exec::new(self.clone(), ExecSpec::new(argv))
    }

    /// A command line for `/bin/sh -c`.
    pub fn shell(&self, line: impl AsRef<[u8]>) -> Exec {
        Exec::new(self.clone(), ExecSpec::shell(line))
    }

    /// A command that is fully specified.
    pub fn exec_spec(&self, spec: ExecSpec) -> Exec {
        Exec::new(self.clone(), spec)
    }

    /// Lists commands: those that run, those with survivors, those remembered.
    ///
    /// # Errors
    ///
    /// `sandbox_gone`, `unavailable`.
    pub async fn execs(&self) -> Result<Vec<ExecInfo>> {
        self.provider()?.list_execs(self.context(), self.id()).await
    }

    /// Follows a background command: kept output first, then what comes.
    ///
    /// # Errors
    ///
    /// `not_found`, `unsupported`.
    pub async fn attach(&self, exec: &ExecId) -> Result<Process> {
        let options = AttachOptions {
            stdin: false,
            replay: true,
        };
        self.attach_with(exec, options).await
    }

    /// Follows a background command.
    ///
    /// # Errors
    ///
    /// `not_found`, `unsupported`.
    pub async fn attach_with(&self, exec: &ExecId, options: AttachOptions) -> Result<Process> {
        let session = self
            .provider()?
            .attach(self.context(), self.id(), exec, options)
            .await?;
        Ok(Process::new(session, self.context().clone(), true, None))
    }

    /// Reads what is kept of the output of its commands, while they run or
    /// afterwards. Nobody is disturbed: no command waits for such a reader, and
    /// whoever follows one goes on.
    ///
    /// Of a background command and of survivors as much is kept as for
    /// [`attach`](Self::attach); of a foreground command, whose caller has it,
    /// the last 64 KiB of each stream; of ended commands 16 MiB in all and
    /// 1 MiB of foreground ones. Commands of one that ended are forgotten from
    /// the 257th on.
    ///
    /// # Errors
    ///
    /// `not_found` for a command that is not known, `conflict` for a beginning
    /// of an id that several share, `sandbox_gone`, `unsupported` where the
    /// agent inside is older than this.
    pub async fn logs(&self, request: LogsRequest) -> Result<Logs> {
        Logs::open(self.clone(), request).await
    }

    pub(super) async fn read_log(
        &self,
        exec: &ExecId,
        options: LogOptions,
    ) -> Result<BoxStream<Result<ExecEvent>>> {
        self.provider()?
            .read_log(self.context(), self.id(), exec, options)
            .await
    }

    /// Sends a signal to a command that is not followed.
    ///
    /// # Errors
    ///
    /// `not_found`, `unsupported` for a signal that the provider cannot send.
    pub async fn signal(&self, exec: &ExecId, signal: i32, scope: SignalScope) -> Result<()> {
        self.provider()?
            .signal_exec(self.context(), self.id(), exec, signal, scope)
            .await
    }

    /// Its files.
    pub fn files(&self) -> Files {
        Files::new(self.clone())
    }

    /// Connects to a TCP port inside, without any network of the sandbox.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for port 0; `not_found` where nothing listens, tried again for a
    /// moment; `unsupported`.
    pub async fn dial(&self, port: u16) -> Result<Connection> {
        let dialled = self.provider()?.dial(self.context(), self.id(), port);
        dialled.await.map_err(about(port))
    }

    /// Listens on a TCP port inside; 0 lets the sandbox choose. Dropping the
    /// listener closes the port.
    ///
    /// # Errors
    ///
    /// `already_exists` where the port is taken, `unsupported`.
    pub async fn listen(&self, port: u16) -> Result<PortListener> {
        let listening = self.provider()?.listen(self.context(), self.id(), port);
        listening.await.map_err(about(port))
    }

    /// Tells where others reach a port.
    ///
    /// # Errors
    ///
    /// `unsupported`, `not_found` for a port that is not published.
    pub async fn endpoint(&self, port: u16) -> Result<Endpoint> {
        self.provider()?
            .endpoint(self.context(), self.id(), port)
            .await
    }

    /// Lists the processes inside.
    ///
    /// # Errors
    ///
    /// `unsupported`, `sandbox_gone`.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        self.provider()?.processes(self.context(), self.id()).await
    }

    /// Tells what its provider can do here. No input or output.
    ///
    /// # Errors
    ///
    /// `not_found` in the context of another tenant.
    pub fn capabilities(&self) -> Result<Capabilities> {
        Ok(self.provider()?.capabilities())
    }

    /// Tells what it uses.
    ///
    /// # Errors
    ///
    /// `unsupported`, `sandbox_gone`.
    pub async fn usage(&self) -> Result<Usage> {
        self.provider()?.usage(self.context(), self.id()).await
    }

    /// Moves the end of its life later, and gives the new end; a sandbox
    /// without an end keeps none.
    ///
    /// # Errors
    ///
    /// `permission_denied` past the policy's longest life, `sandbox_gone`.
    pub async fn extend(&self, by: Duration) -> Result<Option<SystemTime>> {
        self.0.engine.extend(self, by).await
    }

    /// Sets the end of its life to this time from now; `None` removes it.
    ///
    /// # Errors
    ///
    /// `permission_denied` past the policy's longest life, `sandbox_gone`.
    pub async fn set_ttl(&self, ttl: Option<Duration>) -> Result<Option<SystemTime>> {
        self.0.engine.set_ttl(self, ttl).await
    }

    /// Has it end with this process, whatever ends that, or with none.
    ///
    /// It ends with the last process that asked for [`Lifetime::Attached`], and no longer
    /// with the one that made it. [`Lifetime::Detached`] leaves it to its end, which stays
    /// where it is: [`set_ttl`](Self::set_ttl) gives an end to one that has none.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> stacyvm::Result<()> {
    /// use stacyvm::providers::mock::Mock;
    /// use stacyvm::sandbox::spec::Lifetime;
    /// use stacyvm::{Engine, SandboxSpec};
    ///
    /// let engine = Engine::builder()
    ///     .provider("mock", std::sync::Arc::new(Mock::default()))
    ///     .build()
    ///     .await?;
    /// let sandbox = engine.create(SandboxSpec::host()).await?;
    /// sandbox.set_lifetime(Lifetime::Attached).await?;
    /// assert_eq!(sandbox.info().await?.lifetime, Lifetime::Attached);
    /// # sandbox.kill().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `unsupported` where sandboxes cannot end with a process (the capability
    /// `attached_lifetime`); `sandbox_gone`.
    pub async fn set_lifetime(&self, lifetime: Lifetime) -> Result<()> {
        self.0.engine.set_lifetime(self, lifetime).await
    }

    /// Begins a block at whose end the caller kills it: as in [`Engine::scope`] it ends
    /// with this process where its provider can have that, and else stays as it is.
    ///
    /// # Errors
    ///
    /// `sandbox_gone`.
    pub async fn begin_scope(&self) -> Result<()> {
        if self.provider()?.claims().attached_lifetime {
            self.set_lifetime(Lifetime::Attached).await?;
        }
        Ok(())
    }

    /// Stops every process. A paused sandbox is success.
    ///
    /// # Errors
    ///
    /// `unsupported`, `sandbox_gone`.
    pub async fn pause(&self) -> Result<()> {
        self.0.engine.pause(self).await
    }

    /// Lets the processes go on. A running sandbox is success.
    ///
    /// # Errors
    ///
    /// `unsupported`, `sandbox_gone`.
    pub async fn resume(&self) -> Result<()> {
        self.0.engine.resume(self).await
    }

    /// Saves it; a new sandbox can be made from the snapshot.
    ///
    /// # Errors
    ///
    /// `unsupported`, `no_space`.
    pub async fn snapshot(&self) -> Result<SnapshotInfo> {
        let snapshot = SnapshotId::random();
        self.provider()?
            .snapshot(self.context(), self.id(), &snapshot)
            .await
    }

    /// Ends it and returns when nothing of it is left. One that is known to have ended
    /// is success, and gives `false`.
    ///
    /// # Errors
    ///
    /// `unavailable` where the runtime does not answer; the next reconcile
    /// tries again.
    ///
    /// # Cancellation
    ///
    /// Once begun it is finished, by this process or by the next reconcile.
    pub async fn kill(&self) -> Result<bool> {
        self.0.engine.destroy(self).await
    }
}

/// Adds which port a failed call was about, where its provider did not.
fn about(port: u16) -> impl FnOnce(Error) -> Error {
    move |error| match error.fact("port") {
        Some(_) => error,
        None => error.context("port", port),
    }
}
