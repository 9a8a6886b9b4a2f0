//! The operations on a tree, with the rights of a user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::tree::{Credentials, Data, Found, ROOT, Right, Tree, failed};
use super::users::Users;
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::files::{Attributes, FileEntry, FileKind, WatchKind, WriteMode};

impl Tree {
    /// Describes a node.
    pub(super) fn entry(&self, number: u64, path: &[u8], users: &Users) -> FileEntry {
        let node = self.node(number);
        FileEntry {
            path: path.to_vec(),
            kind: node.kind(),
            size: node.size(),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            modified: node.modified,
            target: match &node.data {
                Data::Link(target) => Some(target.clone()),
                _ => None,
            },
            user: users.name(node.uid),
            group: users.group_name(node.gid),
        }
    }

    /// The bytes of a file.
    pub(super) fn bytes(&self, who: &Credentials, path: &[u8]) -> Result<(u64, Arc<Vec<u8>>)> {
        let (number, _) = self.find(who, path, true)?;
        self.demand(who, number, Right::Read, path)?;
        match &self.node(number).data {
            Data::File(bytes) => Ok((number, Arc::clone(bytes))),
            _ => Err(failed(
                ErrorKind::IsDirectory,
                "a directory cannot be read as a file",
                path,
            )),
        }
    }

