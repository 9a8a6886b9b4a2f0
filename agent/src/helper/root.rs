//! The root of a sandbox, put together inside its own mount namespace.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use super::fault::{Result, Tried};
use super::mounts::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use super::parked::next;
use super::{etc, kernel_fs, layers};
use crate::helper_protocol::{
    Failed, FailedKind, Field, HOST_ETC, HOST_STORES, HOST_TOP, Launch, MountSource, Root,
};

/// Directories of the data directory that a view of the host has as its own,
/// and where they go.
const HOST_OWN: [(&str, &str); 5] = [
    ("tmp", "/tmp"),
    ("home", "/home"),
    ("workspace", "/workspace"),
    ("run", "/run"),
    ("var", "/var"),
];
/// The same of a directory's root that cannot be written.
const READ_ONLY_OWN: [(&str, &str); 4] = [
    ("tmp", "/tmp"),
    ("workspace", "/workspace"),
    ("run", "/run"),
    ("vartmp", "/var/tmp"),
];

/// Where the pieces wait. A directory that every host has; what it covers is
/// the sandbox's own view of it, which goes away with the old root.
pub(crate) fn scratch() -> Result<&'static str> {
    scratch_on(["/tmp", "/mnt", "/run", "/var", "/usr"], "0700")
}

/// As [`scratch`], on the first that is a directory.
pub(crate) fn scratch_on(
    places: impl IntoIterator<Item = &'static str>,
    mode: &str,
) -> Result<&'static str> {
    let path = places
        .into_iter()
        .find(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()))
        .ok_or_else(|| Failed::new(FailedKind::Unsupported, "no directory to mount pieces on"))?;
    let area = mounts::make("tmpfs", &[("mode", mode), ("size", "1m")], NOSUID | NODEV)?;
    mounts::attach(&area, open(path)?, "the scratch area")?;
    Ok(path)
}

fn open(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).tried(format!("open {path}"))
}

/// Puts a detached mount onto a new directory of the scratch area.
pub(crate) fn put(mount: &OwnedFd, path: &str) -> Result<()> {
    fs::create_dir(path).tried(format!("make {path}"))?;
    mounts::attach(mount, open(path)?, path)
}

/// Where a root is put together in the scratch area.
fn place_of(root: Root, scratch: &str) -> String {
    format!("{scratch}/{}", root.in_bundle())
}

/// Puts the view of the host together ahead of its launch, which most launches
/// ask for, with the directories of `data` as the sandbox's own. An error
/// leaves the scratch area as it was.
pub(crate) fn prepare_host(scratch: &str, data: &OwnedFd) -> Result<OwnedFd> {
    host(scratch, data).inspect_err(|_| {
        for path in [place_of(Root::Host, scratch), format!("{scratch}/data")] {
            // Nothing is mounted, or nothing is there, where the first steps failed.
            let _ = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
            let _ = fs::remove_dir(&path);
        }
    })
}

/// The view of the host, without what only its launch knows.
fn host(scratch: &str, data: &OwnedFd) -> Result<OwnedFd> {
    let data_path = format!("{scratch}/data");
    put(data, &data_path)?;
    let root = mounts::make("tmpfs", &[("mode", "0755"), ("size", "1m")], NOSUID | NODEV)?;
    let path = place_of(Root::Host, scratch);
    put(&root, &path)?;
    let inside = open(&path)?;
    host_view(&inside)?;
    etc::account_files(&inside)?;
    own(&inside, &data_path, &HOST_OWN)?;
    Ok(inside)
}

/// A root directory, or the layers of an image, under a layer that can be
/// written. `first_id` is what root inside is for this process.
fn layered(
    launch: &Launch,
    scratch: &str,
    data: &OwnedFd,
    lower: &OwnedFd,
    first_id: u32,
) -> Result<OwnedFd> {
    let data_path = format!("{scratch}/data");
    put(data, &data_path)?;
    let lower_path = format!("{scratch}/lower");
    put(lower, &lower_path)?;
    let path = place_of(launch.root, scratch);
    if launch.root == Root::Layers {
        layers::mount(&launch.layers, launch.has_namespaced_root(), scratch, &path)?;
        let inside = open(&path)?;
        layers::restore(&inside, &launch.layers.restored, first_id)?;
        if launch.read_only_root {
            own(&inside, &data_path, &READ_ONLY_OWN)?;
        }
        return Ok(inside);
    }
    let root = mounts::make(
        "overlay",
        &[
            ("lowerdir", &lower_path),
            ("upperdir", &format!("{data_path}/upper")),
            ("workdir", &format!("{data_path}/work")),
            // The trusted.* names are not for a user namespace.
            ("userxattr", ""),
        ],
        if launch.has_namespaced_root() {
            NODEV
        } else {
            NOSUID | NODEV
        },
    )?;
    put(&root, &path)?;
    let inside = open(&path)?;
    if launch.read_only_root {
        own(&inside, &data_path, &READ_ONLY_OWN)?;
    }
    Ok(inside)
}

