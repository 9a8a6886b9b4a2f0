//! Signals, and the size of a terminal.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::stdio;
use crate::guest::agent::Agent;
use crate::guest::failure::{about, failure, system};
use crate::guest::supervisor::Order;
use crate::guest::sys;
use crate::protocol::Kind;
use crate::protocol::message::{Failure, FailureKind, ResizeRequest, Scope, SignalRequest};

impl Agent {
    pub(in crate::guest) fn signal(&mut self, to: (u64, u32), request: &SignalRequest) {
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
        if let Err(error) = sent {
            let errno = match error {
                // Its end is about to be noticed here.
                Errno::PIPE | Errno::CONNRESET => libc::ESRCH,
                other => other.raw_os_error(),
            };
            return self.answer_signal(to, errno);
        }
        exec.ordered = true;
        exec.answers.push((token, to));
    }

    pub(super) fn answer_signal(&mut self, to: (u64, u32), errno: i32) {
        match errno {
            0 => self.finish(to, Kind::Done, &[]),
            libc::ESRCH => self.fail(to, &failure(FailureKind::NotFound, "no such process")),
            _ => self.fail(
                to,
                &system("signal", &std::io::Error::from_raw_os_error(errno)),
            ),
        }
    }

    pub(in crate::guest) fn resize(&mut self, to: (u64, u32), request: &ResizeRequest) {
        let Some(key) = self.find_exec(&request.exec) else {
            return self.fail(to, &no_exec(&request.exec));
        };
        let Some(exec) = self.execs.get(&key) else {
            return;
        };
        let result = match &exec.sources[0] {
            _ if !exec.tty => Err(failure(FailureKind::Invalid, "the command has no terminal")),
            None => Err(no_exec(&request.exec)),
            Some(master) => rustix::termios::tcsetwinsize(master, stdio::window(request.size))
                .map_err(|error| system("size of the terminal", &error.into())),
        };
        match result {
            Ok(()) => self.finish(to, Kind::Done, &[]),
            Err(failure) => self.fail(to, &failure),
        }
    }
}

fn order(channel: &OwnedFd, order: Order) -> Result<(), Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::send(channel, &order.encode(), flags).map(|_| ())
}

pub(super) fn order_kill(channel: &OwnedFd) {
    if order(channel, Order::Kill).is_err() {
        // The end of the channel says the same.
        let _ = rustix::net::shutdown(channel, rustix::net::Shutdown::Write);
    }
}

pub(super) fn no_exec(id: &str) -> Failure {
    about(
        FailureKind::NotFound,
        "no command of this id runs or is remembered",
        id.as_bytes(),
    )
}
