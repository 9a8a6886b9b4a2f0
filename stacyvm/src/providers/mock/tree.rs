//! A file tree in memory: nodes, links, permission bits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::files::{FileKind, WatchKind};

/// The number of the root directory.
pub(super) const ROOT: u64 = 1;
const MOST_LINKS: u32 = 40;
const LONGEST_NAME: usize = 255;

/// Whose rights an operation has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Credentials {
    pub(super) const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// One bit of the rights that an operation needs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Right {
    Read = 4,
    Write = 2,
    Search = 1,
}

#[derive(Clone, Debug)]
pub(super) enum Data {
    File(Arc<Vec<u8>>),
    Directory {
        entries: BTreeMap<Vec<u8>, u64>,
        parent: u64,
    },
    Link(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) data: Data,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: SystemTime,
    /// Names that lead to it.
    pub(super) names: u32,
}

impl Node {
    pub(super) fn kind(&self) -> FileKind {
        match self.data {
            Data::File(_) => FileKind::File,
            Data::Directory { .. } => FileKind::Directory,
            Data::Link(_) => FileKind::Link,
        }
    }

    pub(super) fn size(&self) -> u64 {
        match &self.data {
            Data::File(bytes) => bytes.len() as u64,
            Data::Directory { .. } => 0,
            Data::Link(target) => target.len() as u64,
        }
    }
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The directory that holds the last name.
    pub(super) parent: u64,
    /// The last name, links and `..` resolved; empty for `/`.
    pub(super) name: Vec<u8>,
    /// What is there.
    pub(super) node: Option<u64>,
}

/// The files of one sandbox.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    used: u64,
    limit: u64,
    /// Changes that no watch has been told of.
    pub(super) changes: Vec<(WatchKind, Vec<u8>)>,
}

pub(super) fn failed(kind: ErrorKind, what: &str, path: &[u8]) -> Error {
    let path = String::from_utf8_lossy(path);
    Error::new(kind, format!("{what}: `{path}`")).context("path", path)
}

