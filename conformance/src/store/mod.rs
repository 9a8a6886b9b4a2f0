//! The contract of stores: one list of cases that any [`Store`] is run against.
//!
//! A store is brought by a [`StoreHarness`]; [`store_main!`](macro@crate::store_main)
//! is the front end for `cargo test` and nextest. What a store that ends with its
//! process cannot be asked is `not run` on it.

mod changes;
mod common;
mod lasting;
mod lists;
mod lives;
mod versions;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stacyvm::Result;
use stacyvm::store::Store;
use tokio::runtime::Handle;

use crate::case::{Checked, Failure, Running};
use crate::harness::Deviation;
use crate::mimic;
use crate::report::Outcome;
use crate::runner::deviated;
use crate::stage::{bounded, clock};

pub use versions::fill;

/// Opens a store for the suite.
#[async_trait]
pub trait StoreHarness: Send + Sync + 'static {
    /// What reports name the subject.
    fn name(&self) -> &str;

    /// Opens the store of a place, and makes it where it is missing. The place is a path
    /// in a directory of the suite's, where nothing is at first; each has a store of its
    /// own.
    async fn open(&self, place: &Path) -> Result<Arc<dyn Store>>;

    /// Whether what was written outlives the process, so that opening a place again, by
    /// any process, finds it.
    fn lasts(&self) -> bool {
        false
    }

    /// Stores that released versions have written.
    fn released(&self) -> &[Released] {
        &[]
    }

    /// The cases that are known to fail. One that passes fails the run.
    fn deviations(&self) -> &[Deviation] {
        &[]
    }
}

/// A store that a released version has written with [`fill`] and closed. It is never
/// made anew: every later version must open it.
#[derive(Clone, Copy, Debug)]
pub struct Released {
    /// The schema.
    pub schema: u32,
    /// Puts it into a place.
    pub lay_out: fn(&Path) -> std::io::Result<()>,
}

/// The harness, and the place of one case.
pub struct StoreFixture {
    harness: Arc<dyn StoreHarness>,
    home: tempfile::TempDir,
}

impl fmt::Debug for StoreFixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreFixture")
            .field("harness", &self.harness.name())
            .field("home", &self.home)
            .finish()
    }
}

impl StoreFixture {
    fn new(harness: &Arc<dyn StoreHarness>) -> Checked<Self> {
        let home = tempfile::Builder::new().prefix("stacyvm-store-").tempdir();
        let home = home.map_err(|error| {
            Failure::NotRun(format!("a temporary directory could not be made: {error}"))
        })?;
        Ok(Self {
            harness: Arc::clone(harness),
            home,
        })
    }

