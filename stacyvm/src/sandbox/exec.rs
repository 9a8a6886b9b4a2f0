//! Commands: what is asked for, what comes back.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::ExecId;

/// A stream that owns what it needs.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send + 'static>>;

/// A command to run.
///
/// It takes an argument vector; [`ExecSpec::shell`] is the named helper for a
/// shell string. Standard input that is not asked for is `/dev/null`.
#[derive(Clone)]
pub struct ExecSpec {
    /// Its id.
    pub exec: ExecId,
    /// The command and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// Variables added to the sandbox's own.
    pub env: Vec<(String, String)>,
    /// The directory to start in; the sandbox's own default if none.
    pub workdir: Option<String>,
    /// `name`, `uid`, `name:group` or `uid:gid`; the sandbox's own default if none.
    pub user: Option<String>,
    /// Whether standard input is a stream that the caller writes.
    pub stdin: bool,
    /// A terminal of this size instead of pipes.
    pub tty: Option<TtySize>,
    /// When the whole tree is killed.
    pub timeout: Option<Duration>,
    /// Whether it outlives the call that started it.
    pub background: bool,
}

impl fmt::Debug for ExecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ExecSpec")
            .field("exec", &self.exec)
            .field(
                "program",
                &self.argv.first().map(|a| String::from_utf8_lossy(a)),
            )
            .field("arguments", &self.argv.len().saturating_sub(1))
            .field("env_names", &names)
            .field("workdir", &self.workdir)
            .field("user", &self.user)
            .field("stdin", &self.stdin)
            .field("tty", &self.tty)
            .field("timeout", &self.timeout)
            .field("background", &self.background)
            .finish()
    }
}

impl ExecSpec {
    /// A command from its argument vector.
    pub fn new<A: AsRef<[u8]>>(argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            exec: ExecId::random(),
            argv: argv.into_iter().map(|a| a.as_ref().to_vec()).collect(),
            env: Vec::new(),
            workdir: None,
            user: None,
            stdin: false,
            tty: None,
            timeout: None,
            background: false,
        }
    }

    /// A command line for `/bin/sh -c`.
    pub fn shell(line: impl AsRef<[u8]>) -> Self {
        Self::new([b"/bin/sh", b"-c".as_slice(), line.as_ref()])
    }

    /// Checks what every provider would refuse.
    ///
    /// # Errors
    ///
    /// `invalid_argument`, naming the field.
    pub fn check(&self) -> Result<()> {
        let none_or_nul = |field: &str, bytes: &[u8]| {
            if bytes.contains(&0) {
                return Err(Error::invalid(
                    field,
                    String::from_utf8_lossy(bytes),
                    "no NUL byte",
                    "remove the NUL byte",
                ));
            }
            Ok(())
        };
        let Some(program) = self.argv.first() else {
            return Err(Error::invalid(
                "argv",
                "[]",
                "a command and its arguments",
                "give at least the command",
            ));
        };
        if program.is_empty() {
            return Err(Error::invalid(
                "argv[0]",
                "",
                "a command",
                "give the name or path of a command",
            ));
        }
        for (index, argument) in self.argv.iter().enumerate() {
            none_or_nul(&format!("argv[{index}]"), argument)?;
        }
        for (name, value) in &self.env {
            check_variable_name("env", name)?;
            if value.contains('\0') {
                return Err(Error::invalid(
                    format!("env.{name}"),
                    "[redacted]",
                    "no NUL byte",
                    "remove the NUL byte",
                ));
            }
        }
        if let Some(workdir) = &self.workdir {
            check_absolute("workdir", workdir)?;
        }
        if let Some(user) = &self.user {
            check_user(user)?;
        }
        if self.timeout.is_some_and(|t| t.is_zero()) {
            return Err(Error::invalid(
                "timeout",
                "0s",
                "more than zero",
                "leave it out for no deadline",
            ));
        }
        if let Some(size) = self.tty
            && (size.rows == 0 || size.columns == 0)
        {
            return Err(Error::invalid(
                "tty",
                format!("{}x{}", size.columns, size.rows),
                "at least one row and one column",
                "leave the size out for 80x24",
            ));
        }
        Ok(())
    }
}

pub(crate) fn check_variable_name(field: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(Error::invalid(
            field,
            name,
            "a variable name without = and NUL",
            "write it as NAME=value",
        ));
    }
    Ok(())
}

