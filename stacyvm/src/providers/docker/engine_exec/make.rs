//! How a sandbox without an agent is made: `sleep` holds it until its end.

use std::sync::Arc;
use std::time::SystemTime;

use bollard::models::{ContainerCreateBody, ImageConfig};
use bollard::query_parameters::{CreateContainerOptions, StartContainerOptions};
use futures_util::TryStreamExt as _;

use super::super::create::{self, Owner, user_of, workdir_of};
use super::super::error::is_absent;
use super::super::facts::Facts;
use super::super::life::{Life, epoch_ms, gone};
use super::super::patience::Answer;
use super::super::surround;
use super::super::ticket::Ticket;
use super::super::volume::no_image;
use super::session;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{SandboxId, TenantId};
use crate::provider::CreateRequest;
use crate::sandbox::exec::{ExecEvent, ExecSpec, ExitStatus};
use crate::sandbox::spec::{Lifetime, MountSource, Source};
use crate::sandbox::state::Observed;

/// What `sleep` is told where nobody says an end: more than any machine runs.
const FOR_EVER: u64 = 2_000_000_000;

/// Whether sandboxes of this runtime can do without an agent.
pub(super) fn usable(facts: &Facts) -> Result<()> {
    if facts.own_kernel() {
        return Err(Error::unsupported(
            "a runtime with a kernel of its own is checked from inside by the agent, which \
             `exec: engine` does without; leave that out, or take a runtime that shares the \
             host's kernel",
        )
        .context("field", "docker.exec")
        .context("runtime", &facts.runtime));
    }
    Ok(())
}

/// Refuses what only an agent could do, beside what capabilities keep out.
pub(super) fn refuse(request: &CreateRequest) -> Result<()> {
    let spec = &request.spec;
    let without = |field: &str, what: &str| {
        let text = format!("commands by the engine alone (`exec: engine`) serve no {what}");
        Err(Error::unsupported(text).context("field", field))
    };
    if let Source::Snapshot(_) = spec.source {
        return without("snapshot", "snapshots");
    }
    if !request.secrets.expose().is_empty() {
        return without("secrets", "secrets, which `docker inspect` would show");
    }
    if spec.resources.open_files.is_some() && !request.open_files_preferred {
        return without(
            "open_files",
            "limit of open files, as the engine gives its execs its own",
        );
    }
    if spec.lifetime == Lifetime::Attached {
        return without("lifetime", "attached lifetime");
    }
    let tmpfs = |source: &MountSource| matches!(source, MountSource::Tmpfs { .. });
    if !spec.mounts.iter().all(|mount| tmpfs(&mount.source)) {
        return without("mounts", "mounts but tmpfs");
    }
    Ok(())
}

/// Has the engine itself hold the container of a request.
fn hold(
    body: &mut ContainerCreateBody,
    request: &CreateRequest,
    image: &ImageConfig,
    ticket: &Ticket,
    now: SystemTime,
) {
    let spec = &request.spec;
    let seconds = request.ends.map_or(FOR_EVER, |ends| {
        let left = ends.duration_since(now).unwrap_or_default();
        left.as_secs().clamp(1, FOR_EVER)
    });
    body.user = Some(user_of(spec, image));
    body.entrypoint = Some(vec!["sleep".to_owned()]);
    body.cmd = Some(vec![seconds.to_string()]);
    body.working_dir = Some(workdir_of(spec, image));
    for stream in [
        &mut body.open_stdin,
        &mut body.stdin_once,
        &mut body.attach_stdin,
        &mut body.attach_stdout,
        &mut body.attach_stderr,
    ] {
        *stream = Some(false);
    }
    let own = spec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let always = ["LANG=C.UTF-8".to_owned()];
    let env = always
        .into_iter()
        .chain(image.env.clone().unwrap_or_default());
    body.env = Some(env.chain(own).collect());
    let host = body.host_config.get_or_insert_default();
    // Somebody has to collect what commands leave.
    host.init = Some(true);
    host.binds = None;
    host.cap_add = None;
    if let Some(tmpfs) = &mut host.tmpfs {
        tmpfs.remove(&ticket.socket_directory());
    }
}

impl Life {
    pub(in super::super) async fn make_by_engine(
        life: &Arc<Self>,
        request: &CreateRequest,
        tenant: &TenantId,
        given_up: impl Future<Output = ()> + Send,
    ) -> Result<Observed> {
        if let Some(there) = Box::pin(life.there_already(request)).await? {
            return Ok(there);
        }
        life.affordable(request)?;
        let base = life.base(&request.spec, tenant).await?;
        let ticket = Ticket::mint(request.ends.and_then(epoch_ms), false)?;
        let owner = Owner {
            instance: &request.instance,
            tenant,
        };
        let mut body = create::body(request, &base, &owner, &life.facts, "", &ticket)?;
        hold(&mut body, request, &base.config, &ticket, SystemTime::now());
        life.surround(&mut body, request, &owner, &base.config)?;
        life.tickets.keep(&request.id, &ticket)?;
        let creating = async {
            life.prepare(&mut body, request, &owner).await?;
            let options = CreateContainerOptions {
                name: Some(create::container(&request.id)),
                ..CreateContainerOptions::default()
            };
            let docker = &life.docker;
            let made = docker.create_container(Some(options), body).within(docker);
            match made.await {
                Ok(made) => Ok(made.id),
                Err(e) if is_absent(&e) => Err(no_image(&base.name)),
                Err(e) => Err(life.not_started(e)),
            }
        };
        // A request to the engine cannot be taken back half-way.
        let created = creating.await;
        let starting = async {
            let (made, docker) = (created?, &life.docker);
            life.make_places(&made, &request.spec, &base.config).await?;
            let none = None::<StartContainerOptions>;
            let started = docker.start_container(&made, none).within(docker).await;
            started.map_err(|e| life.not_started(e))?;
            life.is_held(&request.id).await?;
            life.observe(&request.id).await
        };
        let made = tokio::select! {
            made = starting => made,
            () = given_up => {
                Err(Error::new(ErrorKind::Cancelled, "nobody waits for the sandbox"))
            }
        };
        if made.is_err() {
            // No answer does not mean that nothing was made.
            life.undo(&request.id).await;
        }
        made.map_err(|error| surround::explained(error, &request.spec))
    }

