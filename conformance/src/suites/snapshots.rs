//! Saved sandboxes, and their refusal where there are none.

use stacyvm::ErrorKind;
use stacyvm::id::SnapshotId;
use stacyvm::sandbox::spec::{SandboxSpec, Source};

use super::cases;
use super::common::{GONE, declined, spec_declined, spec_refused};
use crate::case::{Case, Checked, Level};
use crate::ensure_eq;
use crate::fixture::{Fixture, refused};

pub(super) const CASES: &[Case] = cases! {
    Must "snapshots.files_are_as_they_were_saved" [] needs(SNAPSHOT, FILES) else take_declined => as_saved;
    Must "snapshots.one_outlives_its_sandbox" [] needs(SNAPSHOT, FILES) => outlives;
    Must "snapshots.two_of_one_are_apart" [] needs(SNAPSHOT, FILES) => apart;
    Must "snapshots.one_that_is_missing_is_not_found" ["L1.1"] needs(SNAPSHOT) else restore_declined => missing;
    Must "snapshots.one_that_was_deleted_is_missing" [] needs(SNAPSHOT) => deleted;
    Must "snapshots.of_what_ended_is_refused" ["N1.1"] needs(SNAPSHOT) => of_the_ended;
};

/// Files on the disk, which `/workspace` is: a provider may have `/tmp` in memory.
const A: &str = "/workspace/a";
const B: &str = "/workspace/b";

fn from(f: &Fixture, snapshot: &SnapshotId) -> SandboxSpec {
    let mut spec = f.spec();
    spec.source = Source::Snapshot(snapshot.to_string());
    spec
}

async fn delete(f: &Fixture, snapshot: &SnapshotId) -> Checked {
    Ok(f.provider().delete_snapshot(f.context(), snapshot).await?)
}

async fn as_saved(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.files().write(A, "saved").await?;
    let saved = sandbox.snapshot().await?;
    ensure_eq!(
        saved.memory,
        f.claims().snapshot_memory,
        "whether the memory is saved"
    );
    sandbox.files().write(A, "later").await?;
    sandbox.files().write(B, "later").await?;
    let restored = f.make(from(f, &saved.id)).await?;
    let read = restored.files().read(A).await?;
    ensure_eq!(&read[..], b"saved", "the file in what was restored");
    let read = restored.files().read(B).await;
    refused(read, &[ErrorKind::NotFound], "a file that came later")?;
    let read = sandbox.files().read(A).await?;
    ensure_eq!(&read[..], b"later", "the file in what was saved");
    delete(f, &saved.id).await
}

async fn take_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let id = SnapshotId::random();
    let taken = f.provider().snapshot(f.context(), sandbox.id(), &id);
    declined(f, &sandbox, "a snapshot", taken).await
}

async fn outlives(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.files().write(A, "saved").await?;
    let saved = sandbox.snapshot().await?;
    sandbox.kill().await?;
    let restored = f.make(from(f, &saved.id)).await?;
    let read = restored.files().read(A).await?;
    ensure_eq!(&read[..], b"saved", "the file");
    f.shell(&restored, "true").await?;
    delete(f, &saved.id).await
}

async fn apart(f: &Fixture) -> Checked {
    let saved = f.sandbox().await?.snapshot().await?;
    let (one, two) = (
        f.make(from(f, &saved.id)).await?,
        f.make(from(f, &saved.id)).await?,
    );
    one.files().write(A, "one").await?;
    let read = two.files().read(A).await;
    refused(
        read,
        &[ErrorKind::NotFound],
        "a file of another one of the same snapshot",
    )?;
    delete(f, &saved.id).await
}

async fn missing(f: &Fixture) -> Checked {
    let spec = from(f, &SnapshotId::random());
    let what = "a sandbox of a snapshot that is not there";
    spec_refused(f, spec, &[ErrorKind::NotFound], what).await?;
    delete(f, &SnapshotId::random()).await
}

async fn restore_declined(f: &Fixture) -> Checked {
    let spec = from(f, &SnapshotId::random());
    spec_declined(f, spec, "a sandbox of a snapshot").await
}

async fn deleted(f: &Fixture) -> Checked {
    let saved = f.sandbox().await?.snapshot().await?;
    delete(f, &saved.id).await?;
    let what = "a sandbox of a snapshot that was deleted";
    spec_refused(f, from(f, &saved.id), &[ErrorKind::NotFound], what).await?;
    delete(f, &saved.id).await
}

async fn of_the_ended(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.kill().await?;
    let id = SnapshotId::random();
    let taken = f.provider().snapshot(f.context(), sandbox.id(), &id).await;
    refused(taken, &GONE, "a snapshot of one that ended")?;
    Ok(())
}