pub(crate) fn check_absolute(field: &str, path: &str) -> Result<()> {
    if !path.starts_with('/') || path.contains('\0') || path.len() > 4095 {
        return Err(Error::invalid(
            field,
            path,
            "an absolute path of at most 4095 bytes without NUL",
            "begin it with /",
        ));
    }
    Ok(())
}

pub(crate) fn check_user(user: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.$".contains(&b);
    let mut parts = user.splitn(2, ':');
    let fine = parts
        .by_ref()
        .all(|part| !part.is_empty() && part.len() <= 64 && part.bytes().all(plain));
    if fine {
        return Ok(());
    }
    Err(Error::invalid(
        "user",
        user,
        "name, uid, name:group or uid:gid",
        "use a user of the image or a number",
    ))
}

/// The size of a terminal in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtySize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

impl Default for TtySize {
    fn default() -> Self {
        Self {
            rows: 24,
            columns: 80,
        }
    }
}

/// What happens while a command runs. On a terminal there is no `Stderr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// Bytes of standard output, or of the terminal.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// Output that nobody read in time and that is gone. Only when attaching
    /// to a background command, or reading what is kept.
    Lost {
        /// Bytes of standard output.
        stdout: u64,
        /// Bytes of standard error.
        stderr: u64,
    },
    /// The command ended. Exactly one, and the last.
    Exited(ExitStatus),
}

/// How a command ended. A non-zero exit is a result, not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited by itself.
    Code {
        /// The code, 0 to 255.
        code: i32,
    },
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// Its deadline passed; the whole tree is gone.
    TimedOut {
        /// The tree resisted for five seconds, so the sandbox was ended.
        sandbox_ended: bool,
    },
    /// It was killed because the sandbox had no memory left.
    OutOfMemory,
    /// The caller cancelled it; the whole tree is gone.
    Cancelled {
        /// The tree resisted for five seconds, so the sandbox was ended.
        sandbox_ended: bool,
    },
    /// The sandbox ended under it, or could no longer be reached.
    SandboxGone,
}

impl ExitStatus {
    /// Whether it is exit code 0.
    pub fn success(self) -> bool {
        self == Self::Code { code: 0 }
    }

    /// The exit code, if it exited by itself.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code { code } => Some(code),
            _ => None,
        }
    }
}

#[cfg(unix)]
impl From<std::process::ExitStatus> for ExitStatus {
    fn from(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code { code },
            // One of the two is there for a process that has ended.
            (None, signal) => Self::Signal {
                signal: signal.unwrap_or_default(),
            },
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { code } => write!(f, "exit code {code}"),
            Self::Signal { signal } => write!(f, "signal {signal}"),
            Self::TimedOut { .. } => f.write_str("timed out"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Cancelled { .. } => f.write_str("cancelled"),
            Self::SandboxGone => f.write_str("sandbox gone"),
        }
    }
}

/// A running command: its events and its control.
///
/// # Contract for providers
///
/// The stream yields any number of outputs, then exactly one
/// [`ExecEvent::Exited`], then ends; or one error, then ends. It is bounded: a
/// reader that stops slows the process. Dropping the stream before its end
/// cancels a foreground command (the whole tree dies) and leaves a background
/// command alone.
pub struct ExecSession {
    /// The command.
    pub exec: ExecId,
    /// The process number of its first process, inside the sandbox.
    pub pid: Option<u32>,
    /// What happens.
    pub events: BoxStream<Result<ExecEvent>>,
    /// Input, signals, size.
    pub control: Arc<dyn ExecControl>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession")
            .field("exec", &self.exec)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// The processes a signal is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalScope {
    /// The first process of the command.
    Process,
    /// Its process group; on a terminal, the foreground group.
    Group,
    /// Every descendant, double forks and new sessions included.
    Tree,
}

impl std::str::FromStr for SignalScope {
    type Err = Error;

    /// Reads `process`, `group` or `tree`; anything else is `invalid_argument`.
    fn from_str(word: &str) -> Result<Self> {
        match word {
            "process" => Ok(Self::Process),
            "group" => Ok(Self::Group),
            "tree" => Ok(Self::Tree),
            other => Err(Error::invalid(
                "scope",
                other,
                "process, group or tree",
                "ask for one of them",
            )),
        }
    }
}

