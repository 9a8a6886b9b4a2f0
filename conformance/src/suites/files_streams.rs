//! Files as streams: whole or not at all, by many at once, and large.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use stacyvm::sandbox::files::{ByteStream, WriteMode};
use stacyvm::{Error, ErrorKind, Sandbox};

use super::cases;
use super::common::{ms, pattern, same_bytes, soon};
use super::files_common::{drained, fed, feed, names};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "files.readers_see_the_old_file_until_the_new_one_is_whole" ["F1.2"] needs(FILES) => in_one_step;
    Must "files.a_write_that_fails_leaves_the_old_file" ["F1.2"] needs(FILES) => failed_write;
    Must "files.a_write_that_is_given_up_leaves_the_old_file" ["F1.2"] needs(FILES) => abandoned_write;
    Must "files.writers_at_once_mix_nothing" ["F1.2"] needs(FILES) => writers;
    Must "files.appends_at_once_lose_nothing" ["F1.1"] needs(FILES) => appenders;
    Must "files.many_mebibytes_are_streamed" ["F2.3"] needs(FILES) => mebibytes;
    Should "files.a_gibibyte_is_streamed" ["F2.3"] needs(FILES) => gibibyte;
    Must "files.a_stream_that_nobody_reads_keeps_nobody_waiting" ["F2.7"] needs(FILES) => unread_streams;
    Must "files.a_read_ends_with_its_call" ["F2.8"] needs(FILES) => cancelled_read;
};

/// After which a write has surely begun inside.
const UNDER_WAY: Duration = ms(200);

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
        let (sender, data) = fed();
        let writing = {
            let files = files.clone();
            tokio::spawn(async move { files.write_stream(new, data).await })
        };
        feed(&sender, Ok(Bytes::from(pattern(300_000)))).await?;
        tokio::time::sleep(UNDER_WAY).await;
        let broken = Error::new(ErrorKind::Internal, "the caller's disk broke");
        feed(&sender, Err(broken)).await?;
        let written = soon("the failed write", writing).await?;
        let error = refused(
            written.map_err(|_| Failure::broken("the write panicked"))?,
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
        tokio::time::sleep(UNDER_WAY).await;
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
