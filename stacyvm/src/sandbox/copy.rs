//! Directories and files between the host and a sandbox, as `docker cp` does.

use std::io::ErrorKind as IoKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use futures_util::{StreamExt, stream};
use stacyvm_agent::guest::files::{Expected, FileTask, transfer};
use stacyvm_agent::protocol::Kind;
use stacyvm_agent::protocol::message::{self, Failure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::files::{
    Archive, ByteStream, ExportRequest, FileKind, GuestPath, ImportRequest, LeftOut,
};
use super::files_handle::Files;
use crate::error::{Error, ErrorKind, Result};

/// How files are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Whether owners are kept; otherwise the one who copies owns all.
    pub keep_owner: bool,
    /// Whether a symbolic link given as source is followed.
    pub follow: bool,
}

/// Where a copy ends up: a directory, and the name in it.
struct Target {
    directory: Vec<u8>,
    name: Vec<u8>,
}

/// What is at a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Directory,
    File,
    /// What a copy can neither go into nor replace: a device, a socket, a pipe.
    Special,
}

/// The most links in a row that a destination may be, as the kernel has it.
const MAX_LINKS: usize = 40;

impl Files {
    /// Copies a file or directory of the host into the sandbox.
    ///
    /// # Behavior
    ///
    /// - A destination that is a directory gets the source under its own name;
    ///   a source that ends in `/.` gives its contents only.
    /// - A destination that does not exist becomes the source; its parent must
    ///   exist. With a trailing slash it must be a directory.
    /// - A destination that is a link is where it points to.
    /// - Links inside are copied as links; modes and times are kept, set-id bits
    ///   are not.
    /// - Sockets and devices in a directory are left out, and told; as source or
    ///   destination of their own they are refused.
    ///
    /// # Errors
    ///
    /// `not_found`, `not_directory`, `is_directory`, `permission_denied`,
    /// `no_space`, `invalid_argument`. What had arrived by then stays.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops the copy; what had arrived stays.
    pub async fn copy_in(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<[u8]>,
        options: CopyOptions,
    ) -> Result<LeftOut> {
        let from = from.as_ref();
        let follow = options.follow || names_what_is_there(from.as_os_str().as_bytes());
        let found = look(from, follow).map_err(|e| io("find the source", from, e))?;
        let to = self.beyond_links(to.as_ref()).await?;
        let there = self.there(&to).await?;
        let parent_there = match parent_and_name(&to) {
            Some((parent, _)) => self.there(&parent).await?,
            None => There::Directory,
        };
        let target = decide(
            from.as_os_str().as_bytes(),
            &to,
            found.is_dir(),
            there,
            parent_there,
        )?;
        let contents = found.is_dir();
        let request = message::ExportRequest {
            user: None,
            path: absolute(from)?.as_os_str().as_bytes().to_vec().into(),
            contents,
            follow,
        };
        // A file has its new name in the archive already.
        let (task, path) = if contents {
            let path = join(&target.directory, &target.name);
            (FileTask::Export(request), path)
        } else {
            let task = FileTask::ExportAs(request, target.name);
            (task, target.directory)
        };
        let import = import(&path, contents, options)?;
        let (data, worker) = local_export(task)?;
        fault_point!("copy.in-begun");
        let sent = self.import_tar_with(import, data).await;
        fault_point!("copy.in-sent");
        finish(worker, sent).await
    }

