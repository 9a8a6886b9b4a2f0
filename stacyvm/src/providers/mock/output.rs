//! What a command wrote and nobody has read yet, and the stream that reads it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::task::AbortHandle;

use super::fault::OutputFault;
use super::log::Log;
use super::sandbox::{Ended, Sandbox, State};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ExecId;
use crate::sandbox::exec::{BoxStream, ExecEvent, ExitStatus};

/// Undelivered bytes at which a followed command waits.
pub(super) const WINDOW: usize = 256 * 1024;
/// Bytes of standard input that wait to be read.
pub(super) const INPUT_WINDOW: usize = 64 * 1024;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Out = 0,
    Err = 1,
}

/// Standard input that waits to be read.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) asked_for: bool,
    pub(super) closed: bool,
    pub(super) bytes: usize,
    pub(super) chunks: VecDeque<Bytes>,
}

/// One command.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) argv: Vec<String>,
    pub(super) first: u32,
    pub(super) started: SystemTime,
    pub(super) background: bool,
    pub(super) first_ended: Option<Ended>,
    /// Why its whole tree is being killed.
    pub(super) reason: Option<ExitStatus>,
    pub(super) exited: Option<ExitStatus>,
    pub(super) timer: Option<AbortHandle>,
    pub(super) input: Input,
    /// Who follows it.
    pub(super) follower: Option<u64>,
    chunks: VecDeque<(Channel, Bytes)>,
    bytes: usize,
    /// Chunks that were written before the end and not read yet.
    before_end: usize,
    lost: [u64; 2],
    /// What was lost before the follower came, and was not said yet.
    untold: [u64; 2],
    ring_bytes: usize,
    /// All of it, for readers that do not follow.
    pub(super) log: Log,
    pub(super) fault: OutputFault,
}

impl Exec {
    pub(super) fn new(
        argv: Vec<String>,
        background: bool,
        stdin: bool,
        started: SystemTime,
        ring_bytes: usize,
    ) -> Self {
        Self {
            argv,
            first: 0,
            started,
            background,
            first_ended: None,
            reason: None,
            exited: None,
            timer: None,
            input: Input {
                asked_for: stdin,
                closed: !stdin,
                ..Input::default()
            },
            follower: None,
            chunks: VecDeque::new(),
            bytes: 0,
            before_end: 0,
            lost: [0; 2],
            untold: [0; 2],
            ring_bytes,
            log: Log::new(ring_bytes),
            fault: OutputFault::default(),
        }
    }

    /// Bytes that nobody has read.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.bytes
    }

    /// Whether a write must wait: somebody follows, and has not read what is there.
    pub(super) fn is_full(&self) -> bool {
        self.exited.is_none() && self.follower.is_some() && self.bytes >= WINDOW
    }

    /// Takes output. With nobody to read it, the oldest goes when the ring is full.
    pub(super) fn push(&mut self, channel: Channel, bytes: Bytes, at: SystemTime) {
        self.log.push(channel, bytes.clone(), at);
        self.bytes += bytes.len();
        self.chunks.push_back((channel, bytes));
        // What was written before the end is never dropped under a follower.
        let kept = if self.follower.is_some() {
            self.before_end
        } else {
            0
        };
        let may_drop = self.exited.is_some() || self.follower.is_none();
        while may_drop && self.bytes > self.ring_bytes && self.chunks.len() > kept {
            let Some((channel, mut bytes)) = self.chunks.remove(kept) else {
                break;
            };
            let excess = (self.bytes - self.ring_bytes).min(bytes.len());
            self.lost[channel as usize] += excess as u64;
            self.bytes -= excess;
            let rest = bytes.split_off(excess);
            if !rest.is_empty() {
                self.chunks.insert(kept, (channel, rest));
            }
        }
    }

    /// Fixes how it ended. What was written until now comes before that event.
    pub(super) fn end(&mut self, status: ExitStatus) {
        self.exited = Some(status);
        self.before_end = self.chunks.len();
        self.input.closed = true;
        self.input.chunks.clear();
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }

    /// Begins to follow. Without replay, what is kept is passed over; with it,
    /// a background command's output comes again as far as it is kept, also
    /// where an earlier follower got it.
    pub(super) fn follow(&mut self, token: u64, replay: bool) {
        self.follower = Some(token);
        if !replay {
            self.chunks.clear();
            self.bytes = 0;
            self.lost = [0; 2];
        } else if self.background && self.log.kept() > self.bytes {
            (self.chunks, self.lost) = self.log.replay();
            self.bytes = self.log.kept();
        }
        self.untold = std::mem::take(&mut self.lost);
        self.before_end = self.chunks.len();
    }

    /// The next event for a follower, if there is one.
    fn next(&mut self) -> Option<ExecEvent> {
        let [stdout, stderr] = std::mem::take(&mut self.untold);
        if stdout + stderr > 0 {
            return Some(ExecEvent::Lost { stdout, stderr });
        }
        if (self.exited.is_none() || self.before_end > 0)
            && let Some((channel, bytes)) = self.chunks.pop_front()
        {
            self.before_end = self.before_end.saturating_sub(1);
            self.bytes -= bytes.len();
            return Some(match channel {
                Channel::Out => ExecEvent::Stdout(bytes),
                Channel::Err => ExecEvent::Stderr(bytes),
            });
        }
        self.exited.map(ExecEvent::Exited)
    }
}

