//! The contents of files: written, read, streamed, by many at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use stacyvm::sandbox::files::{Attributes, ByteStream, WriteMode, WriteRequest};
use stacyvm::{Error, ErrorKind, Sandbox};

use super::cases;
use super::common::{declined, ms, pattern, same_bytes, soon};
use super::files_common::{drained, fed, feed, me, names, path, whole};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "files.what_was_written_is_read" ["F1.1"] needs(FILES) else files_declined => round_trip;
    Must "files.a_part_of_a_file_is_read" ["F1.1"] needs(FILES) => parts;
    Must "files.a_command_and_the_host_see_the_same_file" ["F1.1"] needs(FILES) => shared;
    Must "files.a_new_file_has_its_mode_and_its_owner" ["F1.3"] needs(FILES) => modes;
    Must "files.a_replaced_file_keeps_its_mode_but_no_set_id_bit" ["F1.2"] needs(FILES) => kept_mode;
    Must "files.appending_adds_to_the_end" ["F1.1"] needs(FILES) => appended;
    Must "files.a_file_that_must_be_new_replaces_nothing" ["F1.2"] needs(FILES) => must_be_new;
    Must "files.missing_directories_are_made_only_if_asked_for" [] needs(FILES) => parents;
    Must "files.readers_see_the_old_file_until_the_new_one_is_whole" ["F1.2"] needs(FILES) => in_one_step;
    Must "files.a_write_that_fails_leaves_the_old_file" ["F1.2"] needs(FILES) => failed_write;
    Must "files.a_write_that_is_given_up_leaves_the_old_file" ["F1.2"] needs(FILES) => abandoned_write;
    Must "files.writers_at_once_mix_nothing" ["F1.2"] needs(FILES) => writers;
    Must "files.appends_at_once_lose_nothing" ["F1.1"] needs(FILES) => appenders;
    Must "files.times_are_told_and_set" [] needs(FILES) => times;
    Must "files.a_program_that_was_written_runs" ["F1.1"] needs(FILES) => program;
    Must "files.text_that_is_none_is_refused" [] needs(FILES) => no_text;
    Must "files.many_mebibytes_are_streamed" ["F2.3"] needs(FILES) => mebibytes;
    Should "files.a_gibibyte_is_streamed" ["F2.3"] needs(FILES) => gibibyte;
    Must "files.a_stream_that_nobody_reads_keeps_nobody_waiting" ["F2.7"] needs(FILES) => unread_streams;
    Must "files.a_read_ends_with_its_call" ["F2.8"] needs(FILES) => cancelled_read;
};

async fn files_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let call = files.write("/tmp/refused", "x");
    declined(f, &sandbox, "writing a file", call).await?;
    let call = async {
        files
            .read_stream("/etc/passwd")
            .await
            .map(|(entry, _)| entry)
    };
    declined(f, &sandbox, "reading a file", call).await?;
    declined(f, &sandbox, "a listing", files.list("/tmp")).await?;
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

async fn in_one_step(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/d/file", "old").await?;
    let (sender, data) = fed();
    let writing = {
        let files = files.clone();
        tokio::spawn(async move { files.write_stream("/tmp/d/file", data).await })
    };
    let new = pattern(600_000);
    for piece in new.chunks(200_000) {
        feed(&sender, Ok(Bytes::copy_from_slice(piece))).await?;
        tokio::time::sleep(ms(50)).await;
        ensure_eq!(files.read_text("/tmp/d/file").await?, "old", "the file");
        ensure_eq!(
            names(&sandbox, "/tmp/d")
                .await?
                .contains(&"file".to_owned()),
            true,
            "whether it is listed"
        );
    }
    drop(sender);
    let written = soon("the end of the write", writing).await?;
    written.map_err(|_| Failure::broken("the write panicked"))??;
    same_bytes(&files.read("/tmp/d/file").await?, &new, "the new file")?;
    ensure_eq!(names(&sandbox, "/tmp/d").await?, ["file"], "the directory");
    Ok(())
}

/// The old file is there, alone, whatever became of the new one.
async fn only_the_old(sandbox: &Sandbox) -> Checked {
    let text = sandbox.files().read_text("/tmp/d/file").await?;
    ensure_eq!(text, "old", "the file after a write that did not succeed");
    for _ in 0..100 {
        if names(sandbox, "/tmp/d").await? == ["file"] {
            return Ok(());
        }
        tokio::time::sleep(ms(50)).await;
    }
    ensure_eq!(names(sandbox, "/tmp/d").await?, ["file"], "the directory");
    Ok(())
}

async fn failed_write(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/d/file", "old").await?;
    for new in ["/tmp/d/file", "/tmp/d/other"] {
        let broken = Error::new(ErrorKind::Internal, "the caller's disk broke");
        let pieces = [Ok(Bytes::from(pattern(300_000))), Err(broken)];
        let data: ByteStream = Box::pin(stream::iter(pieces));
        let error = refused(
            soon("the failed write", files.write_stream(new, data)).await?,
            &[ErrorKind::Internal],
            "a write whose data broke off",
        )?;
        ensure!(
            error.message().contains("the caller's disk broke"),
            "the error is not that of the data: {error}"
        );
        only_the_old(&sandbox).await?;
    }
    Ok(())
}

