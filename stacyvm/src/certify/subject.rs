//! The subject: a sandbox as it is by default, a neighbour with bait in it, and
//! one with small limits for the bombs.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::answer::{Attempt, MOST};
use super::bait::{self, Facts};
use super::{Check, Place, User, flood};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{Capabilities, Level, Users};
use crate::sandbox::exec::{ExecEvent, ExitStatus};
use crate::sandbox::exec_builder::Exec;
use crate::sandbox::files::WriteMode;
use crate::sandbox::handle::Sandbox;
use crate::sandbox::process::Process;
use crate::sandbox::spec::{Lifetime, Privileges, SandboxSpec};

/// Where the program lies inside.
const PROGRAM: &str = "/tmp/stacyvm-probe";
/// How long one attack may take before it is killed.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the sandboxes live when nobody ends them.
const LIFE: Duration = Duration::from_mins(30);

/// The limits of the sandbox for bombs, where the combination can: small, so that
/// the same bombs are harmless in a place without limits.
const MEMORY_MIB: u64 = 96;
const PIDS: u32 = 64;
const OPEN_FILES: u64 = 256;
const DISK_MIB: u64 = 64;
const CPUS: f64 = 0.3;
/// No disk of this size has room for so many files without content.
const INODES: u64 = DISK_MIB * 1024;

/// A combination of provider, runtime and host under judgement, with the
/// sandboxes that it is judged by.
#[derive(Debug)]
pub struct Subject {
    maker: Maker,
    runtime: String,
    claims: Capabilities,
    privileges: Privileges,
    users: Vec<User>,
    sandbox: Sandbox,
    /// What it is made from, and it: a bomb may end it.
    small: SandboxSpec,
    limited: Option<tokio::sync::Mutex<Sandbox>>,
    neighbour: Option<Sandbox>,
    _bait: Option<Mutex<Process>>,
    facts: Facts,
}

/// Makes sandboxes with the program of attacks in them.
#[derive(Debug)]
struct Maker {
    engine: Engine,
    provider: String,
}

impl Maker {
    async fn make(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let sandbox = self.engine.create(spec).provider(&self.provider).await?;
        let bytes = bytes::Bytes::from_static(stacyvm_agent::PROBE);
        let data = Box::pin(futures_util::stream::once(async { Ok(bytes) }));
        let files = sandbox.files();
        files
            .write_with(PROGRAM, WriteMode::Replace, Some(0o755), data)
            .await?;
        Ok(sandbox)
    }
}

impl Subject {
    /// Makes the sandboxes: two as the spec says, and one with small limits. `None`
    /// is the engine's default provider.
    ///
    /// # Errors
    ///
    /// Those of create; `unavailable` where this build carries no program of
    /// attacks. What was made ends with this process at the latest.
    pub async fn open(engine: &Engine, provider: Option<&str>, spec: SandboxSpec) -> Result<Self> {
        Self::make(engine, provider, spec, |_| true).await
    }

    /// As [`open`](Self::open), for these checks alone: a neighbour is made for those
    /// of the family `neighbour`, and a sandbox with small limits for those of `limits`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_for(
        engine: &Engine,
        provider: Option<&str>,
        spec: SandboxSpec,
        checks: &[Box<dyn Check>],
    ) -> Result<Self> {
        let wanted = |family: &str| checks.iter().any(|check| check.family() == family);
        Self::make(engine, provider, spec, wanted).await
    }

    async fn make(
        engine: &Engine,
        provider: Option<&str>,
        spec: SandboxSpec,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        if stacyvm_agent::PROBE.is_empty() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "this build carries no program of attacks",
            ));
        }
        let provider = provider
            .unwrap_or_else(|| engine.default_provider())
            .to_owned();
        let known = engine.providers().await;
        let summary = known.into_iter().find(|known| known.name == provider);
        let summary = summary.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no provider {provider}"),
            )
        })?;
        let claims = summary.capabilities;
        let privileges = spec.privileges;
        let spec = spec.lifetime(Lifetime::Attached).ttl(LIFE);
        let small = limited(spec.clone(), &claims);
        let maker = Maker {
            engine: engine.clone(),
            provider,
        };
        let sandbox = maker.make(spec.clone()).await?;
        let mut facts = Facts::default();
        let (mut neighbour, mut laid, mut limited) = (None, None, None);
        if wanted("neighbour") {
            let other = maker.make(spec).await?;
            let marker = bait::marker()?;
            facts.set("other_marker", &marker);
            let (bait, port) = lay(&other, &marker).await?;
            facts.set("other_port", port);
            (neighbour, laid) = (Some(other), Some(Mutex::new(bait)));
        }
        if wanted("limits") {
            let bombed = maker.make(small.clone()).await?;
            limits(&mut facts, &bombed).await?;
            limited = Some(tokio::sync::Mutex::new(bombed));
        }
        let users = match claims.users {
            Users::Many => vec![User::Default, User::Root],
            Users::One => vec![User::Default],
        };
        Ok(Self {
            maker,
            runtime: summary.runtime,
            claims,
            privileges,
            users,
            sandbox,
            small,
            limited,
            neighbour,
            _bait: laid,
            facts,
        })
    }

    /// The provider, as configured.
    pub fn provider(&self) -> &str {
        &self.maker.provider
    }

    /// The runtime below it.
    pub fn runtime(&self) -> &str {
        &self.runtime
    }

    /// What the combination claims.
    pub fn claims(&self) -> &Capabilities {
        &self.claims
    }

    /// What root inside was given.
    pub fn privileges(&self) -> Privileges {
        self.privileges
    }

    /// The engine that made the sandboxes.
    pub fn engine(&self) -> &Engine {
        &self.maker.engine
    }

    /// The sandbox beside the one that is attacked from, where it was opened for
    /// checks that need one.
    pub fn neighbour(&self) -> Option<&Sandbox> {
        self.neighbour.as_ref()
    }

    /// What attacks are told to look for; a control adds what it lays out.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Tells attacks what a control has laid out on the host.
    pub fn tell(&mut self, facts: &Facts) {
        self.facts.add_host(facts);
    }

    /// Ends the sandboxes.
    ///
    /// # Errors
    ///
    /// The first of those of [`Sandbox::kill`]; all are tried.
    pub async fn close(self) -> Result<()> {
        let limited = self.limited.map(tokio::sync::Mutex::into_inner);
        let all = [Some(self.sandbox), limited, self.neighbour];
        let all = all.iter().flatten().map(Sandbox::kill);
        let ended = futures_util::future::join_all(all).await;
        ended.into_iter().try_for_each(|ended| ended.map(drop))
    }

    fn exec(&self, sandbox: &Sandbox, attack: &str, user: User, told: &[String]) -> Exec {
        let words = [PROGRAM.to_owned(), attack.to_owned()];
        let words = words.into_iter().chain(self.facts.arguments());
        let exec = sandbox.exec(words.chain(told.iter().cloned()));
        let exec = exec.timeout(PATIENCE).max_output(MOST + 1);
        match user {
            User::Default => exec,
            User::Root => exec.user("0"),
        }
    }

    /// A bomb in the sandbox with small limits. One that it ends is made again.
    async fn bomb(&self, attack: &str, user: User) -> Result<Attempt> {
        let limited = self.limited.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "no sandbox with small limits was made for these checks",
            )
        })?;
        let mut limited = limited.lock().await;
        let output = self.exec(&limited, attack, user, &[]).output().await;
        if let Ok(output) = &output
            && output.status != ExitStatus::SandboxGone
        {
            return Attempt::parse(attack, output.status, &output.stdout);
        }
        tracing::debug!(attack, "the sandbox ended with the bomb");
        let new = self.maker.make(self.small.clone()).await?;
        let gone = std::mem::replace(&mut *limited, new);
        drop(limited);
        gone.kill().await?;
        let status = output?.status;
        Ok(Attempt {
            answer: None,
            status,
        })
    }
}

