//! What every store promises, as functions over the trait. Each takes an empty
//! store; `suite!` runs them all against one kind of store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::error::{Error, ErrorKind};
use crate::id::TenantId;
use crate::provider::Level;
use crate::sandbox::spec::{Lifetime, SandboxSpec};
use crate::sandbox::state::{Effective, Phase};

/// Runs every case: `suite!(async { (store, what it stands on) })`.
macro_rules! suite {
    ($open:expr) => {
        $crate::store::contract::suite!(@each $open;
            what_is_written_is_read_back
            a_new_sandbox_begins_at_version_one
            the_same_request_finds_its_sandbox
            another_request_of_the_same_key_is_a_conflict
            racing_requests_make_one_sandbox
            a_key_is_kept_a_day_past_the_end
            a_failed_create_frees_its_key
            a_taken_id_changes_nothing
            a_stale_version_is_a_conflict
            racing_changes_have_one_winner
            a_phase_that_may_not_follow_is_refused
            a_change_is_all_or_nothing
            tenants_do_not_see_each_other
            lists_filter_and_page
            the_journal_is_numbered_and_paged
            the_ledger_keeps_the_last_state
            a_command_ends_once
            prune_spares_what_is_kept
            values_are_never_kept
            a_call_that_should_not_go_on_changes_nothing
            a_closed_store_says_so
        );
    };
    (@each $open:expr; $($case:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (store, _ground) = $open.await;
            $crate::store::contract::$case(std::sync::Arc::new(store)).await;
        }
    )*};
}
pub(super) use suite;

type Any = Arc<dyn Store>;

const DAY: u64 = 24 * 3_600_000;

pub(super) fn tenant(name: &str) -> Context {
    Context::new(TenantId::new(name).unwrap())
}

fn cx() -> Context {
    tenant("ours")
}

pub(super) fn record(store: &dyn Store, cx: &Context) -> SandboxRecord {
    let spec = SandboxSpec::host()
        .env("TOKEN", "hunter2")
        .label("app", "x");
    SandboxRecord {
        id: SandboxId::random(),
        tenant: cx.tenant.clone(),
        provider: "oci".into(),
        runtime: "stacyvm".into(),
        phase: Phase::Creating,
        version: 0,
        spec: stored_spec(&spec),
        digest: store.meta().digest("oci", "", &spec),
        labels: spec.labels.clone(),
        created_ms: 1_000,
        updated_ms: 0,
        ends_ms: Some(9_000),
        ended_ms: None,
        lifetime: Lifetime::Attached,
        outlives_host: true,
        idempotency_key: None,
        owner: "owner-1".into(),
        effective: BTreeMap::new(),
        failure: None,
    }
}

fn keyed(store: &dyn Store, key: &str) -> SandboxRecord {
    SandboxRecord {
        idempotency_key: Some(key.into()),
        ..record(store, &cx())
    }
}

async fn made(store: &Any, record: &SandboxRecord) -> SandboxRecord {
    let cx = Context::new(record.tenant.clone());
    match store.begin_create(&cx, record).await.unwrap() {
        Begin::New(record) => record,
        Begin::Existing(other) => panic!("found {} instead", other.id),
    }
}

fn to(phase: Phase, at_ms: u64) -> SandboxUpdate {
    SandboxUpdate {
        at_ms,
        phase: Some(phase),
        ..SandboxUpdate::default()
    }
}

async fn moved(store: &Any, record: &SandboxRecord, phase: Phase, at_ms: u64) -> SandboxRecord {
    let cx = Context::new(record.tenant.clone());
    let update = to(phase, at_ms);
    store
        .update_sandbox(&cx, &record.id, record.version, &update)
        .await
        .unwrap()
}

fn resource(kind: &str, name: &str, state: ResourceState) -> Resource {
    Resource {
        kind: kind.into(),
        name: name.into(),
        state,
    }
}

fn exec(sandbox: &SandboxId) -> ExecRecord {
    ExecRecord {
        exec: ExecId::random(),
        sandbox: sandbox.clone(),
        program: "sh".into(),
        arguments: 2,
        started_ms: 5,
        background: true,
        exit: None,
        ended_ms: None,
    }
}

fn kind<T: Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

