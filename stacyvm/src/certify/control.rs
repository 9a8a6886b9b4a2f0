//! The deliberately weak place: this host, as this user, with no confinement.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::MemfdFlags;

use super::answer::{Attempt, MOST};
use super::bait::{self, Facts};
use super::{Check, Control, Place, User, Verdict, flood};
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::exec::ExitStatus;

/// Runs the attacks on this host, as the user of this process, in a mount and
/// process namespace of their own and otherwise unconfined. As an ordinary user
/// each is tried once more as root of a user namespace of its own.
///
/// It lays out what attacks look for on the host: a process, files in the
/// directories for temporary files and in this user's home, shared memory, a
/// message queue, a socket, a port. Dropping it takes all of it away.
#[derive(Debug)]
pub struct HostControl {
    program: Program,
    name: String,
    facts: Facts,
    _host: Bait,
    _other: Bait,
}

/// The program of attacks, as a file without a name.
#[derive(Clone, Debug)]
struct Program(Arc<File>);

impl Program {
    fn open() -> Result<Self> {
        let make = |flags| rustix::fs::memfd_create("stacyvm-probe", flags);
        let made = make(MemfdFlags::CLOEXEC | MemfdFlags::EXEC)
            // Kernels before 6.3 know no such flag.
            .or_else(|_| make(MemfdFlags::CLOEXEC));
        let mut file = File::from(made.map_err(|error| cannot("make a file in memory", error))?);
        file.write_all(stacyvm_agent::PROBE)
            .map_err(|error| cannot("write a file in memory", error))?;
        // Nobody who writes it may be left when it is executed.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let read = File::open(path).map_err(|error| cannot("open a file in memory", error))?;
        Ok(Self(Arc::new(read)))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command.current_dir("/");
        command
    }
}

pub(super) fn cannot(what: &str, error: impl Into<std::io::Error>) -> Error {
    Error::new(ErrorKind::Internal, format!("cannot {what}")).source(error.into())
}

/// A process of the host that has laid out bait; its end takes it away.
#[derive(Debug)]
struct Bait {
    child: Child,
    marker: String,
    port: u16,
}

impl Bait {
    fn lay(program: &Program, home: &str) -> Result<Self> {
        let marker = bait::marker()?;
        let mut child = program
            .command()
            .args(["bait", &format!("marker={marker}"), &format!("home={home}")])
            .env("STACYVM_BAIT", &marker)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| cannot("start the program of attacks", error))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            // What is read of a broken line is no port.
            let _ = BufReader::new(out.take(64)).read_line(&mut line);
        }
        let port = bait::port(&line);
        let mut laid = Self {
            child,
            marker,
            port: 0,
        };
        laid.port =
            port.ok_or_else(|| Error::new(ErrorKind::Internal, "the bait was not laid out"))?;
        Ok(laid)
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        // The end of its input is what it waits for; then it is waited for.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl HostControl {
    /// Lays out the bait. What the subject was told is what the control is told,
    /// with a neighbour of its own; hand [`facts`](Self::facts) to
    /// [`Subject::tell`](super::Subject::tell).
    ///
    /// # Errors
    ///
    /// `internal` where the program cannot be started.
    pub async fn open(told: &Facts) -> Result<Self> {
        let mut facts = told.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let program = Program::open()?;
            let home = std::env::var_os("HOME").and_then(|home| home.into_string().ok());
            let home = home.unwrap_or_default();
            let host = Bait::lay(&program, &home)?;
            let other = Bait::lay(&program, "")?;
            facts.set("marker", &host.marker);
            facts.set("port", host.port);
            facts.set("other_marker", &other.marker);
            facts.set("other_port", other.port);
            facts.set("home", home);
            facts.set("directory", std::env::temp_dir().display());
            let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname");
            facts.set("hostname", hostname.unwrap_or_default().trim_end());
            if let Some(variable) = bait::variable() {
                facts.set("variable", variable);
            }
            let root = rustix::process::geteuid().is_root();
            let who = if root { "root" } else { "an ordinary user" };
            Ok(Self {
                program,
                name: format!("this host as {who}, unconfined"),
                facts,
                _host: host,
                _other: other,
            })
        });
        opened
            .await
            .map_err(|error| Error::new(ErrorKind::Internal, "a thread failed").source(error))?
    }

    /// What it has laid out.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    fn place(&self, user_namespace: bool) -> WeakPlace<'_> {
        WeakPlace {
            control: self,
            user_namespace,
        }
    }
}

#[async_trait]
impl Control for HostControl {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&self, check: &dyn Check) -> Verdict {
        let plain = check.run(&self.place(false)).await;
        if matches!(plain, Verdict::Fired { .. }) || rustix::process::geteuid().is_root() {
            return plain;
        }
        match check.run(&self.place(true)).await {
            fired @ Verdict::Fired { .. } => fired,
            _ => plain,
        }
    }
}

/// One way to be on this host.
#[derive(Debug)]
struct WeakPlace<'a> {
    control: &'a HostControl,
    user_namespace: bool,
}

impl WeakPlace<'_> {
    /// What starts an attack here, as often as it is called.
    fn command(&self, attack: &str) -> impl Fn() -> Command + Send + 'static {
        let program = self.control.program.clone();
        let mut words = vec!["weak".to_owned()];
        words.extend(self.user_namespace.then(|| "--user".to_owned()));
        words.push(attack.to_owned());
        words.extend(self.control.facts.arguments());
        move || {
            let mut command = program.command();
            command.args(&words);
            command
        }
    }
}

#[async_trait]
impl Place for WeakPlace<'_> {
    fn users(&self) -> &[User] {
        &[User::Default]
    }

    async fn attack(&self, attack: &str, _: User) -> Result<Attempt> {
        let command = self.command(attack);
        let attack = attack.to_owned();
        let run = tokio::task::spawn_blocking(move || {
            if flood::judges(&attack) {
                return flood::on_host(&attack, command);
            }
            let (status, stdout) = run(command())?;
            Attempt::parse(&attack, status, &stdout)
        });
        run.await
            .map_err(|error| Error::new(ErrorKind::Internal, "a thread failed").source(error))?
    }
}

/// Runs a command of this program to its end: how it ended and the beginning of
/// what it said.
fn run(mut command: Command) -> Result<(ExitStatus, Vec<u8>)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| cannot("start the program of attacks", error))?;
    let mut said = Vec::new();
    if let Some(out) = child.stdout.take() {
        // What was read before an error is judged.
        let _ = out.take(MOST as u64 + 1).read_to_end(&mut said);
    }
    // Each process of the program ends itself after a minute.
    let ended = child
        .wait()
        .map_err(|error| cannot("wait for the program of attacks", error))?;
    Ok((exit_status(ended), said))
}

pub(super) fn exit_status(ended: std::process::ExitStatus) -> ExitStatus {
    match (ended.code(), ended.signal()) {
        (Some(code), _) => ExitStatus::Code { code },
        (None, signal) => ExitStatus::Signal {
            signal: signal.unwrap_or_default(),
        },
    }
}
