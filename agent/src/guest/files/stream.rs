//! Moves bytes between a file and the data descriptor.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, Result};

/// Bytes moved at once.
pub(super) const CHUNK: usize = 256 * 1024;

/// The data descriptor, whether it blocks or not.
#[derive(Clone, Copy)]
pub(super) struct Data<'a>(pub(super) BorrowedFd<'a>);

impl Data<'_> {
    /// Reads some bytes; 0 at the end.
    pub(super) fn read(self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match rustix::io::read(self.0, &mut *buffer) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                result => return result,
            }
        }
    }

    /// Writes all bytes.
    pub(super) fn write_all(self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(self.0, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Sends up to `length` bytes of a file from `offset` on, to its end.
    /// Answers how many there were.
    pub(super) fn send_file(self, file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<u64> {
        let mut at = offset;
        let end = offset.saturating_add(length);
        let mut by_kernel = true;
        let mut buffer = Vec::new();
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK);
            if by_kernel {
                match rustix::fs::sendfile(self.0, file, Some(&mut at), want) {
                    Ok(0) => by_kernel = false, // the end, or a file that the kernel cannot send
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::OVERFLOW) => {
                        by_kernel = false;
                    }
                    Err(errno) => return Err(errno),
                }
                continue;
            }
            buffer.resize(CHUNK, 0);
            match rustix::io::pread(file, &mut buffer[..want], at) {
                Ok(0) => break,
                Ok(count) => {
                    self.write_all(&buffer[..count])?;
                    at += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(at - offset)
    }

    fn wait(self, events: PollFlags) -> Result<()> {
        let mut fds = [PollFd::from_borrowed_fd(self.0, events)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

impl std::io::Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        Data::read(*self, buffer).map_err(Into::into)
    }
}