pub(super) async fn what_is_written_is_read_back(store: Any) {
    let begun = made(&store, &keyed(&*store, "k")).await;
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
    let told = store
        .update_sandbox(&cx(), &begun.id, 1, &update)
        .await
        .unwrap();
    let expected = SandboxRecord {
        phase: Phase::Running,
        version: 2,
        updated_ms: 2_000,
        ends_ms: None,
        effective: update.effective.clone().unwrap(),
        labels: update.labels.clone().unwrap(),
        spec: stored_spec(&SandboxSpec::host().env("LATE", "hunter3")),
        digest: "another".into(),
        lifetime: Lifetime::Attached,
        owner: "owner-2".into(),
        failure: update.failure.clone(),
        ..begun
    };
    assert_eq!(told, expected);
    assert_eq!(store.get_sandbox(&cx(), &told.id).await.unwrap(), expected);
    let journal = store.journal(&cx(), &told.id, 0, 10).await.unwrap().items;
    assert_eq!(journal[1].detail, "in 5 ms");
    let ledger = store
        .list_resources(&cx(), &told.id, None, 10)
        .await
        .unwrap();
    assert_eq!(ledger.items, update.resources);
}

pub(super) async fn a_new_sandbox_begins_at_version_one(store: Any) {
    let wish = SandboxRecord {
        phase: Phase::Running,
        version: 7,
        ended_ms: Some(3),
        ..record(&*store, &cx())
    };
    let begun = made(&store, &wish).await;
    assert_eq!(
        (begun.phase, begun.version, begun.ended_ms, begun.updated_ms),
        (Phase::Creating, 1, None, 1_000)
    );
    let journal = store.journal(&cx(), &begun.id, 0, 10).await.unwrap();
    assert_eq!(journal.items.len(), 1);
    assert_eq!(journal.items[0].step, JournalStep::CreateIntent);
}

pub(super) async fn the_same_request_finds_its_sandbox(store: Any) {
    let first = made(&store, &keyed(&*store, "k")).await;
    for phase in [Phase::Creating, Phase::Running, Phase::Ended] {
        let now = store.get_sandbox(&cx(), &first.id).await.unwrap();
        let now = if now.phase == phase {
            now
        } else {
            moved(&store, &now, phase, 2_000).await
        };
        let again = store.begin_create(&cx(), &keyed(&*store, "k")).await;
        assert_eq!(again.unwrap(), Begin::Existing(now));
    }
    let journal = store.journal(&cx(), &first.id, 0, 10).await.unwrap();
    assert_eq!(journal.items.len(), 1, "a repetition wrote something");
}

pub(super) async fn another_request_of_the_same_key_is_a_conflict(store: Any) {
    made(&store, &keyed(&*store, "k")).await;
    let other = SandboxRecord {
        digest: "other".into(),
        ..keyed(&*store, "k")
    };
    assert_eq!(
        kind(store.begin_create(&cx(), &other).await),
        ErrorKind::Conflict
    );
    assert_eq!(
        kind(store.get_sandbox(&cx(), &other.id).await),
        ErrorKind::NotFound
    );
    for bad in [String::new(), "a\nb".into(), "k".repeat(256)] {
        let wish = keyed(&*store, &bad);
        assert_eq!(
            kind(store.begin_create(&cx(), &wish).await),
            ErrorKind::InvalidArgument
        );
    }
}

pub(super) async fn racing_requests_make_one_sandbox(store: Any) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = store.clone();
        tasks.spawn(async move {
            let wish = keyed(&*store, "k");
            store.begin_create(&cx(), &wish).await.unwrap()
        });
    }
    let (mut new, mut ids) = (0, BTreeSet::new());
    for begin in tasks.join_all().await {
        let (Begin::New(r) | Begin::Existing(r)) = &begin;
        ids.insert(r.id.clone());
        new += u32::from(matches!(begin, Begin::New(_)));
    }
    assert_eq!((new, ids.len()), (1, 1));
}

pub(super) async fn a_key_is_kept_a_day_past_the_end(store: Any) {
    let first = made(&store, &keyed(&*store, "k")).await;
    moved(&store, &first, Phase::Ended, 5_000).await;
    let at = |ms| SandboxRecord {
        created_ms: ms,
        ..keyed(&*store, "k")
    };
    let last = store.begin_create(&cx(), &at(5_000 + DAY - 1)).await;
    assert!(matches!(last.unwrap(), Begin::Existing(r) if r.id == first.id));
    let wish = at(5_000 + DAY);
    let second = made(&store, &wish).await;
    let again = store.begin_create(&cx(), &wish).await.unwrap();
    assert_eq!(again, Begin::Existing(second));
    let first = store.get_sandbox(&cx(), &first.id).await.unwrap();
    assert_eq!(first.idempotency_key, None);
}

