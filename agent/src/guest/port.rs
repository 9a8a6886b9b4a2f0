//! TCP ports inside: dialled and listened on for hosts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::agent::{Agent, Role};
use super::connection::{MAX_STREAMS, Target};
use super::failure::{failure, system};
use super::sink::{Sink, Written};
use crate::protocol::message::{self, Accepted, Failure, FailureKind, Listening};
use crate::protocol::{AGENT_STREAM, Kind};

/// Sockets at once.
const MAX_SOCKETS: usize = 256;
/// Reads from one socket in a row.
const ROUNDS: usize = 4;

/// One connection to a port.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    to: (u64, u32),
    /// Still connecting; the address to try next.
    connecting: bool,
    next: Option<SocketAddr>,
    sink: Sink,
    read_ended: bool,
    write_ended: bool,
}

#[derive(Debug)]
pub(super) struct Listener {
    fd: OwnedFd,
    to: (u64, u32),
}

fn socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// Begins to connect.
fn connect(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let fd = socket(family)?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(error),
    }
}

fn refused(port: u16, error: Errno) -> Failure {
    let kind = match error {
        Errno::CONNREFUSED => FailureKind::Refused,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => FailureKind::Exhausted,
        _ => FailureKind::Internal,
    };
    Failure {
        errno: Some(error.raw_os_error()),
        ..failure(kind, format!("port {port} inside does not answer: {error}"))
    }
}

impl Agent {
    fn sockets_left(&self) -> bool {
        self.sockets.len() + self.listeners.len() < MAX_SOCKETS
    }

    fn target(&mut self, to: (u64, u32), target: Target) {
        if let Some(connection) = self.connections.get_mut(&to.0)
            && let Some(stream) = connection.streams.get_mut(&to.1)
        {
            stream.target = target;
        }
    }

    pub(super) fn dial(&mut self, to: (u64, u32), port: u16) {
        if !self.sockets_left() {
            return self.fail(to, &failure(FailureKind::Exhausted, "too many sockets"));
        }
        if port == 0 {
            return self.fail(
                to,
                &failure(FailureKind::Invalid, "port 0 cannot be dialled"),
            );
        }
        let second = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let first = connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let (fd, next) = match first {
            Ok(fd) => (fd, Some(second)),
            Err(_) => match connect(second) {
                Ok(fd) => (fd, None),
                Err(error) => return self.fail(to, &refused(port, error)),
            },
        };
        let key = self.key();
        self.interests
            .set(key, Role::Socket, fd.as_fd(), false, true);
        self.sockets.insert(
            key,
            Socket {
                fd,
                to,
                connecting: true,
                next,
                sink: Sink::default(),
                read_ended: false,
                write_ended: false,
            },
        );
        self.target(to, Target::Socket(key));
    }

    pub(super) fn on_socket(&mut self, key: u64) {
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        if socket.connecting {
            let result = match rustix::net::sockopt::socket_error(&socket.fd) {
                Ok(result) => result,
                Err(error) => Err(error),
            };
            match (result, socket.next.take()) {
                (Ok(()), _) => {
                    socket.connecting = false;
                    let to = socket.to;
                    self.send(to, Kind::Done, &[]);
                }
                (Err(_), Some(next)) => match connect(next) {
                    Ok(fd) => {
                        self.interests.forget(key, Role::Socket, socket.fd.as_fd());
                        self.interests
                            .set(key, Role::Socket, fd.as_fd(), false, true);
                        socket.fd = fd;
                        return;
                    }
                    Err(_) => return self.socket_failed(key, Errno::CONNREFUSED),
                },
                (Err(error), None) => return self.socket_failed(key, error),
            }
        }
        self.feed_socket(key);
        self.pump_socket(key);
    }

    fn socket_failed(&mut self, key: u64, error: Errno) {
        if let Some(socket) = self.sockets.get(&key) {
            let to = socket.to;
            let kind = if error == Errno::CONNREFUSED {
                FailureKind::Refused
            } else {
                FailureKind::Internal
            };
            self.drop_socket(key);
            self.fail(
                to,
                &Failure {
                    kind,
                    ..system("connection inside", &error.into())
                },
            );
        }
    }