    /// Whether what is to hold a sandbox does: the engine's own first process is there
    /// without it for a moment.
    async fn is_held(self: &Arc<Self>, id: &SandboxId) -> Result<()> {
        let spec = ExecSpec::new(["sleep", "0"]);
        let slept = async {
            let session = session::open(self, id, &spec).await?;
            session.events.try_collect::<Vec<_>>().await
        };
        match slept.await {
            Ok(events) if events == [ExecEvent::Exited(ExitStatus::Code { code: 0 })] => Ok(()),
            Ok(events) => Err(without_sleep(&format!("{events:?}"))),
            Err(e) => match e.kind() {
                ErrorKind::CommandNotFound | ErrorKind::NotFound | ErrorKind::SandboxGone => {
                    Err(without_sleep(&e.to_string()).source(e))
                }
                _ => Err(e),
            },
        }
    }

    /// What holds a sandbox was told its end and cannot be told another one.
    pub(super) fn set_end_by_engine(&self, id: &SandboxId, ends: Option<SystemTime>) -> Result<()> {
        let Some(ticket) = self.tickets.find(id)? else {
            return Err(gone(ErrorKind::NotFound).context("sandbox", id));
        };
        if ticket.ends_ms == ends.and_then(epoch_ms) {
            return Ok(());
        }
        Err(Error::unsupported(
            "the end of a sandbox whose commands are the engine's own (`exec: engine`) cannot be \
             moved; make another one",
        ))
    }
}

/// The error of an image that has nothing to hold a sandbox with.
fn without_sleep(seen: &str) -> Error {
    Error::unsupported(
        "the image has no program `sleep`, which holds a sandbox whose commands are the \
         engine's own (`exec: engine`); take an image that has one, or the agent",
    )
    .context("field", "image")
    .context("seen", seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::super::images::Base;
    use crate::id::InstanceId;
    use crate::provider::Secrets;
    use crate::sandbox::spec::{Mount, SandboxSpec};

    fn request(spec: SandboxSpec) -> CreateRequest {
        CreateRequest {
            id: SandboxId::random(),
            instance: InstanceId::random(),
            spec,
            open_files_preferred: false,
            ends: None,
            secrets: Secrets::default(),
            waits: false,
        }
    }

    #[test]
    fn the_engine_holds_it_with_no_rights_and_until_its_end() {
        let mut request = request(SandboxSpec::image("a").env("A", "b"));
        let now = SystemTime::now();
        request.ends = Some(now + Duration::from_secs(90));
        let ticket = Ticket::mint(None, false).unwrap();
        let owner = Owner {
            instance: &request.instance,
            tenant: &TenantId::default(),
        };
        let base = Base::default();
        let facts = Facts::default();
        let mut body = create::body(&request, &base, &owner, &facts, "", &ticket).unwrap();
        hold(&mut body, &request, &base.config, &ticket, now);
        assert_eq!(body.entrypoint.as_deref(), Some(&["sleep".to_owned()][..]));
        assert_eq!(body.cmd.as_deref(), Some(&["90".to_owned()][..]));
        assert_eq!(body.user.as_deref(), Some("1000:1000"));
        assert!(body.env.unwrap().contains(&"A=b".to_owned()));
        let host = body.host_config.unwrap();
        assert_eq!((host.binds, host.cap_add), (None, None));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.init, Some(true));
        let mounted: Vec<String> = host.tmpfs.unwrap().into_keys().collect();
        assert_eq!(mounted, ["/tmp"]);
    }

    #[test]
    fn what_only_an_agent_could_do_is_refused() {
        let spec = || SandboxSpec::image("a").lifetime(Lifetime::Detached);
        refuse(&request(spec())).unwrap();
        let attached = request(spec().lifetime(Lifetime::Attached));
        let mut secret = request(spec());
        secret.secrets = Secrets::new(BTreeMap::from([("S".into(), "hunter3".into())]));
        let mounted = request(spec().mount(Mount {
            target: "/data".into(),
            source: MountSource::Host("/srv".into()),
            writable: false,
            size_mib: None,
        }));
        let mut files = request(spec());
        files.spec.resources.open_files = Some(77);
        let mut preferred = files.clone();
        preferred.open_files_preferred = true;
        refuse(&preferred).unwrap();
        for (request, field) in [
            (files, "open_files"),
            (attached, "lifetime"),
            (secret, "secrets"),
            (mounted, "mounts"),
        ] {
            let error = refuse(&request).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.fact("field"), Some(field));
            assert!(!error.to_string().contains("hunter3"));
        }
    }
}
