//! Watching over a sandbox until nothing of it is left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use minicbor::bytes::ByteVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_gettime,
    timerfd_settime,
};

use super::connection::{Connection, Event, MAX_CONNECTIONS, Peer};
use super::fault::{Result, Tried};
use super::state::{State, own_pid};
use crate::helper_protocol::{
    Claim, EndCause, Ended, Failed, FailedKind, FromHelper, InForce, MonitorRequest, Report,
    ToHelper,
};
use crate::packet;
use crate::protocol::control::ControlMessage;

/// Seconds that a launch may take before it counts as failed.
const LAUNCH_SECONDS: i64 = 30;
/// Seconds between two looks at connections that have not said what they want.
const SLUGGISH_SECONDS: i64 = 5;

/// A launched sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) state: State,
    /// To the child, until it has become the agent.
    pub(crate) sync: Option<OwnedFd>,
    pub(crate) control: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) in_force: Vec<InForce>,
    pub(crate) record: ByteVec,
    pub(crate) started_ms: u64,
    pub(crate) ends_in_ms: Option<u64>,
    /// How long it may be without use.
    pub(crate) idle_ms: Option<u64>,
    /// Whether nobody has claimed it yet.
    pub(crate) waits: bool,
}

/// The one loop of the helper.
#[derive(Debug)]
pub(crate) struct Monitor<'a> {
    sandbox: Sandbox,
    owner: Option<BorrowedFd<'a>>,
    /// The process at the other end of the owner's channel, where the kernel tells of
    /// it: one that it forked keeps the channel open after its end.
    owner_process: Option<OwnedFd>,
    signals: BorrowedFd<'a>,
    connections: Vec<Connection>,
    /// How many have been accepted.
    accepted: u64,
    timer: Option<OwnedFd>,
    /// Runs while the sandbox is not in use.
    idle_timer: Option<OwnedFd>,
    in_use: bool,
    attached: Attached,
    /// The process that made the connection which is the owner.
    later_owner: Option<OwnedFd>,
    ready: bool,
    paused: bool,
    buffer: Vec<u8>,
}

/// What the sandbox ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attached {
    /// Nothing.
    No,
    /// The channel of the owner that made it.
    ToChannel,
    /// The connection of this number.
    ToConnection(u64),
}

/// Why the loop ends.
enum End {
    Cause(EndCause),
    Failed(Failed),
}

/// The process that made a channel.
fn process_of(channel: BorrowedFd<'_>) -> Option<OwnedFd> {
    let peer = rustix::net::sockopt::socket_peercred(channel).ok()?;
    rustix::process::pidfd_open(peer.pid, rustix::process::PidfdFlags::empty()).ok()
}

impl<'a> Monitor<'a> {
    pub(crate) fn new(sandbox: Sandbox, owner: BorrowedFd<'a>, signals: BorrowedFd<'a>) -> Self {
        Self {
            sandbox,
            owner: Some(owner),
            owner_process: process_of(owner),
            signals,
            connections: Vec::new(),
            accepted: 0,
            timer: None,
            idle_timer: None,
            in_use: false,
            attached: Attached::ToChannel,
            later_owner: None,
            ready: false,
            paused: false,
            buffer: Vec::new(),
        }
    }

    /// Runs until the sandbox is gone and everybody who waits knows.
    pub(crate) fn run(mut self) -> Result<()> {
        let end = match self.set_deadline(self.sandbox.ends_in_ms) {
            Ok(()) => self.watch(),
            Err(failed) => End::Failed(failed),
        };
        fault_point!("helper.end");
        let left = self.sandbox.state.tear_down();
        match end {
            End::Cause(cause) => {
                let ended = FromHelper::Ended(Ended { cause, left });
                if let Some(owner) = self.owner {
                    // It may be gone, and then nobody waits there.
                    let _ = packet::send(owner, &ended, &[]);
                }
                for connection in &mut self.connections {
                    connection.tell_end(&ended);
                }
                Ok(())
            }
            End::Failed(mut failed) => {
                for what in left {
                    failed.message.push_str("; not removed: ");
                    failed.message.push_str(&what);
                }
                Err(failed)
            }
        }
    }

