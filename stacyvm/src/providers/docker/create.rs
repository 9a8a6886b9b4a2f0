//! A spec as the engine's request.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    ImageConfig, ResourcesUlimits,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use stacyvm_agent::confinement::{MASKED, MASKED_SYS, READ_ONLY};
use stacyvm_agent::protocol::message::{AgentConfig, Variable};

use super::facts::Facts;
use super::images::Base;
use super::snapshot::SNAPSHOT;
use super::ticket::{self, Ticket};
use crate::error::{Error, Result};
use crate::id::{InstanceId, SandboxId, TenantId};
use crate::provider::CreateRequest;
use crate::providers::default_user::{DEFAULT_USER, places_of};
use crate::sandbox::spec::{MountSource, SandboxSpec};

/// The label of the store.
pub(super) const INSTANCE: &str = "stacyvm.instance";
/// The label of the sandbox.
pub(super) const SANDBOX: &str = "stacyvm.sandbox";
/// The label of the tenant.
pub(super) const TENANT: &str = "stacyvm.tenant";
/// The label that tells one request from another: a keyed digest, so that
/// nothing can be learned of the values.
pub(super) const REQUEST: &str = "stacyvm.request";
/// The label that tells what the image would run.
pub(super) const IMAGE_COMMAND: &str = "stacyvm.image-command";

/// The label that tells whom commands run as that name nobody.
pub(super) const USER: &str = "stacyvm.user";

/// The agent's socket inside, in a memory file system of its own.
pub(super) const SOCKET: &str = "/run/stacyvm/agent.sock";
pub(super) const SOCKET_DIRECTORY: &str = "/run/stacyvm";
/// The directory of commands that name none, where the image names none either.
pub(super) const WORKDIR: &str = "/workspace";
/// Open files that every engine gives a container.
const OF_EVERY_ENGINE: u64 = 1024;
/// What the agent has, and drops before each command.
const CAPABILITIES: [&str; 7] = [
    "SETUID",
    "SETGID",
    "SETPCAP",
    "KILL",
    "CHOWN",
    "FOWNER",
    "DAC_OVERRIDE",
];
/// Below `/proc`, hidden beside what every sandbox has hidden: files of the host's
/// root, who root inside is here.
const OF_ROOT: [&str; 5] = [
    "kpagecgroup",
    "kpageflags",
    "pagetypeinfo",
    "slabinfo",
    "vmallocinfo",
];
/// Below `/proc`, not written to: of the agent's files, which are root's, those by
/// which root inside would have it die first where memory runs out.
const OF_AGENT: [&str; 4] = [
    "1/oom_adj",
    "1/oom_score_adj",
    "1/task/1/oom_adj",
    "1/task/1/oom_score_adj",
];
/// What a security option begins with whose rest is a filter of system calls.
pub(super) const OWN_FILTER: &str = "seccomp=";
/// Processes where the caller set no limit.
const PIDS: i64 = 1024;
/// Commands at once, and bytes of kept output for each stream of one.
const EXECS: u32 = 256;
const RING: u32 = 1024 * 1024;
/// What an agent reads from its standard input at most.
const LONGEST_CONFIG: u32 = 256 * 1024;
/// Within the 65536 users of a remapped engine; no image uses it.
const SUPERVISOR: u32 = 65_530;

/// The container's name.
pub(super) fn container(id: &SandboxId) -> String {
    format!("stacyvm-{id}")
}

/// The digest of a request under the sandbox's key.
pub(super) fn fingerprint(request: &CreateRequest, ticket: &Ticket) -> Result<String> {
    let text = serde_json::to_vec(&(&request.spec, &request.instance, request.secrets.expose()))
        .map_err(|e| {
            Error::invalid(
                "spec",
                e,
                "values that can be written as JSON",
                "check numbers",
            )
        })?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&ticket.key()?)
        .map_err(|e| Error::invalid("key", e, "a key of any length", "report this"))?;
    mac.update(&text);
    Ok(ticket::hex(&mac.finalize().into_bytes()))
}

/// What identifies the request beside its spec.
pub(super) struct Owner<'a> {
    pub(super) instance: &'a InstanceId,
    pub(super) tenant: &'a TenantId,
}

