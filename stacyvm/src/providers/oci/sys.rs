//! The one call of this provider that the compiler cannot check.
#![allow(
    unsafe_code,
    reason = "tokio leaves to its caller that a descriptor stays open"
)]

use std::os::fd::BorrowedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a borrowed descriptor with the runtime of the caller.
pub(super) fn register(descriptor: BorrowedFd<'_>) -> std::io::Result<AsyncFd<BorrowedFd<'_>>> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    // SAFETY: a `BorrowedFd` refers to an open descriptor, and its lifetime,
    // which the result carries, ends before that descriptor is closed.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    registered.map_err(std::io::Error::from)
}
