//! Files that are not as they should be: a clear error, and nothing changed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::*;
use crate::error::{Error, ErrorKind};

/// A store of some sandboxes, closed, and its file.
async fn closed() -> (tempfile::TempDir, PathBuf) {
    let (store, home) = fresh().await;
    for _ in 0..50 {
        add(&store).await.expect("a write");
    }
    store.close().await.expect("a close");
    (home, store.path())
}

/// Opens it twice, and checks that the error is useful and the file untouched.
async fn refused(home: &tempfile::TempDir, file: &Path, kind: ErrorKind, what: &str) -> Error {
    let before = fs::read(file).expect("the file");
    for _ in 0..2 {
        let error = SqliteStore::open(&state(home)).await.expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        assert!(error.to_string().contains("store.db"), "{what}: {error:?}");
        for fact in ["file", "remedy"] {
            assert!(error.fact(fact).is_some(), "{what}: {error:?}");
        }
        assert!(
            fs::read(file).expect("the file") == before,
            "{what}: it was changed"
        );
    }
    SqliteStore::open(&state(home)).await.expect_err(what)
}

fn sql(file: &Path, text: &str) {
    let db = rusqlite::Connection::open(file).expect("a database");
    db.execute_batch(text).expect("it runs");
}

#[tokio::test]
async fn a_damaged_file_is_corrupt() {
    let (home, file) = closed().await;
    let whole = fs::read(&file).unwrap();
    let mut holes = whole.clone();
    // The heads of the pages behind the first.
    for page in holes.chunks_mut(4096).skip(1) {
        page[..8].fill(0xff);
    }
    let mut last = whole.clone();
    let tail = last.len() - 4096;
    last[tail..].fill(0xff);
    let mut pages_lost = whole.clone();
    pages_lost.truncate(whole.len() - 4096);
    let cases: &[(&str, Vec<u8>)] = &[
        ("empty", Vec::new()),
        ("shorter than a header", whole[..60].to_vec()),
        ("cut in half", whole[..whole.len() / 2].to_vec()),
        ("a page short", pages_lost),
        ("a short text", b"hello\n".to_vec()),
        ("a long text", b"no database\n".repeat(2_000)),
        ("zeros", vec![0; whole.len()]),
        ("bad pages", holes),
        ("a bad page that opening does not read", last),
    ];
    for (what, bytes) in cases {
        fs::write(&file, bytes).unwrap();
        refused(&home, &file, ErrorKind::Corrupt, what).await;
    }
    fs::write(&file, &whole).unwrap();
    let store = SqliteStore::open(&state(&home)).await.unwrap();
    assert_eq!(count(&store).await, 50);
}

#[tokio::test]
async fn a_newer_store_is_refused_unless_it_lets_us() {
    let (home, file) = closed().await;
    sql(
        &file,
        "PRAGMA user_version = 7; UPDATE meta SET min_reader = 1;
         ALTER TABLE sandboxes ADD COLUMN later TEXT NOT NULL DEFAULT 'x';
         CREATE TABLE later (a TEXT) STRICT;",
    );
    let store = SqliteStore::open(&state(&home)).await.unwrap();
    assert_eq!(store.meta().schema(), 7);
    add(&store).await.unwrap();
    assert_eq!(count(&store).await, 51);
    store.close().await.unwrap();

    sql(&file, "UPDATE meta SET min_reader = 7;");
    let error = refused(&home, &file, ErrorKind::Incompatible, "newer").await;
    assert!(
        error.fact("found").unwrap().contains("schema 7"),
        "{error:?}"
    );
    assert!(
        error.fact("expected").unwrap().contains("schema 1"),
        "{error:?}"
    );

    sql(
        &file,
        "PRAGMA user_version = 0; UPDATE meta SET min_reader = 1;",
    );
    refused(&home, &file, ErrorKind::Corrupt, "without a schema").await;
    sql(&file, "PRAGMA user_version = 1; DELETE FROM meta;");
    refused(&home, &file, ErrorKind::Corrupt, "without an identity").await;
    sql(&file, "DROP TABLE meta; PRAGMA application_id = 1;");
    refused(&home, &file, ErrorKind::Incompatible, "another program's").await;
}

#[test]
fn a_sqlite_that_can_lose_commits_is_refused() {
    use super::super::open::check_library;
    check_library(rusqlite::version_number()).unwrap();
    check_library(3_051_003).unwrap();
    for old in [3_007_000, 3_051_002] {
        let error = check_library(old).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible);
    }
}

#[tokio::test]
async fn a_file_that_is_not_ours_alone_is_refused() {
    let (home, file) = closed().await;
    let aside = file.with_extension("aside");
    fs::rename(&file, &aside).unwrap();
    symlink(&aside, &file).unwrap();
    refused(&home, &file, ErrorKind::PermissionDenied, "a link").await;
    fs::remove_file(&file).unwrap();
    fs::rename(&aside, &file).unwrap();

    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode));
    mode(0o666).unwrap();
    refused(&home, &file, ErrorKind::PermissionDenied, "all can write").await;
    mode(0o644).unwrap();
    SqliteStore::open(&state(&home))
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    if rustix::process::geteuid().is_root() {
        chown(&file, Some(12345), None).unwrap();
        refused(&home, &file, ErrorKind::PermissionDenied, "another user's").await;
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let error = SqliteStore::open(&state(&home)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IsDirectory);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_corrupt_and_named() {
    let (home, file) = closed().await;
    sql(&file, "UPDATE sandboxes SET phase = 'dancing';");
    let store = SqliteStore::open(&state(&home)).await.unwrap();
    let (cx, filter) = (tenant("ours"), SandboxFilter::default());
    let error = store
        .list_sandboxes(&cx, &filter, None, 9)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("phase"), "{error}");
}

#[tokio::test]
async fn a_torn_log_loses_its_end_and_nothing_else() {
    let (store, home) = fresh().await;
    for _ in 0..20 {
        add(&store).await.unwrap();
    }
    // What a machine that lost power leaves: file and log as they stand, the
    // log cut anywhere.
    let (db, log) = (
        fs::read(store.path()).unwrap(),
        fs::read(store.path().with_extension("db-wal")).unwrap(),
    );
    drop(home);
    let mut last = 0;
    for tenth in 0..=10 {
        let ground = tempfile::tempdir().unwrap();
        let path = state(&ground).path().join(FILE);
        fs::write(&path, &db).unwrap();
        fs::write(
            path.with_extension("db-wal"),
            &log[..log.len() * tenth / 10],
        )
        .unwrap();
        for name in [path.clone(), path.with_extension("db-wal")] {
            fs::set_permissions(name, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let torn = SqliteStore::open(&state(&ground)).await.unwrap();
        let kept = count(&torn).await;
        assert!(kept >= last, "{kept} after {last}");
        last = kept;
        add(&torn).await.unwrap();
    }
    assert_eq!(last, 20);
}
