//! The way of a command's output to whoever follows it, or into its rings.

use std::os::fd::AsFd as _;

use rustix::io::Errno;

use super::{KINDS, ROLES, keep};
use crate::guest::agent::Agent;

/// Bytes that are still taken from a terminal once its first process has ended.
const TERMINAL_REST: u64 = 1024 * 1024;
/// Bytes taken into a ring at once.
const RING_CHUNK: usize = 64 * 1024;
/// Reads from one command in a row.
const ROUNDS: usize = 4;

impl Agent {
    /// The first process has ended: takes what is in the pipes now. A
    /// survivor that goes on writing does not hold the end up.
    pub(super) fn drain(&mut self, key: u64) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        if exec.rest.is_some() || exec.exited.is_some() {
            return;
        }
        let mut rest = [0; 2];
        for (rest, source) in rest.iter_mut().zip(&exec.sources) {
            *rest = match source {
                Some(_) if exec.tty => TERMINAL_REST,
                Some(source) => rustix::io::ioctl_fionread(source).unwrap_or(0),
                None => 0,
            };
        }
        if exec.discard {
            rest = [0; 2];
        }
        exec.rest = Some(rest);
        self.pump_exec(key);
    }

    /// Moves output as far as credit and buffers allow.
    pub(in crate::guest) fn pump_exec(&mut self, key: u64) {
        let Self {
            execs,
            connections,
            scratch,
            interests,
            ..
        } = self;
        let Some(exec) = execs.get_mut(&key) else {
            return;
        };
        let mut connection = None;
        let told_start = exec.pid != 0 || exec.exited.is_some();
        if let Some(follower) = &mut exec.follower {
            connection = connections.get_mut(&follower.to.0);
            if let (Some(connection), true, true) = (&mut connection, follower.replay, told_start) {
                for (which, ring) in exec.rings.iter().enumerate() {
                    while follower.sent[which] < ring.end() {
                        let room = connection.room(follower.to.1);
                        if room == 0 {
                            break;
                        }
                        let bytes = ring.copy(follower.sent[which], room);
                        connection.data(follower.to.1, KINDS[which], &bytes);
                        follower.sent[which] += bytes.len() as u64;
                    }
                }
                let mut rings = exec.rings.iter().zip(follower.sent);
                follower.replay = !rings.all(|(ring, sent)| sent >= ring.end());
            }
        }
        let follower = exec.follower;
        let blocked = !told_start || follower.is_some_and(|follower| follower.replay);
        for which in 0..2 {
            let (mut wants, mut closed) = (false, false);
            for _ in 0..ROUNDS {
                wants = false;
                let Some(source) = &exec.sources[which] else {
                    break;
                };
                let rest = exec.rest.map_or(u64::MAX, |rest| rest[which]);
                let rest = usize::try_from(rest).unwrap_or(usize::MAX);
                if blocked || rest == 0 {
                    break;
                }
                let mut live = match (follower, &mut connection) {
                    (Some(follower), Some(connection)) => Some((follower, connection)),
                    _ => None,
                };
                let room = match &mut live {
                    Some((follower, connection)) => connection.room(follower.to.1).min(rest),
                    None => rest,
                };
                if room == 0 {
                    break;
                }
                let result = match live {
                    Some((follower, connection)) if !exec.background => {
                        let to = follower.to.1;
                        let count = connection.data_from(to, KINDS[which], source.as_fd(), room);
                        if let Ok(count @ 1..) = count {
                            keep(
                                &mut exec.rings,
                                &mut exec.newest,
                                which,
                                connection.newest(count),
                            );
                        }
                        // A host that is gone is noticed by the loop.
                        connection.flush();
                        count
                    }
                    live => {
                        // Whoever follows a background command later gets what
                        // an earlier follower got: that one may not have read it.
                        scratch.resize(RING_CHUNK, 0);
                        let most = room.min(RING_CHUNK);
                        let count = rustix::io::read(source, &mut scratch[..most]);
                        if let Ok(count @ 1..) = count {
                            keep(&mut exec.rings, &mut exec.newest, which, &scratch[..count]);
                            if let Some((follower, connection)) = live {
                                connection.data(follower.to.1, KINDS[which], &scratch[..count]);
                                connection.flush();
                            }
                        }
                        count
                    }
                };
                wants = true;
                match result {
                    Ok(count) if count > 0 => {
                        if let Some(rest) = &mut exec.rest {
                            rest[which] = rest[which].saturating_sub(count as u64);
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        // More than was counted was never there.
                        if let Some(rest) = &mut exec.rest {
                            rest[which] = 0;
                            wants = false;
                        }
                        break;
                    }
                    // No process has the terminal open for now. Closing this side
                    // would hang up on a command that closed its own and goes on.
                    Err(Errno::IO) if exec.tty && exec.rest.is_none() => {
                        closed = true;
                        break;
                    }
                    // End of file; a terminal without processes answers EIO.
                    Ok(_) | Err(_) => {
                        interests.forget(key, ROLES[which], source.as_fd());
                        exec.sources[which] = None;
                    }
                }
            }
            if let Some(source) = &exec.sources[which] {
                let writes = exec.tty && exec.sink.has_pending();
                if closed {
                    interests.set_quiet(key, ROLES[which], source.as_fd());
                } else {
                    interests.set(key, ROLES[which], source.as_fd(), wants, writes);
                }
            }
        }
        let drained = exec.rest.is_some_and(|rest| {
            rest.iter()
                .zip(&exec.sources)
                .all(|(rest, source)| *rest == 0 || source.is_none())
        });
        let told = exec.follower.is_none_or(|follower| !follower.replay) || exec.discard;
        if !exec.readers.is_empty() {
            self.pump_logs(key);
        }
        if drained && told {
            if self
                .execs
                .get(&key)
                .is_some_and(|exec| exec.exited.is_none())
            {
                self.tell_end(key);
            } else {
                self.retell_end(key);
            }
        }
    }
}