pub(super) async fn a_failed_create_frees_its_key(store: Any) {
    let first = made(&store, &keyed(&*store, "k")).await;
    moved(&store, &first, Phase::Failed, 2_000).await;
    let second = made(&store, &keyed(&*store, "k")).await;
    assert_ne!(first.id, second.id);
}

pub(super) async fn a_taken_id_changes_nothing(store: Any) {
    let first = made(&store, &record(&*store, &cx())).await;
    let ended = made(&store, &keyed(&*store, "k")).await;
    moved(&store, &ended, Phase::Failed, 2_000).await;
    // The key would be free, the id is not: the key stays where it is.
    let wish = SandboxRecord {
        id: first.id.clone(),
        ..keyed(&*store, "k")
    };
    assert_eq!(
        kind(store.begin_create(&cx(), &wish).await),
        ErrorKind::AlreadyExists
    );
    assert_eq!(store.get_sandbox(&cx(), &first.id).await.unwrap(), first);
    let ended = store.get_sandbox(&cx(), &ended.id).await.unwrap();
    assert_eq!(ended.idempotency_key.as_deref(), Some("k"));
}

pub(super) async fn a_stale_version_is_a_conflict(store: Any) {
    let begun = made(&store, &record(&*store, &cx())).await;
    let now = moved(&store, &begun, Phase::Running, 2_000).await;
    for version in [0, 1, 3, u64::MAX] {
        let late = SandboxUpdate {
            step: Some((JournalStep::Destroyed, String::new())),
            resources: vec![resource("file", "/x", ResourceState::Made)],
            ..to(Phase::Ended, 3_000)
        };
        let told = store.update_sandbox(&cx(), &begun.id, version, &late).await;
        assert_eq!(kind(told), ErrorKind::Conflict, "version {version}");
    }
    assert_eq!(store.get_sandbox(&cx(), &begun.id).await.unwrap(), now);
    let journal = store.journal(&cx(), &begun.id, 0, 10).await.unwrap();
    assert_eq!(journal.items.len(), 1);
    let ledger = store.list_resources(&cx(), &begun.id, None, 9).await;
    assert!(ledger.unwrap().items.is_empty());
}

