//! Lies about what a sandbox is made of: limits, mounts, networks, what it uses.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use stacyvm::provider::{Capabilities, CreateRequest, Leftover, Level, Secrets, Signals, Users};
use stacyvm::sandbox::exec::ExecSpec;
use stacyvm::sandbox::spec::{Lifetime, MountSource, Privileges, Source};
use stacyvm::sandbox::state::{Effective, Observed, Usage};
use stacyvm::{Error, ErrorKind, Result, SandboxId};

use super::Lie;

/// What is claimed beside what is so.
pub(super) fn claimed(lie: Lie, claims: &mut Capabilities) {
    match lie {
        Lie::IgnoresMounts => {
            claims.mount_host = true;
            claims.mount_volume = true;
        }
        Lie::AcceptsAllowLists => claims.network_allow = Level::Enforced,
        Lie::ClaimsFullNetworks => claims.network_full = true,
        Lie::IgnoresCpus => claims.cpu_limit = Level::Enforced,
        Lie::ClaimsNoEnds => claims.ttl = Level::Absent,
        Lie::ClaimsOneUser => claims.users = Users::One,
        Lie::ClaimsOneSignal => claims.signals = Signals::Kill,
        Lie::ClaimsNoClaims => claims.claim = false,
        Lie::AcceptsDirectories => claims.image_directory = true,
        Lie::AcceptsPorts => claims.publish_ports = true,
        Lie::ClaimsFilters => claims.syscall_filter = Level::Enforced,
        Lie::ClaimsMappedRoot => claims.root_mapped = Level::Enforced,
        Lie::ShowsOtherLimits => {
            claims.memory_limit = Level::Enforced;
            claims.pids_limit = Level::Enforced;
            claims.oom_reported = false;
        }
        _ => {}
    }
}

/// What is made instead of what was asked for.
pub(super) fn asked(lie: Lie, request: &mut CreateRequest) {
    let spec = &mut request.spec;
    match lie {
        Lie::IgnoresMounts => spec.mounts.clear(),
        Lie::MountsAllWritable => spec
            .mounts
            .iter_mut()
            .for_each(|mount| mount.writable = true),
        Lie::SharesVolumes => {
            for mount in &mut spec.mounts {
                if let MountSource::Volume(name) = &mut mount.source {
                    "one".clone_into(name);
                }
            }
        }
        Lie::AcceptsAllowLists | Lie::ClaimsFullNetworks => spec.network = None,
        Lie::IgnoresMemory => spec.resources.memory_mib = None,
        Lie::IgnoresCpus => spec.resources.cpus = None,
        Lie::IgnoresOpenFiles => spec.resources.open_files = None,
        Lie::IgnoresDisk => spec.resources.disk_mib = None,
        Lie::ShowsOtherLimits => {
            spec.resources.memory_mib = None;
            spec.resources.pids = None;
        }
        Lie::ForgetsSecrets => request.secrets = Secrets::default(),
        Lie::IgnoresIdleness => spec.idle_timeout = None,
        Lie::EndsInUse => {
            if let Some(idle) = spec.idle_timeout.take() {
                request.ends = Some(std::time::SystemTime::now() + idle);
            }
        }
        Lie::AcceptsDirectories => spec.source = Source::Image("scratch".to_owned()),
        Lie::AcceptsPorts => spec.ports.clear(),
        Lie::OutlivesItsOwner => spec.lifetime = Lifetime::Detached,
        Lie::EndsWithItsHost => spec.lifetime = Lifetime::Attached,
        Lie::GivesRights => spec.privileges = Privileges::NamespacedRoot,
        Lie::ForgetsSavedFiles => {
            if let Source::Snapshot(_) = spec.source {
                spec.source = Source::default();
            }
        }
        _ => {}
    }
}

/// What is seen instead of what is there.
pub(super) fn observed(lie: Lie, seen: &mut Observed) {
    let mut tell = |need: &str, value: &str| {
        let effective = Effective {
            level: Level::Enforced,
            value: value.to_owned(),
        };
        seen.effective.entry(need.to_owned()).or_insert(effective);
    };
    match lie {
        Lie::IgnoresCpus => tell("cpu_limit", "as asked"),
        Lie::ShowsOtherLimits => {
            tell("memory_limit", "1 MiB");
            tell("pids_limit", "1");
        }
        Lie::TellsOtherTenants => seen.tenant = "another".parse().ok(),
        _ => {}
    }
}