/// The container that serves a request.
pub(super) fn body(
    request: &CreateRequest,
    base: &Base,
    owner: &Owner<'_>,
    facts: &Facts,
    volume: &str,
    ticket: &Ticket,
) -> Result<ContainerCreateBody> {
    let spec = &request.spec;
    let mut labels: HashMap<String, String> = spec.labels.clone().into_iter().collect();
    labels.insert(INSTANCE.to_owned(), owner.instance.to_string());
    labels.insert(SANDBOX.to_owned(), request.id.to_string());
    labels.insert(TENANT.to_owned(), owner.tenant.to_string());
    labels.insert(REQUEST.to_owned(), fingerprint(request, ticket)?);
    // Whatever an image has under these names.
    labels.insert(IMAGE_COMMAND.to_owned(), base.command());
    labels.insert(SNAPSHOT.to_owned(), base.snapshot());
    labels.insert(USER.to_owned(), user_of(spec, &base.config));
    let mut host = host_config(spec, facts, volume, ticket, &base.config);
    // What was asked for is refused by the engine where it cannot be; the agent alone
    // could only lower what the engine gives. It needs more itself than few.
    let asked = spec
        .resources
        .open_files
        .filter(|_| !request.open_files_preferred);
    if let Some(files) = asked.filter(|files| *files > OF_EVERY_ENGINE) {
        let files = i64::try_from(files).unwrap_or(i64::MAX);
        host.ulimits.get_or_insert_default().push(ResourcesUlimits {
            name: Some("nofile".to_owned()),
            soft: Some(files),
            hard: Some(files),
        });
    }
    Ok(ContainerCreateBody {
        image: Some(base.name.clone()),
        hostname: Some(request.id.to_string()),
        user: Some(if facts.one_user {
            user_of(spec, &base.config)
        } else {
            // The agent is root whatever the image says; commands take their user.
            "0:0".to_owned()
        }),
        entrypoint: Some(vec![ticket.program.clone(), "--stdin".to_owned()]),
        cmd: Some(Vec::new()),
        working_dir: Some("/".to_owned()),
        open_stdin: Some(true),
        stdin_once: Some(true),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(false),
        // An image's check would run in the sandbox with the agent's rights.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        labels: Some(labels),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

fn host_config(
    spec: &SandboxSpec,
    facts: &Facts,
    volume: &str,
    ticket: &Ticket,
    image: &ImageConfig,
) -> HostConfig {
    let mib = |value: u64| i64::try_from(value.saturating_mul(1024 * 1024)).unwrap_or(i64::MAX);
    let memory = spec.resources.memory_mib.map(mib);
    let user = user_of(spec, image);
    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    HostConfig {
        runtime: Some(facts.runtime.clone()),
        // nocopy: else the engine would fill an empty volume from the image.
        binds: Some(vec![format!("{volume}:{}:ro,nocopy", ticket.directory())]),
        tmpfs: Some(memory_file_systems(spec, ticket, &user)),
        readonly_rootfs: Some(spec.read_only_root),
        cap_drop: Some(names(&["ALL"])),
        cap_add: (!facts.one_user).then(|| names(&CAPABILITIES)),
        security_opt: Some(security_options(facts)),
        masked_paths: Some(masked()),
        readonly_paths: Some(read_only(facts, &user)),
        privileged: Some(false),
        init: Some(false),
        memory,
        // The same as memory: no swap on top of it.
        memory_swap: memory,
        nano_cpus: spec.resources.cpus.map(nano_cpus),
        // 1 and not 0: see `agent/src/filter/core_dumps.rs`.
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("core".to_owned()),
            soft: Some(1),
            hard: Some(1),
        }]),
        pids_limit: Some(spec.resources.pids.map_or(PIDS, i64::from)),
        network_mode: Some("none".to_owned()),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: facts
            .cgroup_namespace
            .then_some(HostConfigCgroupnsModeEnum::PRIVATE),
        auto_remove: Some(true),
        // The protocol is no log; with a log it would be written to disk.
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        ..HostConfig::default()
    }
}

/// No rights by programs, and the filter of system calls of every sandbox instead
/// of the engine's own, which lets more through.
fn security_options(facts: &Facts) -> Vec<String> {
    let mut options = vec!["no-new-privileges:true".to_owned()];
    if facts.own_filter() {
        let profile = crate::syscall_filter::profile(false, facts.own_kernel());
        options.push(format!("{OWN_FILTER}{profile}"));
    }
    options
}

