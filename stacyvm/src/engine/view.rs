//! Finding sandboxes and telling what they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::phase::{Seen, decide};
use super::records::{POOL, is_of_pool, spec_of, times, waits};
use crate::clock::to_ms;
use crate::context::Context;
use crate::error::Result;
use crate::id::{SandboxId, TenantId};
use crate::provider::{Capabilities, ProbeReport, Provider};
use crate::sandbox::handle::Sandbox;
use crate::sandbox::info::SandboxInfo;
use crate::sandbox::state::Phase;
use crate::store::{SandboxFilter, SandboxRecord};

/// How many records are read, and how many sandboxes looked at, at once.
const PAGE: u32 = 256;
const AT_ONCE: usize = 16;

/// Which sandboxes are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of this tenant; of the engine's own if none.
    pub tenant: Option<TenantId>,
    /// Those in this phase.
    pub phase: Option<Phase>,
    /// Those that have all these labels.
    pub labels: BTreeMap<String, String>,
    /// Whether those that ended or failed are listed too.
    pub all: bool,
    /// Those after this id, in the order of ids.
    pub after: Option<SandboxId>,
    /// How many at most; all of them if none.
    pub limit: Option<u32>,
}

impl Filter {
    /// What the store can tell by itself. A recorded phase may be behind what
    /// the provider sees, so that only a phase that no other becomes is left out.
    fn to_store(&self) -> SandboxFilter {
        let mut phases: Vec<Phase> = Phase::ALL.to_vec();
        if !self.all && self.phase.is_none() {
            phases.retain(|phase| !phase.is_final());
        }
        if let Some(wanted) = self.phase {
            phases.retain(|phase| *phase == wanted || !phase.is_final());
        }
        SandboxFilter {
            phases,
            labels: self.labels.clone(),
            ..SandboxFilter::default()
        }
    }

    fn shows(&self, phase: Phase) -> bool {
        match self.phase {
            Some(wanted) => wanted == phase,
            None => self.all || !phase.is_final(),
        }
    }
}

/// A configured provider and whether this host can run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderSummary {
    /// Its name.
    pub name: String,
    /// Its kind: `oci`, `docker`, ...
    pub kind: String,
    /// Whether a create that names no provider uses it.
    pub default: bool,
    /// The runtime below it; empty if it could not be opened.
    pub runtime: String,
    /// The versions that matter, by name.
    pub versions: BTreeMap<String, String>,
    /// What it can do on this host; nothing if it could not be opened.
    pub capabilities: Capabilities,
    /// Whether this host can run it, and why not.
    pub probe: ProbeReport,
    /// Why it could not be opened or asked.
    pub error: Option<String>,
}

impl Engine {
    /// Finds a sandbox by its id, or by the beginning of an id that no other
    /// sandbox shares.
    ///
    /// # Errors
    ///
    /// `not_found`; `conflict` for a beginning that several share.
    pub async fn get(&self, id: impl AsRef<str>) -> Result<Sandbox> {
        self.get_in(&self.0.context, id).await
    }

    /// Finds a sandbox in this context.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get).
    pub async fn get_in(&self, context: &Context, id: impl AsRef<str>) -> Result<Sandbox> {
        let id = SandboxId::new(id.as_ref()).map_err(|e| e.operation("get"))?;
        let record = self
            .find(context, &id)
            .await
            .map_err(|e| e.operation("get"))?;
        let provider = self.0.registry.open(&record.provider).await?;
        if waits(&record) {
            return Ok(self.waiting_handle(provider, record.id, context.clone()));
        }
        Ok(self.handle(provider, record.id, context.clone()))
    }

