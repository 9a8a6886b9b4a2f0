//! The engine's view of a container as ours of a sandbox.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerStatsResponse, ContainerSummary,
    ContainerSummaryStateEnum, HostConfig,
};

use super::create::{IMAGE_COMMAND, INSTANCE, OWN_FILTER, SANDBOX, SOCKET_DIRECTORY, TENANT, USER};
use super::facts::Facts;
use crate::id::{InstanceId, SandboxId, TenantId};
use crate::provider::{Capabilities, Leftover, Level};
use crate::sandbox::state::{Effective, Observed, ObservedState, Usage};
use crate::units::parse_time;

/// Whether a container is the sandbox of this id that this store made.
pub(super) fn is_ours(
    labels: Option<&HashMap<String, String>>,
    id: &SandboxId,
    instance: &InstanceId,
) -> bool {
    let is = |key: &str, value: &str| {
        labels
            .and_then(|l| l.get(key))
            .is_some_and(|found| found == value)
    };
    is(INSTANCE, instance.as_str()) && is(SANDBOX, id.as_str())
}

/// The labels of an inspected container.
pub(super) fn labels(seen: &ContainerInspectResponse) -> Option<&HashMap<String, String>> {
    seen.config.as_ref()?.labels.as_ref()
}

/// Whether a container runs.
pub(super) fn state(seen: &ContainerInspectResponse) -> ObservedState {
    match seen.state.as_ref().and_then(|s| s.status) {
        Some(ContainerStateStatusEnum::RUNNING) => ObservedState::Running,
        Some(ContainerStateStatusEnum::PAUSED) => ObservedState::Paused,
        _ => ObservedState::Ended,
    }
}

/// What a look at one container tells.
pub(super) fn inspected(
    id: &SandboxId,
    seen: &ContainerInspectResponse,
    facts: &Facts,
    ends: Option<SystemTime>,
) -> Observed {
    Observed {
        id: id.clone(),
        tenant: tenant(labels(seen)),
        state: state(seen),
        created: seen.created.as_deref().and_then(parse_time),
        ends,
        idle_ends: None,
        host_pid: seen
            .state
            .as_ref()
            .and_then(|s| s.pid)
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid != 0),
        effective: seen
            .host_config
            .as_ref()
            .map(|host| {
                let mut all = effective(host, facts);
                all.extend(around(seen, host, facts));
                all.extend(of_image(seen));
                all
            })
            .unwrap_or_default(),
    }
}

/// Which image it is of, what that would run by itself, and whom commands run as.
fn of_image(seen: &ContainerInspectResponse) -> impl Iterator<Item = (String, Effective)> {
    let of = |label| {
        let text = labels(seen).and_then(|labels| labels.get(label));
        text.filter(|text| !text.is_empty()).cloned()
    };
    let all = [
        ("image", seen.image.clone()),
        ("image_command", of(IMAGE_COMMAND)),
        ("user", of(USER)),
    ];
    let all = all.into_iter();
    all.filter_map(|(name, value)| {
        let level = Level::Enforced;
        Some((
            name.to_owned(),
            Effective {
                level,
                value: value?,
            },
        ))
    })
}

/// What a listing tells: everything but process number, limits and end.
pub(super) fn listed(seen: &ContainerSummary) -> Option<Observed> {
    let labels = seen.labels.as_ref();
    let id = SandboxId::new(labels?.get(SANDBOX)?.as_str()).ok()?;
    Some(Observed {
        id,
        tenant: tenant(labels),
        state: match seen.state {
            Some(ContainerSummaryStateEnum::RUNNING) => ObservedState::Running,
            Some(ContainerSummaryStateEnum::PAUSED) => ObservedState::Paused,
            _ => ObservedState::Ended,
        },
        created: seen
            .created
            .and_then(|s| u64::try_from(s).ok())
            .map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s)),
        ends: None,
        idle_ends: None,
        host_pid: None,
        effective: BTreeMap::new(),
    })
}

/// How long after it was made a container may wait for its start.
const BEGINNING: Duration = Duration::from_mins(2);