/// Has the values of secrets told by every look at a sandbox.
pub(super) fn keep_secrets(lie: Lie, memory: &Memory, request: &CreateRequest) {
    if lie == Lie::TellsSecrets {
        let values = request.secrets.expose().values().cloned().collect();
        lock(&memory.secrets).insert(request.id.clone(), values);
    }
}

/// What some lies remember.
#[derive(Debug, Default)]
pub(super) struct Memory {
    made: Mutex<HashSet<SandboxId>>,
    attacked: Mutex<HashSet<SandboxId>>,
    /// How many commands a sandbox was asked for.
    commands: Mutex<HashMap<SandboxId, u64>>,
    usage: Mutex<HashMap<SandboxId, Usage>>,
    secrets: Mutex<HashMap<SandboxId, Vec<String>>>,
    ended: Mutex<Vec<SandboxId>>,
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    pub(super) fn made(&self, id: &SandboxId) {
        lock(&self.made).insert(id.clone());
    }

    pub(super) fn has_made(&self, id: &SandboxId) -> bool {
        lock(&self.made).contains(id)
    }

    /// Fails where the lie is that a sandbox is not there, or works no more.
    pub(super) fn known(&self, lie: Lie, id: &SandboxId) -> Result<()> {
        let attacked = lock(&self.attacked).contains(id);
        let wrong = || Error::new(ErrorKind::Internal, "something went wrong");
        match lie {
            Lie::KnowsOnlyItsOwn if !lock(&self.made).contains(id) => {
                Err(Error::new(ErrorKind::NotFound, "the sandbox is not there"))
            }
            Lie::BreaksWhenAttacked if attacked => Err(wrong()),
            Lie::FailsNeighbours if !attacked && !lock(&self.attacked).is_empty() => Err(wrong()),
            _ => Ok(()),
        }
    }

    /// Never ends where the lie is that a sandbox answers no more.
    pub(super) async fn answers(&self, lie: Lie, id: &SandboxId) {
        if lie == Lie::HangsWhenAttacked && lock(&self.attacked).contains(id) {
            std::future::pending::<()>().await;
        }
    }

    /// Remembers a sandbox whose command attacks what serves it.
    pub(super) fn runs(&self, id: &SandboxId, spec: &ExecSpec) {
        if spec.argv.iter().any(|word| attacks(word)) {
            lock(&self.attacked).insert(id.clone());
        }
    }

    /// The descriptors that are left for one more command of this sandbox.
    pub(super) fn descriptors_left(&self, id: &SandboxId) -> u64 {
        let mut all = lock(&self.commands);
        let before = all.entry(id.clone()).or_default();
        *before += 1;
        64_u64.saturating_sub(16 * (*before - 1))
    }

    /// Tells what is known of the secrets of a sandbox.
    pub(super) fn tell_secrets(&self, seen: &mut Observed) {
        let known = lock(&self.secrets).get(&seen.id).cloned();
        for value in known.into_iter().flatten() {
            let level = Level::Enforced;
            let effective = Effective { level, value };
            seen.effective.insert("secrets".to_owned(), effective);
        }
    }

    pub(super) fn ended(&self, id: &SandboxId) {
        lock(&self.ended).push(id.clone());
    }

    /// Something is left of each that ended, whose sandbox is not known.
    pub(super) fn left(&self) -> Vec<Leftover> {
        let of = |id: &SandboxId| Leftover {
            id: format!("process:{id}"),
            kind: "process".to_owned(),
            name: format!("of {id}"),
            instance: None,
            state_dir: None,
            sandbox: None,
            owner_lives: false,
            evidence: "it has the mark of a sandbox".to_owned(),
            remedy: "end it".to_owned(),
        };
        lock(&self.ended).iter().map(of).collect()
    }

    /// What was told of a sandbox first, where the lie is that nothing moves.
    pub(super) fn used(&self, lie: Lie, id: &SandboxId, usage: Usage) -> Usage {
        match lie {
            Lie::FreezesUsage => *lock(&self.usage).entry(id.clone()).or_insert(usage),
            _ => usage,
        }
    }
}

/// Whether a command line signals process 1, a group or all, or writes garbage.
fn attacks(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    let kills = line.split("; ").filter(|part| part.starts_with("kill -"));
    let mut aims = kills.filter_map(|kill| kill.rsplit(' ').next());
    aims.any(|aim| ["0", "1", "-1"].contains(&aim)) || line.contains("my $junk")
}
