//! From the members of an archive to files.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, SeekFrom, ftruncate, mknodat, seek, unlinkat};
use rustix::io::Errno;
use stacyvm_agent::guest::files::tar::{BadArchive, Member, MemberKind, Reader};

use super::names::{Meaning, components, encode, meaning, refused};
use super::pipe::Receiving;
use super::target::{Attributes, Marker, Target};
use crate::error::{Error, Result};
use crate::image::caps::{self, Caps};
use crate::image::store::{Flavour, failed, system};

use super::tree::DeviceNode;

/// The highest id that is kept: a sandbox maps this many.
const HIGHEST_ID: u32 = 65_535;
/// Devices that are listed one by one; more are counted.
const LISTED: usize = 1024;
/// Bytes that are read of a file at once.
const CHUNK: usize = 256 * 1024;

/// What was unpacked.
pub(super) struct Written {
    pub(super) root: OwnedFd,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) devices: Vec<DeviceNode>,
    pub(super) device_count: u64,
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) implied: Vec<String>,
    pub(super) owners: Vec<u8>,
    pub(super) end_mark: bool,
}

/// Which kind of marker hides a name here.
pub(in crate::image) fn marker(dir: &OwnedFd) -> Marker {
    let name = ".stacyvm-probe";
    match mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Ok(()) => {
            let _ = unlinkat(dir, name, AtFlags::empty());
            Marker::Device
        }
        Err(_) => Marker::Attribute,
    }
}

pub(super) fn unpack(
    caps: &Caps,
    source: Receiving,
    root: OwnedFd,
    flavour: Flavour,
) -> Result<Written> {
    let marker = marker(&root);
    unpack_with(caps, source, root, flavour, marker)
}

/// The same with this kind of marker.
pub(super) fn unpack_with(
    caps: &Caps,
    source: Receiving,
    root: OwnedFd,
    flavour: Flavour,
    marker: Marker,
) -> Result<Written> {
    let mut unpacking = Unpacking {
        caps,
        target: Target::new(root, flavour, marker),
        entries: 0,
        bytes: 0,
        devices: Vec::new(),
        device_count: 0,
        dropped: BTreeMap::new(),
        buffer: vec![0; CHUNK],
    };
    let mut reader = Reader::of_layer(source);
    while let Some(member) = reader.next_member().map_err(bad)? {
        unpacking.member(&member, &mut reader)?;
    }
    let implied = unpacking.target.settle()?;
    Ok(Written {
        entries: unpacking.entries,
        bytes: unpacking.bytes,
        devices: unpacking.devices,
        device_count: unpacking.device_count,
        dropped: unpacking.dropped,
        implied: implied.iter().map(|path| encode(path)).collect(),
        owners: unpacking.target.owners(),
        root: unpacking.target.root,
        end_mark: reader.has_end_mark(),
    })
}

/// The error of an archive. One of its source is told by the one who read it.
fn bad(error: BadArchive) -> Error {
    match error {
        BadArchive::Refused { message, name } => refused(message, &name),
        BadArchive::Source(error) => failed("read a layer", error),
    }
}

struct Unpacking<'a> {
    caps: &'a Caps,
    target: Target,
    entries: u64,
    bytes: u64,
    devices: Vec<DeviceNode>,
    device_count: u64,
    dropped: BTreeMap<String, u64>,
    buffer: Vec<u8>,
}