/// Input, signals and size of a running command.
#[async_trait]
pub trait ExecControl: fmt::Debug + Send + Sync + 'static {
    /// Writes to standard input; waits while the command does not read.
    ///
    /// # Errors
    ///
    /// `invalid_argument` where standard input was not asked for, `conflict`
    /// after it was closed or the command ended.
    async fn write_stdin(&self, data: Bytes) -> Result<()>;
    /// Closes standard input; on a terminal, sends its end-of-file character.
    /// Closing twice is success.
    async fn close_stdin(&self) -> Result<()>;
    /// Sends a signal. A command that has ended gives `not_found`.
    async fn signal(&self, signal: i32, scope: SignalScope) -> Result<()>;
    /// Sets the size of the terminal.
    async fn resize(&self, size: TtySize) -> Result<()>;
}

/// One command, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecInfo {
    /// Its id.
    pub exec: ExecId,
    /// Its argument vector; lossy text, for people.
    pub argv: Vec<String>,
    /// The process number of its first process.
    pub pid: Option<u32>,
    /// When it started.
    pub started: Option<SystemTime>,
    /// How its first process ended, once it has.
    pub exited: Option<ExitStatus>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it outlives its caller.
    pub background: bool,
    /// Its processes that run now: those of an ended command are its survivors.
    pub processes: u32,
}

impl ExecInfo {
    /// One that starts now, with its first process alone.
    pub fn started(spec: &ExecSpec, pid: Option<u32>) -> Self {
        let text = |argument: &Vec<u8>| String::from_utf8_lossy(argument).into_owned();
        Self {
            exec: spec.exec.clone(),
            argv: spec.argv.iter().map(text).collect(),
            pid,
            started: Some(SystemTime::now()),
            exited: None,
            tty: spec.tty.is_some(),
            background: spec.background,
            processes: 1,
        }
    }
}

/// How to follow a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Whether the follower writes standard input.
    pub stdin: bool,
    /// Whether kept output is sent first.
    pub replay: bool,
}

/// Which of a command's kept output is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Whether what comes is read too, until nothing of the command runs.
    pub follow: bool,
    /// Leaves out what was written longer ago than this, by a clock that
    /// counts suspend.
    pub age: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn bad_commands_are_refused_with_the_field_named() {
        let plain = || ExecSpec::new(["true"]);
        let cases: Vec<(ExecSpec, &str)> = vec![
            (ExecSpec::new(Vec::<&str>::new()), "argv"),
            (ExecSpec::new([""]), "argv[0]"),
            (ExecSpec::new(["a", "b\0c"]), "argv[1]"),
            (
                ExecSpec {
                    workdir: Some("tmp".into()),
                    ..plain()
                },
                "workdir",
            ),
            (
                ExecSpec {
                    workdir: Some("/a\0".into()),
                    ..plain()
                },
                "workdir",
            ),
            (
                ExecSpec {
                    user: Some(String::new()),
                    ..plain()
                },
                "user",
            ),
            (
                ExecSpec {
                    user: Some("a:b:c".into()),
                    ..plain()
                },
                "user",
            ),
            (
                ExecSpec {
                    env: vec![("A=B".into(), String::new())],
                    ..plain()
                },
                "env",
            ),
            (
                ExecSpec {
                    timeout: Some(Duration::ZERO),
                    ..plain()
                },
                "timeout",
            ),
            (
                ExecSpec {
                    tty: Some(TtySize {
                        rows: 0,
                        columns: 1,
                    }),
                    ..plain()
                },
                "tty",
            ),
        ];
        for (spec, field) in cases {
            let error = spec.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert_eq!(error.fact("field"), Some(field));
            assert!(error.fact("remedy").is_some());
        }
        plain().check().unwrap();
    }

    #[test]
    fn a_scope_is_read_by_its_name() {
        let named = [
            ("process", SignalScope::Process),
            ("group", SignalScope::Group),
            ("tree", SignalScope::Tree),
        ];
        for (name, scope) in named {
            assert_eq!(name.parse::<SignalScope>().unwrap(), scope);
        }
        for name in ["", "Tree", "all"] {
            let error = name.parse::<SignalScope>().unwrap_err();
            assert_eq!(error.fact("field"), Some("scope"), "{name}");
        }
    }

    #[test]
    fn values_never_show() {
        let mut spec = ExecSpec::new(["tool", "--password=hunter2"]);
        spec.env.push(("KEY".into(), "hunter2".into()));
        let shown = format!("{spec:?}");
        assert!(
            shown.contains("KEY") && !shown.contains("hunter2"),
            "{shown}"
        );
        spec.env.push(("X".into(), "hunter2\0".into()));
        assert!(!format!("{:?}", spec.check().unwrap_err()).contains("hunter2"));
    }
}
