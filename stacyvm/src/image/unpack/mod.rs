//! Unpacking a layer: one pass over its bytes, in two threads. The first reads,
//! hashes, keeps the blob and decompresses; the second reads the archive and
//! writes files.

mod members;
mod names;
mod pipe;
mod target;
mod tree;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

pub(super) use names::decode as decode_path;
pub(super) use target::{OPAQUE, WHITEOUT};
pub use tree::{DeviceNode, LayerRecord};
pub(super) use tree::{fingerprint, names as names_in};

use super::caps::Caps;
use super::digest::Digest;
use super::store::Flavour;
use crate::context::Context;
use crate::error::{Error, Result};

/// What is known of a layer before it is read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    /// The digest of the blob.
    pub(super) blob: Option<Digest>,
    /// Its bytes.
    pub(super) size: Option<u64>,
    /// The digest after decompression.
    pub(super) diff_id: Option<Digest>,
}

/// A layer that was read to its end, with digests that are right.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) blob: Digest,
    pub(super) size: u64,
    pub(super) diff_id: Digest,
    /// How the blob is compressed.
    pub(super) media_type: &'static str,
    pub(super) record: LayerRecord,
    /// The lines of the record of owners.
    pub(super) owners: Vec<u8>,
}

/// Unpacks what `source` holds into an empty directory; with `keep` the bytes
/// are written to that file as they come.
///
/// # Errors
///
/// `invalid_argument` for a malformed or hostile archive, `corrupt` where a
/// digest or a size is another one, `resource_exhausted` at a cap, `no_space`,
/// those of the context. The directory is then half-filled.
pub(super) fn layer(
    context: &Context,
    caps: &Caps,
    source: &mut (dyn Read + Send),
    keep: Option<&File>,
    expected: &Expected,
    directory: OwnedFd,
    flavour: Flavour,
) -> Result<Unpacked> {
    std::thread::scope(|scope| {
        let (sender, receiver) = pipe::pair();
        let feeder = scope.spawn(move || pipe::feed(context, caps, source, keep, expected, sender));
        let written = members::unpack(caps, receiver, directory, flavour);
        let fed = feeder
            .join()
            .unwrap_or_else(|_| Err(Error::new(crate::ErrorKind::Internal, "a worker panicked")));
        // What stopped the source says more than that the archive was torn,
        // and a feeder whose reader went away says nothing.
        let (written, fed) = match (written, fed) {
            (Err(error), Ok(_)) => return Err(error),
            (Err(error), Err(fed)) if pipe::is_hang_up(&fed) => return Err(error),
            (_, Err(fed)) => return Err(fed),
            (Ok(written), Ok(fed)) => (written, fed),
        };
        if !written.end_mark && expected.diff_id.is_none() {
            return Err(super::manifest::invalid(
                "layer",
                "an archive with an end mark, because no digest says that it is whole",
            ));
        }
        fault_point!("image.layer.written");
        let mut record = LayerRecord::of(&written, fed.diff_id, flavour);
        let (count, print) = fingerprint(&written.root, caps.depth)?;
        (record.files, record.tree) = (count, print);
        fault_point!("image.layer.judged");
        Ok(Unpacked {
            blob: fed.blob,
            size: fed.size,
            diff_id: fed.diff_id,
            media_type: fed.media_type,
            record,
            owners: written.owners,
        })
    })
}

/// Reads a blob again, decompressed and judged.
///
/// # Errors
///
/// As [`layer`], and those of `to`.
pub(super) fn decompress(
    context: &Context,
    caps: &Caps,
    source: &mut dyn Read,
    expected: &Expected,
    to: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    pipe::decompress(context, caps, source, expected, to).map(drop)
}

#[cfg(test)]
pub(super) mod testing {
    //! Layers without a store.

    use super::*;

    fn unpack(archive: &[u8], into: &std::path::Path, marker: target::Marker) -> Result<()> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let root = rustix::fs::open(into, flags, rustix::fs::Mode::empty()).unwrap();
        let (context, caps) = (Context::default(), Caps::default());
        let expected = Expected::default();
        let (sender, receiver) = pipe::pair();
        std::thread::scope(|scope| {
            let mut source = std::io::Cursor::new(archive);
            let (context, caps, expected) = (&context, &caps, &expected);
            scope.spawn(move || pipe::feed(context, caps, &mut source, None, expected, sender));
            members::unpack_with(caps, receiver, root, Flavour::Own, marker).map(drop)
        })
    }

    /// As it is unpacked where no device 0:0 can be made.
    pub(in crate::image) fn unpack_with_attributes(archive: &[u8], into: &std::path::Path) {
        unpack(archive, into, target::Marker::Attribute).unwrap();
    }

    /// As an ordinary user unpacks it.
    pub(in crate::image) fn unpack_as_user(archive: &[u8], into: &std::path::Path) -> Result<()> {
        unpack(archive, into, target::Marker::Device)
    }
}
