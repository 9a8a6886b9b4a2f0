//! Unpacked layers, and who owns what in them.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, statat};
use rustix::io::Errno;

use stacyvm_agent::owners::Owner;

use super::work::open_directory;
use super::{
    Flavour, Image, Images, Lock, Work, damaged, failed, make_private, open_private, system,
};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::image::digest::Digest;
use crate::image::unpack::{self, Expected, LayerRecord, Unpacked};

const RECORD: &str = "record.json";
const OWNERS: &str = "owners";
/// The layer itself, within its directory.
pub(in crate::image) const FS: &str = "fs";
/// The longest record that is read.
const MOST: u64 = 64 << 20;

impl Images {
    /// The name of a layer's directory.
    pub(super) fn layer_name(&self, diff_id: Digest) -> String {
        format!("{}-{}", diff_id.hex(), self.inner.flavour.name())
    }

    /// Where a layer lies when it is unpacked.
    pub(in crate::image) fn layer_path(&self, diff_id: Digest) -> PathBuf {
        self.inner
            .path
            .join("layers")
            .join(self.layer_name(diff_id))
            .join(FS)
    }

    /// The layer's own directory.
    pub(in crate::image) fn open_layer(&self, diff_id: Digest) -> Result<OwnedFd> {
        let name = self.layer_name(diff_id);
        open_directory(&open_directory(&self.inner.layers, &name)?, FS)
    }