    /// Makes the directories that a path needs above its last name.
    fn parents(&mut self, who: &Credentials, path: &[u8], now: SystemTime) -> Result<()> {
        let end = path
            .iter()
            .rposition(|b| *b != b'/')
            .and_then(|last| path[..last].iter().rposition(|b| *b == b'/'));
        match end {
            Some(end @ 1..) => self
                .make_dir(who, &path[..end], true, 0o755, now)
                .map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Where a path leads, for a write: missing parents are made on request.
    fn place_for(
        &mut self,
        who: &Credentials,
        path: &[u8],
        follow: bool,
        parents: bool,
        now: SystemTime,
    ) -> Result<Found> {
        match self.walk(who, ROOT, path, follow) {
            Err(error) if parents && error.kind() == ErrorKind::NotFound => {
                self.parents(who, path, now)?;
                self.walk(who, ROOT, path, follow)
            }
            other => other,
        }
    }

    /// Writes a whole file.
    #[expect(clippy::too_many_arguments, reason = "each is a part of one request")]
    pub(super) fn put(
        &mut self,
        who: &Credentials,
        path: &[u8],
        bytes: Vec<u8>,
        how: WriteMode,
        mode: Option<u32>,
        parents: bool,
        now: SystemTime,
    ) -> Result<u64> {
        if path.ends_with(b"/") {
            return Err(failed(
                ErrorKind::IsDirectory,
                "the path of a file cannot end in /",
                path,
            ));
        }
        // What must be new is not made where a link leads.
        let follow = how != WriteMode::CreateNew;
        let found = self.place_for(who, path, follow, parents, now)?;
        let Some(number) = found.node else {
            self.demand(who, found.parent, Right::Write, path)?;
            let data = Data::File(Arc::new(bytes));
            return self.add(
                found.parent,
                &found.name,
                data,
                mode.unwrap_or(0o644),
                who,
                now,
            );
        };
        if how == WriteMode::CreateNew {
            return Err(failed(
                ErrorKind::AlreadyExists,
                "the file is there already",
                path,
            ));
        }
        if self.node(number).kind() == FileKind::Directory {
            return Err(failed(
                ErrorKind::IsDirectory,
                "the path is a directory",
                path,
            ));
        }
        self.demand(who, number, Right::Write, path)?;
        if how == WriteMode::Append {
            self.append(number, &bytes, now)?;
        } else {
            self.set_bytes(number, Arc::new(bytes), now)?;
            // New content never inherits the right to become somebody else.
            self.node_mut(number).mode &= 0o1777;
        }
        if let Some(mode) = mode {
            self.node_mut(number).mode = mode & 0o7777;
        }
        self.note(WatchKind::Modified, found.parent, &found.name);
        Ok(number)
    }

    /// Makes a directory.
    pub(super) fn make_dir(
        &mut self,
        who: &Credentials,
        path: &[u8],
        parents: bool,
        mode: u32,
        now: SystemTime,
    ) -> Result<u64> {
        let found = match self.walk(who, ROOT, path, parents) {
            Err(error) if parents && error.kind() == ErrorKind::NotFound => {
                self.parents(who, path, now)?;
                self.walk(who, ROOT, path, true)?
            }
            other => other?,
        };
        match found.node {
            Some(number) if parents && self.node(number).kind() == FileKind::Directory => {
                Ok(number)
            }
            Some(_) => Err(failed(
                ErrorKind::AlreadyExists,
                "something is there already",
                path,
            )),
            None => {
                self.demand(who, found.parent, Right::Write, path)?;
                let data = Data::Directory {
                    entries: BTreeMap::new(),
                    parent: found.parent,
                };
                self.add(found.parent, &found.name, data, mode, who, now)
            }
        }
    }

    /// Makes a symbolic link.
    pub(super) fn link(
        &mut self,
        who: &Credentials,
        target: &[u8],
        path: &[u8],
        now: SystemTime,
    ) -> Result<u64> {
        if target.is_empty() || target.contains(&0) || target.len() > 4095 {
            return Err(Error::invalid(
                "target",
                String::from_utf8_lossy(target),
                "1 to 4095 bytes without NUL",
                "name the path that the link leads to",
            ));
        }
        let found = self.walk(who, ROOT, path, false)?;
        if found.node.is_some() {
            return Err(failed(
                ErrorKind::AlreadyExists,
                "something is there already",
                path,
            ));
        }
        self.demand(who, found.parent, Right::Write, path)?;
        let data = Data::Link(target.to_vec());
        self.add(found.parent, &found.name, data, 0o777, who, now)
    }

    /// Whether a name may be taken out of a directory: a directory with the
    /// sticky bit keeps the names of others.
    fn may_unlink(&self, who: &Credentials, found: &Found, path: &[u8]) -> Result<()> {
        let last = path.split(|b| *b == b'/').rfind(|part| !part.is_empty());
        if matches!(last, None | Some(b"." | b"..")) || found.node == Some(ROOT) {
            return Err(failed(
                ErrorKind::InvalidArgument,
                "the path does not end in a name",
                path,
            ));
        }
        self.demand(who, found.parent, Right::Write, path)?;
        let directory = self.node(found.parent);
        let owner = found.node.map(|n| self.node(n).uid);
        if directory.mode & 0o1000 != 0
            && who.uid != 0
            && who.uid != directory.uid
            && owner != Some(who.uid)
        {
            return Err(failed(
                ErrorKind::PermissionDenied,
                "it belongs to another user and its directory is sticky",
                path,
            ));
        }
        Ok(())
    }

    /// Moves a path.
    pub(super) fn rename(
        &mut self,
        who: &Credentials,
        from: &[u8],
        to: &[u8],
        replace: bool,
        now: SystemTime,
    ) -> Result<()> {
        let (number, source) = self.find(who, from, false)?;
        let target = self.walk(who, ROOT, to, false)?;
        self.may_unlink(who, &source, from)?;
        let moves_directory = self.node(number).kind() == FileKind::Directory;
        let mut above = target.parent;
        while moves_directory && above != ROOT {
            if above == number {
                return Err(failed(
                    ErrorKind::InvalidArgument,
                    "a directory cannot be moved below itself",
                    to,
                ));
            }
            above = self.parent(above);
        }
        match target.node {
            None => self.demand(who, target.parent, Right::Write, to)?,
            Some(there) if there == number => return Ok(()),
            Some(_) if !replace => {
                return Err(failed(
                    ErrorKind::AlreadyExists,
                    "something is there already",
                    to,
                ));
            }
            Some(there) => {
                self.may_unlink(who, &target, to)?;
                match (moves_directory, self.entries(there)) {
                    (true, None) => {
                        return Err(failed(
                            ErrorKind::NotDirectory,
                            "a directory cannot replace a file",
                            to,
                        ));
                    }
                    (false, Some(_)) => {
                        return Err(failed(
                            ErrorKind::IsDirectory,
                            "a file cannot replace a directory",
                            to,
                        ));
                    }
                    (true, Some(entries)) if !entries.is_empty() => {
                        return Err(failed(
                            ErrorKind::DirectoryNotEmpty,
                            "the directory has entries",
                            to,
                        ));
                    }
                    _ => {}
                }
                self.detach(target.parent, &target.name, false, now);
            }
        }
        self.detach(source.parent, &source.name, true, now);
        self.attach(target.parent, &target.name, number, now);
        Ok(())
    }

    /// Removes a path.
    pub(super) fn remove(
        &mut self,
        who: &Credentials,
        path: &[u8],
        recursive: bool,
        missing_ok: bool,
        now: SystemTime,
    ) -> Result<()> {
        let (number, found) = match self.find(who, path, false) {
            Err(error) if missing_ok && error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        self.may_unlink(who, &found, path)?;
        if let Some(entries) = self.entries(number) {
            if !entries.is_empty() && !recursive {
                return Err(failed(
                    ErrorKind::DirectoryNotEmpty,
                    "the directory has entries",
                    path,
                ));
            }
            self.may_empty(who, number, path)?;
        }
        self.detach(found.parent, &found.name, false, now);
        Ok(())
    }

    fn may_empty(&self, who: &Credentials, directory: u64, path: &[u8]) -> Result<()> {
        let Some(entries) = self.entries(directory) else {
            return Ok(());
        };
        if !entries.is_empty() {
            self.demand(who, directory, Right::Write, path)?;
            self.demand(who, directory, Right::Search, path)?;
        }
        entries
            .values()
            .try_for_each(|number| self.may_empty(who, *number, path))
    }

    /// Changes attributes.
    pub(super) fn set_attributes(
        &mut self,
        who: &Credentials,
        path: &[u8],
        attributes: &Attributes,
        recursive: bool,
        follow: bool,
        users: &Users,
    ) -> Result<()> {
        let (number, found) = self.find(who, path, follow)?;
        let uid = attributes.owner.as_deref().map(|o| users.uid(o));
        let gid = attributes.group.as_deref().map(|g| users.gid(g));
        let change = Change {
            mode: attributes.mode.map(|mode| mode & 0o7777),
            uid: uid.transpose()?,
            gid: gid.transpose()?,
            modified: attributes.modified,
        };
        let mut nodes = vec![(number, found.parent, found.name)];
        let mut at = 0;
        while recursive && at < nodes.len() {
            let directory = nodes[at].0;
            if let Some(entries) = self.entries(directory) {
                let below: Vec<_> = entries
                    .iter()
                    .map(|(n, i)| (*i, directory, n.clone()))
                    .collect();
                nodes.extend(below);
            }
            at += 1;
        }
        // Everything is checked before anything is changed.
        for (number, ..) in &nodes {
            let node = self.node(*number);
            let gives_away = change.uid.is_some_and(|uid| uid != node.uid)
                || change
                    .gid
                    .is_some_and(|gid| gid != node.gid && gid != who.gid);
            if who.uid != 0 && (who.uid != node.uid || gives_away) {
                return Err(failed(
                    ErrorKind::PermissionDenied,
                    "only the owner changes it, and only root gives it away",
                    path,
                ));
            }
        }
        for (number, parent, name) in nodes {
            let node = self.node_mut(number);
            // A symbolic link has no permission bits of its own.
            if let (Some(mode), false) = (change.mode, node.kind() == FileKind::Link) {
                node.mode = mode;
            }
            node.uid = change.uid.unwrap_or(node.uid);
            node.gid = change.gid.unwrap_or(node.gid);
            node.modified = change.modified.unwrap_or(node.modified);
            self.note(WatchKind::Attributes, parent, &name);
        }
        Ok(())
    }

    /// Lists a directory in name order, with what is below it to a depth.
    pub(super) fn list(
        &self,
        who: &Credentials,
        path: &[u8],
        depth: u32,
        users: &Users,
    ) -> Result<Vec<FileEntry>> {
        let (number, _) = self.find(who, path, true)?;
        if self.entries(number).is_none() {
            return Err(failed(
                ErrorKind::NotDirectory,
                "it is not a directory",
                path,
            ));
        }
        self.demand(who, number, Right::Read, path)?;
        let mut all = Vec::new();
        if depth > 0 {
            self.list_into(who, number, b"", depth, users, &mut all);
        }
        Ok(all)
    }

    fn list_into(
        &self,
        who: &Credentials,
        directory: u64,
        prefix: &[u8],
        depth: u32,
        users: &Users,
        all: &mut Vec<FileEntry>,
    ) {
        let Some(entries) = self.entries(directory) else {
            return;
        };
        for (name, number) in entries {
            let path = [prefix, name.as_slice()].concat();
            all.push(self.entry(*number, &path, users));
            // What may not be read is listed and not entered.
            if depth > 1 && self.demand(who, *number, Right::Read, &path).is_ok() {
                let below = [path.as_slice(), b"/"].concat();
                self.list_into(who, *number, &below, depth - 1, users, all);
            }
        }
    }
}

struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<SystemTime>,
}
