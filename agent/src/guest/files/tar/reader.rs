//! Reads archives. Everything in them is hostile.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use super::header::{self, Block, field};
use super::{BLOCK, MAX_EXTENDED, MAX_NAME, Member, MemberKind, Sparse, pax, sparse};

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
    /// Whether it reads what only layers of images hold.
    layers: bool,
    end_mark: bool,
    /// Bytes of the source that were used.
    position: u64,
}

/// What the headers in front of a member said about it.
#[derive(Default)]
struct Extended {
    records: Option<Records>,
    /// The numbers of a sparse map that has one record for each.
    parts: Vec<u64>,
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
            layers: false,
            end_mark: false,
            position: 0,
        }
    }

    /// Reads the archive of an image's layer: also devices, extended
    /// attributes and sparse files; and, because a layer's digest tells
    /// whether it is whole, archives without an end mark.
    pub fn of_layer(source: R) -> Self {
        Self {
            layers: true,
            ..Self::new(source)
        }
    }

    /// Where in the archive what is read next stands: after
    /// [`next_member`](Self::next_member) the content of the member.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the archive's end mark was seen.
    pub fn has_end_mark(&self) -> bool {
        self.end_mark
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
                && (!matches!(filled, Ok(true)) || !header::checksum_is_right(&block))
            {
                return refuse(
                    "archive is compressed; unpack it first, as with gunzip",
                    b"",
                );
            }
            if !filled? {
                if self.layers && extended.is_empty() {
                    self.ended = true;
                    return Ok(None);
                }
                return refuse(TORN, b"");
            }
            if block.iter().all(|byte| *byte == 0) {
                if !extended.is_empty() {
                    return refuse("archive ends after an extended header", b"");
                }
                (self.ended, self.end_mark) = (true, true);
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
                    let (records, parts) = self.records(&block)?;
                    (extended.records, extended.parts) = (Some(records), parts);
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
                    let map = (block[field::TYPE] == b'S').then(|| self.old_map(&block));
                    let mut member = self.member(&block, extended)?;
                    self.expect(member.size);
                    if let Some(map) = map.transpose()? {
                        member.sparse = Some(map);
                    }
                    self.check_map(&mut member)?;
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
                    self.position += count as u64;
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

    /// Fills a block; `false` where the source ended before it.
    fn fill(&mut self, block: &mut Block) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return refuse(TORN, b""),
                Ok(count) => {
                    filled += count;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BadArchive::Source(error)),
            }
        }
        Ok(true)
    }

    /// The map of GNU's old format: it goes on in blocks before the content.
    fn old_map(&mut self, block: &Block) -> Result<Sparse> {
        let (mut parts, whole, mut more) = match sparse::old_header(block) {
            Some(found) if self.layers => found,
            _ => return refuse(SPARSE, header::text(block, field::NAME)),
        };
        while more {
            let mut block = [0; BLOCK];
            if !self.fill(&mut block)? {
                return refuse(TORN, b"");
            }
            let Some((next, goes_on)) = sparse::old_block(&block) else {
                return refuse(SPARSE, b"");
            };
            if next.is_empty() || parts.len() > sparse::MAX_PARTS {
                return refuse(SPARSE, b"");
            }
            parts.extend(next);
            more = goes_on;
        }
        Ok(Sparse { parts, whole })
    }

    /// Reads the map that stands before the content, where it does (version 1.0
    /// of the format), and judges it.
    fn check_map(&mut self, member: &mut Member) -> Result<()> {
        let Some(map) = &mut member.sparse else {
            return Ok(());
        };
        if map.parts.first() == Some(&IN_CONTENT) {
            let Some(numbers) = self.numbers_of_content()? else {
                return refuse(SPARSE, &member.name);
            };
            let Some(parts) = sparse::paired(&numbers) else {
                return refuse(SPARSE, &member.name);
            };
            map.parts = parts;
            member.size = self.left;
        }
        if !sparse::is_sound(&map.parts, map.whole, member.size) {
            return refuse(SPARSE, &member.name);
        }
        Ok(())
    }

    /// The numbers at the beginning of the content, a line each, their count
    /// first; the rest of the last block is padding.
    fn numbers_of_content(&mut self) -> Result<Option<Vec<u64>>> {
        let (mut numbers, mut line) = (Vec::new(), Vec::new());
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK];
            if self.left < BLOCK as u64 || !self.fill(&mut block)? {
                return Ok(None);
            }
            self.left -= BLOCK as u64;
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Ok(None);
                    }
                    continue;
                }
                let Some(number) = pax::decimal(&line) else {
                    return Ok(None);
                };
                line.clear();
                if wanted.is_some() {
                    numbers.push(number);
                } else {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    if count > sparse::MAX_PARTS {
                        return Ok(None);
                    }
                    wanted = Some(2 * count);
                }
            }
        }
        Ok(Some(numbers))
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        let mut rest = (&mut self.source).take(count);
        match std::io::copy(&mut rest, &mut std::io::sink()) {
            Ok(skipped) if skipped == count => {
                self.position += count;
                Ok(())
            }
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
            Ok(count) if count as u64 == size => self.position += size,
            Ok(_) => return refuse(TORN, b""),
            Err(error) => return Err(BadArchive::Source(error)),
        }
        self.left = 0;
        Ok(content)
    }

    /// The records of a header, of a key that comes twice the last; and the
    /// numbers of a map that has one record for each.
    fn records(&mut self, block: &Block) -> Result<(Records, Vec<u64>)> {
        let content = self.content(block)?;
        let Some(records) = pax::records(&content) else {
            return refuse("an extended header is malformed", b"");
        };
        let mut all = Records::new();
        let mut parts = Vec::new();
        for (key, value) in records {
            if key.starts_with(b"GNU.sparse.") && !self.layers {
                return refuse("sparse members are not supported", b"");
            }
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                let Some(number) = pax::decimal(value) else {
                    return refuse(SPARSE, b"");
                };
                parts.push(number);
            }
            all.insert(key.to_vec(), value.to_vec());
        }
        Ok((all, parts))
    }

    fn global(&mut self, block: &Block) -> Result<()> {
        for (key, value) in self.records(block)?.0 {
            let own = [&b"GNU.sparse."[..], XATTR]
                .iter()
                .any(|p| key.starts_with(p));
            if own || matches!(&key[..], b"path" | b"linkpath" | b"size") {
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
        // Of a sparse member `path` is a name that no program should use.
        let name = text(
            record("GNU.sparse.name").or_else(|| record("path")),
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
        let kind = kind(block[field::TYPE], &name, self.layers)?;
        if kind != MemberKind::File && size != 0 {
            return refuse("a member that has no content has a size", &name);
        }
        let is_link = matches!(kind, MemberKind::HardLink | MemberKind::Symlink);
        if is_link && link.is_empty() {
            return refuse("a link has no target", &name);
        }
        let device = device(block, kind, &name)?;
        let sparse = sparse_of(&own, &extended.parts, kind, &name)?;
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
            device,
            sparse,
            xattrs: xattrs(own, self.layers),
        })
    }
}

