//! The configuration of a bundle: what the helper's own set-up does, as far as
//! the words of the OCI runtime specification reach. What they do not say (the
//! root, its mounts, a limit of zero user namespaces) the helper does, which
//! also checks what the runtime made of the rest.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, Linux, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder,
    LinuxDeviceCgroupBuilder, LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxSeccomp,
    Mount, MountBuilder, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder,
    Spec, SpecBuilder, UserBuilder,
};
use stacyvm_agent::confinement::{CAPABILITIES, MASKED, MASKED_SYS, READ_ONLY};
use stacyvm_agent::helper_protocol::{BUNDLE_AGENT, BUNDLE_TMP, Launch, Limits, Root};

use crate::error::{Error, ErrorKind, Result};
use crate::syscall_filter;

/// Ids that a sandbox gets.
const RANGE: u32 = 65536;
/// The setting by which servers inside use low ports without a capability.
const LOW_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";

/// The text of `config.json`.
pub(super) fn config(launch: &Launch, first_id: u32, own_kernel: bool) -> Result<String> {
    spec(launch, first_id, own_kernel)
        .and_then(|spec| Ok(serde_json::to_string(&spec)?))
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot write the bundle").source(e))
}

fn spec(launch: &Launch, first_id: u32, own_kernel: bool) -> Result<Spec, OciSpecError> {
    // gVisor would make all that is mounted in the root read-only with it; the
    // root's own mount, which the helper makes, is.
    let read_only = (launch.read_only_root || launch.root == Root::Host) && !own_kernel;
    let root = RootBuilder::default()
        .path(launch.root.in_bundle())
        .readonly(read_only);
    SpecBuilder::default()
        .version("1.0.2")
        .hostname(launch.hostname.as_str())
        .root(root.build()?)
        .mounts(mounts(own_kernel)?)
        .process(process()?)
        .linux(linux(launch, first_id, own_kernel)?)
        .build()
}

fn process() -> Result<Process, OciSpecError> {
    let all: HashSet<Capability> = CAPABILITIES
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("CAP_")?.parse().ok())
        .collect();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(all.clone())
        .effective(all.clone())
        .permitted(all)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?;
    // 1 and not 0: a pipe handler of the host runs even for 0, and for 1
    // the kernel gives up before it starts one.
    let core = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitCore)
        .hard(1_u64)
        .soft(1_u64)
        .build()?;
    ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(0_u32).gid(0_u32).build()?)
        .args(vec![BUNDLE_AGENT.to_owned()])
        // The agent needs none, and its commands get none of it; youki refuses
        // to start without.
        .env(vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()])
        .cwd("/")
        .capabilities(capabilities)
        .rlimits(vec![core])
        .no_new_privileges(true)
        .build()
}

/// What is the kernel's; all else is in the root that the helper makes.
fn mounts(own_kernel: bool) -> Result<Vec<Mount>, OciSpecError> {
    let mut all = vec![
        ("/proc", "proc", "nosuid,nodev,noexec"),
        ("/dev", "tmpfs", "nosuid,noexec,mode=755,size=64k"),
        (
            "/dev/pts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        (
            "/dev/shm",
            "tmpfs",
            "nosuid,nodev,noexec,mode=1777,size=64m",
        ),
        ("/sys", "sysfs", "ro,nosuid,nodev,noexec"),
    ];
    // Without POSIX message queues in the kernel there is nothing to mount.
    if Path::new("/proc/sys/fs/mqueue").exists() {
        all.push(("/dev/mqueue", "mqueue", "nosuid,nodev,noexec"));
    }
    let mut all: Vec<_> = all
        .into_iter()
        .map(|(at, kind, options)| (at, kind, kind, options))
        .collect();
    if own_kernel {
        all.push(("/tmp", "bind", BUNDLE_TMP, "rbind,nosuid,nodev"));
    }
    let mount = |(at, kind, source, options): (&str, &str, &str, &str)| {
        MountBuilder::default()
            .destination(at)
            .typ(kind)
            .source(source)
            .options(options.split(',').map(str::to_owned).collect::<Vec<_>>())
            .build()
    };
    all.into_iter().map(mount).collect()
}

fn linux(launch: &Launch, first_id: u32, own_kernel: bool) -> Result<Linux, OciSpecError> {
    let ids = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(first_id)
        .size(RANGE)
        .build()?;
    let namespaces = [
        LinuxNamespaceType::User,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    let namespace = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let filter = syscall_filter::profile(launch.writes_to_host(), own_kernel);
    let seccomp: LinuxSeccomp = serde_json::from_value(filter)?;
    let mut sysctl = HashMap::new();
    // Not in every kernel.
    if Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start").exists() {
        sysctl.insert(LOW_PORTS.to_owned(), "0".to_owned());
    }
    let masked = MASKED.iter().map(|name| format!("/proc/{name}"));
    let masked = masked.chain(MASKED_SYS.iter().map(|name| format!("/sys/{name}")));
    let read_only = READ_ONLY.iter().map(|name| format!("/proc/{name}"));
    LinuxBuilder::default()
        .uid_mappings(vec![ids])
        .gid_mappings(vec![ids])
        .namespaces(
            namespaces
                .into_iter()
                .map(namespace)
                .collect::<Result<Vec<_>, _>>()?,
        )
        .sysctl(sysctl)
        .cgroups_path(format!("/stacyvm/{}", launch.id))
        .resources(resources(&launch.limits)?)
        .seccomp(seccomp)
        .masked_paths(masked.collect::<Vec<_>>())
        .readonly_paths(read_only.collect::<Vec<_>>())
        .build()
}

/// The same limits as the helper's, which puts them in force again when the
/// container is there.
fn resources(limits: &Limits) -> Result<LinuxResources, OciSpecError> {
    let none = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm")
        .build()?;
    let mut resources = LinuxResourcesBuilder::default().devices(vec![none]);
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    if let Some(bytes) = limits.memory_bytes {
        let memory = LinuxMemoryBuilder::default().limit(signed(bytes));
        let memory = if accounts_for_swap() {
            memory.swap(signed(bytes))
        } else {
            memory
        };
        resources = resources.memory(memory.build()?);
    }
    if let Some(millis) = limits.cpu_millis {
        // The kernel takes no quota below 1 ms, so small shares get a longer period.
        let period: u64 = if millis < 10 { 1_000_000 } else { 100_000 };
        let quota = signed((period * millis / 1000).max(1000));
        let cpu = LinuxCpuBuilder::default().period(period).quota(quota);
        resources = resources.cpu(cpu.build()?);
    }
    if let Some(pids) = limits.pids {
        let pids = LinuxPidsBuilder::default().limit(i64::from(pids));
        resources = resources.pids(pids.build()?);
    }
    resources.build()
}

/// A runtime that is told of swap fails where the kernel does not count it.
fn accounts_for_swap() -> bool {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    !v1.exists() || v1.join("memory.memsw.limit_in_bytes").exists()
}
