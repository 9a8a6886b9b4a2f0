//! Work that may block, done in a process of its own: file operations with
//! the rights of their user, and reports on the process table.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::agent::{Agent, Role};
use super::connection::{Connection, HIGH, Target};
use super::failure::{failure, system};
use super::files::{self, FileTask};
use super::sink::{Sink, Written};
use super::sys::{self, Fork};
use super::{launch, process};
use crate::protocol::message::{self, AgentConfig, Failure, FailureKind, ProcessList};
use crate::protocol::{Kind, MAX_PAYLOAD};

/// Workers at once; further requests wait.
const MAX_WORKERS: usize = 64;
/// How many of them may be for streams, which last as long as a host wants; the
/// rest is for what is done at once.
const MAX_STREAMS: usize = 48;
/// How many streams may go one way, out or in: of a crowd that reads from a sandbox what it
/// writes there, those that write wait for those that read, and find places.
const MAX_ONE_WAY: usize = 40;
/// Watches at once, which end only when a host ends them; more are refused.
const MAX_WATCHES: usize = 32;
/// Bytes of kind and length before each reply of a worker.
const REPLY_HEADER: usize = 5;
/// Replies read at once.
const REPLY_CHUNK: usize = 64 * 1024;
/// Bytes of a pipe for data.
const PIPE_BYTES: usize = 1024 * 1024;
/// Reads from one worker in a row.
const ROUNDS: usize = 4;

/// What a worker does.
pub(super) enum Job {
    File(FileTask),
    Processes,
    Usage,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File",
            Self::Processes => "Processes",
            Self::Usage => "Usage",
        })
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    /// 0 while it waits for its turn.
    pub(super) pid: i32,
    /// Its end was collected, so the number may be another's.
    collected: bool,
    to: (u64, u32),
    kind: Kind,
    job: Option<Job>,
    reply: Option<OwnedFd>,
    replies: Vec<u8>,
    output: Option<OwnedFd>,
    input: Option<OwnedFd>,
    sink: Sink,
    /// The last reply, until all data before it is sent.
    held: Option<(Kind, Vec<u8>)>,
    replied: bool,
    told: bool,
}

impl Worker {
    fn is_stream(&self) -> bool {
        use Kind::{ExportTar, ImportTar, ReadFile, Watch, WriteFile};
        matches!(
            self.kind,
            ReadFile | WriteFile | ExportTar | ImportTar | Watch
        )
    }

    /// Whether it takes data in, and gives none out.
    fn takes_in(&self) -> bool {
        matches!(self.kind, Kind::WriteFile | Kind::ImportTar)
    }

    /// Whether it uses the sandbox, and does not only look at it.
    pub(super) fn is_use(&self) -> bool {
        !matches!(self.kind, Kind::Processes | Kind::Usage)
    }

    pub(super) fn kill(&self) {
        if self.pid > 1 && !self.collected {
            let _ = sys::kill(self.pid, libc::SIGKILL);
        }
    }

    /// Whether a reply is the last frame of the stream.
    fn is_last(&self, kind: Kind) -> bool {
        match kind {
            Kind::Failure | Kind::ProcessList | Kind::UsageReport => true,
            Kind::Done => self.kind != Kind::Watch,
            Kind::Entry => matches!(self.kind, Kind::File | Kind::WriteFile),
            _ => false,
        }
    }

    /// Passes on the replies that are whole; false when the next one waits for
    /// credit. Nothing more is read then, so the worker is slowed, too.
    fn relay(&mut self, connection: &mut Connection) -> bool {
        let mut start = 0;
        let mut starved = false;
        while let Some((kind, payload)) = next_reply(&self.replies[start..]) {
            if self.told || self.held.is_some() {
                break;
            }
            if kind.is_counted() && !connection.covers(self.to.1, payload.len()) {
                starved = true;
                break;
            }
            start += REPLY_HEADER + payload.len();
            self.replied = true;
            if kind.is_counted() {
                connection.data(self.to.1, kind, payload);
            } else if !self.is_last(kind) {
                connection.frame(self.to.1, kind, payload);
            } else if self.output.is_some() {
                self.held = Some((kind, payload.to_vec()));
            } else {
                connection.frame(self.to.1, kind, payload);
                connection.streams.remove(&self.to.1);
                self.told = true;
            }
        }
        self.replies.drain(..start);
        !starved
    }
}

