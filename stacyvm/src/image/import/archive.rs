//! Archives as files: compressed ones are unpacked beside the store's work first.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;

use super::index::{Index, Part, unreadable};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::image::caps;
use crate::image::store::{Images, Work, failed};

/// An archive with its index.
#[derive(Debug)]
pub(super) struct Archive {
    index: Index,
    /// Holds the file, where the archive was compressed.
    _work: Option<Work>,
}

/// Opens a file that is to be read as it is: a regular one.
pub(super) fn open_file(path: &Path) -> Result<File> {
    let mut options = File::options();
    // Not blocking: a FIFO in its place must not hold us up.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
    let file = options.read(true).open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(Error::invalid(
            "source",
            path.display(),
            "a regular file",
            "write the archive to a file first",
        ));
    }
    Ok(file)
}

impl Archive {
    pub(super) fn open(images: &Images, context: &Context, path: &Path) -> Result<Self> {
        let mut file = open_file(path)?;
        let mut start = [0; 4];
        let filled = file.read(&mut start).map_err(unreadable)?;
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let mut decoder: Box<dyn Read> = match &start[..filled] {
            [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(&file)),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                Box::new(zstd::stream::read::Decoder::new(&file).map_err(unreadable)?)
            }
            _ => {
                let index = Index::of(Arc::new(file), images.caps())?;
                return Ok(Self { index, _work: None });
            }
        };
        let work = Work::new(images)?;
        let mut plain = work.file("archive")?;
        let mut buffer = vec![0; 256 * 1024];
        let mut left = images.caps().image_bytes;
        loop {
            context.check()?;
            let count = decoder.read(&mut buffer).map_err(unreadable)?;
            if count == 0 {
                break;
            }
            left = left.checked_sub(count as u64).ok_or_else(|| {
                caps::reached(
                    "image_bytes",
                    images.caps().image_bytes,
                    "the archive unpacks to too much",
                )
            })?;
            plain
                .write_all(&buffer[..count])
                .map_err(|e| failed("unpack the archive", e))?;
        }
        let index = Index::of(Arc::new(plain), images.caps())?;
        Ok(Self {
            index,
            _work: Some(work),
        })
    }

    pub(super) fn open_part(&self, name: &str) -> Result<(Part, u64)> {
        self.index.open(name)
    }
}
