//! Supervisors that wait for the next commands.
//!
//! A new process is put on the idlest processor. Where all are busy with other
//! sandboxes it waits there for the end of a time slice, which is milliseconds.
//! So while commands come one after the other, supervisors and children of the
//! next ones are there before they are asked for. There are several, as each
//! may have to wait itself. One whose command is over, with all that came of it,
//! is there for another one.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::guest::agent::Agent;
use crate::guest::clock::now_ms;
use crate::guest::reserve::Reserve;
use crate::guest::supervisor;
use crate::guest::sys::{Fork, fork_before};
use crate::packet;
use crate::protocol::message::{self, AgentConfig, EnvironmentRequest, ExecRequest};

/// How many are started after a command.
const AT_ONCE: usize = 2;
/// How long they wait after the last command.
const WAIT_MS: u64 = 2_000;

/// The supervisors without a command.
#[derive(Debug, Default)]
pub(in crate::guest) struct Spares {
    /// The oldest first. One ends when its channel closes.
    waiting: VecDeque<(i32, OwnedFd)>,
    /// How many are to be started.
    wanted: usize,
    /// When those that wait are let go, once there was a command.
    until: Option<u64>,
}

impl Spares {
    /// For a sandbox that waits to be claimed: one, whose command will come at
    /// once then, and which waits as long as it takes.
    pub(in crate::guest) fn of_one_that_waits() -> Self {
        Self {
            wanted: 1,
            ..Self::default()
        }
    }

    /// For a sandbox in gVisor, where a fork takes milliseconds: one for the first
    /// command, which is made while the host still learns that the agent runs.
    pub(in crate::guest) fn of_one_in_gvisor() -> Self {
        Self {
            wanted: 1,
            until: Some(now_ms().saturating_add(WAIT_MS)),
            ..Self::default()
        }
    }

    /// A host has come, most likely with a command: in gVisor it would wait for a fork.
    pub(in crate::guest) fn host_came(&mut self) {
        if self.waiting.is_empty() {
            self.wanted = self.wanted.max(1);
            self.until = Some(now_ms().saturating_add(WAIT_MS));
        }
    }

    /// A command has ended: others may follow.
    pub(in crate::guest) fn command_ended(&mut self) {
        self.wanted = AT_ONCE;
        self.until = Some(now_ms().saturating_add(WAIT_MS));
    }

    pub(in crate::guest) fn pids(&self) -> impl Iterator<Item = i32> {
        self.waiting.iter().map(|(pid, _)| *pid)
    }

    /// When they are to be dismissed.
    pub(in crate::guest) fn until(&self) -> Option<u64> {
        self.until.filter(|_| !self.waiting.is_empty())
    }

    pub(in crate::guest) fn collected(&mut self, pid: i32) {
        self.waiting.retain(|(own, _)| *own != pid);
    }
}

impl Agent {
    /// Starts some where commands are coming. Without room for them the next
    /// command has its own started: where memory is full, to make one may be the end of
    /// the agent.
    pub(in crate::guest) fn start_spares(&mut self) {
        let wanted = std::mem::take(&mut self.spares.wanted);
        if wanted == 0 || !self.reserve.as_ref().is_none_or(Reserve::has_plenty) {
            return;
        }
        let most = self.most_spares();
        for _ in self.spares.waiting.len()..most.min(self.spares.waiting.len() + wanted) {
            let Ok((channel, theirs)) = packet::pair() else {
                return;
            };
            match fork_before(self.score.as_ref()) {
                Err(_) => return,
                Ok(Fork::Child) => supervisor::run(theirs, None, &self.commands, &self.config),
                Ok(Fork::Parent(pid)) => self.spares.waiting.push_back((pid, channel)),
            }
        }
    }

    fn most_spares(&self) -> usize {
        // One that commands could stop would stop the next of them.
        if self.config.can_switch_user {
            self.config.spare_supervisors.unwrap_or(0) as usize
        } else {
            0
        }
    }

    /// One whose command is over waits for the next, as long as there is a place.
    pub(super) fn put_back(&mut self, pid: i32, channel: OwnedFd) {
        if self.spares.waiting.len() < self.most_spares() {
            self.spares.waiting.push_back((pid, channel));
        } else {
            self.leaving.insert(pid);
        }
    }

    /// Tells those that wait of variables that came after they were started. None has a
    /// command yet: with the first one they are settled.
    pub(in crate::guest) fn tell_spares(&mut self, variables: &EnvironmentRequest) {
        let leaving = &mut self.leaving;
        self.spares.waiting.retain(|(pid, channel)| {
            // Too many for one packet, or it has ended: it goes.
            let told = packet::send(channel, variables, &[]).is_ok();
            if !told {
                leaving.insert(*pid);
            }
            told
        });
    }

    /// Lets those that wait go.
    pub(in crate::guest) fn dismiss_spares(&mut self) {
        self.leaving.extend(self.spares.pids());
        self.spares.waiting.clear();
    }

    /// Gives one that waits its command. `None` where there is none, or where
    /// it cannot take it.
    pub(super) fn use_spare(
        &mut self,
        request: &ExecRequest,
        stdio: &[OwnedFd; 3],
    ) -> Option<(i32, OwnedFd)> {
        let (pid, channel) = self.spares.waiting.pop_front()?;
        let fds: [BorrowedFd<'_>; 3] = stdio.each_ref().map(|fd| fd.as_fd());
        // One that has ended, or a request that is longer than a packet.
        if packet::send(&channel, request, &fds).is_err() {
            self.leaving.insert(pid);
            return None;
        }
        Some((pid, channel))
    }
}

/// Waits for the command, and takes variables in that come before it. `None` where
/// there will be none.
pub(in crate::guest) fn receive(
    channel: &OwnedFd,
    config: &mut AgentConfig,
) -> Option<(ExecRequest, [OwnedFd; 3])> {
    let look = RecvFlags::PEEK | RecvFlags::TRUNC;
    loop {
        let length = match rustix::net::recv(channel, &mut [0; 1][..], look) {
            Ok((_, length)) => length,
            Err(Errno::INTR) => continue,
            Err(_) => return None,
        };
        let mut bytes = vec![0; length];
        let (_, fds) = packet::receive_bytes(channel, &mut bytes, RecvFlags::empty()).ok()?;
        if fds.is_empty() {
            // No command comes without its streams.
            let variables: EnvironmentRequest = message::decode(&bytes).ok()?;
            config.env.extend(variables.env);
            continue;
        }
        return Some((message::decode(&bytes).ok()?, fds.try_into().ok()?));
    }
}
