//! Copies between standard input and output and the agent's socket.

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};

const CHUNK: usize = 64 * 1024;

/// Runs until either side ends.
pub(super) fn run(path: &OsStr) -> io::Result<()> {
    let _ = super::sys::hide();
    let mut socket = UnixStream::connect(path)?;
    let stdin = rustix::stdio::stdin();
    let stdout = rustix::stdio::stdout();
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(stdin, PollFlags::IN),
            PollFd::new(&socket, PollFlags::IN),
            // Whoever reads may go while nothing is sent.
            PollFd::from_borrowed_fd(stdout, PollFlags::empty()),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [from_host, from_agent, reader] = fds.map(|fd| fd.revents());
        if !from_agent.is_empty() {
            let count = socket.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let written = rustix::io::write(stdout, rest)?;
                rest = &rest[written..];
            }
        }
        if !from_host.is_empty() {
            let count = rustix::io::read(stdin, &mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            socket.write_all(&buffer[..count])?;
        }
        if reader.intersects(PollFlags::ERR | PollFlags::HUP) {
            return Ok(());
        }
    }
}
