//! The contents of files: written, read, streamed, by many at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stacyvm::sandbox::files::{Attributes, FileOperation, ReadRequest, WriteMode, WriteRequest};
use stacyvm::{ErrorKind, Sandbox};

use super::cases;
use super::common::{declined, pattern, same_bytes};
use super::files_common::{drained, me, operate, path, whole};
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "files.what_was_written_is_read" ["F1.1"] needs(FILES) else files_declined => round_trip;
    Must "files.a_part_of_a_file_is_read" ["F1.1"] needs(FILES) => parts;
    Must "files.a_command_and_the_host_see_the_same_file" ["F1.1"] needs(FILES) => shared;
    Must "files.a_new_file_has_its_mode_and_its_owner" ["F1.3" "F1.9"] needs(FILES) => modes;
    Must "files.a_replaced_file_keeps_its_mode_but_no_set_id_bit" ["F1.9"] needs(FILES) => kept_mode;
    Must "files.appending_adds_to_the_end" ["F1.1"] needs(FILES) => appended;
    Must "files.a_file_that_must_be_new_replaces_nothing" ["F1.8"] needs(FILES) => must_be_new;
    Must "files.missing_directories_are_made_only_if_asked_for" ["F1.8"] needs(FILES) => parents;
    Must "files.times_are_told_and_set" ["F1.9"] needs(FILES) => times;
    Must "files.a_program_that_was_written_runs" ["F1.1"] needs(FILES) => program;
    Must "files.text_that_is_none_is_refused" ["F1.7"] needs(FILES) => no_text;
};

async fn files_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let (provider, cx, id) = (f.provider(), f.context(), sandbox.id());
    let request = WriteRequest {
        user: None,
        path: path("/tmp/refused")?,
        how: WriteMode::Replace,
        mode: None,
        parents: false,
    };
    let call = provider.write_file(cx, id, &request, whole("x"));
    declined(f, &sandbox, "writing a file", call).await?;
    let request = ReadRequest {
        user: None,
        path: path("/etc/passwd")?,
        offset: 0,
        length: None,
    };
    let call = async { provider.read_file(cx, id, &request).await.map(drop) };
    declined(f, &sandbox, "reading a file", call).await?;
    let list = FileOperation::List {
        path: path("/tmp")?,
        depth: 1,
    };
    declined(f, &sandbox, "a listing", operate(f, &sandbox, list)).await?;
    let there = sandbox.shell("cat /tmp/refused").output().await?;
    ensure!(!there.status.success(), "what was refused was written");
    Ok(())
}

async fn round_trip(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    for size in [0, 1, 511, 4096, 65_535, 65_537, 1 << 20] {
        let bytes = pattern(size);
        let written = files.write("/tmp/file", bytes.clone()).await?;
        ensure_eq!(written.size, size as u64, "the size that a write told");
        ensure_eq!(written.path, b"/tmp/file", "the path that a write told");
        let (entry, data) = files.read_stream("/tmp/file").await?;
        ensure_eq!(entry.size, size as u64, "the size that a read told");
        same_bytes(&drained(data).await??, &bytes, "what was read")?;
        let stat = files.stat("/tmp/file").await?;
        ensure_eq!(stat.size, size as u64, "the size");
    }
    Ok(())
}

async fn parts(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let bytes = pattern(200_000);
    sandbox.files().write("/tmp/file", bytes.clone()).await?;
    for (offset, length) in [
        (0, Some(1)),
        (1, None),
        (65_535, Some(2)),
        (100, Some(150_000)),
        (199_999, Some(10)),
        (0, Some(0)),
        (200_000, None),
        (u64::MAX, Some(u64::MAX)),
    ] {
        let (entry, data) = sandbox
            .files()
            .read_range("/tmp/file", offset, length)
            .await?;
        ensure_eq!(entry.size, 200_000, "the size of the whole file");
        let most = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
        let end = length.map_or(bytes.len(), |length| most(offset.saturating_add(length)));
        let what = format!("the part from {offset} of {length:?} bytes");
        same_bytes(&drained(data).await??, &bytes[most(offset)..end], &what)?;
    }
    Ok(())
}

async fn shared(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    f.shell(&sandbox, "echo from inside > /tmp/in").await?;
    let text = sandbox.files().read_text("/tmp/in").await?;
    ensure_eq!(text, "from inside\n", "what a command wrote");
    let bytes = pattern(100_000);
    sandbox.files().write("/tmp/out", bytes.clone()).await?;
    let output = f.shell(&sandbox, "cat /tmp/out").await?;
    same_bytes(&output.stdout, &bytes, "what a command read")
}

async fn write_as(
    sandbox: &Sandbox,
    how: WriteMode,
    mode: Option<u32>,
    text: &str,
) -> Checked<u32> {
    let data = whole(text.to_owned());
    let files = sandbox.files();
    let written = files.write_with("/tmp/file", how, mode, data).await?.mode;
    let seen = files.stat("/tmp/file").await?.mode;
    ensure_eq!(written, seen, "the mode that a write told");
    Ok(seen)
}

