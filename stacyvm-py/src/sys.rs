//! What must be known of `fork`.
#![allow(unsafe_code, reason = "the handler of a fork is registered with libc")]

use std::sync::Once;

use pyo3::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many forks lie between the first process of this program and this one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    crate::ending::in_child();
}

/// The number of this process among its ancestors: it differs from what the parent
/// saw before the fork. Threads, locks and connections of another number are not ours.
pub(crate) fn generation() -> u64 {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the handler does two atomic writes, which are allowed after a fork.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
    GENERATION.load(Ordering::Relaxed)
}

/// Before `os.fork`: closes what a child must not inherit.
#[pyfunction]
pub(crate) fn before_fork() {
    stacyvm::store::before_fork();
}

/// After `os.fork`, in the parent and in the child.
#[pyfunction]
pub(crate) fn after_fork() {
    stacyvm::store::after_fork();
}
