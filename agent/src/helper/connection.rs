//! One connection of a host process to the helper's socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags};

use crate::helper_protocol::{FromHelper, MonitorRequest, REQUEST_AGENT, REQUEST_MONITOR};
use crate::protocol::message::{decode, encode};

/// Connections at once; those handed to the agent do not count.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// The longest request; they are a few bytes each.
const MAX_REQUEST: usize = 4096;
/// How long a connection may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is at the other end.
#[derive(Debug)]
pub(crate) struct Peer;

impl Peer {
    /// Whether the peer is root or the user that the helper runs as. Without root
    /// a command may be that user too, in its sandbox's user namespace.
    pub(crate) fn may_ask(socket: &OwnedFd) -> bool {
        let own = rustix::process::geteuid();
        rustix::net::sockopt::socket_peercred(socket).is_ok_and(|peer| {
            peer.uid.is_root() || (peer.uid == own && is_of_this_namespace(peer.pid))
        })
    }
}

/// Whether a process is in the user namespace of the helper. What cannot be
/// looked at is not.
fn is_of_this_namespace(pid: rustix::process::Pid) -> bool {
    let identity =
        |of: &str| rustix::fs::stat(format!("/proc/{of}/ns/user")).map(|s| (s.st_dev, s.st_ino));
    let pid = pid.as_raw_nonzero().to_string();
    matches!((identity("self"), identity(&pid)), (Ok(own), Ok(other)) if own == other)
}

/// What reading brought.
#[derive(Debug)]
pub(crate) enum Event {
    /// Nothing whole yet.
    Wait,
    /// It ended, or broke the rules.
    Close,
    /// It is for the agent.
    Agent,
    /// These requests.
    Requests(Vec<MonitorRequest>),
}

#[derive(Debug)]
enum Kind {
    Undecided { since: Instant },
    Monitor { wants_end: bool },
}

/// A connection that is not the agent's.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// Tells it from all others of this helper.
    pub(crate) number: u64,
    bytes: Vec<u8>,
    kind: Kind,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, number: u64) -> Self {
        Self {
            socket,
            number,
            bytes: Vec::new(),
            kind: Kind::Undecided {
                since: Instant::now(),
            },
        }
    }

    pub(crate) fn is_undecided(&self) -> bool {
        matches!(self.kind, Kind::Undecided { .. })
    }

    pub(crate) fn is_too_late(&self) -> bool {
        matches!(self.kind, Kind::Undecided { since } if since.elapsed() >= PATIENCE)
    }

    /// It is told when the sandbox has ended.
    pub(crate) fn wants_end(&mut self) {
        self.kind = Kind::Monitor { wants_end: true };
    }

    /// Reads what is there. Before it is decided not a byte more than the
    /// request is taken: the rest is the agent's.
    pub(crate) fn read(&mut self) -> Event {
        let mut chunk = [0; 512];
        let most = if self.is_undecided() {
            REQUEST_AGENT.len() - self.bytes.len()
        } else {
            chunk.len()
        };
        match rustix::net::recv(&self.socket, &mut chunk[..most], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Event::Close,
            Ok((count, _)) => self.bytes.extend_from_slice(&chunk[..count]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Event::Wait,
            Err(_) => return Event::Close,
        }
        if self.is_undecided() {
            if self.bytes.len() < REQUEST_AGENT.len() {
                return Event::Wait;
            }
            if self.bytes == REQUEST_AGENT {
                return Event::Agent;
            }
            if self.bytes != REQUEST_MONITOR {
                return Event::Close;
            }
            self.bytes.clear();
            self.kind = Kind::Monitor { wants_end: false };
            return Event::Wait;
        }
        self.requests()
    }

    fn requests(&mut self) -> Event {
        let mut requests = Vec::new();
        while let Some((length, rest)) = self.bytes.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > MAX_REQUEST {
                return Event::Close;
            }
            let Some(body) = rest.get(..length) else {
                break;
            };
            let Ok(request) = decode(body) else {
                return Event::Close;
            };
            requests.push(request);
            self.bytes.drain(..4 + length);
        }
        if requests.is_empty() {
            return Event::Wait;
        }
        Event::Requests(requests)
    }

    /// Sends a frame; false where the host does not take it.
    pub(crate) fn send(&mut self, message: &FromHelper) -> bool {
        let body = encode(message);
        let mut frame = u32::try_from(body.len())
            .unwrap_or_default()
            .to_le_bytes()
            .to_vec();
        frame.extend_from_slice(&body);
        let sent: io::Result<usize> = rustix::net::send(
            &self.socket,
            &frame,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )
        .map_err(Into::into);
        // Half a frame cannot be taken back, so the connection is given up.
        sent.is_ok_and(|count| count == frame.len())
    }

    /// Tells the end to a connection that asked for it.
    pub(crate) fn tell_end(&mut self, ended: &FromHelper) {
        if matches!(self.kind, Kind::Monitor { wants_end: true }) {
            self.send(ended);
        }
    }
}
