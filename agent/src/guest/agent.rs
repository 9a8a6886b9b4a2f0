//! The loop of PID 1: one thread, one `epoll`, nothing that blocks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{Timespec, epoll, poll};
use rustix::net::AddressFamily;

use super::clock::{Timer, now_ms};
use super::connection::{Connection, HIGH, Target};
use super::control;
use super::exec::Exec;
use super::exec::spare::Spares;
use super::handshake;
use super::kernel;
use super::port::{Listener, Socket};
use super::reserve::Reserve;
use super::sys::{self, Reaped};
use super::worker::Worker;
use crate::protocol::control::ControlMessage;
use crate::protocol::message::{self, AgentConfig, Failure};
use crate::protocol::{Kind, SILENCE_SECONDS};

/// Milliseconds that a connection has for its handshake.
const HANDSHAKE_MS: u64 = 5000;
/// Keyed connections that may be in their handshake at once.
const MAX_STRANGERS: usize = 16;
/// Connections at once.
const MAX_CONNECTIONS: usize = 256;
/// Milliseconds that processes have to go when the sandbox ends.
const END_MS: u64 = 5000;
/// Bits of a token that say which descriptor of a thing it is.
const ROLE_BITS: u32 = 4;

/// Which descriptor an event is about. The rest of a token is the thing's key;
/// keys are not reused, so a late event finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Role {
    Connection = 0,
    Channel = 1,
    Output = 2,
    ErrorOutput = 3,
    Input = 4,
    Reply = 5,
    WorkerOutput = 6,
    WorkerInput = 7,
    Socket = 8,
    Listener = 9,
    Signals = 10,
    Control = 11,
    Hosts = 12,
    Timer = 13,
    WayBack = 14,
}

const ROLES: [Role; 15] = [
    Role::Connection,
    Role::Channel,
    Role::Output,
    Role::ErrorOutput,
    Role::Input,
    Role::Reply,
    Role::WorkerOutput,
    Role::WorkerInput,
    Role::Socket,
    Role::Listener,
    Role::Signals,
    Role::Control,
    Role::Hosts,
    Role::Timer,
    Role::WayBack,
];

/// The registered interests, so that the kernel hears of changes alone.
#[derive(Debug)]
pub(super) struct Interests {
    epoll: OwnedFd,
    known: BTreeMap<u64, epoll::EventFlags>,
}

fn token(key: u64, role: Role) -> u64 {
    key << ROLE_BITS | role as u64
}

impl Interests {
    /// Says what the loop wants to hear of a descriptor; nothing removes it.
    pub(super) fn set(
        &mut self,
        key: u64,
        role: Role,
        fd: BorrowedFd<'_>,
        read: bool,
        write: bool,
    ) {
        let token = token(key, role);
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, read);
        flags.set(epoll::EventFlags::OUT, write);
        let data = epoll::EventData::new_u64(token);
        match (self.known.get(&token), flags.is_empty()) {
            (None, true) => {}
            (Some(old), _) if *old == flags => {}
            (Some(_), true) => {
                let _ = epoll::delete(&self.epoll, fd);
                self.known.remove(&token);
            }
            (Some(_), false) => {
                let _ = epoll::modify(&self.epoll, fd, data, flags);
                self.known.insert(token, flags);
            }
            (None, false) => {
                if epoll::add(&self.epoll, fd, data, flags).is_ok() {
                    self.known.insert(token, flags);
                }
            }
        }
    }

    /// Wants to hear of a terminal that no process has open, once something of it
    /// changes: until then it would be told as hung up without end.
    pub(super) fn set_quiet(&mut self, key: u64, role: Role, fd: BorrowedFd<'_>) {
        let token = token(key, role);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(token);
        let done = match self.known.get(&token) {
            Some(old) if *old == flags => return,
            Some(_) => epoll::modify(&self.epoll, fd, data, flags),
            None => epoll::add(&self.epoll, fd, data, flags),
        };
        if done.is_ok() {
            self.known.insert(token, flags);
        }
    }

    /// Says what the loop wants to hear of a host.
    fn set_connection(&mut self, key: u64, connection: &Connection, read: bool, write: bool) {
        let there = connection.fd.as_fd();
        match &connection.back {
            Some(back) => {
                self.set(key, Role::Connection, there, read, false);
                self.set(key, Role::WayBack, back.as_fd(), false, write);
            }
            None => self.set(key, Role::Connection, there, read, write),
        }
    }

    /// Forgets a descriptor, which must still be open: a forked child may keep it alive.
    pub(super) fn forget(&mut self, key: u64, role: Role, fd: BorrowedFd<'_>) {
        self.set(key, role, fd, false, false);
    }
}