    /// Copies a file or directory of the sandbox to the host. As
    /// [`copy_in`](Self::copy_in), the other way round.
    ///
    /// Nothing that the sandbox sends leaves the destination: names are taken
    /// apart and links are never written through. So a destination that is a link
    /// to a file, or to nothing, is refused.
    ///
    /// # Errors
    ///
    /// Those of [`copy_in`](Self::copy_in).
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops the copy; what had arrived stays.
    pub async fn copy_out(
        &self,
        from: impl AsRef<[u8]>,
        to: impl AsRef<Path>,
        options: CopyOptions,
    ) -> Result<LeftOut> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let path = GuestPath::new(from)?;
        let follow = options.follow || names_what_is_there(from);
        let entry = if follow {
            self.stat_followed(from).await?
        } else {
            self.stat(from).await?
        };
        let is_dir = entry.kind == FileKind::Directory;
        let there = there_local(to)?;
        let to_bytes = to.as_os_str().as_bytes();
        let parent_there = match parent_and_name(to_bytes) {
            Some((parent, _)) => there_local(Path::new(std::ffi::OsStr::from_bytes(&parent)))?,
            None => There::Directory,
        };
        let target = decide(from, to_bytes, is_dir, there, parent_there)?;
        let request = ExportRequest {
            user: None,
            path,
            contents: is_dir,
            follow,
        };
        let mut data = self.export_tar_with(request).await?;
        fault_point!("copy.out-begun");
        let own_name = parent_and_name(from)
            .map(|(_, name)| name)
            .unwrap_or_default();
        if is_dir {
            let directory = LocalDirectory::open(&target)?;
            let path = PathBuf::from(directory.path());
            local_import(&path, None, &mut data, options).await?;
            return Ok(data.left_out());
        }
        place_one(target, own_name, entry.kind, &mut data, options).await?;
        Ok(data.left_out())
    }

    async fn there(&self, path: &[u8]) -> Result<There> {
        match self.stat_followed(path).await {
            Ok(entry) => Ok(match entry.kind {
                FileKind::Directory => There::Directory,
                FileKind::Other => There::Special,
                FileKind::File | FileKind::Link => There::File,
            }),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => {
                Ok(There::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// The path that a path is a link to, or itself; what it points to need not
    /// be there.
    async fn beyond_links(&self, path: &[u8]) -> Result<Vec<u8>> {
        GuestPath::new(path)?;
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            let target = match self.stat(&path).await {
                Ok(entry) if entry.kind == FileKind::Link => entry.target,
                Ok(_) => None,
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) =>
                {
                    None
                }
                Err(error) => return Err(error),
            };
            let (Some(target), Some((parent, _))) = (target, parent_and_name(&path)) else {
                return Ok(path);
            };
            path = if target.starts_with(b"/") {
                target
            } else {
                join(&parent, &target)
            };
        }
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the destination is a row of more than {MAX_LINKS} links; name what it should lead to"),
        )
        .context("destination", String::from_utf8_lossy(&path)))
    }
}

/// A directory of this host that a copy goes into, held by a descriptor. What
/// has its name already may be a link that an earlier copy brought from the
/// sandbox: it is not followed.
struct LocalDirectory(OwnedFd);

impl LocalDirectory {
    fn open(target: &Target) -> Result<Self> {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        use rustix::io::Errno;
        let shown = PathBuf::from(std::ffi::OsStr::from_bytes(&join(
            &target.directory,
            &target.name,
        )));
        let failed = |errno: Errno| match errno {
            Errno::LOOP | Errno::NOTDIR => Error::new(
                ErrorKind::NotDirectory,
                "the destination is a link or a file, expected a directory; remove it first",
            )
            .context("path", shown.display()),
            _ => io("open the destination", &shown, errno.into()),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = std::ffi::OsStr::from_bytes(&target.directory);
        let parent = rustix::fs::open(parent, flags, Mode::empty()).map_err(failed)?;
        if target.name == b"." {
            return Ok(Self(parent));
        }
        let name = std::ffi::OsStr::from_bytes(&target.name);
        match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())
            .map(Self)
            .map_err(failed)
    }

