//! Why a command is stopped: its deadline, its host's wish, its host's absence.

use super::control::order_kill;
use crate::guest::agent::Agent;
use crate::guest::clock::now_ms;
use crate::protocol::message::{EndReason, Exited};

/// Milliseconds that a tree has to die.
const KILL_MS: u64 = 5000;
/// The most trees that die at once; others wait for their turn, and their time
/// begins with it.
const MOST_KILLS: usize = 8;

impl Agent {
    fn kill_exec(&mut self, key: u64, reason: EndReason) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        if exec.exited.is_some() || exec.kill.is_some() {
            return;
        }
        exec.kill = Some(reason);
        exec.deadline = None;
        if exec.channel.is_none() {
            // Everything has ended; the output was still on its way.
            return self.pump_exec(key);
        }
        exec.rest = None;
        self.to_kill.push_back(key);
        self.kill_more();
    }

    /// Has supervisors kill those whose turn it is. Each looks at all processes, so
    /// that of very many at once none would seem to die.
    pub(in crate::guest) fn kill_more(&mut self) {
        let dying = self.execs.values().filter(|exec| exec.kill_by.is_some());
        let mut places = MOST_KILLS.saturating_sub(dying.count());
        while places > 0
            && let Some(key) = self.to_kill.pop_front()
        {
            // It may have ended by itself, and be forgotten.
            let Some(exec) = self.execs.get_mut(&key) else {
                continue;
            };
            if let Some(channel) = &exec.channel {
                exec.kill_by = Some(now_ms() + KILL_MS);
                exec.ordered = true;
                order_kill(channel);
                places -= 1;
            }
        }
    }

    pub(in crate::guest) fn cancel_exec(&mut self, key: u64) {
        if let Some(exec) = self.execs.get_mut(&key) {
            if exec.exited.is_some() {
                // It ended before; only the rest of its ring was on the way.
                if let Some(follower) = &mut exec.follower {
                    follower.replay = false;
                }
                return self.retell_end(key);
            }
            exec.discard = true;
            if let Some(rest) = &mut exec.rest {
                *rest = [0; 2];
            }
            if exec.kill.is_some() {
                self.pump_exec(key);
            } else {
                self.kill_exec(key, EndReason::Cancelled);
            }
        }
    }

    /// The connection that followed a command is gone.
    pub(in crate::guest) fn exec_lost(&mut self, key: u64, to: (u64, u32)) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        if exec.follower.is_some_and(|follower| follower.to == to) {
            exec.follower = None;
            if exec.background {
                self.pump_exec(key);
            } else {
                self.cancel_exec(key);
            }
        }
    }

    /// The host stops following; the command goes on in the background.
    pub(in crate::guest) fn detach(&mut self, key: u64) {
        if let Some(exec) = self.execs.get_mut(&key) {
            exec.follower = None;
            exec.keep_more(self.config.ring_bytes as usize);
            exec.background = true;
            self.pump_exec(key);
        }
    }

    /// A deadline or the patience with a dying tree is over.
    pub(in crate::guest) fn exec_due(&mut self, key: u64, now: u64) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        if exec.deadline.is_some_and(|at| at <= now) {
            exec.deadline = None;
            self.kill_exec(key, EndReason::TimedOut);
        } else if exec.kill_by.is_some_and(|at| at <= now) {
            exec.kill_by = None;
            let reason = exec.kill.unwrap_or(EndReason::Cancelled);
            self.record_end(
                key,
                &Exited {
                    reason,
                    value: 0,
                    survivors: 0,
                    sandbox_ended: true,
                },
            );
            self.ending = Some("processes did not die within five seconds".to_owned());
        }
    }
}
