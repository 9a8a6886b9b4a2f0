//! The frame header. Its twelve bytes never change.

use super::Kind;

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 12;
/// The largest payload that a receiver accepts.
pub const MAX_PAYLOAD: u32 = 1024 * 1024;

/// A frame header: `length u32 | stream u32 | kind u8 | reserved [u8; 3]`,
/// little endian. Reserved bytes are sent as zero and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload that follow.
    pub length: u32,
    /// The stream that the frame belongs to; 0 is the connection itself.
    pub stream: u32,
    /// What the payload is.
    pub kind: Kind,
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The payload is longer than [`MAX_PAYLOAD`].
    TooLong(u32),
    /// No message of this number exists in this generation.
    UnknownKind(u8),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong(length) => {
                write!(
                    f,
                    "frame of {length} bytes, at most {MAX_PAYLOAD} are accepted"
                )
            }
            Self::UnknownKind(kind) => write!(f, "unknown frame kind {kind}"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Header {
    /// Encodes the header.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&self.length.to_le_bytes());
        out[4..8].copy_from_slice(&self.stream.to_le_bytes());
        out[8] = self.kind as u8;
        out
    }

    /// Decodes a header.
    ///
    /// # Errors
    ///
    /// A length above [`MAX_PAYLOAD`] or a kind that this generation does not
    /// know. Both end the connection: the stream cannot be resynchronised.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let length = word(0);
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        let kind = Kind::from_number(bytes[8]).ok_or(FrameError::UnknownKind(bytes[8]))?;
        Ok(Self {
            length,
            stream: word(4),
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_round_trip() {
        for kind in Kind::ALL {
            let header = Header {
                length: 77,
                stream: 0x8000_0001,
                kind: *kind,
            };
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused() {
        let mut bytes = Header {
            length: 0,
            stream: 1,
            kind: Kind::Data,
        }
        .encode();
        bytes[0..4].copy_from_slice(&(MAX_PAYLOAD + 1).to_le_bytes());
        assert_eq!(
            Header::decode(&bytes),
            Err(FrameError::TooLong(MAX_PAYLOAD + 1))
        );
        let mut bytes = Header {
            length: 0,
            stream: 1,
            kind: Kind::Data,
        }
        .encode();
        bytes[8] = 255;
        assert_eq!(Header::decode(&bytes), Err(FrameError::UnknownKind(255)));
    }
}