async fn abandoned_write(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/d/file", "old").await?;
    for how in [WriteMode::Replace, WriteMode::CreateNew] {
        let name = match how {
            WriteMode::Replace => "/tmp/d/file",
            _ => "/tmp/d/other",
        };
        let (sender, data) = fed();
        let writing = {
            let files = files.clone();
            tokio::spawn(async move { files.write_with(name, how, None, data).await })
        };
        feed(&sender, Ok(Bytes::from(pattern(300_000)))).await?;
        tokio::time::sleep(ms(50)).await;
        writing.abort();
        drop(sender);
        only_the_old(&sandbox).await?;
    }
    Ok(())
}

async fn writers(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let size = 100_000;
    files.write("/tmp/file", vec![b'a'; size]).await?;
    let one = |letter: u8| {
        let files = files.clone();
        async move {
            for _ in 0..4 {
                let half = Bytes::from(vec![letter; size / 2]);
                let data: ByteStream = Box::pin(stream::iter([Ok(half.clone()), Ok(half)]));
                files.write_stream("/tmp/file", data).await?;
                let seen = files.read("/tmp/file").await?;
                ensure_eq!(seen.len(), size, "the size of what a reader saw");
                ensure!(
                    seen.iter().all(|byte| *byte == seen[0]),
                    "a reader saw the bytes of several writers"
                );
            }
            Ok(())
        }
    };
    try_join_all((b'a'..=b'h').map(one)).await?;
    Ok(())
}

async fn appenders(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let one = |who: usize| {
        let files = files.clone();
        async move {
            for line in 0..8 {
                files.append("/tmp/log", format!("{who} {line}\n")).await?;
            }
            Checked::Ok(())
        }
    };
    try_join_all((0..8).map(one)).await?;
    let text = files.read_text("/tmp/log").await?;
    for who in 0..8 {
        let own: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{who} ")))
            .collect();
        ensure_eq!(
            own,
            ["0", "1", "2", "3", "4", "5", "6", "7"],
            "the lines of writer {who}"
        );
    }
    ensure_eq!(text.lines().count(), 64, "the lines of all");
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
    for seconds in [0, 1, 1_000_000_000, 4_000_000_000] {
        let modified = UNIX_EPOCH + Duration::from_secs(seconds);
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

/// A block whose length is prime, again and again: no piece looks like another
/// one at another place.
fn endless(total: u64) -> impl Iterator<Item = Bytes> + Send {
    let block = Bytes::from(pattern(1_048_573));
    let mut left = total;
    std::iter::from_fn(move || {
        let piece =
            block.slice(..usize::try_from(left).map_or(block.len(), |l| l.min(block.len())));
        left -= piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Streams so much in and out, and compares it on the way.
async fn streamed(f: &Fixture, total: u64) -> Checked {
    let sandbox = f.sandbox().await?;
    let data: ByteStream = Box::pin(stream::iter(endless(total).map(Ok)));
    let written = match sandbox.files().write_stream("/tmp/big", data).await {
        Err(error) if error.kind() == ErrorKind::NoSpace => {
            let fact = format!("a disk inside that holds {total} bytes");
            return Err(Failure::NotRun(fact));
        }
        written => written?,
    };
    ensure_eq!(written.size, total, "the size that the write told");
    let (_, mut data) = sandbox.files().read_stream("/tmp/big").await?;
    let (mut wanted, mut source, mut seen) = (Bytes::new(), endless(total), 0_u64);
    while let Some(piece) = soon("the next piece", data.next()).await? {
        let mut piece = piece?;
        seen += piece.len() as u64;
        while !piece.is_empty() {
            if wanted.is_empty() {
                let more = source.next();
                wanted = more.ok_or_else(|| Failure::broken("more was read than was written"))?;
            }
            let both = wanted.len().min(piece.len());
            let (ours, theirs) = (wanted.split_to(both), piece.split_to(both));
            ensure!(ours == theirs, "other bytes before byte {seen}");
        }
    }
    ensure_eq!(seen, total, "the bytes that were read");
    Ok(())
}

async fn mebibytes(f: &Fixture) -> Checked {
    streamed(f, 32 << 20).await
}

async fn gibibyte(f: &Fixture) -> Checked {
    streamed(f, 1 << 30).await
}

async fn unread_streams(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/big", pattern(4 << 20)).await?;
    let mut streams = Vec::new();
    for _ in 0..24 {
        let (_, mut data) = soon("a read begins", files.read_stream("/tmp/big")).await??;
        soon("its first piece", data.next()).await?;
        streams.push(data);
    }
    // Nobody reads on.
    soon("a write beside them", files.write("/tmp/small", "x")).await??;
    soon("a listing beside them", files.list("/tmp")).await??;
    soon("a command beside them", f.shell(&sandbox, "true")).await??;
    let last = streams.pop().ok_or_else(|| Failure::broken("no stream"))?;
    let rest = drained(last).await??;
    ensure!(rest.len() < 4 << 20, "the first piece came again");
    Ok(())
}

async fn cancelled_read(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.files().write("/tmp/big", pattern(8 << 20)).await?;
    let (context, canceller) = f.context().clone().cancellable();
    let called = sandbox.with_context(context);
    let (_, mut data) = called.files().read_stream("/tmp/big").await?;
    soon("its first piece", data.next()).await?;
    canceller.cancel();
    let rest = drained(data).await?;
    refused(
        rest,
        &[ErrorKind::Cancelled],
        "a read whose call was cancelled",
    )?;
    let whole = sandbox.files().read("/tmp/big").await?;
    ensure_eq!(whole.len(), 8 << 20, "the size of what another call reads");
    Ok(())
}