async fn modes(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let (uid, gid) = me(f, &sandbox).await?;
    for (mode, expected) in [
        (None, 0o644),
        (Some(0o600), 0o600),
        (Some(0o777), 0o777),
        (Some(0o400), 0o400),
    ] {
        for how in [WriteMode::Replace, WriteMode::Append, WriteMode::CreateNew] {
            let seen = write_as(&sandbox, how, mode, "x").await?;
            ensure_eq!(
                format!("{seen:o}"),
                format!("{expected:o}"),
                "the mode of a new file by {how:?} with {mode:?}"
            );
            let stat = sandbox.files().stat("/tmp/file").await?;
            ensure_eq!((stat.uid, stat.gid), (uid, gid), "its owner and group");
            sandbox.files().remove("/tmp/file").await?;
        }
    }
    Ok(())
}

async fn kept_mode(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    write_as(&sandbox, WriteMode::Replace, Some(0o751), "one").await?;
    let seen = write_as(&sandbox, WriteMode::Replace, None, "two").await?;
    ensure_eq!(format!("{seen:o}"), "751", "the mode of a replaced file");
    sandbox.files().chmod("/tmp/file", 0o4755).await?;
    let seen = write_as(&sandbox, WriteMode::Replace, None, "three").await?;
    ensure_eq!(format!("{seen:o}"), "755", "the mode of a replaced program");
    let seen = write_as(&sandbox, WriteMode::Replace, Some(0o640), "four").await?;
    ensure_eq!(format!("{seen:o}"), "640", "the mode that was asked for");
    Ok(())
}

async fn appended(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let first = files.append("/tmp/new/log", "one\n").await?;
    ensure_eq!(first.size, 4, "the size of a file that an append made");
    let second = files.append("/tmp/new/log", "two\n").await?;
    ensure_eq!(second.size, 8, "the size after another one");
    files.append("/tmp/new/log", "").await?;
    let text = files.read_text("/tmp/new/log").await?;
    ensure_eq!(text, "one\ntwo\n", "what was appended");
    Ok(())
}

async fn must_be_new(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/file", "old").await?;
    files.make_dir("/tmp/directory").await?;
    files.link("/tmp/nothing", "/tmp/dangling").await?;
    for there in ["/tmp/file", "/tmp/directory", "/tmp/dangling"] {
        let written = files.write_with(there, WriteMode::CreateNew, None, whole("new"));
        refused(
            written.await,
            &[ErrorKind::AlreadyExists],
            &format!("making {there}, which is there,"),
        )?;
    }
    ensure_eq!(files.read_text("/tmp/file").await?, "old", "the file");
    ensure!(
        !files.exists("/tmp/nothing").await?,
        "a file was made where a link leads"
    );
    let written = files.write_with("/tmp/fresh", WriteMode::CreateNew, None, whole("new"));
    written.await?;
    ensure_eq!(files.read_text("/tmp/fresh").await?, "new", "a new file");
    Ok(())
}

async fn parents(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let request = WriteRequest {
        user: None,
        path: path("/tmp/a/b/c")?,
        how: WriteMode::Replace,
        mode: None,
        parents: false,
    };
    let written = f
        .provider()
        .write_file(f.context(), sandbox.id(), &request, whole("x"));
    refused(
        written.await,
        &[ErrorKind::NotFound],
        "a write into nowhere",
    )?;
    ensure!(
        !sandbox.files().exists("/tmp/a").await?,
        "`/tmp/a` was made"
    );
    sandbox.files().write("/tmp/a/b/c", "x").await?;
    for directory in ["/tmp/a", "/tmp/a/b"] {
        let stat = sandbox.files().stat(directory).await?;
        ensure_eq!(
            format!("{:o}", stat.mode),
            "755",
            "the mode of {directory}, made by the way"
        );
    }
    Ok(())
}

async fn times(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let written = files.write("/tmp/file", "x").await?.modified;
    let now = SystemTime::now();
    let apart = now.duration_since(written).unwrap_or_else(|e| e.duration());
    ensure!(
        apart < Duration::from_mins(5),
        "a file written now is dated {apart:?} from now"
    );
    for milliseconds in [0, 1000, 1_000_000_000_789, 4_000_000_000_000] {
        let modified = UNIX_EPOCH + Duration::from_millis(milliseconds);
        let attributes = Attributes {
            modified: Some(modified),
            ..Attributes::default()
        };
        files.set_attributes("/tmp/file", attributes, false).await?;
        let seen = files.stat("/tmp/file").await?.modified;
        ensure_eq!(seen, modified, "the time that was set");
    }
    let again = files.write("/tmp/file", "y").await?.modified;
    ensure!(again >= written, "the time of a new content is older");
    Ok(())
}

async fn program(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let text = "#!/bin/sh\necho it runs\n";
    write_as(&sandbox, WriteMode::Replace, Some(0o755), text).await?;
    let output = sandbox.exec(["/tmp/file"]).output().await?;
    ensure_eq!(output.stdout_text(), "it runs\n", "what it wrote");
    write_as(&sandbox, WriteMode::Replace, Some(0o644), text).await?;
    let kinds = [ErrorKind::CommandNotExecutable];
    let started = sandbox.exec(["/tmp/file"]).output().await;
    refused(started, &kinds, "a program that may not be executed")?;
    Ok(())
}

async fn no_text(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.files().write("/tmp/file", &b"\xff\xfe"[..]).await?;
    let read = sandbox.files().read_text("/tmp/file").await;
    refused(read, &[ErrorKind::InvalidArgument], "bytes read as text")?;
    let bytes = sandbox.files().read("/tmp/file").await?;
    ensure_eq!(bytes, b"\xff\xfe"[..], "the same bytes");
    Ok(())
}
