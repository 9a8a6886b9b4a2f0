//! What outlives a process: records of sandboxes, what was intended and done,
//! what they hold on the host, and the commands that ran in them.
//!
//! [`Store`] is a typed, relational contract. [`MemoryStore`] is always there;
//! `SqliteStore` (feature `sqlite`) is a file that many processes share.
//! [`StateDir`] and [`OwnerLock`] are the directory around that file and the
//! liveness of those who use it.

mod digest;
mod file_system;
mod memory;
mod owner;
mod record;
mod rules;
pub(crate) use rules::no_sandbox;
#[cfg(feature = "sqlite")]
mod sqlite;
mod state_dir;

use std::fmt::Debug;

use async_trait::async_trait;

use crate::context::Context;
use crate::error::Result;
use crate::id::{ExecId, SandboxId};
use crate::sandbox::exec::ExitStatus;

pub use digest::{StoreMeta, stored_spec};
pub use memory::MemoryStore;
pub use owner::OwnerLock;
pub use record::{
    Asked, Begin, ExecRecord, JournalEntry, JournalStep, Page, Resource, ResourceState,
    SandboxFilter, SandboxRecord, SandboxUpdate,
};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteStore, after_fork, before_fork};
pub use state_dir::StateDir;

/// The newest layout that this build writes.
pub const SCHEMA: u32 = 1;

/// How long an idempotency key is kept past the end of its sandbox.
pub const KEY_KEPT_MS: u64 = 24 * 3_600_000;

/// The most items that one page holds, whatever was asked for.
pub const LONGEST_PAGE: u32 = 1_000;

/// Keeps records.
///
/// # Behavior
///
/// - A call that returned is durable: it survives the end of this process.
///   Where the record says that the sandbox outlives its host, it survives the
///   end of the host as well; a sandbox that ends with its host needs no
///   record after that, and its create does not wait for the disk.
/// - Every method but [`list_sandboxes`](Self::list_sandboxes) with
///   `all_tenants` sees the sandboxes of the context's tenant alone; those of
///   others are `not_found`.
/// - A change of a sandbox names the version that it was decided on. Another
///   version is `conflict`, and nothing changes.
/// - Lists are in a stable order and come in pages.
///
/// # Errors
///
/// Beside those that a method names: `timeout` and `cancelled` from the
/// context, `corrupt`, `no_space`, `permission_denied` and `unavailable` from
/// what is below.
///
/// # Cancellation
///
/// A dropped future leaves all of a change or nothing of it.
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// The store's identity: its instance id and what it digests with.
    fn meta(&self) -> &StoreMeta;

    /// Records a sandbox that is about to be made, with the intent in its
    /// journal, in one transaction. The record begins at version 1 in phase
    /// `creating`, whatever it says.
    ///
    /// # Behavior
    ///
    /// - Without an idempotency key, or with one that is free: [`Begin::New`].
    /// - The key stands for a sandbox of the same digest: [`Begin::Existing`]
    ///   with that record, whatever its phase; nothing is written.
    /// - A key becomes free 24 h after its sandbox ended, and at once when
    ///   making it failed. `created_ms` of the new record is the time that counts.
    ///
    /// # Errors
    ///
    /// `conflict` where the key stands for another digest; `already_exists`
    /// where the id is taken.
    async fn begin_create(&self, cx: &Context, record: &SandboxRecord) -> Result<Begin>;

    /// Changes a sandbox, and writes the journal entry and the ledger entries
    /// of that change in the same transaction.
    ///
    /// # Errors
    ///
    /// `not_found`; `conflict` where the version differs or the phase may not follow.
    async fn update_sandbox(
        &self,
        cx: &Context,
        id: &SandboxId,
        version: u64,
        update: &SandboxUpdate,
    ) -> Result<SandboxRecord>;

    /// Finds a sandbox.
    ///
    /// # Errors
    ///
    /// `not_found`.
    async fn get_sandbox(&self, cx: &Context, id: &SandboxId) -> Result<SandboxRecord>;

    /// Lists sandboxes in the order of their ids, at most `limit` after `after`.
    async fn list_sandboxes(
        &self,
        cx: &Context,
        filter: &SandboxFilter,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Page<SandboxRecord, SandboxId>>;

    /// Deletes the records of the tenant's sandboxes that ended before a time,
    /// with all that belongs to them, at most `limit`, and tells how many. A
    /// sandbox whose idempotency key is still kept, or that has resources not
    /// yet gone, stays.
    async fn prune_sandboxes(
        &self,
        cx: &Context,
        ended_before_ms: u64,
        now_ms: u64,
        limit: u32,
    ) -> Result<u32>;

    /// Counts the records that [`prune_sandboxes`](Self::prune_sandboxes) would
    /// delete without a limit.
    async fn count_prunable(&self, cx: &Context, ended_before_ms: u64, now_ms: u64) -> Result<u64>;

    /// Appends to the journal of a sandbox and gives the entry's number, from 1.
    ///
    /// # Errors
    ///
    /// `not_found`.
    async fn append_journal(
        &self,
        cx: &Context,
        id: &SandboxId,
        entry: &JournalEntry,
    ) -> Result<u64>;

    /// Reads the journal of a sandbox from its beginning, at most `limit`
    /// entries after number `after`; the cursor is the last entry's number.
    async fn journal(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: u64,
        limit: u32,
    ) -> Result<Page<JournalEntry, u64>>;

    /// Writes what a sandbox holds on the host, or no longer does. The same
    /// resource again sets its state.
    ///
    /// # Errors
    ///
    /// `not_found`.
    async fn put_resources(
        &self,
        cx: &Context,
        id: &SandboxId,
        resources: &[Resource],
    ) -> Result<()>;

    /// Lists what a sandbox holds on the host by kind and name, at most `limit`
    /// after `after`.
    async fn list_resources(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: Option<&Resource>,
        limit: u32,
    ) -> Result<Page<Resource, Resource>>;

    /// Records a command that was started.
    ///
    /// # Errors
    ///
    /// `not_found`; `already_exists` where the id is taken.
    async fn put_exec(&self, cx: &Context, exec: &ExecRecord) -> Result<()>;

    /// Records how a command ended. The same end again is success.
    ///
    /// # Errors
    ///
    /// `not_found`; `conflict` where another end is recorded.
    async fn finish_exec(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        exit: ExitStatus,
        ended_ms: u64,
    ) -> Result<()>;

    /// Lists the commands of a sandbox in the order of their ids, at most
    /// `limit` after `after`.
    async fn list_execs(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: Option<&ExecId>,
        limit: u32,
    ) -> Result<Page<ExecRecord, ExecId>>;

    /// Waits for what was begun and closes the store. Later calls are
    /// `unavailable`. Closing twice is success.
    async fn close(&self) -> Result<()>;
}
