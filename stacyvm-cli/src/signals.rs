//! What this process does with signals that its parent chose for it.

#![allow(unsafe_code, reason = "no safe wrapper sets a disposition")]

/// Has the kernel keep the exit status of children. Whoever started this may
/// ignore SIGCHLD, which is inherited, and then no end of a child has a status.
pub(crate) fn take_ends_of_children() {
    // SAFETY: no handler function is installed, and there is one thread yet.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}
