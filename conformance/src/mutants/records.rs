//! Lies of records: of what belongs to the engine no provider tells.

use std::sync::Arc;

use async_trait::async_trait;
use stacyvm::context::Context;
use stacyvm::sandbox::state::Phase;
use stacyvm::store::{
    Begin, ExecRecord, JournalEntry, MemoryStore, Page, Resource, SandboxFilter, SandboxRecord,
    SandboxUpdate, Store, StoreMeta,
};
use stacyvm::{ExecId, ExitStatus, Result, SandboxId};

use super::Lie;

/// Records in memory under a lie; none is a store that tells the truth.
pub(super) fn records(lie: Option<Lie>) -> Arc<dyn Store> {
    let inner = MemoryStore::new();
    match lie {
        Some(lie @ (Lie::ForgetsLabels | Lie::ForgetsLabelsAtTheEnd | Lie::IgnoresLabels)) => {
            Arc::new(Records { inner, lie })
        }
        _ => Arc::new(inner),
    }
}

#[derive(Debug)]
struct Records {
    inner: MemoryStore,
    lie: Lie,
}

impl Records {
    fn told(&self, mut record: SandboxRecord) -> SandboxRecord {
        let forgets = match self.lie {
            Lie::ForgetsLabels => true,
            Lie::ForgetsLabelsAtTheEnd => record.phase == Phase::Ended,
            _ => false,
        };
        if forgets {
            record.labels.clear();
        }
        record
    }
}

#[async_trait]
impl Store for Records {
    fn meta(&self) -> &StoreMeta {
        self.inner.meta()
    }

    async fn begin_create(&self, cx: &Context, record: &SandboxRecord) -> Result<Begin> {
        Ok(match self.inner.begin_create(cx, record).await? {
            Begin::New(record) => Begin::New(self.told(record)),
            Begin::Existing(record) => Begin::Existing(self.told(record)),
        })
    }

    async fn update_sandbox(
        &self,
        cx: &Context,
        id: &SandboxId,
        version: u64,
        update: &SandboxUpdate,
    ) -> Result<SandboxRecord> {
        let updated = self.inner.update_sandbox(cx, id, version, update).await;
        updated.map(|record| self.told(record))
    }

    async fn get_sandbox(&self, cx: &Context, id: &SandboxId) -> Result<SandboxRecord> {
        let found = self.inner.get_sandbox(cx, id).await;
        found.map(|record| self.told(record))
    }

    async fn list_sandboxes(
        &self,
        cx: &Context,
        filter: &SandboxFilter,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Page<SandboxRecord, SandboxId>> {
        let mut filter = filter.clone();
        if self.lie == Lie::IgnoresLabels {
            filter.labels.clear();
        }
        let mut page = self.inner.list_sandboxes(cx, &filter, after, limit).await?;
        let items = page.items.into_iter();
        page.items = items.map(|record| self.told(record)).collect();
        Ok(page)
    }

    async fn prune_sandboxes(
        &self,
        cx: &Context,
        ended_before_ms: u64,
        now_ms: u64,
        limit: u32,
    ) -> Result<u32> {
        let inner = &self.inner;
        inner
            .prune_sandboxes(cx, ended_before_ms, now_ms, limit)
            .await
    }

    async fn count_prunable(&self, cx: &Context, ended_before_ms: u64, now_ms: u64) -> Result<u64> {
        self.inner.count_prunable(cx, ended_before_ms, now_ms).await
    }

    async fn append_journal(
        &self,
        cx: &Context,
        id: &SandboxId,
        entry: &JournalEntry,
    ) -> Result<u64> {
        self.inner.append_journal(cx, id, entry).await
    }

    async fn journal(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: u64,
        limit: u32,
    ) -> Result<Page<JournalEntry, u64>> {
        self.inner.journal(cx, id, after, limit).await
    }

    async fn put_resources(
        &self,
        cx: &Context,
        id: &SandboxId,
        resources: &[Resource],
    ) -> Result<()> {
        self.inner.put_resources(cx, id, resources).await
    }

    async fn list_resources(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: Option<&Resource>,
        limit: u32,
    ) -> Result<Page<Resource, Resource>> {
        self.inner.list_resources(cx, id, after, limit).await
    }

    async fn put_exec(&self, cx: &Context, exec: &ExecRecord) -> Result<()> {
        self.inner.put_exec(cx, exec).await
    }

    async fn finish_exec(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        exit: ExitStatus,
        ended_ms: u64,
    ) -> Result<()> {
        self.inner.finish_exec(cx, id, exec, exit, ended_ms).await
    }

    async fn list_execs(
        &self,
        cx: &Context,
        id: &SandboxId,
        after: Option<&ExecId>,
        limit: u32,
    ) -> Result<Page<ExecRecord, ExecId>> {
        self.inner.list_execs(cx, id, after, limit).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
