//! Decides whether a spec can be served, before anything is made.

use std::time::Duration;

use super::needs::{Need, needs};
use super::policy::Policy;
use crate::error::{Error, Result};
use crate::provider::{Capabilities, Level};
use crate::sandbox::spec::{
    Lifetime, Network, PROFILE_OPEN_FILES, Profile, Resources, SandboxSpec,
};
use crate::units::format_duration;

/// What the profile gives a sandbox that says nothing itself.
///
/// Memory is for an interpreter with its packages, processes for a build that
/// uses every processor, open files for a server.
pub(super) const DEFAULTS: Resources = Resources {
    memory_mib: Some(2048),
    cpus: None,
    pids: Some(1024),
    open_files: Some(PROFILE_OPEN_FILES),
    disk_mib: None,
};

/// A provider that could serve a spec instead.
#[derive(Clone, Debug)]
pub(super) struct Combination {
    pub(super) provider: String,
    pub(super) runtime: String,
    pub(super) capabilities: Capabilities,
}

/// Checks a spec, fills in what the profile adds, and compares its needs with
/// what a provider can do.
///
/// # Errors
///
/// `invalid_argument` for a value that makes no sense, `permission_denied` for
/// one outside the policy, and the first need that is not met.
pub(super) fn admit(
    spec: &SandboxSpec,
    capabilities: &Capabilities,
    policy: &Policy,
) -> Result<SandboxSpec, Refusal> {
    spec.check().map_err(Refusal::Final)?;
    check_names(spec).map_err(Refusal::Final)?;
    policy.check_life(spec).map_err(Refusal::Final)?;
    let filled = fill(spec, capabilities, policy);
    match needs(&filled)
        .into_iter()
        .find(|need| !need.is_met(capabilities))
    {
        None => Ok(filled),
        Some(need) => Err(Refusal::Unmet(need)),
    }
}

/// Why a spec is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// No provider would serve it.
    Final(Error),
    /// This provider cannot; another may.
    Unmet(Need),
}

impl Refusal {
    /// The error, with the combinations that could serve the spec.
    pub(super) fn into_error(
        self,
        spec: &SandboxSpec,
        policy: &Policy,
        refused_by: &str,
        others: &[Combination],
    ) -> Error {
        let need = match self {
            Self::Final(error) => return error.operation("create"),
            Self::Unmet(need) => need,
        };
        let able = able(spec, policy, refused_by, others);
        let expected = match need.least {
            Some(level) => format!("`{}` at level {}", need.capability, level.name()),
            None => format!("`{}`", need.capability),
        };
        let remedy = if able.is_empty() {
            format!("no configured provider can serve it; {}", need.advice())
        } else {
            format!("could be served by {able}")
        };
        Error::unsupported(format!(
            "{} ({}) needs {expected}, which provider {refused_by} does not have here; {remedy}",
            need.field, need.value,
        ))
        .operation("create")
        .provider(refused_by)
        .context("need", need.capability)
        .context("field", need.field)
        .context("value", need.value)
        .context("expected", expected)
        .context("could_serve", able)
    }
}

/// Those of the other combinations that could serve a spec, in words.
pub(super) fn able(
    spec: &SandboxSpec,
    policy: &Policy,
    refused_by: &str,
    others: &[Combination],
) -> String {
    let able: Vec<String> = others
        .iter()
        .filter(|other| other.provider != refused_by)
        .filter(|other| admit(spec, &other.capabilities, policy).is_ok())
        .map(|other| format!("{} ({})", other.provider, other.runtime))
        .collect();
    able.join(", ")
}

/// What a spec alone can get wrong across its fields.
fn check_names(spec: &SandboxSpec) -> Result<()> {
    if let Some(name) = spec
        .secrets
        .keys()
        .find(|name| spec.env.contains_key(*name))
    {
        return Err(Error::invalid(
            format!("secrets.{name}"),
            name,
            "a variable that `env` does not set too",
            "remove one of the two",
        ));
    }
    Ok(())
}

/// Adds what the profile prefers: wherever the combination can, and with
/// [`Profile::Strict`] everywhere, so that what it cannot do is an unmet need.
fn fill(spec: &SandboxSpec, can: &Capabilities, policy: &Policy) -> SandboxSpec {
    let mut filled = spec.clone();
    let wanted = |level: Level| spec.profile == Profile::Strict || level >= Level::BestEffort;
    let resources = &mut filled.resources;
    if wanted(can.memory_limit) {
        resources.memory_mib = resources.memory_mib.or(DEFAULTS.memory_mib);
    }
    if wanted(can.pids_limit) {
        resources.pids = resources.pids.or(DEFAULTS.pids);
    }
    if wanted(can.open_files_limit) {
        resources.open_files = resources.open_files.or(DEFAULTS.open_files);
    }
    if wanted(can.network_none) {
        filled.network = filled.network.or(Some(Network::None));
    }
    filled.ttl = filled.ttl.or_else(|| default_ttl(spec, can, policy));
    filled
}

/// An attached sandbox ends with its owner, so that only the policy's longest
/// life bounds it. A detached one gets the default life where the combination
/// can end it.
fn default_ttl(spec: &SandboxSpec, can: &Capabilities, policy: &Policy) -> Option<Duration> {
    let preferred = (spec.lifetime == Lifetime::Detached && can.ttl >= Level::BestEffort)
        .then_some(policy.default_ttl)
        .flatten();
    match (preferred, policy.max_ttl) {
        (Some(ttl), Some(max)) => Some(ttl.min(max)),
        (ttl, max) => ttl.or(max),
    }
}

impl Policy {
    fn check_life(&self, spec: &SandboxSpec) -> Result<()> {
        self.check_ttl(spec.ttl)
    }

    /// Checks a time to live against the longest that is allowed.
    pub(super) fn check_ttl(&self, ttl: Option<Duration>) -> Result<()> {
        if let (Some(ttl), Some(max)) = (ttl, self.max_ttl)
            && ttl > max
        {
            let (ttl, max) = (format_duration(ttl), format_duration(max));
            return Err(super::policy::denied(
                "ttl",
                &ttl,
                &format!("at most {max}"),
                "ask for less, or raise `policy.max_ttl`",
            ));
        }
        Ok(())
    }
}
