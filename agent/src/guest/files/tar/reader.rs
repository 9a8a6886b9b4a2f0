//! Reads archives. Everything in them is hostile.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use super::header::{self, Block, field};
use super::{BLOCK, MAX_EXTENDED, MAX_NAME, Member, MemberKind, pax};

/// Bytes read from the source at once.
const BUFFER: usize = 256 * 1024;
/// How files of gzip, bzip2, xz and zstd begin.
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
/// Bytes of global records that are kept.
const MAX_GLOBAL: usize = 64 * 1024;

/// Why reading stopped.
#[derive(Debug)]
pub enum BadArchive {
    /// The archive is not one, or is one that is refused.
    Refused {
        /// What is wrong with it.
        message: &'static str,
        /// The member it is about; empty where none is known.
        name: Vec<u8>,
    },
    /// Its source failed.
    Source(std::io::Error),
}

type Result<T> = std::result::Result<T, BadArchive>;

fn refuse<T>(message: &'static str, name: &[u8]) -> Result<T> {
    Err(BadArchive::Refused {
        message,
        name: name.to_vec(),
    })
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads one archive from its beginning to its end, in constant memory.
///
/// Never panics and never allocates for a length that the source only claims.
/// Two headers that disagree follow one rule: an extended header wins over the
/// plain one. What programs are known to read differently is refused.
#[derive(Debug)]
pub struct Reader<R> {
    source: BufReader<R>,
    /// Content of the current member that was not read yet.
    left: u64,
    /// Bytes after that content up to the next block.
    padding: u64,
    global: Records,
    at_beginning: bool,
    ended: bool,
}

/// What the headers in front of a member said about it.
#[derive(Default)]
struct Extended {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// Starts at the beginning of an archive.
    pub fn new(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(BUFFER, source),
            left: 0,
            padding: 0,
            global: Records::new(),
            at_beginning: true,
            ended: false,
        }
    }

    /// Goes to the next member, past what was not read of the current one.
    /// `None` after the archive's end mark; then the source was read to its
    /// end as well.
    ///
    /// # Errors
    ///
    /// The archive is malformed, torn, or holds what is refused: devices,
    /// sparse files, parts of other archives, unknown types.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        if self.ended {
            return Ok(None);
        }
        let mut extended = Extended::default();
        loop {
            self.skip(self.left.saturating_add(self.padding))?;
            (self.left, self.padding) = (0, 0);
            let mut block = [0; BLOCK];
            let filled = self.fill(&mut block);
            if std::mem::take(&mut self.at_beginning)
                && COMPRESSED.iter().any(|magic| block.starts_with(magic))
                && (filled.is_err() || !header::checksum_is_right(&block))
            {
                return refuse(
                    "archive is compressed; unpack it first, as with gunzip",
                    b"",
                );
            }
            filled?;
            if block.iter().all(|byte| *byte == 0) {
                if !extended.is_empty() {
                    return refuse("archive ends after an extended header", b"");
                }
                self.ended = true;
                std::io::copy(&mut self.source, &mut std::io::sink())
                    .map_err(BadArchive::Source)?;
                return Ok(None);
            }
            let name = header::text(&block, field::NAME);
            if !header::checksum_is_right(&block) {
                return refuse("checksum of a header is wrong", name);
            }
            match block[field::TYPE] {
                b'x' if extended.records.is_none() => {
                    extended.records = Some(self.records(&block)?);
                }
                b'g' => self.global(&block)?,
                b'L' if extended.long_name.is_none() => {
                    extended.long_name = Some(self.long(&block)?);
                }
                b'K' if extended.long_link.is_none() => {
                    extended.long_link = Some(self.long(&block)?);
                }
                b'x' | b'L' | b'K' => {
                    return refuse("a member has two extended headers of one type", name);
                }
                _ => {
                    let member = self.member(&block, extended)?;
                    self.expect(member.size);
                    return Ok(Some(member));
                }
            }
        }
    }

    /// Reads content of the current member; 0 at its end.
    ///
    /// # Errors
    ///
    /// The archive stops within the content.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        loop {
            match self.source.read(&mut buffer[..most]) {
                Ok(0) => return refuse(TORN, b""),
                Ok(count) => {
                    self.left -= count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BadArchive::Source(error)),
            }
        }
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn fill(&mut self, block: &mut Block) -> Result<()> {
        match self.source.read_exact(block) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => refuse(TORN, b""),
            Err(error) => Err(BadArchive::Source(error)),
        }
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        let mut rest = (&mut self.source).take(count);
        match std::io::copy(&mut rest, &mut std::io::sink()) {
            Ok(skipped) if skipped == count => Ok(()),
            Ok(_) => refuse(TORN, b""),
            Err(error) => Err(BadArchive::Source(error)),
        }
    }

    /// The content of a header that extends the next one.
    fn content(&mut self, block: &Block) -> Result<Vec<u8>> {
        let size = size_of_field(block)?;
        if size > MAX_EXTENDED {
            return refuse("an extended header is longer than 1 MiB", b"");
        }
        self.expect(size);
        let mut content = Vec::new();
        match (&mut self.source).take(size).read_to_end(&mut content) {
            Ok(count) if count as u64 == size => {}
            Ok(_) => return refuse(TORN, b""),
            Err(error) => return Err(BadArchive::Source(error)),
        }
        self.left = 0;
        Ok(content)
    }

    fn records(&mut self, block: &Block) -> Result<Records> {
        let content = self.content(block)?;
        let Some(records) = pax::records(&content) else {
            return refuse("an extended header is malformed", b"");
        };
        let mut all = Records::new();
        for (key, value) in records {
            if key.starts_with(b"GNU.sparse.") {
                return refuse("sparse members are not supported", b"");
            }
            all.insert(key.to_vec(), value.to_vec());
        }
        Ok(all)
    }

    fn global(&mut self, block: &Block) -> Result<()> {
        for (key, value) in self.records(block)? {
            if matches!(&key[..], b"path" | b"linkpath" | b"size") {
                return refuse("a global header sets what only one member can have", b"");
            }
            self.global.insert(key, value);
        }
        let kept: usize = self.global.iter().map(|(k, v)| k.len() + v.len()).sum();
        if kept > MAX_GLOBAL {
            return refuse("global headers are longer than 64 KiB", b"");
        }
        Ok(())
    }

    /// A long name of the GNU format: it ends at its NUL.
    fn long(&mut self, block: &Block) -> Result<Vec<u8>> {
        let mut content = self.content(block)?;
        while content.last() == Some(&0) {
            content.pop();
        }
        Ok(content)
    }

    fn member(&self, block: &Block, extended: Extended) -> Result<Member> {
        let own = extended.records.unwrap_or_default();
        let record = |key: &str| {
            let value = own.get(key.as_bytes());
            // An empty value takes back what a global header said.
            value
                .or_else(|| self.global.get(key.as_bytes()))
                .filter(|value| !value.is_empty())
        };
        let name = text(
            record("path"),
            extended.long_name,
            || plain_name(block),
            b"member",
        )?;
        if name.is_empty() {
            return refuse("a member has no name", b"");
        }
        let link = text(
            record("linkpath"),
            extended.long_link,
            || header::text(block, field::LINK).to_vec(),
            &name,
        )?;
        let plain = |field| header::number(block, field);
        let size = match record("size") {
            Some(value) => pax::decimal(value),
            None => size_of_field(block).ok(),
        };
        // The file system counts in signed numbers.
        let Some(size) = size.filter(|size| i64::try_from(*size).is_ok()) else {
            return refuse("size of a member is not a number", &name);
        };
        let id = |key, field| match record(key) {
            Some(value) => pax::decimal(value).and_then(|id| u32::try_from(id).ok()),
            None => plain(field).and_then(|id| u32::try_from(id).ok()),
        };
        let (Some(uid), Some(gid)) = (id("uid", field::UID), id("gid", field::GID)) else {
            return refuse("owner of a member is not a number", &name);
        };
        let modified = match record("mtime") {
            Some(value) => pax::time(value),
            None => plain(field::MTIME).map(|seconds| (seconds, 0)),
        };
        let Some((modified_s, modified_ns)) = modified else {
            return refuse("time of a member is not a number", &name);
        };
        let Some(mode) = plain(field::MODE).and_then(|mode| u32::try_from(mode).ok()) else {
            return refuse("mode of a member is not a number", &name);
        };
        let kind = kind(block[field::TYPE], &name)?;
        if kind != MemberKind::File && size != 0 {
            return refuse("a member that has no content has a size", &name);
        }
        let is_link = matches!(kind, MemberKind::HardLink | MemberKind::Symlink);
        if is_link && link.is_empty() {
            return refuse("a link has no target", &name);
        }
        Ok(Member {
            kind,
            name,
            link: if is_link { link } else { Vec::new() },
            size,
            mode: mode & 0o7777,
            uid,
            gid,
            modified_s,
            modified_ns,
        })
    }
}