fn device(block: &Block, kind: MemberKind, name: &[u8]) -> Result<(u32, u32)> {
    if !matches!(kind, MemberKind::CharDevice | MemberKind::BlockDevice) {
        return Ok((0, 0));
    }
    let number = |field| header::number(block, field).and_then(|n| u32::try_from(n).ok());
    match (number(field::MAJOR), number(field::MINOR)) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => refuse("number of a device is not a number", name),
    }
}

/// The records before which the names of extended attributes stand.
const XATTR: &[u8] = b"SCHILY.xattr.";

fn xattrs(records: Records, layers: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    if !layers {
        return Vec::new();
    }
    let named = records.into_iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(XATTR)?;
        (!name.is_empty()).then(|| (name.to_vec(), value))
    });
    named.collect()
}

/// Stands for a map that is read from the content.
const IN_CONTENT: (u64, u64) = (u64::MAX, u64::MAX);

fn sparse_of(
    records: &Records,
    parts: &[u64],
    kind: MemberKind,
    name: &[u8],
) -> Result<Option<Sparse>> {
    let record = |key: &str| records.get(key.as_bytes());
    if !records.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
        return Ok(None);
    }
    let whole = record("GNU.sparse.realsize").or_else(|| record("GNU.sparse.size"));
    let major = record("GNU.sparse.major").map(Vec::as_slice);
    let parts = match (major, record("GNU.sparse.map")) {
        (Some(b"1"), None) => Some(vec![IN_CONTENT]),
        (Some(b"0") | None, Some(map)) => sparse::commas(map),
        (Some(b"0") | None, None) => sparse::paired(parts),
        _ => None,
    };
    match (parts, whole.and_then(|whole| pax::decimal(whole))) {
        (Some(parts), Some(whole)) if kind == MemberKind::File => Ok(Some(Sparse { parts, whole })),
        _ => refuse(SPARSE, name),
    }
}

const TORN: &str = "archive stops in the middle";
const SPARSE: &str = "the map of a sparse member is malformed or not supported";

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

fn kind(flag: u8, name: &[u8], layers: bool) -> Result<MemberKind> {
    Ok(match flag {
        b'3' if layers => MemberKind::CharDevice,
        b'4' if layers => MemberKind::BlockDevice,
        b'S' if layers => MemberKind::File,
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