pub(super) async fn racing_changes_have_one_winner(store: Any) {
    let begun = made(&store, &record(&*store, &cx())).await;
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
    assert_eq!(winners.len(), 1);
    for error in results.iter().filter_map(|r| r.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
    let now = store.get_sandbox(&cx(), &begun.id).await.unwrap();
    assert_eq!(&now, winners[0]);
}

pub(super) async fn a_phase_that_may_not_follow_is_refused(store: Any) {
    let begun = made(&store, &record(&*store, &cx())).await;
    let ended = moved(&store, &begun, Phase::Ended, 2_000).await;
    assert_eq!(ended.ended_ms, Some(2_000));
    let back = store
        .update_sandbox(&cx(), &ended.id, ended.version, &to(Phase::Running, 3_000))
        .await;
    assert_eq!(kind(back), ErrorKind::Conflict);
    // A later change of an ended one does not move its end.
    let again = moved(&store, &ended, Phase::Ended, 4_000).await;
    assert_eq!(again.ended_ms, Some(2_000));
}

pub(super) async fn a_change_is_all_or_nothing(store: Any) {
    let begun = made(&store, &record(&*store, &cx())).await;
    let ended = moved(&store, &begun, Phase::Ended, 2_000).await;
    let refused = SandboxUpdate {
        labels: Some(BTreeMap::new()),
        step: Some((JournalStep::Created, String::new())),
        resources: vec![resource("file", "/x", ResourceState::Made)],
        ..to(Phase::Paused, 3_000)
    };
    let told = store
        .update_sandbox(&cx(), &ended.id, ended.version, &refused)
        .await;
    assert_eq!(kind(told), ErrorKind::Conflict);
    assert_eq!(store.get_sandbox(&cx(), &ended.id).await.unwrap(), ended);
    let journal = store.journal(&cx(), &ended.id, 0, 10).await.unwrap();
    assert_eq!(journal.items.len(), 1);
}

pub(super) async fn tenants_do_not_see_each_other(store: Any) {
    let (a, b) = (tenant("a"), tenant("b"));
    let own = SandboxRecord {
        idempotency_key: Some("k".into()),
        ..record(&*store, &a)
    };
    let own = made(&store, &own).await;
    let (id, none) = (&own.id, ErrorKind::NotFound);
    assert_eq!(kind(store.get_sandbox(&b, id).await), none);
    let update = SandboxUpdate::default();
    assert_eq!(kind(store.update_sandbox(&b, id, 1, &update).await), none);
    assert_eq!(kind(store.journal(&b, id, 0, 9).await), none);
    let entry = JournalEntry {
        seq: 0,
        step: JournalStep::Failed,
        at_ms: 1,
        detail: String::new(),
    };
    assert_eq!(kind(store.append_journal(&b, id, &entry).await), none);
    assert_eq!(kind(store.put_resources(&b, id, &[]).await), none);
    assert_eq!(kind(store.list_resources(&b, id, None, 9).await), none);
    assert_eq!(kind(store.put_exec(&b, &exec(id)).await), none);
    assert_eq!(kind(store.list_execs(&b, id, None, 9).await), none);
    let x = exec(id);
    store.put_exec(&a, &x).await.unwrap();
    let end = ExitStatus::SandboxGone;
    assert_eq!(kind(store.finish_exec(&b, id, &x.exec, end, 1).await), none);
    let filter = SandboxFilter::default();
    let list = store.list_sandboxes(&b, &filter, None, 9).await.unwrap();
    assert!(list.items.is_empty());

    assert_eq!(
        kind(store.begin_create(&b, &record(&*store, &a)).await),
        ErrorKind::PermissionDenied
    );
    // A key is a tenant's own; an id is everybody's.
    let same_key = SandboxRecord {
        idempotency_key: Some("k".into()),
        ..record(&*store, &b)
    };
    assert_ne!(made(&store, &same_key).await.id, own.id);
    let same_id = SandboxRecord {
        id: own.id.clone(),
        ..record(&*store, &b)
    };
    assert_eq!(
        kind(store.begin_create(&b, &same_id).await),
        ErrorKind::AlreadyExists
    );
    let all = SandboxFilter {
        all_tenants: true,
        ..SandboxFilter::default()
    };
    let list = store.list_sandboxes(&b, &all, None, 9).await.unwrap();
    assert_eq!(list.items.len(), 2);
}

/// Every combination of filters against the plain meaning of each.
pub(super) async fn lists_filter_and_page(store: Any) {
    let mut known = Vec::new();
    for n in 0..24_usize {
        let who = tenant(["a", "b"][n % 2]);
        let mut wish = record(&*store, &who);
        wish.labels = BTreeMap::from([
            ("app".to_owned(), ["x", "y", "z"][n % 3].to_owned()),
            ("tier".to_owned(), ["1", "2"][n / 2 % 2].to_owned()),
        ]);
        wish.owner = format!("owner-{}", n % 4);
        wish.provider = ["oci", "docker"][n / 4 % 2].to_owned();
        let begun = made(&store, &wish).await;
        known.push(match n % 3 {
            0 => begun,
            1 => moved(&store, &begun, Phase::Running, 2_000).await,
            _ => moved(&store, &begun, Phase::Ended, 2_000).await,
        });
    }
    known.sort_by(|a, b| a.id.cmp(&b.id));
    let pairs = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        list.iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect()
    };
    let mut filters = Vec::new();
    for all_tenants in [true, false] {
        for phases in [
            vec![],
            vec![Phase::Running],
            vec![Phase::Running, Phase::Creating, Phase::Running],
        ] {
            for labels in [
                pairs(&[]),
                pairs(&[("app", "x")]),
                pairs(&[("app", "y"), ("tier", "2")]),
                pairs(&[("app", "none")]),
            ] {
                for owner in [None, Some("owner-1".to_owned())] {
                    for provider in [None, Some("docker".to_owned())] {
                        filters.push(SandboxFilter {
                            all_tenants,
                            phases: phases.clone(),
                            labels: labels.clone(),
                            provider,
                            owner: owner.clone(),
                        });
                    }
                }
            }
        }
    }
    let mut some = 0;
    for filter in &filters {
        let expected: Vec<_> = known
            .iter()
            .filter(|r| filter.all_tenants || r.tenant.as_str() == "a")
            .filter(|r| filter.phases.is_empty() || filter.phases.contains(&r.phase))
            .filter(|r| {
                filter
                    .labels
                    .iter()
                    .all(|(k, v)| r.labels.get(k) == Some(v))
            })
            .filter(|r| filter.owner.as_ref().is_none_or(|o| *o == r.owner))
            .filter(|r| filter.provider.as_ref().is_none_or(|p| *p == r.provider))
            .cloned()
            .collect();
        some += usize::from(!expected.is_empty());
        for limit in [1, 5, 1_000] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = store
                    .list_sandboxes(&tenant("a"), filter, after.as_ref(), limit)
                    .await
                    .unwrap();
                assert!(page.items.len() <= limit as usize);
                found.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{filter:?} by {limit}");
        }
    }
    assert!(
        some > filters.len() / 4,
        "the filters find too little to tell"
    );
}

