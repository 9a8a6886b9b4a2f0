//! Sends a path as a tar stream: ustar headers, and pax records where a
//! name, a link or a number does not fit.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;

use super::sandbox::Sandbox;
use super::tree::{Credentials, Data, Right, Tree, failed};
use crate::error::{ErrorKind, Result};
use crate::sandbox::files::{ByteStream, ExportRequest};

pub(super) const BLOCK: usize = 512;
const PIECE: usize = 64 * 1024;

/// One member of an archive.
struct Member {
    name: Vec<u8>,
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: u64,
    link: Vec<u8>,
    data: Arc<Vec<u8>>,
}

/// The archive of a path as it is now.
pub(super) fn export(sandbox: &Sandbox, request: &ExportRequest) -> Result<ByteStream> {
    let who = sandbox.account(request.user.as_deref())?.credentials;
    let path = request.path.as_bytes();
    let state = sandbox.alive()?;
    let tree = &state.tree;
    let (number, found) = tree.find(&who, path, request.follow || request.contents)?;
    let is_directory = tree.entries(number).is_some();
    if request.contents && !is_directory {
        return Err(failed(
            ErrorKind::NotDirectory,
            "only a directory has contents",
            path,
        ));
    }
    let last = path.split(|b| *b == b'/').rfind(|part| !part.is_empty());
    let name = match last {
        _ if request.contents => b".".to_vec(),
        Some(b"." | b"..") => found.name,
        Some(last) => last.to_vec(),
        None => b".".to_vec(),
    };
    let mut members = Vec::new();
    gather(tree, &who, number, &name, &mut members)?;
    drop(state);
    Ok(Box::pin(futures_util::stream::unfold(
        Writer {
            members: members.into_iter(),
            data: None,
            ended: false,
        },
        |mut writer| async move { writer.next().map(|bytes| (Ok(bytes), writer)) },
    )))
}

/// Every part must be readable: an archive that leaves things out in silence
/// is not a copy.
fn gather(
    tree: &Tree,
    who: &Credentials,
    number: u64,
    name: &[u8],
    members: &mut Vec<Member>,
) -> Result<()> {
    let node = tree.node(number);
    let (kind, link, data) = match &node.data {
        Data::File(bytes) => {
            tree.demand(who, number, Right::Read, name)?;
            (b'0', Vec::new(), Arc::clone(bytes))
        }
        Data::Directory { .. } => {
            tree.demand(who, number, Right::Read, name)?;
            tree.demand(who, number, Right::Search, name)?;
            (b'5', Vec::new(), Arc::default())
        }
        Data::Link(target) => (b'2', target.clone(), Arc::default()),
    };
    let since = node.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut shown = name.to_vec();
    if kind == b'5' {
        shown.push(b'/');
    }
    members.push(Member {
        name: shown,
        kind,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        modified: since.as_secs(),
        link,
        data,
    });
    if let Some(entries) = tree.entries(number) {
        for (below, number) in entries {
            let name = [name, b"/", below.as_slice()].concat();
            gather(tree, who, *number, &name, members)?;
        }
    }
    Ok(())
}

struct Writer {
    members: std::vec::IntoIter<Member>,
    data: Option<(Arc<Vec<u8>>, usize)>,
    ended: bool,
}

impl Writer {
    fn next(&mut self) -> Option<Bytes> {
        if let Some((data, at)) = self.data.take() {
            let end = data.len().min(at + PIECE);
            let mut piece = data[at..end].to_vec();
            if end < data.len() {
                self.data = Some((data, end));
            } else {
                pad(&mut piece, data.len());
            }
            return Some(piece.into());
        }
        if let Some(member) = self.members.next() {
            let head = head(&member);
            if !member.data.is_empty() {
                self.data = Some((member.data, 0));
            }
            return Some(head.into());
        }
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        Some(Bytes::from_static(&[0; 2 * BLOCK]))
    }
}

fn pad(bytes: &mut Vec<u8>, length: usize) {
    bytes.resize(bytes.len() + (BLOCK - length % BLOCK) % BLOCK, 0);
}

fn head(member: &Member) -> Vec<u8> {
    let size = member.data.len() as u64;
    let mut records = Vec::new();
    if member.name.len() > 100 {
        record(&mut records, "path", &member.name);
    }
    if member.link.len() > 100 {
        record(&mut records, "linkpath", &member.link);
    }
    for (key, value, most) in [
        ("size", size, 0o77_777_777_777),
        ("uid", u64::from(member.uid), 0o7_777_777),
        ("gid", u64::from(member.gid), 0o7_777_777),
    ] {
        if value > most {
            record(&mut records, key, value.to_string().as_bytes());
        }
    }
    let mut out = Vec::new();
    if !records.is_empty() {
        let extra = Member {
            name: b"pax".to_vec(),
            kind: b'x',
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: 0,
            link: Vec::new(),
            data: Arc::default(),
        };
        out.extend_from_slice(&block(&extra, records.len() as u64));
        let length = records.len();
        out.append(&mut records);
        pad(&mut out, length);
    }
    out.extend_from_slice(&block(member, size));
    out
}

/// A pax record: its own length in decimal, a key and a value.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn block(member: &Member, size: u64) -> [u8; BLOCK] {
    fn text(block: &mut [u8; BLOCK], at: usize, room: usize, value: &[u8]) {
        let length = value.len().min(room);
        block[at..at + length].copy_from_slice(&value[..length]);
    }
    /// Octal with a NUL at the end; a number that does not fit stands in a record.
    fn number(block: &mut [u8; BLOCK], at: usize, room: usize, value: u64) {
        let digits = room - 1;
        let most = (1_u64 << (3 * digits)) - 1;
        let value = if value > most { 0 } else { value };
        text(block, at, digits, format!("{value:0digits$o}").as_bytes());
    }
    let mut block = [0; BLOCK];
    text(&mut block, 0, 100, &member.name);
    number(&mut block, 100, 8, u64::from(member.mode));
    number(&mut block, 108, 8, u64::from(member.uid));
    number(&mut block, 116, 8, u64::from(member.gid));
    number(&mut block, 124, 12, size);
    number(&mut block, 136, 12, member.modified);
    block[148..156].fill(b' ');
    block[156] = member.kind;
    text(&mut block, 157, 100, &member.link);
    text(&mut block, 257, 8, b"ustar\x0000");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    text(&mut block, 148, 8, format!("{sum:06o}\0 ").as_bytes());
    block
}
