use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use super::super::Mock;
use super::{Bench, bench, bench_on, path};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::Provider;
use crate::sandbox::files::{
    Attributes, ByteStream, FileEntry, FileKind, FileOperation, FileReply, ReadRequest, WatchKind,
    WatchRequest, WriteMode, WriteRequest,
};

impl Bench {
    pub(super) async fn write(&self, at: &str, how: WriteMode, bytes: &str) -> Result<FileEntry> {
        let data: ByteStream = Box::pin(futures_util::stream::iter([Ok(Bytes::from(
            bytes.to_owned(),
        ))]));
        let request = WriteRequest {
            user: None,
            path: path(at),
            how,
            mode: None,
            parents: false,
        };
        self.mock
            .write_file(&self.cx, &self.id, &request, data)
            .await
    }

    pub(super) async fn read(&self, user: Option<&str>, at: &str) -> Result<String> {
        let request = ReadRequest {
            user: user.map(str::to_owned),
            path: path(at),
            offset: 0,
            length: None,
        };
        let (_, data) = self.mock.read_file(&self.cx, &self.id, &request).await?;
        let pieces: Vec<Bytes> = data.try_collect().await?;
        Ok(String::from_utf8(pieces.concat()).unwrap())
    }

    async fn names(&self, operation: FileOperation) -> Result<Vec<String>> {
        let FileReply::Entries(entries) = self.file(None, operation).await? else {
            panic!("entries");
        };
        let entries: Vec<FileEntry> = entries.try_collect().await?;
        Ok(entries
            .iter()
            .map(|e| String::from_utf8_lossy(&e.path).into_owned())
            .collect())
    }

