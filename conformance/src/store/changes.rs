//! Changes of what is there, and its end.

use std::collections::{BTreeMap, BTreeSet};

use stacyvm::sandbox::state::Phase;
use stacyvm::store::{
    ExecRecord, JournalStep, ResourceState, SandboxFilter, SandboxRecord, SandboxUpdate,
};
use stacyvm::{ErrorKind, ExecId, ExitStatus};

use super::common::{DAY, cx, exec, keyed, kind, made, moved, record, resource, tenant, to};
use super::{StoreFixture, holds, same};
use crate::case::Checked;

pub(super) async fn a_stale_version_is_a_conflict(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let begun = made(&store, &record(&*store, &cx())).await?;
    let now = moved(&store, &begun, Phase::Running, 2_000).await?;
    for version in [0, 1, 3, u64::MAX] {
        let late = SandboxUpdate {
            step: Some((JournalStep::Destroyed, String::new())),
            resources: vec![resource("file", "/x", ResourceState::Made)],
            ..to(Phase::Ended, 3_000)
        };
        let told = store.update_sandbox(&cx(), &begun.id, version, &late).await;
        same!(kind(told)?, ErrorKind::Conflict, "version {version}");
    }
    same!(store.get_sandbox(&cx(), &begun.id).await?, now);
    let journal = store.journal(&cx(), &begun.id, 0, 10).await?;
    same!(journal.items.len(), 1);
    let ledger = store.list_resources(&cx(), &begun.id, None, 9).await;
    holds!(ledger?.items.is_empty());
    Ok(())
}

pub(super) async fn racing_changes_have_one_winner(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let begun = made(&store, &record(&*store, &cx())).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (store, id) = (store.clone(), begun.id.clone());
        tasks.spawn(async move {
            let update = SandboxUpdate {
                owner: Some(format!("owner-{n}")),
                ..SandboxUpdate::default()
            };
            store.update_sandbox(&cx(), &id, 1, &update).await
        });
    }
    let results = tasks.join_all().await;
    let winners: Vec<_> = results.iter().filter_map(|r| r.as_ref().ok()).collect();
    same!(winners.len(), 1);
    for error in results.iter().filter_map(|r| r.as_ref().err()) {
        same!(error.kind(), ErrorKind::Conflict);
    }
    let now = store.get_sandbox(&cx(), &begun.id).await?;
    same!(&now, winners[0]);
    Ok(())
}

pub(super) async fn a_phase_that_may_not_follow_is_refused(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let begun = made(&store, &record(&*store, &cx())).await?;
    let ended = moved(&store, &begun, Phase::Ended, 2_000).await?;
    same!(ended.ended_ms, Some(2_000));
    let back = store
        .update_sandbox(&cx(), &ended.id, ended.version, &to(Phase::Running, 3_000))
        .await;
    same!(kind(back)?, ErrorKind::Conflict);
    // A later change of an ended one does not move its end.
    let again = moved(&store, &ended, Phase::Ended, 4_000).await?;
    same!(again.ended_ms, Some(2_000));
    Ok(())
}

pub(super) async fn a_change_is_all_or_nothing(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let begun = made(&store, &record(&*store, &cx())).await?;
    let ended = moved(&store, &begun, Phase::Ended, 2_000).await?;
    let refused = SandboxUpdate {
        labels: Some(BTreeMap::new()),
        step: Some((JournalStep::Created, String::new())),
        resources: vec![resource("file", "/x", ResourceState::Made)],
        ..to(Phase::Paused, 3_000)
    };
    let told = store
        .update_sandbox(&cx(), &ended.id, ended.version, &refused)
        .await;
    same!(kind(told)?, ErrorKind::Conflict);
    same!(store.get_sandbox(&cx(), &ended.id).await?, ended);
    let journal = store.journal(&cx(), &ended.id, 0, 10).await?;
    same!(journal.items.len(), 1);
    Ok(())
}

