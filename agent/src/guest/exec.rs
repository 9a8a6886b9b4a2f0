//! Commands: their start, output, end, and what stays of them.

use std::os::fd::{AsFd as _, OwnedFd};

use minicbor::bytes::ByteVec;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::agent::{Agent, Role};
use super::clock::{now_ms, wall_ms};
use super::connection::Target;
use super::failure::{about, failure, system};
use super::process;
use super::ring::Ring;
use super::sink::{Sink, Written};
use super::supervisor::{self, MAX_MESSAGE, Order, Report};
use super::sys::{self, Fork, Status};
use crate::protocol::Kind;
use crate::protocol::message::{
    self, AttachRequest, Credit, EndReason, ExecInfo, ExecRequest, Execs, Exited, Failure,
    FailureKind, Lost, ResizeRequest, Scope, SignalRequest, Size, Started, Stdin,
};

/// Milliseconds that a tree has to die.
const KILL_MS: u64 = 5000;
/// Ended commands that are remembered.
const MAX_REMEMBERED: usize = 256;
/// Bytes that the rings of ended commands hold together.
const MAX_REMEMBERED_BYTES: usize = 16 * 1024 * 1024;
/// Commands that a list names at most, and the bytes of their arguments.
const MAX_LISTED_BYTES: usize = 512 * 1024;
/// Bytes of a pipe between a command and the agent.
const PIPE_BYTES: usize = 1024 * 1024;
/// Bytes that are still taken from a terminal once its first process has ended.
const TERMINAL_REST: u64 = 1024 * 1024;
/// Bytes taken into a ring at once.
const RING_CHUNK: usize = 64 * 1024;
/// Reads from one command in a row.
const ROUNDS: usize = 4;

/// Who gets the output.
#[derive(Clone, Copy, Debug)]
struct Follower {
    to: (u64, u32),
    /// The rings go first, from `sent` on.
    replay: bool,
    /// Bytes of each stream since the start that it has been sent from the rings.
    sent: [u64; 2],
    stdin: bool,
}

/// One command.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) id: String,
    pub(super) supervisor: i32,
    pub(super) deadline: Option<u64>,
    pub(super) kill_by: Option<u64>,
    argv: Vec<ByteVec>,
    tty: bool,
    background: bool,
    pid: u32,
    started_ms: u64,
    channel: Option<OwnedFd>,
    sources: [Option<OwnedFd>; 2],
    stdin: Option<OwnedFd>,
    sink: Sink,
    rings: [Ring; 2],
    follower: Option<Follower>,
    kills_before: Option<u64>,
    status: Option<(Status, u32)>,
    /// Why the tree is being killed.
    kill: Option<EndReason>,
    /// Nobody wants the rest of the output.
    discard: bool,
    /// What is still to be taken from each source before the end is told.
    rest: Option<[u64; 2]>,
    exited: Option<Exited>,
    answers: Vec<(u64, (u64, u32))>,
}

const ROLES: [Role; 2] = [Role::Output, Role::ErrorOutput];
const KINDS: [Kind; 2] = [Kind::Data, Kind::DataErr];