/// Follows a command; dropping it before the end cancels a foreground command.
struct Follower {
    sandbox: Arc<Sandbox>,
    exec: ExecId,
    token: u64,
    done: bool,
    fault: OutputFault,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let (token, done) = (self.token, self.done);
        let cancel = self.sandbox.change(|state| {
            let Some(exec) = state.execs.get_mut(&self.exec) else {
                return false;
            };
            if exec.follower != Some(token) {
                return false;
            }
            exec.follower = None;
            !done && !exec.background
        });
        if cancel {
            let status = ExitStatus::Cancelled {
                sandbox_ended: false,
            };
            self.sandbox.kill_tree(&self.exec, status);
        }
    }
}

/// The events of a command for a follower that was registered under `token`.
pub(super) fn follow(
    sandbox: Arc<Sandbox>,
    exec: ExecId,
    token: u64,
) -> BoxStream<Result<ExecEvent>> {
    let fault = sandbox
        .lock()
        .execs
        .get(&exec)
        .map(|e| e.fault.clone())
        .unwrap_or_default();
    let follower = Follower {
        sandbox,
        exec,
        token,
        done: false,
        fault,
    };
    Box::pin(futures_util::stream::unfold(
        follower,
        |mut follower| async move {
            if follower.done {
                return None;
            }
            loop {
                let sandbox = Arc::clone(&follower.sandbox);
                let (exec, token) = (&follower.exec, follower.token);
                let event = if follower.fault.is_lost() {
                    Ok(ExecEvent::Exited(ExitStatus::SandboxGone))
                } else {
                    sandbox.until(|state| next_event(state, exec, token)).await
                };
                let event = match event {
                    Ok(event) => follower.fault.apply(event).map(Ok),
                    Err(error) => Some(Err(error)),
                };
                // A fault may swallow an event.
                let Some(event) = event else { continue };
                if matches!(event, Ok(ExecEvent::Exited(_)) | Err(_)) {
                    let lost = matches!(event, Ok(ExecEvent::Exited(ExitStatus::SandboxGone)));
                    let running = follower
                        .sandbox
                        .lock()
                        .execs
                        .get(&follower.exec)
                        .is_some_and(|e| e.exited.is_none());
                    // A lost connection takes a foreground command with it, when
                    // this follower is dropped.
                    follower.done = !(lost && running);
                    if !follower.done {
                        let Follower { sandbox, exec, .. } = &follower;
                        let background =
                            sandbox.lock().execs.get(exec).is_some_and(|e| e.background);
                        if !background {
                            sandbox.kill_tree(
                                exec,
                                ExitStatus::Cancelled {
                                    sandbox_ended: false,
                                },
                            );
                        }
                        follower.done = true;
                    }
                }
                return Some((event, follower));
            }
        },
    ))
}

fn next_event(state: &mut State, exec: &ExecId, token: u64) -> Option<Result<ExecEvent>> {
    let Some(exec) = state.execs.get_mut(exec) else {
        return Some(Err(super::sandbox::gone()));
    };
    if exec.follower != Some(token) {
        return Some(Err(Error::new(
            ErrorKind::Cancelled,
            "another follower took the command over",
        )));
    }
    exec.next().map(Ok)
}