const TORN: &str = "archive stops in the middle";

impl Extended {
    fn is_empty(&self) -> bool {
        self.records.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

fn size_of_field(block: &Block) -> Result<u64> {
    header::number(block, field::SIZE)
        .and_then(|size| u64::try_from(size).ok())
        .map_or_else(|| refuse("size of a header is not a number", b""), Ok)
}

fn kind(flag: u8, name: &[u8]) -> Result<MemberKind> {
    Ok(match flag {
        // Before there was a type for directories, a slash said it.
        b'0' | 0 if name.ends_with(b"/") => MemberKind::Directory,
        b'0' | 0 | b'7' => MemberKind::File,
        b'1' => MemberKind::HardLink,
        b'2' => MemberKind::Symlink,
        b'5' => MemberKind::Directory,
        b'6' => MemberKind::Fifo,
        b'3' | b'4' => return refuse("device nodes are refused", name),
        b'S' => return refuse("sparse members are not supported", name),
        _ => return refuse("type of a member is unknown", name),
    })
}

/// A name or link target, wherever it stands.
fn text(
    record: Option<&Vec<u8>>,
    long: Option<Vec<u8>>,
    plain: impl FnOnce() -> Vec<u8>,
    name: &[u8],
) -> Result<Vec<u8>> {
    let text = match (record, long) {
        (Some(_), Some(_)) => {
            return refuse("a member has long names of two formats", name);
        }
        (Some(text), None) => text.clone(),
        (None, Some(text)) => text,
        (None, None) => plain(),
    };
    if text.len() > MAX_NAME {
        return refuse("a name is longer than 4096 bytes", &text[..MAX_NAME]);
    }
    if text.contains(&0) {
        return refuse("a name contains a NUL byte", &text);
    }
    Ok(text)
}

/// The name in the block itself; only in the POSIX format it has a prefix.
fn plain_name(block: &Block) -> Vec<u8> {
    let name = header::text(block, field::NAME);
    let prefix = header::text(block, field::PREFIX);
    if header::bytes(block, field::MAGIC) == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}