impl Agent {
    pub(super) fn start_exec(&mut self, to: (u64, u32), request: ExecRequest) {
        if let Err(failure) = super::launch::validate(&request) {
            return self.fail(to, &failure);
        }
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
        let (channel, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(call("channel of the supervisor"))?;
        let stdio = match request.tty {
            Some(size) => terminal(size).map_err(call("terminal"))?,
            None => pipes(request.stdin).map_err(call("pipes"))?,
        };
        let kills_before = self.kills();
        match sys::fork().map_err(|error| system("fork", &error))? {
            Fork::Child => supervisor::run(theirs, stdio.child, &self.config, &request),
            Fork::Parent(supervisor) => {
                let ring = self.config.ring_bytes as usize;
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
                    sources: stdio.sources,
                    stdin: stdio.stdin,
                    sink: Sink::default(),
                    rings: [Ring::new(ring), Ring::new(ring)],
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
        }
    }

    /// The sandbox's count of kills for lack of memory.
    fn kills(&self) -> Option<u64> {
        let mut bytes = [0; 512];
        let count = rustix::io::pread(self.counter.as_ref()?, &mut bytes, 0).ok()?;
        std::str::from_utf8(&bytes[..count])
            .ok()?
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    /// A supervisor reports, or is gone.
    pub(super) fn on_channel(&mut self, key: u64) {
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
                Err(Errno::INTR) => {}
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
            }
            Report::Ended(status, survivors) => {
                exec.status = Some((status, survivors));
                if exec.kill.is_none() {
                    exec.deadline = None;
                    self.drain(key);
                }
            }
            Report::Answer(token, errno) => {
                let at = exec.answers.iter().position(|(known, _)| *known == token);
                let Some(at) = at else { return };
                let (_, to) = exec.answers.swap_remove(at);
                self.answer_signal(to, errno);
            }
        }
    }

    fn answer_signal(&mut self, to: (u64, u32), errno: i32) {
        match errno {
            0 => self.finish(to, Kind::Done, &[]),
            libc::ESRCH => self.fail(to, &failure(FailureKind::NotFound, "no such process")),
            _ => self.fail(
                to,
                &system("signal", &std::io::Error::from_raw_os_error(errno)),
            ),
        }
    }

    /// No process of the command is left, unless its supervisor was killed.
    fn supervisor_gone(&mut self, key: u64) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        if let Some(channel) = exec.channel.take() {
            self.interests.forget(key, Role::Channel, channel.as_fd());
        }
        exec.kill_by = None;
        exec.deadline = None;
        let answers = std::mem::take(&mut exec.answers);
        let started = exec.pid != 0;
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

    /// The first process has ended: takes what is in the pipes now. A
    /// survivor that goes on writing does not hold the end up.
    fn drain(&mut self, key: u64) {
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
    pub(super) fn pump_exec(&mut self, key: u64) {
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
        if let Some(follower) = &mut exec.follower {
            connection = connections.get_mut(&follower.to.0);
            if let (Some(connection), true, true) =
                (&mut connection, follower.replay, exec.pid != 0)
            {
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
        let blocked = exec.pid == 0 || follower.is_some_and(|follower| follower.replay);
        for which in 0..2 {
            let mut wants = false;
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
                let live = match (follower, &mut connection) {
                    (Some(follower), Some(connection)) => Some((follower, connection)),
                    _ => None,
                };
                let room = match &live {
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
                        if let Ok(count) = count {
                            exec.rings[which].push(&scratch[..count]);
                            if let (Some((follower, connection)), 1..) = (live, count) {
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
                    // End of file; a terminal without processes answers EIO.
                    Ok(_) | Err(_) => {
                        interests.forget(key, ROLES[which], source.as_fd());
                        exec.sources[which] = None;
                    }
                }
            }
            if let Some(source) = &exec.sources[which] {
                let writes = exec.tty && exec.sink.has_pending();
                interests.set(key, ROLES[which], source.as_fd(), wants, writes);
            }
        }
        let drained = exec.rest.is_some_and(|rest| {
            rest.iter()
                .zip(&exec.sources)
                .all(|(rest, source)| *rest == 0 || source.is_none())
        });
        let told = exec.follower.is_none_or(|follower| !follower.replay) || exec.discard;
        if drained && told {
            if exec.exited.is_none() {
                self.tell_end(key);
            } else {
                self.retell_end(key);
            }
        }
    }

    /// Sends the one terminal event and keeps it.
    fn tell_end(&mut self, key: u64) {
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

    fn record_end(&mut self, key: u64, exited: &Exited) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        exec.exited = Some(exited.clone());
        exec.rest = None;
        let follower = exec.follower.take();
        exec.sink.give_up();
        if let Some(stdin) = exec.stdin.take() {
            self.interests.forget(key, Role::Input, stdin.as_fd());
        }
        if let Some(follower) = follower {
            self.finish(follower.to, Kind::Exited, &message::encode(exited));
        }
        self.forget_old();
        // What survivors write goes to the ring from here on.
        self.pump_exec(key);
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
        let mut bytes = 0;
        for key in ended[over..].iter().rev() {
            if let Some(exec) = self.execs.get_mut(key) {
                for ring in &mut exec.rings {
                    bytes += ring.len();
                    if bytes > MAX_REMEMBERED_BYTES {
                        bytes -= ring.len();
                        ring.clear();
                    }
                }
            }
        }
    }

    fn forget_exec(&mut self, key: u64) {
        if let Some(exec) = self.execs.remove(&key) {
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

    fn kill_exec(&mut self, key: u64, reason: EndReason) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        if exec.exited.is_some() || exec.kill.is_some() {
            return;
        }
        exec.kill = Some(reason);
        exec.deadline = None;
        let Some(channel) = &exec.channel else {
            // Everything has ended; the output was still on its way.
            return self.pump_exec(key);
        };
        exec.rest = None;
        exec.kill_by = Some(now_ms() + KILL_MS);
        order(channel, Order::Kill);
    }

    pub(super) fn cancel_exec(&mut self, key: u64) {
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
    pub(super) fn exec_lost(&mut self, key: u64, to: (u64, u32)) {
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
    pub(super) fn detach(&mut self, key: u64) {
        if let Some(exec) = self.execs.get_mut(&key) {
            exec.follower = None;
            exec.background = true;
            self.pump_exec(key);
        }
    }

    /// A deadline or the patience with a dying tree is over.
    pub(super) fn exec_due(&mut self, key: u64, now: u64) {
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

    pub(super) fn attach(&mut self, to: (u64, u32), request: &AttachRequest) {
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
        let begin = exec.rings.each_ref().map(Ring::start);
        let old = exec.follower.replace(Follower {
            to,
            replay: request.replay,
            sent: begin,
            stdin: request.stdin,
        });
        let lost = Lost {
            stdout: if request.replay { begin[0] } else { 0 },
            stderr: if request.replay { begin[1] } else { 0 },
        };
        let pid = exec.pid;
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
        if pid != 0 {
            self.send(to, Kind::Started, &message::encode(&Started { pid }));
        }
        if lost.stdout + lost.stderr > 0 {
            self.send(to, Kind::Lost, &message::encode(&lost));
        }
        self.pump_exec(key);
    }

    /// Ends the stream of a host that follows a command which ended before.
    fn retell_end(&mut self, key: u64) {
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

    fn find_exec(&self, id: &str) -> Option<u64> {
        self.execs
            .iter()
            .find(|(_, exec)| exec.id == id)
            .map(|(key, _)| *key)
    }

    pub(super) fn signal(&mut self, to: (u64, u32), request: &SignalRequest) {
        let Some(key) = self.find_exec(&request.exec) else {
            return self.fail(to, &no_exec(&request.exec));
        };
        if !(1..=64).contains(&request.signal) {
            return self.fail(
                to,
                &failure(
                    FailureKind::Invalid,
                    format!("signal {} is not in 1 to 64", request.signal),
                ),
            );
        }
        let token = self.key();
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        let Some(channel) = &exec.channel else {
            return self.answer_signal(to, libc::ESRCH);
        };
        let group = match (&exec.sources[0], exec.tty, request.scope) {
            (Some(master), true, Scope::Group) => sys::foreground_group(master.as_fd()),
            _ => None,
        };
        let sent = order(
            channel,
            Order::Signal {
                signal: i32::from(request.signal),
                scope: request.scope,
                group: group.unwrap_or(0),
                token,
            },
        );
        if !sent {
            return self.answer_signal(to, libc::EAGAIN);
        }
        exec.answers.push((token, to));
    }

    pub(super) fn resize(&mut self, to: (u64, u32), request: &ResizeRequest) {
        let Some(key) = self.find_exec(&request.exec) else {
            return self.fail(to, &no_exec(&request.exec));
        };
        let Some(exec) = self.execs.get(&key) else {
            return;
        };
        let result = match &exec.sources[0] {
            _ if !exec.tty => Err(failure(FailureKind::Invalid, "the command has no terminal")),
            None => Err(no_exec(&request.exec)),
            Some(master) => rustix::termios::tcsetwinsize(master, window(request.size))
                .map_err(|error| system("size of the terminal", &error.into())),
        };
        match result {
            Ok(()) => self.finish(to, Kind::Done, &[]),
            Err(failure) => self.fail(to, &failure),
        }
    }

    pub(super) fn list_execs(&mut self, to: (u64, u32)) {
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

    pub(super) fn exec_input(&mut self, key: u64, bytes: &[u8]) {
        if let Some(exec) = self.execs.get_mut(&key) {
            if exec.follower.is_some_and(|follower| follower.stdin) {
                exec.sink.push(bytes);
            }
            self.feed_exec(key);
        }
    }

    pub(super) fn exec_input_end(&mut self, key: u64) {
        if let Some(exec) = self.execs.get_mut(&key) {
            if !exec.follower.is_some_and(|follower| follower.stdin) {
                return;
            }
            match &exec.sources[0] {
                Some(master) if exec.tty => {
                    let modes = rustix::termios::tcgetattr(master);
                    let end = modes.map_or(4, |modes| {
                        modes.special_codes[rustix::termios::SpecialCodeIndex::VEOF]
                    });
                    exec.sink.push(&[end]);
                }
                _ => exec.sink.end(),
            }
            self.feed_exec(key);
        }
    }

    /// Writes to the command's standard input what it takes.
    pub(super) fn feed_exec(&mut self, key: u64) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        if exec.pid == 0 {
            return;
        }
        let to = if exec.tty {
            exec.sources[0].as_ref()
        } else {
            exec.stdin.as_ref()
        };
        match exec.sink.write(to.map(|fd| fd.as_fd())) {
            Written::Finished | Written::Broken if !exec.tty => {
                if let Some(stdin) = exec.stdin.take() {
                    self.interests.forget(key, Role::Input, stdin.as_fd());
                }
            }
            _ => {}
        }
        let pending = exec.sink.has_pending();
        if exec.tty {
            // One descriptor serves both ways: pumping sets both interests.
            if pending {
                self.pump_exec(key);
            }
        } else if let Some(stdin) = &exec.stdin {
            self.interests
                .set(key, Role::Input, stdin.as_fd(), false, pending);
        }
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        if let (Some(follower), Some(bytes)) = (exec.follower, exec.sink.credit()) {
            self.give_credit(follower.to, bytes);
        }
    }

    /// Lets the host send more on a stream.
    pub(super) fn give_credit(&mut self, to: (u64, u32), bytes: u32) {
        let Some(connection) = self.connections.get_mut(&to.0) else {
            return;
        };
        if let Some(stream) = connection.streams.get_mut(&to.1) {
            stream.receive += u64::from(bytes);
            connection.frame(to.1, Kind::Credit, &message::encode(&Credit { bytes }));
        }
    }
}

fn order(channel: &OwnedFd, order: Order) -> bool {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::net::send(channel, &order.encode(), flags).is_ok();
    if !sent && order == Order::Kill {
        // The end of the channel says the same.
        let _ = rustix::net::shutdown(channel, rustix::net::Shutdown::Write);
    }
    sent
}

fn no_exec(id: &str) -> Failure {
    about(
        FailureKind::NotFound,
        "no command of this id runs or is remembered",
        id.as_bytes(),
    )
}

fn window(size: Size) -> rustix::termios::Winsize {
    rustix::termios::Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Both ends of a command's standard streams.
struct Stdio {
    child: [OwnedFd; 3],
    sources: [Option<OwnedFd>; 2],
    stdin: Option<OwnedFd>,
}

fn pipes(stdin: Stdin) -> Result<Stdio, Errno> {
    use rustix::fs::{Mode, OFlags};
    let output = || -> Result<(OwnedFd, OwnedFd), Errno> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        // A user over its limit of pipe memory gets a smaller pipe.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok((above(read)?, above(write)?))
    };
    let (out, out_child) = output()?;
    let (err, err_child) = output()?;
    let (stdin, stdin_child) = match stdin {
        Stdin::Null => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
            (None, above(null)?)
        }
        Stdin::Stream => {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&write, true)?;
            (Some(above(write)?), above(read)?)
        }
    };
    Ok(Stdio {
        child: [stdin_child, out_child, err_child],
        sources: [Some(out), Some(err)],
        stdin,
    })
}

fn terminal(size: Size) -> Result<Stdio, Errno> {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, openpt, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags).or_else(|_| {
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(name, flags, Mode::empty())
    })?;
    rustix::termios::tcsetwinsize(&master, window(size))?;
    rustix::io::ioctl_fionbio(&master, true)?;
    let peer = above(peer)?;
    let copy = || rustix::io::fcntl_dupfd_cloexec(&peer, 3);
    Ok(Stdio {
        child: [copy()?, copy()?, copy()?],
        sources: [Some(above(master)?), None],
        stdin: None,
    })
}

/// Moves a descriptor out of the way of 0, 1 and 2.
fn above(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd as _;
    if fd.as_raw_fd() > 2 {
        Ok(fd)
    } else {
        rustix::io::fcntl_dupfd_cloexec(&fd, 3)
    }
}
