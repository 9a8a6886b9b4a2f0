//! Memory that is written so that nobody else has it.

use std::io;
use std::ptr::NonNull;

use super::check;

/// An own mapping, which processes that are forked do not get.
#[derive(Debug)]
pub(in crate::guest) struct Kept {
    start: NonNull<u8>,
    bytes: usize,
}

impl Kept {
    /// Takes addresses alone; memory comes with [`Kept::fill`].
    pub(in crate::guest) fn new(bytes: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let kept = Self { start, bytes };
        kept.advise(libc::MADV_DONTFORK)?;
        Ok(kept)
    }

    /// Writes to each page.
    pub(in crate::guest) fn fill(&mut self) {
        // SAFETY: the mapping is this value's alone and that long.
        unsafe { std::ptr::write_bytes(self.start.as_ptr(), 1, self.bytes) };
    }

    /// Lets the pages go. The addresses stay.
    pub(in crate::guest) fn give_back(&mut self) {
        // It was a mapping a moment ago, so it is not refused.
        let _ = self.advise(libc::MADV_DONTNEED);
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: a mapping of this value's, of which nobody has a reference.
        check(unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, advice) })?;
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: a mapping of this value's, which is gone now.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
