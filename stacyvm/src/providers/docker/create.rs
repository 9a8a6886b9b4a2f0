//! A spec as the engine's request.

use std::collections::HashMap;
use std::time::SystemTime;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    ImageConfig,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use stacyvm_agent::protocol::message::{AgentConfig, Variable};

use super::facts::Facts;
use super::ticket::{self, Ticket};
use crate::error::{Error, Result};
use crate::id::{InstanceId, SandboxId, TenantId};
use crate::provider::CreateRequest;
use crate::sandbox::spec::{Lifetime, MountSource, Network, Privileges, SandboxSpec, Source};

/// The label of the store.
pub(super) const INSTANCE: &str = "stacyvm.instance";
/// The label of the sandbox.
pub(super) const SANDBOX: &str = "stacyvm.sandbox";
/// The label of the tenant.
pub(super) const TENANT: &str = "stacyvm.tenant";
/// The label that tells one request from another: a keyed digest, so that
/// nothing can be learned of the values.
pub(super) const REQUEST: &str = "stacyvm.request";

/// The agent's socket inside, in a memory file system of its own.
pub(super) const SOCKET: &str = "/run/stacyvm/agent.sock";
const SOCKET_DIRECTORY: &str = "/run/stacyvm";
/// The directory of commands that name none.
const WORKDIR: &str = "/workspace";
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
/// Processes where the caller set no limit.
const PIDS: i64 = 1024;
/// Commands at once, and bytes of kept output for each stream of one.
const EXECS: u32 = 256;
const RING: u32 = 1024 * 1024;
/// Within the 65536 users of a remapped engine; no image uses it.
const SUPERVISOR: u32 = 65_530;

/// The container's name.
pub(super) fn container(id: &SandboxId) -> String {
    format!("stacyvm-{id}")
}

/// Refuses what this provider cannot do, before any effect. A new field does
/// not compile until it is decided here.
pub(super) fn refuse(spec: &SandboxSpec) -> Result<()> {
    let SandboxSpec {
        source,
        env: _,
        user: _,
        workdir: _,
        privileges,
        resources,
        mounts,
        network,
        ports,
        labels: _,
        ttl: _,
        idle_timeout,
        lifetime,
        secrets: _,
        read_only_root: _,
        profile: _,
        provider_options,
    } = spec;
    let no = |field: &'static str, what: &str| {
        Err(
            Error::unsupported(format!("the docker provider does not serve {what}"))
                .context("field", field),
        )
    };
    match source {
        Source::Image(name) if name == "host" => {
            return no("image", "the image `host`; name an image of the engine");
        }
        Source::Image(name) if name.starts_with('/') => {
            return no("image", "a root directory; name an image of the engine");
        }
        Source::Image(_) => {}
        Source::Template(_) => return no("template", "templates"),
        Source::Snapshot(_) => return no("snapshot", "snapshots"),
    }
    if *privileges != Privileges::None {
        return no("privileges", "root with privileges inside");
    }
    if resources.disk_mib.is_some() {
        return no("disk_mib", "a limit of writable disk");
    }
    for mount in mounts {
        match mount.source {
            MountSource::Tmpfs { .. } => {}
            MountSource::Host(_) => return no("mounts", "directories of the host"),
            MountSource::Volume(_) => return no("mounts", "volumes"),
        }
    }
    match network {
        None | Some(Network::None) => {}
        Some(Network::Allow(_)) => return no("network", "an egress allow-list"),
        Some(Network::Full) => return no("network", "a network"),
    }
    if !ports.is_empty() {
        return no("ports", "published ports; dial them through the sandbox");
    }
    if idle_timeout.is_some() {
        return no("idle_timeout", "an idle timeout");
    }
    if *lifetime == Lifetime::Attached {
        return no("lifetime", "a lifetime that is attached to its owner");
    }
    if provider_options.contains_key("docker") {
        return no("provider_options.docker", "options of its own");
    }
    Ok(())
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
    owner: &Owner<'_>,
    facts: &Facts,
    volume: &str,
    ticket: &Ticket,
) -> Result<ContainerCreateBody> {
    let spec = &request.spec;
    let Source::Image(image) = &spec.source else {
        return Err(Error::unsupported(
            "the docker provider makes sandboxes of images alone",
        ));
    };
    let mut labels: HashMap<String, String> = spec.labels.clone().into_iter().collect();
    labels.insert(INSTANCE.to_owned(), owner.instance.to_string());
    labels.insert(SANDBOX.to_owned(), request.id.to_string());
    labels.insert(TENANT.to_owned(), owner.tenant.to_string());
    labels.insert(REQUEST.to_owned(), fingerprint(request, ticket)?);
    Ok(ContainerCreateBody {
        image: Some(image.clone()),
        hostname: Some(request.id.to_string()),
        // The agent is root whatever the image says; commands take their user.
        user: Some("0:0".to_owned()),
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
        host_config: Some(host_config(spec, facts, volume, ticket)),
        ..ContainerCreateBody::default()
    })
}