pub(super) async fn the_journal_is_numbered_and_paged(store: Any) {
    let begun = made(&store, &record(&*store, &cx())).await;
    for n in 2..=6_u64 {
        let entry = JournalEntry {
            seq: 77,
            step: JournalStep::Failed,
            at_ms: n,
            detail: format!("try {n}"),
        };
        let seq = store.append_journal(&cx(), &begun.id, &entry).await;
        assert_eq!(seq.unwrap(), n);
    }
    let first = store.journal(&cx(), &begun.id, 0, 4).await.unwrap();
    assert_eq!((first.items.len(), first.next), (4, Some(4)));
    let rest = store.journal(&cx(), &begun.id, 4, 4).await.unwrap();
    assert_eq!(rest.next, None);
    let seqs: Vec<_> = first
        .items
        .iter()
        .chain(&rest.items)
        .map(|e| e.seq)
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    assert_eq!(rest.items[1].detail, "try 6");
    // A page that is exactly full is the last one.
    let full = store.journal(&cx(), &begun.id, 0, 6).await.unwrap();
    assert_eq!(full.next, None);
    let none = store.journal(&cx(), &begun.id, u64::MAX, 6).await.unwrap();
    assert!(none.items.is_empty());
}

pub(super) async fn the_ledger_keeps_the_last_state(store: Any) {
    use ResourceState::{Gone, Made};
    let begun = made(&store, &record(&*store, &cx())).await;
    let put = |list: Vec<Resource>| {
        let (store, id) = (store.clone(), begun.id.clone());
        async move { store.put_resources(&cx(), &id, &list).await.unwrap() }
    };
    let mount = |n: &str, state| resource("mount", n, state);
    put(vec![
        mount("/b", Made),
        resource("cgroup", "/z", Made),
        mount("/a", Made),
    ])
    .await;
    put(vec![mount("/a", Gone)]).await;
    let expected = [
        resource("cgroup", "/z", Made),
        mount("/a", Gone),
        mount("/b", Made),
    ];
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store
            .list_resources(&cx(), &begun.id, after.as_ref(), 1)
            .await
            .unwrap();
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, expected);
}

pub(super) async fn a_command_ends_once(store: Any) {
    let begun = made(&store, &record(&*store, &cx())).await;
    let id = &begun.id;
    let x = exec(id);
    store.put_exec(&cx(), &x).await.unwrap();
    assert_eq!(
        kind(store.put_exec(&cx(), &x).await),
        ErrorKind::AlreadyExists
    );
    let end = ExitStatus::TimedOut {
        sandbox_ended: true,
    };
    store.finish_exec(&cx(), id, &x.exec, end, 8).await.unwrap();
    store.finish_exec(&cx(), id, &x.exec, end, 9).await.unwrap();
    let other = ExitStatus::Code { code: 0 };
    let told = store.finish_exec(&cx(), id, &x.exec, other, 9).await;
    assert_eq!(kind(told), ErrorKind::Conflict);
    let unknown = store
        .finish_exec(&cx(), id, &ExecId::random(), end, 9)
        .await;
    assert_eq!(kind(unknown), ErrorKind::NotFound);
    let expected = ExecRecord {
        exit: Some(end),
        ended_ms: Some(8),
        ..x
    };
    let listed = store.list_execs(&cx(), id, None, 9).await.unwrap();
    assert_eq!(listed.items, std::slice::from_ref(&expected));

    let mut ids = BTreeSet::from([expected.exec]);
    for _ in 0..6 {
        let more = exec(id);
        store.put_exec(&cx(), &more).await.unwrap();
        ids.insert(more.exec);
    }
    let first = store.list_execs(&cx(), id, None, 4).await.unwrap();
    let rest = store.list_execs(&cx(), id, first.next.as_ref(), 4).await;
    let found: Vec<_> = first.items.into_iter().chain(rest.unwrap().items).collect();
    assert!(found.iter().map(|e| &e.exec).eq(&ids));
}

