//! Archives as bytes: written as other programs write them, and read back.

use crate::case::{Checked, Failure};
use crate::ensure;

const BLOCK: usize = 512;

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    /// `0` a file, `1` a hard link, `2` a symbolic link, `5` a directory.
    pub(super) kind: char,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: u64,
    pub(super) link: Vec<u8>,
    pub(super) data: Vec<u8>,
}

impl Member {
    pub(super) fn new(kind: char, name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            mode: if kind == '5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            modified: 1_000_000_000,
            link: Vec::new(),
            data: Vec::new(),
        }
    }

    pub(super) fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        let mut file = Self::new('0', name);
        file.data = data.as_ref().to_vec();
        file
    }

    pub(super) fn link(kind: char, name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Self {
        let mut link = Self::new(kind, name);
        link.link = to.as_ref().to_vec();
        link
    }

    pub(super) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(super) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

/// A header and what follows it; what is too long for the header is cut off.
pub(super) fn block(member: &Member) -> Vec<u8> {
    let mut head = [0; BLOCK];
    let mut put = |at: usize, room: usize, bytes: &[u8]| {
        let len = bytes.len().min(room);
        head[at..at + len].copy_from_slice(&bytes[..len]);
    };
    put(0, 100, &member.name);
    for (at, room, number) in [
        (100, 7, u64::from(member.mode)),
        (108, 7, u64::from(member.uid)),
        (116, 7, u64::from(member.gid)),
        (124, 11, member.data.len() as u64),
        (136, 11, member.modified),
    ] {
        put(at, room, format!("{number:0room$o}").as_bytes());
    }
    put(148, 8, b"        ");
    put(156, 1, &[u8::try_from(member.kind).unwrap_or(b'?')]);
    put(157, 100, &member.link);
    put(257, 8, b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut all = head.to_vec();
    all.extend(padded(&member.data));
    all
}

/// A member whose name stands in a pax header before it.
pub(super) fn with_pax(member: &Member) -> Vec<u8> {
    let mut record = [b" path=", member.name.as_slice(), b"\n"].concat();
    let mut len = record.len() + 1;
    while len != record.len() + len.to_string().len() {
        len = record.len() + len.to_string().len();
    }
    record.splice(0..0, len.to_string().into_bytes());
    let mut short = member.clone();
    short.name = b"short".to_vec();
    [block(&Member::file("pax", record)).also('x'), block(&short)].concat()
}

/// A member whose name stands before it as GNU tar writes long ones.
pub(super) fn with_gnu_name(member: &Member) -> Vec<u8> {
    let name = [member.name.as_slice(), b"\0"].concat();
    let mut short = member.clone();
    short.name.truncate(100);
    [
        block(&Member::file("././@LongLink", name)).also('L'),
        block(&short),
    ]
    .concat()
}

/// A member whose name is divided as ustar divides it.
pub(super) fn with_prefix(member: &Member, prefix: &str) -> Vec<u8> {
    let mut bytes = block(member);
    bytes[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
    summed(bytes)
}

/// With another checksum after a change of the header.
pub(super) fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    bytes
}

trait Also {
    /// The same as another kind.
    fn also(self, kind: char) -> Self;
}

impl Also for Vec<u8> {
    fn also(mut self, kind: char) -> Self {
        self[156] = u8::try_from(kind).unwrap_or(b'?');
        summed(self)
    }
}

/// An archive with its end.
pub(super) fn ended(mut blocks: Vec<u8>) -> Vec<u8> {
    blocks.resize(blocks.len() + 2 * BLOCK, 0);
    blocks
}

/// An archive of these members.
pub(super) fn archive(members: &[Member]) -> Vec<u8> {
    ended(members.iter().flat_map(block).collect())
}

fn bad(why: &str, at: usize) -> Failure {
    Failure::broken(format!("the archive is none: {why} at byte {at}"))
}

fn text(field: &[u8]) -> Vec<u8> {
    field
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}

fn octal(field: &[u8], at: usize) -> Checked<u64> {
    let digits: String = text(field).iter().map(|byte| char::from(*byte)).collect();
    match digits.trim() {
        "" => Ok(0),
        digits => u64::from_str_radix(digits, 8).map_err(|_| bad("a number is no octal one", at)),
    }
}

/// Reads an archive: ustar, with pax headers for what does not fit.
pub(super) fn members(bytes: &[u8]) -> Checked<Vec<Member>> {
    let mut all = Vec::new();
    let mut at = 0;
    let mut pax: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    loop {
        let head = bytes
            .get(at..at + BLOCK)
            .ok_or_else(|| bad("it stops", at))?;
        if head.iter().all(|byte| *byte == 0) {
            let rest = &bytes[at..];
            ensure!(
                rest.len() >= 2 * BLOCK,
                "the archive has no end of two blocks"
            );
            ensure!(
                rest.iter().all(|byte| *byte == 0),
                "something is behind the end"
            );
            return Ok(all);
        }
        let sum = octal(&head[148..156], at)?;
        let counted = head.iter().enumerate().map(|(n, byte)| match n {
            148..156 => u64::from(b' '),
            _ => u64::from(*byte),
        });
        ensure!(
            counted.sum::<u64>() == sum,
            "the checksum at byte {at} is wrong"
        );
        let value = |key: &[u8]| pax.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let size = match value(b"size") {
            Some(size) => String::from_utf8_lossy(&size).parse().unwrap_or(u64::MAX),
            None => octal(&head[124..136], at)?,
        };
        let from = at + BLOCK;
        let to = usize::try_from(size)
            .ok()
            .and_then(|size| from.checked_add(size));
        let data = to.and_then(|to| bytes.get(from..to));
        let data = data.ok_or_else(|| bad("a member stops", at))?.to_vec();
        at = from + data.len().next_multiple_of(BLOCK);
        if head[156] == b'x' {
            pax = records(&data, at)?;
            continue;
        }
        let mut name = text(&head[..100]);
        let prefix = text(&head[345..500]);
        if !prefix.is_empty() {
            name = [prefix.as_slice(), b"/", &name].concat();
        }
        let number = |key: &[u8], from: usize, to: usize| match value(key) {
            Some(value) => String::from_utf8_lossy(&value)
                .split('.')
                .next()
                .and_then(|whole| whole.parse().ok())
                .ok_or_else(|| bad("a pax number is none", at)),
            None => octal(&head[from..to], at),
        };
        let small =
            |number: u64| u32::try_from(number).map_err(|_| bad("a number is too large", at));
        all.push(Member {
            name: value(b"path").unwrap_or(name),
            kind: char::from(head[156]),
            mode: small(octal(&head[100..108], at)?)?,
            uid: small(number(b"uid", 108, 116)?)?,
            gid: small(number(b"gid", 116, 124)?)?,
            modified: number(b"mtime", 136, 148)?,
            link: value(b"linkpath").unwrap_or_else(|| text(&head[157..257])),
            data,
        });
        pax.clear();
    }
}

fn records(mut data: &[u8], at: usize) -> Checked<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut all = Vec::new();
    while !data.is_empty() {
        let space = data.iter().position(|byte| *byte == b' ');
        let space = space.ok_or_else(|| bad("a pax record has no length", at))?;
        let len: usize = String::from_utf8_lossy(&data[..space]).parse().unwrap_or(0);
        let record = data.get(space + 1..len).and_then(|r| r.strip_suffix(b"\n"));
        let record = record.ok_or_else(|| bad("a pax record has a wrong length", at))?;
        let equals = record.iter().position(|byte| *byte == b'=');
        let equals = equals.ok_or_else(|| bad("a pax record has no value", at))?;
        all.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        data = &data[len..];
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let long = Member::file("n".repeat(300), "x".repeat(600));
        let all = [
            Member::new('5', "d/").mode(0o700).owner(1, 2),
            Member::link('2', "d/l", "../x"),
            Member::file("d/f", ""),
        ];
        let mut bytes: Vec<u8> = all.iter().flat_map(block).collect();
        bytes.extend(with_pax(&long));
        let seen = members(&ended(bytes)).expect("an archive");
        assert_eq!(seen, [&all[..], &[long]].concat());
        let divided = ended(with_prefix(&Member::file("f", "x"), "a/b"));
        assert_eq!(members(&divided).expect("an archive")[0].name, b"a/b/f");
    }
}
