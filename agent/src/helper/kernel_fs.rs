//! `/dev`, `/proc` and `/sys` of a sandbox, made before its root is known.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};

use super::fault::{Result, Tried};
use super::mounts::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::confinement::{MASKED, MASKED_SYS, READ_ONLY};

/// Device nodes, bound from the host as no user namespace can make any.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

fn open(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).tried(format!("open {path}"))
}

/// Makes a directory of the scratch area and puts a mount there.
fn put(mount: &OwnedFd, path: &str) -> Result<()> {
    fs::create_dir(path).tried(format!("make {path}"))?;
    mounts::attach(mount, open(path)?, path)
}

/// `dev` in the scratch area. `many_users` says whether more than one is mapped.
pub(crate) fn dev(scratch: &str, many_users: bool) -> Result<()> {
    let dev = mounts::make(
        "tmpfs",
        &[("mode", "0755"), ("size", "64k"), ("nr_inodes", "64")],
        NOSUID | NOEXEC,
    )?;
    let path = format!("{scratch}/dev");
    put(&dev, &path)?;
    for name in NODES {
        let target = format!("{path}/{name}");
        fs::File::create(&target).tried(format!("make {target}"))?;
        let node = mounts::copy_path(&format!("/dev/{name}"))?;
        mounts::restrict(&node, NOSUID | NOEXEC)?;
        mounts::attach(&node, open(&target)?, name)?;
    }
    for (name, target) in LINKS {
        std::os::unix::fs::symlink(target, format!("{path}/{name}"))
            .tried(format!("link /dev/{name}"))?;
    }
    let mut options = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    if many_users {
        // The group `tty` of every distribution.
        options.push(("gid", "5"));
    }
    let pts = mounts::make("devpts", &options, NOSUID | NOEXEC)?;
    put(&pts, &format!("{path}/pts"))?;
    let shm = mounts::make(
        "tmpfs",
        &[("mode", "1777"), ("size", "64m")],
        NOSUID | NODEV | NOEXEC,
    )?;
    put(&shm, &format!("{path}/shm"))?;
    // Without POSIX message queues in the kernel there is nothing to mount.
    if let Ok(queues) = mounts::make("mqueue", &[], NOSUID | NODEV | NOEXEC) {
        put(&queues, &format!("{path}/mqueue"))?;
    }
    // What is below are mounts of their own and stays writable.
    mounts::restrict(&dev, RDONLY)
}

/// Hides a path: a file behind /dev/null, a directory behind an empty one.
fn mask(path: &str) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let cover = if meta.is_dir() {
        mounts::make(
            "tmpfs",
            &[("size", "4k"), ("nr_inodes", "2"), ("mode", "0555")],
            RDONLY | NOSUID | NODEV | NOEXEC,
        )?
    } else {
        let null = mounts::copy_path("/dev/null")?;
        mounts::restrict(&null, RDONLY | NOSUID | NOEXEC)?;
        null
    };
    mounts::attach(&cover, open(path)?, path)
}

/// `proc` in the scratch area, with what is hidden and what is read-only.
pub(crate) fn proc(scratch: &str) -> Result<()> {
    let proc = mounts::make("proc", &[], NOSUID | NODEV | NOEXEC)?;
    let path = format!("{scratch}/proc");
    put(&proc, &path)?;
    // A filter cannot keep user namespaces away for sure, as `clone` takes its
    // flags in a register and other calls in memory; a limit of zero can.
    fs::write(format!("{path}/sys/user/max_user_namespaces"), "0")
        .tried("forbid user namespaces inside")?;
    // Servers inside use low ports without any capability. Not in every kernel.
    let _ = fs::write(
        format!("{path}/sys/net/ipv4/ip_unprivileged_port_start"),
        "0",
    );
    for name in READ_ONLY {
        let path = format!("{path}/{name}");
        if fs::symlink_metadata(&path).is_err() {
            continue;
        }
        let tree = mounts::copy_path(&path)?;
        mounts::restrict_all(&tree, RDONLY | NOSUID | NODEV | NOEXEC)?;
        mounts::attach(&tree, open(&path)?, &path)?;
    }
    for name in MASKED {
        mask(&format!("{path}/{name}"))?;
    }
    Ok(())
}

/// `sys` in the scratch area, read-only. Where the host hides a part of its
/// own, the kernel lets nobody mount another: then there is none.
pub(crate) fn sys(scratch: &str) -> Result<bool> {
    let Ok(sys) = mounts::make("sysfs", &[], RDONLY | NOSUID | NODEV | NOEXEC) else {
        return Ok(false);
    };
    let path = format!("{scratch}/sys");
    put(&sys, &path)?;
    for name in MASKED_SYS {
        mask(&format!("{path}/{name}"))?;
    }
    Ok(true)
}

/// Moves a directory of the scratch area, with all below it, into a root.
pub(crate) fn move_in(scratch: &str, name: &str, root: impl AsFd) -> Result<()> {
    let from = open(&format!("{scratch}/{name}"))?;
    let to = mounts::own_directory(root, name)?;
    mounts::attach(&from, &to, name)
}
