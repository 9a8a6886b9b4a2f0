//! Making, reaching, observing and ending containers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, InspectContainerOptions, StartContainerOptions,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::bridge::{Bridge, not_answering};
use super::config::DockerConfig;
use super::create::{self, Owner, REQUEST};
use super::direct::Direct;
use super::error::{is_absent, map, status};
use super::facts::Facts;
use super::images::Images;
use super::lease;
use super::observe;
use super::one_user;
use super::patience::Answer;
use super::surround;
use super::ticket::{Ticket, Tickets};
use super::volume::{self, AgentVolume, no_image};
use crate::agent::{AgentClient, AgentPool, ConnectOptions, SandboxKey};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{SandboxId, TenantId};
use crate::provider::{CreateRequest, Level, Users};
use crate::sandbox::spec::{Lifetime, SandboxSpec};
use crate::sandbox::state::{Observed, ObservedState};

/// How long a container that has started may take until its agent answers.
pub(super) const AGENT_WITHIN: Duration = Duration::from_secs(20);
/// How long its own socket is looked for before a bridge is tried.
const DIRECTLY_WITHIN: Duration = Duration::from_secs(1);
/// How long the engine may take to note that a container has ended.
const NOTED_WITHIN: Duration = Duration::from_secs(1);
/// How much of what a dying agent says is kept.
const LAST_WORDS: u64 = 1024;

