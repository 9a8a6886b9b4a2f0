//! The store of a program that needs nothing to outlive it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::record::{
    Begin, ExecRecord, JournalEntry, JournalStep, Page, Resource, ResourceState, SandboxFilter,
    SandboxRecord, SandboxUpdate,
};
use super::rules;
use super::{Store, StoreMeta};
use crate::context::Context;
use crate::error::Result;
use crate::id::{ExecId, SandboxId, TenantId};
use crate::sandbox::exec::ExitStatus;

/// Keeps records in memory. They end with the process.
#[derive(Debug)]
pub struct MemoryStore {
    meta: StoreMeta,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    closed: bool,
    sandboxes: BTreeMap<SandboxId, Row>,
    keys: BTreeMap<(TenantId, String), SandboxId>,
}

/// A sandbox and what belongs to it.
#[derive(Debug)]
struct Row {
    record: SandboxRecord,
    journal: Vec<JournalEntry>,
    resources: BTreeMap<(String, String), ResourceState>,
    execs: BTreeMap<ExecId, ExecRecord>,
}

impl Row {
    fn journal(&mut self, step: JournalStep, at_ms: u64, detail: &str) -> u64 {
        let seq = self.journal.len() as u64 + 1;
        self.journal.push(JournalEntry {
            seq,
            step,
            at_ms,
            detail: detail.to_owned(),
        });
        seq
    }

    /// Whether it may go: ended before a time, without a key that is kept and
    /// without anything left of it.
    fn is_prunable(&self, cx: &Context, ended_before_ms: u64, now_ms: u64) -> bool {
        let r = &self.record;
        r.tenant == cx.tenant
            && r.ended_ms.is_some_and(|at| at < ended_before_ms)
            && (r.idempotency_key.is_none() || !rules::keeps_key(r, now_ms))
            && self.resources.values().all(|s| *s == ResourceState::Gone)
    }

