//! The newest output of a command, in bounded memory.

use std::collections::VecDeque;

/// Milliseconds of output that count as written at once.
const GRAIN_MS: u64 = 100;
/// Stretches of output whose times are known apart. When there are more, small
/// ones become one of at most this part of what is kept.
const MOST_STRETCHES: usize = 512;
const PART: usize = 128;

/// Keeps the newest bytes, knows how many came before them, and about when
/// each was written.
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    limit: usize,
    /// Bytes since the start of the command that are no longer kept.
    start: u64,
    stretches: VecDeque<Stretch>,
    /// When the newest byte that is no longer kept was written, at the latest.
    lost_ms: Option<u64>,
}

/// Bytes that were written close together.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// The number of its first byte.
    start: u64,
    first_ms: u64,
    last_ms: u64,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Takes bytes that were written now. `apart` says that something was
    /// written to another stream since.
    pub(super) fn push(&mut self, bytes: &[u8], now_ms: u64, apart: bool) {
        self.note(now_ms, apart);
        let keep = bytes.len().min(self.limit);
        let over = (self.bytes.len() + keep).saturating_sub(self.limit);
        self.bytes.drain(..over);
        self.bytes.extend(&bytes[bytes.len() - keep..]);
        self.start += (over + bytes.len() - keep) as u64;
        self.forget_times();
    }

    fn note(&mut self, now_ms: u64, apart: bool) {
        let start = self.end();
        if let Some(last) = self.stretches.back_mut()
            && !apart
            && now_ms.saturating_sub(last.first_ms) < GRAIN_MS
        {
            last.last_ms = now_ms;
            return;
        }
        if self.stretches.len() >= MOST_STRETCHES {
            self.join_stretches();
        }
        self.stretches.push_back(Stretch {
            start,
            first_ms: now_ms,
            last_ms: now_ms,
        });
    }

    fn join_stretches(&mut self) {
        let widest = (self.limit / PART).max(1) as u64;
        let all = std::mem::take(&mut self.stretches);
        let ends = all.iter().skip(1).map(|next| next.start);
        let ends: Vec<u64> = ends.chain([self.end()]).collect();
        for (stretch, end) in all.into_iter().zip(ends) {
            match self.stretches.back_mut() {
                Some(last) if end - last.start <= widest => last.last_ms = stretch.last_ms,
                _ => self.stretches.push_back(stretch),
            }
        }
    }

    /// Forgets the times of bytes that are no longer kept.
    fn forget_times(&mut self) {
        while let Some(front) = self.stretches.front()
            && front.start < self.start
        {
            self.lost_ms = Some(front.last_ms);
            let next = self.stretches.get(1).map_or(self.end(), |next| next.start);
            if next > self.start {
                return;
            }
            self.stretches.pop_front();
        }
    }

    /// Keeps up to this many bytes from now on, if that is more.
    pub(super) fn grow(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
    }

    /// Drops everything, as lost.
    pub(super) fn clear(&mut self) {
        self.start = self.end();
        self.bytes = VecDeque::new();
        self.forget_times();
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

    /// The number of the first byte that may have been written at `ms` or
    /// later; 0 where such bytes are lost.
    pub(super) fn since(&self, ms: u64) -> u64 {
        if self.lost_ms.is_some_and(|lost| lost >= ms) {
            return 0;
        }
        self.stretches
            .iter()
            .find(|stretch| stretch.last_ms >= ms)
            .map_or(self.end(), |stretch| stretch.start)
    }

    /// When byte number `from` was written, at the earliest, and the number
    /// behind the last byte of which the same is known. `None` at the end.
    pub(super) fn stretch(&self, from: u64) -> Option<(u64, u64)> {
        if from >= self.end() {
            return None;
        }
        let behind = self.stretches.partition_point(|known| known.start <= from);
        let stretch = self.stretches.get(behind.checked_sub(1)?)?;
        let end = self
            .stretches
            .get(behind)
            .map_or(self.end(), |next| next.start);
        Some((stretch.first_ms, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_stay_and_the_rest_is_counted() {
        let mut ring = Ring::new(4);
        ring.push(b"abc", 1, false);
        ring.push(b"de", 1, false);
        assert_eq!((ring.start(), ring.copy(1, 1)), (1, b"b".to_vec()));
        ring.push(b"0123456789", 1, false);
        assert_eq!((ring.start(), ring.end()), (11, 15));
        assert_eq!(ring.copy(12, 99), b"789");
        ring.clear();
        assert_eq!((ring.len(), ring.start()), (0, 15));
        let mut none = Ring::new(0);
        none.push(b"xy", 1, false);
        assert_eq!((none.len(), none.start()), (0, 2));
        none.grow(1);
        none.push(b"z", 1, false);
        assert_eq!(none.copy(2, 9), b"z");
    }

    #[test]
    fn what_was_written_since_a_moment_is_found() {
        let mut ring = Ring::new(8);
        ring.push(b"ab", 1000, false);
        ring.push(b"cd", 1050, false);
        ring.push(b"ef", 2000, false);
        assert_eq!(ring.since(0), 0);
        assert_eq!(ring.since(1050), 0, "written within a tenth of a second");
        assert_eq!(ring.since(1051), 4);
        assert_eq!(ring.since(2001), 6);
        assert_eq!(ring.stretch(1), Some((1000, 4)));
        assert_eq!(ring.stretch(4), Some((2000, 6)));
        assert_eq!(ring.stretch(6), None);
        // "ab" and "c" go: what was written then is partly lost.
        ring.push(b"ghijk", 3000, false);
        assert_eq!((ring.start(), ring.since(1050)), (3, 0));
        assert_eq!(ring.since(1051), 4);
        ring.clear();
        assert_eq!((ring.since(3000), ring.since(3001)), (0, 11));
    }

    #[test]
    fn times_take_bounded_memory_and_leave_nothing_out() {
        let mut ring = Ring::new(1 << 20);
        for n in 0..100_000_u64 {
            ring.push(b"x", n * 1000, false);
        }
        assert!(ring.stretches.len() <= MOST_STRETCHES);
        for n in [0, 1, 50_000, 99_998, 99_999] {
            let first = ring.since(n * 1000);
            assert!(first <= n && n - first < 8192, "{n}: {first}");
        }
        let mut both = [Ring::new(9), Ring::new(9)];
        for which in [0, 1, 0] {
            both[which].push(b"x", 7, true);
        }
        assert_eq!(both[0].stretch(0), Some((7, 1)));
    }
}
