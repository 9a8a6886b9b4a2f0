//! The contract on SQLite, and what only a file has to promise.

use super::*;

/// An empty store and the directory that it stands in.
async fn fresh() -> (SqliteStore, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let state = StateDir::open(&home.path().join("state")).unwrap();
    (SqliteStore::open(&state).await.unwrap(), home)
}

mod contract {
    super::super::super::contract::suite!(super::fresh());
}