impl Unpacking<'_> {
    fn member(&mut self, member: &Member, reader: &mut Reader<Receiving>) -> Result<()> {
        self.entries += 1;
        if self.entries > self.caps.entries {
            return Err(caps::reached(
                "entries",
                self.caps.entries,
                "a layer has too many members",
            ));
        }
        fault_point!("image.layer.member");
        let path = components(&member.name, self.caps)?;
        let name = match meaning(&path, &member.name)? {
            Meaning::Ignored => return Ok(()),
            Meaning::Opaque => return self.target.opaque(&path[..path.len() - 1]),
            Meaning::Whiteout(name) => {
                return self.target.whiteout(&path[..path.len() - 1], name);
            }
            Meaning::Plain(name) => name,
        };
        if name.is_empty() && member.kind != MemberKind::Directory {
            return Err(refused("the root of a layer is no directory", &member.name));
        }
        let attributes = self.attributes(member)?;
        match member.kind {
            MemberKind::Directory => self.target.directory(&path, attributes),
            MemberKind::File => self.file(&path, member, &attributes, reader),
            MemberKind::Symlink => {
                self.check_link(member)?;
                self.target.symlink(&path, &member.link, &attributes)
            }
            MemberKind::HardLink => {
                let to = components(&member.link, self.caps)?;
                self.target.hard_link(&path, &to)
            }
            MemberKind::Fifo => self.target.fifo(&path, &attributes),
            MemberKind::CharDevice if member.device == (0, 0) => {
                // As overlayfs itself writes it; some programs put it into archives.
                self.target.whiteout(&path[..path.len() - 1], name)
            }
            MemberKind::CharDevice | MemberKind::BlockDevice => {
                self.device(member);
                Ok(())
            }
        }
    }

    /// The target of a link is kept as it is, wherever it leads: it is followed
    /// inside a sandbox alone.
    fn check_link(&self, member: &Member) -> Result<()> {
        if member.link.len() > self.caps.path_bytes {
            return Err(caps::reached(
                "path_bytes",
                self.caps.path_bytes,
                "the target of a link is too long",
            )
            .context("path", encode(&member.name)));
        }
        Ok(())
    }

    fn device(&mut self, member: &Member) {
        self.device_count += 1;
        if self.devices.len() < LISTED {
            self.devices.push(DeviceNode {
                path: encode(&member.name),
                block: member.kind == MemberKind::BlockDevice,
                major: member.device.0,
                minor: member.device.1,
            });
        }
    }

    fn attributes(&mut self, member: &Member) -> Result<Attributes> {
        let unused = member.kind == MemberKind::HardLink;
        if !unused && (member.uid > HIGHEST_ID || member.gid > HIGHEST_ID) {
            return Err(Error::unsupported(format!(
                "a member of the layer belongs to {}:{}, expected ids up to {HIGHEST_ID}, which is what a sandbox has",
                member.uid, member.gid
            ))
            .context("path", encode(&member.name))
            .context("remedy", "build the image with smaller ids, for example by COPY --chown"));
        }
        let bytes: usize = member.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > self.caps.xattr_bytes {
            return Err(caps::reached(
                "xattr_bytes",
                self.caps.xattr_bytes,
                "the extended attributes of a member are too long",
            )
            .context("path", encode(&member.name)));
        }
        let mut xattrs = Vec::new();
        for (name, value) in &member.xattrs {
            let holds = matches!(member.kind, MemberKind::File | MemberKind::Directory);
            if holds && is_kept(name, member.kind) {
                xattrs.push((name.clone(), value.clone()));
                continue;
            }
            // Names are the archive's: a bounded number of them is told apart.
            let name = encode(name);
            if self.dropped.len() < 64 || self.dropped.contains_key(&name) {
                *self.dropped.entry(name).or_default() += 1;
            } else {
                *self.dropped.entry("others".into()).or_default() += 1;
            }
        }
        Ok(Attributes {
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            seconds: member.modified_s,
            nanoseconds: member.modified_ns,
            xattrs,
        })
    }

    fn file(
        &mut self,
        path: &[&[u8]],
        member: &Member,
        attributes: &Attributes,
        reader: &mut Reader<Receiving>,
    ) -> Result<()> {
        let whole = member.sparse.as_ref().map_or(member.size, |map| map.whole);
        self.bytes = self.bytes.saturating_add(whole);
        if self.bytes > self.caps.layer_bytes {
            return Err(caps::reached(
                "layer_bytes",
                self.caps.layer_bytes,
                "the files of a layer are too large",
            )
            .context("path", encode(&member.name)));
        }
        let file = self.target.file(path)?;
        match &member.sparse {
            None => self.copy(&file, member.size, reader)?,
            Some(map) => {
                for (offset, length) in &map.parts {
                    seek(&file, SeekFrom::Start(*offset))
                        .map_err(|e| system("write a file of a layer", e))?;
                    self.copy(&file, *length, reader)?;
                }
                ftruncate(&file, map.whole).map_err(|e| system("write a file of a layer", e))?;
            }
        }
        self.target.finish_file(path, &file, attributes)
    }

    fn copy(
        &mut self,
        file: &OwnedFd,
        mut left: u64,
        reader: &mut Reader<Receiving>,
    ) -> Result<()> {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            let count = reader.read(&mut self.buffer[..most]).map_err(bad)?;
            if count == 0 {
                return Err(refused("the content of a file is torn", b""));
            }
            let mut bytes = &self.buffer[..count];
            while !bytes.is_empty() {
                match rustix::io::write(file, bytes) {
                    Ok(written) => bytes = &bytes[written..],
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(system("write a file of a layer", error)),
                }
            }
            left -= count as u64;
        }
        Ok(())
    }
}

/// What users may set themselves, and Linux capabilities. The names of
/// overlayfs would change what a sandbox sees.
fn is_kept(name: &[u8], kind: MemberKind) -> bool {
    if name.contains(&0) || name.len() > 255 {
        return false;
    }
    match name.strip_prefix(b"user.") {
        Some(rest) => !rest.is_empty() && !rest.starts_with(b"overlay."),
        None => name == b"security.capability" && kind == MemberKind::File,
    }
}
