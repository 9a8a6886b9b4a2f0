//! Commands found again: the list, and a new follower.

use minicbor::bytes::ByteVec;

use super::Follower;
use super::control::no_exec;
use crate::guest::agent::Agent;
use crate::guest::connection::Target;
use crate::guest::failure::failure;
use crate::guest::process;
use crate::guest::ring::Ring;
use crate::protocol::Kind;
use crate::protocol::message::{self, AttachRequest, ExecInfo, Execs, FailureKind, Lost, Started};

/// Commands that a list names at most, and the bytes of their arguments.
const MAX_LISTED_BYTES: usize = 512 * 1024;

impl Agent {
    pub(in crate::guest) fn attach(&mut self, to: (u64, u32), request: &AttachRequest) {
        let Some(key) = self.find_exec(&request.exec) else {
            return self.fail(to, &no_exec(&request.exec));
        };
        if let Some(connection) = self.connections.get_mut(&to.0)
            && let Some(stream) = connection.streams.get_mut(&to.1)
        {
            stream.target = Target::Exec(key);
        }
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        let ends = exec.rings.each_ref().map(Ring::end);
        let from = if exec.background || exec.exited.is_some() {
            exec.replayed_from
        } else {
            // All of it is its follower's until now.
            ends
        };
        let begin = [0, 1].map(|which| exec.rings[which].start().max(from[which]));
        let old = exec.follower.replace(Follower {
            to,
            replay: request.replay,
            sent: begin,
            stdin: request.stdin,
        });
        let lost = Lost {
            stdout: if request.replay {
                begin[0] - from[0]
            } else {
                0
            },
            stderr: if request.replay {
                begin[1] - from[1]
            } else {
                0
            },
        };
        let pid = exec.pid;
        let ended = exec.exited.is_some();
        if exec.exited.is_some() {
            // Nothing is drained again; the kept end follows the rings.
            exec.rest = Some([0; 2]);
        }
        if let Some(old) = old {
            self.fail(
                old.to,
                &failure(
                    FailureKind::Cancelled,
                    "another host follows this command now",
                ),
            );
        }
        if pid != 0 || ended {
            self.send(to, Kind::Started, &message::encode(&Started { pid }));
        }
        if lost.stdout + lost.stderr > 0 {
            self.send(to, Kind::Lost, &message::encode(&lost));
        }
        self.pump_exec(key);
    }

    pub(in crate::guest) fn list_execs(&mut self, to: (u64, u32)) {
        let live = self.execs.values().any(|exec| exec.channel.is_some());
        let all = if live { process::scan() } else { Vec::new() };
        let mut bytes = 0;
        let execs = self
            .execs
            .values()
            .filter(|exec| exec.pid != 0)
            .map(|exec| {
                let processes = match exec.channel {
                    Some(_) => process::descendants(&all, exec.supervisor).len(),
                    None => 0,
                };
                bytes += exec.argv.iter().map(|part| part.len() + 8).sum::<usize>();
                // A list must fit a frame; the command's name is always there.
                let argv = if bytes > MAX_LISTED_BYTES {
                    let name = exec.argv.first().map_or(&[][..], |first| first);
                    vec![ByteVec::from(name[..name.len().min(64)].to_vec())]
                } else {
                    exec.argv.clone()
                };
                ExecInfo {
                    exec: exec.id.clone(),
                    argv,
                    pid: exec.pid,
                    started_ms: exec.started_ms,
                    exited: exec.exited.clone(),
                    tty: exec.tty,
                    background: exec.background,
                    processes: u32::try_from(processes).unwrap_or(u32::MAX),
                }
            })
            .collect();
        self.finish(to, Kind::Execs, &message::encode(&Execs { execs }));
    }

    pub(super) fn find_exec(&self, id: &str) -> Option<u64> {
        self.execs
            .iter()
            .find(|(_, exec)| exec.id == id)
            .map(|(key, _)| *key)
    }
}
