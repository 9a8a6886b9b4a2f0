//! A store that is damaged, cut off or newer, met by the real command line: it
//! fails with 125, names the file and what to do, and changes nothing.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of their functions"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn stacyvm(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stacyvm"))
        .env_remove("STACYVM_CONFIG")
        .env("STACYVM_STATE_DIR", state)
        .env("XDG_CONFIG_HOME", state.join("config"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A state directory with a store that was used and closed.
fn used() -> (tempfile::TempDir, PathBuf) {
    let state = tempfile::tempdir().unwrap();
    let output = stacyvm(state.path(), &["ls"]);
    assert!(output.status.success(), "{output:?}");
    let store = state.path().join("store.db");
    assert!(store.exists());
    (state, store)
}

/// Damages the store and looks at what every command that opens it does.
fn refused(damage: impl Fn(&mut Vec<u8>), says: &str) {
    let (state, store) = used();
    let mut bytes = std::fs::read(&store).unwrap();
    damage(&mut bytes);
    std::fs::write(&store, &bytes).unwrap();
    let commands: [&[&str]; 4] = [
        &["ls"],
        &["run", "--", "true"],
        &["create"],
        &["kill", "--all"],
    ];
    for arguments in commands {
        let output = stacyvm(state.path(), arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}: {text}");
        assert!(text.contains(&*store.to_string_lossy()), "no file: {text}");
        assert!(text.contains("remedy:"), "no remedy: {text}");
        assert!(text.contains(says), "not {says}: {text}");
        assert!(output.stdout.is_empty());
        let now = std::fs::read(&store).unwrap();
        assert!(now == bytes, "{arguments:?} changed the store");
    }
    let output = stacyvm(state.path(), &["--json", "ls"]);
    assert_eq!(output.status.code(), Some(125));
    let all = [output.stdout, output.stderr].concat();
    let error: serde_json::Value = serde_json::from_slice(&all).unwrap();
    assert!(error.to_string().contains("store.db"), "{error}");
    // Nothing was made, and what was moved away makes room for a new one.
    assert!(std::fs::read_dir(state.path().join("sandboxes")).map_or(0, Iterator::count) == 0);
    std::fs::rename(&store, state.path().join("moved")).unwrap();
    let output = stacyvm(state.path(), &["ls"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_store_of_other_bytes_is_refused() {
    refused(
        |bytes| bytes[..16].copy_from_slice(b"no database here"),
        "damaged",
    );
}

#[test]
fn a_store_damaged_within_is_refused() {
    refused(
        |bytes| {
            let middle = bytes.len() / 3;
            bytes[middle..].fill(0x5a);
        },
        "damaged",
    );
}

#[test]
fn an_empty_store_is_refused() {
    refused(Vec::clear, "damaged");
}

#[test]
fn a_store_that_was_cut_off_is_refused() {
    refused(|bytes| bytes.truncate(bytes.len() - 4096), "damaged");
}

#[test]
fn a_newer_store_is_refused() {
    let newer = tempfile::tempdir().unwrap();
    let draft = newer.path().join("draft.db");
    refused(
        |bytes| {
            std::fs::write(&draft, &*bytes).unwrap();
            let connection = rusqlite::Connection::open(&draft).unwrap();
            // A layout that says that only its own readers understand it.
            connection.pragma_update(None, "user_version", 900).unwrap();
            connection
                .execute("UPDATE meta SET min_reader = 900", [])
                .unwrap();
            connection.close().unwrap();
            *bytes = std::fs::read(&draft).unwrap();
        },
        "newer stacyvm",
    );
}

#[test]
fn a_user_without_threads_is_told_so() {
    use std::os::unix::process::CommandExt;
    let me = std::fs::metadata("/proc/self").unwrap();
    if std::os::unix::fs::MetadataExt::uid(&me) != 0 {
        return; // Only root can be a user that has no other processes.
    }
    let user = 900_000 + std::process::id() % 90_000;
    let state = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(state.path(), Some(user), Some(user)).unwrap();
    for processes in 1..6 {
        let output = Command::new("prlimit")
            .arg(format!("--nproc={processes}"))
            .arg(env!("CARGO_BIN_EXE_stacyvm"))
            .args(["ls", "--json"])
            .env_remove("STACYVM_CONFIG")
            .env("STACYVM_STATE_DIR", state.path())
            .env("XDG_CONFIG_HOME", state.path().join("config"))
            .uid(user)
            .gid(user)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("panicked"), "{processes}: {text}");
        if processes == 1 || output.status.code() != Some(0) {
            assert_eq!(output.status.code(), Some(125), "{processes}: {text}");
            assert!(text.contains("resource_exhausted"), "{processes}: {text}");
            assert!(text.contains("remedy"), "{processes}: {text}");
        }
    }
}
