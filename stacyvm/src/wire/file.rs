//! Files.

use serde::{Deserialize, Serialize};

use super::frame::broken;
use super::{Raw, Time};
use crate::error::{Error, Result};
use crate::sandbox::files::{
    Attributes, ExportRequest, FileEntry, FileKind, FileOperation, FileReply, FileRequest,
    GuestPath, ImportRequest, LeftOut, ReadRequest, WatchEvent, WatchKind, WatchRequest, WriteMode,
    WriteRequest,
};

/// A file operation without data.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileBody {
    /// Who does it.
    #[serde(default)]
    pub user: Option<String>,
    /// What is done.
    pub operation: OperationBody,
}

/// The file operations without data, as in
/// [`FileOperation`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of `FileOperation`")]
pub enum OperationBody {
    /// Describes a path.
    Stat { path: Raw, follow: bool },
    /// Lists a directory.
    List { path: Raw, depth: u32 },
    /// Makes a directory.
    MakeDir { path: Raw, parents: bool, mode: u32 },
    /// Moves a path.
    Rename { from: Raw, to: Raw, replace: bool },
    /// Removes a path.
    Remove {
        path: Raw,
        recursive: bool,
        missing_ok: bool,
    },
    /// Changes attributes.
    SetAttributes {
        path: Raw,
        attributes: AttributesBody,
        recursive: bool,
        follow: bool,
    },
    /// Finds paths by a pattern.
    Glob { pattern: Raw, limit: u32 },
    /// Makes a symbolic link.
    Link { target: Raw, path: Raw },
}

/// Attributes to change; what is left out stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttributesBody {
    /// Permission bits.
    pub mode: Option<u32>,
    /// A user name or number.
    pub owner: Option<String>,
    /// A group name or number.
    pub group: Option<String>,
    /// When the content changed last.
    pub modified: Option<Time>,
}

fn raw(path: &GuestPath) -> Raw {
    Raw(path.as_bytes().to_vec())
}

fn path(raw: Raw) -> Result<GuestPath> {
    GuestPath::new(raw.0)
}

/// The permission bits of a request.
fn bits(field: &str, mode: u32) -> Result<u32> {
    if mode <= 0o7777 {
        return Ok(mode);
    }
    Err(Error::invalid(
        field,
        format!("{mode:#o}"),
        "permission bits, at most 0o7777",
        "send them as a decimal number: 420 is 0o644",
    ))
}

impl From<&FileRequest> for FileBody {
    fn from(request: &FileRequest) -> Self {
        use FileOperation as Op;
        Self {
            user: request.user.clone(),
            operation: match &request.operation {
                Op::Stat { path, follow } => OperationBody::Stat {
                    path: raw(path),
                    follow: *follow,
                },
                Op::List { path, depth } => OperationBody::List {
                    path: raw(path),
                    depth: *depth,
                },
                Op::MakeDir {
                    path,
                    parents,
                    mode,
                } => OperationBody::MakeDir {
                    path: raw(path),
                    parents: *parents,
                    mode: *mode,
                },
                Op::Rename { from, to, replace } => OperationBody::Rename {
                    from: raw(from),
                    to: raw(to),
                    replace: *replace,
                },
                Op::Remove {
                    path,
                    recursive,
                    missing_ok,
                } => OperationBody::Remove {
                    path: raw(path),
                    recursive: *recursive,
                    missing_ok: *missing_ok,
                },
                Op::SetAttributes {
                    path,
                    attributes,
                    recursive,
                    follow,
                } => OperationBody::SetAttributes {
                    path: raw(path),
                    attributes: AttributesBody {
                        mode: attributes.mode,
                        owner: attributes.owner.clone(),
                        group: attributes.group.clone(),
                        modified: attributes.modified.map(Time::from),
                    },
                    recursive: *recursive,
                    follow: *follow,
                },
                Op::Glob { pattern, limit } => OperationBody::Glob {
                    pattern: raw(pattern),
                    limit: *limit,
                },
                Op::Link { target, path } => OperationBody::Link {
                    target: Raw(target.clone()),
                    path: raw(path),
                },
            },
        }
    }
}

impl TryFrom<FileBody> for FileRequest {
    type Error = Error;