    /// The place of the case.
    pub fn place(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// Opens the store of the case.
    pub async fn open(&self) -> Result<Arc<dyn Store>> {
        self.harness.open(&self.place()).await
    }

    /// Another place.
    pub fn other(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Opens the store of another place.
    pub async fn open_other(&self, name: &str) -> Result<Arc<dyn Store>> {
        self.harness.open(&self.other(name)).await
    }

    /// What released versions have written.
    pub fn released(&self) -> &[Released] {
        self.harness.released()
    }
}

/// One thing that is asked of every store.
#[derive(Clone, Copy)]
pub struct StoreCase {
    /// Its id, `group.name`, for ever.
    pub id: &'static str,
    /// Whether only a store that outlives its process can be asked.
    pub lasting: bool,
    /// Tries it.
    pub run: for<'a> fn(&'a StoreFixture) -> Running<'a>,
}

impl fmt::Debug for StoreCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreCase")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

macro_rules! cases {
    ($($module:ident ($lasting:literal) { $($name:ident)* })*) => {
        /// Every case.
        pub const STORE_CASES: &[StoreCase] = &[$($(StoreCase {
            id: concat!(stringify!($module), ".", stringify!($name)),
            lasting: $lasting,
            run: |fixture| Box::pin($module::$name(fixture)),
        },)*)*];
    };
}

cases! {
    lives (false) {
        what_is_written_is_read_back
        a_new_sandbox_begins_at_version_one
        the_same_request_finds_its_sandbox
        another_request_of_the_same_key_is_a_conflict
        racing_requests_make_one_sandbox
        a_key_is_kept_a_day_past_the_end
        a_failed_create_frees_its_key
        a_taken_id_changes_nothing
    }
    changes (false) {
        a_stale_version_is_a_conflict
        racing_changes_have_one_winner
        a_phase_that_may_not_follow_is_refused
        a_change_is_all_or_nothing
        a_command_ends_once
        prune_spares_what_is_kept
        values_are_never_kept
        a_call_that_should_not_go_on_changes_nothing
        a_closed_store_says_so
    }
    lists (false) {
        tenants_do_not_see_each_other
        lists_filter_and_page
        the_journal_is_numbered_and_paged
        the_ledger_keeps_the_last_state
    }
    lasting (true) {
        a_store_opened_again_is_the_same
        four_processes_write_and_nothing_is_lost
        what_was_acknowledged_survives_a_kill
        a_killed_owner_is_dead
    }
    versions (true) {
        what_this_version_writes_is_read_again
        every_released_schema_is_read_and_written
        every_schema_has_a_store_that_was_released
    }
}

macro_rules! same {
    ($seen:expr, $expected:expr $(,)?) => {
        $crate::ensure_eq!($seen, $expected, "{} (line {})", stringify!($seen), line!())
    };
    ($seen:expr, $expected:expr, $($what:tt)+) => {
        $crate::ensure_eq!($seen, $expected, $($what)+)
    };
}
macro_rules! differ {
    ($seen:expr, $other:expr $(,)?) => {
        $crate::ensure!(
            $seen != $other,
            "{} is {:?}, expected another (line {})",
            stringify!($seen),
            $seen,
            line!()
        )
    };
}
macro_rules! holds {
    ($holds:expr $(,)?) => {
        $crate::ensure!($holds, "not so: {} (line {})", stringify!($holds), line!())
    };
    ($holds:expr, $($what:tt)+) => { $crate::ensure!($holds, $($what)+) };
}
use {differ, holds, same};

/// How long one case may take.
const DEADLINE: Duration = Duration::from_mins(2);

/// Runs one case, and tells what came of it and why it did not pass.
pub async fn judge_store(harness: &Arc<dyn StoreHarness>, case: &StoreCase) -> (Outcome, String) {
    let judging = {
        let (runtime, harness, case) = (Handle::current(), Arc::clone(harness), *case);
        let work = async move { try_case(&harness, &case).await };
        clock().spawn(async move { bounded(&runtime, "the case", DEADLINE, work).await })
    };
    let done = judging.await.unwrap_or_else(|error| Err(error.to_string()));
    let (outcome, text) = match done {
        Ok(Ok(())) => (Outcome::Passed, String::new()),
        Ok(Err(Failure::Broken(text))) => (Outcome::Failed, text),
        Ok(Err(Failure::NotRun(fact))) => (Outcome::NotRun, fact),
        // Neither a panic nor a hang is what is declared.
        Err(stuck) => return (Outcome::Failed, stuck),
    };
    let mut declared = harness.deviations().iter();
    let declared = declared.find(|one| one.case == case.id);
    deviated(declared, outcome, text)
}

async fn try_case(harness: &Arc<dyn StoreHarness>, case: &StoreCase) -> Checked {
    if case.lasting && !harness.lasts() {
        let fact = "the store ends with its process".to_owned();
        return Err(Failure::NotRun(fact));
    }
    let fixture = StoreFixture::new(harness)?;
    (case.run)(&fixture).await
}

/// Runs every case on this harness's store, as `cargo test` runs tests. What
/// [`store_main!`](macro@crate::store_main) calls.
pub fn store_main(harness: impl StoreHarness) -> ExitCode {
    let harness: Arc<dyn StoreHarness> = Arc::new(harness);
    if let Some((role, place)) = lasting::role() {
        return lasting::child(&harness, &role, &place);
    }
    let deviations = harness.deviations().to_vec();
    let trials = STORE_CASES.iter().map(|case| {
        let harness = Arc::clone(&harness);
        let judged = move || async move { judge_store(&harness, case).await };
        mimic::trial(case.id, judged)
    });
    mimic::main(trials.collect(), &deviations, None)
}

/// The `main` of a test target with `harness = false` that runs the contract of stores
/// on the store of this harness.
///
/// ```no_run
/// use std::{path::Path, sync::Arc};
/// use stacyvm::{Result, store::{MemoryStore, Store}};
/// use stacyvm_conformance::store::StoreHarness;
///
/// struct Mine;
///
/// #[async_trait::async_trait]
/// impl StoreHarness for Mine {
///     fn name(&self) -> &str {
///         "mine"
///     }
///
///     async fn open(&self, _: &Path) -> Result<Arc<dyn Store>> {
///         Ok(Arc::new(MemoryStore::new()))
///     }
/// }
///
/// stacyvm_conformance::store_main!(Mine);
/// ```
#[macro_export]
macro_rules! store_main {
    ($harness:expr) => {
        fn main() -> std::process::ExitCode {
            $crate::store::store_main($harness)
        }
    };
}
