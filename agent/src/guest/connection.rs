//! One host connection: its buffers, its streams, their credit.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::protocol::{DATA_CHUNK, HEADER_BYTES, Header, INITIAL_CREDIT, Kind};

/// Bytes that wait for a host above which its sources are no longer read.
pub(super) const HIGH: usize = 512 * 1024;
/// Streams that a connection may have open.
pub(super) const MAX_STREAMS: usize = 1024;
/// The most credit that a stream can gather.
const MAX_CREDIT: u64 = 1 << 40;
/// Bytes read at once.
const READ_CHUNK: usize = 32 * 1024;
/// Room for what is sent that is made without knowing that it is needed, and kept.
const SMALL: usize = 4 * 1024;
/// The longest payload before a connection is accepted.
const MAX_HELLO: u32 = 4096;

/// What a stream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Exec(u64),
    /// Its kept output is read.
    Log(u64),
    Worker(u64),
    Socket(u64),
    Listener(u64),
    /// One answer is on its way.
    Answer,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) target: Target,
    /// Bytes that the agent may send.
    pub(super) send: u64,
    /// Bytes that the host may send.
    pub(super) receive: u64,
}

/// What a read from the host gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Some,
    Nothing,
    Closed,
}

/// One frame from the host.
pub(super) struct Frame<'a> {
    pub(super) stream: u32,
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
}

/// What was read and not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    head: usize,
    tail: usize,
}

impl Inbox {
    /// Room to read into: for the rest of the frame at hand at least, where it is known.
    fn room(&mut self) -> &mut [u8] {
        let waiting = self.tail - self.head;
        let header = self.bytes[self.head..self.tail].first_chunk::<HEADER_BYTES>();
        let frame = header.and_then(|header| Header::decode(header).ok());
        let whole = frame.map_or(0, |frame| HEADER_BYTES + frame.length as usize);
        let wanted = READ_CHUNK.max(whole.saturating_sub(waiting));
        if self.bytes.len() - self.tail < wanted && self.head > 0 {
            self.bytes.copy_within(self.head..self.tail, 0);
            (self.head, self.tail) = (0, waiting);
        }
        if self.bytes.len() - self.tail < wanted {
            self.bytes.resize(self.tail + wanted, 0);
        }
        &mut self.bytes[self.tail..]
    }

    /// The next whole frame.
    ///
    /// # Errors
    ///
    /// A header that cannot be: the connection must end.
    pub(super) fn next(&mut self, longest: u32) -> Result<Option<Frame<'_>>, String> {
        let rest = &self.bytes[self.head..self.tail];
        let Some(header) = rest.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::decode(header).map_err(|error| error.to_string())?;
        if header.length > longest {
            return Err("the first frame is too long".to_owned());
        }
        let end = HEADER_BYTES + header.length as usize;
        let Some(payload) = rest.get(HEADER_BYTES..end) else {
            return Ok(None);
        };
        self.head += end;
        Ok(Some(Frame {
            stream: header.stream,
            kind: header.kind,
            payload,
        }))
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    /// What is read, and written where there is no way back of its own.
    pub(super) fd: OwnedFd,
    /// What is written, where the two ways are two pipes.
    pub(super) back: Option<OwnedFd>,
    pub(super) nonce: Vec<u8>,
    pub(super) keyed: bool,
    pub(super) accepted: bool,
    /// No more is read; it closes once what waits is written.
    pub(super) closing: bool,
    pub(super) heard_ms: u64,
    pub(super) streams: BTreeMap<u32, Stream>,
    pub(super) next_stream: u32,
    /// Somebody was refused room for the sake of what waits.
    pub(super) over: bool,
    inbox: Inbox,
    out: Vec<u8>,
    head: usize,
    tail: usize,
}

