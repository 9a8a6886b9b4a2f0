//! The process between the agent and one command.
//!
//! It adopts every orphan among the command's descendants, so the tree stays
//! a tree however often it forks: no child left means nothing left. It runs
//! as a user that no command has and cannot be signalled or traced by them.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};

use super::exec::spare;
use super::failure::system;
use super::kernel;
use super::launch;
use super::process::{self, Stat};
use super::sys::spawn::{self, Stack, Stage, Waiting};
use super::sys::{self, Reaped, Status};
use crate::protocol::message::{self, AgentConfig, ExecRequest, Failure, Scope, Stdin};

/// The most bytes of one message to the agent.
pub(super) const MAX_MESSAGE: usize = 16 * 1024;
/// Milliseconds between two passes over a tree that does not die.
const KILL_PAUSE_MS: i64 = 2;

/// What the agent asks of a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Send a signal and answer with the token. `group` is the foreground
    /// group of the command's terminal, or 0.
    Signal {
        signal: i32,
        scope: Scope,
        group: i32,
        token: u64,
    },
    /// Kill everything.
    Kill,
}

/// What a supervisor tells the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Started(i32),
    Failed(Failure),
    /// The first process ended; so many descendants live, or the supervisor is free.
    Ended(Status, u32, bool),
    /// No descendant lives any more, and another command can come. Where it cannot, the
    /// channel closes instead.
    Free,
    /// An order to signal was carried out, or failed with this error number.
    Answer(u64, i32),
}

