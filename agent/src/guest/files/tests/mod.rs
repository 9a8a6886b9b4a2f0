//! Runs operations as the agent does, in temporary directories.

mod archives;
mod mutations;
mod operations;
mod paths;
mod races;
mod round_trip;
mod watching;
mod writing;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use minicbor::bytes::ByteVec;
use tempfile::TempDir;

use super::{FileTask, run};
use crate::protocol::Kind;
use crate::protocol::message::{
    self, Entries, Entry, ExportRequest, Failure, FailureKind, FileOperation, FileRequest,
    ImportRequest, ReadRequest, WriteMode, WriteRequest,
};

/// A directory of its own for one test.
pub(super) struct Place {
    dir: TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("temporary directory"),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            return self.dir.path().to_owned();
        }
        self.dir.path().join(name)
    }

    pub(super) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("parents");
        std::fs::write(&path, content).expect("file");
        path
    }

    pub(super) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("directory");
        path
    }

    pub(super) fn link(&self, name: &str, target: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        std::os::unix::fs::symlink(target, &path).expect("link");
        path
    }

    pub(super) fn read(&self, name: &str) -> String {
        String::from_utf8(std::fs::read(self.path(name)).expect(name)).expect("text")
    }
}

/// What an operation answered.
pub(super) struct Outcome {
    pub(super) frames: Vec<(Kind, Vec<u8>)>,
    pub(super) data: Vec<u8>,
}

impl Outcome {
    /// The last frame as a failure.
    pub(super) fn failure(&self) -> Option<Failure> {
        let (kind, payload) = self.frames.last().expect("a frame");
        (*kind == Kind::Failure).then(|| message::decode(payload).expect("failure"))
    }

    pub(super) fn failure_kind(&self) -> Option<FailureKind> {
        self.failure().map(|failure| failure.kind)
    }

    /// Asserts success and exactly one last frame.
    #[track_caller]
    pub(super) fn ok(self) -> Self {
        assert_eq!(self.failure(), None);
        let last = |kind: &Kind| matches!(kind, Kind::Done | Kind::Failure);
        let lasts = self.frames.iter().filter(|(kind, _)| last(kind)).count();
        let (kind, _) = self.frames.last().expect("a frame");
        assert!(lasts == 1 && last(kind) || lasts == 0 && *kind == Kind::Entry);
        self
    }

    #[track_caller]
    pub(super) fn fails(self, kind: FailureKind) -> Failure {
        let failure = self.failure().expect("a failure");
        assert_eq!(failure.kind, kind, "{failure:?}");
        failure
    }

    pub(super) fn entry(&self) -> Entry {
        let of_kind = |(kind, _): &&(Kind, Vec<u8>)| *kind == Kind::Entry;
        let (_, payload) = self.frames.iter().find(of_kind).expect("an entry");
        message::decode(payload).expect("entry")
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut all = Vec::new();
        for (kind, payload) in &self.frames {
            if *kind == Kind::Entries {
                assert!(payload.len() <= 64 * 1024, "{} bytes", payload.len());
                all.extend(
                    message::decode::<Entries>(payload)
                        .expect("entries")
                        .entries,
                );
            }
        }
        all
    }

    pub(super) fn names(&self) -> Vec<String> {
        let name = |entry: Entry| String::from_utf8_lossy(&entry.path).into_owned();
        self.entries().into_iter().map(name).collect()
    }
}

pub(super) fn bytes(path: impl AsRef<Path>) -> ByteVec {
    ByteVec::from(path.as_ref().as_os_str().as_bytes().to_vec())
}

/// Runs a task with `input` on its data descriptor.
pub(super) fn run_task(task: &FileTask, input: &[u8]) -> Outcome {
    run_stream(task, input, Vec::new())
}