    /// What was counted when a layer was unpacked.
    ///
    /// # Errors
    ///
    /// `not_found` where it is not; `corrupt` where the record cannot be read.
    pub fn layer_record(&self, diff_id: Digest) -> Result<LayerRecord> {
        let layer = open_directory(&self.inner.layers, &self.layer_name(diff_id))?;
        let bytes = read_file(&layer, RECORD)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| damaged("the record of a layer cannot be read").source(e))
    }

    /// The record of owners of a layer.
    pub(super) fn open_owners(&self, diff_id: Digest) -> Result<OwnedFd> {
        let layer = open_directory(&self.inner.layers, &self.layer_name(diff_id))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(&layer, OWNERS, flags, Mode::empty())
            .map_err(|e| system("read the owners of a layer", e))
    }

    /// The owners in a layer that an ordinary user unpacked; of one that root
    /// unpacked none.
    pub(crate) fn layer_owners(&self, diff_id: Digest) -> Result<Owners> {
        let layer = open_directory(&self.inner.layers, &self.layer_name(diff_id))?;
        match statat(&layer, OWNERS, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Owners { bytes: Vec::new() }),
            _ => Ok(Owners {
                bytes: read_file(&layer, OWNERS)?,
            }),
        }
    }

    /// Whether a layer is whole: unpacked, and written to the disk or unpacked
    /// since the host was started.
    pub(in crate::image) fn has_layer(&self, diff_id: Digest) -> bool {
        self.layer_record(diff_id)
            .is_ok_and(|record| record.boot.is_empty() || record.boot == self.inner.boot)
    }

    /// Has a layer and its blob in the store: taken from there, or from
    /// `fetch`. Whoever wants the same layer meanwhile waits and finds it.
    pub(in crate::image) fn ensure_layer(
        &self,
        context: &Context,
        work: &Work,
        expected: &Expected,
        diff_id: Digest,
        fetch: &mut dyn FnMut() -> Result<Box<dyn Read + Send>>,
    ) -> Result<()> {
        let _lock = Lock::wait(
            context,
            &self.inner.locks,
            &format!("layer-{}", self.layer_name(diff_id)),
            false,
        )?;
        let kept = expected.blob.is_some_and(|blob| self.has_blob(blob));
        if kept && self.has_layer(diff_id) {
            return Ok(());
        }
        fault_point!("image.layer.begun");
        if kept && let Some(blob) = expected.blob {
            let mut source = self.open_blob(blob)?;
            match self.unpack_into(context, work, expected, &mut source, false) {
                Ok(_) => return Ok(()),
                // Damaged since: another one takes its place, if there is one.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Corrupt | ErrorKind::InvalidArgument
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        self.unpack_into(context, work, expected, &mut fetch()?, true)?;
        Ok(())
    }

    /// Unpacks a source, keeps its blob if asked to, and names both.
    pub(in crate::image) fn unpack_into(
        &self,
        context: &Context,
        work: &Work,
        expected: &Expected,
        source: &mut (dyn Read + Send),
        keep: bool,
    ) -> Result<Unpacked> {
        let name = crate::id::InstanceId::random().as_str().to_owned();
        let layer = work.directory(&name)?;
        make_private(&layer, FS).map_err(|e| system("make a layer", e))?;
        let fs = open_directory(&layer, FS)?;
        let blob_name = format!("{name}.blob");
        let blob = if keep {
            Some(work.file(&blob_name)?)
        } else {
            None
        };
        let mut unpacked = unpack::layer(
            context,
            self.caps(),
            source,
            blob.as_ref(),
            expected,
            fs,
            self.inner.flavour,
        )?;
        if let Some(blob) = &blob {
            self.publish_blob(work, &blob_name, blob, unpacked.blob)?;
        }
        unpacked.record.boot.clone_from(&self.inner.boot);
        if self.inner.flavour == Flavour::Own {
            write_file(&layer, OWNERS, &unpacked.owners)?;
        }
        write_file(&layer, RECORD, &record_bytes(&unpacked.record)?)?;
        fault_point!("image.layer.recorded");
        self.name_layer(work, &name, unpacked.diff_id)?;
        fault_point!("image.layer.named");
        Ok(unpacked)
    }

    /// Gives a layer its final name. One that is not whole makes room.
    fn name_layer(&self, work: &Work, from: &str, diff_id: Digest) -> Result<()> {
        let to = self.layer_name(diff_id);
        loop {
            match renameat_with(
                work.dir(),
                from,
                &self.inner.layers,
                &to,
                RenameFlags::NOREPLACE,
            ) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST | Errno::NOTEMPTY) if self.has_layer(diff_id) => return Ok(()),
                Err(Errno::EXIST | Errno::NOTEMPTY) => {
                    let aside = format!("{from}.old");
                    renameat(&self.inner.layers, &to, work.dir(), &aside)
                        .map_err(|e| system("replace a layer", e))?;
                }
                Err(error) => return Err(system("keep a layer", error)),
            }
        }
    }

    /// Writes what was unpacked to the disk, and says so in the records.
    pub(in crate::image) fn make_durable(&self, work: &Work, image: &Image) -> Result<()> {
        let fresh: Vec<Digest> = image
            .layers
            .iter()
            .map(|layer| layer.diff_id)
            .filter(|id| {
                self.layer_record(*id)
                    .is_ok_and(|record| !record.boot.is_empty())
            })
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(&self.inner.layers)
            .map_err(|e| system("write layers to the disk", e))?;
        fault_point!("image.layers.synced");
        for diff_id in fresh {
            let layer = open_directory(&self.inner.layers, &self.layer_name(diff_id))?;
            let mut record = self.layer_record(diff_id)?;
            record.boot.clear();
            // Another process may be at the same.
            let name = format!("record-{}", crate::id::InstanceId::random().as_str());
            write_file(work.dir(), &name, &record_bytes(&record)?)?;
            renameat(work.dir(), &name, &layer, RECORD)
                .map_err(|e| system("write the record of a layer", e))?;
        }
        Ok(())
    }
}

fn record_bytes(record: &LayerRecord) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| failed("write the record of a layer", e.into()))
}

fn write_file(at: &OwnedFd, name: &str, bytes: &[u8]) -> Result<()> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        open_private(at, name, flags).map_err(|e| system("write the record of a layer", e))?;
    std::fs::File::from(file)
        .write_all(bytes)
        .map_err(|e| failed("write the record of a layer", e))
}

fn read_file(at: &OwnedFd, name: &str) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(at, name, flags, Mode::empty())
        .map_err(|e| system("read the record of a layer", e))?;
    super::blob::read_bounded(std::fs::File::from(file), MOST)
}

/// The owners in one layer, as the image gives them.
#[derive(Debug)]
pub(crate) struct Owners {
    bytes: Vec<u8>,
}

impl Owners {
    /// What does not belong to 0:0 or has Linux capabilities, a directory
    /// after what is in it.
    ///
    /// # Errors
    ///
    /// An item is `corrupt` where the record is.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Owner<'_>>> {
        let damaged = || damaged("the record of owners is damaged");
        stacyvm_agent::owners::entries(&self.bytes).map(move |entry| entry.ok_or_else(damaged))
    }
}
