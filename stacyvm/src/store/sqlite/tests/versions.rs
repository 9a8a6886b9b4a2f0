//! Two versions of the library on one store.
//!
//! `schema-1.db` was made by version 0.1.0 with what the conformance suite of stores
//! checks. Every later version must open it; it is never made anew.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::id::TenantId;
use crate::sandbox::state::Phase;
use crate::store::SandboxUpdate;

const SCHEMA_1: &[u8] = include_bytes!("schema-1.db");

/// The store of the fixture, in a place of its own.
async fn fixture() -> (SqliteStore, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let file = state(&home).path().join("store.db");
    fs::write(&file, SCHEMA_1).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let store = SqliteStore::open(&state(&home)).await.unwrap();
    (store, home)
}

/// A newer version adds to the store while an older one has it open.
#[tokio::test]
async fn a_store_that_grows_while_it_is_open_goes_on() {
    let (store, home) = fixture().await;
    let newer = rusqlite::Connection::open(store.path()).unwrap();
    newer
        .execute_batch(
            "BEGIN IMMEDIATE; PRAGMA user_version = 2;
             ALTER TABLE sandboxes ADD COLUMN later TEXT NOT NULL DEFAULT 'x';
             CREATE TABLE later (a TEXT) STRICT;
             CREATE INDEX later_a ON later (a); COMMIT;",
        )
        .unwrap();
    let id = add(&store).await.unwrap();
    assert_eq!(count(&store).await, 3);
    // What the newer one keeps there is as it was after the older one's write.
    let later = "UPDATE sandboxes SET later = 'kept' WHERE id = ?1";
    newer.execute(later, [id.as_str()]).unwrap();
    let cx = Context::new(TenantId::new("ours").unwrap());
    let update = SandboxUpdate {
        at_ms: 5_000,
        phase: Some(Phase::Running),
        ..SandboxUpdate::default()
    };
    store.update_sandbox(&cx, &id, 1, &update).await.unwrap();
    let kept = "SELECT later FROM sandboxes WHERE id = ?1";
    let kept: String = newer
        .query_row(kept, [id.as_str()], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, "kept");
    // Both go on beside a third that opens it now.
    let third = SqliteStore::open(&state(&home)).await.unwrap();
    assert_eq!(third.meta().schema(), 2);
    assert_eq!(count(&third).await, 3);
}
