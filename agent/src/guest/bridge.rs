//! Copies between standard input and output and the agent's socket.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;

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
        rustix::stdio::stdin().try_clone_to_owned()?,
        rustix::stdio::stdout().try_clone_to_owned()?,
        socket.into(),
    )
}

/// Copies both ways until either side ends; then the process is to end, and with it
/// whatever of the other way is still held up. Each way has a thread that may block:
/// standard output is a pipe that others may have a part in, so it is not made to
/// refuse what it cannot take at once.
fn copy(stdin: OwnedFd, stdout: OwnedFd, socket: OwnedFd) -> io::Result<()> {
    let (socket, stdout) = (Arc::new(socket), Arc::new(stdout));
    let (over, ends) = mpsc::channel();
    let to_agent = (Arc::clone(&socket), Arc::clone(&stdout), over.clone());
    thread::Builder::new().spawn(move || {
        let (socket, stdout, over) = to_agent;
        match carry(stdin.as_fd(), socket.as_fd(), Some(stdout.as_fd())) {
            // What the agent sent before it went is still delivered.
            Err(Errno::PIPE | Errno::CONNRESET) => {}
            result => {
                let _ = over.send(result);
            }
        }
    })?;
    thread::Builder::new().spawn(move || {
        let result = match carry(socket.as_fd(), stdout.as_fd(), None) {
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            result => result,
        };
        let _ = over.send(result);
    })?;
    ends.recv().map_err(io::Error::other)?.map_err(Into::into)
}

/// Copies until nothing comes any more, or `reader` has gone: whoever reads may go
/// while nothing is sent.
fn carry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    reader: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut buffer = vec![0; CHUNK];
    loop {
        if let Some(reader) = reader {
            let [_, gone] = wait([(from, PollFlags::IN), (reader, PollFlags::empty())])?;
            if gone.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
                return Ok(());
            }
        }
        match rustix::io::read(from, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => write_all(to, &buffer[..count])?,
            Err(Errno::AGAIN) => {
                wait([(from, PollFlags::IN)])?;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => {
                wait([(to, PollFlags::OUT)])?;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until something happens to one of them.
fn wait<const N: usize>(what: [(BorrowedFd<'_>, PollFlags); N]) -> Result<[PollFlags; N], Errno> {
    let mut fds = what.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok(fds.map(|fd| fd.revents())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

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
            let _ = copy(near.try_clone().unwrap().into(), near.into(), far.into());
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
        copy(never.into(), writer.into(), far.into()).unwrap();
        // The other way still waits for it.
        drop(held);
        let mut bytes = Vec::new();
        { reader }.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [9; 5000]);
    }
}
