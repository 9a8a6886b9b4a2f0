//! The one terminal event of a command, and what is remembered after it.

use std::os::fd::AsFd as _;

use super::ROLES;
use crate::guest::agent::{Agent, Role};
use crate::guest::sys::Status;
use crate::protocol::Kind;
use crate::protocol::message::{self, EndReason, Exited, Started};

/// Ended commands that are remembered.
const MAX_REMEMBERED: usize = 256;
/// Bytes that the rings of ended background commands hold together.
const MAX_REMEMBERED_BYTES: usize = 16 * 1024 * 1024;
/// Bytes that those of ended foreground commands, whose callers had them, hold.
const MAX_FOREGROUND_BYTES: usize = 1024 * 1024;

impl Agent {
    /// Sends the one terminal event and keeps it.
    pub(super) fn tell_end(&mut self, key: u64) {
        let kills = self.kills();
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        let (status, survivors) = exec.status.unwrap_or((Status::Signal(libc::SIGKILL), 0));
        let starved = exec
            .kills_before
            .zip(kills)
            .is_some_and(|(before, now)| now > before);
        let (reason, value) = match (exec.kill, status) {
            (Some(reason), _) => (reason, 0),
            (None, Status::Signal(libc::SIGKILL)) if starved => {
                (EndReason::OutOfMemory, libc::SIGKILL)
            }
            (None, Status::Signal(signal)) => (EndReason::Signal, signal),
            (None, Status::Code(code)) => (EndReason::Code, code),
        };
        let survivors = if exec.channel.is_none() { 0 } else { survivors };
        self.record_end(
            key,
            &Exited {
                reason,
                value,
                survivors,
                sandbox_ended: false,
            },
        );
    }

    pub(super) fn record_end(&mut self, key: u64, exited: &Exited) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        exec.exited = Some(exited.clone());
        exec.rest = None;
        exec.keep_more(self.config.ring_bytes as usize);
        let unstarted = exec.pid == 0;
        let follower = exec.follower.take();
        exec.sink.give_up();
        if let Some(stdin) = exec.stdin.take() {
            self.interests.forget(key, Role::Input, stdin.as_fd());
        }
        if let Some(follower) = follower {
            if unstarted {
                // The end of a command comes after its start, of which nobody heard.
                self.send(
                    follower.to,
                    Kind::Started,
                    &message::encode(&Started { pid: 0 }),
                );
            }
            self.finish(follower.to, Kind::Exited, &message::encode(exited));
        }
        self.forget_old();
        // What survivors write goes to the ring from here on.
        self.pump_exec(key);
    }

    /// Ends the stream of a host that follows a command which ended before.
    pub(super) fn retell_end(&mut self, key: u64) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        if let (Some(exited), Some(follower)) = (exec.exited.clone(), exec.follower)
            && !follower.replay
        {
            exec.follower = None;
            exec.rest = None;
            self.finish(follower.to, Kind::Exited, &message::encode(&exited));
            self.pump_exec(key);
        }
    }

    fn forget_old(&mut self) {
        let ended: Vec<u64> = self
            .execs
            .iter()
            .filter(|(_, exec)| exec.exited.is_some() && exec.channel.is_none())
            .map(|(key, _)| *key)
            .collect();
        let over = ended.len().saturating_sub(MAX_REMEMBERED);
        for key in &ended[..over] {
            self.forget_exec(*key);
        }
        let mut sums = [0; 2];
        for key in ended[over..].iter().rev() {
            if let Some(exec) = self.execs.get_mut(key) {
                let (bytes, most) = if exec.background {
                    (&mut sums[0], MAX_REMEMBERED_BYTES)
                } else {
                    (&mut sums[1], MAX_FOREGROUND_BYTES)
                };
                for ring in &mut exec.rings {
                    *bytes += ring.len();
                    if *bytes > most {
                        *bytes -= ring.len();
                        ring.clear();
                    }
                }
            }
        }
    }

    pub(super) fn forget_exec(&mut self, key: u64) {
        if let Some(mut exec) = self.execs.remove(&key) {
            self.end_readers(&mut exec);
            if let Some(channel) = &exec.channel {
                self.interests.forget(key, Role::Channel, channel.as_fd());
            }
            for (source, role) in exec.sources.iter().zip(ROLES) {
                if let Some(source) = source {
                    self.interests.forget(key, role, source.as_fd());
                }
            }
            if let Some(stdin) = &exec.stdin {
                self.interests.forget(key, Role::Input, stdin.as_fd());
            }
        }
    }
}
