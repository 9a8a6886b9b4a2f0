//! The way of a host's bytes into a command.

use std::os::fd::AsFd as _;

use crate::guest::agent::{Agent, Role};
use crate::guest::sink::Written;
use crate::protocol::Kind;
use crate::protocol::message::{self, Credit};

impl Agent {
    pub(in crate::guest) fn exec_input(&mut self, key: u64, bytes: &[u8]) {
        fault_point!("agent.input");
        if let Some(exec) = self.execs.get_mut(&key) {
            if exec.follower.is_some_and(|follower| follower.stdin) {
                exec.sink.push(bytes);
            }
            self.feed_exec(key);
        }
    }

    pub(in crate::guest) fn exec_input_end(&mut self, key: u64) {
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
    pub(in crate::guest) fn feed_exec(&mut self, key: u64) {
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
    pub(in crate::guest) fn give_credit(&mut self, to: (u64, u32), bytes: u32) {
        let Some(connection) = self.connections.get_mut(&to.0) else {
            return;
        };
        if let Some(stream) = connection.streams.get_mut(&to.1) {
            stream.receive += u64::from(bytes);
            connection.frame(to.1, Kind::Credit, &message::encode(&Credit { bytes }));
        }
    }
}
