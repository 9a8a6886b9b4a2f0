//! Files of a sandbox.

use std::fmt;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};

use super::exec::BoxStream;
use super::files::{
    Archive, Attributes, ByteStream, ExportRequest, FileEntry, FileOperation, FileReply,
    FileRequest, GuestPath, ImportRequest, ReadRequest, WatchEvent, WatchRequest, WriteMode,
    WriteRequest,
};
use super::handle::Sandbox;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::Provider as _;

/// What [`Files::read`] takes into memory at most: 1 GiB. A file inside may
/// have no end.
pub const MAX_READ: usize = 1 << 30;

/// What a list gathers at most, for the same reason.
const MAX_ENTRIES: usize = 1_000_000;

/// What [`Files::glob`] returns at most.
const GLOB_LIMIT: u32 = 100_000;

/// The files of a sandbox, from [`Sandbox::files`]. Paths are absolute and
/// mean what they mean inside.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> stacyvm::Result<()> {
/// # let engine = stacyvm::Engine::builder()
/// #     .provider("mock", std::sync::Arc::new(stacyvm::providers::mock::Mock::default()))
/// #     .build().await?;
/// # let sandbox = engine.create(stacyvm::SandboxSpec::image("scratch")).await?;
/// let files = sandbox.files();
/// files.write("/workspace/a.txt", "hi").await?;
/// assert_eq!(files.read("/workspace/a.txt").await?, "hi");
/// assert!(!files.exists("/workspace/b.txt").await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Files {
    sandbox: Sandbox,
    user: Option<String>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("sandbox", &self.sandbox.id())
            .field("user", &self.user)
            .finish()
    }
}

