//! One stream of a connection: what arrived and was not taken yet, what may
//! still arrive, and what waits to be sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use stacyvm_agent::protocol::{DATA_CHUNK, INITIAL_CREDIT, Kind};

use super::error::Closed;
use super::role::{Phase, Role, Step};

/// Frames up to this size are copied, so that a small one cannot keep a large
/// buffer alive; larger ones are read into a buffer of their own.
pub(super) const COPY_LIMIT: usize = 16 * 1024;
/// The most bytes that small frames are joined to.
const JOIN_LIMIT: usize = 64 * 1024;
/// Pieces of data after which a frame is joined to an earlier one even across
/// frames of the other channel, so that tiny frames cost no more than they carry.
const MANY_PIECES: usize = 256;
/// The most bytes of messages (not data) that wait on one stream, each charged
/// with [`MESSAGE_COST`] on top.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;
const MESSAGE_COST: usize = 128;
/// The most connections of a listener that wait to be taken.
const ACCEPT_LIMIT: usize = 128;
/// Bytes of a stream that wait to be sent.
const SEND_LIMIT: usize = 256 * 1024;
/// Bytes taken after which the peer is told.
const CREDIT_STEP: u32 = INITIAL_CREDIT / 2;

/// Which of a command's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Out,
    Err,
}

/// The payload of a frame that just arrived.
pub(super) enum Payload<'a> {
    Borrowed(&'a [u8]),
    Owned(Bytes),
}

impl Payload<'_> {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// What a reader takes.
#[derive(Debug)]
pub(super) enum Item {
    Data(Channel, Bytes),
    Message(Kind, Bytes),
    Accepted(Arc<Stream>),
    /// Watch events were dropped here because nobody took them.
    Overflow,
}

#[derive(Debug)]
enum Piece {
    Small(Channel, BytesMut),
    Large(Channel, Bytes),
    Other(Item),
}

/// What a frame meant for its connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// It was the stream's last frame.
    pub(super) last: bool,
    /// Credit is due.
    pub(super) credit: bool,
}

/// How the host's side of the data stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Open,
    EndQueued,
    EndSent,
}

/// Why data was not accepted for sending.
#[derive(Debug)]
pub(super) enum SendError {
    /// The host ended its side before.
    AfterEnd,
    /// The agent ended the stream.
    StreamEnded,
    /// The connection is closed.
    Closed(Closed),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) role: Role,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    pieces: VecDeque<Piece>,
    /// Bytes in `pieces` that count towards the agent's credit.
    counted: u32,
    /// Cost of the messages in `pieces`.
    messages: usize,
    accepted: usize,
    /// Bytes taken that the peer was not told of.
    returned: u32,
    credit_queued: bool,
    /// The reader gave the stream up; frames are checked and dropped.
    discard: bool,
    /// The peer's last frame came.
    last: bool,
    closed: Option<Closed>,
    reader: Option<Waker>,

    /// Bytes that may still be sent.
    credit: u32,
    outgoing: VecDeque<Bytes>,
    outgoing_bytes: usize,
    sending: Sending,
    /// It stands in the outbox's line of streams with data.
    in_line: bool,
    writer: Option<Waker>,
}

