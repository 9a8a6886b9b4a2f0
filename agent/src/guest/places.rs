//! The directories that commands begin in and are at home in.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::users;
use crate::protocol::message::AgentConfig;

/// Makes the default directory of commands and the places of their user. A failure
/// shows at the first command.
pub(super) fn make(config: &AgentConfig) {
    if let (Some(places), Ok(account)) = (&config.places, users::resolve(&config.user)) {
        let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        for place in places.iter().filter(|place| !is_mounted(place, &mounts)) {
            let _ = settle(place, account.uid, account.gid);
        }
    }
    make_workdir(config);
}

/// Where a user without an account is at home, if it is the one with places.
pub(super) fn home(config: &AgentConfig, uid: u32) -> Option<Vec<u8>> {
    let home = config.places.as_ref()?.last()?;
    let own = users::resolve(&config.user).is_ok_and(|account| account.uid == uid);
    // A root that is only read has none.
    let there = own && Path::new(OsStr::from_bytes(home)).is_dir();
    there.then(|| home.to_vec())
}

/// Whether something is mounted there or above, whose owner is not ours to say.
fn is_mounted(place: &[u8], mounts: &[u8]) -> bool {
    let points = mounts.split(|byte| *byte == b'\n');
    let mut points = points.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.any(|point| {
        let rest = place.strip_prefix(point);
        point != b"/" && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// Makes a directory, and gives one that is root's to the user. No link is followed:
/// what it leads to may be mounted from elsewhere.
fn settle(path: &[u8], uid: u32, gid: u32) -> rustix::io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at: OwnedFd = rustix::fs::open("/", flags, Mode::empty())?;
    let parts = path.split(|byte| *byte == b'/');
    for part in parts.filter(|part| !part.is_empty()) {
        match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            // Root's, whoever the agent is.
            Ok(()) => {
                let (root, group) = (Some(Uid::ROOT), Some(Gid::ROOT));
                let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                let _ = rustix::fs::chownat(&at, part, root, group, nofollow);
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        at = rustix::fs::openat(&at, part, flags, Mode::empty())?;
    }
    if rustix::fs::fstat(&at)?.st_uid == 0 {
        rustix::fs::fchown(&at, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

fn make_workdir(config: &AgentConfig) {
    let path = Path::new(OsStr::from_bytes(&config.workdir));
    let missing = path.ancestors().take_while(|at| !at.exists());
    let missing: Vec<&Path> = missing.collect();
    if missing.is_empty() || std::fs::create_dir_all(path).is_err() {
        return;
    }
    // Root's, whoever the agent is.
    for made in missing {
        let _ = std::os::unix::fs::lchown(made, Some(0), Some(0));
    }
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755));
    let Ok(account) = users::resolve(&config.user) else {
        return;
    };
    if let Ok(directory) = rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        let _ = rustix::fs::fchown(
            directory.as_fd(),
            Some(Uid::from_raw(account.uid)),
            Some(Gid::from_raw(account.gid)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_given_to_nobody() {
        let of = |point: &str| {
            let line = format!("7 1 0:5 /x {point} rw - tmpfs tmpfs rw\n");
            let mounts = format!("1 0 0:4 / / rw - overlay overlay rw\n{line}");
            is_mounted(b"/home/user", mounts.as_bytes())
        };
        assert!(of("/home") && of("/home/user"));
        assert!(!of("/home/user/below") && !of("/home/use") && !of("/workspace"));
        assert!(!is_mounted(b"/home/user", b""));
    }
}
