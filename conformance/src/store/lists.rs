//! Who sees what, in which order, in pages.

use std::collections::BTreeMap;

use stacyvm::sandbox::state::Phase;
use stacyvm::store::{
    JournalEntry, JournalStep, Resource, ResourceState, SandboxFilter, SandboxRecord, SandboxUpdate,
};
use stacyvm::{ErrorKind, ExitStatus};

use super::common::{cx, exec, kind, made, moved, record, resource, tenant};
use super::{StoreFixture, differ, holds, same};
use crate::case::Checked;

pub(super) async fn tenants_do_not_see_each_other(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let (a, b) = (tenant("a"), tenant("b"));
    let own = SandboxRecord {
        idempotency_key: Some("k".into()),
        ..record(&*store, &a)
    };
    let own = made(&store, &own).await?;
    let (id, none) = (&own.id, ErrorKind::NotFound);
    same!(kind(store.get_sandbox(&b, id).await)?, none);
    let update = SandboxUpdate::default();
    same!(kind(store.update_sandbox(&b, id, 1, &update).await)?, none);
    same!(kind(store.journal(&b, id, 0, 9).await)?, none);
    let entry = JournalEntry {
        seq: 0,
        step: JournalStep::Failed,
        at_ms: 1,
        detail: String::new(),
    };
    same!(kind(store.append_journal(&b, id, &entry).await)?, none);
    same!(kind(store.put_resources(&b, id, &[]).await)?, none);
    same!(kind(store.list_resources(&b, id, None, 9).await)?, none);
    same!(kind(store.put_exec(&b, &exec(id)).await)?, none);
    same!(kind(store.list_execs(&b, id, None, 9).await)?, none);
    let x = exec(id);
    store.put_exec(&a, &x).await?;
    let end = ExitStatus::SandboxGone;
    same!(
        kind(store.finish_exec(&b, id, &x.exec, end, 1).await)?,
        none
    );
    let filter = SandboxFilter::default();
    let list = store.list_sandboxes(&b, &filter, None, 9).await?;
    holds!(list.items.is_empty());

    same!(
        kind(store.begin_create(&b, &record(&*store, &a)).await)?,
        ErrorKind::PermissionDenied
    );
    // A key is a tenant's own; an id is everybody's.
    let same_key = SandboxRecord {
        idempotency_key: Some("k".into()),
        ..record(&*store, &b)
    };
    differ!(made(&store, &same_key).await?.id, own.id);
    let same_id = SandboxRecord {
        id: own.id.clone(),
        ..record(&*store, &b)
    };
    same!(
        kind(store.begin_create(&b, &same_id).await)?,
        ErrorKind::AlreadyExists
    );
    let all = SandboxFilter {
        all_tenants: true,
        ..SandboxFilter::default()
    };
    let list = store.list_sandboxes(&b, &all, None, 9).await?;
    same!(list.items.len(), 2);
    Ok(())
}

/// Every combination of filters against the plain meaning of each.
pub(super) async fn lists_filter_and_page(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let mut known = Vec::new();
    for n in 0..24_usize {
        let who = tenant(["a", "b"][n % 2]);
        let mut wish = record(&*store, &who);
        wish.labels = BTreeMap::from([
            ("app".to_owned(), ["x", "y", "z"][n % 3].to_owned()),
            ("tier".to_owned(), ["1", "2"][n / 2 % 2].to_owned()),
        ]);
        wish.owner = format!("owner-{}", n % 4);
        ["oci", "docker"][n / 4 % 2].clone_into(&mut wish.provider);
        let begun = made(&store, &wish).await?;
        known.push(match n % 3 {
            0 => begun,
            1 => moved(&store, &begun, Phase::Running, 2_000).await?,
            _ => moved(&store, &begun, Phase::Ended, 2_000).await?,
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
                    .await?;
                holds!(page.items.len() <= limit as usize);
                found.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            same!(found, expected, "{filter:?} by {limit}");
        }
    }
    holds!(
        some > filters.len() / 4,
        "the filters find too little to tell"
    );
    Ok(())
}

pub(super) async fn the_journal_is_numbered_and_paged(f: &StoreFixture) -> Checked {
    let store = f.open().await?;
    let begun = made(&store, &record(&*store, &cx())).await?;
    for n in 2..=6_u64 {
        let entry = JournalEntry {
            seq: 77,
            step: JournalStep::Failed,
            at_ms: n,
            detail: format!("try {n}"),
        };
        let seq = store.append_journal(&cx(), &begun.id, &entry).await;
        same!(seq?, n);
    }
    let first = store.journal(&cx(), &begun.id, 0, 4).await?;
    same!((first.items.len(), first.next), (4, Some(4)));
    let rest = store.journal(&cx(), &begun.id, 4, 4).await?;
    same!(rest.next, None);
    let seqs: Vec<_> = first
        .items
        .iter()
        .chain(&rest.items)
        .map(|e| e.seq)
        .collect();
    same!(seqs, [1, 2, 3, 4, 5, 6]);
    same!(rest.items[1].detail, "try 6");
    // A page that is exactly full is the last one.
    let full = store.journal(&cx(), &begun.id, 0, 6).await?;
    same!(full.next, None);
    let none = store.journal(&cx(), &begun.id, u64::MAX, 6).await?;
    holds!(none.items.is_empty());
    Ok(())
}

pub(super) async fn the_ledger_keeps_the_last_state(f: &StoreFixture) -> Checked {
    use ResourceState::{Gone, Made};
    let store = f.open().await?;
    let begun = made(&store, &record(&*store, &cx())).await?;
    let put = |list: Vec<Resource>| {
        let (store, id) = (store.clone(), begun.id.clone());
        async move { store.put_resources(&cx(), &id, &list).await }
    };
    let mount = |n: &str, state| resource("mount", n, state);
    put(vec![
        mount("/b", Made),
        resource("cgroup", "/z", Made),
        mount("/a", Made),
    ])
    .await?;
    put(vec![mount("/a", Gone)]).await?;
    let expected = [
        resource("cgroup", "/z", Made),
        mount("/a", Gone),
        mount("/b", Made),
    ];
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store
            .list_resources(&cx(), &begun.id, after.as_ref(), 1)
            .await?;
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    same!(found, expected);
    Ok(())
}
