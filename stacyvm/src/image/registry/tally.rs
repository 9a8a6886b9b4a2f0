//! How far a pull is, over all of its blobs.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::provider::{PullObserver, PullProgress};

/// Bytes of all blobs of one pull.
pub(super) struct Tally {
    done: AtomicU64,
    total: AtomicU64,
    observer: Option<PullObserver>,
}

impl Tally {
    pub(super) fn new(observer: Option<PullObserver>) -> Self {
        Self {
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            observer,
        }
    }

    /// A blob of so many bytes is begun.
    pub(super) fn begin(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes came.
    pub(super) fn came(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(observer) = &self.observer {
            // A registry may send more than was promised, until that is refused.
            let total = self.total.load(Ordering::Relaxed).max(done);
            observer(PullProgress { done, total });
        }
    }
}