/// One engine, and the sandboxes of this process on it.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) docker: Docker,
    pub(super) config: DockerConfig,
    pub(super) facts: Facts,
    pub(super) tickets: Tickets,
    pub(super) volume: AgentVolume,
    /// Held while the volume is looked at, so that it is filled once.
    volume_checked: tokio::sync::Mutex<bool>,
    pub(super) pool: AgentPool,
    pub(super) images: Images,
    pub(super) direct: Direct,
    /// One making or ending of a sandbox at a time. Commands and files never
    /// wait for it.
    busy: Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Life {
    pub(super) async fn open(config: DockerConfig) -> Result<Self> {
        let docker = super::connect::connect(&config).await?;
        let info = docker.info().within(&docker).await.map_err(map)?;
        let facts = Facts {
            local: config.socket().is_some(),
            one_user: config.users == Users::One,
            ..Facts::new(&info, config.runtime.as_deref())?
        };
        let tickets = Tickets::open(&config.state)?;
        let volume = AgentVolume::new(stacyvm_agent::AGENT);
        let instance = config.instance.as_str();
        if let Err(error) = volume.tidy(&docker, &tickets, instance).await {
            tracing::warn!(%error, "a container that filled the agent's volume may be left");
        }
        Ok(Self {
            tickets,
            volume,
            volume_checked: tokio::sync::Mutex::new(false),
            pool: AgentPool::new(),
            images: Images::default(),
            direct: Direct::new(&facts, config.direct),
            busy: Mutex::new(HashMap::new()),
            docker,
            config,
            facts,
        })
    }

    /// Waits until nobody makes or ends the sandbox.
    pub(super) async fn alone(&self, id: &SandboxId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(busy.entry(id.clone()).or_default())
        };
        lock.lock_owned().await
    }

    /// Makes a sandbox in a task of its own, which goes on when the caller
    /// gives up: a request to the engine cannot be taken back half-way. What
    /// nobody waits for any more is removed as soon as its container is there,
    /// and a `destroy` of the id waits for that.
    pub(super) async fn make(
        life: &Arc<Self>,
        request: CreateRequest,
        tenant: TenantId,
    ) -> Result<Observed> {
        let life = Arc::clone(life);
        let held = life.alone(&request.id).await;
        let (mut answer, asked) = oneshot::channel();
        tokio::spawn(async move {
            let mut made = if life.facts.engine_exec {
                Box::pin(Self::make_by_engine(
                    &life,
                    &request,
                    &tenant,
                    answer.closed(),
                ))
                .await
            } else {
                Box::pin(life.make_or_undo(&request, &tenant, answer.closed())).await
            };
            if made.as_ref().is_err_and(volume::is_emptied) {
                // It is filled again by the next create, which may as well be this one.
                made = Box::pin(life.make_or_undo(&request, &tenant, answer.closed())).await;
            }
            if made.is_ok() && request.spec.lifetime == Lifetime::Attached {
                match life.tickets.find(&request.id) {
                    Ok(Some(ticket)) => lease::hold(&life, request.id.clone(), ticket.owner),
                    Ok(None) => {}
                    Err(error) => made = Err(error),
                }
            }
            if let Err(Ok(_)) = answer.send(made) {
                life.undo(&request.id).await;
            }
            drop(held);
        });
        asked.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Internal,
                "the task that makes the sandbox ended early",
            ))
        })
    }

    async fn make_or_undo(
        &self,
        request: &CreateRequest,
        tenant: &TenantId,
        given_up: impl Future<Output = ()> + Send,
    ) -> Result<Observed> {
        let there = Box::pin(self.there_already(request));
        let (there, base) = tokio::join!(there, self.base(&request.spec, tenant));
        if let Some(there) = there? {
            return Ok(there);
        }
        self.affordable(request)?;
        let base = base?;
        self.agent_at_hand(&base.name).await?;
        let ends_ms = request.ends.and_then(epoch_ms);
        let attached = request.spec.lifetime == Lifetime::Attached;
        let mut ticket = Ticket::mint(ends_ms, attached)?;
        ticket.waits = request.waits;
        ticket.one_user = self.facts.one_user;
        let owner = Owner {
            instance: &request.instance,
            tenant,
        };
        let volume = &self.volume.name;
        let mut body = create::body(request, &base, &owner, &self.facts, volume, &ticket)?;
        self.surround(&mut body, request, &owner, &base.config)?;
        let ends = self.told(&request.id, &ticket);
        let (image, facts) = (&base.config, &self.facts);
        let now = SystemTime::now();
        let config = create::agent_config(request, image, facts, &ticket, ends, now)?;
        let greeting = create::framed(&config)?;
        // Before the container: one without a ticket could be reached by nobody.
        self.tickets.keep(&request.id, &ticket)?;
        let prepared = self.prepare(&mut body, request, &owner).await;
        let in_memory = body.clone();
        let prepared = prepared.and_then(|()| self.share_directory(&request.id, &mut body));
        if let Err(error) = prepared {
            self.undo(&request.id).await;
            return Err(error);
        }
        fault_point!("docker.create.kept");
        let options = CreateContainerOptions {
            name: Some(create::container(&request.id)),
            ..CreateContainerOptions::default()
        };
        let create = |body| {
            let options = Some(options.clone());
            self.docker
                .create_container(options, body)
                .within(&self.docker)
        };
        let mut made = create(body).await;
        if let Err(e) = &made
            && self.cannot_share(&request.id, e)
        {
            made = create(in_memory).await;
        }
        let made = match made {
            Ok(made) => made.id,
            Err(e) if is_absent(&e) => {
                self.undo(&request.id).await;
                return Err(no_image(&base.name));
            }
            Err(e) => {
                // No answer does not mean that nothing was made.
                self.undo(&request.id).await;
                let error = one_user::explained(self.not_started(e), &self.facts);
                return Err(surround::explained(error, &request.spec));
            }
        };
        fault_point!("docker.create.made");
        let starting = async {
            self.make_places(&made, &request.spec, &base.config).await?;
            let (client, seen) = self.start(&request.id, &made, &ticket, &greeting).await?;
            self.settle_mounts(&client, &request.spec).await?;
            Ok((client, seen))
        };
        let started = tokio::select! {
            started = starting => started,
            () = given_up => {
                self.undo(&request.id).await;
                return Err(Error::new(ErrorKind::Cancelled, "nobody waits for the sandbox"));
            }
        };
        let seen = match started {
            Ok((client, seen)) => {
                let checked = self
                    .check_identity(client.kernel(), &base.name, &ticket)
                    .await;
                if let Err(error) = checked {
                    self.undo(&request.id).await;
                    return Err(error);
                }
                fault_point!("docker.create.connected");
                self.pool.put(&request.id, client);
                seen
            }
            Err(error) => {
                // The agent's file may be what is wrong.
                *self.volume_checked.lock().await = false;
                self.volume.doubt(&self.tickets);
                self.undo(&request.id).await;
                let error = one_user::explained(error, &self.facts);
                let error = short_of_memory(error, &request.spec);
                return Err(surround::explained(error, &request.spec));
            }
        };
        let made = match seen {
            Some(seen) => seen,
            None => self.observe(&request.id).await,
        };
        if made.is_err() {
            self.undo(&request.id).await;
        }
        made
    }

    /// The sandbox of an earlier, equal request; `conflict` for another one.
    pub(super) async fn there_already(&self, request: &CreateRequest) -> Result<Option<Observed>> {
        let Some(seen) = self.look(&request.id).await? else {
            self.tickets.forget(&request.id)?;
            return Ok(None);
        };
        let asked_before = self
            .tickets
            .find(&request.id)?
            .map(|ticket| create::fingerprint(request, &ticket))
            .transpose()?;
        let kept = observe::labels(&seen).and_then(|l| l.get(REQUEST));
        if asked_before.is_none() || asked_before.as_ref() != kept {
            return Err(Error::new(
                ErrorKind::Conflict,
                "a container of this sandbox id exists already, made for another request",
            )
            .context("container", create::container(&request.id)));
        }
        let there = self.observe(&request.id).await?;
        let runs = there.state == ObservedState::Running;
        if runs && (self.facts.engine_exec || self.client(&request.id).await.is_ok()) {
            return Ok(Some(there));
        }
        // Half made by a process that died.
        self.remove(&request.id).await?;
        Ok(None)
    }

    /// Admission asked for no more than the capabilities; a limit that the
    /// engine would drop in silence is refused here all the same.
    pub(super) fn affordable(&self, request: &CreateRequest) -> Result<()> {
        let can = self.facts.capabilities();
        let asked = &request.spec.resources;
        for (field, set, level) in [
            ("memory_mib", asked.memory_mib.is_some(), can.memory_limit),
            ("cpus", asked.cpus.is_some(), can.cpu_limit),
            ("pids", asked.pids.is_some(), can.pids_limit),
        ] {
            if set && level == Level::Absent {
                return Err(Error::unsupported(format!(
                    "the docker engine cannot hold a limit of {field}"
                ))
                .context("field", field));
            }
        }
        if stacyvm_agent::AGENT.is_empty() && !self.facts.engine_exec {
            return Err(Error::unsupported(
                "this build holds no agent, expected one built on linux or named prebuilt",
            ));
        }
        Ok(())
    }

    pub(super) async fn agent_at_hand(&self, image: &str) -> Result<()> {
        let mut checked = self.volume_checked.lock().await;
        if !*checked {
            let instance = self.config.instance.as_str();
            self.volume
                .ensure(
                    &self.docker,
                    &self.facts.engine,
                    &self.tickets,
                    image,
                    instance,
                )
                .await?;
            *checked = true;
        }
        Ok(())
    }

    /// Starts a container, tells its agent what it must know, and connects. Gives what
    /// the engine said of it meanwhile, where it was asked.
    async fn start(
        &self,
        id: &SandboxId,
        made: &str,
        ticket: &Ticket,
        greeting: &[u8],
    ) -> Result<(AgentClient, Option<Result<Observed>>)> {
        let options = AttachContainerOptions {
            stdin: true,
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachContainerOptions::default()
        };
        // Before the start, so that nothing it says is lost.
        let attached = self
            .docker
            .attach_container(made, Some(options))
            .within(&self.docker)
            .await
            .map_err(map)?;
        let standard = self.ends_visibly(Bridge::new(attached.output, attached.input), made, false);
        fault_point!("docker.create.attached");
        let begun = OnceLock::new();
        let start = async {
            let none = None::<StartContainerOptions>;
            let started = self.docker.start_container(made, none);
            let started = started.within(&self.docker).await;
            started.map_err(|e| self.not_started(e))?;
            fault_point!("docker.create.started");
            let _ = begun.set(Instant::now());
            Ok(())
        };
        // The agent runs, and is spoken to, before the engine says that it has started.
        let meet = self.meet(id, ticket, greeting, standard, &begun);
        tokio::pin!(start, meet);
        let mut met = None;
        let started: Result<()> = loop {
            tokio::select! {
                started = &mut start => break started,
                client = &mut meet, if met.is_none() => met = Some(client),
            }
        };
        started?;
        if let Some(met) = met {
            return Ok((met?, None));
        }
        let meet = timeout_at(Instant::now() + AGENT_WITHIN, meet);
        let (met, seen) = tokio::join!(meet, self.observe(id));
        let met = met.map_err(|late| {
            let late = Error::new(ErrorKind::Timeout, "it is still silent").source(late);
            not_answering("").source(late)
        })?;
        Ok((met?, Some(seen)))
    }

    /// Tells the agent of a container that starts what it must know, and connects to it.
    /// `begun` is when the container has started, once it has.
    async fn meet(
        &self,
        id: &SandboxId,
        ticket: &Ticket,
        greeting: &[u8],
        mut standard: Bridge,
        begun: &OnceLock<Instant>,
    ) -> Result<AgentClient> {
        if standard.write_all(greeting).await.is_err() {
            return Err(not_answering(&last_words(&mut standard).await));
        }
        fault_point!("docker.create.told");
        while self.direct.is_on() {
            if let Some(client) = self.reach_directly(id, ticket).await {
                return Ok(client);
            }
            if begun.get().is_some_and(|at| at.elapsed() > DIRECTLY_WITHIN) {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        // Its standard streams are a way to it that costs no exec, for this process alone.
        if let Err(its_last_words) = standard.heard().await {
            return Err(not_answering(&its_last_words.to_string()));
        }
        let client = greet(standard, ticket)
            .await
            .map_err(|error| not_answering("").source(error))?;
        fault_point!("docker.standard.reached");
        self.answered_otherwise(id);
        Ok(client)
    }

    /// Connects to the agent by its own socket. `None` where that is not there, or
    /// nobody answers who has the key.
    async fn reach_directly(&self, id: &SandboxId, ticket: &Ticket) -> Option<AgentClient> {
        let client = greet(self.short_way(id).await?, ticket).await.ok()?;
        fault_point!("docker.direct.reached");
        Some(client)
    }

    /// Connects to the agent of a container, by a new bridge if need be. The inner
    /// error is that of a bridge without an agent, which may come to listen.
    async fn reach(
        &self,
        id: &SandboxId,
        container: &str,
        ticket: &Ticket,
    ) -> Result<Result<AgentClient>> {
        if let Some(client) = self.reach_directly(id, ticket).await {
            return Ok(Ok(client));
        }
        let (program, socket) = (&ticket.program, ticket.socket());
        let opened = Bridge::open(&self.docker, container, program, &socket).await;
        let (bridge, opening) = match opened {
            Ok(opened) => opened,
            Err(e) => return Err(self.without_bridge(container, e).await),
        };
        let error = match greet(self.ends_visibly(bridge, container, true), ticket).await {
            Ok(client) => {
                self.answered_otherwise(id);
                return Ok(Ok(client));
            }
            Err(error) => error,
        };
        let refused = opening.refused(&self.docker).await;
        if self.ends_soon(container).await {
            // What came may be the engine's words, which make no frame.
            let gone = gone(ErrorKind::SandboxGone);
            return Ok(Err(match refused {
                Some(refused) => gone.source(refused),
                None if error.kind() == ErrorKind::Protocol => gone,
                None => gone.source(error),
            }));
        }
        Ok(Err(match refused {
            Some(refused) => refused.source(error),
            None => error,
        }))
    }

    /// A bridge that ends with its container where the engine would not end it.
    fn ends_visibly(&self, bridge: Bridge, container: &str, started: bool) -> Bridge {
        if self.facts.own_kernel() {
            bridge.ends_with(&self.docker, container, started)
        } else {
            bridge
        }
    }

    /// Why the engine makes no exec in a container.
    pub(super) async fn without_bridge(
        &self,
        container: &str,
        error: bollard::errors::Error,
    ) -> Error {
        match status(&error) {
            Some(409) if error.to_string().contains("paused") => paused(),
            Some(404 | 409) => gone(ErrorKind::SandboxGone),
            // One that ends between the two requests is an error of the engine's own.
            Some(_) if !self.runs(container).await => gone(ErrorKind::SandboxGone),
            _ => map(error),
        }
    }

    /// False where the engine says that a container is not there or has ended.
    pub(super) async fn runs(&self, container: &str) -> bool {
        let options = None::<InspectContainerOptions>;
        match self
            .docker
            .inspect_container(container, options)
            .within(&self.docker)
            .await
        {
            Ok(seen) => seen.state.and_then(|state| state.running) != Some(false),
            Err(e) => !is_absent(&e),
        }
    }

    /// Whether the engine takes note of the container's end within a moment. One whose
    /// processes are dying is told to run, and starts nothing.
    pub(super) async fn ends_soon(&self, container: &str) -> bool {
        let until = Instant::now() + NOTED_WITHIN;
        while self.runs(container).await {
            if Instant::now() >= until {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// The connection to a sandbox, made if this process has none.
    pub(super) async fn client(&self, id: &SandboxId) -> Result<AgentClient> {
        self.pool.get(id, || self.connect(id)).await
    }

    async fn connect(&self, id: &SandboxId) -> Result<AgentClient> {
        let Some(seen) = self.look(id).await? else {
            self.tickets.forget(id)?;
            return Err(gone(ErrorKind::NotFound).context("sandbox", id));
        };
        // Its socket takes connections all the same, and nobody would answer.
        if seen.state.is_some_and(|state| state.paused == Some(true)) {
            return Err(paused());
        }
        let Some(ticket) = self.tickets.find(id)? else {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "the key of the sandbox is not in this state directory, expected that of the \
                 user who made it",
            )
            .context("sandbox", id));
        };
        self.reach(id, &create::container(id), &ticket).await?
    }

    /// The container of a sandbox of this store. One of the same name that
    /// is not ours is as good as none, and is never touched.
    pub(super) async fn look(&self, id: &SandboxId) -> Result<Option<ContainerInspectResponse>> {
        let name = create::container(id);
        let seen = match self
            .docker
            .inspect_container(&name, None::<InspectContainerOptions>)
            .within(&self.docker)
            .await
        {
            Ok(seen) => seen,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(map(e)),
        };
        let ours = observe::is_ours(observe::labels(&seen), id, &self.config.instance);
        Ok(ours.then_some(seen))
    }

    pub(super) async fn observe(&self, id: &SandboxId) -> Result<Observed> {
        let Some(seen) = self.look(id).await? else {
            return Err(gone(ErrorKind::NotFound).context("sandbox", id));
        };
        let ends = self.tickets.find(id)?.and_then(|ticket| ticket.ends());
        Ok(observe::inspected(id, &seen, &self.facts, ends))
    }

    /// Moves the end: tells the agent, and keeps it for later looks.
    pub(super) async fn set_end(&self, id: &SandboxId, ends: Option<SystemTime>) -> Result<()> {
        let client = self.client(id).await?;
        let Some(mut ticket) = self.tickets.find(id)? else {
            return Err(gone(ErrorKind::NotFound).context("sandbox", id));
        };
        ticket.ends_ms = ends.and_then(epoch_ms);
        client.set_deadline(self.told(id, &ticket)).await?;
        self.tickets.keep(id, &ticket)
    }

    /// Has a sandbox end with this process, or with none.
    pub(super) async fn set_attached(
        life: &Arc<Self>,
        id: &SandboxId,
        attached: bool,
    ) -> Result<()> {
        let client = life.client(id).await?;
        let Some(mut ticket) = life.tickets.find(id)? else {
            return Err(gone(ErrorKind::NotFound).context("sandbox", id));
        };
        if ticket.waits {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the sandbox waits to be claimed",
            ));
        }
        ticket.give(attached)?;
        // First, so that a renewal of the lease that comes between is corrected.
        life.tickets.keep(id, &ticket)?;
        client.set_deadline(life.told(id, &ticket)).await?;
        if attached {
            lease::hold(life, id.clone(), ticket.owner);
        }
        Ok(())
    }

    /// Tells the agent of an attached sandbox that its owner lives. False
    /// where there is nothing to renew, or not by this owner.
    pub(super) async fn renew(&self, id: &SandboxId, owner: Option<&str>) -> Result<bool> {
        let is_its = |t: &Ticket| t.attached && owner.is_none_or(|owner| owner == t.owner);
        let Some(ticket) = self.tickets.find(id)?.filter(is_its) else {
            return Ok(false);
        };
        let client = self.client(id).await?;
        client.set_deadline(self.told(id, &ticket)).await?;
        // Whoever claims it meanwhile has changed the ticket before it told the
        // agent an end, which must not be undone by that of a lease.
        match self.tickets.find(id)? {
            Some(now) if now == ticket => Ok(true),
            Some(now) => {
                client.set_deadline(self.told(id, &now)).await?;
                Ok(is_its(&now))
            }
            None => Ok(false),
        }
    }

    /// The end that the agent is told now. A sandbox stands still while it is saved,
    /// and its lease cannot be renewed.
    pub(super) fn told(&self, id: &SandboxId, ticket: &Ticket) -> Option<SystemTime> {
        let still = if self.images.is_saved(id) {
            self.config.answer_within
        } else {
            Duration::ZERO
        };
        let lease = ticket.attached.then_some(self.config.lease + still);
        lease::end(ticket.ends(), lease, SystemTime::now())
    }

    /// Brings a sandbox to a stand or lets it go on.
    pub(super) async fn freeze(&self, id: &SandboxId, wanted: ObservedState) -> Result<()> {
        let name = create::container(id);
        if self.observe(id).await?.state == wanted {
            return Ok(());
        }
        let done = match wanted {
            ObservedState::Paused => {
                self.docker
                    .pause_container(&name)
                    .within(&self.docker)
                    .await
            }
            _ => {
                self.docker
                    .unpause_container(&name)
                    .within(&self.docker)
                    .await
            }
        };
        match done {
            Ok(()) => Ok(()),
            // Somebody else was faster.
            Err(_) if self.observe(id).await?.state == wanted => Ok(()),
            Err(e) if is_absent(&e) => Err(gone(ErrorKind::NotFound).context("sandbox", id)),
            Err(e) => Err(map(e)),
        }
    }
}