impl Agent {
    pub(super) fn start_worker(&mut self, to: (u64, u32), kind: Kind, job: Job) {
        fault_point!("agent.file.asked");
        let watches = |worker: &&Worker| worker.kind == Kind::Watch;
        if kind == Kind::Watch && self.workers.values().filter(watches).count() >= MAX_WATCHES {
            let message = format!(
                "{MAX_WATCHES} watches are open in this sandbox, and it has places for no more; end one"
            );
            self.fail(to, &failure(FailureKind::Exhausted, message));
            return;
        }
        let key = self.key();
        if let Some(connection) = self.connections.get_mut(&to.0)
            && let Some(stream) = connection.streams.get_mut(&to.1)
        {
            stream.target = Target::Worker(key);
        }
        self.workers.insert(
            key,
            Worker {
                pid: 0,
                collected: false,
                to,
                kind,
                job: Some(job),
                reply: None,
                replies: Vec::new(),
                output: None,
                input: None,
                sink: Sink::default(),
                held: None,
                replied: false,
                told: false,
            },
        );
        self.queue.push_back(key);
        self.start_queued();
    }

    pub(super) fn start_queued(&mut self) {
        while self
            .workers
            .values()
            .filter(|worker| worker.pid != 0)
            .count()
            < MAX_WORKERS
        {
            let Some(key) = self.next_queued() else {
                return;
            };
            match self.fork_worker(key) {
                Ok(true) => {}
                // One that runs now leaves its place, and then this is tried again.
                Ok(false) => {
                    self.queue.push_front(key);
                    return;
                }
                Err(failure) => {
                    if let Some(worker) = self.workers.remove(&key) {
                        self.fail(worker.to, &failure);
                    }
                }
            }
        }
    }

    /// The first request in the queue that may start now.
    fn next_queued(&mut self) -> Option<u64> {
        let running = self.workers.values().filter(|worker| worker.pid != 0);
        let (mut streams, mut ins) = (0, 0);
        for worker in running.filter(|worker| worker.is_stream()) {
            streams += 1;
            ins += usize::from(worker.takes_in());
        }
        let has_place = |worker: &Worker| {
            let same_way = if worker.takes_in() {
                ins
            } else {
                streams - ins
            };
            !worker.is_stream() || (streams < MAX_STREAMS && same_way < MAX_ONE_WAY)
        };
        let mut queue = self.queue.iter();
        let at = queue.position(|key| self.workers.get(key).is_none_or(has_place))?;
        self.queue.remove(at)
    }