impl Tree {
    /// A tree that holds an empty root directory and takes at most `limit` bytes.
    pub(super) fn new(limit: u64, now: SystemTime) -> Self {
        let root = Node {
            data: Data::Directory {
                entries: BTreeMap::new(),
                parent: ROOT,
            },
            mode: 0o755,
            uid: 0,
            gid: 0,
            modified: now,
            names: 1,
        };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            used: 0,
            limit,
            changes: Vec::new(),
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// The node of a number that this tree gave out.
    pub(super) fn node(&self, number: u64) -> &Node {
        &self.nodes[&number]
    }

    pub(super) fn get(&self, number: u64) -> Option<&Node> {
        self.nodes.get(&number)
    }

    pub(super) fn node_mut(&mut self, number: u64) -> &mut Node {
        self.nodes.get_mut(&number).expect("a node of this tree")
    }

    pub(super) fn entries(&self, number: u64) -> Option<&BTreeMap<Vec<u8>, u64>> {
        match &self.node(number).data {
            Data::Directory { entries, .. } => Some(entries),
            _ => None,
        }
    }

    fn entries_mut(&mut self, number: u64) -> Option<&mut BTreeMap<Vec<u8>, u64>> {
        match &mut self.node_mut(number).data {
            Data::Directory { entries, .. } => Some(entries),
            _ => None,
        }
    }

    /// Fails unless these credentials have this right on a node. Root has every right.
    pub(super) fn demand(
        &self,
        who: &Credentials,
        number: u64,
        right: Right,
        path: &[u8],
    ) -> Result<()> {
        let node = self.node(number);
        let shift = match () {
            () if who.uid == 0 => return Ok(()),
            () if who.uid == node.uid => 6,
            () if who.gid == node.gid => 3,
            () => 0,
        };
        if (node.mode >> shift) & right as u32 != 0 {
            return Ok(());
        }
        Err(failed(
            ErrorKind::PermissionDenied,
            "the user inside has no right to it",
            path,
        ))
    }

    /// Follows a path from a directory. What is missing is an error, but not
    /// the last name.
    pub(super) fn walk(
        &self,
        who: &Credentials,
        from: u64,
        path: &[u8],
        follow: bool,
    ) -> Result<Found> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|b| *b == b'/')
                .filter(|part| !part.is_empty())
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut todo: VecDeque<Vec<u8>> = parts(path).into();
        let mut at = if path.starts_with(b"/") { ROOT } else { from };
        let mut found = self.place(at);
        let must_be_directory = path.len() > 1 && path.ends_with(b"/");
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            let Data::Directory { entries, parent } = &self.node(at).data else {
                return Err(failed(
                    ErrorKind::NotDirectory,
                    "a part of the path is not a directory",
                    path,
                ));
            };
            self.demand(who, at, Right::Search, path)?;
            if name == b"." || name == b".." {
                if name == b".." {
                    at = *parent;
                }
                found = self.place(at);
                continue;
            }
            if name.len() > LONGEST_NAME {
                return Err(failed(
                    ErrorKind::InvalidArgument,
                    "a name is longer than 255 bytes",
                    path,
                ));
            }
            let Some(&number) = entries.get(&name) else {
                if todo.is_empty() {
                    return Ok(Found {
                        parent: at,
                        name,
                        node: None,
                    });
                }
                return Err(failed(
                    ErrorKind::NotFound,
                    "there is no such directory",
                    path,
                ));
            };
            match &self.node(number).data {
                Data::Link(target) if follow || must_be_directory || !todo.is_empty() => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(failed(
                            ErrorKind::InvalidArgument,
                            "too many symbolic links in a row",
                            path,
                        ));
                    }
                    for part in parts(target).into_iter().rev() {
                        todo.push_front(part);
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    found = self.place(at);
                }
                _ => {
                    found = Found {
                        parent: at,
                        name,
                        node: Some(number),
                    };
                    if !todo.is_empty() {
                        at = number;
                    }
                }
            }
        }
        if must_be_directory
            && found
                .node
                .is_some_and(|n| self.node(n).kind() != FileKind::Directory)
        {
            return Err(failed(
                ErrorKind::NotDirectory,
                "the path is not a directory",
                path,
            ));
        }
        Ok(found)
    }

    fn place(&self, directory: u64) -> Found {
        Found {
            parent: self.parent(directory),
            name: self.name_of(directory),
            node: Some(directory),
        }
    }

    pub(super) fn parent(&self, directory: u64) -> u64 {
        match &self.node(directory).data {
            Data::Directory { parent, .. } => *parent,
            _ => ROOT,
        }
    }

    fn name_of(&self, directory: u64) -> Vec<u8> {
        self.entries(self.parent(directory))
            .and_then(|entries| entries.iter().find(|(_, n)| **n == directory))
            .map(|(name, _)| name.clone())
            .unwrap_or_default()
    }

    /// The absolute path of a name in a directory, free of links.
    pub(super) fn path_of(&self, directory: u64, name: &[u8]) -> Vec<u8> {
        let mut parts = vec![name.to_vec()];
        let mut at = directory;
        while at != ROOT {
            parts.push(self.name_of(at));
            at = self.parent(at);
        }
        let mut path = Vec::new();
        for part in parts.iter().rev().filter(|part| !part.is_empty()) {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }

    /// The node at a path; missing is `not_found`.
    pub(super) fn find(
        &self,
        who: &Credentials,
        path: &[u8],
        follow: bool,
    ) -> Result<(u64, Found)> {
        let found = self.walk(who, ROOT, path, follow)?;
        let number = found
            .node
            .ok_or_else(|| failed(ErrorKind::NotFound, "there is no such file", path))?;
        Ok((number, found))
    }

    /// Notes a change of a name.
    pub(super) fn note(&mut self, kind: WatchKind, directory: u64, name: &[u8]) {
        let path = self.path_of(directory, name);
        self.changes.push((kind, path));
    }

    /// Takes room on the disk, or gives some back.
    fn account(&mut self, before: u64, after: u64) -> Result<()> {
        let used = self.used - before + after;
        if after > before && used > self.limit {
            return Err(Error::new(
                ErrorKind::NoSpace,
                "the disk of the sandbox is full",
            ));
        }
        self.used = used;
        Ok(())
    }

    /// Makes a node under a name that is free.
    pub(super) fn add(
        &mut self,
        directory: u64,
        name: &[u8],
        data: Data,
        mode: u32,
        who: &Credentials,
        now: SystemTime,
    ) -> Result<u64> {
        let number = self.next;
        let data = match data {
            Data::Directory { entries, .. } => Data::Directory {
                entries,
                parent: directory,
            },
            other => other,
        };
        let node = Node {
            data,
            mode: mode & 0o7777,
            uid: who.uid,
            gid: who.gid,
            modified: now,
            names: 0,
        };
        self.account(0, node.size())?;
        self.nodes.insert(number, node);
        self.next += 1;
        self.attach(directory, name, number, now);
        Ok(number)
    }

    /// Gives a node a name that is free.
    pub(super) fn attach(&mut self, directory: u64, name: &[u8], number: u64, now: SystemTime) {
        let node = self.node_mut(number);
        node.names += 1;
        if let Data::Directory { parent, .. } = &mut node.data {
            *parent = directory;
        }
        if let Some(entries) = self.entries_mut(directory) {
            entries.insert(name.to_vec(), number);
        }
        self.node_mut(directory).modified = now;
        self.note(WatchKind::Created, directory, name);
    }

    /// Takes a name away; a node without a name is gone, and what is below it.
    pub(super) fn detach(&mut self, directory: u64, name: &[u8], keep: bool, now: SystemTime) {
        self.note(WatchKind::Removed, directory, name);
        let Some(number) = self.entries_mut(directory).and_then(|e| e.remove(name)) else {
            return;
        };
        self.node_mut(directory).modified = now;
        let node = self.node_mut(number);
        node.names -= 1;
        if node.names > 0 || keep {
            return;
        }
        if let Data::Directory { entries, .. } = &node.data {
            let below: Vec<Vec<u8>> = entries.keys().cloned().collect();
            for name in below {
                self.detach(number, &name, false, now);
            }
        }
        if let Some(gone) = self.nodes.remove(&number) {
            self.used -= gone.size();
        }
    }

    /// Replaces the bytes of a file.
    pub(super) fn set_bytes(
        &mut self,
        number: u64,
        bytes: Arc<Vec<u8>>,
        now: SystemTime,
    ) -> Result<()> {
        let before = self.node(number).size();
        self.account(before, bytes.len() as u64)?;
        let node = self.node_mut(number);
        node.data = Data::File(bytes);
        node.modified = now;
        Ok(())
    }

    /// Adds bytes to the end of a file.
    pub(super) fn append(&mut self, number: u64, more: &[u8], now: SystemTime) -> Result<()> {
        let before = self.node(number).size();
        self.account(before, before + more.len() as u64)?;
        let node = self.node_mut(number);
        if let Data::File(bytes) = &mut node.data {
            Arc::make_mut(bytes).extend_from_slice(more);
        }
        node.modified = now;
        Ok(())
    }
}