impl Stream {
    pub(super) fn new(id: u32, role: Role) -> Self {
        Self {
            id,
            role,
            state: Mutex::new(State {
                phase: role.first_phase(),
                pieces: VecDeque::new(),
                counted: 0,
                messages: 0,
                accepted: 0,
                returned: 0,
                credit_queued: false,
                discard: false,
                last: false,
                closed: None,
                reader: None,
                credit: INITIAL_CREDIT,
                outgoing: VecDeque::new(),
                outgoing_bytes: 0,
                sending: Sending::Open,
                in_line: false,
                writer: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds this lock in an inconsistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a frame in. An error is the violation, in words.
    pub(super) fn receive(&self, kind: Kind, payload: Payload<'_>) -> Result<Received, String> {
        let mut state = self.lock();
        let step = self
            .role
            .step(state.phase, kind)
            .ok_or_else(|| format!("the agent sent {} out of place", kind.name()))?;
        let mut received = Received::default();
        match step {
            Step::Go(phase) => state.phase = phase,
            Step::Last => {
                state.last = true;
                received.last = true;
            }
        }
        match kind {
            Kind::Data => received.credit = state.take_in(Channel::Out, payload)?,
            Kind::DataErr => received.credit = state.take_in(Channel::Err, payload)?,
            _ => received.credit = state.take_message(kind, payload)?,
        }
        if received.last {
            state.drop_outgoing();
            received.credit = false;
        }
        let (reader, writer) = (
            state.reader.take(),
            if received.last {
                state.writer.take()
            } else {
                None
            },
        );
        drop(state);
        wake(reader);
        wake(writer);
        Ok(received)
    }

    /// Queues a connection at its listener. Gives it back where too many wait
    /// or nobody listens any more.
    pub(super) fn receive_accepted(&self, accepted: Arc<Stream>) -> Result<(), Arc<Stream>> {
        let mut state = self.lock();
        if state.discard || state.phase != Phase::Body || state.accepted >= ACCEPT_LIMIT {
            return Err(accepted);
        }
        state.accepted += 1;
        state
            .pieces
            .push_back(Piece::Other(Item::Accepted(accepted)));
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        Ok(())
    }

    /// Whether the listener has told its port.
    pub(super) fn is_listening(&self) -> bool {
        self.role == Role::Listen && self.lock().phase == Phase::Body
    }

    /// The peer took bytes.
    pub(super) fn receive_credit(&self, bytes: u32) -> Result<(), String> {
        if !self.role.sends() {
            return Err("the agent gave credit on a stream without input".to_owned());
        }
        let mut state = self.lock();
        state.credit = state
            .credit
            .checked_add(bytes)
            .ok_or("the agent gave more credit than can be counted")?;
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        Ok(())
    }

    /// Takes what arrived first. The second value says that credit is due.
    pub(super) fn poll_item(&self, cx: &mut Context<'_>) -> Poll<(Result<Item, Closed>, bool)> {
        let mut state = self.lock();
        if let Some(piece) = state.pieces.pop_front() {
            let (item, taken) = match piece {
                Piece::Small(channel, bytes) => {
                    let bytes = bytes.freeze();
                    let taken = bytes.len();
                    (Item::Data(channel, bytes), taken)
                }
                Piece::Large(channel, bytes) => {
                    let taken = bytes.len();
                    (Item::Data(channel, bytes), taken)
                }
                Piece::Other(Item::Message(kind, bytes)) => {
                    state.messages -= bytes.len() + MESSAGE_COST;
                    let taken = if kind.is_counted() { bytes.len() } else { 0 };
                    (Item::Message(kind, bytes), taken)
                }
                Piece::Other(item) => {
                    if matches!(item, Item::Accepted(_)) {
                        state.accepted -= 1;
                    }
                    (item, 0)
                }
            };
            // No overflow: a taken piece was counted when it came.
            state.counted -= u32::try_from(taken).unwrap_or(state.counted);
            let credit = state.give_back(taken);
            return Poll::Ready((Ok(item), credit));
        }
        if let Some(closed) = &state.closed {
            return Poll::Ready((Err(closed.clone()), false));
        }
        if state.last {
            let ended = Closed::protocol("the agent ended a stream too early");
            return Poll::Ready((Err(ended), false));
        }
        set_waker(&mut state.reader, cx);
        Poll::Pending
    }

    /// The credit to send now.
    pub(super) fn take_credit(&self) -> u32 {
        let mut state = self.lock();
        state.credit_queued = false;
        if state.last {
            return 0;
        }
        std::mem::take(&mut state.returned)
    }

    /// Queues as much of `data` as credit and bounds allow; waits for some.
    /// `take` makes the bytes of the given length. The second value says that
    /// the stream must be put in the outbox's line.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        take: impl FnOnce(usize) -> Bytes,
    ) -> Poll<Result<(usize, bool), SendError>> {
        let mut state = self.lock();
        if let Err(error) = state.may_send() {
            return Poll::Ready(Err(error));
        }
        let room = (state.credit as usize)
            .min(SEND_LIMIT.saturating_sub(state.outgoing_bytes))
            .min(DATA_CHUNK);
        if length == 0 {
            return Poll::Ready(Ok((0, false)));
        }
        if room == 0 {
            set_waker(&mut state.writer, cx);
            return Poll::Pending;
        }
        let count = length.min(room);
        state.outgoing.push_back(take(count));
        state.outgoing_bytes += count;
        state.credit -= u32::try_from(count).unwrap_or(state.credit);
        let enter = !std::mem::replace(&mut state.in_line, true);
        Poll::Ready(Ok((count, enter)))
    }

    /// Waits until everything queued was handed to the connection.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let mut state = self.lock();
        if let Some(closed) = &state.closed {
            return Poll::Ready(Err(closed.clone()));
        }
        if state.outgoing.is_empty() || state.last {
            return Poll::Ready(Ok(()));
        }
        set_waker(&mut state.writer, cx);
        Poll::Pending
    }

    /// Ends the host's side once everything queued is sent. The value says
    /// that the stream must be put in the outbox's line.
    pub(super) fn end(&self) -> Result<bool, SendError> {
        let mut state = self.lock();
        if state.sending != Sending::Open {
            return Ok(false);
        }
        state.may_send()?;
        state.sending = Sending::EndQueued;
        Ok(!std::mem::replace(&mut state.in_line, true))
    }

    /// Whether the host has ended its side, sent or not.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().sending != Sending::Open
    }

    /// Takes data for one frame, up to `most` bytes.
    pub(super) fn take_outgoing(&self, most: usize, into: &mut Vec<Bytes>) -> Outgoing {
        let mut state = self.lock();
        let mut taken = 0;
        while let Some(front) = state.outgoing.front_mut() {
            if taken > 0 && (taken + front.len() > most || into.len() >= 32) {
                break;
            }
            let part = front.split_to(front.len().min(most - taken));
            if front.is_empty() {
                state.outgoing.pop_front();
            }
            taken += part.len();
            into.push(part);
            if taken >= most {
                break;
            }
        }
        state.outgoing_bytes -= taken;
        let mut outgoing = Outgoing {
            end: false,
            more: !state.outgoing.is_empty(),
        };
        if state.outgoing.is_empty() && state.sending == Sending::EndQueued {
            state.sending = Sending::EndSent;
            outgoing.end = true;
        }
        state.in_line = outgoing.more;
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        outgoing
    }

    /// Whether both sides ended, for a stream that closes so.
    pub(super) fn both_ended(&self) -> bool {
        let state = self.lock();
        self.role.is_connection()
            && state.phase == Phase::Ended
            && state.sending == Sending::EndSent
    }

    /// The reader is gone: what waits is dropped and what comes is dropped.
    /// Gives the connections that nobody took, and whether credit is due.
    pub(super) fn discard(&self, keep_outgoing: bool) -> (Vec<Arc<Stream>>, bool) {
        let mut state = self.lock();
        state.discard = true;
        state.reader = None;
        let taken = state.counted as usize;
        let mut untaken = Vec::new();
        for piece in std::mem::take(&mut state.pieces) {
            if let Piece::Other(Item::Accepted(stream)) = piece {
                untaken.push(stream);
            }
        }
        state.counted = 0;
        state.messages = 0;
        state.accepted = 0;
        if !keep_outgoing {
            state.drop_outgoing();
        }
        let credit = state.give_back(taken);
        (untaken, credit)
    }

    /// The connection is closed; what arrived before can still be taken.
    pub(super) fn close(&self, closed: &Closed) {
        let mut state = self.lock();
        if state.closed.is_none() && !state.last {
            state.closed = Some(closed.clone());
        }
        state.drop_outgoing();
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        wake(reader);
        wake(writer);
    }
}

/// What [`Stream::take_outgoing`] found besides data.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The end is to be sent after the data.
    pub(super) end: bool,
    /// There is more data than was taken.
    pub(super) more: bool,
}

