//! Mounts as descriptors: made detached, given their attributes, and only then
//! put in place, so that nothing is ever reachable with weaker ones.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::fault::{Result, Tried};
use super::sys;
use crate::helper_protocol::{FIELD_IMAGE, Failed, FailedKind, Field};

pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Makes a mount of a new file system. A value of `""` is a flag.
pub(crate) fn make(kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).tried(format!("open {kind}"))?;
    for (name, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *name)
        } else {
            fsconfig_set_string(&context, *name, *value)
        }
        .tried(format!("set {name} of {kind}"))?;
    }
    fsconfig_create(&context).tried(format!("make {kind}"))?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0));
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).tried(format!("mount {kind}"))
}

/// Copies the mounts from a descriptor on. A copy of what the host shares is
/// shared with it until it is restricted.
pub(crate) fn copy(from: impl AsFd, what: &str) -> Result<OwnedFd> {
    open_tree(
        from,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH,
    )
    .tried(format!("copy the mount of {what}"))
}

/// Copies the mounts from a path of the host on. The path is ours, not the sandbox's.
pub(crate) fn copy_path(path: &str) -> Result<OwnedFd> {
    open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .tried(format!("copy the mount of {path}"))
}

/// Adds attributes to a mount alone, and makes it private.
pub(crate) fn restrict(mount: impl AsFd, attributes: u64) -> Result<()> {
    sys::mount_setattr(mount.as_fd(), attributes, false, None).tried("restrict a mount")
}

/// Adds attributes to a mount and all below it, and makes them private.
pub(crate) fn restrict_all(mount: impl AsFd, attributes: u64) -> Result<()> {
    sys::mount_setattr(mount.as_fd(), attributes, true, None).tried("restrict mounts")
}

/// Why the owners of a mount cannot be mapped: most often its file system has
/// no such thing, and without it nobody inside could own a file there.
pub(crate) fn not_mapped(from: impl AsFd, what: &str, error: std::io::Error) -> Failed {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
            let kind = rustix::fs::fstatfs(from).map_or(0, |stat| stat.f_type);
            Failed::new(
                FailedKind::Unsupported,
                format!(
                    "the file system of {what} (type {kind:#x}) cannot map owners, expected one that has idmapped mounts, \
                     as ext4, xfs, btrfs and, from Linux 6.3 on, tmpfs have; use a directory on such a file system, or a volume, or copy the files in"
                ),
            )
        }
        _ => match Err::<(), _>(error).tried(format!("map the owners of {what}")) {
            Err(failed) => failed,
            Ok(()) => Failed::new(FailedKind::Internal, "no error"),
        },
    }
}

/// Puts a mount onto what a descriptor names.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd, what: &str) -> Result<()> {
    move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .tried(format!("attach {what}"))
}

/// How often a path is resolved before its refusal stands.
const MOST_TRIES: u32 = 128;

/// Resolves a path inside a root: symbolic links, absolute ones included,
/// stay in it, and magic ones are refused.
pub(crate) fn resolve(root: impl AsFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    while_disturbed(|| rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve))
}

/// Tries again what was refused because something on the machine was renamed or
/// mounted meanwhile: the kernel then cannot tell whether a `..` stayed inside.
fn while_disturbed<T>(mut attempt: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 1..MOST_TRIES {
        match attempt() {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            done => return done,
        }
    }
    attempt()
}

/// The directory at a path inside a root; what is missing is made.
pub(crate) fn directory(root: impl AsFd, path: &str) -> Result<OwnedFd> {
    let root = root.as_fd();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match resolve(root, path, flags) {
        Ok(fd) => return Ok(fd),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error).tried(format!("open {path} inside")),
    }
    let mut at = resolve(root, "/", flags).tried("open the root")?;
    let mut done = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        done.push('/');
        done.push_str(part);
        at = match resolve(root, &done, flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                // Fails where a dangling link has the name: nothing is made through it.
                rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))
                    .tried(format!("make {done} inside"))?;
                resolve(root, &done, flags).tried(format!("open {done} inside"))?
            }
            Err(error) => return Err(error).tried(format!("open {done} inside")),
        };
    }
    Ok(at)
}

/// As [`directory`], which the sandbox needs whatever its image has there.
pub(crate) fn needed_directory(root: impl AsFd, path: &str) -> Result<OwnedFd> {
    directory(root, path).map_err(|failed| match failed.errno {
        Some(libc::ENOTDIR | libc::ELOOP | libc::EEXIST) => unfit(
            failed,
            format!("one in which {path} is a directory, or nothing"),
        ),
        _ => failed,
    })
}

/// The failure of an image that has something else where the sandbox needs a
/// place. What the image is called, the host knows.
pub(crate) fn unfit(failed: Failed, expected: String) -> Failed {
    Failed {
        kind: FailedKind::Invalid,
        field: Some(Box::new(Field {
            name: FIELD_IMAGE.to_owned(),
            value: String::new(),
            expected,
            remedy: "change that in the image: the sandbox has files of its own there".to_owned(),
        })),
        ..failed
    }
}

/// The directory at a name in a root. A link or file that an image has there
/// is replaced: the kernel's file systems go nowhere else.
pub(crate) fn own_directory(root: impl AsFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&root, name, flags, Mode::empty()) {
        Ok(fd) => return Ok(fd),
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR | Errno::LOOP) => {
            rustix::fs::unlinkat(&root, name, rustix::fs::AtFlags::empty())
                .tried(format!("replace /{name} of the image"))?;
        }
        Err(error) => return Err(error).tried(format!("open /{name} inside")),
    }
    rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755))
        .tried(format!("make /{name} inside"))?;
    rustix::fs::openat(&root, name, flags, Mode::empty()).tried(format!("open /{name} inside"))
}

/// As [`own_directory`], for everybody inside where it has to be made.
pub(crate) fn shared_directory(root: impl AsFd, name: &str) -> Result<OwnedFd> {
    let is_there = rustix::fs::statat(&root, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_dir());
    let directory = own_directory(&root, name)?;
    if !is_there {
        rustix::fs::chmodat(&root, name, Mode::from_raw_mode(0o1777), AtFlags::empty())
            .tried(format!("open up /{name} inside"))?;
    }
    Ok(directory)
}

/// The file at a path inside a root, to mount on; an empty one is made if missing.
pub(crate) fn file(root: impl AsFd, path: &str) -> Result<OwnedFd> {
    let root = root.as_fd();
    match resolve(root, path, OFlags::PATH) {
        Ok(fd) => return Ok(fd),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error).tried(format!("open {path} inside")),
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = directory(root, if parent.is_empty() { "/" } else { parent })?;
    write_new(&parent, name, b"", 0o644)?;
    resolve(root, path, OFlags::PATH).tried(format!("open {path} inside"))
}

/// Writes a new file in a directory, in place of what has the name.
pub(crate) fn write_new(directory: impl AsFd, name: &str, content: &[u8], mode: u32) -> Result<()> {
    match rustix::fs::unlinkat(&directory, name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error).tried(format!("replace {name} inside")),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(mode))
        .tried(format!("make {name} inside"))?;
    let mut rest = content;
    while !rest.is_empty() {
        let count = rustix::io::write(&fd, rest).tried(format!("write {name} inside"))?;
        rest = &rest[count..];
    }
    Ok(())
}
