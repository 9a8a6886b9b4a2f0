//! The end of the interpreter.
//!
//! A thread that wants Python while it ends is ended by it (before Python 3.14), and Rust
//! aborts the process for that. So threads of ours enter Python only until its end begins.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// How long those within are waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(1);

static ENDS: AtomicBool = AtomicBool::new(false);
/// The thread that ends it.
static ENDER: OnceLock<ThreadId> = OnceLock::new();
/// Threads that are within, or about to be.
static WITHIN: AtomicUsize = AtomicUsize::new(0);

/// A thread within Python, which does not end meanwhile.
#[derive(Debug)]
pub(crate) struct Within(());

impl Within {
    /// None once the interpreter ends.
    pub(crate) fn enter() -> Option<Self> {
        WITHIN.fetch_add(1, SeqCst);
        let within = Self(());
        (!ENDS.load(SeqCst)).then_some(within)
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.fetch_sub(1, SeqCst);
    }
}

/// Forgets the threads within after a fork: a child has none of them.
pub(crate) fn in_child() {
    WITHIN.store(0, SeqCst);
}

/// Whether the interpreter ends.
pub(crate) fn has_begun() -> bool {
    ENDS.load(SeqCst)
}

/// Keeps a thread for ever that would go back to Python while that ends, unless it is the one
/// that ends it: all others that matter were waited for.
pub(crate) fn stay_out() {
    while has_begun() && ENDER.get() != Some(&std::thread::current().id()) {
        std::thread::park();
    }
}

/// Lets no thread of ours enter any more, and waits for those within. Called by `atexit`.
#[pyfunction]
pub(crate) fn end(py: Python<'_>) {
    ENDER.get_or_init(|| std::thread::current().id());
    ENDS.store(true, SeqCst);
    py.detach(|| {
        let until = Instant::now() + PATIENCE;
        while WITHIN.load(SeqCst) > 0 && Instant::now() < until {
            #[expect(
                clippy::disallowed_methods,
                reason = "an event would need a lock, which another thread can hold in a fork"
            )]
            std::thread::sleep(LOOK);
        }
    });
}
