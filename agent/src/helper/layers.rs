//! The root of an image: its layers under one that can be written.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::fault::{Result, Tried};
use crate::helper_protocol::{Failed, FailedKind, Layers, RestoredDirectory};

/// The directory of the scratch area in which every layer has a short name:
/// all options of a mount have to fit into one page.
const NAMES: &str = "layers";
/// What the kernel's overlay stacks at most.
const MOST: usize = 500;

/// Mounts the overlay of the layers, which are below `lower` in the scratch
/// area, onto `target`. The upper directory is in `data` beside it. `set_id`: whether
/// set-id programs give their owner's rights.
pub(crate) fn mount(layers: &Layers, set_id: bool, scratch: &str, target: &str) -> Result<()> {
    if layers.lower.len() > MOST {
        return Err(Failed::new(
            FailedKind::Unsupported,
            format!(
                "the image has {} layers, expected at most {MOST}",
                layers.lower.len()
            ),
        ));
    }
    let names = format!("{scratch}/{NAMES}");
    fs::create_dir(&names).tried("make the names of layers")?;
    let mut options = String::from("lowerdir=");
    for (number, layer) in layers.lower.iter().enumerate() {
        if !is_below(layer) {
            return Err(Failed::new(
                FailedKind::Invalid,
                "a layer must be a plain path below the directory of layers",
            ));
        }
        let link = format!("{names}/{number}");
        std::os::unix::fs::symlink(format!("../lower/{layer}"), &link)
            .tried("make the names of layers")?;
        let colon = if number == 0 { "" } else { ":" };
        let _ = write!(options, "{colon}{number}");
    }
    if layers.lower.is_empty() {
        // An image of nothing still has a root.
        fs::create_dir(format!("{names}/0")).tried("make an empty layer")?;
        options.push('0');
    }
    // The trusted.* names are not for a user namespace.
    options.push_str(",upperdir=../data/upper,workdir=../data/work,userxattr");
    let options = CString::new(options).tried("name the layers")?;
    fs::create_dir(target).tried(format!("make {target}"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let here = rustix::fs::openat(CWD, ".", flags, Mode::empty())
        .tried("look at the working directory")?;
    rustix::process::chdir(&*names).tried("go to the layers")?;
    let mut flags = MountFlags::NODEV;
    flags.set(MountFlags::NOSUID, !set_id);
    let mounted = rustix::mount::mount("overlay", target, "overlay", flags, &*options);
    rustix::process::fchdir(&here).tried("go back from the layers")?;
    mounted.map_err(refused)
}

/// Whether the path has nothing but names in it.
fn is_below(path: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    !path.is_empty() && Path::new(path).components().all(plain)
}

fn refused(error: Errno) -> Failed {
    if matches!(error, Errno::INVAL | Errno::PERM | Errno::NODEV) {
        return Failed::new(
            FailedKind::Unsupported,
            "the kernel refuses an overlay of the layers of the image, expected Linux 5.11 or later, with overlayfs and a file system \
             of the state directory that can be one of its layers; put the state directory on such a file system, or use a root directory",
        );
    }
    match Err::<(), _>(error).tried("mount the layers of the image") {
        Err(failed) => failed,
        Ok(()) => Failed::new(FailedKind::Internal, "no error"),
    }
}

/// Gives directories the attributes that the image says in a lower layer.
/// `first_id` is what root inside is for this process.
pub(crate) fn restore(
    inside: &OwnedFd,
    restored: &[RestoredDirectory],
    first_id: u32,
) -> Result<()> {
    for directory in restored {
        let path: &[u8] = if directory.path.is_empty() {
            b"."
        } else {
            &directory.path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(
            inside,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
        .tried("open a directory of the image")?;
        if let Some(owner) = directory.owner {
            rustix::fs::fchown(
                &opened,
                Some(Uid::from_raw(first_id.saturating_add(owner.uid))),
                Some(Gid::from_raw(first_id.saturating_add(owner.gid))),
            )
            .tried("give a directory of the image its owner")?;
        }
        // After the owner, whose change clears special bits.
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(directory.mode))
            .tried("give a directory of the image its mode")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_below_the_directory_of_layers() {
        assert!(is_below("ab-ids/fs"));
        for path in ["", "/", "/etc", "..", "a/../../b", "../x"] {
            assert!(!is_below(path), "{path}");
        }
    }
}
