//! The store in a SQLite file that many processes share.

mod fault;
mod forks;
mod holder;
mod open;
mod query;
mod reserve;
mod rows;
#[cfg(test)]
mod tests;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior, params};

use super::record::{
    Begin, ExecRecord, JournalEntry, JournalStep, Page, Resource, SandboxFilter, SandboxRecord,
    SandboxUpdate,
};
use super::state_dir::StateDir;
use super::{Store, StoreMeta, rules};
use crate::context::Context;
use crate::error::Result;
use crate::id::{ExecId, SandboxId};
use crate::sandbox::exec::ExitStatus;
use fault::Fault;
use forks::Open;
pub use forks::{after_fork, before_fork};
use rows::int;
use worker::Worker;

/// The file's name in its state directory.
const FILE: &str = "store.db";

/// How often a transaction waits for another process before it gives up.
const BUSY_TRIES: u32 = 6;

/// Keeps records in a SQLite file.
///
/// A change is on the disk before its call returns; the records of commands
/// are with the system by then, so that they survive this process but not a
/// loss of power. Any number of processes may have the store open. A forked child has
/// none of it: it opens its own, which [`before_fork`] makes possible.
#[derive(Debug)]
pub struct SqliteStore {
    file: Arc<Path>,
    meta: StoreMeta,
    writer: Arc<Worker>,
    /// May be the writer.
    reader: Arc<Worker>,
    disk: Arc<Disk>,
}

impl SqliteStore {
    /// Opens the store of a state directory, and makes it where it is missing.
    ///
    /// # Errors
    ///
    /// Each names the file and the remedy, and leaves the file as it is:
    /// `corrupt` for one that is damaged, cut off or no database;
    /// `incompatible` for one that a newer library or another program wrote;
    /// `permission_denied` for a link, another user's file, or a place that
    /// cannot be written; `no_space`; `resource_exhausted` where no thread
    /// can be started; `unavailable` where another process stands still while
    /// opening it.
    pub async fn open(state: &StateDir) -> Result<Self> {
        let path = state.path().join(FILE);
        let opened = {
            let path = path.clone();
            // The runtime's own threads would panic where none can be started.
            worker::once("stacyvm-open", &path.clone(), move || open::open(&path)).await?
        };
        let in_use = Arc::new(opened.in_use);
        let file: Arc<Path> = path.into();
        let disk = Arc::new(Disk(AtomicBool::new(open::WAITS_FOR_DISK)));
        let alone = opened.reader.is_none();
        let again = {
            let (file, disk) = (file.clone(), disk.clone());
            move || {
                let open = Open::new(&file, || open::writer(&file, alone))?;
                disk.0.store(open::WAITS_FOR_DISK, Ordering::Relaxed);
                Ok(open)
            }
        };
        let name = "stacyvm-store";
        let writer = Worker::start(name, &file, opened.writer, again, in_use.clone())?;
        let writer = Arc::new(writer);
        let reader = match opened.reader {
            Some(reader) => {
                let again = {
                    let file = file.clone();
                    move || Open::new(&file, || open::reader(&file))
                };
                Arc::new(Worker::start("stacyvm-read", &file, reader, again, in_use)?)
            }
            None => writer.clone(),
        };
        Ok(Self {
            writer,
            reader,
            disk,
            meta: opened.meta,
            file,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.file.to_path_buf()
    }

    async fn read<T: Send + 'static>(
        &self,
        cx: &Context,
        work: impl Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let file = self.file.clone();
        self.reader
            .run(cx, move |db| {
                // One snapshot for all that the work reads.
                let tx = db.transaction().map_err(|e| Fault::from(e).named(&file))?;
                work(&tx).map_err(|e| e.named(&file))
            })
            .await
    }

    async fn write<T: Send + 'static>(
        &self,
        cx: &Context,
        work: impl Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.run(cx, move |db, disk| {
            disk.wait(db, true)?;
            transact(db, &work)
        })
        .await
    }

