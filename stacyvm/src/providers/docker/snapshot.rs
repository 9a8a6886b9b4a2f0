//! Snapshots of the disk: the container's own layer as an image of the engine.
//!
//! An image is made without a name first and named last, so that what has the name is
//! whole. What a process that died left has our labels and no name, as has what was
//! deleted while a sandbox made of it lived: [`Life::sweep_snapshots`] takes it away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
    ImageInspect, ImageSummary,
};
use bollard::query_parameters::{
    CommitContainerOptions, ListImagesOptions, RemoveImageOptions, TagImageOptions,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::create::{self, INSTANCE, REQUEST, SANDBOX, TENANT};
use super::error::{is_absent, map, status};
use super::images::{Base, label, owner};
use super::life::{Life, gone};
use super::observe;
use super::patience::Answer;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{InstanceId, SandboxId, SnapshotId, TenantId};
use crate::provider::{DiskUse, Leftover, NotRemoved, Reach, SnapshotInfo, Tidied};
use crate::providers::default_user::DEFAULT_USER;

/// The label of an image that is a snapshot, and of what is made of it.
pub(super) const SNAPSHOT: &str = "stacyvm.snapshot";
/// The image's name; its tag is the snapshot's id.
const REPOSITORY: &str = "stacyvm-snapshot";
/// How long after it was made an image may wait for its name.
const BEGINNING: Duration = Duration::from_mins(2);
/// How long an agent may take to hear that it will stand still.
const PATIENCE: Duration = Duration::from_secs(2);

fn name(snapshot: &SnapshotId) -> String {
    format!("{REPOSITORY}:{snapshot}")
}

/// The error for a snapshot that this tenant does not have.
pub(super) fn missing(snapshot: &SnapshotId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("the docker engine has no snapshot `{snapshot}` of this tenant"),
    )
    .context("field", "snapshot")
    .context("value", snapshot)
}

impl Life {
    /// Saves a sandbox in a task of its own, which goes on when the caller gives up.
    /// What nobody waits for any more is removed as soon as it is there.
    pub(super) async fn snapshot(
        life: &Arc<Self>,
        id: SandboxId,
        snapshot: SnapshotId,
    ) -> Result<SnapshotInfo> {
        life.facts.snapshots()?;
        let life = Arc::clone(life);
        let (answer, asked) = oneshot::channel();
        tokio::spawn(async move {
            let _turn = life.images.alone(&name(&snapshot)).await;
            let (saved, is_new) = match life.save(&id, &snapshot).await {
                Ok((info, is_new)) => (Ok(info), is_new),
                Err(error) => (Err(error), false),
            };
            if answer.send(saved).is_err() && is_new {
                life.unwanted(&snapshot).await;
            }
        });
        asked.await.unwrap_or_else(|_| {
            let message = "the task that saves the sandbox ended early";
            Err(Error::new(ErrorKind::Internal, message))
        })
    }

    async fn unwanted(&self, snapshot: &SnapshotId) {
        if let Err(error) = self.remove_image(&name(snapshot), true).await {
            tracing::warn!(%snapshot, %error, "a snapshot that was not wanted is left");
        }
    }