/// Shows directories of the data directory inside.
fn own(inside: &OwnedFd, data_path: &str, directories: &[(&str, &str)]) -> Result<()> {
    for (name, target) in directories {
        let part = mounts::copy(open(&format!("{data_path}/{name}"))?, name)?;
        mounts::attach(&part, mounts::needed_directory(inside, target)?, target)?;
    }
    Ok(())
}

/// Takes the kernel's file systems along from below `from` and goes into a
/// root. Nothing of the old root is left.
pub(crate) fn enter(inside: &OwnedFd, from: &str) -> Result<()> {
    for name in ["proc", "sys", "dev"] {
        if Path::new(&format!("{from}/{name}")).exists() {
            kernel_fs::move_in(from, name, inside)?;
        }
    }
    rustix::process::fchdir(inside).tried("enter the root")?;
    rustix::process::pivot_root(".", ".").tried("pivot the root")?;
    // The old root lies on top of the new one and the working directory is in
    // the old one: this takes it away with everything below it.
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH).tried("leave the old root")?;
    rustix::process::chdir("/").tried("enter the new root")
}

/// What the launch of a view of the host adds, from inside it. `fds`: the data
/// directory where the disk is limited, then one for each mount of the host.
pub(crate) fn furnish_host(launch: &Launch, mut fds: VecDeque<OwnedFd>) -> Result<()> {
    if launch.limits.disk_bytes.is_some() {
        replace_own(&next(&mut fds, "data")?)?;
    }
    furnish(launch, &open("/")?, fds)
}

/// Puts the directories of another data directory in place of the sandbox's own.
fn replace_own(data: &OwnedFd) -> Result<()> {
    let scratch = scratch()?;
    let data_path = format!("{scratch}/data");
    put(data, &data_path)?;
    let parts = HOST_OWN
        .iter()
        .map(|(name, _)| mounts::copy(open(&format!("{data_path}/{name}"))?, name))
        .collect::<Result<Vec<_>>>()?;
    let detach = |path: &str| {
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH)
            .tried(format!("take {path} away"))
    };
    detach(scratch)?;
    for (part, (_, target)) in parts.iter().zip(HOST_OWN) {
        detach(target)?;
        mounts::attach(part, open(target)?, target)?;
    }
    Ok(())
}

/// Makes a root in the scratch area, as `root`. `fds`: the data directory,
/// what the root is made of where that is given, then one for each mount of the
/// host. `kernel` puts in what the launch does not name, before its mounts.
pub(crate) fn assemble(
    launch: &Launch,
    mut fds: VecDeque<OwnedFd>,
    scratch: &str,
    first_id: u32,
    kernel: impl FnOnce(&OwnedFd) -> Result<()>,
) -> Result<OwnedFd> {
    let data = next(&mut fds, "data")?;
    let inside = match launch.root {
        Root::Host => host(scratch, &data)?,
        Root::Directory | Root::Layers => {
            let lower = next(&mut fds, "root")?;
            layered(launch, scratch, &data, &lower, first_id)?
        }
    };
    kernel(&inside)?;
    furnish(launch, &inside, fds)?;
    Ok(inside)
}

/// Adds what only the launch knows. Every path is resolved inside this
/// descriptor: an image's links may point wherever they like.
fn furnish(launch: &Launch, inside: &OwnedFd, mut fds: VecDeque<OwnedFd>) -> Result<()> {
    etc::network_files(inside, launch)?;
    for (index, mount) in launch.mounts.iter().enumerate() {
        let made = match mount.source {
            MountSource::Host => next(&mut fds, &mount.target)?,
            MountSource::Tmpfs { bytes } => mounts::make(
                "tmpfs",
                &[("mode", "1777"), ("size", &bytes.to_string())],
                NOSUID | NODEV,
            )?,
        };
        let is_dir = rustix::fs::fstat(&made)
            .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir());
        let target = if is_dir {
            mounts::directory(inside, &mount.target)
        } else {
            mounts::file(inside, &mount.target)
        };
        target
            .and_then(|target| mounts::attach(&made, target, &mount.target))
            .map_err(|failed| misplaced(launch, index, is_dir, failed))?;
    }
    if launch.read_only_root || launch.root == Root::Host {
        mounts::restrict(inside, RDONLY)?;
    }
    Ok(())
}