    /// A path to it that nobody can turn elsewhere.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// The rules of `docker cp`.
fn decide(
    from: &[u8],
    to: &[u8],
    source_is_dir: bool,
    there: There,
    parent: There,
) -> Result<Target> {
    let contents_only = from.ends_with(b"/.") || from == b".";
    let split =
        |path: &[u8]| parent_and_name(path).map(|(directory, name)| Target { directory, name });
    let fail = |kind, text: &str| {
        Err(Error::new(kind, text).context("destination", String::from_utf8_lossy(to)))
    };
    match (source_is_dir, there) {
        (_, There::Special) => fail(
            ErrorKind::InvalidArgument,
            "the destination is a device, socket or pipe, expected a directory or a file; name another",
        ),
        (true, There::File) => fail(
            ErrorKind::NotDirectory,
            "a directory cannot be copied onto a file",
        ),
        (true, There::Directory) if contents_only => Ok(Target {
            directory: to.to_vec(),
            name: b".".to_vec(),
        }),
        (_, There::Directory) => {
            let name = parent_and_name(from).map_or_else(|| b".".to_vec(), |(_, name)| name);
            Ok(Target {
                directory: to.to_vec(),
                name,
            })
        }
        (false, There::Nothing) if to.ends_with(b"/") => fail(
            ErrorKind::NotFound,
            "the destination directory does not exist",
        ),
        (false, There::File) if to.ends_with(b"/") => {
            fail(ErrorKind::NotDirectory, "the destination is no directory")
        }
        (_, There::Nothing) if parent != There::Directory => fail(
            ErrorKind::NotFound,
            "the directory of the destination does not exist",
        ),
        (_, There::Nothing | There::File) => split(to).map_or_else(
            || fail(ErrorKind::IsDirectory, "the destination is a directory"),
            Ok,
        ),
    }
}

/// Takes a path apart, trailing slashes aside; `None` where it has no name.
fn parent_and_name(path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut end = path.len();
    while end > 1 && path[end - 1] == b'/' {
        end -= 1;
    }
    let path = &path[..end];
    let at = path.iter().rposition(|b| *b == b'/');
    let name = at.map_or(path, |at| &path[at + 1..]);
    if name.is_empty() || name == b"." || name == b".." {
        return None;
    }
    let parent = match at {
        None => b".".to_vec(),
        Some(0) => b"/".to_vec(),
        Some(at) => path[..at].to_vec(),
    };
    Some((parent, name.to_vec()))
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if name == b"." {
        return directory.to_vec();
    }
    let mut path = directory.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn import(path: &[u8], parents: bool, options: CopyOptions) -> Result<ImportRequest> {
    let path = GuestPath::new(path)?;
    Ok(ImportRequest {
        user: None,
        path,
        parents,
        keep_owner: options.keep_owner,
    })
}

fn there_local(path: &Path) -> Result<There> {
    let there = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(There::Directory),
        Ok(found) if !found.is_file() => return Ok(There::Special),
        Ok(_) => There::File,
        Err(error) if matches!(error.kind(), IoKind::NotFound | IoKind::NotADirectory) => {
            There::Nothing
        }
        Err(error) => return Err(io("look at the destination", path, error)),
    };
    // An earlier copy may have brought it from the sandbox.
    if path.is_symlink() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "the destination is a link, which no copy is written through; remove it, or name what it points to",
        )
        .context("path", path.display()));
    }
    Ok(there)
}

/// Whether a path ends so that a link in its last place is followed.
fn names_what_is_there(path: &[u8]) -> bool {
    path.ends_with(b"/") || path.ends_with(b"/.")
}

fn look(path: &Path, follow: bool) -> std::io::Result<std::fs::Metadata> {
    if follow {
        std::fs::metadata(path)
    } else {
        std::fs::symlink_metadata(path)
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| io("find the path", path, e))
}

fn io(doing: &str, path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        IoKind::NotFound => ErrorKind::NotFound,
        IoKind::PermissionDenied => ErrorKind::PermissionDenied,
        IoKind::NotADirectory => ErrorKind::NotDirectory,
        IoKind::IsADirectory => ErrorKind::IsDirectory,
        IoKind::StorageFull => ErrorKind::NoSpace,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("cannot {doing}"))
        .source(error)
        .context("path", path.display())
}

type Worker = JoinHandle<Told>;

/// What an operation of this host told beside its data.
#[derive(Default)]
struct Told {
    failure: Option<Failure>,
    left_out: LeftOut,
}