impl Files {
    pub(super) fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            user: None,
        }
    }

    /// Works with the rights of this user; what is made belongs to it.
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Reads a whole file into memory, at most [`MAX_READ`] bytes.
    ///
    /// # Errors
    ///
    /// `not_found`, `is_directory`, `permission_denied`, `resource_exhausted`
    /// for a longer file.
    pub async fn read(&self, path: impl AsRef<[u8]>) -> Result<Bytes> {
        self.read_part(path, 0, None).await
    }

    /// Reads a part of a file into memory: from `offset`, at most `length` and
    /// [`MAX_READ`] bytes. Past the end of the file there is nothing.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub async fn read_part(
        &self,
        path: impl AsRef<[u8]>,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Bytes> {
        let (entry, mut data) = self.read_range(path, offset, length).await?;
        let mut whole = BytesMut::new();
        // The size is the guest's word: a hint for small files, no more.
        let hint = entry.size.min(length.unwrap_or(u64::MAX));
        whole.reserve(usize::try_from(hint).unwrap_or(0).min(1 << 20));
        while let Some(piece) = data.next().await {
            let piece = piece?;
            if piece.len() > MAX_READ - whole.len() {
                return Err(too_much("the file", MAX_READ, "bytes; use `read_stream`"));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads a whole file of UTF-8 text.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read); `invalid_argument` for other bytes.
    pub async fn read_text(&self, path: impl AsRef<[u8]>) -> Result<String> {
        let shown = String::from_utf8_lossy(path.as_ref()).into_owned();
        let bytes = self.read(path).await?;
        String::from_utf8(bytes.into()).map_err(|_| {
            Error::invalid(
                "path",
                shown,
                "a file of UTF-8 text",
                "read it as bytes with `read`",
            )
        })
    }

    /// Reads a file as a stream: what it is, and its bytes.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub async fn read_stream(&self, path: impl AsRef<[u8]>) -> Result<(FileEntry, ByteStream)> {
        self.read_range(path, 0, None).await
    }

    /// Reads a part of a file as a stream: from `offset`, at most `length` bytes.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub async fn read_range(
        &self,
        path: impl AsRef<[u8]>,
        offset: u64,
        length: Option<u64>,
    ) -> Result<(FileEntry, ByteStream)> {
        let request = ReadRequest {
            user: self.user.clone(),
            path: GuestPath::new(path)?,
            offset,
            length,
        };
        let sandbox = &self.sandbox;
        let (entry, data) = sandbox
            .provider()?
            .read_file(sandbox.context(), sandbox.id(), &request)
            .await
            .map_err(about(&request.path))?;
        Ok((entry, bounded(sandbox.context(), data)))
    }

    /// Writes a file in one step, and the directories above it where they
    /// are missing; readers see the old file or the new one.
    ///
    /// # Errors
    ///
    /// `permission_denied`, `is_directory`, `not_directory`, `no_space`.
    pub async fn write(
        &self,
        path: impl AsRef<[u8]>,
        data: impl Into<Bytes> + Send,
    ) -> Result<FileEntry> {
        let data = whole(data.into());
        self.write_with(path, WriteMode::Replace, None, data).await
    }

    /// Writes a file from a stream, else like [`write`](Self::write). An error
    /// of the stream, or dropping the future, leaves the old file.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write), and the stream's own.
    pub async fn write_stream(
        &self,
        path: impl AsRef<[u8]>,
        data: ByteStream,
    ) -> Result<FileEntry> {
        self.write_with(path, WriteMode::Replace, None, data).await
    }

    /// Adds to the end of a file, or makes it.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write).
    pub async fn append(
        &self,
        path: impl AsRef<[u8]>,
        data: impl Into<Bytes> + Send,
    ) -> Result<FileEntry> {
        let data = whole(data.into());
        self.write_with(path, WriteMode::Append, None, data).await
    }

    /// Writes a file: how, with which permission bits, from which stream.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write); `already_exists` for
    /// [`WriteMode::CreateNew`].
    pub async fn write_with(
        &self,
        path: impl AsRef<[u8]>,
        how: WriteMode,
        mode: Option<u32>,
        data: ByteStream,
    ) -> Result<FileEntry> {
        check_mode(mode)?;
        let request = WriteRequest {
            user: self.user.clone(),
            path: GuestPath::new(path)?,
            how,
            mode,
            parents: true,
        };
        let sandbox = &self.sandbox;
        sandbox
            .provider()?
            .write_file(sandbox.context(), sandbox.id(), &request, data)
            .await
            .map_err(about(&request.path))
    }

    /// Describes a path; a symbolic link is described, not followed.
    ///
    /// # Errors
    ///
    /// `not_found`, `permission_denied`.
    pub async fn stat(&self, path: impl AsRef<[u8]>) -> Result<FileEntry> {
        self.stat_as(path, false).await
    }

    /// Describes a path; a symbolic link is followed.
    ///
    /// # Errors
    ///
    /// `not_found`, `permission_denied`.
    pub async fn stat_followed(&self, path: impl AsRef<[u8]>) -> Result<FileEntry> {
        self.stat_as(path, true).await
    }

    async fn stat_as(&self, path: impl AsRef<[u8]>, follow: bool) -> Result<FileEntry> {
        let path = GuestPath::new(path)?;
        match self.file(FileOperation::Stat { path, follow }).await? {
            FileReply::Entry(entry) => Ok(entry),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether there is something at a path; a link to nothing is something.
    ///
    /// # Errors
    ///
    /// `permission_denied` where it cannot be told.
    pub async fn exists(&self, path: impl AsRef<[u8]>) -> Result<bool> {
        match self.stat(path).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Lists a directory in name order.
    ///
    /// # Errors
    ///
    /// `not_found`, `not_directory`, `permission_denied`.
    pub async fn list(&self, path: impl AsRef<[u8]>) -> Result<Vec<FileEntry>> {
        gather(self.list_depth(path, 1).await?).await
    }

    /// Lists a directory and what is below it, `depth` levels, as a stream.
    ///
    /// # Errors
    ///
    /// Those of [`list`](Self::list).
    pub async fn list_depth(
        &self,
        path: impl AsRef<[u8]>,
        depth: u32,
    ) -> Result<BoxStream<Result<FileEntry>>> {
        let path = GuestPath::new(path)?;
        entries(self.file(FileOperation::List { path, depth }).await?)
    }

    /// Makes a directory and the missing ones above it. An existing one is success.
    ///
    /// # Errors
    ///
    /// `permission_denied`, `not_directory`, `already_exists` where a file stands.
    pub async fn make_dir(&self, path: impl AsRef<[u8]>) -> Result<()> {
        let operation = FileOperation::MakeDir {
            path: GuestPath::new(path)?,
            parents: true,
            mode: 0o755,
        };
        self.done(operation).await
    }

    /// Moves a path and replaces a file there.
    ///
    /// # Errors
    ///
    /// `not_found`, `permission_denied`, `directory_not_empty`.
    pub async fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> {
        let operation = FileOperation::Rename {
            from: GuestPath::new(from)?,
            to: GuestPath::new(to)?,
            replace: true,
        };
        self.done(operation).await
    }

    /// Removes a file, or a directory with what is in it. A missing path is `not_found`.
    ///
    /// # Errors
    ///
    /// `not_found`, `permission_denied`.
    pub async fn remove(&self, path: impl AsRef<[u8]>) -> Result<()> {
        let operation = FileOperation::Remove {
            path: GuestPath::new(path)?,
            recursive: true,
            missing_ok: false,
        };
        self.done(operation).await
    }

    /// Sets permission bits; a link is followed.
    ///
    /// # Errors
    ///
    /// `not_found`, `permission_denied`.
    pub async fn chmod(&self, path: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let attributes = Attributes {
            mode: Some(mode),
            ..Attributes::default()
        };
        self.set_attributes(path, attributes, false).await
    }

    /// Sets owner and group, by name or number; a link is followed.
    ///
    /// # Errors
    ///
    /// `not_found`, `permission_denied`.
    pub async fn chown(
        &self,
        path: impl AsRef<[u8]>,
        owner: Option<String>,
        group: Option<String>,
    ) -> Result<()> {
        let attributes = Attributes {
            owner,
            group,
            ..Attributes::default()
        };
        self.set_attributes(path, attributes, false).await
    }

    /// Sets attributes, of everything below as well if `recursive`.
    ///
    /// # Errors
    ///
    /// `not_found`, `permission_denied`.
    pub async fn set_attributes(
        &self,
        path: impl AsRef<[u8]>,
        attributes: Attributes,
        recursive: bool,
    ) -> Result<()> {
        check_mode(attributes.mode)?;
        let operation = FileOperation::SetAttributes {
            path: GuestPath::new(path)?,
            attributes,
            recursive,
            follow: true,
        };
        self.done(operation).await
    }

    /// Finds paths by an absolute shell pattern (`*`, `?`, `[..]`, `**`), at
    /// most 100,000.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a bad pattern, `resource_exhausted` for more paths.
    pub async fn glob(&self, pattern: impl AsRef<[u8]>) -> Result<Vec<FileEntry>> {
        let operation = FileOperation::Glob {
            pattern: GuestPath::new(pattern)?,
            limit: GLOB_LIMIT,
        };
        gather(entries(self.file(operation).await?)?).await
    }

    /// Makes a symbolic link at `path` that says `target`.
    ///
    /// # Errors
    ///
    /// `already_exists`, `permission_denied`.
    pub async fn link(&self, target: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Result<()> {
        let operation = FileOperation::Link {
            target: target.as_ref().to_vec(),
            path: GuestPath::new(path)?,
        };
        self.done(operation).await
    }

    /// Reports changes of a path, of everything below it if `recursive`.
    /// Every change after the return is seen or counted as an overflow.
    ///
    /// # Errors
    ///
    /// `unsupported`, `not_found`, `permission_denied`, `resource_exhausted` with more
    /// than 32 open in the sandbox.
    pub async fn watch(
        &self,
        path: impl AsRef<[u8]>,
        recursive: bool,
    ) -> Result<BoxStream<Result<WatchEvent>>> {
        let request = WatchRequest {
            user: self.user.clone(),
            path: GuestPath::new(path)?,
            recursive,
        };
        let sandbox = &self.sandbox;
        let changes = sandbox
            .provider()?
            .watch(sandbox.context(), sandbox.id(), &request)
            .await
            .map_err(about(&request.path))?;
        Ok(bounded(sandbox.context(), changes))
    }

    /// Sends a path as a tar stream: under its own name, or only what is in
    /// the directory if `contents`.
    ///
    /// # Errors
    ///
    /// `unsupported`, `not_found`, `permission_denied`.
    pub async fn export_tar(&self, path: impl AsRef<[u8]>, contents: bool) -> Result<Archive> {
        self.export_tar_with(ExportRequest {
            user: None,
            path: GuestPath::new(path)?,
            contents,
            follow: false,
        })
        .await
    }

    /// Sends a path as a tar stream, with every choice of the request. The
    /// request's user wins over [`with_user`](Self::with_user).
    ///
    /// # Errors
    ///
    /// Those of [`export_tar`](Self::export_tar).
    pub async fn export_tar_with(&self, mut request: ExportRequest) -> Result<Archive> {
        request.user = request.user.or_else(|| self.user.clone());
        let sandbox = &self.sandbox;
        sandbox
            .provider()?
            .export_tar(sandbox.context(), sandbox.id(), &request)
            .await
            .map_err(about(&request.path))
    }

    /// Unpacks a tar stream below a directory, which is made if missing.
    ///
    /// # Errors
    ///
    /// `unsupported`, `invalid_argument` for a bad archive, `permission_denied`,
    /// `no_space`.
    pub async fn import_tar(&self, path: impl AsRef<[u8]>, data: ByteStream) -> Result<()> {
        let request = ImportRequest {
            user: None,
            path: GuestPath::new(path)?,
            parents: true,
            keep_owner: false,
        };
        self.import_tar_with(request, data).await
    }

    /// Unpacks a tar stream, with every choice of the request. The request's
    /// user wins over [`with_user`](Self::with_user).
    ///
    /// # Errors
    ///
    /// Those of [`import_tar`](Self::import_tar).
    pub async fn import_tar_with(
        &self,
        mut request: ImportRequest,
        data: ByteStream,
    ) -> Result<()> {
        request.user = request.user.or_else(|| self.user.clone());
        let sandbox = &self.sandbox;
        sandbox
            .provider()?
            .import_tar(sandbox.context(), sandbox.id(), &request, data)
            .await
            .map_err(about(&request.path))
    }

    async fn done(&self, operation: FileOperation) -> Result<()> {
        match self.file(operation).await? {
            FileReply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn file(&self, operation: FileOperation) -> Result<FileReply> {
        let request = FileRequest {
            user: self.user.clone(),
            operation,
        };
        let sandbox = &self.sandbox;
        sandbox
            .provider()?
            .file(sandbox.context(), sandbox.id(), &request)
            .await
            .map_err(about(request.operation.path()))
    }
}

/// Permission bits with those of set-id and sticky, and no others.
fn check_mode(mode: Option<u32>) -> Result<()> {
    match mode {
        Some(mode) if mode > 0o7777 => Err(Error::invalid(
            "mode",
            format!("{mode:#o}"),
            "permission bits, at most 0o7777",
            "leave it out, or give such as 0o644",
        )),
        _ => Ok(()),
    }
}

/// Adds which path a failed call was about, where its provider did not.
fn about(path: &GuestPath) -> impl FnOnce(Error) -> Error + use<'_> {
    move |error| match error.fact("path") {
        None => error.context("path", path),
        Some(_) => error,
    }
}

/// The stream until the context of the call ends, with its error last.
fn bounded<T: Send + 'static>(
    context: &Context,
    items: BoxStream<Result<T>>,
) -> BoxStream<Result<T>> {
    let next = async |(context, mut items): (Context, BoxStream<Result<T>>)| {
        let next = context.bound(async { Ok(items.next().await) }).await;
        match next {
            Ok(item) => item.map(|item| (item, Some((context, items)))),
            Err(error) => Some((Err(error), None)),
        }
    };
    let start = Some((context.clone(), items));
    Box::pin(stream::unfold(start, move |state| async move {
        next(state?).await
    }))
}

fn whole(data: Bytes) -> ByteStream {
    Box::pin(stream::iter([Ok(data)]))
}

fn entries(reply: FileReply) -> Result<BoxStream<Result<FileEntry>>> {
    match reply {
        FileReply::Entries(entries) => Ok(entries),
        other => Err(unexpected(&other)),
    }
}

async fn gather(mut entries: BoxStream<Result<FileEntry>>) -> Result<Vec<FileEntry>> {
    let mut all = Vec::new();
    while let Some(entry) = entries.next().await {
        if all.len() == MAX_ENTRIES {
            return Err(too_much(
                "the list",
                MAX_ENTRIES,
                "entries; use `list_depth`",
            ));
        }
        all.push(entry?);
    }
    Ok(all)
}

fn too_much(what: &str, most: usize, remedy: &str) -> Error {
    Error::new(
        ErrorKind::ResourceExhausted,
        format!("{what} is longer than the {most} {remedy}"),
    )
}

fn unexpected(reply: &FileReply) -> Error {
    let what = match reply {
        FileReply::Done => "nothing",
        FileReply::Entry(_) => "one file",
        FileReply::Entries(_) => "a list of files",
    };
    Error::new(
        ErrorKind::Protocol,
        format!("the provider answered a file operation with {what}"),
    )
}