/// A container of stacyvm: one that has all of its labels, with sensible values.
pub(super) fn leftover(seen: &ContainerSummary, now: SystemTime) -> Option<Leftover> {
    let observed = listed(seen)?;
    observed.tenant.as_ref()?;
    let labels = seen.labels.as_ref()?;
    let instance = InstanceId::new(labels.get(INSTANCE)?.as_str()).ok()?;
    let name = seen.id.clone()?;
    let lives = match seen.state {
        Some(ContainerSummaryStateEnum::EXITED | ContainerSummaryStateEnum::DEAD) => false,
        // Somebody may be about to start it.
        Some(ContainerSummaryStateEnum::CREATED) => observed
            .created
            .is_none_or(|at| now.duration_since(at).map_or(true, |age| age < BEGINNING)),
        _ => true,
    };
    Some(Leftover {
        id: format!("container:{name}"),
        kind: "container".to_owned(),
        remedy: if lives {
            format!("none: it ends by its deadline, or by `docker rm --force {name}`")
        } else {
            "remove it by its id".to_owned()
        },
        name,
        instance: Some(instance),
        state_dir: None,
        sandbox: Some(observed.id),
        owner_lives: lives,
        evidence: "it has the labels of instance, tenant and sandbox".to_owned(),
    })
}

fn tenant(labels: Option<&HashMap<String, String>>) -> Option<TenantId> {
    TenantId::new(labels?.get(TENANT)?.as_str()).ok()
}

/// What is in force, read back from the engine rather than from the request.
fn effective(host: &HostConfig, facts: &Facts) -> BTreeMap<String, Effective> {
    let Capabilities {
        memory_limit,
        cpu_limit,
        pids_limit,
        syscall_filter,
        root_mapped,
        ..
    } = facts.capabilities();
    let mut all = BTreeMap::new();
    let mut put = |name: &str, level: Level, value: String| {
        all.insert(name.to_owned(), Effective { level, value });
    };
    let set = |value: Option<i64>| value.filter(|v| *v > 0);
    match set(host.memory) {
        Some(bytes) => put("memory_limit", memory_limit, format!("{} MiB", bytes >> 20)),
        None => put("memory_limit", Level::Absent, "none".to_owned()),
    }
    match set(host.nano_cpus) {
        Some(nano) => {
            let thousandths = nano / 1_000_000;
            let value = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
            put("cpu_limit", cpu_limit, value);
        }
        None => put("cpu_limit", Level::Absent, "none".to_owned()),
    }
    match set(host.pids_limit) {
        Some(count) => put("pids_limit", pids_limit, count.to_string()),
        None => put("pids_limit", Level::Absent, "none".to_owned()),
    }
    let options = host.security_opt.as_deref().unwrap_or_default();
    let no_new = options.iter().any(|o| {
        matches!(
            o.as_str(),
            "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true"
        )
    });
    put(
        "no_new_privileges",
        if no_new {
            Level::Enforced
        } else {
            Level::Absent
        },
        no_new.to_string(),
    );
    let network = host.network_mode.clone().unwrap_or_default();
    put(
        "network_none",
        if network == "none" {
            Level::Enforced
        } else {
            Level::Absent
        },
        if network == "none" {
            network
        } else {
            "a bridge of its own".to_owned()
        },
    );
    let read_only = host.readonly_rootfs == Some(true);
    put(
        "read_only_root",
        if read_only {
            Level::Enforced
        } else {
            Level::Absent
        },
        read_only.to_string(),
    );
    let filter = if options.iter().any(|option| option.starts_with(OWN_FILTER)) {
        (syscall_filter, "stacyvm's own")
    } else if facts.own_kernel() {
        (syscall_filter, "its own kernel")
    } else if syscall_filter == Level::Absent {
        (Level::Absent, "none")
    } else {
        // Made by an earlier version: the engine may have been told to have none.
        (Level::BestEffort, "the engine's default")
    };
    put("syscall_filter", filter.0, filter.1.to_owned());
    put(
        "root_mapped",
        root_mapped,
        (root_mapped != Level::Absent).to_string(),
    );
    let apparmor = if facts.apparmor {
        (Level::Enforced, "docker-default")
    } else {
        (Level::Absent, "none")
    };
    put("apparmor", apparmor.0, apparmor.1.to_owned());
    // The agent becomes others by what is added.
    let many = host.cap_add.as_ref().is_some_and(|all| !all.is_empty());
    let users = if many { "many" } else { "one, the agent's too" };
    put("users", Level::Enforced, users.to_owned());
    all
}