pub(super) async fn a_command_ends_once(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let begun = made(&store, &record(&*store, &cx())).await?;
    let id = &begun.id;
    let x = exec(id);
    store.put_exec(&cx(), &x).await?;
    same!(
        kind(store.put_exec(&cx(), &x).await)?,
        ErrorKind::AlreadyExists
    );
    let end = ExitStatus::TimedOut {
        sandbox_ended: true,
    };
    store.finish_exec(&cx(), id, &x.exec, end, 8).await?;
    store.finish_exec(&cx(), id, &x.exec, end, 9).await?;
    let other = ExitStatus::Code { code: 0 };
    let told = store.finish_exec(&cx(), id, &x.exec, other, 9).await;
    same!(kind(told)?, ErrorKind::Conflict);
    let unknown = store
        .finish_exec(&cx(), id, &ExecId::random(), end, 9)
        .await;
    same!(kind(unknown)?, ErrorKind::NotFound);
    let expected = ExecRecord {
        exit: Some(end),
        ended_ms: Some(8),
        ..x
    };
    let listed = store.list_execs(&cx(), id, None, 9).await?;
    same!(listed.items, std::slice::from_ref(&expected));

    let mut ids = BTreeSet::from([expected.exec]);
    for _ in 0..6 {
        let more = exec(id);
        store.put_exec(&cx(), &more).await?;
        ids.insert(more.exec);
    }
    let first = store.list_execs(&cx(), id, None, 4).await?;
    let rest = store.list_execs(&cx(), id, first.next.as_ref(), 4).await;
    let found: Vec<_> = first.items.into_iter().chain(rest?.items).collect();
    holds!(found.iter().map(|e| &e.exec).eq(&ids));
    Ok(())
}

pub(super) async fn prune_spares_what_is_kept(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let end = |r: SandboxRecord| {
        let store = store.clone();
        async move { moved(&store, &made(&store, &r).await?, Phase::Ended, 5_000).await }
    };
    let plain = end(record(&*store, &cx())).await?;
    let with_key = end(keyed(&*store, "k")).await?;
    let other_tenant = end(record(&*store, &tenant("b"))).await?;
    let alive = made(&store, &record(&*store, &cx())).await?;
    let residue = end(record(&*store, &cx())).await?;
    let left = |state| [resource("mount", "/m", state)];
    store
        .put_resources(&cx(), &residue.id, &left(ResourceState::Made))
        .await?;

    let prune = |before, now| {
        let store = store.clone();
        async move {
            // What is counted before is what goes.
            let counted = store.count_prunable(&cx(), before, now).await?;
            let pruned = store.prune_sandboxes(&cx(), before, now, 100).await?;
            same!(counted, u64::from(pruned), "how many were counted before");
            Checked::Ok(pruned)
        }
    };
    same!(prune(5_000, 6_000).await?, 0, "it ended at that very time");
    same!(prune(5_001, 6_000).await?, 1);
    same!(
        kind(store.get_sandbox(&cx(), &plain.id).await)?,
        ErrorKind::NotFound
    );
    for (who, kept) in [
        (cx(), &with_key),
        (tenant("b"), &other_tenant),
        (cx(), &alive),
        (cx(), &residue),
    ] {
        store.get_sandbox(&who, &kept.id).await?;
    }
    same!(prune(u64::MAX, 5_000 + DAY - 1).await?, 0);
    same!(prune(u64::MAX, 5_000 + DAY).await?, 1);
    store
        .put_resources(&cx(), &residue.id, &left(ResourceState::Gone))
        .await?;
    same!(prune(u64::MAX, 5_000).await?, 1);
    // The key of a pruned sandbox is free, and so is its id.
    made(&store, &keyed(&*store, "k")).await?;
    let again = made(
        &store,
        &SandboxRecord {
            id: residue.id,
            ..record(&*store, &cx())
        },
    )
    .await?;
    let ledger = store.list_resources(&cx(), &again.id, None, 9).await;
    holds!(ledger?.items.is_empty(), "the former's ledger");
    Ok(())
}

pub(super) async fn values_are_never_kept(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let begun = made(&store, &record(&*store, &cx())).await?;
    let kept = store.get_sandbox(&cx(), &begun.id).await?;
    let text = format!("{}{kept:?}", serde_json::json!(kept));
    holds!(
        text.contains("TOKEN") && !text.contains("hunter2"),
        "{text}"
    );
    Ok(())
}

pub(super) async fn a_call_that_should_not_go_on_changes_nothing(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let (cancelled, canceller) = cx().cancellable();
    canceller.cancel();
    let late = cx().with_deadline(std::time::Instant::now());
    for (cx, expected) in [
        (cancelled, ErrorKind::Cancelled),
        (late, ErrorKind::Timeout),
    ] {
        let told = store.begin_create(&cx, &record(&*store, &cx)).await;
        same!(kind(told)?, expected);
    }
    let filter = SandboxFilter::default();
    let list = store.list_sandboxes(&cx(), &filter, None, 9).await?;
    holds!(list.items.is_empty());
    Ok(())
}

pub(super) async fn a_closed_store_says_so(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let begun = made(&store, &record(&*store, &cx())).await?;
    store.close().await?;
    store.close().await?;
    let told = store.get_sandbox(&cx(), &begun.id).await;
    same!(kind(told)?, ErrorKind::Unavailable);
    Ok(())
}