/// Says what is wrong with the target of a mount, where its caller can choose
/// another one.
fn misplaced(launch: &Launch, index: usize, is_dir: bool, failed: Failed) -> Failed {
    let (expected, remedy) = match failed.errno {
        Some(libc::EROFS) => (
            "a path that is there: nothing can be made at this place of the root",
            match launch.root {
                Root::Host => "mount it below /workspace, /home, /tmp, /run or /var",
                Root::Directory => {
                    "make the path in the root directory, or mount it below /workspace, /tmp or /run"
                }
                Root::Layers => {
                    "make the path in the image, or mount it below /workspace, /tmp or /run"
                }
            },
        ),
        Some(libc::ENOTDIR) if is_dir => (
            "a directory, as its source is one: a file has this name or one above it",
            "mount it elsewhere, or mount a file",
        ),
        Some(libc::ENOTDIR) => (
            "a file, as its source is one: a directory has this name, or a file one above it",
            "mount it elsewhere, or mount a directory",
        ),
        Some(libc::ENAMETOOLONG) => ("names of at most 255 bytes", "use shorter names"),
        Some(libc::EEXIST | libc::ELOOP) => (
            "a path without links that lead to nothing or in a circle",
            "mount it elsewhere, or change the link",
        ),
        _ => return failed,
    };
    Failed {
        kind: FailedKind::Invalid,
        field: Some(Box::new(Field {
            name: format!("mounts[{index}].target"),
            value: launch.mounts[index].target.clone(),
            expected: expected.to_owned(),
            remedy: remedy.to_owned(),
        })),
        ..failed
    }
}

/// Shows the host's system directories, read-only. They are not mapped to the
/// sandbox's users, so that only what all the world may read is readable.
fn host_view(root: &OwnedFd) -> Result<()> {
    let show = |path: &str, extra: u64| -> Result<()> {
        let meta = fs::metadata(path).tried(format!("look at {path}"))?;
        let tree = mounts::copy_path(path)?;
        mounts::restrict_all(&tree, RDONLY | NOSUID | NODEV | extra)?;
        let target = if meta.is_dir() {
            mounts::directory(root, path)?
        } else {
            mounts::file(root, path)?
        };
        mounts::attach(&tree, target, path)
    };
    show("/usr", 0)?;
    for name in HOST_TOP {
        let path = format!("/{name}");
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(&path).tried(format!("read {path}"))?;
                rustix::fs::symlinkat(target, root, name).tried(format!("link {path}"))?;
            }
            Ok(meta) if meta.is_dir() => show(&path, 0)?,
            _ => {}
        }
    }
    for path in HOST_STORES {
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
            show(path, 0)?;
        }
    }
    for name in HOST_ETC {
        let path = format!("/etc/{name}");
        match fs::symlink_metadata(&path) {
            // A link, such as `localtime`, leads to what is shown or to nothing.
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(&path).tried(format!("read {path}"))?;
                let etc = mounts::directory(root, "/etc")?;
                rustix::fs::symlinkat(target, etc, name).tried(format!("link {path}"))?;
            }
            Ok(_) => show(&path, NOEXEC)?,
            Err(_) => {}
        }
    }
    rustix::fs::mkdirat(root, "root", Mode::from_raw_mode(0o700)).tried("make /root")
}

/// The mount of the root's directory, or of another directory or file of the
/// host, for a sandbox: made by the helper, which may read it. Ids on disk are
/// the sandbox's ids where it has a range of its own.
pub(crate) fn host_tree(
    from: &OwnedFd,
    what: &str,
    writable: bool,
    user_namespace: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    let tree = mounts::copy(from, what)?;
    let mut attributes = NOSUID | NODEV;
    if !writable {
        attributes |= RDONLY;
    }
    mounts::restrict_all(&tree, attributes)?;
    if let Some(namespace) = user_namespace {
        super::sys::mount_setattr(tree.as_fd(), 0, false, Some(namespace.as_fd()))
            .map_err(|error| mounts::not_mapped(from, what, error))?;
    }
    Ok(tree)
}
