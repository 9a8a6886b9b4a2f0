//! Commands as data: what a scripted command is told, and what it does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::shell::Line;

/// What a scripted command is started with.
#[derive(Clone, Debug)]
pub struct Call {
    /// The command and its arguments, as lossy text.
    pub argv: Vec<String>,
    /// The same as they came, bytes that are no text included.
    pub argv_bytes: Vec<Bytes>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// The directory that it starts in.
    pub workdir: String,
    /// The name of its user.
    pub user: String,
    /// The number of its user.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// Its process number inside.
    pub pid: u32,
}

impl Call {
    /// An argument; 0 is the command itself. Empty where there is none.
    pub fn argument(&self, index: usize) -> &str {
        self.argv.get(index).map_or("", String::as_str)
    }

    /// The arguments from this one on, as they came.
    pub fn bytes_from(&self, index: usize) -> &[Bytes] {
        self.argv_bytes.get(index..).unwrap_or_default()
    }

    /// Leaves the first arguments out, for the command that is run in its place.
    pub(super) fn without_first(mut self, count: usize) -> Self {
        self.argv.drain(..count.min(self.argv.len()));
        self.argv_bytes.drain(..count.min(self.argv_bytes.len()));
        self
    }
}

/// Turns a call into what it does.
pub type Command = Arc<dyn Fn(&Call) -> Script + Send + Sync>;
/// Goes on after input has arrived.
pub type Continuation = Box<dyn FnOnce(Vec<u8>) -> Script + Send + Sync>;
/// Answers the bytes that a connection received.
pub type Answer = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// One thing that a scripted process does.
pub enum Step {
    /// Writes to standard output; waits while nobody reads.
    Out(Bytes),
    /// Writes to standard error; waits while nobody reads.
    Err(Bytes),
    /// Writes the same bytes to standard output until something ends it.
    Repeat(Bytes),
    /// Waits, on tokio's clock.
    Sleep(Duration),
    /// Copies standard input to standard output until its end.
    CopyStdin,
    /// Reads standard input to its end (at most 16 MiB) and goes on with what the function says.
    ReadStdin(Continuation),
    /// Reads one line of standard input, without its end; empty at the end of input.
    ReadLine(Continuation),
    /// Starts a process and does not wait for it.
    Spawn(Child),
    /// Waits until every process that this one spawned has ended.
    Wait,
    /// Writes a file with the process's own rights.
    Write {
        /// The file; relative to the working directory.
        path: String,
        /// What.
        data: Bytes,
        /// Whether it is added to the end.
        append: bool,
    },
    /// Reads a file with the process's own rights; a missing one ends the
    /// process with code 1 and a message.
    Read {
        /// The file; relative to the working directory.
        path: String,
        /// What follows.
        then: Continuation,
    },
    /// Listens on a port until something ends the process; every piece of
    /// bytes that a connection receives is answered by the function.
    Serve {
        /// The port, not 0.
        port: u16,
        /// The answer to a piece of bytes.
        answer: Answer,
    },
    /// Connects to a port of the sandbox, sends, and reads until the other
    /// side closes or 64 KiB arrived.
    Connect {
        /// The port.
        port: u16,
        /// What is sent.
        send: Bytes,
        /// What follows the answer; a refused connection answers nothing.
        then: Continuation,
    },
    /// Ignores a signal from here on (never SIGKILL or SIGSTOP).
    Ignore(i32),
    /// Ends with this code when the signal arrives from here on.
    Trap {
        /// The signal.
        signal: i32,
        /// The code.
        code: i32,
    },
    /// Leaves its session and process group for new ones, as `setsid` does.
    NewSession,
    /// Does not die by any signal from here on, as a process that hangs in a
    /// driver. What must kill its tree ends the sandbox after five seconds.
    Hang,
    /// Is killed because the sandbox has no memory left.
    OutOfMemory,
    /// Ends with a code, 0 to 255.
    Exit(i32),
    /// Ends by a signal.
    Die(i32),
    /// Does what the lines of a shell say.
    Shell(ShellLines),
}

