//! What a sandbox writes: its directories on disk, with their owners.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use super::etc::USER_ID;
use super::fault::{Result, Tried};

/// A directory: its path, its mode, and its owner inside.
type Place = (&'static str, u32, u32);

const HOST: [Place; 13] = [
    ("tmp", 0o1777, 0),
    ("home", 0o755, 0),
    ("home/user", 0o700, USER_ID),
    ("workspace", 0o755, USER_ID),
    ("run", 0o755, 0),
    ("run/lock", 0o1777, 0),
    ("var", 0o755, 0),
    ("var/tmp", 0o1777, 0),
    ("var/log", 0o755, 0),
    ("var/lib", 0o755, 0),
    ("var/cache", 0o755, 0),
    ("var/spool", 0o755, 0),
    ("var/mail", 0o755, 0),
];
const LAYER: [Place; 2] = [("upper", 0o755, 0), ("work", 0o755, 0)];
const READ_ONLY: [Place; 4] = [
    ("tmp", 0o1777, 0),
    ("workspace", 0o755, USER_ID),
    ("run", 0o755, 0),
    ("vartmp", 0o1777, 0),
];

/// What is in a data directory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    /// Directories that a view of the host has as its own.
    Host,
    /// The layer above a root directory.
    Layer,
    /// The same, with directories of its own where that root cannot be written.
    ReadOnly,
}

impl Layout {
    /// Its name in the sandbox's directory.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Host => "data",
            // Beside the other, which is made before the root is known.
            Self::Layer | Self::ReadOnly => "layer",
        }
    }

    fn places(self) -> impl Iterator<Item = Place> {
        let parts: [&[Place]; 2] = match self {
            Self::Host => [&HOST, &[]],
            Self::Layer => [&LAYER, &[]],
            Self::ReadOnly => [&READ_ONLY, &LAYER],
        };
        parts.into_iter().flatten().copied()
    }
}

/// Makes what is in `data`, which becomes the sandbox's too. `first_id` is what
/// root inside is outside.
pub(crate) fn make(data: &OwnedFd, layout: Layout, first_id: Option<u32>) -> Result<()> {
    own(data, first_id, 0)?;
    fill(data, layout, first_id)
}

/// Makes what is in `data`. `first_id` is what root inside is for this process;
/// without it all is this process's own.
pub(crate) fn fill(data: &OwnedFd, layout: Layout, first_id: Option<u32>) -> Result<()> {
    for (path, mode, owner) in layout.places() {
        rustix::fs::mkdirat(data, path, Mode::RWXU).tried(format!("make {path}"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made =
            rustix::fs::openat(data, path, flags, Mode::empty()).tried(format!("open {path}"))?;
        own(&made, first_id, owner)?;
        // After the owner, whose change clears special bits; past any umask.
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode)).tried(format!("open up {path}"))?;
    }
    Ok(())
}

fn own(directory: impl AsFd, first_id: Option<u32>, inside: u32) -> Result<()> {
    let Some(first) = first_id else {
        return Ok(());
    };
    let id = first + inside;
    rustix::fs::chownat(
        directory,
        "",
        Some(Uid::from_raw(id)),
        Some(Gid::from_raw(id)),
        // A new mount's descriptor names its root and opens nothing.
        AtFlags::EMPTY_PATH,
    )
    .tried("give a directory to the sandbox")
}