    /// Lists sandboxes in the order of their ids. Those of a pool that nobody has
    /// claimed are left out unless the filter names the label `stacyvm.pool`.
    ///
    /// # Errors
    ///
    /// What the store could not do. A provider that does not answer is told in
    /// [`SandboxInfo::unreachable`].
    pub async fn list(&self, filter: Filter) -> Result<Vec<SandboxInfo>> {
        let mut context = self.0.context.clone();
        if let Some(tenant) = &filter.tenant {
            context.tenant = tenant.clone();
        }
        let most = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        let wanted = filter.to_store();
        let mut after = filter.after.clone();
        let mut found = Vec::new();
        while found.len() < most {
            let store = &self.0.store;
            let page = store
                .list_sandboxes(&context, &wanted, after.as_ref(), PAGE)
                .await
                .map_err(|e| e.operation("list"))?;
            let pools = filter.labels.contains_key(POOL);
            let shown: Vec<_> = page
                .items
                .iter()
                .filter(|record| pools || !is_of_pool(record))
                .collect();
            for group in shown.chunks(AT_ONCE) {
                let asked = group.iter().map(|record| self.describe(&context, record));
                for info in join_all(asked).await {
                    let info = info?;
                    if filter.shows(info.phase) {
                        found.push(info);
                    }
                }
            }
            match page.next {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        found.truncate(most);
        Ok(found)
    }

    /// A configured provider as this engine uses it, with its layers.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a name that is not configured, and what opening it
    /// fails with.
    pub async fn provider(&self, name: &str) -> Result<Arc<dyn Provider>> {
        Ok(self.0.registry.open(name).await?)
    }

    /// Tells what each configured provider is, can do, and needs.
    ///
    /// Opens every provider; one that fails is listed with its error.
    pub async fn providers(&self) -> Vec<ProviderSummary> {
        let names = self.0.registry.names().map(|name| self.summarize(name));
        join_all(names).await
    }

    async fn summarize(&self, name: &str) -> ProviderSummary {
        let mut summary = ProviderSummary {
            name: name.to_owned(),
            kind: self.0.registry.kind(name).unwrap_or_default().to_owned(),
            default: name == self.0.default_provider,
            runtime: String::new(),
            versions: BTreeMap::new(),
            capabilities: Capabilities::default(),
            probe: ProbeReport::default(),
            error: None,
        };
        let provider = match self.0.registry.open(name).await {
            Ok(provider) => provider,
            Err(error) => {
                summary.error = Some(error.to_string());
                return summary;
            }
        };
        let info = provider.info();
        summary.runtime = info.runtime;
        summary.versions = info.versions;
        summary.capabilities = provider.capabilities();
        match provider.probe(&self.0.context).await {
            Ok(probe) => summary.probe = probe,
            Err(error) => summary.error = Some(error.to_string()),
        }
        summary
    }

    pub(crate) async fn info(&self, context: &Context, id: &SandboxId) -> Result<SandboxInfo> {
        let record = self.load(context, id).await?;
        self.describe(context, &record).await
    }

    /// Joins a record with what its provider sees now.
    async fn describe(&self, context: &Context, record: &SandboxRecord) -> Result<SandboxInfo> {
        let (spec, env_names) = spec_of(record)?;
        let (created, ends, ended) = times(record);
        let mut info = SandboxInfo {
            id: record.id.clone(),
            tenant: record.tenant.clone(),
            phase: record.phase,
            provider: record.provider.clone(),
            runtime: record.runtime.clone(),
            source: spec.source,
            created,
            ends,
            idle_timeout: spec.idle_timeout,
            idle_ends: None,
            ended,
            lifetime: record.lifetime,
            profile: spec.profile,
            labels: record.labels.clone(),
            env_names,
            user: spec.user,
            workdir: spec.workdir,
            resources: spec.resources,
            network: spec.network,
            mounts: spec.mounts,
            effective: record.effective.clone(),
            host_pid: None,
            failure: record.failure.clone(),
            unreachable: None,
        };
        if record.phase.is_final() || (record.phase == Phase::Creating && !waits(record)) {
            show_what_holds(&mut info);
            return Ok(info);
        }
        let seen = self.see(context, record).await;
        info.phase = decide(record.phase, &seen);
        match seen {
            Seen::There(observed) => {
                info.ends = end(info.ends, observed.ends);
                info.idle_ends = observed.idle_ends;
                info.host_pid = observed.host_pid;
                info.effective.extend(observed.effective);
            }
            Seen::Gone => {}
            Seen::Unknown(error) => info.unreachable = Some(error.to_string()),
        }
        show_what_holds(&mut info);
        Ok(info)
    }

    /// Asks the provider of a record what it sees.
    pub(super) async fn see(&self, context: &Context, record: &SandboxRecord) -> Seen {
        match self.0.registry.open(&record.provider).await {
            Ok(provider) => Seen::from_answer(provider.inspect(context, &record.id).await),
            Err(error) => Seen::Unknown(error),
        }
    }

    /// Ends what this engine still has under way, its pools among it, and lets go
    /// of its store.
    /// Sandboxes go on; attached ones end once their owner is gone.
    ///
    /// # Errors
    ///
    /// What the store could not do.
    pub async fn close(&self) -> Result<()> {
        if let Some(reconciling) = self.0.reconciling.get() {
            reconciling.abort();
        }
        self.drain_pools().await;
        self.0.tasks.finish().await;
        self.0.store.close().await
    }
}

/// The end that is told. A provider that knows what is left of a life gives a slightly
/// different moment each time that it is asked: one near that on record is that one.
fn end(recorded: Option<SystemTime>, observed: Option<SystemTime>) -> Option<SystemTime> {
    let (Some(on_record), Some(seen)) = (recorded, observed) else {
        return observed.or(recorded);
    };
    let apart = Duration::from_millis(to_ms(seen).abs_diff(to_ms(on_record)));
    Some(if apart < Duration::from_secs(1) {
        on_record
    } else {
        seen
    })
}

/// Where a host gives fewer open files than the profile prefers, the limit that
/// is shown is the one that holds. One that the caller asks for is never less.
fn show_what_holds(info: &mut SandboxInfo) {
    let held = info.effective.get("open_files_limit");
    if let Some(held) = held.and_then(|held| held.value.parse().ok()) {
        info.resources.open_files = Some(held);
    }
}