impl Order {
    pub(super) fn encode(self) -> [u8; 20] {
        let mut out = [0; 20];
        if let Self::Signal {
            signal,
            scope,
            group,
            token,
        } = self
        {
            out[0] = 1;
            out[1] = match scope {
                Scope::Process => 0,
                Scope::Group => 1,
                Scope::Tree => 2,
            };
            out[4..8].copy_from_slice(&signal.to_le_bytes());
            out[8..12].copy_from_slice(&group.to_le_bytes());
            out[12..20].copy_from_slice(&token.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8; 20]) -> Self {
        if bytes[0] == 0 {
            return Self::Kill;
        }
        Self::Signal {
            signal: word(bytes, 4),
            scope: match bytes[1] {
                0 => Scope::Process,
                1 => Scope::Group,
                _ => Scope::Tree,
            },
            group: word(bytes, 8),
            token: u64::from(word(bytes, 12).cast_unsigned())
                | u64::from(word(bytes, 16).cast_unsigned()) << 32,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> i32 {
    bytes
        .get(at..at + 4)
        .and_then(|four| four.try_into().ok())
        .map_or(0, i32::from_le_bytes)
}

impl Report {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Started(pid) => [&[1][..], &pid.to_le_bytes()].concat(),
            Self::Failed(failure) => [&[2][..], &message::encode(failure)].concat(),
            Self::Ended(status, survivors, free) => {
                let (how, value) = match status {
                    Status::Code(code) => (0, code),
                    Status::Signal(signal) => (1, signal),
                };
                [
                    &[3, how][..],
                    &value.to_le_bytes(),
                    &survivors.to_le_bytes(),
                    &[u8::from(*free)],
                ]
                .concat()
            }
            Self::Answer(token, errno) => {
                [&[4][..], &token.to_le_bytes(), &errno.to_le_bytes()].concat()
            }
            Self::Free => vec![5],
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(match bytes.first()? {
            1 => Self::Started(word(bytes, 1)),
            2 => Self::Failed(message::decode(bytes.get(1..)?).ok()?),
            3 => {
                let value = word(bytes, 2);
                let status = if *bytes.get(1)? == 0 {
                    Status::Code(value)
                } else {
                    Status::Signal(value)
                };
                let free = bytes.get(10) == Some(&1);
                Self::Ended(status, word(bytes, 6).cast_unsigned(), free)
            }
            4 => Self::Answer(
                u64::from(word(bytes, 1).cast_unsigned())
                    | u64::from(word(bytes, 5).cast_unsigned()) << 32,
                word(bytes, 9),
            ),
            5 => Self::Free,
            _ => return None,
        })
    }
}

/// A command and its standard streams.
type Command = (ExecRequest, [OwnedFd; 3]);

/// Runs as the supervisor of commands, in a process forked for it, and never returns.
/// Without a first command it waits for one that comes later or never.
pub(super) fn run(
    channel: OwnedFd,
    first: Option<Command>,
    groups: &[OwnedFd],
    config: &AgentConfig,
) -> ! {
    let stdio = first.iter().flat_map(|(_, stdio)| stdio);
    let own = [&channel].into_iter().chain(stdio).chain(groups);
    let mut keep: Vec<i32> = own.map(AsRawFd::as_raw_fd).collect();
    sys::close_all_but(&mut keep);
    // The one of a sandbox that waits enters its cgroups ahead: after a quiet while
    // that takes the kernel longer than all else of a command.
    let enter = first.is_none() && config.waits == Some(true);
    let signals = prepare(config, groups);
    let mut supervisor = Supervisor {
        channel,
        config: config.clone(),
        first: 0,
        ended: false,
        ordered: false,
        free: false,
        own: i32::try_from(std::process::id()).unwrap_or(0),
    };
    match signals {
        Err(failure) => tell(&supervisor.channel, &Report::Failed(failure)),
        Ok(signals) => supervisor.serve(first, groups, enter, &signals),
    }
    sys::exit_now(0)
}

/// What needs no command. Returns what tells of children that ended, orphans among them.
fn prepare(config: &AgentConfig, groups: &[OwnedFd]) -> Result<OwnedFd, Failure> {
    sys::new_session();
    let signals =
        sys::watch_signals(&[libc::SIGCHLD]).map_err(|error| system("signals", &error))?;
    sys::adopt_orphans().map_err(|error| system("adoption of orphans", &error))?;
    if groups.is_empty() {
        // Commands have no limit of memory of their own then, and what serves the
        // sandbox is to outlive them.
        sys::yield_memory();
    }
    if config.can_switch_user {
        sys::become_supervisor().map_err(|error| system("rights of the supervisor", &error))?;
    }
    Ok(signals)
}

struct Supervisor {
    channel: OwnedFd,
    config: AgentConfig,
    first: i32,
    ended: bool,
    /// Whether an order came: another may be under way when its command is over, which
    /// must not reach the next one.
    ordered: bool,
    /// Whether the command is over and another can come.
    free: bool,
    own: i32,
}

fn tell(channel: &OwnedFd, report: &Report) {
    // An agent that is gone is noticed by the next receive.
    let _ = rustix::net::send(channel, &report.encode(), SendFlags::NOSIGNAL);
}

impl Supervisor {
    /// Runs one command after the other, until one fails to start, an order came, or
    /// the agent wants no more of them.
    fn serve(
        &mut self,
        mut next: Option<Command>,
        groups: &[OwnedFd],
        enter: bool,
        signals: &OwnedFd,
    ) {
        let mut stack = Stack::new();
        // The one of a sandbox that waits has the time.
        if enter && kernel::is_gvisor() && self.rehearse(groups, &mut stack).is_err() {
            return;
        }
        loop {
            let child = spawn::wait(groups, enter, &mut stack);
            let command = next
                .take()
                .or_else(|| spare::receive(&self.channel, &mut self.config));
            let Some((request, stdio)) = command else {
                return;
            };
            // There may be room for it now.
            let child = if child.is_err() {
                drop(child);
                spawn::wait(groups, false, &mut stack)
            } else {
                child
            };
            match self.start(&request, stdio, child) {
                Err(failure) => return tell(&self.channel, &Report::Failed(failure)),
                Ok(first) => (self.first, self.ended) = (first, false),
            }
            tell(&self.channel, &Report::Started(self.first));
            if self.config.owns_proc_files() {
                // Its child, which shared its memory, has undone it by becoming another user.
                let _ = sys::own_proc_files();
            }
            if !self.watch(signals) || !self.free {
                return;
            }
        }
    }

    /// Runs a program of our own as it would run a command: in gVisor the first one
    /// takes twice as long as the others. Fails where it is not as new afterwards.
    fn rehearse(&self, groups: &[OwnedFd], stack: &mut Stack) -> io::Result<()> {
        let program = std::env::current_exe()?.into_os_string().into_vec();
        let request = ExecRequest {
            exec: String::new(),
            argv: vec![program.into(), b"boot-id".to_vec().into()],
            env: Vec::new(),
            workdir: Some(b"/".to_vec().into()),
            user: None,
            stdin: Stdin::Null,
            tty: None,
            timeout_ms: None,
            background: false,
        };
        let null = || {
            std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
        };
        let stdio = [null()?.into(), null()?.into(), null()?.into()];
        let child = spawn::wait(groups, false, stack);
        // Where it cannot, neither can a command, which is told why.
        if let Ok(pid) = self.start(&request, stdio, child) {
            spawn::collect(pid);
        }
        self.be_as_new()
    }

    fn start(
        &self,
        request: &ExecRequest,
        stdio: [OwnedFd; 3],
        child: io::Result<Waiting<'_>>,
    ) -> Result<i32, Failure> {
        let config = &self.config;
        let account = launch::account(config, request.user.as_deref())?;
        if request.tty.is_some() && config.can_switch_user {
            // Programs open their terminal by name. Without the right it stays the agent's.
            let _ = rustix::fs::fchown(
                &stdio[0],
                Some(rustix::fs::Uid::from_raw(account.uid)),
                None,
            );
        }
        if config.can_switch_user {
            sys::put_file_rights(false)
                .map_err(|error| system("rights of the supervisor", &error))?;
        }
        let plan = launch::plan(config, request, &account, stdio)?;
        child
            .map_err(|error| (Stage::Clone, error))
            .and_then(|child| child.execute(&plan))
            .map_err(|(stage, error)| launch::explain(stage, &error, config, request))
    }

    /// Takes back what a command had it change.
    fn be_as_new(&self) -> io::Result<()> {
        if self.config.owns_proc_files() {
            sys::hide()?;
        }
        if self.config.can_switch_user {
            sys::put_file_rights(true)?;
        }
        Ok(())
    }

    /// Serves until no descendant is left, or the agent is gone, which is false.
    fn watch(&mut self, signals: &OwnedFd) -> bool {
        loop {
            if !self.reap() {
                return true;
            }
            let mut fds = [
                PollFd::new(&self.channel, PollFlags::IN),
                PollFd::new(signals, PollFlags::IN),
            ];
            let _ = poll(&mut fds, None);
            let ordered = !fds[0].revents().is_empty();
            while sys::next_signal(signals.as_fd()).is_some() {}
            if ordered && !self.obey() {
                self.kill_tree();
                return false;
            }
        }
    }

    /// Collects ended children; false once there is none left.
    fn reap(&mut self) -> bool {
        let mut end = None;
        let more = loop {
            match sys::reap() {
                Reaped::Running => break true,
                Reaped::NoChildren => break false,
                Reaped::Child(pid, status) if pid == self.first && !self.ended => {
                    self.ended = true;
                    end = Some(status);
                }
                Reaped::Child(..) => {}
            }
        };
        self.free = !more && !self.ordered && self.be_as_new().is_ok();
        if let Some(status) = end {
            let survivors = if more { self.tree().len() } else { 0 };
            let survivors = u32::try_from(survivors).unwrap_or(u32::MAX);
            tell(&self.channel, &Report::Ended(status, survivors, self.free));
        } else if self.free {
            tell(&self.channel, &Report::Free);
        }
        more
    }

    fn tree(&self) -> Vec<Stat> {
        process::living_below(self.own)
    }

    /// Receives one order; false when the agent is gone.
    fn obey(&mut self) -> bool {
        let mut bytes = [0; 20];
        match rustix::net::recv(&self.channel, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((_, 20)) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
            _ => return false,
        }
        self.ordered = true;
        match Order::decode(&bytes) {
            Order::Kill => self.kill_tree(),
            Order::Signal {
                signal,
                scope,
                group,
                token,
            } => {
                let errno = self.signal(signal, scope, group);
                tell(&self.channel, &Report::Answer(token, errno));
            }
        }
        true
    }

    /// Sends a signal and returns 0 or an error number.
    fn signal(&mut self, signal: i32, scope: Scope, group: i32) -> i32 {
        let done = match scope {
            Scope::Process if self.ended => return libc::ESRCH,
            Scope::Process => sys::kill(self.first, signal),
            Scope::Group => {
                let group = if group > 1 { group } else { self.first };
                // A group number is not reused while the group has a member.
                if self.ended && !self.tree().iter().any(|stat| stat.group == group) {
                    return libc::ESRCH;
                }
                sys::kill(-group, signal)
            }
            Scope::Tree if signal == libc::SIGKILL => {
                self.kill_tree();
                return 0;
            }
            Scope::Tree => {
                let tree = self.tree();
                if tree.is_empty() {
                    return libc::ESRCH;
                }
                for stat in tree {
                    // What has ended since needs no signal.
                    let _ = sys::kill(stat.pid, signal);
                }
                return 0;
            }
        };
        done.err()
            .map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Stops, lists and kills descendants until there is no child left. An
    /// agent that loses patience ends the sandbox.
    fn kill_tree(&mut self) {
        while self.reap() {
            for signal in [libc::SIGSTOP, libc::SIGKILL] {
                for stat in self.tree() {
                    let _ = sys::kill(stat.pid, signal);
                }
            }
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: KILL_PAUSE_MS * 1_000_000,
            };
            let _ = poll(&mut [], Some(&pause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_survive_the_round_trip() {
        for order in [
            Order::Kill,
            Order::Signal {
                signal: 64,
                scope: Scope::Tree,
                group: 77,
                token: u64::MAX - 5,
            },
        ] {
            assert_eq!(Order::decode(&order.encode()), order);
        }
        for report in [
            Report::Started(7),
            Report::Ended(Status::Signal(9), 3, false),
            Report::Ended(Status::Code(255), 0, true),
            Report::Answer(1 << 40, libc::ESRCH),
            Report::Free,
            Report::Failed(super::super::failure::failure(
                message::FailureKind::BadWorkdir,
                "x",
            )),
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
    }

    #[test]
    fn a_failure_about_a_long_name_fits_in_one_message() {
        let name = vec![b'x'; 200_000];
        let failure =
            super::super::failure::about(message::FailureKind::Invalid, "too long", &name);
        let bytes = Report::Failed(failure.clone()).encode();
        assert!(bytes.len() <= MAX_MESSAGE, "{} bytes", bytes.len());
        assert_eq!(Report::decode(&bytes), Some(Report::Failed(failure)));
    }
}
