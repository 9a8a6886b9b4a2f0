//! Bytes on their way from a host into a pipe, terminal or socket.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;

/// Taken bytes that are gathered before the host gets them back as credit.
const CREDIT_STEP: u32 = 128 * 1024;

/// What a [`Sink::write`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing is left to write.
    Empty,
    /// The descriptor takes no more for now.
    Blocked,
    /// All is written and the host said that no more comes.
    Finished,
    /// The reader is gone; what comes is thrown away.
    Broken,
}

/// Holds what the descriptor did not take yet; the credit of the stream bounds it.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pending: Vec<u8>,
    head: usize,
    ended: bool,
    broken: bool,
    taken: u32,
}

impl Sink {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.broken || self.ended {
            self.taken = self.taken.saturating_add(length(bytes));
            return;
        }
        // What was taken goes, also where something always waits; half at a time, so
        // that each byte is moved once at most.
        if self.head > self.pending.len() / 2 {
            self.pending.drain(..self.head);
            self.head = 0;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// The same, and what `to` takes at once is not kept first.
    pub(super) fn pass(&mut self, mut bytes: &[u8], to: Option<BorrowedFd<'_>>) {
        if let Some(to) = to
            && !self.has_pending()
            && !self.broken
            && !self.ended
        {
            while !bytes.is_empty() {
                // What went wrong shows again when the rest is written.
                let Ok(written) = rustix::io::write(to, bytes) else {
                    break;
                };
                self.taken = self.taken.saturating_add(length(&bytes[..written]));
                bytes = &bytes[written..];
            }
        }
        self.push(bytes);
    }

    /// No more bytes come.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn has_pending(&self) -> bool {
        self.head < self.pending.len()
    }

    /// Throws away what waits, and all that comes.
    pub(super) fn give_up(&mut self) {
        self.taken = self
            .taken
            .saturating_add(length(&self.pending[self.head..]));
        self.pending = Vec::new();
        self.head = 0;
        self.broken = true;
    }

    /// Writes what the descriptor takes.
    pub(super) fn write(&mut self, to: Option<BorrowedFd<'_>>) -> Written {
        let Some(to) = to else {
            self.give_up();
            return Written::Broken;
        };
        while self.has_pending() {
            match rustix::io::write(to.as_fd(), &self.pending[self.head..]) {
                Ok(written) => {
                    self.taken = self
                        .taken
                        .saturating_add(u32::try_from(written).unwrap_or(u32::MAX));
                    self.head += written;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Written::Blocked,
                Err(_) => {
                    self.give_up();
                    return Written::Broken;
                }
            }
        }
        self.pending.clear();
        self.pending.shrink_to(16 * 1024);
        self.head = 0;
        if self.broken {
            Written::Broken
        } else if self.ended {
            Written::Finished
        } else {
            Written::Empty
        }
    }

    /// The credit to give back, once enough has gathered.
    pub(super) fn credit(&mut self) -> Option<u32> {
        (self.taken >= CREDIT_STEP).then(|| std::mem::take(&mut self.taken))
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_reader_that_never_catches_up_costs_no_more_than_what_waits() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut sink = Sink::default();
        let piece = vec![7; 64 * 1024];
        let mut read = vec![0; 64 * 1024];
        // As much waits as the credit of a stream lets come.
        for _ in 0..16 {
            sink.pass(&piece, Some(writer.as_fd()));
        }
        for _ in 0..500 {
            assert_eq!(sink.write(Some(writer.as_fd())), Written::Blocked);
            reader.read_exact(&mut read).unwrap();
            assert!(read.iter().all(|byte| *byte == 7));
            sink.push(&piece);
        }
        let kept = sink.pending.capacity();
        assert!(kept <= 4 << 20, "{kept} bytes are kept");
    }
}