/// What is hidden. It stands instead of the engine's own list, of which it has all.
fn masked() -> Vec<String> {
    let of_proc = MASKED.iter().chain(&OF_ROOT);
    let of_proc = of_proc.map(|name| format!("/proc/{name}"));
    let of_sys = MASKED_SYS.iter().map(|name| format!("/sys/{name}"));
    of_proc.chain(of_sys).collect()
}

/// What is not written to. It stands instead of the engine's own list, too. An agent that
/// is no root writes to its own files, and nobody else does: once it hides they are root's.
fn read_only(facts: &Facts, user: &str) -> Vec<String> {
    let is_root = !facts.one_user || numbers(user).is_none_or(|(user, _)| user == 0);
    let of_agent: &[&str] = if is_root { &OF_AGENT } else { &[] };
    let of_proc = READ_ONLY.iter().chain(of_agent);
    of_proc.map(|name| format!("/proc/{name}")).collect()
}

/// A billionth of a processor is the engine's unit. The spec's check bounds it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a float turns into the nearest integer in range"
)]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

/// They count towards the memory limit, so the default one takes half of it
/// at most.
fn memory_file_systems(spec: &SandboxSpec, ticket: &Ticket, user: &str) -> HashMap<String, String> {
    // Runtimes give one over a directory of the image that directory's mode.
    let owner = numbers(user).filter(|owner| owner.0 != 0);
    let owner = owner.map_or_else(String::new, |(user, group)| {
        format!(",uid={user},gid={group}")
    });
    let half = spec
        .resources
        .memory_mib
        .map_or(512, |mib| (mib / 2).max(1));
    // Where the agent is no root it is whoever it is, and nobody else is there.
    let mode = if ticket.one_user { "1777" } else { "0700" };
    let mut all = HashMap::from([(
        ticket.socket_directory(),
        format!("rw,nosuid,nodev,noexec,mode={mode},size=64k"),
    )]);
    // Nothing lies on what the spec mounts.
    let is_free = |place: &str| {
        let mut mounts = spec.mounts.iter();
        !mounts.any(|mount| Path::new(place).starts_with(&mount.target))
    };
    if is_free("/tmp") {
        let options = format!("rw,nosuid,nodev,exec,mode=1777,size={half}m");
        all.insert("/tmp".to_owned(), options);
    }
    // Elsewhere it would hide what the image has.
    if spec.read_only_root && is_free(WORKDIR) {
        let options = format!("rw,nosuid,nodev,exec,mode=1777,size={half}m{owner}");
        all.insert(WORKDIR.to_owned(), options);
    }
    // With many users it is nobody's in particular.
    let owner = if ticket.one_user {
        owner
    } else {
        String::new()
    };
    for mount in &spec.mounts {
        if let MountSource::Tmpfs { size_mib } = mount.source {
            all.insert(
                mount.target.clone(),
                format!("rw,nosuid,nodev,exec,mode=1777,size={size_mib}m{owner}"),
            );
        }
    }
    all
}

/// What the agent is told, `ends` included, which for an attached lifetime is
/// earlier than the request's. The image's own environment, user and directory
/// stand below what the spec says.
pub(super) fn agent_config(
    request: &CreateRequest,
    image: &ImageConfig,
    facts: &Facts,
    ticket: &Ticket,
    ends: Option<SystemTime>,
    now: SystemTime,
) -> Result<AgentConfig> {
    let spec = &request.spec;
    let mut env: Vec<(String, String)> = image
        .env
        .iter()
        .flatten()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for (name, value) in spec.env.iter().chain(request.secrets.expose()) {
        env.retain(|(existing, _)| existing != name);
        env.push((name.clone(), value.clone()));
    }
    if let Some(workdir) = image
        .working_dir
        .as_ref()
        .filter(|w| !w.is_empty() && !w.starts_with('/'))
    {
        return Err(Error::invalid(
            "image.config.working_dir",
            workdir,
            "an absolute path",
            "the image was built wrong; build it again",
        ));
    }
    Ok(AgentConfig {
        user: user_of(spec, image),
        workdir: workdir_of(spec, image).into_bytes().into(),
        env: env
            .into_iter()
            .map(|(name, value)| Variable {
                name: name.into_bytes().into(),
                value: value.into_bytes().into(),
            })
            .collect(),
        key: ticket.key()?.to_vec(),
        deadline_ms: ends.map(|ends| milliseconds_until(ends, now)),
        ring_bytes: RING,
        max_execs: EXECS,
        open_files: spec.resources.open_files,
        supervisor_uid: SUPERVISOR,
        can_switch_user: !facts.one_user,
        idle_ms: None,
        spare_supervisors: crate::agent::spare_supervisors(spec.resources.pids, facts.own_kernel()),
        waits: request.waits.then_some(true),
        namespaced_root: None,
        places: places_of(&user_of(spec, image)),
        socket: Some(ticket.socket().into_bytes().into()),
    })
}

