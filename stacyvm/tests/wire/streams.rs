//! Files, archives, watches and ports through the wire.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::{StreamExt as _, stream};
use stacyvm::providers::mock::{Mock, Script};
use stacyvm::sandbox::files::{Attributes, FileKind, WatchKind};
use stacyvm::{Engine, ErrorKind, Sandbox, SandboxSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::served::{Served, engine, serve};

async fn sandbox(mock: Mock) -> (Served, Sandbox) {
    let served = serve(engine(Arc::new(mock)).await).await;
    let remote = Engine::builder()
        .provider("remote", served.client().await)
        .reconcile_every(Duration::ZERO)
        .build()
        .await
        .unwrap();
    let sandbox = remote.create(SandboxSpec::image("scratch")).await.unwrap();
    (served, sandbox)
}

#[tokio::test]
async fn file_operations_pass() {
    let (_served, sandbox) = sandbox(Mock::default()).await;
    let files = sandbox.files();
    files.make_dir("/tmp/d").await.unwrap();
    // Names are bytes.
    let strange = [b"/tmp/d/".as_slice(), &[0xff, b'\n', b'"']].concat();
    files.write(&strange, "x").await.unwrap();
    files.write("/tmp/d/b", "12345").await.unwrap();
    files.append("/tmp/d/b", "678").await.unwrap();
    files.link("b", "/tmp/d/l").await.unwrap();
    files.chmod("/tmp/d/b", 0o600).await.unwrap();
    let modified = UNIX_EPOCH + Duration::new(5, 600);
    let attributes = Attributes {
        modified: Some(modified),
        ..Attributes::default()
    };
    files
        .set_attributes("/tmp/d/b", attributes, false)
        .await
        .unwrap();

    let entry = files.stat("/tmp/d/b").await.unwrap();
    assert_eq!(
        (entry.kind, entry.size, entry.mode),
        (FileKind::File, 8, 0o600)
    );
    assert_eq!(entry.modified, modified);
    let link = files.stat("/tmp/d/l").await.unwrap();
    assert_eq!(link.target.as_deref(), Some(b"b".as_slice()));
    let listed = files.list("/tmp/d").await.unwrap();
    let names: Vec<&[u8]> = listed.iter().map(|entry| entry.path.as_slice()).collect();
    assert_eq!(names, [b"b".as_slice(), b"l", &[0xff, b'\n', b'"']]);
    let found = files.glob("/tmp/d/?").await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    files.rename("/tmp/d/b", "/tmp/d/c").await.unwrap();
    let (_, part) = files.read_range("/tmp/d/c", 2, Some(3)).await.unwrap();
    let part: Vec<u8> = part.map(|piece| piece.unwrap().to_vec()).concat().await;
    assert_eq!(part, b"345");
    files.remove("/tmp/d").await.unwrap();
    let error = files.stat("/tmp/d/c").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.fact("file_operation"), Some("files.stat"));
}

#[tokio::test]
async fn large_files_and_archives_pass_whole() {
    let (_served, sandbox) = sandbox(Mock::default()).await;
    let files = sandbox.files();
    let mut large = vec![0_u8; (9 << 20) + 7];
    for (index, byte) in large.iter_mut().enumerate() {
        *byte = u8::try_from(index % 251).unwrap();
    }
    files.make_dir("/tmp/d").await.unwrap();
    // One piece that is longer than a frame, and no empty one that ends it.
    let pieces = [
        large[..5 << 20].to_vec(),
        Vec::new(),
        large[5 << 20..].to_vec(),
    ];
    let data = stream::iter(pieces.map(|piece| Ok(piece.into())));
    files
        .write_stream("/tmp/d/large", data.boxed())
        .await
        .unwrap();
    let read = files.read("/tmp/d/large").await.unwrap();
    assert!(read == large, "other bytes came back");

    let archive = files.export_tar("/tmp/d", true).await.unwrap();
    let pieces: Vec<_> = archive.collect().await;
    files.make_dir("/tmp/e").await.unwrap();
    files
        .import_tar("/tmp/e", stream::iter(pieces).boxed())
        .await
        .unwrap();
    let read = files.read("/tmp/e/large").await.unwrap();
    assert!(read == large, "other bytes came out of the archive");
}

#[tokio::test]
async fn changes_are_told_from_the_moment_a_watch_begins() {
    let (_served, sandbox) = sandbox(Mock::default()).await;
    let files = sandbox.files();
    let mut changes = files.watch("/tmp", true).await.unwrap();
    files.write("/tmp/new", "x").await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), changes.next());
    let change = next.await.unwrap().unwrap().unwrap();
    assert_eq!(
        (change.kind, change.path.as_slice()),
        (WatchKind::Created, b"new".as_slice())
    );
}

#[tokio::test]
async fn ports_are_dialled_and_closed_both_ways() {
    let mock = Mock::builder()
        .command("upper", |_| {
            Script::new().serve(80, <[u8]>::to_ascii_uppercase)
        })
        .build();
    let (_served, sandbox) = sandbox(mock).await;
    let error = sandbox.dial(80).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let server = sandbox.exec(["upper"]).start().await.unwrap();
    let mut connection = loop {
        match sandbox.dial(80).await {
            Ok(connection) => break connection,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    connection.write_all(b"abc").await.unwrap();
    let mut answer = [0; 3];
    connection.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ABC");
    // The end of the one inside is seen here.
    drop(server);
    let mut rest = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(10), connection.read_to_end(&mut rest));
    reading.await.expect("the end within 10 s").unwrap();
    assert_eq!(rest, b"");
}