/// The same with any source of input.
pub(super) fn run_stream(
    task: &FileTask,
    mut input: impl Read + Send,
    mut data: Vec<u8>,
) -> Outcome {
    let takes = matches!(task, FileTask::Write(_) | FileTask::Import(_));
    let (mut reader, mut writer) = std::io::pipe().expect("pipe");
    let mut frames = Vec::new();
    let mut reply = |kind: Kind, payload: &[u8]| frames.push((kind, payload.to_vec()));
    std::thread::scope(|scope| {
        if takes {
            scope.spawn(move || {
                // The worker may stop reading: then the rest is nobody's.
                let _ = std::io::copy(&mut input, &mut writer);
            });
            run(task, reader.as_fd(), &mut reply);
            drop(reader);
        } else {
            let data = &mut data;
            scope.spawn(move || reader.read_to_end(data).expect("data"));
            run(task, writer.as_fd(), &mut reply);
            drop(writer);
        }
    });
    Outcome { frames, data }
}

pub(super) fn operate(operation: FileOperation) -> Outcome {
    let request = FileRequest {
        user: None,
        operation,
    };
    run_task(&FileTask::Operation(request), b"")
}

pub(super) fn read(path: impl AsRef<Path>, offset: u64, length: Option<u64>) -> Outcome {
    let request = ReadRequest {
        user: None,
        path: bytes(path),
        offset,
        length,
    };
    run_task(&FileTask::Read(request), b"")
}

pub(super) fn write_request(path: impl AsRef<Path>, how: WriteMode) -> WriteRequest {
    WriteRequest {
        user: None,
        path: bytes(path),
        how,
        mode: None,
        parents: false,
    }
}

pub(super) fn write(path: impl AsRef<Path>, how: WriteMode, content: &[u8]) -> Outcome {
    run_task(&FileTask::Write(write_request(path, how)), content)
}

pub(super) fn remove(path: impl AsRef<Path>) -> Outcome {
    operate(FileOperation::Remove {
        path: bytes(path),
        recursive: true,
        missing_ok: false,
    })
}

pub(super) fn export(path: impl AsRef<Path>, contents: bool) -> Outcome {
    let request = ExportRequest {
        user: None,
        path: bytes(path),
        contents,
        follow: false,
    };
    run_task(&FileTask::Export(request), b"")
}

pub(super) fn import_task(path: impl AsRef<Path>) -> FileTask {
    FileTask::Import(ImportRequest {
        user: None,
        path: bytes(path),
        parents: false,
        keep_owner: false,
    })
}

pub(super) fn import(path: impl AsRef<Path>, archive: &[u8]) -> Outcome {
    run_task(&import_task(path), archive)
}

/// Names, types, modes, targets and contents below a directory, sorted.
pub(super) fn snapshot(root: &Path) -> Vec<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    let mut lines = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).expect("list") {
            let path = entry.expect("entry").path();
            let name = path.strip_prefix(root).expect("below").to_owned();
            let meta = std::fs::symlink_metadata(&path).expect("metadata");
            let mode = meta.permissions().mode() & 0o7777;
            let kind = meta.file_type();
            let what = if kind.is_dir() {
                left.push(path.clone());
                format!("dir {mode:o}")
            } else if kind.is_symlink() {
                format!("link {:?}", std::fs::read_link(&path).expect("target"))
            } else if kind.is_file() {
                let content = std::fs::read(&path).expect("content");
                let sum = content.iter().fold(7_u64, |sum, byte| {
                    sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
                });
                format!("file {mode:o} {} {sum:x} {}", content.len(), meta.nlink())
            } else if kind.is_fifo() {
                format!("fifo {mode:o}")
            } else {
                "other".to_owned()
            };
            let time = if kind.is_symlink() {
                (0, 0)
            } else {
                (meta.mtime(), meta.mtime_nsec())
            };
            lines.push(format!("{} {what} {time:?}", name.display()));
        }
    }
    lines.sort();
    lines
}

/// Feeds all of `chunks` to a writer, for streams that are made as they go.
pub(super) struct Chunks<I>(pub(super) I, pub(super) Vec<u8>);

impl<I: Iterator<Item = Vec<u8>>> Read for Chunks<I> {
    fn read(&mut self, mut buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.1.is_empty() {
            let Some(next) = self.0.next() else {
                return Ok(0);
            };
            self.1 = next;
        }
        let count = self.1.len().min(buffer.len());
        buffer.write_all(&self.1[..count])?;
        self.1.drain(..count);
        Ok(count)
    }
}
