//! Copies between standard input and output and the agent's socket.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

const CHUNK: usize = 64 * 1024;

/// Runs until either side ends.
///
/// It becomes the user whom the agent let connect, so that no command, root's
/// included, can stop or end it, or has its files in `/proc`.
pub(super) fn run(path: &OsStr) -> io::Result<()> {
    let _ = super::sys::hide();
    if let Ok(socket) = std::fs::symlink_metadata(path)
        && socket.uid() != 0
    {
        // What cannot is root still, and may connect all the same.
        let _ = super::sys::become_bridge(socket.uid());
    }
    let socket = UnixStream::connect(path)?;
    copy(
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        socket.as_fd(),
    )
}

/// Copies both ways until either side ends. No call blocks but the wait for
/// both ways at once, so a way that is full never holds the other up.
fn copy(stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut to_agent = Way::new(stdin, socket);
    let mut to_host = Way::new(socket, stdout);
    loop {
        // An end that is gone but not asked about would end every wait at
        // once; the host's output, whose end ends all, stands in for it.
        let watch = |fd, flags: PollFlags| {
            let fd = if flags.is_empty() { stdout } else { fd };
            PollFd::from_borrowed_fd(fd, flags)
        };
        let mut fds = [
            watch(stdin, to_agent.reads()),
            watch(socket, to_host.reads() | to_agent.writes()),
            // Whoever reads may go while nothing is sent.
            PollFd::from_borrowed_fd(stdout, to_host.writes()),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [host, agent, reader] = fds.map(|fd| fd.revents());
        if reader.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            return Ok(());
        }
        to_agent.turn(host, agent)?;
        to_host.turn(agent, reader)?;
        if to_agent.is_over() || to_host.is_over() {
            return Ok(());
        }
    }
}

/// One direction and its bytes, of which no more are read than are written.
struct Way<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    buffer: Vec<u8>,
    head: usize,
    tail: usize,
    ended: bool,
    /// Nobody takes the bytes any more.
    broken: bool,
}

impl<'a> Way<'a> {
    fn new(from: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Self {
        Self {
            from,
            to,
            buffer: vec![0; CHUNK],
            head: 0,
            tail: 0,
            ended: false,
            broken: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Everything that came is written, and nothing comes any more.
    fn is_over(&self) -> bool {
        self.ended && self.is_empty()
    }

    fn reads(&self) -> PollFlags {
        if self.is_empty() && !self.ended && !self.broken {
            PollFlags::IN
        } else {
            PollFlags::empty()
        }
    }

    fn writes(&self) -> PollFlags {
        if self.is_empty() {
            PollFlags::empty()
        } else {
            PollFlags::OUT
        }
    }

    /// Moves what the events of both ends allow, without blocking.
    fn turn(&mut self, from: PollFlags, to: PollFlags) -> io::Result<()> {
        let gone = PollFlags::HUP | PollFlags::ERR;
        if !self.reads().is_empty() && from.intersects(PollFlags::IN | gone) {
            match rustix::io::read(self.from, &mut self.buffer) {
                Ok(0) | Err(Errno::CONNRESET) => self.ended = true,
                Ok(count) => (self.head, self.tail) = (0, count),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        } else if !self.is_empty() && to.intersects(PollFlags::OUT | gone) {
            match self.write() {
                Ok(count) => self.head += count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                // What the agent sent before it went is still delivered.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.broken = true;
                    self.head = self.tail;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write(&self) -> Result<usize, Errno> {
        use rustix::net::{SendFlags, send};
        let rest = &self.buffer[self.head..self.tail];
        match send(self.to, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            // A pipe, shared with strangers, stays as it is: whoever polled it
            // as ready can write so much and is not held up.
            Err(Errno::NOTSOCK) => {
                let most = rest.len().min(PIPE_ATOMIC);
                rustix::io::write(self.to, &rest[..most])
            }
            result => result,
        }
    }
}

/// Bytes that a pipe which is ready takes at once.
const PIPE_ATOMIC: usize = 4096;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Each end writes all before it reads anything, far beyond what the
    /// buffers of the way hold, so each way stands full for a while.
    #[test]
    fn a_full_way_does_not_hold_the_other_up() {
        const BYTES: usize = 8 << 20;
        let (host, near) = UnixStream::pair().unwrap();
        let (agent, far) = UnixStream::pair().unwrap();
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = copy(near.as_fd(), near.as_fd(), far.as_fd());
        });
        for mut end in [host.try_clone().unwrap(), agent.try_clone().unwrap()] {
            std::thread::spawn(move || end.write_all(&vec![7; BYTES]));
        }
        // The host reads nothing until the agent has got everything.
        for mut end in [agent, host] {
            let mut bytes = vec![0; BYTES];
            end.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let read = end.read_exact(&mut bytes).is_ok();
            assert!(read && bytes.iter().all(|byte| *byte == 7));
            // Kept open: the end of one way ends the bridge.
            done.send(end).unwrap();
        }
        assert_eq!(finished.try_iter().count(), 2);
    }

    #[test]
    fn what_came_before_the_end_is_delivered() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (agent, far) = UnixStream::pair().unwrap();
        (&agent).write_all(&[9; 5000]).unwrap();
        drop(agent);
        let (never, held) = std::io::pipe().unwrap();
        copy(never.as_fd(), writer.as_fd(), far.as_fd()).unwrap();
        drop((writer, held));
        let mut bytes = Vec::new();
        { reader }.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [9; 5000]);
    }
}
