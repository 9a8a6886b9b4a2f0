//! What waits to be written on a connection, in the order of its urgency.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use stacyvm_agent::protocol::message::{self, Credit};
use stacyvm_agent::protocol::{HEADER_BYTES, Header, Kind};

use super::stream::Stream;

/// The most bytes of one data frame: small enough that streams take turns.
const TURN: usize = 64 * 1024;

/// Frames and streams that wait. Bounded: at most one request, one give-up and
/// one credit for each open stream; data stays in its stream.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) ping: bool,
    pub(super) pong: Option<Vec<u8>>,
    /// Cancels and detaches.
    pub(super) control: VecDeque<Bytes>,
    pub(super) credits: VecDeque<Arc<Stream>>,
    pub(super) requests: VecDeque<Request>,
    /// Streams with data or an end to send, in turn.
    pub(super) line: VecDeque<Arc<Stream>>,
}

/// A request that no byte of was handed to the connection yet.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) stream: u32,
    pub(super) kind: Kind,
    pub(super) payload: Bytes,
}

/// What is written next.
pub(super) enum Turn {
    /// A whole frame, or its header and payload.
    Frame(Bytes, Option<Bytes>),
    /// Credit of this stream.
    Credit(Arc<Stream>),
    /// Data of this stream.
    Data(Arc<Stream>),
    Nothing,
}

impl Outbox {
    /// Takes what is most urgent.
    pub(super) fn next(&mut self) -> Turn {
        if std::mem::take(&mut self.ping) {
            return Turn::Frame(frame(0, Kind::Ping, &[]), None);
        }
        if let Some(payload) = self.pong.take() {
            return Turn::Frame(frame(0, Kind::Pong, &payload), None);
        }
        if let Some(bytes) = self.control.pop_front() {
            return Turn::Frame(bytes, None);
        }
        if let Some(stream) = self.credits.pop_front() {
            return Turn::Credit(stream);
        }
        if let Some(request) = self.requests.pop_front() {
            if request.payload.len() <= TURN {
                let whole = frame(request.stream, request.kind, &request.payload);
                return Turn::Frame(whole, None);
            }
            let header = header(request.stream, request.kind, request.payload.len());
            return Turn::Frame(header, Some(request.payload));
        }
        match self.line.pop_front() {
            Some(stream) => Turn::Data(stream),
            None => Turn::Nothing,
        }
    }

    /// Takes back a request that was not sent. True if it was there.
    pub(super) fn withdraw(&mut self, stream: u32) -> bool {
        let place = self.requests.iter().position(|r| r.stream == stream);
        place.and_then(|at| self.requests.remove(at)).is_some()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Appends a stream's credit.
pub(super) fn credit(stream: &Stream, into: &mut VecDeque<Bytes>) {
    let bytes = stream.take_credit();
    if bytes > 0 {
        let payload = message::encode(&Credit { bytes });
        into.push_back(frame(stream.id, Kind::Credit, &payload));
    }
}

/// Appends one frame of a stream's data, and its end. The first value says
/// that there is more, the second that the end was sent.
pub(super) fn data(stream: &Stream, into: &mut VecDeque<Bytes>) -> (bool, bool) {
    let mut parts = Vec::new();
    let outgoing = stream.take_outgoing(TURN, &mut parts);
    let length: usize = parts.iter().map(Bytes::len).sum();
    if length > 0 {
        into.push_back(header(stream.id, Kind::Data, length));
        into.extend(parts);
    }
    if outgoing.end {
        into.push_back(frame(stream.id, Kind::End, &[]));
    }
    (outgoing.more, outgoing.end)
}

pub(super) fn frame(stream: u32, kind: Kind, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&header(stream, kind, payload.len()));
    out.extend_from_slice(payload);
    out.into()
}

fn header(stream: u32, kind: Kind, length: usize) -> Bytes {
    let header = Header {
        // Requests are checked against the limit when they are made, data is cut.
        length: u32::try_from(length).unwrap_or(u32::MAX),
        stream,
        kind,
    };
    Bytes::copy_from_slice(&header.encode())
}
