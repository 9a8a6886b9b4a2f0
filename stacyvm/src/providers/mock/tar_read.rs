//! Unpacks a tar stream: ustar, pax and the long names of GNU tar.
//!
//! The archive is hostile. It is read and checked as a whole before the tree
//! changes; nothing is written through a symbolic link or outside the directory.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::collect;
use super::sandbox::Sandbox;
use super::tar::BLOCK;
use super::tree::{Credentials, Data, ROOT, Tree, failed};
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::files::{ByteStream, FileKind, ImportRequest, WriteMode};

struct Member<'a> {
    name: Vec<u8>,
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: SystemTime,
    link: Vec<u8>,
    data: &'a [u8],
}

fn broken(why: &str) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("the data is no tar archive that can be unpacked: {why}"),
    )
}

/// Unpacks a stream below a directory.
pub(super) async fn import(
    sandbox: &Sandbox,
    request: &ImportRequest,
    data: ByteStream,
    most: u64,
) -> Result<()> {
    let who = sandbox.account(request.user.as_deref())?.credentials;
    if request.keep_owner && who.uid != 0 {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "only root inside keeps the owners of an archive",
        ));
    }
    // Headers and padding come on top of the bytes.
    let archive = collect(data, most.saturating_mul(2).max(1 << 20)).await?;
    let members = read(&archive)?;
    let now = sandbox.now();
    sandbox.change(|state| {
        if state.gone {
            return Err(super::sandbox::gone());
        }
        // All of it or nothing: the work is done on a copy.
        let mut tree = state.tree.clone();
        let path = request.path.as_bytes();
        if request.parents {
            tree.make_dir(&who, path, true, 0o755, now)?;
        }
        let (directory, _) = tree.find(&who, path, true)?;
        if tree.node(directory).kind() != FileKind::Directory {
            return Err(failed(
                ErrorKind::NotDirectory,
                "it is not a directory",
                path,
            ));
        }
        let root = tree.path_of(directory, b"");
        let mut directories = Vec::new();
        for member in &members {
            let directory = unpack(&mut tree, &who, &root, member, request.keep_owner, now)?;
            directories.extend(directory.map(|number| (number, member)));
        }
        // They may close a directory, and are set when all is in it.
        for (number, member) in directories.into_iter().rev() {
            dress(&mut tree, &who, number, member, request.keep_owner);
        }
        state.tree = tree;
        Ok(())
    })
}

/// The parts of a name that stay below the directory.
fn parts(name: &[u8]) -> Result<Vec<&[u8]>> {
    let refuse = || {
        broken(&format!(
            "`{}` leaves the directory",
            String::from_utf8_lossy(name)
        ))
    };
    if name.starts_with(b"/") || name.contains(&0) {
        return Err(refuse());
    }
    let parts: Vec<&[u8]> = name
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(refuse());
    }
    Ok(parts)
}

/// Makes one member. Gives a directory, whose attributes are still to be set.
fn unpack(
    tree: &mut Tree,
    who: &Credentials,
    root: &[u8],
    member: &Member<'_>,
    keep_owner: bool,
    now: SystemTime,
) -> Result<Option<u64>> {
    let names = parts(&member.name)?;
    let mut path = root.to_vec();
    if path == b"/" {
        path.clear();
    }
    for (index, name) in names.iter().enumerate() {
        path.push(b'/');
        path.extend_from_slice(name);
        if index + 1 < names.len() {
            let there = tree.walk(who, ROOT, &path, false)?.node;
            match there.map(|number| tree.node(number).kind()) {
                Some(FileKind::Directory) => {}
                None => drop(tree.make_dir(who, &path, false, 0o755, now)?),
                Some(FileKind::Link) => {
                    return Err(broken(&format!(
                        "`{}` leads through a symbolic link",
                        String::from_utf8_lossy(&member.name)
                    )));
                }
                Some(_) => {
                    return Err(failed(
                        ErrorKind::NotDirectory,
                        "a part of a name in the archive is a file",
                        &path,
                    ));
                }
            }
        }
    }
    let there = if names.is_empty() {
        Some(tree.find(who, root, false)?.0)
    } else {
        tree.walk(who, ROOT, &path, false)?.node
    };
    let is_directory = there.is_some_and(|n| tree.node(n).kind() == FileKind::Directory);
    if member.kind == b'5' {
        if there.is_some() && !is_directory {
            return Err(failed(
                ErrorKind::NotDirectory,
                "something else is there",
                &path,
            ));
        }
        return match there {
            // The directory of the import keeps its own attributes.
            _ if names.is_empty() => Ok(None),
            Some(number) => Ok(Some(number)),
            None => tree.make_dir(who, &path, false, 0o755, now).map(Some),
        };
    }
    if names.is_empty() {
        return Err(broken("a member has no name of its own"));
    }
    if is_directory {
        return Err(failed(
            ErrorKind::IsDirectory,
            "a directory is there",
            &path,
        ));
    }
    // What is there is replaced, not followed.
    if there.is_some() {
        tree.remove(who, &path, false, false, now)?;
    }
    let number = match member.kind {
        b'0' | 0 | b'7' => tree.put(
            who,
            &path,
            member.data.to_vec(),
            WriteMode::CreateNew,
            Some(member.mode),
            false,
            now,
        )?,
        // Where it leads is its own affair: nothing is written through it.
        b'2' => tree.link(who, &member.link, &path, now)?,
        b'1' => {
            let mut target = root.to_vec();
            for part in parts(&member.link)? {
                if is_link(tree, who, &target)? {
                    return Err(broken("a hard link leads through a symbolic link"));
                }
                target.push(b'/');
                target.extend_from_slice(part);
            }
            let (number, _) = tree.find(who, &target, false)?;
            if !matches!(tree.node(number).data, Data::File(_)) {
                return Err(broken("a hard link does not lead to a file"));
            }
            let place = tree.walk(who, ROOT, &path, false)?;
            tree.attach(place.parent, &place.name, number, now);
            return Ok(None);
        }
        _ => return Err(broken("it holds a device, a pipe or something unknown")),
    };
    dress(tree, who, number, member, keep_owner);
    Ok(None)
}

