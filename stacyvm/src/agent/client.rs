//! The client: one connection to the agent of one sandbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stacyvm_agent::protocol::Kind;
use stacyvm_agent::protocol::message::{
    self, DeadlineRequest, EnvironmentRequest, ProcessList, UsageReport,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::convert;
use super::driver::Driver;
use super::error::Closed;
use super::handshake;
use super::key::SandboxKey;
use super::role::Role;
use super::shared::{Open, Owner, Shared};
use crate::error::Result;
use crate::sandbox::state::{ProcessInfo, Usage};

/// The time that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What to do about an agent that does not greet.
const SILENT: &str =
    "try again where the machine is busy, or end the sandbox, which needs no agent";

/// How a connection is made.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// The key that both sides prove; `None` where the channel itself is proof.
    pub key: Option<SandboxKey>,
    /// Whether an idle agent is asked every ten seconds whether it is there,
    /// and given up after thirty seconds without an answer. For bridges, whose
    /// daemon may die without closing them; always so where there is a key.
    pub heartbeat: bool,
}

/// A connection to the agent of one sandbox, shared by everything that is done
/// inside. Cheap to clone.
///
/// A task on the runtime of [`AgentClient::connect`] moves its bytes. It ends
/// when the connection does, when the last clone and the last open stream are
/// gone, or with that runtime.
///
/// # Errors
///
/// Every method fails with `sandbox_gone` once the connection ended,
/// `unavailable` once it was given up here, and `protocol` once the agent
/// broke the protocol; and with `resource_exhausted` while 768 calls are open.
/// Failures inside keep their path, command or user as the fact `subject`.
///
/// # Cancellation
///
/// Dropping a future or a stream cancels what it stands for inside, without
/// waiting.
#[derive(Clone, Debug)]
pub struct AgentClient {
    pub(super) owner: Arc<Owner>,
    can_switch_user: bool,
    kernel: Option<Arc<message::Kernel>>,
}

impl AgentClient {
    /// Greets the agent at the other end of a stream.
    ///
    /// # Errors
    ///
    /// `unavailable` where nobody greets within five seconds, `unauthenticated`
    /// where the key is not proved, `incompatible` where no generation is
    /// common, `protocol`.
    pub async fn connect(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        options: ConnectOptions,
    ) -> Result<Self> {
        let mut stream = stream;
        let greeting = handshake::greet(&mut stream, options.key.as_ref());
        let agreed = tokio::time::timeout(HANDSHAKE, greeting)
            .await
            .map_err(|_| {
                Closed::unavailable(format!(
                    "the agent did not greet within {} seconds",
                    HANDSHAKE.as_secs()
                ))
                .error()
                .context("remedy", SILENT)
            })??;
        let shared = Arc::new(Shared::new(agreed.generation));
        let heartbeat = options.heartbeat || options.key.is_some();
        let driver = Driver::new(shared.clone(), stream, agreed.rest, heartbeat);
        tokio::spawn(driver);
        Ok(Self {
            owner: Arc::new(Owner(shared)),
            can_switch_user: agreed.can_switch_user,
            kernel: agreed.kernel.map(Arc::new),
        })
    }

    /// Whether commands can run as another user than the agent's own.
    pub fn can_switch_user(&self) -> bool {
        self.can_switch_user
    }

    /// The kernel that the sandbox runs on, where the agent told it: on keyed
    /// connections, if it is not older than that.
    pub fn kernel(&self) -> Option<&message::Kernel> {
        self.kernel.as_deref()
    }

    /// Whether the connection ended.
    pub fn is_closed(&self) -> bool {
        self.owner.0.is_closed()
    }

    /// Waits until the connection ended.
    pub async fn closed(&self) {
        self.owner.0.wait_closed().await;
    }

    /// Lists the processes inside; the agent's own are left out.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let list: ProcessList = self
            .ask(Kind::Processes, Role::Reply(Kind::ProcessList), Vec::new())
            .await?;
        Ok(list.processes.into_iter().map(convert::process).collect())
    }

    /// Tells what the sandbox uses, as seen from inside.
    pub async fn usage(&self) -> Result<Usage> {
        let report: UsageReport = self
            .ask(Kind::Usage, Role::Reply(Kind::UsageReport), Vec::new())
            .await?;
        Ok(convert::usage(&report))
    }

    /// Moves the end of the sandbox's life, where the agent's timer binds;
    /// `None` removes it. A time that has passed ends the sandbox at once.
    pub async fn set_deadline(&self, ends: Option<SystemTime>) -> Result<()> {
        let in_ms = ends.map(|ends| {
            let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
            u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
        });
        let request = message::encode(&DeadlineRequest { in_ms });
        self.done(Kind::SetDeadline, request).await
    }

    /// Gives a sandbox that waits the variables of every later command. Granted
    /// once; `unsupported` where the agent inside is older.
    pub async fn set_environment(&self, env: &BTreeMap<String, String>) -> Result<()> {
        let request = EnvironmentRequest {
            env: convert::variables(env),
        };
        self.done(Kind::SetEnvironment, message::encode(&request))
            .await
    }

    /// Ends the sandbox. Returns when the connection has closed.
    pub async fn terminate(&self) -> Result<()> {
        let open = self.open(Kind::Terminate, Role::Reply(Kind::Done), Vec::new())?;
        tokio::select! {
            answer = open.message() => match answer {
                Err(error) if error.kind() == crate::ErrorKind::SandboxGone => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            },
            () = self.closed() => {}
        }
        self.closed().await;
        Ok(())
    }

    pub(super) fn open(&self, kind: Kind, role: Role, payload: Vec<u8>) -> Result<Open> {
        Open::new(&self.owner, kind, role, payload)
    }

    /// One request, one answer.
    pub(super) async fn ask<T: for<'b> minicbor::Decode<'b, ()>>(
        &self,
        kind: Kind,
        role: Role,
        payload: Vec<u8>,
    ) -> Result<T> {
        self.open(kind, role, payload)?.read().await
    }

    /// One request that is answered by `done`.
    pub(super) async fn done(&self, kind: Kind, payload: Vec<u8>) -> Result<()> {
        let open = self.open(kind, Role::Reply(Kind::Done), payload)?;
        open.message().await.map(drop)
    }
}
