//! The newest output of a command, in bounded memory.

use std::collections::VecDeque;

/// Keeps the newest bytes and knows how many came before them.
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    limit: usize,
    /// Bytes since the start of the command that are no longer kept.
    start: u64,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            limit,
            start: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let keep = bytes.len().min(self.limit);
        let over = (self.bytes.len() + keep).saturating_sub(self.limit);
        self.bytes.drain(..over);
        self.bytes.extend(&bytes[bytes.len() - keep..]);
        self.start += (over + bytes.len() - keep) as u64;
    }

    /// Drops everything, as lost.
    pub(super) fn clear(&mut self) {
        self.start = self.end();
        self.bytes = VecDeque::new();
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The number of the oldest byte that is kept: so many are lost.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The number of the next byte to come.
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Copies kept bytes from number `from` on, at most `most`.
    pub(super) fn copy(&self, from: u64, most: usize) -> Vec<u8> {
        let skip = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.bytes.iter().skip(skip).take(most).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_stay_and_the_rest_is_counted() {
        let mut ring = Ring::new(4);
        ring.push(b"abc");
        ring.push(b"de");
        assert_eq!((ring.start(), ring.copy(1, 1)), (1, b"b".to_vec()));
        ring.push(b"0123456789");
        assert_eq!((ring.start(), ring.end()), (11, 15));
        assert_eq!(ring.copy(12, 99), b"789");
        ring.clear();
        assert_eq!((ring.len(), ring.start()), (0, 15));
        let mut none = Ring::new(0);
        none.push(b"xy");
        assert_eq!((none.len(), none.start()), (0, 2));
    }
}
