//! Work that nobody waits for, until the engine closes.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};
use tracing::Instrument as _;

/// The most pieces of work at once; a caller that floods the engine does not
/// fill the memory of the host.
const MOST: usize = 1024;

#[derive(Debug)]
pub(super) struct Tasks {
    running: Arc<AtomicUsize>,
    idle: Arc<Notify>,
    room: Arc<Semaphore>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            running: Arc::default(),
            idle: Arc::default(),
            room: Arc::new(Semaphore::new(MOST)),
        }
    }
}

/// Counts a task until it is dropped, however it ends.
struct Counted {
    running: Arc<AtomicUsize>,
    idle: Arc<Notify>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }
}

impl Tasks {
    /// Starts a piece of work, or drops it where too much is under way already.
    /// Tells which.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return false;
        };
        self.running.fetch_add(1, Ordering::AcqRel);
        let counted = Counted {
            running: Arc::clone(&self.running),
            idle: Arc::clone(&self.idle),
        };
        let work = async move {
            let _held = (room, counted);
            work.await;
        };
        tokio::spawn(work.in_current_span());
        true
    }

    /// Waits until nothing is under way.
    pub(super) async fn finish(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Listening before looking, so that no end is missed.
            idle.as_mut().enable();
            if self.running.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}
