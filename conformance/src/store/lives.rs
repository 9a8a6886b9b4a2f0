//! New sandboxes and idempotency keys.

use std::collections::{BTreeMap, BTreeSet};

use stacyvm::provider::Level;
use stacyvm::sandbox::spec::{Lifetime, SandboxSpec};
use stacyvm::sandbox::state::{Effective, Phase};
use stacyvm::store::{
    Asked, Begin, JournalStep, ResourceState, SandboxRecord, SandboxUpdate, stored_spec,
};
use stacyvm::{ErrorKind, Result};

use super::common::{DAY, cx, keyed, kind, made, moved, record, resource};
use super::{StoreFixture, differ, holds, same};
use crate::case::Checked;

pub(super) async fn what_is_written_is_read_back(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let begun = made(&store, &keyed(&*store, "k")).await?;
    let effective = Effective {
        level: Level::Enforced,
        value: "512 MiB".into(),
    };
    let update = SandboxUpdate {
        at_ms: 2_000,
        phase: Some(Phase::Running),
        ends_ms: Some(None),
        effective: Some(BTreeMap::from([("memory_limit".into(), effective)])),
        labels: Some(BTreeMap::from([("b".into(), "2".into())])),
        lifetime: None,
        asked: Some(Asked {
            spec: stored_spec(&SandboxSpec::host().env("LATE", "hunter3")),
            digest: "another".into(),
            lifetime: Lifetime::Attached,
        }),
        owner: Some("owner-2".into()),
        failure: Some("a \"quoted\"\nline \u{1F980}".into()),
        step: Some((JournalStep::Created, "in 5 ms".into())),
        resources: vec![resource("cgroup", "/a", ResourceState::Made)],
    };
    let told = store.update_sandbox(&cx(), &begun.id, 1, &update).await?;
    let expected = SandboxRecord {
        phase: Phase::Running,
        version: 2,
        updated_ms: 2_000,
        ends_ms: None,
        effective: update.effective.clone().unwrap_or_default(),
        labels: update.labels.clone().unwrap_or_default(),
        spec: stored_spec(&SandboxSpec::host().env("LATE", "hunter3")),
        digest: "another".into(),
        lifetime: Lifetime::Attached,
        owner: "owner-2".into(),
        failure: update.failure.clone(),
        ..begun
    };
    same!(told, expected);
    same!(store.get_sandbox(&cx(), &told.id).await?, expected);
    let journal = store.journal(&cx(), &told.id, 0, 10).await?.items;
    same!(journal[1].detail, "in 5 ms");
    let ledger = store.list_resources(&cx(), &told.id, None, 10).await?;
    same!(ledger.items, update.resources);
    Ok(())
}

pub(super) async fn a_new_sandbox_begins_at_version_one(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let wish = SandboxRecord {
        phase: Phase::Running,
        version: 7,
        ended_ms: Some(3),
        ..record(&*store, &cx())
    };
    let begun = made(&store, &wish).await?;
    same!(
        (begun.phase, begun.version, begun.ended_ms, begun.updated_ms),
        (Phase::Creating, 1, None, 1_000)
    );
    let journal = store.journal(&cx(), &begun.id, 0, 10).await?;
    same!(journal.items.len(), 1);
    same!(journal.items[0].step, JournalStep::CreateIntent);
    Ok(())
}

pub(super) async fn the_same_request_finds_its_sandbox(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let first = made(&store, &keyed(&*store, "k")).await?;
    for phase in [Phase::Creating, Phase::Running, Phase::Ended] {
        let now = store.get_sandbox(&cx(), &first.id).await?;
        let now = if now.phase == phase {
            now
        } else {
            moved(&store, &now, phase, 2_000).await?
        };
        let again = store.begin_create(&cx(), &keyed(&*store, "k")).await;
        same!(again?, Begin::Existing(now));
    }
    let journal = store.journal(&cx(), &first.id, 0, 10).await?;
    same!(journal.items.len(), 1, "a repetition wrote something");
    Ok(())
}

pub(super) async fn another_request_of_the_same_key_is_a_conflict(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    made(&store, &keyed(&*store, "k")).await?;
    let other = SandboxRecord {
        digest: "other".into(),
        ..keyed(&*store, "k")
    };
    same!(
        kind(store.begin_create(&cx(), &other).await)?,
        ErrorKind::Conflict
    );
    same!(
        kind(store.get_sandbox(&cx(), &other.id).await)?,
        ErrorKind::NotFound
    );
    for bad in [String::new(), "a\nb".into(), "k".repeat(256)] {
        let wish = keyed(&*store, &bad);
        same!(
            kind(store.begin_create(&cx(), &wish).await)?,
            ErrorKind::InvalidArgument
        );
    }
    Ok(())
}

pub(super) async fn racing_requests_make_one_sandbox(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let mut tasks = tokio::task::JoinSet::<Result<Begin>>::new();
    for _ in 0..16 {
        let store = store.clone();
        tasks.spawn(async move {
            let wish = keyed(&*store, "k");
            store.begin_create(&cx(), &wish).await
        });
    }
    let (mut new, mut ids) = (0, BTreeSet::new());
    for begin in tasks.join_all().await {
        let begin: Begin = begin?;
        let (Begin::New(r) | Begin::Existing(r)) = &begin;
        ids.insert(r.id.clone());
        new += u32::from(matches!(begin, Begin::New(_)));
    }
    same!((new, ids.len()), (1, 1));
    Ok(())
}

pub(super) async fn a_key_is_kept_a_day_past_the_end(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let first = made(&store, &keyed(&*store, "k")).await?;
    moved(&store, &first, Phase::Ended, 5_000).await?;
    let at = |ms| SandboxRecord {
        created_ms: ms,
        ..keyed(&*store, "k")
    };
    let last = store.begin_create(&cx(), &at(5_000 + DAY - 1)).await;
    holds!(matches!(last?, Begin::Existing(r) if r.id == first.id));
    let wish = at(5_000 + DAY);
    let second = made(&store, &wish).await?;
    let again = store.begin_create(&cx(), &wish).await?;
    same!(again, Begin::Existing(second));
    let first = store.get_sandbox(&cx(), &first.id).await?;
    same!(first.idempotency_key, None);
    Ok(())
}

pub(super) async fn a_failed_create_frees_its_key(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let first = made(&store, &keyed(&*store, "k")).await?;
    moved(&store, &first, Phase::Failed, 2_000).await?;
    let second = made(&store, &keyed(&*store, "k")).await?;
    differ!(first.id, second.id);
    Ok(())
}

pub(super) async fn a_taken_id_changes_nothing(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let first = made(&store, &record(&*store, &cx())).await?;
    let ended = made(&store, &keyed(&*store, "k")).await?;
    moved(&store, &ended, Phase::Failed, 2_000).await?;
    // The key would be free, the id is not: the key stays where it is.
    let wish = SandboxRecord {
        id: first.id.clone(),
        ..keyed(&*store, "k")
    };
    same!(
        kind(store.begin_create(&cx(), &wish).await)?,
        ErrorKind::AlreadyExists
    );
    same!(store.get_sandbox(&cx(), &first.id).await?, first);
    let ended = store.get_sandbox(&cx(), &ended.id).await?;
    same!(ended.idempotency_key.as_deref(), Some("k"));
    Ok(())
}