/// What was let in or out on request.
fn around(
    seen: &ContainerInspectResponse,
    host: &HostConfig,
    facts: &Facts,
) -> BTreeMap<String, Effective> {
    let mut all = BTreeMap::new();
    let mut put = |name: &str, level: Level, value: String| {
        all.insert(name.to_owned(), Effective { level, value });
    };
    let (level, network) = match host.network_mode.as_deref() {
        Some("none") => (Level::Enforced, "none"),
        // The engine's filter has a gap each time it makes a network.
        _ => (Level::BestEffort, "full, by a bridge of its own"),
    };
    put("network", level, network.to_owned());
    if let Some(ports) = super::network::published(seen) {
        put("ports", Level::Enforced, ports);
    }
    let mounts = host.mounts.iter().flatten();
    // The agent's directory is nobody's inside.
    let mounts = mounts.filter(|mount| mount.target.as_deref() != Some(SOCKET_DIRECTORY));
    let of_host: Vec<bool> = mounts.filter_map(super::mounts::of_host).collect();
    if !of_host.is_empty() {
        let owner = if facts.user_namespace {
            "root is a user of the engine's range"
        } else {
            "root is the host's root"
        };
        let value = if facts.own_filter() && of_host.contains(&true) {
            format!("{owner}, no set-id bits")
        } else {
            owner.to_owned()
        };
        put("host_directories", Level::BestEffort, value);
    }
    if let Some(size) = host.storage_opt.as_ref().and_then(|opt| opt.get("size")) {
        put("disk_limit", Level::Enforced, format!("{size} bytes"));
    }
    all
}

/// What the engine measures of a container.
pub(super) fn usage(stats: &ContainerStatsResponse, processes: Option<u32>) -> Usage {
    let memory = stats.memory_stats.as_ref();
    Usage {
        memory_bytes: memory.and_then(|m| m.usage),
        // cgroup v2 engines leave it out.
        memory_peak_bytes: memory.and_then(|m| m.max_usage).filter(|peak| *peak > 0),
        cpu_us: stats
            .cpu_stats
            .as_ref()
            .and_then(|c| c.cpu_usage.as_ref())
            .and_then(|c| c.total_usage)
            .map(|ns| ns / 1000),
        processes,
        disk_bytes: None,
        oom_kills: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_engine_are_read() {
        let at = |text| {
            parse_time(text).map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos())
        };
        assert_eq!(at("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(at("2000-03-01T00:00:00Z"), Some(951_868_800_000_000_000));
        assert_eq!(
            at("2026-11-23T19:46:55.029535312Z"),
            Some(1_795_463_215_029_535_312)
        );
        for bad in [
            "",
            "x",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-01T00:00Z",
            "1969-01-01T00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.xZ",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_container_of_another_store_or_sandbox_is_not_ours() {
        let (id, instance) = (SandboxId::random(), InstanceId::random());
        let mut labels = HashMap::from([
            (INSTANCE.to_owned(), instance.to_string()),
            (SANDBOX.to_owned(), id.to_string()),
        ]);
        assert!(is_ours(Some(&labels), &id, &instance));
        assert!(!is_ours(Some(&labels), &id, &InstanceId::random()));
        assert!(!is_ours(Some(&labels), &SandboxId::random(), &instance));
        labels.remove(INSTANCE);
        assert!(!is_ours(Some(&labels), &id, &instance));
        assert!(!is_ours(None, &id, &instance));
    }

    #[test]
    fn a_container_that_is_being_made_is_no_leftover_before_its_time() {
        use ContainerSummaryStateEnum as State;
        let labels = [
            (INSTANCE, InstanceId::random().to_string()),
            (SANDBOX, SandboxId::random().to_string()),
            (TENANT, "default".to_owned()),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value));
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let lives = |state, age| {
            let seen = ContainerSummary {
                id: Some("c".into()),
                labels: Some(labels.clone().into()),
                created: Some(1_000_000),
                state: Some(state),
                ..ContainerSummary::default()
            };
            let found = leftover(&seen, made + Duration::from_secs(age)).unwrap();
            found.owner_lives
        };
        for (state, age, expected) in [
            (State::CREATED, 0, true),
            (State::CREATED, 60, true),
            (State::CREATED, 180, false),
            (State::RUNNING, 180, true),
            (State::PAUSED, 180, true),
            (State::RESTARTING, 180, true),
            (State::REMOVING, 180, true),
            (State::EXITED, 0, false),
            (State::DEAD, 0, false),
        ] {
            assert_eq!(lives(state, age), expected, "{state:?} {age}");
        }
    }

    #[test]
    fn a_limit_that_the_engine_does_not_have_is_not_in_force() {
        let all = effective(
            &HostConfig {
                memory: Some(64 << 20),
                ..HostConfig::default()
            },
            &Facts {
                memory: true,
                swap: true,
                ..Facts::default()
            },
        );
        assert_eq!(all["memory_limit"].level, Level::Enforced);
        assert_eq!(all["memory_limit"].value, "64 MiB");
        for absent in [
            "cpu_limit",
            "pids_limit",
            "no_new_privileges",
            "network_none",
            "syscall_filter",
            "root_mapped",
        ] {
            assert_eq!(all[absent].level, Level::Absent, "{absent}");
        }
    }
}
