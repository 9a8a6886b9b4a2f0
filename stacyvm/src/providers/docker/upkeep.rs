//! What sandboxes and volumes take on the engine's disk, and removing volumes.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use bollard::models::{ContainerSummary, Volume};
use bollard::query_parameters::{ListContainersOptions, ListVolumesOptions, RemoveVolumeOptions};

use tokio::time::{Instant, sleep};

use super::create::{INSTANCE, SANDBOX};
use super::end::GONE_WITHIN;
use super::error::{is_absent, map, status};
use super::left::Left;
use super::life::Life;
use super::mounts::{VOLUME, name_of};
use super::patience::Answer;
use crate::error::Result;
use crate::id::SandboxId;
use crate::provider::{DiskUse, Leftover, NotRemoved, Reach, Tidied, TidyRequest};

impl Life {
    /// What the writable layers of this store's sandboxes take, and which volumes
    /// there are; how large these are only `docker system df` tells of every engine.
    pub(super) async fn disk_use(&self) -> Result<Vec<DiskUse>> {
        let sandboxes = self.containers(true).await?;
        let mut all: Vec<DiskUse> = sandboxes
            .iter()
            .filter_map(|seen| {
                let name = seen.labels.as_ref()?.get(SANDBOX)?.clone();
                let bytes = seen.size_rw.and_then(|bytes| u64::try_from(bytes).ok());
                Some(DiskUse {
                    kind: "sandbox".to_owned(),
                    name,
                    bytes: bytes.unwrap_or_default(),
                    // The engine leaves it out where nothing was written.
                    complete: true,
                })
            })
            .collect();
        let volumes = self.volumes().await?;
        let names = volumes.iter();
        all.extend(names.filter_map(|volume| {
            name_of(volume, &self.config.instance).map(|name| of_volume(name))
        }));
        Ok(all)
    }

    async fn containers(&self, size: bool) -> Result<Vec<ContainerSummary>> {
        let label = format!("{INSTANCE}={}", self.config.instance);
        let options = ListContainersOptions {
            all: true,
            size,
            filters: Some([("label".to_owned(), vec![label])].into()),
            ..ListContainersOptions::default()
        };
        let seen = self
            .docker
            .list_containers(Some(options))
            .within(&self.docker)
            .await;
        seen.map_err(map)
    }

    /// The named volumes of this store.
    async fn volumes(&self) -> Result<Vec<Volume>> {
        let labels = vec![
            format!("{INSTANCE}={}", self.config.instance),
            VOLUME.to_owned(),
        ];
        self.volumes_with(labels).await
    }

    async fn volumes_with(&self, labels: Vec<String>) -> Result<Vec<Volume>> {
        let options = ListVolumesOptions {
            filters: Some([("label".to_owned(), labels)].into()),
        };
        let seen = self
            .docker
            .list_volumes(Some(options))
            .within(&self.docker)
            .await;
        Ok(seen.map_err(map)?.volumes.unwrap_or_default())
    }

    /// Removes what a sandbox had of volumes of its own, waiting for its container.
    pub(super) async fn remove_volumes_of(&self, id: &SandboxId) -> Result<()> {
        let labels = vec![
            format!("{INSTANCE}={}", self.config.instance),
            format!("{SANDBOX}={id}"),
        ];
        for volume in self.volumes_with(labels).await? {
            self.remove_volume(&volume.name).await?;
        }
        Ok(())
    }

    async fn remove_volume(&self, name: &str) -> Result<()> {
        let until = Instant::now() + GONE_WITHIN;
        loop {
            let options = None::<RemoveVolumeOptions>;
            match self
                .docker
                .remove_volume(name, options)
                .within(&self.docker)
                .await
            {
                // A container that has just ended still has it.
                Err(e) if status(&e) == Some(409) && Instant::now() < until => {
                    sleep(Duration::from_millis(20)).await;
                }
                Err(e) if !is_absent(&e) => return Err(map(e)),
                _ => return Ok(()),
            }
        }
    }

    /// The volumes that sandboxes beside these containers had for themselves.
    pub(super) async fn left_volumes(
        &self,
        reach: Reach,
        containers: &[ContainerSummary],
        now: SystemTime,
    ) -> Result<Vec<Leftover>> {
        let left = Left { containers, now };
        let instance = match reach {
            Reach::Own => format!("{INSTANCE}={}", self.config.instance),
            Reach::Host => INSTANCE.to_owned(),
        };
        let seen = self
            .volumes_with(vec![instance, SANDBOX.to_owned()])
            .await?;
        let judged = seen.iter().filter_map(|seen| {
            let made = seen.created_at.as_deref();
            left.judge("volume", seen.name.clone(), &seen.labels, made)
        });
        Ok(judged.collect())
    }

    /// Removes a volume that [`Life::left_volumes`] named.
    pub(super) async fn remove_left_volume(&self, leftover: &Leftover) -> Result<()> {
        self.remove_volume(&leftover.name).await
    }

    /// Removes the volumes that no container has. The engine refuses to remove one
    /// that has come to be used meanwhile.
    pub(super) async fn tidy_volumes(&self, request: &TidyRequest) -> Result<Tidied> {
        let mut tidied = Tidied::default();
        if !request.volumes {
            return Ok(tidied);
        }
        let containers = self.containers(false).await?;
        let mounts = containers
            .iter()
            .flat_map(|seen| seen.mounts.iter().flatten());
        let used: HashSet<&str> = mounts.filter_map(|mount| mount.name.as_deref()).collect();
        let volumes = self.volumes().await?;
        // Shown to sandboxes by others, which go with these.
        let shown = volumes.iter().filter(|v| v.labels.contains_key(SANDBOX));
        let shown: HashSet<&String> = shown.filter_map(|v| v.labels.get(VOLUME)).collect();
        for volume in &volumes {
            let Some(name) = name_of(volume, &self.config.instance) else {
                continue;
            };
            let asked = match &request.only_volumes {
                Some(only) => only.contains(name),
                None => true,
            };
            if !asked || shown.contains(name) || used.contains(volume.name.as_str()) {
                continue;
            }
            if request.dry_run {
                tidied.gone.push(of_volume(name));
                continue;
            }
            let options = None::<RemoveVolumeOptions>;
            match self
                .docker
                .remove_volume(&volume.name, options)
                .within(&self.docker)
                .await
            {
                Ok(()) => tidied.gone.push(of_volume(name)),
                // Somebody uses it by now, or was faster.
                Err(e) if status(&e) == Some(409) || is_absent(&e) => {}
                Err(e) => tidied.failed.push(NotRemoved {
                    kind: "volume".to_owned(),
                    name: name.clone(),
                    reason: map(e).to_string(),
                }),
            }
        }
        Ok(tidied)
    }
}

fn of_volume(name: &str) -> DiskUse {
    DiskUse {
        kind: "volume".to_owned(),
        name: name.to_owned(),
        bytes: 0,
        complete: false,
    }
}