    /// The snapshot, and whether it is new.
    async fn save(&self, id: &SandboxId, snapshot: &SnapshotId) -> Result<(SnapshotInfo, bool)> {
        let Some(seen) = self.look(id).await? else {
            return Err(gone(ErrorKind::NotFound).context("sandbox", id));
        };
        let paused = match seen.state.as_ref().and_then(|state| state.status) {
            Some(ContainerStateStatusEnum::RUNNING) => false,
            Some(ContainerStateStatusEnum::PAUSED) => true,
            _ => return Err(gone(ErrorKind::SandboxGone).context("sandbox", id)),
        };
        let of = seen.image.clone().unwrap_or_default();
        let base = self.image(&of).await?.unwrap_or_default();
        if let Some(there) = self.saved(snapshot, None).await? {
            // The same again is the same: the first one stands.
            if is_of(&there, &seen) {
                return Ok((info(snapshot, &there, &base), false));
            }
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("there is a snapshot `{snapshot}` already, of another sandbox"),
            )
            .context("snapshot", snapshot));
        }
        self.has_all(&seen)?;
        // What is left of others takes room.
        if let Err(error) = self.sweep_snapshots(false).await {
            tracing::debug!(%error, "what is left of snapshots could not be looked at");
        }
        let container = seen.id.clone().unwrap_or_else(|| create::container(id));
        let made = {
            let _saving = self.images.saving(id);
            if !paused {
                self.tell_end(id).await;
            }
            let options = CommitContainerOptions {
                container: Some(container.clone()),
                // All stands still meanwhile, so that what is saved was there at one time.
                pause: true,
                ..CommitContainerOptions::default()
            };
            let config = image_config(&seen, &base, snapshot);
            self.docker
                .commit_container(options, config)
                .within(&self.docker)
                .await
        };
        if !paused {
            self.tell_end(id).await;
        }
        let made = match made {
            Ok(made) => made.id,
            Err(e) if matches!(status(&e), Some(404 | 409)) => {
                return Err(gone(ErrorKind::SandboxGone)
                    .context("sandbox", id)
                    .source(e));
            }
            Err(e) => return Err(map(e)),
        };
        let named = self.give_name(&made, snapshot).await;
        let there = match named {
            Ok(there) => there,
            Err(error) => {
                if let Err(left) = self.remove_image(&made, false).await {
                    tracing::warn!(%snapshot, error = %left, "a half-made snapshot is left");
                }
                return Err(error);
            }
        };
        Ok((info(snapshot, &there, &base), true))
    }

    async fn give_name(&self, image: &str, snapshot: &SnapshotId) -> Result<ImageInspect> {
        let options = TagImageOptions {
            repo: Some(REPOSITORY.to_owned()),
            tag: Some(snapshot.to_string()),
        };
        let named = self
            .docker
            .tag_image(image, Some(options))
            .within(&self.docker)
            .await;
        named.map_err(map)?;
        let there = self.image(image).await?;
        there.ok_or_else(|| missing(snapshot))
    }

    /// An image has volumes of its own, whose content is no part of what is saved.
    fn has_all(&self, seen: &ContainerInspectResponse) -> Result<()> {
        let anonymous =
            |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let mut mounts = seen.mounts.iter().flatten();
        let volume = mounts.find(|mount| {
            mount.typ.as_deref() == Some("volume") && mount.name.as_deref().is_some_and(anonymous)
        });
        let Some(volume) = volume else {
            return Ok(());
        };
        let place = volume.destination.clone().unwrap_or_default();
        Err(Error::unsupported(format!(
            "the image keeps {place} in a volume of its own (`VOLUME`), which a snapshot on `{}` \
             would not have",
            self.facts.runtime
        ))
        .context("field", "snapshot")
        .context("value", place)
        .context("expected", "an image without volumes")
        .context(
            "remedy",
            "build the image without `VOLUME`, or copy the files out",
        ))
    }

    /// Tells a living sandbox when it ends. One that is attached and stands still while
    /// it is saved hears of a later end, as nobody can renew its lease meanwhile.
    async fn tell_end(&self, id: &SandboxId) {
        let told = timeout(PATIENCE, self.renew(id, None)).await;
        if !matches!(told, Ok(Ok(_))) {
            tracing::debug!(sandbox = %id, "a sandbox that is saved was not told its end");
        }
    }

    /// A snapshot of this owner; without one, whoever's.
    pub(super) async fn saved(
        &self,
        snapshot: &SnapshotId,
        of: Option<(&InstanceId, &TenantId)>,
    ) -> Result<Option<ImageInspect>> {
        let seen = self.image(&name(snapshot)).await?;
        Ok(seen.filter(|seen| {
            let of = of.map(|(instance, tenant)| (instance.as_str(), tenant.as_str()));
            of.is_none_or(|of| {
                owner(seen) == Some(of) && label(seen, SNAPSHOT) == Some(snapshot.as_str())
            })
        }))
    }

    /// Deletes a snapshot of this tenant. Another's is as good as none.
    pub(super) async fn delete_snapshot(
        &self,
        snapshot: &SnapshotId,
        tenant: &TenantId,
    ) -> Result<()> {
        let _turn = self.images.alone(&name(snapshot)).await;
        let owner = Some((&self.config.instance, tenant));
        if self.saved(snapshot, owner).await?.is_none() {
            return Ok(());
        }
        // A sandbox that was made of it goes on: the name goes, and its files last.
        self.remove_image(&name(snapshot), true).await
    }

    /// Removes an image, and none that it was made of. One that is used stays.
    async fn remove_image(&self, image: &str, force: bool) -> Result<()> {
        let options = RemoveImageOptions {
            force,
            noprune: true,
            ..RemoveImageOptions::default()
        };
        match self
            .docker
            .remove_image(image, Some(options), None)
            .within(&self.docker)
            .await
        {
            Err(e) if is_absent(&e) => Ok(()),
            Err(e) => Err(map(e)),
            Ok(_) => Ok(()),
        }
    }

    /// After a sandbox is gone: the snapshot that it was made of, if that was deleted
    /// meanwhile.
    pub(super) async fn forget_source(&self, image: &str) {
        let deleted = match self.image(image).await {
            Ok(Some(there)) => there.repo_tags.unwrap_or_default().is_empty(),
            _ => false,
        };
        if deleted && let Err(error) = self.remove_image(image, false).await {
            // Another sandbox has it still.
            tracing::debug!(%image, %error, "what a deleted snapshot had stays for now");
        }
    }

    /// Images with our labels and without a name.
    async fn nameless(&self, reach: Reach) -> Result<Vec<ImageSummary>> {
        let mut labels = vec![SNAPSHOT.to_owned()];
        labels.push(match reach {
            Reach::Own => format!("{INSTANCE}={}", self.config.instance),
            Reach::Host => INSTANCE.to_owned(),
        });
        let filters = HashMap::from([
            ("label".to_owned(), labels),
            ("dangling".to_owned(), vec!["true".to_owned()]),
        ]);
        let options = ListImagesOptions {
            filters: Some(filters),
            ..ListImagesOptions::default()
        };
        let mut seen = self
            .docker
            .list_images(Some(options))
            .within(&self.docker)
            .await
            .map_err(map)?;
        let now = SystemTime::now();
        seen.retain(|image| is_old(image, now));
        Ok(seen)
    }

    /// Takes away what is left of snapshots of this store, but what a sandbox is
    /// made of still.
    pub(super) async fn sweep_snapshots(&self, dry_run: bool) -> Result<Tidied> {
        let mut tidied = Tidied::default();
        for image in self.nameless(Reach::Own).await? {
            let (kind, name) = ("snapshot".to_owned(), image.id.clone());
            if !dry_run {
                match self.remove_image(&image.id, false).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::Conflict => continue,
                    Err(error) => {
                        let reason = error.to_string();
                        tidied.failed.push(NotRemoved { kind, name, reason });
                        continue;
                    }
                }
            }
            tidied.gone.push(DiskUse {
                kind,
                name,
                bytes: u64::try_from(image.size).unwrap_or_default(),
                complete: true,
            });
        }
        Ok(tidied)
    }

    /// What is left of snapshots, but what these containers are made of.
    pub(super) async fn left_of_snapshots(
        &self,
        reach: Reach,
        containers: &[ContainerSummary],
    ) -> Result<Vec<Leftover>> {
        let mut left = self.nameless(reach).await?;
        let used = |id: &str| containers.iter().any(|c| c.image_id.as_deref() == Some(id));
        left.retain(|image| !used(&image.id));
        Ok(left.into_iter().filter_map(leftover).collect())
    }

    /// Removes one that [`Life::left_of_snapshots`] lists.
    pub(super) async fn remove_left_snapshot(&self, image: &str) -> Result<()> {
        self.remove_image(image, false).await
    }
}

