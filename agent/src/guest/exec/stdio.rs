//! The standard streams of a command: pipes, or a terminal.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::protocol::message::{Size, Stdin};

/// Bytes of a pipe between a command and the agent.
const PIPE_BYTES: usize = 1024 * 1024;

pub(super) fn window(size: Size) -> rustix::termios::Winsize {
    rustix::termios::Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Both ends of a command's standard streams.
pub(super) struct Stdio {
    pub(super) child: [OwnedFd; 3],
    pub(super) sources: [Option<OwnedFd>; 2],
    pub(super) stdin: Option<OwnedFd>,
}

pub(super) fn pipes(stdin: Stdin) -> Result<Stdio, Errno> {
    use rustix::fs::{Mode, OFlags};
    let output = || -> Result<(OwnedFd, OwnedFd), Errno> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        // A user over its limit of pipe memory gets a smaller pipe.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok((above(read)?, above(write)?))
    };
    let (out, out_child) = output()?;
    let (err, err_child) = output()?;
    let (stdin, stdin_child) = match stdin {
        Stdin::Null => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
            (None, above(null)?)
        }
        Stdin::Stream => {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&write, true)?;
            (Some(above(write)?), above(read)?)
        }
    };
    Ok(Stdio {
        child: [stdin_child, out_child, err_child],
        sources: [Some(out), Some(err)],
        stdin,
    })
}

pub(super) fn terminal(size: Size) -> Result<Stdio, Errno> {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, openpt, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags).or_else(|_| {
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(name, flags, Mode::empty())
    })?;
    rustix::termios::tcsetwinsize(&master, window(size))?;
    rustix::io::ioctl_fionbio(&master, true)?;
    let peer = above(peer)?;
    let copy = || rustix::io::fcntl_dupfd_cloexec(&peer, 3);
    Ok(Stdio {
        child: [copy()?, copy()?, copy()?],
        sources: [Some(above(master)?), None],
        stdin: None,
    })
}

/// Moves a descriptor out of the way of 0, 1 and 2.
fn above(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() > 2 {
        Ok(fd)
    } else {
        rustix::io::fcntl_dupfd_cloexec(&fd, 3)
    }
}