pub(super) async fn prune_spares_what_is_kept(store: Any) {
    let end = |r: SandboxRecord| {
        let store = store.clone();
        async move { moved(&store, &made(&store, &r).await, Phase::Ended, 5_000).await }
    };
    let plain = end(record(&*store, &cx())).await;
    let with_key = end(keyed(&*store, "k")).await;
    let other_tenant = end(record(&*store, &tenant("b"))).await;
    let alive = made(&store, &record(&*store, &cx())).await;
    let residue = end(record(&*store, &cx())).await;
    let left = |state| [resource("mount", "/m", state)];
    store
        .put_resources(&cx(), &residue.id, &left(ResourceState::Made))
        .await
        .unwrap();

    let prune = |before, now| {
        let store = store.clone();
        async move {
            // What is counted before is what goes.
            let counted = store.count_prunable(&cx(), before, now).await.unwrap();
            let pruned = store.prune_sandboxes(&cx(), before, now, 100).await;
            let pruned = pruned.unwrap();
            assert_eq!(counted, u64::from(pruned));
            pruned
        }
    };
    assert_eq!(prune(5_000, 6_000).await, 0, "it ended at that very time");
    assert_eq!(prune(5_001, 6_000).await, 1);
    assert_eq!(
        kind(store.get_sandbox(&cx(), &plain.id).await),
        ErrorKind::NotFound
    );
    for (who, kept) in [
        (cx(), &with_key),
        (tenant("b"), &other_tenant),
        (cx(), &alive),
        (cx(), &residue),
    ] {
        store.get_sandbox(&who, &kept.id).await.unwrap();
    }
    assert_eq!(prune(u64::MAX, 5_000 + DAY - 1).await, 0);
    assert_eq!(prune(u64::MAX, 5_000 + DAY).await, 1);
    store
        .put_resources(&cx(), &residue.id, &left(ResourceState::Gone))
        .await
        .unwrap();
    assert_eq!(prune(u64::MAX, 5_000).await, 1);
    // The key of a pruned sandbox is free, and so is its id.
    made(&store, &keyed(&*store, "k")).await;
    let again = made(
        &store,
        &SandboxRecord {
            id: residue.id,
            ..record(&*store, &cx())
        },
    )
    .await;
    let ledger = store.list_resources(&cx(), &again.id, None, 9).await;
    assert!(ledger.unwrap().items.is_empty(), "the former's ledger");
}

pub(super) async fn values_are_never_kept(store: Any) {
    let begun = made(&store, &record(&*store, &cx())).await;
    let kept = store.get_sandbox(&cx(), &begun.id).await.unwrap();
    let text = format!("{}{kept:?}", serde_json::to_string(&kept).unwrap());
    assert!(
        text.contains("TOKEN") && !text.contains("hunter2"),
        "{text}"
    );
}

pub(super) async fn a_call_that_should_not_go_on_changes_nothing(store: Any) {
    let (cancelled, canceller) = cx().cancellable();
    canceller.cancel();
    let late = cx().with_deadline(std::time::Instant::now());
    for (cx, expected) in [
        (cancelled, ErrorKind::Cancelled),
        (late, ErrorKind::Timeout),
    ] {
        let told = store.begin_create(&cx, &record(&*store, &cx)).await;
        assert_eq!(kind(told), expected);
    }
    let filter = SandboxFilter::default();
    let list = store.list_sandboxes(&cx(), &filter, None, 9).await.unwrap();
    assert!(list.items.is_empty());
}

pub(super) async fn a_closed_store_says_so(store: Any) {
    let begun = made(&store, &record(&*store, &cx())).await;
    store.close().await.unwrap();
    store.close().await.unwrap();
    let told = store.get_sandbox(&cx(), &begun.id).await;
    assert_eq!(kind(told), ErrorKind::Unavailable);
}