/// The image of the snapshot that a container was made of, if it was made of one.
pub(super) fn source(seen: &ContainerInspectResponse) -> Option<String> {
    let label = observe::labels(seen)?.get(SNAPSHOT)?;
    seen.image.clone().filter(|_| !label.is_empty())
}

/// Whether nobody is about to name an image.
fn is_old(image: &ImageSummary, now: SystemTime) -> bool {
    let seconds = u64::try_from(image.created).unwrap_or_default();
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    now.duration_since(made).is_ok_and(|age| age >= BEGINNING)
}

fn leftover(image: ImageSummary) -> Option<Leftover> {
    let instance = InstanceId::new(image.labels.get(INSTANCE)?.as_str()).ok()?;
    TenantId::new(image.labels.get(TENANT)?.as_str()).ok()?;
    SnapshotId::new(image.labels.get(SNAPSHOT)?.as_str()).ok()?;
    Some(Leftover {
        id: format!("snapshot:{}", image.id),
        kind: "snapshot".to_owned(),
        name: image.id,
        instance: Some(instance),
        state_dir: None,
        sandbox: SandboxId::new(image.labels.get(SANDBOX)?.as_str()).ok(),
        owner_lives: false,
        evidence: "it has the labels of instance, tenant and snapshot, and no name".to_owned(),
        remedy: "remove it by its id".to_owned(),
    })
}

/// Whether a snapshot was made of this container's sandbox.
fn is_of(there: &ImageInspect, seen: &ContainerInspectResponse) -> bool {
    let labels = observe::labels(seen);
    let of = |key: &str| {
        labels
            .and_then(|labels| labels.get(key))
            .map(String::as_str)
    };
    [INSTANCE, TENANT, SANDBOX]
        .iter()
        .all(|key| label(there, key).is_some() && label(there, key) == of(key))
}

fn info(snapshot: &SnapshotId, there: &ImageInspect, base: &ImageInspect) -> SnapshotInfo {
    let own = there.size.zip(base.size).map(|(all, base)| all - base);
    SnapshotInfo {
        id: snapshot.clone(),
        memory: false,
        size_bytes: own.and_then(|bytes| u64::try_from(bytes).ok()),
    }
}