    /// False where there is no place for one more process until a worker that
    /// has one is gone.
    fn fork_worker(&mut self, key: u64) -> Result<bool, Failure> {
        let call = |error: Errno| system("pipe of a worker", &error.into());
        let supervisors: BTreeMap<i32, String> = self
            .execs
            .values()
            .map(|exec| (exec.supervisor, exec.id.clone()))
            .collect();
        let workers = self.workers.values().map(|worker| worker.pid);
        let others: BTreeSet<i32> = workers
            .chain(self.spares.pids())
            .chain(self.leaving.iter().copied())
            .collect();
        let busy = others.iter().any(|pid| *pid != 0);
        let Some(worker) = self.workers.get_mut(&key) else {
            return Ok(true);
        };
        let Some(job) = worker.job.take() else {
            return Ok(true);
        };
        let (reply, reply_end) = pipe_with(PipeFlags::CLOEXEC).map_err(call)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(call)?;
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
        let sends = matches!(job, Job::File(FileTask::Read(_) | FileTask::Export(_)));
        let (own, data) = if sends { (read, write) } else { (write, read) };
        rustix::io::ioctl_fionbio(&reply, true).map_err(call)?;
        rustix::io::ioctl_fionbio(&own, true).map_err(call)?;
        let agent = i32::try_from(std::process::id()).unwrap_or(0);
        if let Some(reserve) = &mut self.reserve {
            reserve.adjust();
        }
        let forked = match sys::fork_before(self.score.as_ref()) {
            Err(error) if busy && error.raw_os_error() == Some(libc::EAGAIN) => {
                worker.job = Some(job);
                self.dismiss_spares();
                return Ok(false);
            }
            forked => forked.map_err(|error| system("fork", &error))?,
        };
        match forked {
            Fork::Child => {
                let mut keep = [reply_end.as_raw_fd(), data.as_raw_fd()];
                sys::close_all_but(&mut keep);
                if self.commands.is_empty() {
                    // As a supervisor does: the agent is to outlive it.
                    sys::yield_memory();
                }
                let mut reply_end = std::fs::File::from(reply_end);
                let mut reply = |kind: Kind, payload: &[u8]| {
                    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                    let header = [&[kind as u8][..], &length.to_le_bytes()].concat();
                    // Without the agent there is nobody to answer.
                    if reply_end
                        .write_all(&header)
                        .and_then(|()| reply_end.write_all(payload))
                        .is_err()
                    {
                        sys::exit_now(1);
                    }
                };
                match job {
                    Job::File(task) => match become_user(&self.config, task.user()) {
                        Ok(()) => files::run(&task, data.as_fd(), &mut reply),
                        Err(failure) => reply(Kind::Failure, &message::encode(&failure)),
                    },
                    Job::Processes => {
                        let processes = process::list(agent, &supervisors, &others);
                        reply(
                            Kind::ProcessList,
                            &message::encode(&ProcessList { processes }),
                        );
                    }
                    Job::Usage => {
                        let usage = process::usage(agent, &supervisors, &others);
                        reply(Kind::UsageReport, &message::encode(&usage));
                    }
                }
                sys::exit_now(0)
            }
            Fork::Parent(pid) => {
                worker.pid = pid;
                self.interests
                    .set(key, Role::Reply, reply.as_fd(), true, false);
                worker.reply = Some(reply);
                if sends {
                    worker.output = Some(own);
                } else {
                    worker.input = Some(own);
                }
            }
        }
        self.feed_worker(key);
        self.pump_worker(key);
        Ok(true)
    }