/// The spec with small limits, those that the combination claims.
fn limited(spec: SandboxSpec, claims: &Capabilities) -> SandboxSpec {
    let enforced = |level| level == Level::Enforced;
    let mut spec = spec;
    if enforced(claims.memory_limit) {
        spec = spec.memory_mib(MEMORY_MIB);
    }
    if enforced(claims.pids_limit) {
        spec = spec.pids(PIDS);
    }
    if enforced(claims.open_files_limit) {
        spec = spec.open_files(OPEN_FILES);
    }
    if enforced(claims.disk_limit) {
        spec = spec.disk_mib(DISK_MIB);
    }
    if enforced(claims.cpu_limit) {
        spec = spec.cpus(CPUS);
    }
    spec
}

/// Tells the limits that are in force.
async fn limits(facts: &mut Facts, sandbox: &Sandbox) -> Result<()> {
    let set = sandbox.info().await?.resources;
    facts.set("memory_mib", set.memory_mib.unwrap_or(MEMORY_MIB));
    facts.set("pids", set.pids.unwrap_or(PIDS));
    facts.set("open_files", set.open_files.unwrap_or(OPEN_FILES));
    facts.set("disk_mib", set.disk_mib.unwrap_or(DISK_MIB));
    facts.set("inodes", INODES);
    facts.set("cpus_percent", 30);
    Ok(())
}

/// Lays bait in a sandbox; its port.
async fn lay(neighbour: &Sandbox, marker: &str) -> Result<(Process, u16)> {
    let exec = neighbour.exec([
        PROGRAM.to_owned(),
        "bait".to_owned(),
        format!("marker={marker}"),
    ]);
    let mut process = exec
        .env("STACYVM_BAIT", marker)
        .stdin_pipe()
        .start()
        .await?;
    let mut said = Vec::new();
    while let Some(event) = process.next_event().await? {
        if let ExecEvent::Stdout(bytes) = event {
            said.extend_from_slice(&bytes);
        }
        if said.len() > MOST {
            break;
        }
        if let Some(port) = std::str::from_utf8(&said).ok().and_then(bait::port) {
            return Ok((process, port));
        }
    }
    Err(Error::new(ErrorKind::Protocol, "the bait was not laid out"))
}

#[async_trait]
impl Place for Subject {
    fn users(&self) -> &[User] {
        &self.users
    }

    async fn attack(&self, attack: &str, user: User) -> Result<Attempt> {
        if attack.starts_with("limits.") {
            return self.bomb(attack, user).await;
        }
        if flood::judges(attack) {
            let exec = |told: &[String]| self.exec(&self.sandbox, attack, user, told);
            return flood::in_sandbox(&self.sandbox, attack, exec).await;
        }
        let output = self.exec(&self.sandbox, attack, user, &[]).output().await?;
        Attempt::parse(attack, output.status, &output.stdout)
    }

    fn sandbox(&self) -> Option<&Sandbox> {
        Some(&self.sandbox)
    }
}