/// Lines that the mock's shell has read.
#[derive(Clone, Debug)]
pub struct ShellLines(pub(super) Arc<Vec<Line>>);

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Out(bytes) => write!(f, "Out({} bytes)", bytes.len()),
            Self::Err(bytes) => write!(f, "Err({} bytes)", bytes.len()),
            Self::Repeat(bytes) => write!(f, "Repeat({} bytes)", bytes.len()),
            Self::Sleep(duration) => write!(f, "Sleep({duration:?})"),
            Self::CopyStdin => f.write_str("CopyStdin"),
            Self::ReadStdin(_) => f.write_str("ReadStdin"),
            Self::ReadLine(_) => f.write_str("ReadLine"),
            Self::Spawn(child) => write!(f, "Spawn({child:?})"),
            Self::Wait => f.write_str("Wait"),
            Self::Write { path, .. } => write!(f, "Write({path:?})"),
            Self::Read { path, .. } => write!(f, "Read({path:?})"),
            Self::Serve { port, .. } => write!(f, "Serve({port})"),
            Self::Connect { port, .. } => write!(f, "Connect({port})"),
            Self::Ignore(signal) => write!(f, "Ignore({signal})"),
            Self::Trap { signal, code } => write!(f, "Trap({signal}, {code})"),
            Self::NewSession => f.write_str("NewSession"),
            Self::Hang => f.write_str("Hang"),
            Self::OutOfMemory => f.write_str("OutOfMemory"),
            Self::Exit(code) => write!(f, "Exit({code})"),
            Self::Die(signal) => write!(f, "Die({signal})"),
            Self::Shell(_) => f.write_str("Shell"),
        }
    }
}

/// A process that a scripted process starts.
#[derive(Debug)]
pub struct Child {
    /// Its argument vector, for process lists.
    pub argv: Vec<String>,
    /// What it does.
    pub script: Script,
    /// Whether it has a session and process group of its own.
    pub new_session: bool,
}

/// What a scripted process does, one step after the other; after the last it
/// ends with code 0.
///
/// ```
/// use stacyvm::providers::mock::Script;
/// let script = Script::new().out("6 * 7 = ").out("42\n").exit(0);
/// ```
#[derive(Debug, Default)]
pub struct Script(pub(super) Vec<Step>);

impl Script {
    /// Does nothing and ends with code 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step.
    pub fn step(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// Writes to standard output.
    pub fn out(self, bytes: impl Into<Bytes>) -> Self {
        self.step(Step::Out(bytes.into()))
    }

    /// Writes to standard error.
    pub fn err(self, bytes: impl Into<Bytes>) -> Self {
        self.step(Step::Err(bytes.into()))
    }

    /// Waits.
    pub fn sleep(self, duration: Duration) -> Self {
        self.step(Step::Sleep(duration))
    }

    /// Ends with a code.
    pub fn exit(self, code: i32) -> Self {
        self.step(Step::Exit(code))
    }

    /// Ends by a signal.
    pub fn die(self, signal: i32) -> Self {
        self.step(Step::Die(signal))
    }

    /// Reads standard input to its end and goes on with what the function says.
    pub fn read_stdin(self, then: impl FnOnce(Vec<u8>) -> Script + Send + Sync + 'static) -> Self {
        self.step(Step::ReadStdin(Box::new(then)))
    }

    /// Starts a process in the same process group and does not wait for it.
    pub fn spawn(self, argv: &[&str], script: Script) -> Self {
        self.step(Step::Spawn(Child {
            argv: argv.iter().map(|&a| a.to_owned()).collect(),
            script,
            new_session: false,
        }))
    }

    /// Starts a process in a session of its own, as `setsid` does, and does not wait for it.
    pub fn spawn_session(self, argv: &[&str], script: Script) -> Self {
        self.step(Step::Spawn(Child {
            argv: argv.iter().map(|&a| a.to_owned()).collect(),
            script,
            new_session: true,
        }))
    }

    /// Listens on a port and answers every piece of bytes.
    pub fn serve(
        self,
        port: u16,
        answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        self.step(Step::Serve {
            port,
            answer: Arc::new(answer),
        })
    }
}

impl From<Vec<Step>> for Script {
    fn from(steps: Vec<Step>) -> Self {
        Self(steps)
    }
}