fn host_config(spec: &SandboxSpec, facts: &Facts, volume: &str, ticket: &Ticket) -> HostConfig {
    let mib = |value: u64| i64::try_from(value.saturating_mul(1024 * 1024)).unwrap_or(i64::MAX);
    let memory = spec.resources.memory_mib.map(mib);
    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    HostConfig {
        runtime: Some(facts.runtime.clone()),
        // nocopy: else the engine would fill an empty volume from the image.
        binds: Some(vec![format!("{volume}:{}:ro,nocopy", ticket.directory())]),
        tmpfs: Some(memory_file_systems(spec)),
        readonly_rootfs: Some(spec.read_only_root),
        cap_drop: Some(names(&["ALL"])),
        cap_add: Some(names(&CAPABILITIES)),
        security_opt: Some(names(&["no-new-privileges:true"])),
        privileged: Some(false),
        init: Some(false),
        memory,
        // The same as memory: no swap on top of it.
        memory_swap: memory,
        nano_cpus: spec.resources.cpus.map(nano_cpus),
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
fn memory_file_systems(spec: &SandboxSpec) -> HashMap<String, String> {
    let half = spec
        .resources
        .memory_mib
        .map_or(512, |mib| (mib / 2).max(1));
    let mut all = HashMap::from([
        (
            SOCKET_DIRECTORY.to_owned(),
            "rw,nosuid,nodev,noexec,mode=0700,size=64k".to_owned(),
        ),
        (
            "/tmp".to_owned(),
            format!("rw,nosuid,nodev,exec,mode=1777,size={half}m"),
        ),
    ]);
    if spec.read_only_root {
        let workdir = spec.workdir.as_deref().unwrap_or(WORKDIR);
        all.insert(
            workdir.to_owned(),
            format!("rw,nosuid,nodev,exec,mode=1777,size={half}m"),
        );
    }
    for mount in &spec.mounts {
        if let MountSource::Tmpfs { size_mib } = mount.source {
            all.insert(
                mount.target.clone(),
                format!("rw,nosuid,nodev,exec,mode=1777,size={size_mib}m"),
            );
        }
    }
    all
}

/// What the agent is told. The image's own environment, user and directory
/// stand below what the spec says.
pub(super) fn agent_config(
    request: &CreateRequest,
    image: &ImageConfig,
    ticket: &Ticket,
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
    let image_user = image.user.clone().filter(|user| !user.is_empty());
    Ok(AgentConfig {
        user: spec
            .user
            .clone()
            .or(image_user)
            .unwrap_or_else(|| "0".to_owned()),
        workdir: spec
            .workdir
            .as_deref()
            .unwrap_or(WORKDIR)
            .as_bytes()
            .to_vec()
            .into(),
        env: env
            .into_iter()
            .map(|(name, value)| Variable {
                name: name.into_bytes().into(),
                value: value.into_bytes().into(),
            })
            .collect(),
        key: ticket.key()?.to_vec(),
        deadline_ms: request.ends.map(|ends| milliseconds_until(ends, now)),
        ring_bytes: RING,
        max_execs: EXECS,
        open_files: spec.resources.open_files,
        supervisor_uid: SUPERVISOR,
        can_switch_user: true,
        socket: Some(SOCKET.as_bytes().to_vec().into()),
    })
}

/// At least one: an end that has passed is an end.
fn milliseconds_until(ends: SystemTime, now: SystemTime) -> u64 {
    let left = ends.duration_since(now).unwrap_or_default().as_millis();
    u64::try_from(left).unwrap_or(u64::MAX).max(1)
}

/// A message in the form in which the agent reads it from standard input.
pub(super) fn framed(config: &AgentConfig) -> Result<Vec<u8>> {
    let message = stacyvm_agent::protocol::message::encode(config);
    let length = u32::try_from(message.len()).map_err(|_| {
        Error::invalid(
            "env",
            "[redacted]",
            "less than 4 GiB",
            "give the sandbox a smaller environment",
        )
    })?;
    let mut framed = length.to_le_bytes().to_vec();
    framed.extend_from_slice(&message);
    Ok(framed)
}