fn is_link(tree: &Tree, who: &Credentials, path: &[u8]) -> Result<bool> {
    let there = tree.walk(who, ROOT, path, false)?.node;
    Ok(there.is_some_and(|number| tree.node(number).kind() == FileKind::Link))
}

fn dress(tree: &mut Tree, who: &Credentials, number: u64, member: &Member<'_>, keep_owner: bool) {
    let node = tree.node_mut(number);
    if who.uid != 0 && who.uid != node.uid {
        return;
    }
    if keep_owner {
        (node.uid, node.gid) = (member.uid, member.gid);
    }
    if member.kind != b'2' {
        // What comes from outside gets no right to become somebody else.
        node.mode = member.mode & 0o1777;
    }
    node.modified = member.modified;
}

fn read(archive: &[u8]) -> Result<Vec<Member<'_>>> {
    let mut members = Vec::new();
    let mut at = 0;
    let mut global: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut own: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    loop {
        let block = archive
            .get(at..at + BLOCK)
            .ok_or_else(|| broken("it stops before its end"))?;
        at += BLOCK;
        if block.iter().all(|b| *b == 0) {
            return Ok(members);
        }
        check_sum(block)?;
        let record = |key: &str| own.get(key).or_else(|| global.get(key));
        let numeric = |key: &str, from: usize, to: usize| match record(key) {
            Some(value) => decimal(value),
            None => octal(&block[from..to]),
        };
        let size = usize::try_from(numeric("size", 124, 136)?).unwrap_or(usize::MAX);
        let end = at
            .checked_add(size)
            .filter(|end| *end <= archive.len())
            .ok_or_else(|| broken("it stops before its end"))?;
        let data = &archive[at..end];
        at = end.div_ceil(BLOCK) * BLOCK;
        let kind = block[156];
        match kind {
            b'x' | b'g' => {
                let target = if kind == b'g' { &mut global } else { &mut own };
                records(data, target)?;
                continue;
            }
            b'L' | b'K' => {
                let key = if kind == b'L' { "path" } else { "linkpath" };
                own.insert(key.to_owned(), until_nul(data).to_vec());
                continue;
            }
            _ => {}
        }
        let mut name = until_nul(&block[..100]).to_vec();
        let prefix = until_nul(&block[345..500]);
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        let small = |n: u64| u32::try_from(n).map_err(|_| broken("a number is too large"));
        let seconds = match record("mtime") {
            // A fraction of a second is left out.
            Some(value) => decimal(value.split(|b| *b == b'.').next().unwrap_or_default())?,
            None => octal(&block[136..148])?,
        };
        members.push(Member {
            name: record("path").cloned().unwrap_or(name),
            kind,
            mode: small(octal(&block[100..108])?)? & 0o7777,
            uid: small(numeric("uid", 108, 116)?)?,
            gid: small(numeric("gid", 116, 124)?)?,
            modified: UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .ok_or_else(|| broken("a time is too large"))?,
            link: record("linkpath")
                .cloned()
                .unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
            data: if matches!(kind, b'0' | 0 | b'7') {
                data
            } else {
                &[]
            },
        });
        own.clear();
    }
}

fn check_sum(block: &[u8]) -> Result<()> {
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b }))
        .sum();
    if octal(&block[148..156])? == sum {
        return Ok(());
    }
    Err(broken("a checksum does not agree"))
}

fn records(mut data: &[u8], into: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let bad = || broken("a pax record is damaged");
    while !data.is_empty() {
        let space = data.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length = usize::try_from(decimal(&data[..space])?).map_err(|_| bad())?;
        let line = data.get(space + 1..length).ok_or_else(bad)?;
        let line = line.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = line.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let key = String::from_utf8_lossy(&line[..equals]).into_owned();
        into.insert(key, line[equals + 1..].to_vec());
        data = &data[length..];
    }
    Ok(())
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

fn decimal(bytes: &[u8]) -> Result<u64> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| broken("a number is damaged"))
}

fn octal(bytes: &[u8]) -> Result<u64> {
    // The base-256 form of GNU tar for what octal digits cannot hold.
    if bytes[0] & 0x80 != 0 {
        let (first, rest) = (bytes[0], &bytes[1..]);
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        if first != 0x80 || high.iter().any(|b| *b != 0) {
            return Err(broken("a number is too large or negative"));
        }
        return Ok(low.iter().fold(0, |n, b| (n << 8) | u64::from(*b)));
    }
    let digits: Vec<u8> = bytes
        .iter()
        .copied()
        .filter(|b| !matches!(b, b' ' | 0))
        .collect();
    if digits.is_empty() {
        return Ok(0);
    }
    std::str::from_utf8(&digits)
        .ok()
        .and_then(|text| u64::from_str_radix(text, 8).ok())
        .ok_or_else(|| broken("a number is damaged"))
}