/// Everything that PID 1 knows.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) config: AgentConfig,
    pub(super) interests: Interests,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) execs: BTreeMap<u64, Exec>,
    /// Commands whose trees are to be killed, the first one first.
    pub(super) to_kill: VecDeque<u64>,
    pub(super) spares: Spares,
    pub(super) workers: BTreeMap<u64, Worker>,
    pub(super) queue: VecDeque<u64>,
    /// Workers and supervisors that nobody needs, whose ends are not collected yet.
    pub(super) leaving: BTreeSet<i32>,
    pub(super) sockets: BTreeMap<u64, Socket>,
    pub(super) listeners: BTreeMap<u64, Listener>,
    pub(super) counter: Option<OwnedFd>,
    /// The files through which commands enter their cgroups.
    pub(super) commands: Vec<OwnedFd>,
    /// Memory for workers, where the sandbox sees its limit.
    pub(super) reserve: Option<Reserve>,
    /// Where what it forks has no right to yield to it.
    pub(super) score: Option<sys::OwnScore>,
    pub(super) scratch: Vec<u8>,
    pub(super) deadline: Option<u64>,
    pub(super) control: Option<OwnedFd>,
    /// What the helper was told last of the sandbox's use.
    told_use: bool,
    /// Why the loop is about to end.
    pub(super) ending: Option<String>,
    /// Connections to close after the events at hand.
    pub(super) dead: Vec<u64>,
    hosts: Option<OwnedFd>,
    signals: OwnedFd,
    timer: Timer,
    next_key: u64,
}

impl Agent {
    pub(super) fn new(
        config: AgentConfig,
        signals: OwnedFd,
        control: Option<OwnedFd>,
        hosts: Option<OwnedFd>,
        counter: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let mut interests = Interests {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            known: BTreeMap::new(),
        };
        let timer = Timer::new()?;
        interests.set(0, Role::Signals, signals.as_fd(), true, false);
        interests.set(0, Role::Timer, timer.fd.as_fd(), true, false);
        if let Some(control) = &control {
            interests.set(0, Role::Control, control.as_fd(), true, false);
            let _ = control::tell(control, &ControlMessage::Ready {});
            fault_point!("agent.ready");
        }
        if let Some(hosts) = &hosts {
            interests.set(0, Role::Hosts, hosts.as_fd(), true, false);
        }
        let deadline = config.deadline_ms.map(|wait| now_ms().saturating_add(wait));
        let spares = if config.waits == Some(true) {
            Spares::of_one_that_waits()
        } else if kernel::is_gvisor() {
            Spares::of_one_in_gvisor()
        } else {
            Spares::default()
        };
        Ok(Self {
            config,
            interests,
            connections: BTreeMap::new(),
            execs: BTreeMap::new(),
            to_kill: VecDeque::new(),
            spares,
            workers: BTreeMap::new(),
            queue: VecDeque::new(),
            leaving: BTreeSet::new(),
            sockets: BTreeMap::new(),
            listeners: BTreeMap::new(),
            counter,
            commands: Vec::new(),
            reserve: Reserve::of(Path::new("/sys/fs/cgroup")),
            score: None,
            scratch: Vec::new(),
            deadline,
            control,
            told_use: false,
            ending: None,
            dead: Vec::new(),
            hosts,
            signals,
            timer,
            next_key: 0,
        })
    }

    pub(super) fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// Serves until the sandbox is to end, then ends what runs.
    pub(super) fn run(&mut self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        while self.ending.is_none() {
            self.after_events();
            self.tell_use();
            if self.ending.is_some() {
                break;
            }
            self.start_spares();
            let next = self.next_moment();
            self.timer.arm(next);
            events.clear();
            if epoll::wait(
                &self.interests.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            )
            .is_err()
            {
                continue;
            }
            for event in &events {
                let data = event.data.u64();
                let role = usize::try_from(data & ((1 << ROLE_BITS) - 1)).unwrap_or(0);
                if let Some(role) = ROLES.get(role) {
                    self.on_event(data >> ROLE_BITS, *role);
                }
            }
        }
        self.end();
    }

