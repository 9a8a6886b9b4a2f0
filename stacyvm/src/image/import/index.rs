//! Archives of files that are read at any place: where each member lies.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use stacyvm_agent::guest::files::tar::{BadArchive, MemberKind, Reader};

use crate::error::{Error, ErrorKind, Result};
use crate::image::caps::{self, Caps};
use crate::image::manifest;

/// A part of a file, read from its beginning.
pub(super) struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Part {
    pub(super) fn new(file: Arc<File>, at: u64, left: u64) -> Self {
        Self { file, at, left }
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// What has a name in an archive.
#[derive(Clone, Debug)]
enum Entry {
    File(u64, u64),
    /// Another name of the archive; old `docker save` writes them.
    Link(Vec<u8>),
}

/// Where the files of an archive lie.
#[derive(Debug)]
pub(super) struct Index {
    file: Arc<File>,
    entries: HashMap<Vec<u8>, Entry>,
}

/// Members of an archive of an image; there are a few of each layer.
const MEMBERS: usize = 16 * 1024;
/// How many links are followed to a file.
const FOLLOWED: usize = 8;

impl Index {
    /// Reads the names of an archive. Its content stays where it is.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for what is no archive; `resource_exhausted` past the caps.
    pub(super) fn of(file: Arc<File>, caps: &Caps) -> Result<Self> {
        let length = file.metadata().map_err(unreadable)?.len();
        let mut entries = HashMap::new();
        let mut reader = Reader::of_layer(Part::new(Arc::clone(&file), 0, length));
        while let Some(member) = reader.next_member().map_err(bad)? {
            if entries.len() >= MEMBERS {
                return Err(caps::reached(
                    "layers",
                    caps.layers,
                    "the archive has too many members",
                ));
            }
            let entry = match member.kind {
                MemberKind::File if member.sparse.is_none() => {
                    Entry::File(reader.position(), member.size)
                }
                MemberKind::HardLink => Entry::Link(member.link.clone()),
                MemberKind::Symlink => {
                    let mut target = match member.name.iter().rposition(|b| *b == b'/') {
                        Some(at) => member.name[..=at].to_vec(),
                        None => Vec::new(),
                    };
                    target.extend_from_slice(&member.link);
                    Entry::Link(target)
                }
                _ => continue,
            };
            // Of a name that comes twice the last, as for who unpacks it.
            if let Some(name) = normal(&member.name) {
                entries.insert(name, entry);
            }
        }
        Ok(Self { file, entries })
    }

    /// Opens a file of the archive, and tells its bytes.
    pub(super) fn open(&self, name: &str) -> Result<(Part, u64)> {
        let missing = || {
            Error::new(
                ErrorKind::NotFound,
                format!("the archive has no file `{name}`"),
            )
        };
        let mut at = normal(name.as_bytes()).ok_or_else(missing)?;
        for _ in 0..FOLLOWED {
            match self.entries.get(&at).ok_or_else(missing)? {
                Entry::File(offset, size) => {
                    return Ok((Part::new(Arc::clone(&self.file), *offset, *size), *size));
                }
                Entry::Link(target) => at = normal(target).ok_or_else(missing)?,
            }
        }
        Err(missing())
    }
}

/// A name without `.` and `..`; `None` where it leads out.
fn normal(name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

fn bad(error: BadArchive) -> Error {
    match error {
        BadArchive::Refused { message, .. } => {
            manifest::invalid("archive", "a tar archive").context("found", message)
        }
        BadArchive::Source(error) => unreadable(error),
    }
}

pub(super) fn unreadable(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, "the source of the image cannot be read")
        .context(
            "remedy",
            "name a file or directory that exists and that you may read",
        )
        .source(error)
}