    pub(super) async fn stat(&self, at: &str) -> Result<FileEntry> {
        let operation = FileOperation::Stat {
            path: path(at),
            follow: false,
        };
        match self.file(None, operation).await? {
            FileReply::Entry(entry) => Ok(entry),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn make_dir(&self, at: &str) {
        let operation = FileOperation::MakeDir {
            path: path(at),
            parents: true,
            mode: 0o755,
        };
        self.file(None, operation).await.unwrap();
    }
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().map_or(ErrorKind::Internal, |e| e.kind())
}

fn remove(at: &str, recursive: bool) -> FileOperation {
    FileOperation::Remove {
        path: path(at),
        recursive,
        missing_ok: false,
    }
}

#[tokio::test]
async fn what_was_written_is_read() {
    let bench = bench().await;
    let entry = bench
        .write("/workspace/a", WriteMode::Replace, "one")
        .await
        .unwrap();
    assert_eq!((entry.size, entry.mode, entry.uid), (3, 0o644, 1000));
    bench
        .write("/workspace/a", WriteMode::Append, "two")
        .await
        .unwrap();
    assert_eq!(bench.read(None, "/workspace/a").await.unwrap(), "onetwo");
    let again = bench.write("/workspace/a", WriteMode::CreateNew, "x").await;
    assert_eq!(kind(again), ErrorKind::AlreadyExists);
    let request = ReadRequest {
        user: None,
        path: path("/workspace/a"),
        offset: 2,
        length: Some(3),
    };
    let (_, data) = bench
        .mock
        .read_file(&bench.cx, &bench.id, &request)
        .await
        .unwrap();
    let pieces: Vec<Bytes> = data.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), b"etw");
    assert_eq!(
        kind(bench.read(None, "/workspace").await),
        ErrorKind::IsDirectory
    );
    assert_eq!(
        kind(bench.read(None, "/workspace/a/b").await),
        ErrorKind::NotDirectory
    );
    assert_eq!(kind(bench.read(None, "/none").await), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_failed_write_leaves_the_old_file() {
    let bench = bench().await;
    bench
        .write("/tmp/a", WriteMode::Replace, "old")
        .await
        .unwrap();
    for how in [WriteMode::Replace, WriteMode::Append] {
        let data: ByteStream = Box::pin(futures_util::stream::iter([
            Ok(Bytes::from_static(b"new")),
            Err(Error::new(ErrorKind::Unavailable, "the source broke")),
        ]));
        let request = WriteRequest {
            user: None,
            path: path("/tmp/a"),
            how,
            mode: None,
            parents: false,
        };
        let failed = bench
            .mock
            .write_file(&bench.cx, &bench.id, &request, data)
            .await;
        assert_eq!(kind(failed), ErrorKind::Unavailable);
        assert_eq!(bench.read(None, "/tmp/a").await.unwrap(), "old");
    }
}

#[tokio::test]
async fn what_must_be_new_is_not_made_behind_a_link_and_new_content_sets_no_id() {
    let bench = bench().await;
    let link = FileOperation::Link {
        target: b"/tmp/nothing".to_vec(),
        path: path("/tmp/link"),
    };
    bench.file(None, link).await.unwrap();
    let made = bench.write("/tmp/link", WriteMode::CreateNew, "x").await;
    assert_eq!(kind(made), ErrorKind::AlreadyExists);
    assert_eq!(kind(bench.stat("/tmp/nothing").await), ErrorKind::NotFound);
    bench
        .write("/tmp/program", WriteMode::Replace, "old")
        .await
        .unwrap();
    let set = FileOperation::SetAttributes {
        path: path("/tmp/program"),
        attributes: Attributes {
            mode: Some(0o6751),
            ..Attributes::default()
        },
        recursive: false,
        follow: true,
    };
    bench.file(None, set).await.unwrap();
    let written = bench.write("/tmp/program", WriteMode::Replace, "new");
    assert_eq!(written.await.unwrap().mode, 0o751);
}

#[tokio::test]
async fn a_path_that_ends_in_no_name_is_neither_moved_nor_removed() {
    let bench = bench().await;
    bench.make_dir("/tmp/a").await;
    bench.make_dir("/tmp/a/b").await;
    for no_name in ["/", "/tmp/a/b/..", "/tmp/a/.", "/tmp/.."] {
        let removed = bench.file(None, remove(no_name, true)).await;
        assert_eq!(kind(removed), ErrorKind::InvalidArgument, "{no_name}");
    }
    bench.stat("/tmp/a/b").await.unwrap();
}

#[tokio::test]
async fn the_rights_of_the_user_hold() {
    let bench = bench().await;
    let write = bench.write("/etc/passwd", WriteMode::Replace, "x").await;
    assert_eq!(kind(write), ErrorKind::PermissionDenied);
    let write = bench.write("/etc/new", WriteMode::Replace, "x").await;
    assert_eq!(kind(write), ErrorKind::PermissionDenied);
    bench
        .write("/tmp/mine", WriteMode::Replace, "x")
        .await
        .unwrap();
    let mode = |mode| FileOperation::SetAttributes {
        path: path("/tmp/mine"),
        attributes: Attributes {
            mode: Some(mode),
            ..Attributes::default()
        },
        recursive: false,
        follow: true,
    };
    let nobody = Some("nobody");
    assert_eq!(
        kind(bench.file(nobody, mode(0o777)).await),
        ErrorKind::PermissionDenied
    );
    bench.file(None, mode(0o600)).await.unwrap();
    assert_eq!(
        kind(bench.read(nobody, "/tmp/mine").await),
        ErrorKind::PermissionDenied
    );
    // A sticky directory keeps what is another's.
    let removed = bench.file(nobody, remove("/tmp/mine", false)).await;
    assert_eq!(kind(removed), ErrorKind::PermissionDenied);
    assert_eq!(bench.read(Some("root"), "/tmp/mine").await.unwrap(), "x");
}

#[tokio::test]
async fn links_mean_what_they_mean_inside() {
    let bench = bench().await;
    bench
        .write("/tmp/file", WriteMode::Replace, "x")
        .await
        .unwrap();
    let link = |target: &str, at: &str| FileOperation::Link {
        target: target.as_bytes().to_vec(),
        path: path(at),
    };
    bench
        .file(None, link("../tmp/file", "/tmp/link"))
        .await
        .unwrap();
    bench.file(None, link("loop", "/tmp/loop")).await.unwrap();
    bench
        .file(None, link("/../../etc", "/tmp/up"))
        .await
        .unwrap();
    assert_eq!(bench.read(None, "/tmp/link").await.unwrap(), "x");
    assert_eq!(
        kind(bench.read(None, "/tmp/loop").await),
        ErrorKind::InvalidArgument
    );
    assert!(
        bench
            .read(None, "/tmp/up/passwd")
            .await
            .unwrap()
            .contains("root")
    );
    let entry = bench.stat("/tmp/link").await.unwrap();
    assert_eq!(entry.kind, FileKind::Link);
    assert_eq!(entry.target.as_deref(), Some(b"../tmp/file".as_slice()));
    // A link is removed, and what it leads to stays.
    bench.file(None, remove("/tmp/link", true)).await.unwrap();
    assert_eq!(bench.read(None, "/tmp/file").await.unwrap(), "x");
}

#[tokio::test]
async fn directories_are_listed_moved_and_removed() {
    let bench = bench().await;
    bench.make_dir("/tmp/d/b/c").await;
    bench
        .write("/tmp/d/a", WriteMode::Replace, "x")
        .await
        .unwrap();
    let list = |depth| FileOperation::List {
        path: path("/tmp/d"),
        depth,
    };
    assert_eq!(bench.names(list(1)).await.unwrap(), ["a", "b"]);
    assert_eq!(bench.names(list(9)).await.unwrap(), ["a", "b", "b/c"]);
    let rename = |from: &str, to: &str, replace| FileOperation::Rename {
        from: path(from),
        to: path(to),
        replace,
    };
    for (from, to, replace, expected) in [
        ("/tmp/none", "/tmp/x", true, ErrorKind::NotFound),
        ("/tmp/d", "/tmp/d/b/x", true, ErrorKind::InvalidArgument),
        ("/tmp/d/a", "/tmp/d/b", true, ErrorKind::IsDirectory),
        ("/tmp/d/b", "/tmp/d/a", true, ErrorKind::NotDirectory),
        ("/tmp/d/a", "/tmp/d/b", false, ErrorKind::AlreadyExists),
    ] {
        let renamed = bench.file(None, rename(from, to, replace)).await;
        assert_eq!(kind(renamed), expected, "{from} {to}");
    }
    assert_eq!(bench.names(list(9)).await.unwrap(), ["a", "b", "b/c"]);
    bench
        .file(None, rename("/tmp/d", "/tmp/e", false))
        .await
        .unwrap();
    assert_eq!(bench.read(None, "/tmp/e/a").await.unwrap(), "x");
    let removed = bench.file(None, remove("/tmp/e", false)).await;
    assert_eq!(kind(removed), ErrorKind::DirectoryNotEmpty);
    bench.file(None, remove("/tmp/e", true)).await.unwrap();
    assert_eq!(kind(bench.stat("/tmp/e").await), ErrorKind::NotFound);
    let usage = bench.mock.usage(&bench.cx, &bench.id).await.unwrap();
    assert_eq!(usage.disk_bytes.unwrap(), {
        let passwd = bench.stat("/etc/passwd").await.unwrap().size;
        passwd + bench.stat("/etc/group").await.unwrap().size
    });
    let root = bench.file(Some("root"), remove("/", true)).await;
    assert_eq!(kind(root), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_glob_finds_and_is_bounded() {
    let bench = bench().await;
    bench.make_dir("/tmp/g/x/y").await;
    for name in [
        "/tmp/g/a.rs",
        "/tmp/g/x/b.rs",
        "/tmp/g/x/y/c.rs",
        "/tmp/g/x/.d.rs",
    ] {
        bench.write(name, WriteMode::Replace, "").await.unwrap();
    }
    let glob = |pattern: &str, limit| FileOperation::Glob {
        pattern: path(pattern),
        limit,
    };
    let found = bench.names(glob("/tmp/g/**/*.rs", 3)).await.unwrap();
    assert_eq!(found, ["/tmp/g/a.rs", "/tmp/g/x/b.rs", "/tmp/g/x/y/c.rs"]);
    let found = bench.names(glob("/tmp/*/x/?.rs", 3)).await.unwrap();
    assert_eq!(found, ["/tmp/g/x/b.rs"]);
    let many = bench.names(glob("/tmp/g/**/*.rs", 2)).await;
    assert_eq!(kind(many), ErrorKind::ResourceExhausted);
}

#[tokio::test]
async fn attributes_are_changed() {
    let bench = bench().await;
    bench.make_dir("/tmp/t/u").await;
    let root = Some("root");
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(77);
    let change = FileOperation::SetAttributes {
        path: path("/tmp/t"),
        attributes: Attributes {
            mode: Some(0o2750),
            owner: Some("nobody".into()),
            group: Some("1000".into()),
            modified: Some(time),
        },
        recursive: true,
        follow: true,
    };
    assert_eq!(
        kind(bench.file(None, change.clone()).await),
        ErrorKind::PermissionDenied
    );
    bench.file(root, change).await.unwrap();
    let entry = bench.stat("/tmp/t/u").await.unwrap();
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o2750, 65534, 1000));
    assert_eq!(
        (entry.user.as_deref(), entry.modified),
        (Some("nobody"), time)
    );
}

#[tokio::test]
async fn a_watch_sees_every_later_change() {
    let bench = bench().await;
    bench.make_dir("/tmp/w/sub").await;
    let watch = async |recursive| {
        let request = WatchRequest {
            user: None,
            path: path("/tmp/w"),
            recursive,
        };
        bench
            .mock
            .watch(&bench.cx, &bench.id, &request)
            .await
            .unwrap()
    };
    let (flat, deep) = (watch(false).await, watch(true).await);
    bench
        .write("/tmp/w/a", WriteMode::Replace, "x")
        .await
        .unwrap();
    bench
        .write("/tmp/w/sub/b", WriteMode::Replace, "x")
        .await
        .unwrap();
    bench
        .write("/tmp/elsewhere", WriteMode::Replace, "x")
        .await
        .unwrap();
    bench.shell("echo y >> /tmp/w/a").await;
    bench.file(None, remove("/tmp/w/a", false)).await.unwrap();
    let seen =
        async |stream: crate::sandbox::exec::BoxStream<_>, count| -> Vec<(WatchKind, String)> {
            let events: Vec<Result<crate::sandbox::files::WatchEvent>> =
                stream.take(count).collect().await;
            let events = events.into_iter().map(Result::unwrap);
            events
                .map(|e| (e.kind, String::from_utf8(e.path).unwrap()))
                .collect()
        };
    let a = |kind| (kind, "a".to_owned());
    let own = [
        a(WatchKind::Created),
        a(WatchKind::Modified),
        a(WatchKind::Removed),
    ];
    assert_eq!(seen(flat, 3).await, own);
    let deep = seen(deep, 4).await;
    assert!(
        deep.contains(&(WatchKind::Created, "sub/b".to_owned())),
        "{deep:?}"
    );
}

#[tokio::test]
async fn a_watch_that_nobody_reads_overflows_and_says_so() {
    let bench = bench().await;
    let request = WatchRequest {
        user: None,
        path: path("/tmp"),
        recursive: false,
    };
    let stream = bench
        .mock
        .watch(&bench.cx, &bench.id, &request)
        .await
        .unwrap();
    for _ in 0..1100 {
        bench
            .write("/tmp/a", WriteMode::Replace, "x")
            .await
            .unwrap();
    }
    bench.mock.destroy(&bench.cx, &bench.id).await.unwrap();
    // The stream ends with the sandbox.
    drop(stream.collect::<Vec<_>>().await);

    let bench = super::bench().await;
    let stream = bench
        .mock
        .watch(&bench.cx, &bench.id, &request)
        .await
        .unwrap();
    for _ in 0..1100 {
        bench
            .write("/tmp/a", WriteMode::Replace, "x")
            .await
            .unwrap();
    }
    let events: Vec<_> = stream.take(1025).collect().await;
    let last = events.last().unwrap().as_ref().unwrap();
    assert_eq!(last.kind, WatchKind::Overflow);
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_leaves_the_old_file() {
    let bench = bench_on(Mock::builder().disk_bytes(1000).build()).await;
    bench
        .write("/tmp/a", WriteMode::Replace, "old")
        .await
        .unwrap();
    let long = "x".repeat(990);
    let full = bench.write("/tmp/a", WriteMode::Replace, &long).await;
    assert_eq!(kind(full), ErrorKind::NoSpace);
    assert_eq!(bench.read(None, "/tmp/a").await.unwrap(), "old");
}
