//! Commands.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame::{Frame, Kind, broken};
use super::{Raw, Time};
use crate::error::{Error, Result};
use crate::id::ExecId;
use crate::sandbox::exec::{
    AttachOptions, ExecEvent, ExecInfo, ExecSpec, ExitStatus, LogOptions, SignalScope, TtySize,
};

/// A command to run.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecBody {
    /// The id that the caller minted.
    pub exec: ExecId,
    /// The command and its arguments.
    pub argv: Vec<Raw>,
    /// Variables, as pairs of a name and a value.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// The directory to start in.
    #[serde(default)]
    pub workdir: Option<String>,
    /// The user.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether standard input is written.
    #[serde(default)]
    pub stdin: bool,
    /// A terminal of this size.
    #[serde(default)]
    pub tty: Option<TtySize>,
    /// Microseconds until the whole tree is killed.
    #[serde(default)]
    pub timeout_us: Option<u64>,
    /// Whether it outlives the connection.
    #[serde(default)]
    pub background: bool,
}

impl fmt::Debug for ExecBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecBody")
            .field("exec", &self.exec)
            .field("arguments", &self.argv.len())
            .finish_non_exhaustive()
    }
}

fn to_us(duration: Duration) -> u64 {
    // A duration below a microsecond is not none.
    u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

impl From<&ExecSpec> for ExecBody {
    fn from(spec: &ExecSpec) -> Self {
        Self {
            exec: spec.exec.clone(),
            argv: spec.argv.iter().cloned().map(Raw).collect(),
            env: spec.env.clone(),
            workdir: spec.workdir.clone(),
            user: spec.user.clone(),
            stdin: spec.stdin,
            tty: spec.tty,
            timeout_us: spec.timeout.map(to_us),
            background: spec.background,
        }
    }
}

impl From<ExecBody> for ExecSpec {
    fn from(body: ExecBody) -> Self {
        Self {
            exec: body.exec,
            argv: body.argv.into_iter().map(|raw| raw.0).collect(),
            env: body.env,
            workdir: body.workdir,
            user: body.user,
            stdin: body.stdin,
            tty: body.tty,
            timeout: body.timeout_us.map(Duration::from_micros),
            background: body.background,
        }
    }
}

/// How to follow a command.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachBody {
    /// Whether standard input is written.
    #[serde(default)]
    pub stdin: bool,
    /// Whether kept output is sent first.
    #[serde(default)]
    pub replay: bool,
}

impl From<AttachOptions> for AttachBody {
    fn from(options: AttachOptions) -> Self {
        Self {
            stdin: options.stdin,
            replay: options.replay,
        }
    }
}

impl From<AttachBody> for AttachOptions {
    fn from(body: AttachBody) -> Self {
        Self {
            stdin: body.stdin,
            replay: body.replay,
        }
    }
}

/// Which kept output is read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogBody {
    /// Whether what comes is read too.
    #[serde(default)]
    pub follow: bool,
    /// Leaves out what was written so many microseconds ago or more.
    #[serde(default)]
    pub age_us: Option<u64>,
}

impl From<LogOptions> for LogBody {
    fn from(options: LogOptions) -> Self {
        Self {
            follow: options.follow,
            age_us: options.age.map(to_us),
        }
    }
}

impl From<LogBody> for LogOptions {
    fn from(body: LogBody) -> Self {
        Self {
            follow: body.follow,
            age: body.age_us.map(Duration::from_micros),
        }
    }
}

/// A signal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalBody {
    /// Its number.
    pub signal: i32,
    /// Whom it is meant for.
    pub scope: SignalScope,
}

/// The first frame of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartedReply {
    /// The command.
    pub exec: ExecId,
    /// The process number of its first process inside.
    #[serde(default)]
    pub pid: Option<u32>,
}

/// Output that is gone.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LostReply {
    /// Bytes of standard output.
    pub stdout: u64,
    /// Bytes of standard error.
    pub stderr: u64,
}

/// The commands of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecsReply {
    /// The commands.
    pub execs: Vec<ExecReply>,
}

/// One command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecReply {
    /// Its id.
    pub exec: ExecId,
    /// Its arguments, for people.
    pub argv: Vec<String>,
    /// The process number of its first process.
    #[serde(default)]
    pub pid: Option<u32>,
    /// When it started.
    #[serde(default)]
    pub started: Option<Time>,
    /// How it ended, once it has.
    #[serde(default)]
    pub exited: Option<ExitStatus>,
    /// Whether it has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether it outlives its caller.
    #[serde(default)]
    pub background: bool,
    /// Its processes that run now.
    #[serde(default)]
    pub processes: u32,
}

impl From<ExecInfo> for ExecReply {
    fn from(info: ExecInfo) -> Self {
        Self {
            exec: info.exec,
            argv: info.argv,
            pid: info.pid,
            started: info.started.map(Time::from),
            exited: info.exited,
            tty: info.tty,
            background: info.background,
            processes: info.processes,
        }
    }
}

impl TryFrom<ExecReply> for ExecInfo {
    type Error = Error;

    fn try_from(reply: ExecReply) -> Result<Self> {
        Ok(Self {
            exec: reply.exec,
            argv: reply.argv,
            pid: reply.pid,
            started: super::sandbox::moment(reply.started)?,
            exited: reply.exited,
            tty: reply.tty,
            background: reply.background,
            processes: reply.processes,
        })
    }
}

/// An event as frames: bytes of output that are too long for one are several.
///
/// # Errors
///
/// `internal` where it cannot be written as JSON.
pub fn encode_event(event: &ExecEvent) -> Result<bytes::Bytes> {
    use super::frame::{encode, encode_long};
    Ok(match event {
        ExecEvent::Stdout(bytes) => encode_long(Kind::Stdout, bytes),
        ExecEvent::Stderr(bytes) => encode_long(Kind::Stderr, bytes),
        ExecEvent::Lost { stdout, stderr } => {
            let (stdout, stderr) = (*stdout, *stderr);
            encode(Kind::Lost, &super::to_json(&LostReply { stdout, stderr })?)
        }
        ExecEvent::Exited(status) => encode(Kind::Exited, &super::to_json(status)?),
    })
}

/// The event of a frame; none of one that is no event.
///
/// # Errors
///
/// `protocol` for an event that cannot be read.
pub fn decode_event(frame: &Frame) -> Result<Option<ExecEvent>> {
    Ok(Some(match frame.kind {
        Kind::Stdout => ExecEvent::Stdout(frame.payload.clone()),
        Kind::Stderr => ExecEvent::Stderr(frame.payload.clone()),
        Kind::Lost => {
            let lost: LostReply = super::reply(&frame.payload)?;
            ExecEvent::Lost {
                stdout: lost.stdout,
                stderr: lost.stderr,
            }
        }
        Kind::Exited => {
            let status: ExitStatus = super::reply(&frame.payload)?;
            if let ExitStatus::Code { code } = status
                && !(0..=255).contains(&code)
            {
                return Err(broken(&format!("the exit code {code}, expected 0 to 255")));
            }
            ExecEvent::Exited(status)
        }
        _ => return Ok(None),
    }))
}

/// The credit that an event uses up.
#[cfg(any(feature = "http", feature = "server"))]
pub(crate) fn cost(event: &ExecEvent) -> i64 {
    let bytes = match event {
        ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => bytes.len(),
        ExecEvent::Lost { .. } | ExecEvent::Exited(_) => 0,
    };
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    bytes.saturating_add(i64::from(super::frame::EVENT))
}