fn named(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

/// Whom commands run as that name nobody.
pub(super) fn user_of(spec: &SandboxSpec, image: &ImageConfig) -> String {
    let image = named(image.user.as_ref());
    spec.user
        .clone()
        .or(image)
        .unwrap_or_else(|| DEFAULT_USER.to_owned())
}

/// User and group, where both are numbers; names are the image's to know.
pub(super) fn numbers(user: &str) -> Option<(u32, u32)> {
    let (user, group) = user.split_once(':').unwrap_or((user, "0"));
    Some((user.parse().ok()?, group.parse().ok()?))
}

/// Where commands run that name no directory.
pub(super) fn workdir_of(spec: &SandboxSpec, image: &ImageConfig) -> String {
    let image = named(image.working_dir.as_ref());
    spec.workdir
        .clone()
        .or(image)
        .unwrap_or_else(|| WORKDIR.to_owned())
}

/// At least one: an end that has passed is an end.
fn milliseconds_until(ends: SystemTime, now: SystemTime) -> u64 {
    let left = ends.duration_since(now).unwrap_or_default().as_millis();
    u64::try_from(left).unwrap_or(u64::MAX).max(1)
}

/// A message in the form in which the agent reads it from standard input.
pub(super) fn framed(config: &AgentConfig) -> Result<Vec<u8>> {
    let message = stacyvm_agent::protocol::message::encode(config);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    if length > LONGEST_CONFIG {
        return Err(Error::invalid(
            "env",
            format!("{length} bytes"),
            "at most 256 KiB with the image's own variables and the secrets",
            "write large values to a file in the sandbox",
        ));
    }
    let mut framed = length.to_le_bytes().to_vec();
    framed.extend_from_slice(&message);
    Ok(framed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Secrets;
    use crate::sandbox::spec::Mount;
    use std::collections::BTreeMap;
    use std::time::Duration;

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

    fn made(request: &CreateRequest, ticket: &Ticket) -> ContainerCreateBody {
        made_with(request, &facts(), ticket)
    }

    fn made_with(request: &CreateRequest, facts: &Facts, ticket: &Ticket) -> ContainerCreateBody {
        let owner = Owner {
            instance: &request.instance,
            tenant: &TenantId::default(),
        };
        let base = Base {
            name: "a".into(),
            config: ImageConfig {
                cmd: Some(vec!["sh".into()]),
                ..ImageConfig::default()
            },
            ..Base::default()
        };
        body(request, &base, &owner, facts, "volume", ticket).unwrap()
    }

    fn facts() -> Facts {
        Facts {
            seccomp: true,
            heeds_filters: true,
            ..Facts::default()
        }
    }

    #[test]
    fn more_open_files_than_an_engine_gives_are_asked_of_it() {
        let nofile = |files: Option<u64>, preferred: bool| {
            let mut request = request(SandboxSpec::image("a"));
            request.spec.resources.open_files = files;
            request.open_files_preferred = preferred;
            let body = made(&request, &Ticket::mint(None, false).unwrap());
            let limits = body.host_config.unwrap().ulimits.unwrap();
            let mut limits = limits.into_iter();
            let found = limits.find(|limit| limit.name.as_deref() == Some("nofile"));
            found.and_then(|limit| limit.hard.filter(|hard| Some(*hard) == limit.soft))
        };
        assert_eq!(nofile(Some(1_000_000), false), Some(1_000_000));
        assert_eq!(nofile(Some(1_000_000), true), None);
        assert_eq!(nofile(Some(100), false), None);
        assert_eq!(nofile(None, false), None);
    }

    #[test]
    fn no_memory_file_system_lies_on_what_is_mounted() {
        let tmpfs_of = |target: Option<&str>| {
            let mut spec = SandboxSpec::image("a").workdir("/etc");
            spec.read_only_root = true;
            spec.mounts.extend(target.map(|target| Mount {
                target: target.into(),
                source: MountSource::Volume("v".into()),
                writable: true,
                size_mib: None,
            }));
            let ticket = Ticket::mint(None, false).unwrap();
            let body = made(&request(spec), &ticket);
            let tmpfs = body.host_config.unwrap().tmpfs.unwrap();
            let mut places: Vec<String> = tmpfs.into_keys().collect();
            places.retain(|place| place != SOCKET_DIRECTORY);
            places.sort();
            places
        };
        assert_eq!(tmpfs_of(None), ["/tmp", "/workspace"]);
        assert_eq!(tmpfs_of(Some("/tmp/")), ["/workspace"]);
        assert_eq!(tmpfs_of(Some("/workspace")), ["/tmp"]);
        assert_eq!(tmpfs_of(Some("/workspace/below")), ["/tmp", "/workspace"]);
    }

    #[test]
    fn with_one_user_no_capability_is_asked_for_and_the_agent_is_that_user() {
        let one = Facts {
            one_user: true,
            ..facts()
        };
        let mut ticket = Ticket::mint(None, false).unwrap();
        ticket.one_user = true;
        let request = request(SandboxSpec::image("a"));
        let body = made_with(&request, &one, &ticket);
        assert_eq!(body.user.as_deref(), Some("1000:1000"));
        let host = body.host_config.unwrap();
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.cap_add, None);
        let of_agent = |spec| {
            let body = made_with(&self::request(spec), &one, &ticket);
            let paths = body.host_config.unwrap().readonly_paths.unwrap();
            paths.contains(&"/proc/1/oom_score_adj".to_owned())
        };
        assert!(!of_agent(SandboxSpec::image("a")), "the agent writes to it");
        for user in ["root", "0", "app"] {
            let spec = SandboxSpec::image("a").user(user);
            assert!(of_agent(spec), "{user} may be root, whose file it is");
        }
        let app = ImageConfig {
            user: Some("app".into()),
            ..ImageConfig::default()
        };
        let now = SystemTime::now();
        for (image, user) in [(ImageConfig::default(), "1000:1000"), (app, "app")] {
            let config = agent_config(&request, &image, &one, &ticket, None, now).unwrap();
            assert_eq!(
                (config.user.as_str(), config.can_switch_user),
                (user, false)
            );
        }
    }

    #[test]
    fn a_container_is_hardened_whatever_the_spec_says() {
        let ticket = Ticket::mint(None, false).unwrap();
        let body = made(
            &request(SandboxSpec::image("a").memory_mib(64).cpus(0.25)),
            &ticket,
        );
        let host = body.host_config.unwrap();
        let labels = body.labels.unwrap();
        assert_eq!(labels[IMAGE_COMMAND], r#"["sh"]"#);
        assert_eq!(labels[SNAPSHOT], "");
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.cap_add.unwrap().len(), 7);
        let options = host.security_opt.unwrap();
        assert_eq!(options[0], "no-new-privileges:true");
        let filter: serde_json::Value =
            serde_json::from_str(options[1].strip_prefix(OWN_FILTER).unwrap()).unwrap();
        assert_eq!(filter["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.ipc_mode.as_deref(), Some("private"));
        assert_eq!(host.auto_remove, Some(true));
        assert_eq!(host.privileged, Some(false));
        // What Docker Engine hides by itself, 20.10 to 28.
        let masked = host.masked_paths.unwrap();
        for path in [
            "/proc/asound",
            "/proc/acpi",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
        ] {
            assert!(masked.iter().any(|masked| masked == path), "{path}");
        }
        let read_only = host.readonly_paths.unwrap();
        for name in ["bus", "fs", "irq", "sys", "sysrq-trigger"] {
            let path = format!("/proc/{name}");
            assert!(read_only.contains(&path), "{path}");
        }
        assert_eq!(host.memory, Some(64 << 20));
        assert_eq!(host.memory_swap, host.memory);
        assert_eq!(host.nano_cpus, Some(250_000_000));
        assert_eq!(host.pids_limit, Some(PIDS));
        assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("none"));
        assert_eq!(body.healthcheck.unwrap().test.unwrap(), ["NONE"]);
        assert_eq!(
            host.binds.unwrap(),
            [format!("volume:{}:ro,nocopy", ticket.directory())]
        );
    }

    #[test]
    fn no_secret_and_no_key_reaches_the_engine() {
        let mut request = request(SandboxSpec::image("a").env("TOKEN", "hunter2"));
        request.secrets = Secrets::new(BTreeMap::from([("S".into(), "hunter3".into())]));
        let ticket = Ticket::mint(None, false).unwrap();
        let sent = serde_json::to_string(&made(&request, &ticket)).unwrap();
        let key = ticket::hex(&ticket.key().unwrap());
        assert!(!sent.contains("hunter") && !sent.contains(&key), "{sent}");
        let told = framed(
            &agent_config(
                &request,
                &ImageConfig::default(),
                &facts(),
                &ticket,
                None,
                SystemTime::now(),
            )
            .unwrap(),
        )
        .unwrap();
        let has = |text: &str| told.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(has("hunter2") && has("hunter3"));
    }

    #[test]
    fn an_environment_that_no_agent_reads_is_refused() {
        let request = request(SandboxSpec::image("a").env("A", "x".repeat(256 * 1024)));
        let ticket = Ticket::mint(None, false).unwrap();
        let now = SystemTime::now();
        let config = agent_config(
            &request,
            &ImageConfig::default(),
            &facts(),
            &ticket,
            None,
            now,
        )
        .unwrap();
        let error = framed(&config).unwrap_err();
        assert_eq!(error.fact("field"), Some("env"));
        assert!(!error.to_string().contains("xxx"));
    }

    #[test]
    fn equal_requests_have_equal_fingerprints_under_one_key_only() {
        let ticket = Ticket::mint(None, false).unwrap();
        let of = |request: &CreateRequest, ticket: &Ticket| fingerprint(request, ticket).unwrap();
        let first = request(SandboxSpec::image("a"));
        let mut other = first.clone();
        assert_eq!(of(&first, &ticket), of(&other, &ticket));
        assert_ne!(
            of(&first, &ticket),
            of(&first, &Ticket::mint(None, false).unwrap())
        );
        other.spec.env.insert("A".into(), "b".into());
        assert_ne!(of(&first, &ticket), of(&other, &ticket));
    }

    #[test]
    fn the_spec_stands_above_the_image() {
        let image = ImageConfig {
            env: Some(vec!["PATH=/image".into(), "A=image".into(), "odd".into()]),
            user: Some("app".into()),
            working_dir: Some("/srv".into()),
            ..ImageConfig::default()
        };
        let ticket = Ticket::mint(None, false).unwrap();
        let now = SystemTime::now();
        let mut request = request(SandboxSpec::image("a").env("A", "spec"));
        let ends = Some(now + Duration::from_millis(1500));
        let config = agent_config(&request, &image, &facts(), &ticket, ends, now).unwrap();
        let env: Vec<(String, String)> = config
            .env
            .iter()
            .map(|v| {
                let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
                (text(&v.name), text(&v.value))
            })
            .collect();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(env, [pair("PATH", "/image"), pair("A", "spec")]);
        assert_eq!(config.user, "app");
        assert_eq!(config.workdir, b"/srv".to_vec().into());
        assert_eq!(config.deadline_ms, Some(1500));
        request.spec.user = Some("1000".into());
        request.spec.workdir = Some("/spec".into());
        let ends = Some(now - Duration::from_secs(1));
        let config = agent_config(&request, &image, &facts(), &ticket, ends, now).unwrap();
        assert_eq!(config.user, "1000");
        assert_eq!(config.workdir, b"/spec".to_vec().into());
        let relative = ImageConfig {
            working_dir: Some("srv".into()),
            ..ImageConfig::default()
        };
        request.spec.workdir = None;
        let error = agent_config(&request, &relative, &facts(), &ticket, None, now).unwrap_err();
        assert_eq!(error.fact("field"), Some("image.config.working_dir"));
        let none = ImageConfig::default();
        let config = agent_config(&request, &none, &facts(), &ticket, ends, now).unwrap();
        assert_eq!(config.workdir, WORKDIR.as_bytes().to_vec().into());
        assert_eq!(config.deadline_ms, Some(1));
        assert_eq!(config.places, None, "the spec names a user");
        request.spec.user = None;
        let config = agent_config(&request, &none, &facts(), &ticket, ends, now).unwrap();
        assert_eq!(config.user, DEFAULT_USER);
        assert_eq!(config.places.unwrap().len(), 2);
    }
}
