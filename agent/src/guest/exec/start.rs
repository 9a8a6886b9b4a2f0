//! A command's way from the request to its supervisor.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;

use super::{Exec, Follower, stdio};
use crate::guest::agent::{Agent, Role};
use crate::guest::clock::{now_ms, wall_ms};
use crate::guest::connection::Target;
use crate::guest::failure::{about, failure, system};
use crate::guest::reserve::Reserve;
use crate::guest::ring::Ring;
use crate::guest::sink::Sink;
use crate::guest::sys::{Fork, fork_before};
use crate::guest::{launch, supervisor};
use crate::packet;
use crate::protocol::message::{ExecRequest, Failure, FailureKind};

/// Bytes that are kept of each stream of a foreground command, whose caller has
/// them too.
const FOREGROUND_RING: usize = 64 * 1024;

impl Agent {
    pub(in crate::guest) fn start_exec(&mut self, to: (u64, u32), request: ExecRequest) {
        if let Err(failure) = launch::validate(&request) {
            return self.fail(to, &failure);
        }
        fault_point!("agent.exec.asked");
        if self.execs.values().any(|exec| exec.id == request.exec) {
            return self.fail(
                to,
                &about(
                    FailureKind::AlreadyExists,
                    "a command of this id exists",
                    request.exec.as_bytes(),
                ),
            );
        }
        let running = self
            .execs
            .values()
            .filter(|exec| exec.channel.is_some())
            .count();
        if running >= self.config.max_execs as usize {
            return self.fail(
                to,
                &failure(
                    FailureKind::Exhausted,
                    format!("{running} commands run or left processes, which is the most allowed"),
                ),
            );
        }
        match self.fork_exec(to, request) {
            Ok(exec) => {
                // Whoever claimed it brought what it had before its first command.
                self.config.waits = None;
                let key = self.key();
                if let Some(channel) = &exec.channel {
                    self.interests
                        .set(key, Role::Channel, channel.as_fd(), true, false);
                }
                if let Some(connection) = self.connections.get_mut(&to.0)
                    && let Some(stream) = connection.streams.get_mut(&to.1)
                {
                    stream.target = Target::Exec(key);
                }
                self.execs.insert(key, exec);
            }
            Err(failure) => self.fail(to, &failure),
        }
    }

    fn fork_exec(&mut self, to: (u64, u32), request: ExecRequest) -> Result<Exec, Failure> {
        let call = |what: &'static str| move |error: Errno| system(what, &error.into());
        let stdio = match request.tty {
            Some(size) => stdio::terminal(size).map_err(call("terminal"))?,
            None => stdio::pipes(request.stdin).map_err(call("pipes"))?,
        };
        let kills_before = self.kills();
        let (supervisor, channel) = match self.use_spare(&request, &stdio.child) {
            Some(spare) => spare,
            None => self.fork_supervisor(&request, stdio.child)?,
        };
        fault_point!("agent.exec.forked");
        let mut ring = self.config.ring_bytes as usize;
        if !request.background {
            ring = ring.min(FOREGROUND_RING);
        }
        Ok(Exec {
            id: request.exec,
            supervisor,
            deadline: request.timeout_ms.map(|wait| now_ms().saturating_add(wait)),
            kill_by: None,
            argv: request.argv,
            tty: request.tty.is_some(),
            background: request.background,
            pid: 0,
            started_ms: wall_ms(),
            channel: Some(channel),
            ordered: false,
            sources: stdio.sources,
            stdin: stdio.stdin,
            sink: Sink::default(),
            rings: [Ring::new(ring), Ring::new(ring)],
            replayed_from: [0; 2],
            newest: None,
            readers: Vec::new(),
            follower: Some(Follower {
                to,
                replay: false,
                sent: [0; 2],
                stdin: true,
            }),
            kills_before,
            status: None,
            kill: None,
            discard: false,
            rest: None,
            exited: None,
            answers: Vec::new(),
        })
    }

    fn fork_supervisor(
        &mut self,
        request: &ExecRequest,
        stdio: [OwnedFd; 3],
    ) -> Result<(i32, OwnedFd), Failure> {
        // Made in a full sandbox, it would be the agent that has to go.
        if !self.reserve.as_ref().is_none_or(Reserve::has_room) {
            return Err(failure(
                FailureKind::Exhausted,
                "the memory of the sandbox is full, expected room for one more command; end \
                 others, or remove files that lie in memory",
            ));
        }
        let (channel, theirs) =
            packet::pair().map_err(|error| system("channel of the supervisor", &error))?;
        match fork_before(self.score.as_ref()).map_err(|error| system("fork", &error))? {
            Fork::Child => {
                let first = Some((request.clone(), stdio));
                supervisor::run(theirs, first, &self.commands, &self.config)
            }
            Fork::Parent(supervisor) => Ok((supervisor, channel)),
        }
    }

    /// The sandbox's count of kills for lack of memory.
    pub(super) fn kills(&self) -> Option<u64> {
        let mut bytes = [0; 512];
        let count = rustix::io::pread(self.counter.as_ref()?, &mut bytes, 0).ok()?;
        std::str::from_utf8(&bytes[..count])
            .ok()?
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}