/// Below this a limit of memory may be why an agent does not come up.
const SMALL_MIB: u64 = 64;

/// Both sides prove the key. The engine may die without closing a bridge,
/// so an idle one is asked whether it is there.
async fn greet(
    way: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ticket: &Ticket,
) -> Result<AgentClient> {
    let options = ConnectOptions {
        key: Some(SandboxKey::from_bytes(ticket.key()?)),
        heartbeat: true,
    };
    AgentClient::connect(way, options).await
}

/// Adds what an agent that does not come up may lack.
fn short_of_memory(error: Error, spec: &SandboxSpec) -> Error {
    match spec.resources.memory_mib {
        Some(mib) if mib < SMALL_MIB && error.kind() == ErrorKind::Unavailable => {
            error.context("memory_mib", mib).context(
                "remedy",
                "ask for more memory: a runtime with a kernel of its own has that in it too",
            )
        }
        _ => error,
    }
}

pub(super) fn paused() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "the sandbox is paused, expected a running one; resume it",
    )
}

pub(super) fn gone(kind: ErrorKind) -> Error {
    Error::new(
        kind,
        match kind {
            ErrorKind::NotFound => "no such sandbox on this docker engine",
            _ => "the sandbox has ended",
        },
    )
}

pub(super) fn epoch_ms(at: SystemTime) -> Option<u64> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// What a container that does not answer wrote before, for people.
async fn last_words(standard: &mut Bridge) -> String {
    let mut said = Vec::new();
    let read = async {
        let mut bounded = (&mut *standard).take(LAST_WORDS);
        bounded.read_to_end(&mut said).await
    };
    // Whatever is there: it may still run and say nothing more.
    match timeout_at(Instant::now() + Duration::from_millis(200), read).await {
        Ok(Err(error)) => error.to_string(),
        _ => format!(
            "{} {}",
            String::from_utf8_lossy(&said),
            standard.complaint()
        )
        .trim()
        .to_owned(),
    }
}