    /// Writes without waiting for the disk.
    async fn note<T: Send + 'static>(
        &self,
        cx: &Context,
        work: impl Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.run(cx, move |db, disk| {
            disk.wait(db, false)?;
            transact(db, &work)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        cx: &Context,
        work: impl Fn(&mut Connection, &Disk) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let (file, disk) = (self.file.clone(), self.disk.clone());
        self.writer
            .run(cx, move |db| work(db, &disk).map_err(|e| e.named(&file)))
            .await
    }
}

/// Whether commits of the writer wait for the disk.
#[derive(Debug)]
struct Disk(AtomicBool);

impl Disk {
    /// Has the next ones wait, or not. Only the writer's thread asks.
    fn wait(&self, db: &Connection, wanted: bool) -> Result<(), Fault> {
        if self.0.load(Ordering::Relaxed) != wanted {
            let level = if wanted { "FULL" } else { "NORMAL" };
            db.pragma_update(None, "synchronous", level)?;
            self.0.store(wanted, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// One transaction that holds the file from its beginning, so that nothing it
/// reads can change before it writes.
fn transact<T>(
    db: &mut Connection,
    work: &impl Fn(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut tries = 1;
    loop {
        let done = (|| {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            fault_point!("store.begun");
            let done = work(&tx)?;
            fault_point!("store.written");
            tx.commit()?;
            fault_point!("store.committed");
            Ok(done)
        })();
        match done {
            Err(e) if Fault::is_busy(&e) && tries < BUSY_TRIES => tries += 1,
            done => return done,
        }
    }
}

fn begin(db: &Connection, record: &SandboxRecord) -> Result<Begin, Fault> {
    let holder = match &record.idempotency_key {
        Some(key) => query::holder_of_key(db, &record.tenant, key)?,
        None => None,
    };
    if let Some(known) = &holder
        && rules::keeps_key(known, record.created_ms)
    {
        rules::check_same_request(known, record)?;
        return Ok(Begin::Existing(known.clone()));
    }
    if query::sandbox_of_any(db, &record.id)?.is_some() {
        return Err(rules::sandbox_exists(&record.id).into());
    }
    if let Some(former) = holder {
        db.prepare_cached("UPDATE sandboxes SET idempotency_key = NULL WHERE id = ?1")?
            .execute([former.id.as_str()])?;
    }
    let record = rules::newborn(record);
    rows::insert_sandbox(db, &record)?;
    let at = record.created_ms;
    rows::insert_journal(db, &record.id, JournalStep::CreateIntent, at, "")?;
    Ok(Begin::New(record))
}

/// Those that may go: ended before a time, without a key that is kept and
/// without anything left of them.
macro_rules! prunable {
    () => {
        "FROM sandboxes s WHERE s.tenant = ?1 AND s.ended_ms < ?2 \
         AND (s.idempotency_key IS NULL OR s.phase = 'failed' OR s.ended_ms <= ?3) \
         AND NOT EXISTS (SELECT 1 FROM ledger r WHERE r.sandbox = s.id AND r.state <> 'gone')"
    };
}
const PRUNE: &str = concat!(
    "DELETE FROM sandboxes WHERE id IN (SELECT s.id ",
    prunable!(),
    " LIMIT ?4)"
);
const COUNT_PRUNABLE: &str = concat!("SELECT count(*) ", prunable!());

#[async_trait]
impl Store for SqliteStore {
    fn meta(&self) -> &StoreMeta {
        &self.meta
    }

    async fn begin_create(&self, cx: &Context, record: &SandboxRecord) -> Result<Begin> {
        rules::check_new(cx, record)?;
        let record = record.clone();
        if record.outlives_host {
            self.write(cx, move |db| begin(db, &record)).await
        } else {
            self.note(cx, move |db| begin(db, &record)).await
        }
    }

    async fn update_sandbox(
        &self,
        cx: &Context,
        id: &SandboxId,
        version: u64,
        update: &SandboxUpdate,
    ) -> Result<SandboxRecord> {
        let (tenant, id, update) = (cx.tenant.clone(), id.clone(), update.clone());
        let change = move |db: &Connection, waits: bool| {
            let before = query::sandbox(db, &tenant, &id)?;
            if before.outlives_host && !waits {
                return Ok(None);
            }
            let after = rules::apply(&before, version, &update)?;
            rows::update_sandbox(db, &before, &after)?;
            if let Some((step, detail)) = &update.step {
                rows::insert_journal(db, &id, *step, update.at_ms, detail)?;
            }
            rows::put_resources(db, &id, &update.resources)?;
            Ok(Some(after))
        };
        self.run(cx, move |db, disk| {
            let mut waits = false;
            loop {
                disk.wait(db, waits)?;
                if let Some(after) = transact(db, &|db: &Connection| change(db, waits))? {
                    return Ok(after);
                }
                waits = true;
            }
        })
        .await
    }

    async fn get_sandbox(&self, cx: &Context, id: &SandboxId) -> Result<SandboxRecord> {
        let (tenant, id) = (cx.tenant.clone(), id.clone());
        self.read(cx, move |db| query::sandbox(db, &tenant, &id))
            .await
    }

    async fn list_sandboxes(
        &self,
        cx: &Context,
        filter: &SandboxFilter,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Page<SandboxRecord, SandboxId>> {
        let (tenant, filter, after) = (cx.tenant.clone(), filter.clone(), after.cloned());
        self.read(cx, move |db| {
            query::sandboxes(db, &tenant, &filter, after.as_ref(), limit)
        })
        .await
    }

    async fn prune_sandboxes(
        &self,
        cx: &Context,
        ended_before_ms: u64,
        now_ms: u64,
        limit: u32,
    ) -> Result<u32> {
        let tenant = cx.tenant.clone();
        self.write(cx, move |db| {
            let pruned = db.prepare_cached(PRUNE)?.execute(params![
                tenant.as_str(),
                int(ended_before_ms),
                int(now_ms) - int(super::KEY_KEPT_MS),
                int(rules::page(limit) as u64),
            ])?;
            Ok(u32::try_from(pruned).unwrap_or(u32::MAX))
        })
        .await
    }

    async fn count_prunable(&self, cx: &Context, ended_before_ms: u64, now_ms: u64) -> Result<u64> {
        let tenant = cx.tenant.clone();
        self.read(cx, move |db| {
            let count: i64 = db.prepare_cached(COUNT_PRUNABLE)?.query_row(
                params![
                    tenant.as_str(),
                    int(ended_before_ms),
                    int(now_ms) - int(super::KEY_KEPT_MS),
                ],
                |row| row.get(0),
            )?;
            Ok(u64::try_from(count).unwrap_or_default())
        })
        .await
    }

    async fn append_journal(
        &self,
        cx: &Context,
        id: &SandboxId,
        entry: &JournalEntry,
    ) -> Result<u64> {
        let (tenant, id, entry) = (cx.tenant.clone(), id.clone(), entry.clone());
        self.write(cx, move |db| {
            query::must_exist(db, &tenant, &id)?;
            rows::insert_journal(db, &id, entry.step, entry.at_ms, &entry.detail)
        })
        .await
    }

    async fn journal(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: u64,
        limit: u32,
    ) -> Result<Page<JournalEntry, u64>> {
        let (tenant, id, limit) = (cx.tenant.clone(), id.clone(), rules::page(limit));
        self.read(cx, move |db| {
            query::must_exist(db, &tenant, &id)?;
            let found = query::all(
                db,
                "SELECT seq, step, at_ms, detail FROM journal \
                 WHERE sandbox = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
                params![id.as_str(), int(after), int(limit as u64 + 1)],
                rows::journal,
            )?;
            Ok(Page::cut(found, limit, |e| e.seq))
        })
        .await
    }

    async fn put_resources(
        &self,
        cx: &Context,
        id: &SandboxId,
        resources: &[Resource],
    ) -> Result<()> {
        let (tenant, id, resources) = (cx.tenant.clone(), id.clone(), resources.to_vec());
        self.write(cx, move |db| {
            query::must_exist(db, &tenant, &id)?;
            rows::put_resources(db, &id, &resources)
        })
        .await
    }

    async fn list_resources(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: Option<&Resource>,
        limit: u32,
    ) -> Result<Page<Resource, Resource>> {
        let (tenant, id, limit) = (cx.tenant.clone(), id.clone(), rules::page(limit));
        // No kind is empty text, so this is before the first.
        let (kind, name) =
            after.map_or_else(Default::default, |r| (r.kind.clone(), r.name.clone()));
        self.read(cx, move |db| {
            query::must_exist(db, &tenant, &id)?;
            let found = query::all(
                db,
                "SELECT kind, name, state FROM ledger \
                 WHERE sandbox = ?1 AND (kind, name) > (?2, ?3) ORDER BY kind, name LIMIT ?4",
                params![id.as_str(), kind, name, int(limit as u64 + 1)],
                rows::resource,
            )?;
            Ok(Page::cut(found, limit, Resource::clone))
        })
        .await
    }

    async fn put_exec(&self, cx: &Context, exec: &ExecRecord) -> Result<()> {
        let (tenant, exec) = (cx.tenant.clone(), exec.clone());
        self.note(cx, move |db| {
            query::must_exist(db, &tenant, &exec.sandbox)?;
            if query::exec(db, &exec.sandbox, &exec.exec)?.is_some() {
                return Err(rules::exec_exists(&exec.exec).into());
            }
            rows::insert_exec(db, &exec)
        })
        .await
    }

    async fn finish_exec(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        exit: ExitStatus,
        ended_ms: u64,
    ) -> Result<()> {
        let (tenant, id, exec) = (cx.tenant.clone(), id.clone(), exec.clone());
        self.note(cx, move |db| {
            query::must_exist(db, &tenant, &id)?;
            let known = query::exec(db, &id, &exec)?.ok_or_else(|| rules::no_exec(&exec))?;
            match known.exit {
                None => rows::end_exec(db, &known, exit, ended_ms),
                Some(known) => Ok(rules::check_same_exit(&exec, known, exit)?),
            }
        })
        .await
    }

    async fn list_execs(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: Option<&ExecId>,
        limit: u32,
    ) -> Result<Page<ExecRecord, ExecId>> {
        let (tenant, id, limit) = (cx.tenant.clone(), id.clone(), rules::page(limit));
        let after = after.map_or("", ExecId::as_str).to_owned();
        self.read(cx, move |db| {
            query::must_exist(db, &tenant, &id)?;
            let found = query::all(
                db,
                "SELECT sandbox, exec, program, arguments, started_ms, background, exit, ended_ms \
                 FROM execs WHERE sandbox = ?1 AND exec > ?2 ORDER BY exec LIMIT ?3",
                params![id.as_str(), after, int(limit as u64 + 1)],
                rows::exec,
            )?;
            Ok(Page::cut(found, limit, |e| e.exec.clone()))
        })
        .await
    }

    async fn close(&self) -> Result<()> {
        self.reader.close().await;
        self.writer.close().await;
        Ok(())
    }
}
