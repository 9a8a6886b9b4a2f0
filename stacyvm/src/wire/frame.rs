//! Frames: a length of four bytes (big-endian) of what follows the kind, a kind
//! of one byte, and that many bytes.
//!
//! # A body of frames
//!
//! [`Kind::Head`] first where there is one, then [`Kind::Data`] or [`Kind::Item`]
//! any number of times, then [`Kind::End`] or [`Kind::Error`]. A body without one
//! of these two broke off.
//!
//! # After `101 Switching Protocols` of exec and attach
//!
//! The server sends [`Kind::Head`], then events; the last event is
//! [`Kind::Exited`] or [`Kind::Error`], unless the connection is lost, as it is for a
//! client that breaks these rules. It sends an event only while it has
//! credit ([`Kind::Credit`], [`WINDOW`] at most); each event uses up [`EVENT`] and
//! its bytes of output, the last one more than there was. So nothing is taken from a command that
//! nobody reads, and answers ([`Kind::Done`]) never wait behind output.
//!
//! The client sends calls, each with a number of four bytes in front; the server
//! answers each by that number. One [`Kind::Stdin`] or [`Kind::CloseStdin`] at a
//! time waits for its answer. The end of the connection is the end of the
//! session: it cancels a command of the foreground.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::error::{Error, ErrorKind, Result};

/// The most bytes that follow a kind.
pub const LONGEST: usize = 1 << 20;
/// The most credit that a server may have.
pub const WINDOW: u32 = 256 << 10;
/// The credit that an event uses up beside its bytes.
pub const EVENT: u32 = 64;
/// Bytes of the number in front of a call.
pub const NUMBER: usize = 4;

const HEADER: usize = 5;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        /// What a frame is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $value,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// What the stream is about, in JSON.
    Head = 1;
    /// Bytes of a file or an archive.
    Data = 2;
    /// The stream is whole; for an archive what it does not hold, in JSON.
    End = 3;
    /// The stream failed: an error body in JSON.
    Error = 4;
    /// One of a list, in JSON.
    Item = 5;
    /// Bytes of standard output, or of the terminal.
    Stdout = 16;
    /// Bytes of standard error.
    Stderr = 17;
    /// How much output is gone, in JSON.
    Lost = 18;
    /// How the command ended, in JSON.
    Exited = 19;
    /// A call: bytes for standard input.
    Stdin = 32;
    /// A call: closes standard input.
    CloseStdin = 33;
    /// A call: sets the size of the terminal, in JSON.
    Resize = 34;
    /// A call: sends a signal, in JSON.
    Signal = 35;
    /// Four bytes (big-endian): so many more bytes of output may be sent.
    Credit = 36;
    /// The answer to a call: its number, and an error body in JSON where it failed.
    Done = 37;
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// What follows the kind.
    pub payload: Bytes,
}

impl Frame {
    /// The answer's or call's number, and what follows it.
    ///
    /// # Errors
    ///
    /// `protocol` for a frame that is too short to have one.
    pub fn numbered(mut self) -> Result<(u32, Bytes)> {
        if self.payload.len() < NUMBER {
            return Err(broken("a call without a number"));
        }
        let number = self.payload.get_u32();
        Ok((number, self.payload))
    }

    /// The credit.
    ///
    /// # Errors
    ///
    /// `protocol` for another length than four bytes.
    pub fn credit(mut self) -> Result<u32> {
        if self.payload.len() != NUMBER {
            return Err(broken("a credit that is no number of four bytes"));
        }
        Ok(self.payload.get_u32())
    }
}

/// Writes a frame. What is longer than [`LONGEST`] is the caller's to cut.
pub fn encode(kind: Kind, payload: &[u8]) -> Bytes {
    encode_parts(kind, &[payload])
}

/// Writes a frame with a number in front.
pub fn encode_numbered(kind: Kind, number: u32, payload: &[u8]) -> Bytes {
    encode_parts(kind, &[&number.to_be_bytes(), payload])
}

fn encode_parts(kind: Kind, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(length <= LONGEST, "a frame of {length} bytes");
    let mut frame = BytesMut::with_capacity(HEADER + length);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_u8(kind as u8);
    for part in parts {
        frame.put_slice(part);
    }
    frame.freeze()
}

/// Bytes as frames, cut where they are too long for one.
pub fn encode_long(kind: Kind, bytes: &[u8]) -> Bytes {
    let mut all = BytesMut::with_capacity(bytes.len() + HEADER);
    for piece in bytes.chunks(LONGEST) {
        all.put_u32(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        all.put_u8(kind as u8);
        all.put_slice(piece);
    }
    all.freeze()
}

/// Finds frames in bytes as they come. What is announced is believed only up to
/// [`LONGEST`].
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Where bytes that came are put.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether a frame has begun that is not whole.
    pub fn is_within_a_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next frame, if all of it is there.
    ///
    /// # Errors
    ///
    /// `protocol` for one that is too long or of an unknown kind; nothing after
    /// it can be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let Some(header) = self.buffer.get(..HEADER) else {
            return Ok(None);
        };
        let length = header[..4].try_into().map_or(u32::MAX, u32::from_be_bytes);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(broken(&format!(
                "a frame of {length} bytes, expected at most {LONGEST}"
            )));
        }
        let byte = header[4];
        let kind = Kind::from_byte(byte)
            .ok_or_else(|| broken(&format!("a frame of the unknown kind {byte}")))?;
        if self.buffer.len() < HEADER + length {
            self.buffer.reserve(HEADER + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let payload = self.buffer.split_to(length).freeze();
        Ok(Some(Frame { kind, payload }))
    }
}

/// The other side did not keep to the protocol.
pub(crate) fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the other side sent {what}"))
}

/// A stream of frames ended before its last one.
#[cfg(any(feature = "http", feature = "server"))]
pub(crate) fn broke_off() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the connection broke off before the stream was whole",
    )
}