    /// Tells the helper when the sandbox begins or ceases to be in use. A word
    /// that it does not take is said again after the next event.
    fn tell_use(&mut self) {
        let (Some(_), Some(control)) = (self.config.idle_ms, &self.control) else {
            return;
        };
        let in_use = self.execs.values().any(Exec::has_processes)
            || self.workers.values().any(Worker::is_use)
            || !self.sockets.is_empty();
        if in_use != self.told_use && control::tell(control, &ControlMessage::Use { in_use }) {
            self.told_use = in_use;
        }
    }

    fn on_event(&mut self, key: u64, role: Role) {
        match role {
            // What waits for its way back is written after each event.
            Role::Connection | Role::WayBack => self.on_connection(key),
            Role::Channel => self.on_channel(key),
            Role::Output | Role::ErrorOutput => {
                self.feed_exec(key);
                self.pump_exec(key);
            }
            Role::Input => self.feed_exec(key),
            Role::Reply | Role::WorkerOutput => self.pump_worker(key),
            Role::WorkerInput => self.feed_worker(key),
            Role::Socket => self.on_socket(key),
            Role::Listener => self.on_listener(key),
            Role::Signals => self.on_signals(),
            Role::Control => self.on_control(),
            Role::Hosts => self.on_hosts(),
            Role::Timer => {
                self.timer.fired();
                self.on_time();
            }
        }
    }

    fn on_signals(&mut self) {
        while let Some((signal, sender)) = sys::next_signal(self.signals.as_fd()) {
            // To PID 1 a sender of the same sandbox has a number, one outside has none.
            let asks = [libc::SIGTERM, libc::SIGINT].contains(&signal);
            if asks && (sender == 0 || std::process::id() != 1) {
                self.ending = Some("asked to end".to_owned());
            }
        }
        while let Reaped::Child(pid, _) = sys::reap() {
            self.collected(pid);
        }
        // What has ended holds its place until here.
        self.start_queued();
    }

