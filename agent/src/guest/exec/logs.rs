//! Readers of what is kept of a command's output. They disturb nobody: the
//! command never waits for them, and its follower does not notice.

use super::control::no_exec;
use super::{Exec, KINDS};
use crate::guest::agent::Agent;
use crate::guest::clock::now_ms;
use crate::guest::connection::{Connection, Target};
use crate::guest::failure::failure;
use crate::guest::ring::Ring;
use crate::protocol::Kind;
use crate::protocol::message::{self, FailureKind, LogRequest, Lost, Started};

/// Readers of one command at once.
const MAX_READERS: usize = 32;

/// One reader.
#[derive(Debug)]
pub(super) struct Reader {
    to: (u64, u32),
    /// Bytes of each stream since the start that it was sent, or told to be lost.
    sent: [u64; 2],
    follow: bool,
}

impl Reader {
    /// Sends what is kept, in about the order in which it was written, as far
    /// as credit allows.
    fn send(&mut self, rings: &[Ring; 2], connection: &mut Connection) {
        loop {
            // What is lost meanwhile is told at once when there is room again.
            if connection.room(self.to.1) == 0 {
                return;
            }
            self.tell_lost(rings.each_ref().map(Ring::start), connection);
            let next = |which: usize| {
                let (at, end) = rings[which].stretch(self.sent[which])?;
                Some((at, which, end))
            };
            let Some((_, which, end)) = next(0).into_iter().chain(next(1)).min() else {
                return;
            };
            let left = usize::try_from(end - self.sent[which]).unwrap_or(usize::MAX);
            let most = connection.room(self.to.1).min(left);
            if most == 0 {
                return;
            }
            let bytes = rings[which].copy(self.sent[which], most);
            connection.data(self.to.1, KINDS[which], &bytes);
            self.sent[which] += bytes.len() as u64;
        }
    }

    /// Passes over what is not kept before these bytes.
    fn tell_lost(&mut self, kept_from: [u64; 2], connection: &mut Connection) {
        let lost = [0, 1].map(|which| kept_from[which].saturating_sub(self.sent[which]));
        if lost == [0; 2] {
            return;
        }
        self.sent = [0, 1].map(|which| self.sent[which] + lost[which]);
        let [stdout, stderr] = lost;
        let lost = message::encode(&Lost { stdout, stderr });
        connection.frame(self.to.1, Kind::Lost, &lost);
    }

    fn has_all(&self, rings: &[Ring; 2]) -> bool {
        rings
            .iter()
            .zip(self.sent)
            .all(|(ring, sent)| sent >= ring.end())
    }
}

impl Agent {
    pub(in crate::guest) fn read_log(&mut self, to: (u64, u32), request: &LogRequest) {
        let key = self.find_exec(&request.exec);
        let exec = key.and_then(|key| Some((key, self.execs.get_mut(&key)?)));
        let Some((key, exec)) = exec.filter(|(_, exec)| exec.pid != 0) else {
            return self.fail(to, &no_exec(&request.exec));
        };
        if exec.readers.len() >= MAX_READERS {
            let text = format!("{MAX_READERS} readers have this command's output open");
            return self.fail(to, &failure(FailureKind::Exhausted, text));
        }
        let sent = match request.age_ms {
            Some(age) => {
                let since = now_ms().saturating_sub(age);
                exec.rings.each_ref().map(|ring| ring.since(since))
            }
            None => [0; 2],
        };
        exec.readers.push(Reader {
            to,
            sent,
            follow: request.follow,
        });
        let started = Started { pid: exec.pid };
        if let Some(connection) = self.connections.get_mut(&to.0)
            && let Some(stream) = connection.streams.get_mut(&to.1)
        {
            stream.target = Target::Log(key);
        }
        self.send(to, Kind::Started, &message::encode(&started));
        self.pump_logs(key);
    }

    /// Moves kept output to its readers as far as their credit allows.
    pub(in crate::guest) fn pump_logs(&mut self, key: u64) {
        let Self {
            execs, connections, ..
        } = self;
        let Some(exec) = execs.get_mut(&key) else {
            return;
        };
        let over = exec.exited.is_some() && exec.channel.is_none();
        let mut done = Vec::new();
        exec.readers.retain_mut(|reader| {
            let Some(connection) = connections.get_mut(&reader.to.0) else {
                return false;
            };
            reader.send(&exec.rings, connection);
            let goes_on = !reader.has_all(&exec.rings) || (reader.follow && !over);
            if !goes_on {
                done.push(reader.to);
            }
            goes_on
        });
        let exited = exec.exited.as_ref().map(message::encode);
        for to in done {
            match &exited {
                Some(exited) => self.finish(to, Kind::Exited, exited),
                None => self.finish(to, Kind::Done, &[]),
            }
        }
    }

    /// A reader gives up, or its connection is gone.
    pub(in crate::guest) fn drop_reader(&mut self, key: u64, to: (u64, u32)) {
        if let Some(exec) = self.execs.get_mut(&key) {
            exec.readers.retain(|reader| reader.to != to);
        }
    }

    /// Ends the readers of a command that is forgotten.
    pub(super) fn end_readers(&mut self, exec: &mut Exec) {
        let ends = exec.rings.each_ref().map(Ring::end);
        for mut reader in std::mem::take(&mut exec.readers) {
            if let Some(connection) = self.connections.get_mut(&reader.to.0) {
                reader.tell_lost(ends, connection);
            }
            match &exec.exited {
                Some(exited) => self.finish(reader.to, Kind::Exited, &message::encode(exited)),
                None => self.fail(reader.to, &no_exec(&exec.id)),
            }
        }
    }
}