impl State {
    fn may_send(&self) -> Result<(), SendError> {
        if let Some(closed) = &self.closed {
            return Err(SendError::Closed(closed.clone()));
        }
        if self.last {
            return Err(SendError::StreamEnded);
        }
        if self.sending != Sending::Open {
            return Err(SendError::AfterEnd);
        }
        Ok(())
    }

    /// The length of a payload that the agent's credit covers.
    fn within_credit(&self, bytes: &[u8]) -> Result<u32, String> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let given = INITIAL_CREDIT - self.counted;
        let window = given - self.returned.min(given);
        if length > window {
            return Err(format!(
                "the agent sent {length} bytes where its credit was {window}"
            ));
        }
        Ok(length)
    }

    /// Takes data in, within the window. The value says that credit is due.
    fn take_in(&mut self, channel: Channel, payload: Payload<'_>) -> Result<bool, String> {
        let length = self.within_credit(payload.as_slice())?;
        if length == 0 {
            return Ok(false);
        }
        if self.discard {
            return Ok(self.give_back(payload.as_slice().len()));
        }
        self.counted += length;
        match payload {
            Payload::Owned(bytes) if bytes.len() > COPY_LIMIT => {
                self.pieces.push_back(Piece::Large(channel, bytes));
            }
            other => self.join(channel, other.as_slice()),
        }
        Ok(false)
    }

    fn join(&mut self, channel: Channel, bytes: &[u8]) {
        let fits = |piece: &Piece| {
            matches!(piece, Piece::Small(own, joined)
                if *own == channel && joined.len() + bytes.len() <= JOIN_LIMIT)
        };
        let place = if self.pieces.back().is_some_and(fits) {
            Some(self.pieces.len() - 1)
        } else if self.pieces.len() >= MANY_PIECES {
            // The order within a channel must hold, so only its last piece will do.
            let last = self.pieces.iter().rposition(
                |piece| matches!(piece, Piece::Small(own, _) | Piece::Large(own, _) if *own == channel),
            );
            last.filter(|at| fits(&self.pieces[*at]))
        } else {
            None
        };
        match place.map(|at| &mut self.pieces[at]) {
            Some(Piece::Small(_, joined)) => joined.extend_from_slice(bytes),
            _ => self
                .pieces
                .push_back(Piece::Small(channel, BytesMut::from(bytes))),
        }
    }

    /// Takes a message in. The value says that credit is due.
    fn take_message(&mut self, kind: Kind, payload: Payload<'_>) -> Result<bool, String> {
        let bytes = payload.as_slice().len();
        let counted = if kind.is_counted() {
            self.within_credit(payload.as_slice())?
        } else {
            0
        };
        if self.discard {
            return Ok(self.give_back(counted as usize));
        }
        let cost = bytes + MESSAGE_COST;
        if self.messages + cost > MESSAGE_LIMIT {
            if kind == Kind::WatchEvent {
                if !matches!(self.pieces.back(), Some(Piece::Other(Item::Overflow))) {
                    self.pieces.push_back(Piece::Other(Item::Overflow));
                }
                return Ok(self.give_back(bytes));
            }
            return Err(format!(
                "the agent sent more of {} than may wait for its reader",
                kind.name()
            ));
        }
        self.counted += counted;
        self.messages += cost;
        let item = Item::Message(kind, payload.into_bytes());
        self.pieces.push_back(Piece::Other(item));
        Ok(false)
    }

    /// Counts bytes as taken; true once the peer should be told.
    fn give_back(&mut self, taken: usize) -> bool {
        let taken = u32::try_from(taken).unwrap_or(u32::MAX);
        self.returned = self.returned.saturating_add(taken);
        let due = self.returned >= CREDIT_STEP && !self.credit_queued && !self.last;
        if due {
            self.credit_queued = true;
        }
        due
    }

    fn drop_outgoing(&mut self) {
        self.outgoing.clear();
        self.outgoing_bytes = 0;
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn set_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}
