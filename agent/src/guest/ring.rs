//! Output that waits for a reader, in bounded memory.

use std::collections::VecDeque;

/// Keeps the newest bytes and counts what it dropped.
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    limit: usize,
    lost: u64,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            limit,
            lost: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let keep = bytes.len().min(self.limit);
        let over = (self.bytes.len() + keep).saturating_sub(self.limit);
        self.bytes.drain(..over);
        self.bytes.extend(&bytes[bytes.len() - keep..]);
        self.lost += (over + bytes.len() - keep) as u64;
    }

    /// Drops everything, as lost.
    pub(super) fn clear(&mut self) {
        self.lost += self.bytes.len() as u64;
        self.bytes = VecDeque::new();
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes the count of lost bytes.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Takes the oldest bytes, at most `most`.
    pub(super) fn take(&mut self, most: usize) -> Vec<u8> {
        let count = most.min(self.bytes.len());
        let out = self.bytes.drain(..count).collect();
        if self.bytes.is_empty() {
            self.bytes = VecDeque::new();
        }
        out
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
        assert_eq!((ring.take_lost(), ring.take(1)), (1, b"b".to_vec()));
        ring.push(b"0123456789");
        assert_eq!(ring.take_lost(), 9);
        assert_eq!(ring.take(99), b"6789");
        assert!(ring.is_empty());
        let mut none = Ring::new(0);
        none.push(b"xy");
        assert_eq!((none.len(), none.take_lost()), (0, 2));
    }
}
