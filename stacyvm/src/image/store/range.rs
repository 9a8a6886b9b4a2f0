//! Layers for the sandboxes of an ordinary user with a range of subordinate
//! ids: copies whose files have the owners that the image names. Only a process
//! in a user namespace with that range can make them or remove them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, RenameFlags, fchmod, renameat_with, statat};

use super::layer::FS;
use super::work::open_directory;
use super::{Image, Images, Lock, Work, make_private, system};
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

    /// Copies layers, with their owners. `own`: this user has the place of the
    /// default one. `lock` is held for as long as somebody works at it.
    fn map(
        &self,
        context: &Context,
        own: bool,
        lock: BorrowedFd<'_>,
        copies: &[LayerCopy],
    ) -> Result<()>;

    /// Removes a directory that has files of the range.
    fn remove(&self, parent: BorrowedFd<'_>, name: &str) -> Result<()>;
}

/// A copy of a layer that is to be made.
#[derive(Debug)]
pub(crate) struct LayerCopy {
    /// The layer.
    pub(crate) from: OwnedFd,
    /// An empty directory.
    pub(crate) to: OwnedFd,
    /// The record of owners of the layer.
    pub(crate) owners: OwnedFd,
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

/// How many copies are asked for at once: each takes three descriptors.
const AT_ONCE: usize = 32;

/// A layer, and the name of the copy of it that a sandbox needs.
type Copy = (Digest, String);

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
        if !copies.iter().all(|(_, name)| self.is_mapped(name)) {
            self.map(context, &copies, range, own)?;
        }
        let paths = copies.iter().map(|(_, name)| format!("{name}/{FS}"));
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
        let name = format!("{}-{}", diff_id.hex(), range.name(names_it));
        Ok((diff_id, name))
    }

    fn is_mapped(&self, name: &str) -> bool {
        statat(&self.inner.mapped, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Makes the copies that are missing. Whoever wants one meanwhile waits and
    /// finds it.
    fn map(&self, context: &Context, copies: &[Copy], range: &dyn Range, own: bool) -> Result<()> {
        let _shared = self.shared(context)?;
        let _lock = Lock::wait(context, &self.inner.locks, super::MAPPED, false)?;
        let work = Work::new(self)?;
        let missing = copies.iter().filter(|(_, name)| !self.is_mapped(name));
        // An image may have a layer twice.
        let missing: BTreeMap<&str, Digest> = missing
            .map(|(diff_id, name)| (name.as_str(), *diff_id))
            .collect();
        let missing: Vec<_> = missing.into_iter().collect();
        for some in missing.chunks(AT_ONCE) {
            let begun: Result<Vec<_>> = some
                .iter()
                .map(|(name, diff_id)| self.begin_copy(&work, name, *diff_id))
                .collect();
            let begun = begun?;
            fault_point!("image.map.begun");
            range.map(context, own, work.lock().as_fd(), &begun)?;
            fault_point!("image.map.made");
        }
        // What has its name is whole, also after a loss of power.
        rustix::fs::syncfs(&self.inner.mapped)
            .map_err(|e| system("write copies of layers to the disk", e))?;
        fault_point!("image.map.synced");
        for (name, _) in missing {
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

    /// Makes the directory of a copy, and opens what goes into it.
    fn begin_copy(&self, work: &Work, name: &str, diff_id: Digest) -> Result<LayerCopy> {
        let fail = |e| system("make a copy of a layer", e);
        let outer = work.directory(name)?;
        // The sandbox's root passes through it, and is nobody there.
        fchmod(&outer, PASSABLE).map_err(fail)?;
        make_private(&outer, FS).map_err(fail)?;
        Ok(LayerCopy {
            from: self.open_layer(diff_id)?,
            to: open_directory(&outer, FS)?,
            owners: self.open_owners(diff_id)?,
        })
    }
}