    fn try_from(body: FileBody) -> Result<Self> {
        use OperationBody as Body;
        Ok(Self {
            user: body.user,
            operation: match body.operation {
                Body::Stat { path: at, follow } => FileOperation::Stat {
                    path: path(at)?,
                    follow,
                },
                Body::List { path: at, depth } => FileOperation::List {
                    path: path(at)?,
                    depth,
                },
                Body::MakeDir {
                    path: at,
                    parents,
                    mode,
                } => FileOperation::MakeDir {
                    path: path(at)?,
                    parents,
                    mode: bits("mode", mode)?,
                },
                Body::Rename { from, to, replace } => FileOperation::Rename {
                    from: path(from)?,
                    to: path(to)?,
                    replace,
                },
                Body::Remove {
                    path: at,
                    recursive,
                    missing_ok,
                } => FileOperation::Remove {
                    path: path(at)?,
                    recursive,
                    missing_ok,
                },
                Body::SetAttributes {
                    path: at,
                    attributes,
                    recursive,
                    follow,
                } => FileOperation::SetAttributes {
                    path: path(at)?,
                    attributes: attributes.try_into()?,
                    recursive,
                    follow,
                },
                Body::Glob { pattern, limit } => FileOperation::Glob {
                    pattern: path(pattern)?,
                    limit,
                },
                Body::Link { target, path: at } => FileOperation::Link {
                    target: target.0,
                    path: path(at)?,
                },
            },
        })
    }
}

impl TryFrom<AttributesBody> for Attributes {
    type Error = Error;

    fn try_from(body: AttributesBody) -> Result<Self> {
        let modified = body.modified.map(|time| {
            time.to_system().ok_or_else(|| {
                Error::invalid(
                    "attributes.modified",
                    format!("{} s, {} ns", time.seconds, time.nanoseconds),
                    "a moment",
                    "give seconds since 1970 and 0 to 999999999 nanoseconds",
                )
            })
        });
        Ok(Self {
            mode: body
                .mode
                .map(|mode| bits("attributes.mode", mode))
                .transpose()?,
            owner: body.owner,
            group: body.group,
            modified: modified.transpose()?,
        })
    }
}

/// The answer to a file operation that gives no list; a list comes as frames.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FileDoneReply {
    /// The file, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryReply>,
}

impl TryFrom<FileDoneReply> for FileReply {
    type Error = Error;

    fn try_from(reply: FileDoneReply) -> Result<Self> {
        match reply.entry {
            Some(entry) => Ok(Self::Entry(entry.try_into()?)),
            None => Ok(Self::Done),
        }
    }
}

/// A file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryReply {
    /// The path.
    pub path: Raw,
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content changed last.
    pub modified: Time,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Raw>,
    /// The owner's name inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The group's name inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

impl From<FileEntry> for EntryReply {
    fn from(entry: FileEntry) -> Self {
        Self {
            path: Raw(entry.path),
            kind: entry.kind,
            size: entry.size,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            modified: entry.modified.into(),
            target: entry.target.map(Raw),
            user: entry.user,
            group: entry.group,
        }
    }
}

impl TryFrom<EntryReply> for FileEntry {
    type Error = Error;

    fn try_from(reply: EntryReply) -> Result<Self> {
        Ok(Self {
            path: reply.path.0,
            kind: reply.kind,
            size: reply.size,
            mode: reply.mode & 0o7777,
            uid: reply.uid,
            gid: reply.gid,
            modified: reply
                .modified
                .to_system()
                .ok_or_else(|| broken("a moment that is none"))?,
            target: reply.target.map(|raw| raw.0),
            user: reply.user,
            group: reply.group,
        })
    }
}

/// Which bytes are read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadBody {
    /// Who reads.
    #[serde(default)]
    pub user: Option<String>,
    /// The file.
    pub path: Raw,
    /// Bytes to skip.
    #[serde(default)]
    pub offset: u64,
    /// The most bytes to read.
    #[serde(default)]
    pub length: Option<u64>,
}

impl From<&ReadRequest> for ReadBody {
    fn from(request: &ReadRequest) -> Self {
        Self {
            user: request.user.clone(),
            path: raw(&request.path),
            offset: request.offset,
            length: request.length,
        }
    }
}

impl TryFrom<ReadBody> for ReadRequest {
    type Error = Error;

    fn try_from(body: ReadBody) -> Result<Self> {
        Ok(Self {
            user: body.user,
            path: path(body.path)?,
            offset: body.offset,
            length: body.length,
        })
    }
}

/// How a file is written: the first frame of the body.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteBody {
    /// Who writes.
    #[serde(default)]
    pub user: Option<String>,
    /// The file.
    pub path: Raw,
    /// How.
    #[serde(default)]
    pub how: HowBody,
    /// Permission bits.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Whether missing directories are made.
    #[serde(default)]
    pub parents: bool,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HowBody {
    /// Replaces it in one step.
    #[default]
    Replace,
    /// Adds to its end.
    Append,
    /// Creates it.
    CreateNew,
}

impl From<&WriteRequest> for WriteBody {
    fn from(request: &WriteRequest) -> Self {
        Self {
            user: request.user.clone(),
            path: raw(&request.path),
            how: match request.how {
                WriteMode::Replace => HowBody::Replace,
                WriteMode::Append => HowBody::Append,
                WriteMode::CreateNew => HowBody::CreateNew,
            },
            mode: request.mode,
            parents: request.parents,
        }
    }
}