/// What the image says: what that one said of which the sandbox was made. The engine
/// fills what is left out from the container, whose program and user are the agent's.
fn image_config(
    seen: &ContainerInspectResponse,
    base: &ImageInspect,
    snapshot: &SnapshotId,
) -> ContainerConfig {
    let of = base.config.clone().unwrap_or_default();
    let container = observe::labels(seen).cloned().unwrap_or_default();
    let own = of.labels.unwrap_or_default();
    // The engine keeps the container's labels; those of this one sandbox are emptied.
    let mut labels: HashMap<String, String> = container
        .keys()
        .filter(|key| !own.contains_key(*key) || key.starts_with("stacyvm."))
        .map(|key| (key.clone(), String::new()))
        .collect();
    for key in [INSTANCE, TENANT, SANDBOX] {
        labels.insert(
            key.to_owned(),
            container.get(key).cloned().unwrap_or_default(),
        );
    }
    labels.insert(REQUEST.to_owned(), String::new());
    labels.insert(SNAPSHOT.to_owned(), snapshot.to_string());
    let filled = |text: Option<String>, or: &str| {
        let text = text.filter(|text| !text.is_empty());
        Some(text.unwrap_or_else(|| or.to_owned()))
    };
    ContainerConfig {
        user: filled(of.user, DEFAULT_USER),
        working_dir: filled(of.working_dir, create::WORKDIR),
        entrypoint: Some(of.entrypoint.unwrap_or_default()),
        cmd: Some(of.cmd.unwrap_or_default()),
        env: of.env,
        labels: Some(labels),
        ..ContainerConfig::default()
    }
}

impl Base {
    /// What a container made of it says of its snapshot: empty where it is none.
    pub(super) fn snapshot(&self) -> String {
        let labels = self.config.labels.as_ref();
        let label = labels.and_then(|labels| labels.get(SNAPSHOT));
        label.cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ImageConfig;

    fn strings<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> HashMap<String, String> {
        let pairs = pairs.into_iter();
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn a_snapshot_says_what_its_image_said_and_nothing_of_the_container() {
        let container = ContainerInspectResponse {
            config: Some(bollard::models::ContainerConfig {
                labels: Some(strings([
                    (INSTANCE, "i1"),
                    (TENANT, "t1"),
                    (SANDBOX, "s1"),
                    (REQUEST, "digest"),
                    ("team", "x"),
                    ("of.image", "y"),
                ])),
                ..ContainerConfig::default()
            }),
            ..ContainerInspectResponse::default()
        };
        let list = |all: &[&str]| Some(all.iter().map(|s| (*s).to_owned()).collect());
        let base = ImageInspect {
            config: Some(ImageConfig {
                env: list(&["A=b"]),
                entrypoint: list(&["/e"]),
                labels: Some(strings([("of.image", "y")])),
                ..ImageConfig::default()
            }),
            ..ImageInspect::default()
        };
        let snapshot = SnapshotId::random();
        let config = image_config(&container, &base, &snapshot);
        assert_eq!(config.entrypoint, list(&["/e"]));
        // Not left out: the engine would take the container's.
        assert_eq!(config.cmd, Some(Vec::new()));
        assert_eq!(config.user.as_deref(), Some(DEFAULT_USER));
        assert_eq!(config.working_dir.as_deref(), Some(create::WORKDIR));
        assert_eq!(config.env, list(&["A=b"]));
        let labels = config.labels.unwrap();
        let expected = strings([
            (INSTANCE, "i1"),
            (TENANT, "t1"),
            (SANDBOX, "s1"),
            (REQUEST, ""),
            ("team", ""),
            (SNAPSHOT, snapshot.as_str()),
        ]);
        assert_eq!(labels, expected);
    }

    #[test]
    fn what_may_be_named_yet_is_no_leftover() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let image = ImageSummary {
            id: "sha256:1".into(),
            created: 1_000_000,
            labels: strings([
                (INSTANCE, "i1"),
                (TENANT, "t1"),
                (SANDBOX, "s1"),
                (SNAPSHOT, "p1"),
            ]),
            ..ImageSummary::default()
        };
        assert!(!is_old(&image, at + Duration::from_mins(1)));
        assert!(!is_old(&image, at - Duration::from_mins(9)));
        assert!(is_old(&image, at + Duration::from_mins(3)));
        assert_eq!(leftover(image.clone()).unwrap().id, "snapshot:sha256:1");
        for key in [INSTANCE, TENANT, SNAPSHOT] {
            let mut other = image.clone();
            other.labels.insert(key.to_owned(), "Not An Id".into());
            assert_eq!(leftover(other), None, "{key}");
        }
    }
}
