//! What is left on the host, what takes room, and what nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Engine, unrecorded};
use crate::clock::to_ms;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{DiskUse, Leftover, NotRemoved, Provider as _, Reach, Tidied, TidyRequest};
use crate::sandbox::state::Phase;
use crate::store::SandboxFilter;

/// How long after a first look it is looked again at what seems to be left.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Records that are deleted in one step.
const PRUNED_AT_ONCE: u32 = 1_000;

/// What of stacyvm is on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakReport {
    /// What no living owner and no record accounts for.
    pub leaks: Vec<Leftover>,
    /// What a living owner or a record accounts for; with [`Reach::Host`] alone.
    pub accounted: Vec<Leftover>,
    /// Providers that could not be asked, and why.
    pub not_asked: BTreeMap<String, String>,
}

/// What takes room on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// Sandboxes, volumes, cached programs, the store.
    pub items: Vec<DiskUse>,
    /// Providers that could not tell, and why.
    pub not_asked: BTreeMap<String, String>,
}

/// What is to be pruned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneRequest {
    /// Records of sandboxes that ended longer ago than this. A record whose
    /// idempotency key is kept stays for a day.
    pub older_than: Duration,
    /// The moment that ages are counted from; now, if it is left out or later. The
    /// moment of a dry run here prunes no record that the dry run did not count.
    pub at: Option<SystemTime>,
    /// Whether volumes that no sandbox has go too.
    pub volumes: bool,
    /// The volumes that may go; all of them, if it is left out.
    pub only_volumes: Option<Vec<String>>,
    /// Whether it is only told what would go.
    pub dry_run: bool,
}

/// What was pruned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Records of ended sandboxes.
    pub records: u64,
    /// What was removed from the disk.
    pub items: Vec<DiskUse>,
    /// What should have gone and could not be removed, and why.
    pub not_removed: Vec<NotRemoved>,
    /// Providers that could not be asked, and why.
    pub not_asked: BTreeMap<String, String>,
}

impl Engine {
    /// Looks for what was left on this host. Changes nothing, but that opening
    /// a provider takes away what dead helpers left in its state directory.
    ///
    /// # Errors
    ///
    /// What the store could not do.
    pub async fn leaks(&self, reach: Reach) -> Result<LeakReport> {
        let first = self.look(reach).await?;
        if first.leaks.is_empty() {
            return Ok(first);
        }
        // What is made or ends during a look seems to be left.
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let mut second = self.look(reach).await?;
        second
            .leaks
            .retain(|leak| first.leaks.iter().any(|l| l.id == leak.id));
        Ok(second)
    }

    async fn look(&self, reach: Reach) -> Result<LeakReport> {
        let mut known = self.living_records().await?;
        let mut report = LeakReport::default();
        let asked = self
            .ask_each(|provider| async move { provider.leftovers(&self.0.context, reach).await })
            .await;
        // Those that were made since are no leaks.
        known.extend(self.living_records().await?);
        report.not_asked = asked.failed;
        for mut leftover in asked.answers.into_iter().flatten() {
            // A foreign owner's records are not ours to read; its life tells.
            let recorded = match &leftover.sandbox {
                Some(id) => !self.is_own(&leftover) || known.contains(id.as_str()),
                None => true,
            };
            if self.lost(&leftover, &known).is_some() {
                unrecorded::REMEDY.clone_into(&mut leftover.remedy);
            }
            if leftover.owner_lives && recorded {
                report.accounted.push(leftover);
            } else {
                report.leaks.push(leftover);
            }
        }
        if reach == Reach::Own {
            report.accounted.clear();
        }
        Ok(report)
    }

    /// Removes something that [`leaks`](Self::leaks) names, wherever it is on
    /// this host. What a living owner holds is never touched, but for a sandbox of
    /// this state directory that no record names: it is ended.
    ///
    /// # Errors
    ///
    /// `not_found` for an id that nothing has; `conflict` where an owner lives;
    /// `unsupported` for a kind that only its remedy removes.
    pub async fn remove_leak(&self, id: &str) -> Result<()> {
        let looked = self
            .ask_each(|provider| async move {
                let found = provider.leftovers(&self.0.context, Reach::Host).await?;
                Ok((provider, found))
            })
            .await;
        for (provider, found) in looked.answers {
            if let Some(leftover) = found.iter().find(|leftover| leftover.id == id) {
                if let Some(sandbox) = self.unrecorded(leftover).await? {
                    return provider.destroy(&self.0.context, &sandbox).await;
                }
                return provider.remove_leftover(&self.0.context, id).await;
            }
        }
        let mut error = Error::new(
            ErrorKind::NotFound,
            format!("nothing on this host has the id `{id}`, expected one that leaks shows"),
        )
        .context("field", "remove")
        .context("value", id)
        .context("remedy", "take the id from `stacyvm leaks --all`");
        for (name, why) in looked.failed {
            error = error.context("not_asked", format!("{name}: {why}"));
        }
        Err(error)
    }

    /// Takes away what helpers that were killed have left in the state
    /// directory, and tells what it was; what opening a provider took away
    /// included, whose size was not looked at.
    pub async fn sweep(&self) -> Pruned {
        let request = TidyRequest {
            dead: true,
            ..TidyRequest::default()
        };
        self.tidy(&request).await
    }