    fn put(&mut self, resources: &[Resource]) {
        for r in resources {
            self.resources
                .insert((r.kind.clone(), r.name.clone()), r.state);
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store with an identity of its own.
    pub fn new() -> Self {
        Self {
            meta: StoreMeta::mint(),
            tables: Mutex::default(),
        }
    }

    fn lock(&self, cx: &Context) -> Result<MutexGuard<'_, Tables>> {
        cx.check()?;
        // No method leaves the tables half changed when it panics.
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.closed {
            return Err(rules::closed());
        }
        Ok(tables)
    }
}

impl Tables {
    fn row(&mut self, cx: &Context, id: &SandboxId) -> Result<&mut Row> {
        self.sandboxes
            .get_mut(id)
            .filter(|row| row.record.tenant == cx.tenant)
            .ok_or_else(|| rules::no_sandbox(id))
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn meta(&self) -> &StoreMeta {
        &self.meta
    }

    async fn begin_create(&self, cx: &Context, record: &SandboxRecord) -> Result<Begin> {
        rules::check_new(cx, record)?;
        let mut tables = self.lock(cx)?;
        let key = record
            .idempotency_key
            .clone()
            .map(|key| (record.tenant.clone(), key));
        let holder = key.as_ref().and_then(|key| tables.keys.get(key).cloned());
        if let Some(known) = holder.as_ref().and_then(|id| tables.sandboxes.get(id))
            && rules::keeps_key(&known.record, record.created_ms)
        {
            rules::check_same_request(&known.record, record)?;
            return Ok(Begin::Existing(known.record.clone()));
        }
        if tables.sandboxes.contains_key(&record.id) {
            return Err(rules::sandbox_exists(&record.id));
        }
        if let Some(former) = holder.and_then(|id| tables.sandboxes.get_mut(&id)) {
            former.record.idempotency_key = None;
        }
        let record = rules::newborn(record);
        let mut row = Row {
            record: record.clone(),
            journal: Vec::new(),
            resources: BTreeMap::new(),
            execs: BTreeMap::new(),
        };
        row.journal(JournalStep::CreateIntent, record.created_ms, "");
        tables.sandboxes.insert(record.id.clone(), row);
        if let Some(key) = key {
            tables.keys.insert(key, record.id.clone());
        }
        Ok(Begin::New(record))
    }

    async fn update_sandbox(
        &self,
        cx: &Context,
        id: &SandboxId,
        version: u64,
        update: &SandboxUpdate,
    ) -> Result<SandboxRecord> {
        let mut tables = self.lock(cx)?;
        let row = tables.row(cx, id)?;
        row.record = rules::apply(&row.record, version, update)?;
        if let Some((step, detail)) = &update.step {
            row.journal(*step, update.at_ms, detail);
        }
        row.put(&update.resources);
        Ok(row.record.clone())
    }

    async fn get_sandbox(&self, cx: &Context, id: &SandboxId) -> Result<SandboxRecord> {
        Ok(self.lock(cx)?.row(cx, id)?.record.clone())
    }

    async fn list_sandboxes(
        &self,
        cx: &Context,
        filter: &SandboxFilter,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Page<SandboxRecord, SandboxId>> {
        let tables = self.lock(cx)?;
        let limit = rules::page(limit);
        let found = tables
            .sandboxes
            .range((rules::beyond(after), std::ops::Bound::Unbounded))
            .map(|(_, row)| &row.record)
            .filter(|r| (filter.all_tenants || r.tenant == cx.tenant) && filter.matches(r))
            .take(limit + 1)
            .cloned()
            .collect();
        Ok(Page::cut(found, limit, |r| r.id.clone()))
    }

    async fn prune_sandboxes(
        &self,
        cx: &Context,
        ended_before_ms: u64,
        now_ms: u64,
        limit: u32,
    ) -> Result<u32> {
        let mut tables = self.lock(cx)?;
        let old: Vec<SandboxId> = tables
            .sandboxes
            .values()
            .filter(|row| row.is_prunable(cx, ended_before_ms, now_ms))
            .take(rules::page(limit))
            .map(|row| row.record.id.clone())
            .collect();
        for id in &old {
            let row = tables.sandboxes.remove(id);
            if let Some((tenant, key)) =
                row.and_then(|r| Some((r.record.tenant, r.record.idempotency_key?)))
            {
                tables.keys.remove(&(tenant, key));
            }
        }
        Ok(u32::try_from(old.len()).unwrap_or(u32::MAX))
    }

    async fn count_prunable(&self, cx: &Context, ended_before_ms: u64, now_ms: u64) -> Result<u64> {
        let tables = self.lock(cx)?;
        let rows = tables.sandboxes.values();
        let old = rows.filter(|row| row.is_prunable(cx, ended_before_ms, now_ms));
        Ok(old.count() as u64)
    }

    async fn append_journal(
        &self,
        cx: &Context,
        id: &SandboxId,
        entry: &JournalEntry,
    ) -> Result<u64> {
        let mut tables = self.lock(cx)?;
        Ok(tables
            .row(cx, id)?
            .journal(entry.step, entry.at_ms, &entry.detail))
    }

    async fn journal(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: u64,
        limit: u32,
    ) -> Result<Page<JournalEntry, u64>> {
        let mut tables = self.lock(cx)?;
        let limit = rules::page(limit);
        let entries = tables.row(cx, id)?.journal.iter();
        let found = entries
            .filter(|e| e.seq > after)
            .take(limit + 1)
            .cloned()
            .collect();
        Ok(Page::cut(found, limit, |e| e.seq))
    }

    async fn put_resources(
        &self,
        cx: &Context,
        id: &SandboxId,
        resources: &[Resource],
    ) -> Result<()> {
        self.lock(cx)?.row(cx, id)?.put(resources);
        Ok(())
    }

    async fn list_resources(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: Option<&Resource>,
        limit: u32,
    ) -> Result<Page<Resource, Resource>> {
        let mut tables = self.lock(cx)?;
        let limit = rules::page(limit);
        let after = after.map(|r| (r.kind.clone(), r.name.clone()));
        let found = tables
            .row(cx, id)?
            .resources
            .range((rules::beyond(after.as_ref()), std::ops::Bound::Unbounded))
            .take(limit + 1)
            .map(|((kind, name), state)| Resource {
                kind: kind.clone(),
                name: name.clone(),
                state: *state,
            })
            .collect();
        Ok(Page::cut(found, limit, Resource::clone))
    }

    async fn put_exec(&self, cx: &Context, exec: &ExecRecord) -> Result<()> {
        let mut tables = self.lock(cx)?;
        let row = tables.row(cx, &exec.sandbox)?;
        if row.execs.contains_key(&exec.exec) {
            return Err(rules::exec_exists(&exec.exec));
        }
        row.execs.insert(exec.exec.clone(), exec.clone());
        Ok(())
    }

    async fn finish_exec(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        exit: ExitStatus,
        ended_ms: u64,
    ) -> Result<()> {
        let mut tables = self.lock(cx)?;
        let record = tables.row(cx, id)?.execs.get_mut(exec);
        let record = record.ok_or_else(|| rules::no_exec(exec))?;
        match record.exit {
            None => {
                record.exit = Some(exit);
                record.ended_ms = Some(ended_ms);
                Ok(())
            }
            Some(known) => rules::check_same_exit(exec, known, exit),
        }
    }

    async fn list_execs(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: Option<&ExecId>,
        limit: u32,
    ) -> Result<Page<ExecRecord, ExecId>> {
        let mut tables = self.lock(cx)?;
        let limit = rules::page(limit);
        let found = tables
            .row(cx, id)?
            .execs
            .range((rules::beyond(after), std::ops::Bound::Unbounded))
            .take(limit + 1)
            .map(|(_, e)| e.clone())
            .collect();
        Ok(Page::cut(found, limit, |e| e.exec.clone()))
    }

    async fn close(&self) -> Result<()> {
        self.tables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        Ok(())
    }
}
