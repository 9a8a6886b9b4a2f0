//! What a helper without root does in its sandbox's user namespace, where it
//! has the rights over files and mounts that it lacks outside.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::fault::{Result, Tried};
use super::state::wait_for_end;
use super::sys;
use crate::helper_protocol::{Failed, FailedKind, FromHelper};
use crate::packet;

/// Does some work in a process that is in a user namespace, with all rights
/// there but still the helper's own user. Gives the descriptors that the work
/// gave. `mounts`: in a copy of the host's mounts, which it may copy from.
pub(crate) fn run(
    namespace: BorrowedFd<'_>,
    mounts: bool,
    work: impl FnOnce() -> Result<Vec<OwnedFd>>,
) -> Result<Vec<OwnedFd>> {
    let (ours, theirs) = packet::pair().tried("make a channel")?;
    let pidfd = match sys::clone_into(0, None).tried("start a process for the namespace")? {
        sys::Clone::Child => {
            let (answer, fds) = match enter(namespace, mounts).and_then(|()| work()) {
                Ok(fds) => (FromHelper::Done, fds),
                Err(failed) => (FromHelper::Failed(failed), Vec::new()),
            };
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            // A helper that is gone has nobody to tell.
            let _ = packet::send(&theirs, &answer, &borrowed);
            sys::exit_now(0)
        }
        sys::Clone::Parent { pidfd, .. } => pidfd,
    };
    drop(theirs);
    let answer = packet::receive(&ours, &mut Vec::new());
    wait_for_end(&pidfd);
    match answer.tried("hear of the namespace")? {
        Some((FromHelper::Done, fds)) => Ok(fds),
        Some((FromHelper::Failed(failed), _)) => Err(failed),
        _ => Err(Failed::new(
            FailedKind::Internal,
            "the work in the namespace ended early",
        )),
    }
}

fn enter(namespace: BorrowedFd<'_>, mounts: bool) -> Result<()> {
    // It has copies of all that the helper has, its locks too.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .tried("tie the work to the helper")?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
        .tried("enter the user namespace")?;
    // Entering changed its credentials, which clears the signal.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .tried("tie the work to the helper")?;
    if mounts {
        sys::unshare(libc::CLONE_NEWNS).tried("copy the mounts of the host")?;
    }
    Ok(())
}

/// The same file or directory as of the mount namespace that this process is
/// in now: mounts of another cannot be copied.
pub(crate) fn reopen(from: impl AsFd, what: &str) -> Result<OwnedFd> {
    let from = from.as_fd();
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", from.as_raw_fd()), Vec::new())
        .tried(format!("find {what}"))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found =
        rustix::fs::openat(CWD, path, flags, Mode::empty()).tried(format!("open {what} again"))?;
    let identity = |fd: BorrowedFd<'_>| {
        rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH).map(|s| (s.st_dev, s.st_ino))
    };
    let same = identity(from).tried(format!("look at {what}"))?
        == identity(found.as_fd()).tried(format!("look at {what}"))?;
    if !same {
        return Err(Failed::new(
            FailedKind::Conflict,
            format!("{what} was moved or covered while it was opened; try again"),
        ));
    }
    Ok(found)
}
