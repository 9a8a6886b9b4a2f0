//! Commands: their start, output, end, and what stays of them.

mod attach;
mod control;
mod end;
mod input;
mod logs;
mod output;
mod report;
pub(super) mod spare;
mod start;
mod stdio;
mod stop;

use std::os::fd::OwnedFd;

use minicbor::bytes::ByteVec;

use super::agent::Role;
use super::clock::now_ms;
use super::ring::Ring;
use super::sink::Sink;
use super::sys::Status;
use crate::protocol::Kind;
use crate::protocol::message::{EndReason, Exited};
use logs::Reader;

/// Who gets the output.
#[derive(Clone, Copy, Debug)]
struct Follower {
    to: (u64, u32),
    /// The rings go first, from `sent` on.
    replay: bool,
    /// Bytes of each stream since the start that it has been sent from the rings.
    sent: [u64; 2],
    stdin: bool,
}

/// One command.
#[derive(Debug)]
pub(in crate::guest) struct Exec {
    pub(in crate::guest) id: String,
    pub(in crate::guest) supervisor: i32,
    pub(in crate::guest) deadline: Option<u64>,
    pub(in crate::guest) kill_by: Option<u64>,
    argv: Vec<ByteVec>,
    tty: bool,
    background: bool,
    pid: u32,
    started_ms: u64,
    channel: Option<OwnedFd>,
    /// Whether its supervisor was sent an order, which it may not have read when the
    /// command is over: it takes no other one then.
    ordered: bool,
    sources: [Option<OwnedFd>; 2],
    stdin: Option<OwnedFd>,
    sink: Sink,
    rings: [Ring; 2],
    /// What was kept before these bytes, a new follower does not get: another
    /// one got it.
    replayed_from: [u64; 2],
    /// The stream that the newest output came from.
    newest: Option<usize>,
    /// Who reads what is kept without following.
    readers: Vec<Reader>,
    follower: Option<Follower>,
    kills_before: Option<u64>,
    status: Option<(Status, u32)>,
    /// Why the tree is being killed.
    kill: Option<EndReason>,
    /// Nobody wants the rest of the output.
    discard: bool,
    /// What is still to be taken from each source before the end is told.
    rest: Option<[u64; 2]>,
    exited: Option<Exited>,
    answers: Vec<(u64, (u64, u32))>,
}

impl Exec {
    /// Whether it runs, or left processes that do.
    pub(in crate::guest) fn has_processes(&self) -> bool {
        self.channel.is_some()
    }

    /// From here on nobody has to read the output: more of it is kept.
    fn keep_more(&mut self, bytes: usize) {
        if !self.background {
            self.replayed_from = self.rings.each_ref().map(Ring::end);
        }
        for ring in &mut self.rings {
            ring.grow(bytes);
        }
    }
}

/// Keeps output that was just written to one of the streams of a command.
fn keep(rings: &mut [Ring; 2], newest: &mut Option<usize>, which: usize, bytes: &[u8]) {
    let apart = newest.replace(which) != Some(which);
    rings[which].push(bytes, now_ms(), apart);
}

const ROLES: [Role; 2] = [Role::Output, Role::ErrorOutput];
const KINDS: [Kind; 2] = [Kind::Data, Kind::DataErr];