    fn watch(&mut self) -> End {
        loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(cause)) => return End::Cause(cause),
                Err(failed) => return End::Failed(failed),
            }
        }
    }

    /// Waits for one round of events and handles it.
    fn turn(&mut self) -> Result<Option<EndCause>> {
        let Some(init) = &self.sandbox.state.init else {
            return Ok(Some(EndCause::AgentGone));
        };
        // A descriptor that is not there now is stood in for by the signals'.
        let stand_in = self.signals;
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.signals, PollFlags::IN),
            PollFd::new(&init.pidfd, PollFlags::IN),
            PollFd::new(&self.sandbox.control, PollFlags::IN),
            PollFd::new(&self.sandbox.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(self.owner.unwrap_or(stand_in), PollFlags::IN),
            PollFd::from_borrowed_fd(
                self.sandbox.sync.as_ref().map_or(stand_in, AsFd::as_fd),
                PollFlags::IN,
            ),
            PollFd::from_borrowed_fd(
                self.timer.as_ref().map_or(stand_in, AsFd::as_fd),
                PollFlags::IN,
            ),
            PollFd::from_borrowed_fd(
                self.idle_timer.as_ref().map_or(stand_in, AsFd::as_fd),
                PollFlags::IN,
            ),
            PollFd::from_borrowed_fd(
                self.owner_process.as_ref().map_or(stand_in, AsFd::as_fd),
                PollFlags::IN,
            ),
            PollFd::from_borrowed_fd(
                self.later_owner.as_ref().map_or(stand_in, AsFd::as_fd),
                PollFlags::IN,
            ),
        ];
        let fixed = fds.len();
        for connection in &self.connections {
            fds.push(PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN));
        }
        let timeout = if !self.ready {
            Some(LAUNCH_SECONDS)
        } else if self.connections.iter().any(Connection::is_undecided) {
            Some(SLUGGISH_SECONDS)
        } else {
            None
        };
        let timeout = timeout.map(|tv_sec| Timespec { tv_sec, tv_nsec: 0 });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) if !self.ready => {
                return Err(Failed::new(
                    FailedKind::Internal,
                    format!("the agent did not report within {LAUNCH_SECONDS} s"),
                ));
            }
            Ok(0) => {
                self.connections.retain_mut(|c| !c.is_too_late());
                return Ok(None);
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error).tried("wait for events"),
        }
        let seen: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if seen[0] {
            return Ok(Some(EndCause::HelperStopped));
        }
        // The child's word comes before its end, which follows at once.
        if seen[5] && self.sandbox.sync.is_some() {
            self.hear_child()?;
        }
        if seen[2]
            && let Some(cause) = self.hear_agent()?
        {
            return Ok(Some(cause));
        }
        if seen[1] {
            return self.init_ended().map(Some);
        }
        if seen[6] && self.timer.is_some() {
            return Ok(Some(EndCause::Deadline));
        }
        // It may have been used since the timer was looked at.
        if seen[7] && self.idle_timer.is_some() && has_fired(self.idle_timer.as_ref()) {
            return Ok(Some(EndCause::Idle));
        }
        if seen[4]
            && self.owner.is_some()
            && let Some(cause) = self.hear_owner()
        {
            return Ok(Some(cause));
        }
        // What it said last was heard first.
        if seen[8]
            && !seen[4]
            && self.owner_process.take().is_some()
            && let Some(cause) = self.owner_gone()
        {
            return Ok(Some(cause));
        }
        let gone = (seen[9] && self.later_owner.is_some()).then_some(self.attached);
        let mut cause = None;
        let mut index = fixed;
        let mut connections = std::mem::take(&mut self.connections);
        connections.retain_mut(|connection| {
            let readable = seen.get(index).copied().unwrap_or_default();
            index += 1;
            if !readable {
                return true;
            }
            match connection.read() {
                Event::Wait => true,
                Event::Close => {
                    if self.attached == Attached::ToConnection(connection.number) {
                        cause = Some(EndCause::OwnerGone);
                    }
                    false
                }
                Event::Agent => {
                    fault_point!("helper.connection");
                    self.hand_over(connection.as_fd());
                    // The agent has its own copy.
                    false
                }
                Event::Requests(requests) => {
                    fault_point!("helper.asked");
                    for request in requests {
                        let reply = match request {
                            MonitorRequest::SetAttached { attached } => {
                                Some(self.set_attached(attached.then_some(&*connection)))
                            }
                            other => self.answer(other),
                        };
                        if let Some(reply) = reply {
                            if !connection.send(&reply) {
                                return false;
                            }
                        } else {
                            connection.wants_end();
                            if request == MonitorRequest::Destroy {
                                cause = Some(EndCause::Destroyed);
                            }
                        }
                    }
                    true
                }
            }
        });
        self.connections = connections;
        // Unless what it said last gave the sandbox away.
        if gone == Some(self.attached) {
            cause = Some(EndCause::OwnerGone);
        }
        if seen[3] {
            self.accept();
        }
        Ok(cause)
    }

    /// What the child says before it is the agent: why it failed, or nothing.
    fn hear_child(&mut self) -> Result<()> {
        let Some(sync) = self.sandbox.sync.take() else {
            return Ok(());
        };
        match packet::receive(&sync, &mut self.buffer) {
            // Closed by exec: the agent has begun. Or by death, seen elsewhere.
            Ok(None) => Ok(()),
            Ok(Some((FromHelper::Failed(failed), _))) => Err(failed),
            Ok(Some(_)) | Err(_) => Err(Failed::new(
                FailedKind::Internal,
                "the child sent something else than its end",
            )),
        }
    }

    fn hear_agent(&mut self) -> Result<Option<EndCause>> {
        // Whatever it says is hostile: a packet that is none ends the sandbox.
        let message = packet::receive(&self.sandbox.control, &mut self.buffer);
        // Buffers are for the moment they are needed in.
        self.buffer = Vec::new();
        match message {
            Ok(Some((ControlMessage::Ready {}, _))) => {
                if !self.ready {
                    self.hold_container()?;
                    let state = &self.sandbox.state;
                    if let (Some(cgroups), Some(init)) = (&state.cgroups, &state.init) {
                        cgroups.favour(init.pid);
                    }
                    self.ready = true;
                    self.count_idleness()?;
                    fault_point!("helper.ready");
                    let started = FromHelper::Started(self.report());
                    if let Some(owner) = self.owner {
                        // If it is gone, its channel's end tells.
                        let _ = packet::send(owner, &started, &[]);
                    }
                    super::sys::trim_memory();
                }
                Ok(None)
            }
            Ok(Some((ControlMessage::Deadline { in_ms }, _))) => {
                // Sooner is granted, later is not the agent's to give.
                if let Some(ms) = in_ms
                    && self.ends_in_ms().is_none_or(|left| ms < left)
                {
                    self.set_deadline(Some(ms))?;
                }
                Ok(None)
            }
            Ok(Some((ControlMessage::Use { in_use }, _))) => {
                if self.in_use != in_use {
                    self.in_use = in_use;
                    // What stands still is not in use, whatever was begun in it.
                    if !self.paused {
                        self.count_idleness()?;
                    }
                }
                Ok(None)
            }
            Ok(Some((ControlMessage::EndSandbox { .. }, _))) => Ok(Some(EndCause::AgentAsked)),
            _ => self.init_ended().map(Some),
        }
    }

    /// Looks at what a runtime made, before anybody uses it.
    fn hold_container(&mut self) -> Result<()> {
        let state = &self.sandbox.state;
        if let (Some(container), Some(init)) = (&state.container, &state.init) {
            let found = container.hold(init.pid, state.cgroups.as_ref())?;
            // Limits are there already, from before the start.
            let old = &mut self.sandbox.in_force;
            old.retain(|one| found.iter().all(|new| new.name != one.name));
            old.extend(found);
        }
        Ok(())
    }

    /// The cause of an end that began inside.
    fn init_ended(&mut self) -> Result<EndCause> {
        if let Some(sync) = self.sandbox.sync.take()
            && let Ok(Some((FromHelper::Failed(failed), _))) =
                packet::receive(&sync, &mut self.buffer)
        {
            return Err(failed);
        }
        if !self.ready {
            return Err(Failed::new(
                FailedKind::Internal,
                "the agent ended before it was ready",
            ));
        }
        let state = &self.sandbox.state;
        let killed = state.init_signal() == Some(libc::SIGKILL);
        let usage = state.cgroups.as_ref().map(super::cgroup::Cgroups::usage);
        let kills = usage.and_then(|usage| usage.oom_kills).unwrap_or(0);
        Ok(if killed && kills > 0 {
            EndCause::OutOfMemory
        } else {
            EndCause::AgentGone
        })
    }

    fn hear_owner(&mut self) -> Option<EndCause> {
        let owner = self.owner?;
        match packet::receive(owner, &mut self.buffer) {
            Ok(Some((ToHelper::Detach, _))) => {
                self.attached = Attached::No;
                fault_point!("helper.detached");
                None
            }
            Ok(Some((ToHelper::Claim(claim), _))) => {
                let reply = match self.claim(claim) {
                    Ok(()) => FromHelper::Done,
                    Err(failed) => FromHelper::Failed(failed),
                };
                fault_point!("helper.claimed");
                // If it is gone, its channel's end tells.
                let _ = packet::send(owner, &reply, &[]);
                None
            }
            Ok(Some((ToHelper::Monitor(request), _))) => {
                if let Some(reply) = self.answer(request) {
                    // If it is gone, its channel's end tells.
                    let _ = packet::send(owner, &reply, &[]);
                    return None;
                }
                // The owner is told of every end, so there is nothing to note.
                (request == MonitorRequest::Destroy).then_some(EndCause::Destroyed)
            }
            Ok(Some(_)) => {
                let failed = Failed::new(FailedKind::Invalid, "the sandbox is launched already");
                let _ = packet::send(owner, &FromHelper::Failed(failed), &[]);
                None
            }
            Ok(None) | Err(_) => self.owner_gone(),
        }
    }

    fn owner_gone(&mut self) -> Option<EndCause> {
        self.owner = None;
        self.owner_process = None;
        // Before it is ready nobody else knows of it.
        (self.attached == Attached::ToChannel || !self.ready).then_some(EndCause::OwnerGone)
    }

    /// Makes a sandbox that waited somebody's: all of it or nothing.
    fn claim(&mut self, claim: Claim) -> Result<()> {
        let refused = |message| Err(Failed::new(FailedKind::Conflict, message));
        if !self.sandbox.waits {
            return refused("the sandbox does not wait to be claimed");
        }
        if self.paused {
            return refused("the sandbox is paused, expected a running one");
        }
        self.set_deadline(claim.ends_in_ms)?;
        self.sandbox.waits = false;
        self.attached = if claim.detach {
            Attached::No
        } else {
            Attached::ToChannel
        };
        self.count_idleness()
    }

    /// Has the sandbox end with this connection and no other, or with nothing.
    fn set_attached(&mut self, owner: Option<&Connection>) -> FromHelper {
        if self.sandbox.waits {
            return FromHelper::Failed(Failed::new(
                FailedKind::Conflict,
                "the sandbox waits to be claimed",
            ));
        }
        self.later_owner = owner.and_then(|connection| process_of(connection.as_fd()));
        self.attached = match owner {
            Some(connection) => Attached::ToConnection(connection.number),
            None => Attached::No,
        };
        FromHelper::Done
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = accept_with(&self.sandbox.listener, flags) {
            // Dropped otherwise, which closes it.
            if self.connections.len() < MAX_CONNECTIONS && Peer::may_ask(&socket) {
                self.accepted += 1;
                self.connections
                    .push(Connection::new(socket, self.accepted));
            }
        }
    }

    /// Gives a host's connection to the agent. An agent that does not take it
    /// must not hold the helper up: then the host sees its end.
    fn hand_over(&self, connection: BorrowedFd<'_>) {
        // What the agent gets must block or not as it likes; it starts blocking.
        let _ = rustix::fs::fcntl_setfl(connection, rustix::fs::OFlags::empty());
        let control = &self.sandbox.control;
        let mut room = [PollFd::new(control, PollFlags::OUT)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if poll(&mut room, Some(&now)).is_ok_and(|count| count == 1) {
            let _ = packet::send(control, &ControlMessage::Connection {}, &[connection]);
        }
    }

    /// The reply to a request; `None` where it comes when the sandbox has ended.
    fn answer(&mut self, request: MonitorRequest) -> Option<FromHelper> {
        let result = match request {
            MonitorRequest::Inspect => return Some(FromHelper::Report(self.report())),
            MonitorRequest::Usage => {
                let state = &self.sandbox.state;
                let usage = state.cgroups.as_ref().map(super::cgroup::Cgroups::usage);
                let mut usage = usage.unwrap_or_default();
                if state.container.as_ref().is_some_and(|c| c.own_kernel) {
                    // What the host sees are threads of that kernel.
                    usage.pids = None;
                }
                return Some(FromHelper::Usage(usage));
            }
            MonitorRequest::SetDeadline { in_ms } => self.set_deadline(in_ms),
            MonitorRequest::Pause => self.freeze(true),
            MonitorRequest::Resume => self.freeze(false),
            // The channel's owner makes itself no owner but by a connection.
            MonitorRequest::SetAttached { .. } => Err(Failed::new(
                FailedKind::Invalid,
                "an owner asks on a connection of its own",
            )),
            MonitorRequest::Destroy | MonitorRequest::Subscribe => return None,
        };
        Some(match result {
            Ok(()) => FromHelper::Done,
            Err(failed) => FromHelper::Failed(failed),
        })
    }

    fn freeze(&mut self, frozen: bool) -> Result<()> {
        if self.paused == frozen {
            return Ok(());
        }
        match &self.sandbox.state.cgroups {
            Some(cgroups) => cgroups.freeze(frozen)?,
            None => return Ok(()),
        }
        self.paused = frozen;
        self.count_idleness()
    }

    /// Begins to count the time without use anew, or ceases while it is in use.
    fn count_idleness(&mut self) -> Result<()> {
        self.idle_timer = match self.sandbox.idle_ms {
            Some(ms) if !self.sandbox.waits && (self.paused || !self.in_use) => Some(timer(ms)?),
            _ => None,
        };
        Ok(())
    }

    fn set_deadline(&mut self, in_ms: Option<u64>) -> Result<()> {
        self.timer = in_ms.map(timer).transpose()?;
        Ok(())
    }

    fn ends_in_ms(&self) -> Option<u64> {
        left_ms(self.timer.as_ref()?)
    }

    fn report(&self) -> Report {
        let sandbox = &self.sandbox;
        Report {
            record: Some(sandbox.record.clone()),
            pid: sandbox
                .state
                .init
                .as_ref()
                .map_or(0, |init| init.pid.unsigned_abs()),
            started_ms: sandbox.started_ms,
            ends_in_ms: self.ends_in_ms(),
            paused: self.paused,
            in_force: sandbox.in_force.clone(),
            helper_pid: own_pid(),
            idle_ends_in_ms: self.idle_timer.as_ref().and_then(left_ms),
        }
    }
}

/// A timer that becomes readable in so many milliseconds, those included in
/// which the host was suspended.
fn timer(ms: u64) -> Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags).tried("make a timer")?;
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let value = Timespec {
        // More than the hundred years that hosts accept, and no overflow.
        tv_sec: i64::try_from(ms / 1000)
            .unwrap_or(i64::MAX)
            .min(3_200_000_000),
        // A value of zero would disarm it.
        tv_nsec: i64::try_from(ms % 1000).unwrap_or(0) * 1_000_000 + i64::from(ms == 0),
    };
    let spec = Itimerspec {
        it_interval: zero,
        it_value: value,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).tried("set a timer")?;
    Ok(timer)
}

/// Milliseconds until a timer fires.
fn left_ms(timer: &OwnedFd) -> Option<u64> {
    let left = timerfd_gettime(timer).ok()?.it_value;
    let seconds = u64::try_from(left.tv_sec).unwrap_or(0);
    Some(seconds * 1000 + u64::try_from(left.tv_nsec).unwrap_or(0) / 1_000_000)
}

/// Whether a timer has fired.
fn has_fired(timer: Option<&OwnedFd>) -> bool {
    timer.and_then(left_ms).is_some_and(|left| left == 0)
}
