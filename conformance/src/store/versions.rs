//! Stores that earlier versions have written.

use stacyvm::sandbox::state::Phase;
use stacyvm::store::{JournalStep, SandboxFilter, SandboxRecord, SandboxUpdate, Store};
use stacyvm::{Result, SandboxId};

use super::common::{Any, cx, exec, made, record, spec, to};
use super::{StoreFixture, holds, same};
use crate::case::{Checked, Failure};

/// Writes what the store of a release holds: of this one, before it is laid by as a
/// [`Released`](super::Released), or the suite cannot read it.
///
/// # Errors
///
/// Those of the store.
pub async fn fill(store: &dyn Store) -> Result<()> {
    let running = SandboxRecord {
        id: SandboxId::new("sandbox-a")?,
        idempotency_key: Some("key".into()),
        ..record(store, &cx())
    };
    store.begin_create(&cx(), &running).await?;
    let update = SandboxUpdate {
        step: Some((JournalStep::Created, String::new())),
        ..to(Phase::Running, 2_000)
    };
    store.update_sandbox(&cx(), &running.id, 1, &update).await?;
    let mut command = exec(&running.id);
    command.program = "sleep".into();
    store.put_exec(&cx(), &command).await?;
    let ended = SandboxRecord {
        id: SandboxId::new("sandbox-b")?,
        ..record(store, &cx())
    };
    store.begin_create(&cx(), &ended).await?;
    let update = to(Phase::Ended, 3_000);
    store.update_sandbox(&cx(), &ended.id, 1, &update).await?;
    Ok(())
}

/// Reads what [`fill`] wrote, and goes on with it.
async fn goes_on(store: &Any) -> Checked {
    let filter = SandboxFilter::default();
    let page = store.list_sandboxes(&cx(), &filter, None, 10).await?;
    let [running, ended] = page.items.as_slice() else {
        return Err(Failure::broken(format!(
            "{page:?} is listed, expected two sandboxes"
        )));
    };
    same!(running.id.as_str(), "sandbox-a");
    same!((running.phase, ended.phase), (Phase::Running, Phase::Ended));
    same!(running.labels.get("app").map(String::as_str), Some("x"));
    same!(running.idempotency_key.as_deref(), Some("key"));
    same!(running.ends_ms, Some(9_000));
    let kept = running.spec.to_string();
    holds!(kept.contains("TOKEN") && !kept.contains("hunter2"));
    let steps = store.journal(&cx(), &running.id, 0, 10).await?;
    same!(steps.items.len(), 2);
    let execs = store.list_execs(&cx(), &running.id, None, 10).await?;
    let programs: Vec<&str> = execs.items.iter().map(|one| one.program.as_str()).collect();
    same!(programs, ["sleep"]);
    // The digest of a request is the one that it was.
    same!(store.meta().digest("oci", "", &spec()), running.digest);

    let update = to(Phase::Destroying, 5_000);
    let changed = store
        .update_sandbox(&cx(), &running.id, running.version, &update)
        .await?;
    same!(changed.phase, Phase::Destroying);
    made(store, &record(&**store, &cx())).await?;
    let page = store.list_sandboxes(&cx(), &filter, None, 10).await?;
    same!(page.items.len(), 3);
    store.close().await?;
    Ok(())
}

pub(super) async fn what_this_version_writes_is_read_again(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    fill(&*store).await?;
    store.close().await?;
    goes_on(&f.open().await?).await
}

pub(super) async fn every_released_schema_is_read_and_written(f: &StoreFixture) -> Checked {
    if f.released().is_empty() {
        let fact = "no released version has written a store";
        return Err(Failure::NotRun(fact.to_owned()));
    }
    for released in f.released() {
        let name = format!("schema-{}", released.schema);
        let place = f.other(&name);
        (released.lay_out)(&place).map_err(|error| {
            Failure::NotRun(format!(
                "the store of {name} could not be laid out: {error}"
            ))
        })?;
        let store = f.open_other(&name).await?;
        let read = goes_on(&store).await;
        read.map_err(|failure| Failure::broken(format!("{name}: {failure}")))?;
    }
    Ok(())
}

pub(super) async fn every_schema_has_a_store_that_was_released(f: &StoreFixture) -> Checked {
    if f.released().is_empty() {
        let fact = "no released version has written a store";
        return Err(Failure::NotRun(fact.to_owned()));
    }
    let newest = f.open().await?.meta().schema();
    let mut known: Vec<u32> = f.released().iter().map(|one| one.schema).collect();
    known.sort_unstable();
    known.dedup();
    let all: Vec<u32> = (1..=newest).collect();
    same!(known, all, "the schemas of which a store is kept");
    Ok(())
}