impl TryFrom<WriteBody> for WriteRequest {
    type Error = Error;

    fn try_from(body: WriteBody) -> Result<Self> {
        Ok(Self {
            user: body.user,
            path: path(body.path)?,
            how: match body.how {
                HowBody::Replace => WriteMode::Replace,
                HowBody::Append => WriteMode::Append,
                HowBody::CreateNew => WriteMode::CreateNew,
            },
            mode: body.mode.map(|mode| bits("mode", mode)).transpose()?,
            parents: body.parents,
        })
    }
}

/// What is sent as a tar stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportBody {
    /// Who reads.
    #[serde(default)]
    pub user: Option<String>,
    /// A file or directory.
    pub path: Raw,
    /// Whether only what is in the directory is sent.
    #[serde(default)]
    pub contents: bool,
    /// Whether a symbolic link is followed.
    #[serde(default)]
    pub follow: bool,
}

impl From<&ExportRequest> for ExportBody {
    fn from(request: &ExportRequest) -> Self {
        Self {
            user: request.user.clone(),
            path: raw(&request.path),
            contents: request.contents,
            follow: request.follow,
        }
    }
}

impl TryFrom<ExportBody> for ExportRequest {
    type Error = Error;

    fn try_from(body: ExportBody) -> Result<Self> {
        Ok(Self {
            user: body.user,
            path: path(body.path)?,
            contents: body.contents,
            follow: body.follow,
        })
    }
}

/// What an archive does not hold: in its last frame.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LeftOutReply {
    /// Names.
    #[serde(default)]
    pub names: Vec<Raw>,
    /// How many there were beside those.
    #[serde(default)]
    pub more: u64,
}

impl LeftOutReply {
    /// The most names of one reply, so that it fits a frame.
    const MOST: usize = 128;
}

impl From<LeftOut> for LeftOutReply {
    fn from(left: LeftOut) -> Self {
        let beyond = left.names.len().saturating_sub(Self::MOST);
        let names = left.names.into_iter().take(Self::MOST);
        Self {
            names: names.map(Raw).collect(),
            more: left
                .more
                .saturating_add(u64::try_from(beyond).unwrap_or(u64::MAX)),
        }
    }
}

impl From<LeftOutReply> for LeftOut {
    fn from(reply: LeftOutReply) -> Self {
        Self {
            names: reply.names.into_iter().map(|raw| raw.0).collect(),
            more: reply.more,
        }
    }
}

/// Where a tar stream is unpacked: the first frame of the body.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportBody {
    /// Who writes.
    #[serde(default)]
    pub user: Option<String>,
    /// The directory.
    pub path: Raw,
    /// Whether a missing directory is made.
    #[serde(default)]
    pub parents: bool,
    /// Whether owners are kept.
    #[serde(default)]
    pub keep_owner: bool,
}

impl From<&ImportRequest> for ImportBody {
    fn from(request: &ImportRequest) -> Self {
        Self {
            user: request.user.clone(),
            path: raw(&request.path),
            parents: request.parents,
            keep_owner: request.keep_owner,
        }
    }
}

impl TryFrom<ImportBody> for ImportRequest {
    type Error = Error;

    fn try_from(body: ImportBody) -> Result<Self> {
        Ok(Self {
            user: body.user,
            path: path(body.path)?,
            parents: body.parents,
            keep_owner: body.keep_owner,
        })
    }
}

/// What is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchBody {
    /// Who watches.
    #[serde(default)]
    pub user: Option<String>,
    /// A directory or file.
    pub path: Raw,
    /// Whether directories below are watched.
    #[serde(default)]
    pub recursive: bool,
}

impl From<&WatchRequest> for WatchBody {
    fn from(request: &WatchRequest) -> Self {
        Self {
            user: request.user.clone(),
            path: raw(&request.path),
            recursive: request.recursive,
        }
    }
}

impl TryFrom<WatchBody> for WatchRequest {
    type Error = Error;

    fn try_from(body: WatchBody) -> Result<Self> {
        Ok(Self {
            user: body.user,
            path: path(body.path)?,
            recursive: body.recursive,
        })
    }
}

/// A change that a watch reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangeReply {
    /// What happened.
    pub kind: WatchKind,
    /// Where, relative to the watched path.
    pub path: Raw,
}

impl From<WatchEvent> for ChangeReply {
    fn from(event: WatchEvent) -> Self {
        Self {
            kind: event.kind,
            path: Raw(event.path),
        }
    }
}

impl From<ChangeReply> for WatchEvent {
    fn from(reply: ChangeReply) -> Self {
        Self {
            kind: reply.kind,
            path: reply.path.0,
        }
    }
}