    /// Relays replies and data as far as credit and buffers allow.
    pub(super) fn pump_worker(&mut self, key: u64) {
        let Self {
            workers,
            connections,
            interests,
            ..
        } = self;
        let Some(worker) = workers.get_mut(&key) else {
            return;
        };
        if worker.pid == 0 {
            return;
        }
        let Some(connection) = connections.get_mut(&worker.to.0) else {
            return self.drop_worker(key);
        };
        let mut starved = false;
        for round in 0..=ROUNDS {
            starved = !worker.relay(connection);
            let Some(reply) = &worker.reply else { break };
            if starved || round == ROUNDS || connection.waiting() >= HIGH {
                break;
            }
            let old = worker.replies.len();
            worker.replies.resize(old + REPLY_CHUNK, 0);
            let result = rustix::io::read(reply, &mut worker.replies[old..]);
            worker.replies.truncate(old + result.unwrap_or(0));
            match result {
                Ok(count) if count > 0 => {}
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Ok(_) | Err(_) => {
                    interests.forget(key, Role::Reply, reply.as_fd());
                    worker.reply = None;
                }
            }
        }
        let mut wants_data = false;
        // A file is described before its bytes.
        let may_send = worker.replied || worker.kind != Kind::ReadFile || worker.reply.is_none();
        for _ in 0..ROUNDS {
            wants_data = false;
            let Some(output) = &worker.output else { break };
            let room = connection.room(worker.to.1);
            if !may_send || room == 0 {
                break;
            }
            wants_data = true;
            match connection.data_from(worker.to.1, Kind::Data, output.as_fd(), room) {
                Ok(count) if count > 0 => {
                    connection.flush();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Ok(_) | Err(_) => {
                    interests.forget(key, Role::WorkerOutput, output.as_fd());
                    worker.output = None;
                }
            }
        }
        if let Some(output) = &worker.output {
            interests.set(key, Role::WorkerOutput, output.as_fd(), wants_data, false);
        }
        if let Some(reply) = &worker.reply {
            let full = connection.waiting() >= HIGH;
            interests.set(key, Role::Reply, reply.as_fd(), !full && !starved, false);
            if full {
                connection.over = true;
            }
        }
        if worker.output.is_none()
            && let Some((kind, payload)) = worker.held.take()
        {
            connection.frame(worker.to.1, kind, &payload);
            connection.streams.remove(&worker.to.1);
            worker.told = true;
        }
        if worker.reply.is_none() && (worker.output.is_none() || worker.told) {
            let (to, told) = (worker.to, worker.told);
            self.drop_worker(key);
            if !told {
                self.fail(
                    to,
                    &failure(FailureKind::Internal, "the worker ended without an answer"),
                );
            }
        }
    }

    pub(super) fn worker_input(&mut self, key: u64, bytes: &[u8]) {
        if let Some(worker) = self.workers.get_mut(&key) {
            let input = worker.input.as_ref().filter(|_| worker.pid != 0);
            worker.sink.pass(bytes, input.map(|fd| fd.as_fd()));
            self.feed_worker(key);
        }
    }

    pub(super) fn worker_input_end(&mut self, key: u64) {
        if let Some(worker) = self.workers.get_mut(&key) {
            worker.sink.end();
            self.feed_worker(key);
        }
    }

    pub(super) fn feed_worker(&mut self, key: u64) {
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        if worker.pid == 0 {
            return;
        }
        let written = worker
            .sink
            .write(worker.input.as_ref().map(|fd| fd.as_fd()));
        if matches!(written, Written::Finished | Written::Broken) {
            if let Some(input) = worker.input.take() {
                self.interests.forget(key, Role::WorkerInput, input.as_fd());
            }
        } else if let Some(input) = &worker.input {
            let pending = worker.sink.has_pending();
            self.interests
                .set(key, Role::WorkerInput, input.as_fd(), false, pending);
        }
        if let Some(bytes) = worker.sink.credit() {
            let to = worker.to;
            self.give_credit(to, bytes);
        }
    }

    /// Ends a worker whose host gave it up.
    pub(super) fn cancel_worker(&mut self, key: u64) {
        if let Some(worker) = self.workers.get(&key) {
            let (to, told) = (worker.to, worker.told);
            self.drop_worker(key);
            if !told {
                self.fail(to, &failure(FailureKind::Cancelled, "cancelled"));
            }
        }
    }

    /// The end of a process was collected.
    pub(super) fn collected(&mut self, pid: i32) {
        self.leaving.remove(&pid);
        self.spares.collected(pid);
        for worker in self.workers.values_mut().filter(|w| w.pid == pid) {
            worker.collected = true;
        }
    }

    fn drop_worker(&mut self, key: u64) {
        let Some(worker) = self.workers.remove(&key) else {
            return;
        };
        if worker.pid > 1 && !worker.collected {
            self.leaving.insert(worker.pid);
        }
        if !worker.told {
            worker.kill();
        }
        let parts = [
            (&worker.reply, Role::Reply),
            (&worker.output, Role::WorkerOutput),
            (&worker.input, Role::WorkerInput),
        ];
        for (fd, role) in parts {
            if let Some(fd) = fd {
                self.interests.forget(key, role, fd.as_fd());
            }
        }
        self.queue.retain(|waiting| *waiting != key);
        self.start_queued();
    }
}

fn next_reply(bytes: &[u8]) -> Option<(Kind, &[u8])> {
    let header = bytes.first_chunk::<REPLY_HEADER>()?;
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    let end = REPLY_HEADER + length.min(MAX_PAYLOAD) as usize;
    let payload = bytes.get(REPLY_HEADER..end)?;
    // A worker has the user's rights but our code; what it cannot say is an error.
    Kind::from_number(header[0]).map(|kind| (kind, payload))
}

fn become_user(config: &AgentConfig, user: Option<&str>) -> Result<(), Failure> {
    let account = launch::account(config, user)?;
    let become_it = || {
        if config.can_switch_user {
            sys::become_user(account.uid, account.gid, &account.groups)
        } else {
            sys::drop_rights()
        }
    };
    become_it().map_err(|error| system("user of the worker", &error))
}