    fn on_control(&mut self) {
        loop {
            let Some(control) = &self.control else { return };
            match control::receive(control, false) {
                Ok(Some((ControlMessage::Connection {}, fds))) => {
                    for fd in fds {
                        self.welcome(fd, false);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => {
                    self.ending = Some("the helper is gone".to_owned());
                    return;
                }
            }
        }
    }

    fn on_hosts(&mut self) {
        loop {
            let Some(hosts) = &self.hosts else { return };
            let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
            match rustix::net::accept_with(hosts, flags) {
                Ok(fd) => {
                    let strangers = self.connections.values().filter(|c| !c.accepted).count();
                    if strangers < MAX_STRANGERS {
                        self.welcome(fd, true);
                    }
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    /// Takes a connection in and says hello.
    fn welcome(&mut self, fd: OwnedFd, keyed: bool) {
        let is_unix = rustix::net::getsockname(&fd)
            .is_ok_and(|name| name.address_family() == AddressFamily::UNIX);
        if self.connections.len() >= MAX_CONNECTIONS
            || !is_unix
            || rustix::io::ioctl_fionbio(&fd, true).is_err()
        {
            return;
        }
        self.greet(fd, None, keyed);
    }

    /// Takes in whoever made the sandbox, by the two pipes that it has at hand.
    pub(super) fn welcome_maker(&mut self, there: OwnedFd, back: OwnedFd) {
        if [&there, &back]
            .iter()
            .all(|pipe| rustix::io::ioctl_fionbio(pipe, true).is_ok())
        {
            self.greet(there, Some(back), true);
        }
    }

    fn greet(&mut self, fd: OwnedFd, back: Option<OwnedFd>, keyed: bool) {
        fault_point!("agent.connection");
        let hello = handshake::hello(keyed);
        let key = self.key();
        let mut connection = Connection::new(fd, hello.nonce.clone(), keyed, now_ms());
        connection.back = back;
        connection.frame(0, Kind::Hello, &message::encode(&hello));
        self.interests.set_connection(key, &connection, true, false);
        self.connections.insert(key, connection);
    }

    /// Queues a frame on a connection that may be gone.
    pub(super) fn send(&mut self, to: (u64, u32), kind: Kind, payload: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&to.0) {
            connection.frame(to.1, kind, payload);
        }
    }

    /// Queues the last frame of a stream and forgets the stream.
    pub(super) fn finish(&mut self, to: (u64, u32), kind: Kind, payload: &[u8]) {
        self.send(to, kind, payload);
        if let Some(connection) = self.connections.get_mut(&to.0) {
            connection.streams.remove(&to.1);
        }
    }

    pub(super) fn fail(&mut self, to: (u64, u32), failure: &Failure) {
        self.finish(to, Kind::Failure, &message::encode(failure));
    }

    /// Closes connections, and what they were for.
    pub(super) fn close(&mut self, key: u64) {
        let Some(connection) = self.connections.remove(&key) else {
            return;
        };
        self.interests
            .set_connection(key, &connection, false, false);
        fault_point!("agent.connection-lost");
        for (number, stream) in connection.streams {
            match stream.target {
                Target::Exec(exec) => self.exec_lost(exec, (key, number)),
                Target::Log(exec) => self.drop_reader(exec, (key, number)),
                Target::Worker(worker) => self.cancel_worker(worker),
                Target::Socket(socket) => self.drop_socket(socket),
                Target::Listener(listener) => self.drop_listener(listener),
                Target::Answer => {}
            }
        }
    }

    /// Writes what waits, wakes sources that may go on, closes what is dead.
    fn after_events(&mut self) {
        let keys: Vec<u64> = self.connections.keys().copied().collect();
        for key in keys {
            while let Some(connection) = self.connections.get_mut(&key) {
                if !connection.flush() || (connection.closing && connection.waiting() == 0) {
                    self.dead.push(key);
                    break;
                }
                if connection.waiting() >= HIGH {
                    connection.over = true;
                }
                if !connection.over || connection.waiting() >= HIGH / 2 {
                    break;
                }
                connection.over = false;
                let targets: Vec<Target> = connection
                    .streams
                    .values()
                    .map(|stream| stream.target)
                    .collect();
                for target in targets {
                    self.pump(target);
                }
            }
            if let Some(connection) = self.connections.get(&key) {
                // A host that does not read its answers is not heard further.
                let read = !connection.closing && connection.waiting() < 2 * HIGH;
                let write = connection.waiting() > 0;
                self.interests.set_connection(key, connection, read, write);
            }
        }
        while let Some(key) = self.dead.pop() {
            self.close(key);
        }
    }

    /// Moves data of one stream as far as credit and buffers allow.
    pub(super) fn pump(&mut self, target: Target) {
        match target {
            Target::Exec(key) => self.pump_exec(key),
            Target::Log(key) => self.pump_logs(key),
            Target::Worker(key) => self.pump_worker(key),
            Target::Socket(key) => self.pump_socket(key),
            Target::Listener(_) | Target::Answer => {}
        }
    }

    fn next_moment(&self) -> Option<u64> {
        let connections = self
            .connections
            .values()
            .filter(|connection| !connection.accepted || connection.keyed)
            .map(|connection| connection.heard_ms + patience(connection));
        let execs = self
            .execs
            .values()
            .flat_map(|exec| [exec.deadline, exec.kill_by])
            .flatten();
        let own = [self.deadline, self.spares.until()].into_iter().flatten();
        connections.chain(execs).chain(own).min()
    }

    fn on_time(&mut self) {
        let now = now_ms();
        if self.deadline.is_some_and(|at| at <= now) {
            self.ending = Some("its deadline passed".to_owned());
        }
        if self.spares.until().is_some_and(|at| at <= now) {
            self.dismiss_spares();
        }
        let silent = self.connections.iter().filter(|(_, connection)| {
            (!connection.accepted || connection.keyed)
                && connection.heard_ms + patience(connection) <= now
        });
        self.dead.extend(silent.map(|(key, _)| *key));
        let due: Vec<u64> = self
            .execs
            .iter()
            .filter(|(_, exec)| {
                [exec.deadline, exec.kill_by]
                    .iter()
                    .flatten()
                    .any(|at| *at <= now)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            self.exec_due(key, now);
        }
    }

    /// Ends everything that runs. As PID 1 that is the kernel's work.
    fn end(&mut self) {
        for connection in self.connections.values_mut() {
            let _ = connection.flush();
        }
        if let (Some(control), Some(reason)) = (&self.control, &self.ending) {
            control::tell(
                control,
                &ControlMessage::EndSandbox {
                    reason: reason.clone(),
                },
            );
        }
        if std::process::id() == 1 {
            return;
        }
        for worker in self.workers.values() {
            worker.kill();
        }
        // A supervisor whose channel closes kills its tree.
        self.execs.clear();
        self.dismiss_spares();
        let by = now_ms() + END_MS;
        while now_ms() < by && sys::reap() != Reaped::NoChildren {
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: 2_000_000,
            };
            let _ = poll(&mut [], Some(&pause));
        }
    }
}

fn patience(connection: &Connection) -> u64 {
    if connection.accepted {
        SILENCE_SECONDS * 1000
    } else {
        HANDSHAKE_MS
    }
}
