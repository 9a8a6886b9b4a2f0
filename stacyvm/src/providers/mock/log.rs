//! What a command wrote, kept for readers that disturb nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::output::Channel;
use super::sandbox::{Sandbox, State, gone};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ExecId;
use crate::sandbox::exec::{BoxStream, ExecEvent, ExitStatus, LogOptions};

/// The newest output of a command.
#[derive(Debug)]
pub(super) struct Log {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    most: usize,
    /// Bytes of each stream so far, and those of them that are not kept.
    written: [u64; 2],
    dropped: [u64; 2],
    dropped_at: Option<SystemTime>,
}

#[derive(Debug)]
struct Chunk {
    channel: Channel,
    /// The number of its first byte in its stream.
    start: u64,
    bytes: Bytes,
    at: SystemTime,
}

impl Log {
    pub(super) fn new(most: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            most,
            written: [0; 2],
            dropped: [0; 2],
            dropped_at: None,
        }
    }

    pub(super) fn push(&mut self, channel: Channel, bytes: Bytes, at: SystemTime) {
        let start = self.written[channel as usize];
        self.written[channel as usize] += bytes.len() as u64;
        self.bytes += bytes.len();
        self.chunks.push_back(Chunk {
            channel,
            start,
            bytes,
            at,
        });
        while self.bytes > self.most
            && let Some(oldest) = self.chunks.front_mut()
        {
            let over = (self.bytes - self.most).min(oldest.bytes.len());
            drop(oldest.bytes.split_to(over));
            oldest.start += over as u64;
            self.bytes -= over;
            self.dropped[oldest.channel as usize] += over as u64;
            self.dropped_at = Some(oldest.at);
            if oldest.bytes.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    /// Bytes that are kept.
    pub(super) fn kept(&self) -> usize {
        self.bytes
    }

    /// All that is kept, in order, and how much of each stream is not.
    pub(super) fn replay(&self) -> (VecDeque<(Channel, Bytes)>, [u64; 2]) {
        let chunks = self.chunks.iter();
        let chunks = chunks.map(|chunk| (chunk.channel, chunk.bytes.clone()));
        (chunks.collect(), self.dropped)
    }

    /// The numbers of the first bytes that were written at that time or later;
    /// 0 where such are lost.
    fn since(&self, since: SystemTime) -> [u64; 2] {
        if self.dropped_at.is_some_and(|at| at >= since) {
            return [0; 2];
        }
        let mut from = self.written;
        for chunk in self.chunks.iter().rev().filter(|chunk| chunk.at >= since) {
            from[chunk.channel as usize] = chunk.start;
        }
        from
    }

    /// What a reader that has `sent` gets next.
    fn next(&self, sent: &mut [u64; 2]) -> Option<ExecEvent> {
        let lost = [0, 1].map(|which| self.dropped[which].saturating_sub(sent[which]));
        if lost != [0; 2] {
            *sent = [0, 1].map(|which| sent[which] + lost[which]);
            let [stdout, stderr] = lost;
            return Some(ExecEvent::Lost { stdout, stderr });
        }
        let new =
            |chunk: &&Chunk| chunk.start + chunk.bytes.len() as u64 > sent[chunk.channel as usize];
        let chunk = self.chunks.iter().find(new)?;
        let sent = &mut sent[chunk.channel as usize];
        let skip = usize::try_from(*sent - chunk.start).unwrap_or(usize::MAX);
        let bytes = chunk.bytes.slice(skip..);
        *sent += bytes.len() as u64;
        Some(match chunk.channel {
            Channel::Out => ExecEvent::Stdout(bytes),
            Channel::Err => ExecEvent::Stderr(bytes),
        })
    }
}

/// Reads what is kept of a command's output.
pub(super) fn read(
    sandbox: &Arc<Sandbox>,
    exec: &ExecId,
    options: LogOptions,
) -> Result<BoxStream<Result<ExecEvent>>> {
    let sent = {
        let state = sandbox.alive()?;
        let Some(command) = state.execs.get(exec) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no command `{exec}` in the sandbox"),
            ));
        };
        match options.age.and_then(|age| sandbox.now().checked_sub(age)) {
            Some(since) => command.log.since(since),
            None => [0; 2],
        }
    };
    let reader = (Arc::clone(sandbox), exec.clone(), sent, false);
    let next = move |(sandbox, exec, mut sent, done): (Arc<Sandbox>, ExecId, [u64; 2], bool)| async move {
        if done {
            return None;
        }
        let event = sandbox
            .until(|state| next(state, &exec, &mut sent, options.follow))
            .await;
        let Next::Event(event) = event else {
            return None;
        };
        let done = matches!(event, Ok(ExecEvent::Exited(_)) | Err(_));
        Some((event, (sandbox, exec, sent, done)))
    };
    Ok(Box::pin(futures_util::stream::unfold(reader, next)))
}

/// What comes next for a reader.
enum Next {
    Event(Result<ExecEvent>),
    End,
}

/// What is there for a reader; `None` where it has to wait.
fn next(state: &State, id: &ExecId, sent: &mut [u64; 2], follow: bool) -> Option<Next> {
    let Some(exec) = state.execs.get(id) else {
        return Some(Next::Event(Err(gone())));
    };
    if let Some(event) = exec.log.next(sent) {
        return Some(Next::Event(Ok(event)));
    }
    if state.gone && exec.exited.is_none() {
        return Some(Next::Event(Ok(ExecEvent::Exited(ExitStatus::SandboxGone))));
    }
    let over = exec.exited.is_some() && state.members(id).is_empty();
    match exec.exited {
        Some(status) if over || !follow => Some(Next::Event(Ok(ExecEvent::Exited(status)))),
        _ if follow => None,
        _ => Some(Next::End),
    }
}
