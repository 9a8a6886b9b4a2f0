//! Ending containers, and looking that nothing of them is left.

use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptions, RemoveContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

use super::create;
use super::error::{is_absent, map, status};
use super::facts::Facts;
use super::life::Life;
use super::mounts;
use super::observe;
use super::patience::Answer;
use super::snapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::provider::Isolation;
use crate::sandbox::state::ObservedState;

/// How long the engine may take until a removed container is gone.
pub(super) const GONE_WITHIN: Duration = Duration::from_secs(30);
/// How long an agent may take to end its sandbox, until the engine ends it.
const ENDS_ITSELF_WITHIN: Duration = Duration::from_secs(5);

/// What a container has beside itself, as it was seen last.
struct Last {
    /// Whether it may have a network of its own.
    networked: bool,
    /// Whether it may have volumes with names of ours.
    held: bool,
    /// The image of the snapshot that it was made of.
    source: Option<String>,
}

impl Last {
    fn of(seen: &ContainerInspectResponse) -> Self {
        let host = seen.host_config.as_ref();
        let mode = host.and_then(|host| host.network_mode.as_deref());
        Self {
            networked: mode != Some("none"),
            held: host.is_some_and(mounts::has_held),
            source: snapshot::source(seen),
        }
    }

    /// Of one that is not there any more nobody knows.
    fn of_none(facts: &Facts) -> Self {
        Self {
            networked: true,
            held: facts.own_kernel(),
            source: None,
        }
    }
}

impl Life {
    /// Takes back what a failed or abandoned create has made. What even that
    /// leaves is found by its labels at the next reconciliation.
    pub(super) async fn undo(&self, id: &SandboxId) {
        if let Err(error) = self.remove(id).await {
            tracing::warn!(sandbox = %id, %error, "a sandbox that was not wanted is left");
        }
    }

    pub(super) async fn destroy(&self, id: &SandboxId) -> Result<()> {
        let _held = self.alone(id).await;
        fault_point!("docker.destroy.begun");
        let mut last = Last::of_none(&self.facts);
        if self.facts.isolation == Isolation::UserKernel
            && !self.facts.engine_exec
            && let Some(seen) = self.look(id).await?
        {
            last = Last::of(&seen);
            // One that stands still does not answer.
            if observe::state(&seen) == ObservedState::Running {
                Box::pin(self.end_from_within(id)).await;
            }
        }
        Box::pin(self.remove_all(id, last)).await
    }

    /// Asks the agent to end its sandbox, and waits until the engine has removed it.
    ///
    /// Each process inside gVisor has one on the host, and all of them die as children of
    /// containerd's shim. While that has the sandbox killed it takes note of 32 of them,
    /// and then of one each second (containerd 1.6, `sys/reaper`), so that a removal of a
    /// sandbox with 60 processes took half a minute. One that ends by itself is not held
    /// up. What goes wrong here is left to the removal by the engine.
    async fn end_from_within(&self, id: &SandboxId) {
        let ended = async {
            self.client(id).await?.terminate().await?;
            let options = WaitContainerOptions {
                condition: "removed".to_owned(),
            };
            let container = create::container(id);
            let mut removed = self.docker.wait_container(&container, Some(options));
            // It may be gone already, which is an error of the engine's.
            let _ = removed.next().await;
            Ok::<_, Error>(())
        };
        if let Ok(Err(error)) = timeout(ENDS_ITSELF_WITHIN, ended).await {
            tracing::debug!(sandbox = %id, %error, "the agent does not end its sandbox");
        }
    }

    /// Removes a container with its unnamed volumes and its bridge, and waits until
    /// all is gone.
    pub(super) async fn remove(&self, id: &SandboxId) -> Result<()> {
        self.remove_all(id, Last::of_none(&self.facts)).await
    }

    async fn remove_all(&self, id: &SandboxId, mut last: Last) -> Result<()> {
        let until = Instant::now() + GONE_WITHIN;
        while let Some(seen) = self.look_for_all(id).await? {
            last = Last::of(&seen);
            // By its own id: the name may come to mean another container.
            let container = seen.id.clone().unwrap_or_else(|| create::container(id));
            let options = RemoveContainerOptions {
                force: true,
                v: true,
                link: false,
            };
            match self
                .docker
                .remove_container(&container, Some(options))
                .within(&self.docker)
                .await
            {
                // The engine is removing it already: by AutoRemove, or for another caller.
                Err(e) if status(&e) == Some(409) && Instant::now() < until => {
                    sleep(Duration::from_millis(20)).await;
                }
                Err(e) if !is_absent(&e) => return Err(map(e)),
                _ => {}
            }
            fault_point!("docker.destroy.asked");
            if Instant::now() >= until {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the docker engine does not remove the container",
                )
                .context("container", container));
            }
        }
        if last.networked {
            self.remove_bridge(id).await?;
        }
        if last.held {
            self.remove_volumes_of(id).await?;
        }
        fault_point!("docker.destroy.gone");
        self.pool.end(id);
        if let Some(image) = last.source {
            Box::pin(self.forget_source(&image)).await;
        }
        self.tickets.forget(id)?;
        fault_point!("docker.destroy.forgotten");
        Ok(())
    }

    /// The container of a sandbox, or one that is not under its name any more: somebody gave it another
    /// one, or the engine died while it removed it, and keeps it dead and nameless.
    /// Labels alone prove nothing of one that lives: whatever is made of an image that
    /// was saved of it has them as well.
    async fn look_for_all(&self, id: &SandboxId) -> Result<Option<ContainerInspectResponse>> {
        if let Some(seen) = self.look(id).await? {
            return Ok(Some(seen));
        }
        let labels = vec![
            format!("{}={}", create::INSTANCE, self.config.instance),
            format!("{}={id}", create::SANDBOX),
        ];
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), labels)].into()),
            ..ListContainersOptions::default()
        };
        let docker = &self.docker;
        let found = docker.list_containers(Some(options)).within(docker).await;
        let found = found.map_err(map)?.into_iter();
        let program = self.tickets.find(id)?.map(|ticket| ticket.program);
        for container in found.filter_map(|container| container.id) {
            let none = None::<InspectContainerOptions>;
            let seen = docker.inspect_container(&container, none).within(docker);
            let seen = match seen.await {
                Ok(seen) => seen,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(map(e)),
            };
            let ours = observe::is_ours(observe::labels(&seen), id, &self.config.instance);
            let is_dead = seen.state.as_ref().is_some_and(|s| s.dead == Some(true));
            let runs_agent = program.is_some() && seen.path == program;
            if ours && (is_dead || runs_agent) {
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }
}
