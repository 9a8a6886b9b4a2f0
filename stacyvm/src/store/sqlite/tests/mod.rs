//! What only a file has to promise. The contract of stores is run on it by the
//! conformance suite.

mod damage;
mod process;
mod versions;

use std::collections::BTreeMap;

use super::*;

fn tenant(name: &str) -> Context {
    Context::new(crate::id::TenantId::new(name).expect("a plain name"))
}

fn record(store: &dyn Store, cx: &Context) -> SandboxRecord {
    let spec = crate::SandboxSpec::host().label("app", "x");
    SandboxRecord {
        id: SandboxId::random(),
        tenant: cx.tenant.clone(),
        provider: "oci".into(),
        runtime: "stacyvm".into(),
        phase: crate::sandbox::state::Phase::Creating,
        version: 0,
        spec: crate::store::stored_spec(&spec),
        digest: store.meta().digest("oci", "", &spec),
        labels: spec.labels.clone(),
        created_ms: 1_000,
        updated_ms: 0,
        ends_ms: Some(9_000),
        ended_ms: None,
        lifetime: crate::sandbox::spec::Lifetime::Attached,
        outlives_host: true,
        idempotency_key: None,
        owner: "owner-1".into(),
        effective: BTreeMap::new(),
        failure: None,
    }
}

fn state(home: &tempfile::TempDir) -> StateDir {
    StateDir::open(&home.path().join("state")).expect("a directory of our own")
}

/// An empty store and the directory that it stands in.
async fn fresh() -> (SqliteStore, tempfile::TempDir) {
    let home = tempfile::tempdir().expect("a place for temporary files");
    let store = SqliteStore::open(&state(&home)).await.expect("a new store");
    (store, home)
}

/// Records one more sandbox and gives its id.
async fn add(store: &SqliteStore) -> Result<SandboxId> {
    let cx = tenant("ours");
    match store.begin_create(&cx, &record(store, &cx)).await? {
        Begin::New(record) | Begin::Existing(record) => Ok(record.id),
    }
}

async fn count(store: &SqliteStore) -> usize {
    let (cx, filter) = (tenant("ours"), SandboxFilter::default());
    let page = store.list_sandboxes(&cx, &filter, None, 1_000).await;
    page.expect("a list").items.len()
}

#[tokio::test]
async fn pruning_and_deletion_go_through_an_index() {
    let (store, _home) = fresh().await;
    let db = rusqlite::Connection::open(store.path()).unwrap();
    let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {PRUNE}")).unwrap();
    let lines: Vec<String> = plan
        .query_map(params!["ours", 1, 1, 1], |row| row.get(3))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(lines.len() > 1);
    for line in &lines {
        assert!(!line.contains("SCAN"), "{lines:?}");
    }
}

/// How the last commit was made: whether it waited for the disk.
async fn waited(store: &SqliteStore) -> bool {
    let cx = tenant("ours");
    let level = store.writer.run(&cx, |db| {
        Ok(db.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0)))
    });
    level.await.unwrap().unwrap() == 2
}

#[tokio::test]
async fn what_outlives_its_host_waits_for_the_disk_and_the_rest_does_not() {
    let (store, _home) = fresh().await;
    let cx = tenant("ours");
    for outlives_host in [true, false, true] {
        let mut record = record(&store, &cx);
        record.outlives_host = outlives_host;
        store.begin_create(&cx, &record).await.unwrap();
        assert_eq!(waited(&store).await, outlives_host, "made");
        // Whatever came before it.
        for other in [true, false] {
            store
                .run(&cx, move |db, disk| disk.wait(db, other))
                .await
                .unwrap();
            let known = store.get_sandbox(&cx, &record.id).await.unwrap();
            let update = SandboxUpdate {
                at_ms: known.updated_ms + 1,
                failure: Some("none".to_owned()),
                ..SandboxUpdate::default()
            };
            let updated = store.update_sandbox(&cx, &record.id, known.version, &update);
            assert_eq!(updated.await.unwrap().version, known.version + 1);
            assert_eq!(waited(&store).await, outlives_host, "changed");
        }
    }
}
