//! What supervisors say, and what their silence means.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::guest::agent::{Agent, Role};
use crate::guest::failure::failure;
use crate::guest::process;
use crate::guest::supervisor::{MAX_MESSAGE, Report};
use crate::guest::sys::{self, Status};
use crate::protocol::Kind;
use crate::protocol::message::{self, FailureKind, Started};

impl Agent {
    /// A supervisor reports, or is gone.
    pub(in crate::guest) fn on_channel(&mut self, key: u64) {
        let mut bytes = [0; MAX_MESSAGE];
        loop {
            let Some(exec) = self.execs.get_mut(&key) else {
                return;
            };
            let Some(channel) = &exec.channel else { return };
            match rustix::net::recv(channel, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((_, count)) if count > 0 => {
                    if let Some(report) = Report::decode(&bytes[..count.min(MAX_MESSAGE)]) {
                        self.on_report(key, report);
                    }
                }
                // One that ended before it read an order resets the channel,
                // which is told once and before what it had reported.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return,
                _ => return self.supervisor_gone(key),
            }
        }
    }

    fn on_report(&mut self, key: u64, report: Report) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        match report {
            Report::Started(pid) => {
                exec.pid = pid.unsigned_abs();
                let started = message::encode(&Started { pid: exec.pid });
                if let Some(follower) = exec.follower {
                    self.send(follower.to, Kind::Started, &started);
                }
                self.feed_exec(key);
                self.pump_exec(key);
            }
            Report::Failed(failure) => {
                let follower = exec.follower.take();
                self.forget_exec(key);
                if let Some(follower) = follower {
                    self.fail(follower.to, &failure);
                }
                self.kill_more();
            }
            Report::Ended(status, survivors, free) => {
                fault_point!("agent.exec.ended");
                if survivors > 0 {
                    // Its supervisor is not free for the next one.
                    self.spares.command_ended();
                }
                exec.status = Some((status, survivors));
                if exec.kill.is_none() {
                    exec.deadline = None;
                    self.drain(key);
                }
                if free {
                    self.supervisor_free(key);
                }
            }
            Report::Free => self.supervisor_free(key),
            Report::Answer(token, errno) => {
                let at = exec.answers.iter().position(|(known, _)| *known == token);
                let Some(at) = at else { return };
                let (_, to) = exec.answers.swap_remove(at);
                self.answer_signal(to, errno);
            }
        }
    }

    /// No process of the command is left, unless its supervisor was killed.
    fn supervisor_gone(&mut self, key: u64) {
        drop(self.command_over(key));
    }

    /// The same, and the supervisor can take another one.
    fn supervisor_free(&mut self, key: u64) {
        let Some(exec) = self.execs.get(&key) else {
            return;
        };
        let (supervisor, ordered) = (exec.supervisor, exec.ordered);
        match self.command_over(key).filter(|_| !ordered) {
            Some(channel) => self.put_back(supervisor, channel),
            // It ends when its channel closes.
            None => _ = self.leaving.insert(supervisor),
        }
    }

    /// Returns the channel to the supervisor.
    fn command_over(&mut self, key: u64) -> Option<OwnedFd> {
        let exec = self.execs.get_mut(&key)?;
        let channel = exec.channel.take();
        if let Some(channel) = &channel {
            self.interests.forget(key, Role::Channel, channel.as_fd());
        }
        self.spares.command_ended();
        exec.kill_by = None;
        exec.deadline = None;
        let answers = std::mem::take(&mut exec.answers);
        // One that was to be killed ends as such, however far its start came.
        let started = exec.pid != 0 || exec.kill.is_some();
        if exec.pid == 0 {
            // Output waits for the start, which does not come.
            exec.discard = true;
        }
        let lost = exec.status.is_none();
        if lost {
            exec.status = Some((Status::Signal(libc::SIGKILL), 0));
        }
        let told = exec.exited.is_some();
        for (_, to) in answers {
            self.answer_signal(to, libc::ESRCH);
        }
        if lost {
            self.kill_strays();
        }
        if !started {
            let exec = self.execs.get_mut(&key);
            let follower = exec.and_then(|exec| exec.follower.take());
            self.forget_exec(key);
            if let Some(follower) = follower {
                self.fail(
                    follower.to,
                    &failure(FailureKind::Internal, "the supervisor ended early"),
                );
            }
        } else if told {
            self.pump_exec(key);
        } else {
            self.drain(key);
        }
        self.kill_more();
        channel
    }

    /// Kills what belongs to no supervisor and no worker: a supervisor was
    /// killed for lack of memory, and its tree came to the agent.
    fn kill_strays(&self) {
        let all = process::scan();
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let mut kept: std::collections::BTreeSet<i32> = self
            .execs
            .values()
            .filter(|exec| exec.channel.is_some())
            .map(|exec| exec.supervisor)
            .chain(self.workers.values().map(|worker| worker.pid))
            .chain(self.spares.pids())
            .collect();
        for root in kept.clone() {
            kept.extend(process::descendants(&all, root).iter().map(|stat| stat.pid));
        }
        for stat in process::descendants(&all, own) {
            if !kept.contains(&stat.pid) {
                let _ = sys::kill(stat.pid, libc::SIGKILL);
            }
        }
    }
}