    /// Tells what takes room on the disk.
    ///
    /// # Errors
    ///
    /// None so far; what cannot be looked at is in the report.
    pub async fn disk_use(&self) -> Result<DiskReport> {
        let asked = self
            .ask_each(|provider| async move { provider.disk_use(&self.0.context).await })
            .await;
        let mut items: Vec<DiskUse> = asked.answers.into_iter().flatten().collect();
        if let Some(state) = &self.0.policy.state_dir {
            items.extend(store_files(state));
        }
        Ok(DiskReport {
            items,
            not_asked: asked.failed,
        })
    }

    /// Removes what nobody needs: records of ended sandboxes, cached programs
    /// that no process executes and no living engine would, and, where asked for,
    /// volumes that no sandbox has. Ends that no record tells yet are recorded
    /// first, in a dry run too, unless a moment is given: they would be past it.
    ///
    /// # Errors
    ///
    /// What the store could not do. What a provider could not do is told.
    ///
    /// # Cancellation
    ///
    /// What was removed until then is gone; the rest stays.
    pub async fn prune(&self, request: &PruneRequest) -> Result<Pruned> {
        if request.at.is_none() {
            self.record_ends().await?;
        }
        let now = self.0.clock.now();
        let now = to_ms(request.at.map_or(now, |at| at.min(now)));
        let age = u64::try_from(request.older_than.as_millis()).unwrap_or(u64::MAX);
        // One that ends in this millisecond is old enough for an age of nothing.
        let before = now.saturating_sub(age).saturating_add(1);
        let mut pruned = self
            .tidy(&TidyRequest {
                cache: true,
                volumes: request.volumes,
                only_volumes: request.only_volumes.clone(),
                dry_run: request.dry_run,
                ..TidyRequest::default()
            })
            .await;
        if request.dry_run {
            let (context, store) = (&self.0.context, &self.0.store);
            pruned.records = store.count_prunable(context, before, now).await?;
            return Ok(pruned);
        }
        loop {
            let (context, store) = (&self.0.context, &self.0.store);
            let count = store
                .prune_sandboxes(context, before, now, PRUNED_AT_ONCE)
                .await?;
            pruned.records += u64::from(count);
            if count < PRUNED_AT_ONCE {
                return Ok(pruned);
            }
        }
    }

    async fn tidy(&self, request: &TidyRequest) -> Pruned {
        let asked = self
            .ask_each(|provider| async move { provider.tidy(&self.0.context, request).await })
            .await;
        let mut pruned = Pruned {
            not_asked: asked.failed,
            ..Pruned::default()
        };
        for Tidied { gone, failed } in asked.answers {
            pruned.items.extend(gone);
            pruned.not_removed.extend(failed);
        }
        pruned
    }

    pub(super) async fn living_records(&self) -> Result<BTreeSet<String>> {
        let phases: Vec<Phase> = Phase::ALL
            .iter()
            .copied()
            .filter(|p| !p.is_final())
            .collect();
        let records = self.all_in(&phases).await?;
        Ok(records.into_iter().map(|r| r.id.to_string()).collect())
    }

    /// Asks every configured provider that opens. One that this state directory
    /// has never used may not be there at all, which is no failure.
    async fn ask_each<T, F>(
        &self,
        ask: impl Fn(std::sync::Arc<crate::layer::Layered>) -> F,
    ) -> Asked<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut asked = Asked {
            answers: Vec::new(),
            failed: BTreeMap::new(),
        };
        let names: Vec<String> = self.0.registry.names().map(str::to_owned).collect();
        for name in names {
            let answer = match self.0.registry.open(&name).await {
                Ok(provider) => ask(provider).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => asked.answers.push(answer),
                Err(error) => {
                    asked.failed.insert(name, error.to_string());
                }
            }
        }
        asked
    }

    /// Whether a record, ended or not, was made by this provider.
    pub async fn uses(&self, provider: &str) -> Result<bool> {
        let filter = SandboxFilter {
            all_tenants: true,
            provider: Some(provider.to_owned()),
            ..SandboxFilter::default()
        };
        let store = &self.0.store;
        let page = store
            .list_sandboxes(&self.0.context, &filter, None, 1)
            .await?;
        Ok(provider == self.0.default_provider || !page.items.is_empty())
    }
}

struct Asked<T> {
    answers: Vec<T>,
    failed: BTreeMap<String, String>,
}

/// The files of the store in a state directory.
fn store_files(state: &std::path::Path) -> Vec<DiskUse> {
    let entries = std::fs::read_dir(state).into_iter().flatten().flatten();
    let mut files: Vec<DiskUse> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let found = entry.metadata().ok()?;
            (name.starts_with("store.") && found.is_file()).then(|| DiskUse {
                kind: "store".to_owned(),
                name,
                bytes: on_disk(&found),
                complete: true,
            })
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

#[cfg(unix)]
fn on_disk(found: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(found) * 512
}

#[cfg(not(unix))]
fn on_disk(found: &std::fs::Metadata) -> u64 {
    found.len()
}