/// Runs a file operation of this host on a blocking thread, with its data on a
/// socket pair, whose other end is returned.
fn start(task: FileTask) -> Result<(UnixStream, Worker)> {
    let pair = || -> std::io::Result<_> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs))
    };
    let (ours, theirs) = pair().map_err(|e| {
        Error::new(
            ErrorKind::ResourceExhausted,
            "cannot make a channel for the copy",
        )
        .source(e)
    })?;
    let worker = tokio::task::spawn_blocking(move || {
        let mut told = Told::default();
        transfer(&task, theirs.as_fd(), &mut |kind, payload| match kind {
            Kind::Failure => told.failure = message::decode(payload).ok(),
            Kind::LeftOut => {
                let left_out = message::decode(payload).map(crate::agent::left_out);
                told.left_out = left_out.unwrap_or_default();
            }
            _ => {}
        });
        told
    });
    Ok((ours, worker))
}

fn local_export(task: FileTask) -> Result<(ByteStream, Worker)> {
    let (socket, worker) = start(task)?;
    let data = stream::try_unfold(socket, async |mut socket| {
        let mut buffer = BytesMut::with_capacity(256 * 1024);
        let read = socket.read_buf(&mut buffer).await;
        match read {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some((buffer.freeze(), socket))),
            Err(error) => {
                Err(Error::new(ErrorKind::Internal, "reading the source stopped").source(error))
            }
        }
    });
    Ok((data.boxed(), worker))
}

/// Puts the one file that `data` is to hold in its place; of a sandbox that
/// sends anything else nothing is seen there.
async fn place_one(
    target: Target,
    name: Vec<u8>,
    kind: FileKind,
    data: &mut Archive,
    options: CopyOptions,
) -> Result<()> {
    let directory = Path::new(std::ffi::OsStr::from_bytes(&target.directory));
    let expected = Expected {
        name,
        kind: match kind {
            FileKind::File => message::FileKind::File,
            FileKind::Directory => message::FileKind::Directory,
            FileKind::Link => message::FileKind::Link,
            FileKind::Other => message::FileKind::Other,
        },
        becomes: target.name,
    };
    local_import(&absolute(directory)?, Some(expected), data, options).await
}

/// Unpacks below a directory of this host, which must be there.
async fn local_import(
    path: &Path,
    expected: Option<Expected>,
    data: &mut Archive,
    options: CopyOptions,
) -> Result<()> {
    let request = message::ImportRequest {
        user: None,
        path: path.as_os_str().as_bytes().to_vec().into(),
        parents: false,
        keep_owner: options.keep_owner,
    };
    let task = match expected {
        Some(expected) => FileTask::ImportOne(request, expected),
        None => FileTask::Import(request),
    };
    let (mut socket, worker) = start(task)?;
    let sent = async {
        while let Some(chunk) = data.next().await {
            fault_point!("copy.out-chunk");
            if socket.write_all(&chunk?).await.is_err() {
                // The worker stopped reading; it tells why.
                break;
            }
        }
        Ok(())
    };
    let sent = sent.await;
    drop(socket);
    fault_point!("copy.out-sent");
    finish(worker, sent).await.map(drop)
}

/// What failed first is told: of the two ends of the channel the other one
/// only saw it closed.
async fn finish(worker: Worker, other: Result<()>) -> Result<LeftOut> {
    let told = worker.await.map(|told| (told.failure, told.left_out));
    match told {
        Ok((None, left_out)) => other.map(|()| left_out),
        Ok((Some(failure), _)) => match other {
            Err(error) if error.kind() != ErrorKind::Cancelled && saw_the_end(&failure) => {
                Err(error)
            }
            _ => Err(crate::agent::failure_error(&failure)),
        },
        Err(error) => Err(Error::new(ErrorKind::Internal, "the copy stopped").source(error)),
    }
}

/// Whether a worker failed as its channel was closed.
fn saw_the_end(failure: &Failure) -> bool {
    use rustix::io::Errno;
    let closed = [Errno::PIPE, Errno::CONNRESET].map(Errno::raw_os_error);
    failure.kind == message::FailureKind::BadArchive
        || failure.errno.is_some_and(|errno| closed.contains(&errno))
}

#[cfg(test)]
mod tests;