impl Connection {
    pub(super) fn new(fd: OwnedFd, nonce: Vec<u8>, keyed: bool, now_ms: u64) -> Self {
        Self {
            fd,
            back: None,
            nonce,
            keyed,
            accepted: false,
            closing: false,
            heard_ms: now_ms,
            streams: BTreeMap::new(),
            next_stream: 0,
            over: false,
            inbox: Inbox::default(),
            out: Vec::new(),
            head: 0,
            tail: 0,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.tail - self.head
    }

    /// Bytes of data that may be sent on a stream now. Who gets none for the sake
    /// of what waits is pumped again when that is written.
    pub(super) fn room(&mut self, stream: u32) -> usize {
        if self.waiting() >= HIGH {
            // What is written before anybody looks would not show any more.
            self.over = true;
        }
        if self.over || self.closing {
            return 0;
        }
        let credit = self.streams.get(&stream).map_or(0, |stream| stream.send);
        usize::try_from(credit)
            .unwrap_or(usize::MAX)
            .min(DATA_CHUNK)
    }

    /// Whether the credit of a stream covers a counted message.
    pub(super) fn covers(&self, stream: u32, bytes: usize) -> bool {
        // Of a stream that is gone nothing is sent, so nothing waits for it.
        self.streams
            .get(&stream)
            .is_none_or(|stream| stream.send >= bytes as u64)
    }

    pub(super) fn open(&mut self, stream: u32, target: Target) {
        self.streams.insert(
            stream,
            Stream {
                target,
                send: u64::from(INITIAL_CREDIT),
                receive: u64::from(INITIAL_CREDIT),
            },
        );
    }

    pub(super) fn grant(&mut self, stream: u32, bytes: u32) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.send = (stream.send + u64::from(bytes)).min(MAX_CREDIT);
        }
    }

    fn make_room(&mut self, bytes: usize) {
        if self.out.len() - self.tail >= bytes {
            return;
        }
        if self.head > 0 {
            self.out.copy_within(self.head..self.tail, 0);
            self.tail -= self.head;
            self.head = 0;
        }
        if self.out.len() - self.tail < bytes {
            self.out.resize(self.tail + bytes, 0);
        }
    }

    /// Queues a frame.
    pub(super) fn frame(&mut self, stream: u32, kind: Kind, payload: &[u8]) {
        let header = Header {
            length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            stream,
            kind,
        };
        self.make_room(HEADER_BYTES + payload.len());
        self.out[self.tail..self.tail + HEADER_BYTES].copy_from_slice(&header.encode());
        self.tail += HEADER_BYTES;
        self.out[self.tail..self.tail + payload.len()].copy_from_slice(payload);
        self.tail += payload.len();
    }

    /// Queues data, or a message that counts as data.
    pub(super) fn data(&mut self, stream: u32, kind: Kind, bytes: &[u8]) {
        self.frame(stream, kind, bytes);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.send = stream.send.saturating_sub(bytes.len() as u64);
        }
    }

    /// Reads from `source` straight into a data frame.
    pub(super) fn data_from(
        &mut self,
        stream: u32,
        kind: Kind,
        source: BorrowedFd<'_>,
        most: usize,
    ) -> Result<usize, Errno> {
        // Room that nothing comes into costs the kernel of some sandboxes more than a
        // whole command. What cannot say how much it has gets the most.
        let there = rustix::io::ioctl_fionread(source).unwrap_or(u64::MAX);
        let there = usize::try_from(there).unwrap_or(usize::MAX);
        let most = most.min(there.max(SMALL));
        self.make_room(HEADER_BYTES + most);
        let start = self.tail + HEADER_BYTES;
        let count = rustix::io::read(source, &mut self.out[start..start + most])?;
        if count > 0 {
            let header = Header {
                length: u32::try_from(count).unwrap_or(u32::MAX),
                stream,
                kind,
            };
            self.out[self.tail..start].copy_from_slice(&header.encode());
            self.tail = start + count;
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.send = stream.send.saturating_sub(count as u64);
            }
        }
        Ok(count)
    }

    /// The bytes that [`data_from`](Self::data_from) read last.
    pub(super) fn newest(&self, count: usize) -> &[u8] {
        &self.out[self.tail - count..self.tail]
    }

    /// Writes what the socket takes; false when the host is gone.
    pub(super) fn flush(&mut self) -> bool {
        while self.head < self.tail {
            let waiting = &self.out[self.head..self.tail];
            let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
            let written = match &self.back {
                Some(pipe) => rustix::io::write(pipe, waiting),
                None => rustix::net::send(&self.fd, waiting, flags),
            };
            match written {
                Ok(count) => self.head += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        self.head = 0;
        self.tail = 0;
        if self.streams.is_empty() && self.out.len() > SMALL {
            self.out = Vec::new();
        }
        true
    }

    /// Reads once.
    pub(super) fn fill(&mut self) -> Input {
        match rustix::io::read(&self.fd, self.inbox.room()) {
            Ok(0) => Input::Closed,
            Ok(count) => {
                self.inbox.tail += count;
                Input::Some
            }
            Err(Errno::AGAIN | Errno::INTR) => Input::Nothing,
            Err(_) => Input::Closed,
        }
    }

    /// Takes what was read, to look at its frames while the connection is used.
    pub(super) fn take_inbox(&mut self) -> Inbox {
        std::mem::take(&mut self.inbox)
    }

    /// Gives back what is left of it. Who has nothing to say keeps no memory for it.
    pub(super) fn put_inbox(&mut self, mut inbox: Inbox) {
        if inbox.head == inbox.tail {
            (inbox.head, inbox.tail) = (0, 0);
            if self.streams.is_empty() {
                inbox.bytes = Vec::new();
            }
        }
        self.inbox = inbox;
    }

    /// The longest payload that the next frame may have.
    pub(super) fn longest(&self) -> u32 {
        if self.accepted { u32::MAX } else { MAX_HELLO }
    }
}

/// Splits `bytes` into frames and decodes them, as if they came from a host.
/// Gives the number of whole frames.
pub(super) fn feed(bytes: &[u8]) -> usize {
    use crate::protocol::message;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok((host, agent)) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None) else {
        return 0;
    };
    let mut connection = Connection::new(agent, Vec::new(), false, 0);
    connection.accepted = true;
    let mut frames = 0;
    for part in bytes.chunks(READ_CHUNK) {
        if rustix::io::write(&host, part) != Ok(part.len()) {
            return frames;
        }
        while connection.fill() == Input::Some {
            let mut inbox = connection.take_inbox();
            loop {
                let frame = match inbox.next(connection.longest()) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(_) => return frames,
                };
                frames += 1;
                connection.open(frame.stream, Target::Answer);
                if let Ok(credit) = message::decode::<message::Credit>(frame.payload) {
                    connection.grant(frame.stream, credit.bytes);
                }
                let _ = message::decode::<message::ExecRequest>(frame.payload);
                let _ = super::files::FileTask::decode(frame.kind, frame.payload);
            }
            connection.put_inbox(inbox);
        }
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_across_reads_and_a_bad_header_ends_them() {
        let mut bytes = Vec::new();
        for stream in 1..4 {
            let header = Header {
                length: 20_000,
                stream,
                kind: Kind::Data,
            };
            bytes.extend(header.encode());
            bytes.extend(vec![5; 20_000]);
        }
        assert_eq!(feed(&bytes), 3);
        bytes.truncate(bytes.len() - 1);
        assert_eq!(feed(&bytes), 2);
        bytes[HEADER_BYTES + 20_000..][..HEADER_BYTES].fill(0xff);
        assert_eq!(feed(&bytes), 1);
    }
}