    /// Moves what the port sent as far as credit and buffers allow.
    pub(super) fn pump_socket(&mut self, key: u64) {
        let Self {
            sockets,
            connections,
            interests,
            ..
        } = self;
        let Some(socket) = sockets.get_mut(&key) else {
            return;
        };
        if socket.connecting {
            return;
        }
        let Some(connection) = connections.get_mut(&socket.to.0) else {
            return self.drop_socket(key);
        };
        let mut failed = None;
        let mut wants = false;
        for _ in 0..ROUNDS {
            let room = connection.room(socket.to.1);
            wants = !socket.read_ended && room > 0;
            if !wants {
                break;
            }
            match connection.data_from(socket.to.1, Kind::Data, socket.fd.as_fd(), room) {
                Ok(0) => {
                    socket.read_ended = true;
                    connection.frame(socket.to.1, Kind::End, &[]);
                }
                Ok(_) => {
                    connection.flush();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            return self.socket_failed(key, error);
        }
        interests.set(
            key,
            Role::Socket,
            socket.fd.as_fd(),
            wants,
            socket.sink.has_pending(),
        );
        self.settle_socket(key);
    }

    fn settle_socket(&mut self, key: u64) {
        if let Some(socket) = self.sockets.get(&key)
            && socket.read_ended
            && socket.write_ended
        {
            let to = socket.to;
            self.drop_socket(key);
            if let Some(connection) = self.connections.get_mut(&to.0) {
                connection.streams.remove(&to.1);
            }
        }
    }

    pub(super) fn socket_input(&mut self, key: u64, bytes: &[u8]) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.sink.push(bytes);
            self.feed_socket(key);
        }
    }

    pub(super) fn socket_input_end(&mut self, key: u64) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.sink.end();
            self.feed_socket(key);
        }
    }

    fn feed_socket(&mut self, key: u64) {
        let Some(socket) = self.sockets.get_mut(&key) else {
            return;
        };
        if socket.connecting {
            return;
        }
        match socket.sink.write(Some(socket.fd.as_fd())) {
            Written::Finished | Written::Broken if !socket.write_ended => {
                socket.write_ended = true;
                let _ = rustix::net::shutdown(&socket.fd, rustix::net::Shutdown::Write);
            }
            _ => {}
        }
        let to = socket.to;
        if let Some(bytes) = socket.sink.credit() {
            self.give_credit(to, bytes);
        }
        self.pump_socket(key);
    }

    pub(super) fn drop_socket(&mut self, key: u64) {
        if let Some(socket) = self.sockets.remove(&key) {
            self.interests.forget(key, Role::Socket, socket.fd.as_fd());
        }
    }

    pub(super) fn listen(&mut self, to: (u64, u32), port: u16) {
        if !self.sockets_left() {
            return self.fail(to, &failure(FailureKind::Exhausted, "too many sockets"));
        }
        let open = || -> Result<(OwnedFd, u16), Errno> {
            let fd = socket(AddressFamily::INET)?;
            rustix::net::sockopt::set_socket_reuseaddr(&fd, true)?;
            rustix::net::bind(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
            rustix::net::listen(&fd, 128)?;
            let name = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
            Ok((fd, name.port()))
        };
        match open() {
            Ok((fd, port)) => {
                let key = self.key();
                self.interests
                    .set(key, Role::Listener, fd.as_fd(), true, false);
                self.listeners.insert(key, Listener { fd, to });
                self.target(to, Target::Listener(key));
                self.send(to, Kind::Listening, &message::encode(&Listening { port }));
            }
            Err(error) => {
                let kind = match error {
                    Errno::ADDRINUSE => FailureKind::AlreadyExists,
                    Errno::ACCESS | Errno::PERM => FailureKind::PermissionDenied,
                    _ => FailureKind::Internal,
                };
                let what = format!("port {port} inside cannot be listened on");
                self.fail(
                    to,
                    &Failure {
                        kind,
                        ..system(&what, &error.into())
                    },
                );
            }
        }
    }

    pub(super) fn on_listener(&mut self, key: u64) {
        let Some(listener) = self.listeners.get(&key) else {
            return;
        };
        let to = listener.to;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(fd) = rustix::net::accept_with(&listener.fd, flags) else {
            return;
        };
        let full = !self.sockets_left();
        let Some(connection) = self.connections.get_mut(&to.0) else {
            return;
        };
        if full || connection.streams.len() >= MAX_STREAMS {
            // The program inside sees its connection closed.
            return;
        }
        let stream = loop {
            let stream = connection.next_stream | AGENT_STREAM;
            connection.next_stream = connection.next_stream.wrapping_add(1) & !AGENT_STREAM;
            if !connection.streams.contains_key(&stream) {
                break stream;
            }
        };
        let accepted = Accepted { listener: to.1 };
        connection.frame(stream, Kind::Accepted, &message::encode(&accepted));
        let key = self.key();
        if let Some(connection) = self.connections.get_mut(&to.0) {
            connection.open(stream, Target::Socket(key));
        }
        self.interests
            .set(key, Role::Socket, fd.as_fd(), true, false);
        self.sockets.insert(
            key,
            Socket {
                fd,
                to: (to.0, stream),
                connecting: false,
                next: None,
                sink: Sink::default(),
                read_ended: false,
                write_ended: false,
            },
        );
    }

    pub(super) fn drop_listener(&mut self, key: u64) {
        if let Some(listener) = self.listeners.remove(&key) {
            self.interests
                .forget(key, Role::Listener, listener.fd.as_fd());
        }
    }
}
