//! Sizes of volumes, as project quotas of ext4 and xfs.
//!
//! The directory of a volume belongs to a project of its own, and what is made
//! below it inherits that. Only the kernel's first user namespace may change the
//! project of a file, so no sandbox can leave its own.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Oci, sys};
use crate::error::{Error, Result};
use crate::sandbox::spec::{Mount, MountSource};

/// What the number of a volume's directory is added to: the number of its
/// project. So no two volumes of a file system have the same, and those that
/// administrators and other programs count from 1 on are far away.
const FIRST: u32 = 1 << 30;
/// That new files inherit the project (`FS_XFLAG_PROJINHERIT`).
const INHERIT: u32 = 0x200;
/// That projects are counted and their limits hold (`FS_QUOTA_PDQ_ACCT` and `_ENFD`).
const ENFORCED: u16 = 0x10 | 0x20;
/// File systems as `statfs` numbers them.
const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;

/// The size that somebody asks for.
#[derive(Debug)]
pub(super) struct Size {
    mib: u64,
    field: String,
}

impl Size {
    /// What the mounts of a spec say of a volume.
    pub(super) fn of(volume: &str, mounts: &[Mount]) -> Option<Self> {
        let mut all = mounts.iter().enumerate();
        all.find_map(|(index, mount)| match &mount.source {
            MountSource::Volume(name) if name == volume => Some(Self {
                mib: mount.size_mib?,
                field: format!("mounts[{index}].size_mib"),
            }),
            _ => None,
        })
    }

    /// The refusal, for this cause.
    pub(super) fn refused(&self, cause: &str, remedy: &str) -> Error {
        let Self { mib, field } = self;
        Error::unsupported(format!(
            "{field} is `{mib}`, expected none: {cause}; {remedy}"
        ))
        .context("field", field)
        .context("value", mib)
        .context("cause", cause)
        .context("remedy", remedy)
    }

    /// Fails where the file system of a directory holds no limits of projects.
    pub(super) fn check(&self, directory: &OwnedFd) -> Result<()> {
        let remedy = match rustix::fs::fstatfs(directory).map(|s| s.f_type.cast_unsigned()) {
            Ok(EXT4) => {
                "unmount it, `tune2fs -O quota,project -Q prjquota DEVICE`, and mount it with `prjquota`; or leave the size out"
            }
            Ok(XFS) => "mount it with `pquota`, or leave the size out",
            Ok(other) => {
                return Err(self.refused(
                    &format!("the file system of volumes (type {other:#x}) is neither ext4 nor xfs"),
                    "have the state directory on one of them with project quotas, or leave the size out",
                ));
            }
            Err(errno) => return Err(self.failed("look at the file system of volumes", errno)),
        };
        match sys::quota_state(directory.as_fd()) {
            Ok(state) if state & ENFORCED == ENFORCED => {}
            _ => {
                return Err(self.refused(
                    "the file system of volumes enforces no project quotas",
                    remedy,
                ));
            }
        }
        if !super::identities::is_host_root() {
            return Err(self.refused(
                "only root sets quotas",
                "run as root, or leave the size out",
            ));
        }
        Ok(())
    }

    /// Fails for a volume that was made without a size.
    pub(super) fn check_given(&self, volume: &OwnedFd) -> Result<u32> {
        given(volume).ok_or_else(|| {
            self.refused(
                "the volume exists without a size and gets none",
                "leave the size out, or use another volume",
            )
        })
    }

    /// Has a directory in which nothing is yet belong to its project.
    pub(super) fn give(&self, volume: &OwnedFd) -> Result<()> {
        let project = project_of(volume).ok_or_else(|| {
            self.refused(
                "the number of its directory is too large for a project",
                "leave the size out",
            )
        })?;
        let set = sys::attributes(volume.as_fd()).and_then(|mut attributes| {
            attributes.flags |= INHERIT;
            attributes.project = project;
            sys::set_attributes(volume.as_fd(), attributes)
        });
        set.map_err(|e| self.failed("give a volume its project", e))?;
        self.limit(volume)
    }

    /// Sets the limit of a volume that has one, and looks whether it holds.
    pub(super) fn limit(&self, volume: &OwnedFd) -> Result<()> {
        let project = self.check_given(volume)?;
        let kib = self.mib << 10;
        let held = sys::set_project_limit(volume.as_fd(), project, kib)
            .and_then(|()| sys::project_limit(volume.as_fd(), project))
            .map_err(|e| self.failed("limit a volume", e))?;
        if held == kib {
            return Ok(());
        }
        Err(self.refused(
            &format!("the file system holds {held} KiB instead"),
            "leave the size out",
        ))
    }

    fn failed(&self, doing: &str, errno: Errno) -> Error {
        self.refused(
            &format!("this host cannot {doing}"),
            "have CAP_SYS_ADMIN in the first user namespace, or leave the size out",
        )
        .source(std::io::Error::from(errno))
    }
}

/// Opens a directory for the calls of this module, without following a link.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Takes away the limit of a volume that has one, as far as that is possible.
/// While it is open here no other volume has its number.
pub(super) fn take_back(volume: &OwnedFd) {
    if let Some(project) = given(volume)
        && let Err(error) = sys::set_project_limit(volume.as_fd(), project, 0)
    {
        tracing::warn!(project, %error, "the quota of a volume that went could not be removed");
    }
}

/// The project of a volume, if it has the one that is its own.
fn given(volume: &OwnedFd) -> Option<u32> {
    let own = project_of(volume)?;
    let attributes = sys::attributes(volume.as_fd()).ok()?;
    (attributes.project == own && attributes.flags & INHERIT != 0).then_some(own)
}

/// The project that would be a volume's own.
fn project_of(volume: &OwnedFd) -> Option<u32> {
    let number = u32::try_from(rustix::fs::fstat(volume).ok()?.st_ino).ok()?;
    // The last number means none.
    number.checked_add(FIRST).filter(|id| *id != u32::MAX)
}

impl Oci {
    /// Refuses sizes of volumes that could not be put in force, before any effect.
    pub(super) fn check_sizes(&self, mounts: &[Mount]) -> Result<()> {
        for mount in mounts {
            let MountSource::Volume(name) = &mount.source else {
                continue;
            };
            let Some(size) = Size::of(name, mounts) else {
                continue;
            };
            if let Some(runtime) = &self.runtime
                && runtime.has_own_kernel()
            {
                let cause = format!("nobody has looked whether {} keeps to it", runtime.name);
                return Err(size.refused(&cause, "leave it out"));
            }
            self.volumes.can_have(name, &size)?;
        }
        Ok(())
    }
}
