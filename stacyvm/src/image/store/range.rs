//! Layers for the sandboxes of an ordinary user with a range of subordinate
//! ids: copies whose files have the owners that the image names. Only a process
//! in a user namespace with that range can make them or remove them.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, RenameFlags, fchmod, mkdirat, renameat_with, statat};

use super::layer::FS;
use super::work::open_directory;
use super::{Image, Images, Lock, Work, system};
use crate::context::Context;
use crate::error::Result;
use crate::image::digest::Digest;

/// The user and group whose place this user can have, where files of the host
/// are mounted.
const DEFAULT_USER: u32 = 1000;
/// Nobody else comes this far: the store's own directory is this user's alone.
pub(super) const PASSABLE: Mode = Mode::RWXU.union(Mode::XGRP).union(Mode::XOTH);

/// What a range of ids takes to be worked with.
pub(crate) trait Range: std::fmt::Debug + Send + Sync {
    /// Tells the ids on the disk: another name for others. `own`: this user has
    /// the place of the default one.
    fn name(&self, own: bool) -> String;

    /// Copies a layer, with its owners.
    fn map(&self, context: &Context, copy: &LayerCopy<'_>) -> Result<()>;

    /// Removes a directory that has files of the range.
    fn remove(&self, parent: BorrowedFd<'_>, name: &str) -> Result<()>;
}

/// A copy of a layer that is to be made.
#[derive(Debug)]
pub(crate) struct LayerCopy<'a> {
    /// The layer.
    pub(crate) from: BorrowedFd<'a>,
    /// An empty directory.
    pub(crate) to: BorrowedFd<'a>,
    /// The record of owners of the layer.
    pub(crate) owners: BorrowedFd<'a>,
    /// Held for as long as somebody works at it.
    pub(crate) lock: BorrowedFd<'a>,
    /// Whether this user has the place of the default one.
    pub(crate) own: bool,
}

/// The range of whoever opened the store, looked for when it is needed.
#[derive(Clone, Debug, Default)]
pub(super) struct Rights(Arc<OnceLock<Option<Arc<dyn Range>>>>);

impl Rights {
    /// Those of a range that is known.
    pub(super) fn of(range: Arc<dyn Range>) -> Self {
        Self(Arc::new(OnceLock::from(Some(range))))
    }

    /// The range; `None` where there is none.
    pub(super) fn range(&self) -> Option<&Arc<dyn Range>> {
        self.0.get_or_init(find).as_ref()
    }
}

#[cfg(feature = "oci")]
fn find() -> Option<Arc<dyn Range>> {
    crate::providers::oci::range_of_this_user()
}

#[cfg(not(feature = "oci"))]
fn find() -> Option<Arc<dyn Range>> {
    None
}

/// A layer, and the copy of it that a sandbox needs.
struct Copy {
    diff_id: Digest,
    name: String,
    own: bool,
}

impl Images {
    /// The layers of an image with the owners that it names, for sandboxes of
    /// this store's range: paths below [`mapped_path`](Self::mapped_path), the
    /// topmost first. What is missing is made; the image must be held.
    pub(crate) fn mapped(
        &self,
        context: &Context,
        image: &Image,
        range: &dyn Range,
        own: bool,
    ) -> Result<Vec<String>> {
        let mut copies = Vec::new();
        for layer in image.layers.iter().rev() {
            copies.push(self.copy_for(layer.diff_id, range, own)?);
        }
        if !copies.iter().all(|copy| self.is_mapped(&copy.name)) {
            self.map(context, &copies, range)?;
        }
        let paths = copies.iter().map(|copy| format!("{}/{FS}", copy.name));
        Ok(paths.collect())
    }

    /// Where copies with owners of a range are.
    pub(crate) fn mapped_path(&self) -> std::path::PathBuf {
        self.inner.path.join(super::MAPPED)
    }

    /// Most layers have nothing of the default user: one copy serves all.
    fn copy_for(&self, diff_id: Digest, range: &dyn Range, own: bool) -> Result<Copy> {
        let mut names_it = false;
        if own {
            for owner in self.layer_owners(diff_id)?.iter() {
                let owner = owner?;
                names_it |= [owner.uid, owner.gid].contains(&DEFAULT_USER);
            }
        }
        Ok(Copy {
            diff_id,
            name: format!("{}-{}", diff_id.hex(), range.name(names_it)),
            own: names_it,
        })
    }

    fn is_mapped(&self, name: &str) -> bool {
        statat(&self.inner.mapped, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Makes the copies that are missing. Whoever wants one meanwhile waits and
    /// finds it.
    fn map(&self, context: &Context, copies: &[Copy], range: &dyn Range) -> Result<()> {
        let _shared = self.shared(context)?;
        let _lock = Lock::wait(context, &self.inner.locks, super::MAPPED, false)?;
        let work = Work::new(self)?;
        let mut made: Vec<&str> = Vec::new();
        for copy in copies {
            if self.is_mapped(&copy.name) || made.contains(&copy.name.as_str()) {
                continue;
            }
            let outer = work.directory(&copy.name)?;
            // The sandbox's root passes through it, and is nobody there.
            fchmod(&outer, PASSABLE).map_err(|e| system("make a copy of a layer", e))?;
            mkdirat(&outer, FS, Mode::RWXU).map_err(|e| system("make a copy of a layer", e))?;
            fault_point!("image.map.begun");
            range.map(
                context,
                &LayerCopy {
                    from: self.open_layer(copy.diff_id)?.as_fd(),
                    to: open_directory(&outer, FS)?.as_fd(),
                    owners: self.open_owners(copy.diff_id)?.as_fd(),
                    lock: work.lock().as_fd(),
                    own: copy.own,
                },
            )?;
            fault_point!("image.map.made");
            made.push(&copy.name);
        }
        // What has its name is whole, also after a loss of power.
        rustix::fs::syncfs(&self.inner.mapped)
            .map_err(|e| system("write copies of layers to the disk", e))?;
        fault_point!("image.map.synced");
        for name in made {
            let named = renameat_with(
                work.dir(),
                name,
                &self.inner.mapped,
                name,
                RenameFlags::NOREPLACE,
            );
            named.map_err(|e| system("keep a copy of a layer", e))?;
            fault_point!("image.map.named");
        }
        Ok(())
    }
}
