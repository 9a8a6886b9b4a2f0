//! What an engine said of itself when the provider was opened.

use std::collections::BTreeMap;

use bollard::models::SystemInfo;

use super::identity::{claimed, promised};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{Capabilities, Isolation, KillScope, Level, ProviderInfo, Signals, Users};

/// The part of the engine's self-description that decides what can be promised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The engine's own id.
    pub(super) engine: String,
    pub(super) server: String,
    pub(super) kernel: String,
    pub(super) runtime: String,
    pub(super) isolation: Isolation,
    /// What the runtime claims to be, which every create checks from inside.
    pub(super) claim: Isolation,
    pub(super) memory: bool,
    pub(super) swap: bool,
    pub(super) cpu: bool,
    pub(super) pids: bool,
    /// Whether the host's kernel filters system calls, whatever the engine's
    /// default is: containers are given a filter of ours.
    pub(super) seccomp: bool,
    /// Whether the runtime heeds a container's filter: gVisor does where it is
    /// registered with `--oci-seccomp`, virtual machines never do.
    pub(super) heeds_filters: bool,
    /// Whether what a sandbox writes lies in the container's own layer: not in gVisor's
    /// overlay of its own, nor seen yet of virtual machines.
    pub(super) saves_disk: bool,
    pub(super) apparmor: bool,
    pub(super) selinux: bool,
    pub(super) user_namespace: bool,
    pub(super) cgroup_namespace: bool,
    /// Whether the engine is this host's own, by its socket: the paths and the
    /// loopback address of the one are those of the other.
    pub(super) local: bool,
    /// Whether the engine's kernel is this one, and not that of a virtual machine.
    pub(super) same_kernel: bool,
    /// The directory of the engine's data.
    pub(super) data: Option<String>,
    /// Whether the engine's disk may hold a limit for each container.
    pub(super) disk: bool,
    /// Whether sandboxes have one user alone, so that no Linux capability is added.
    pub(super) one_user: bool,
    /// Whether commands are the engine's own execs, without an agent.
    pub(super) engine_exec: bool,
    /// Why a sandbox with this runtime has no network, if so.
    pub(super) no_network: Option<&'static str>,
}

impl Facts {
    /// Reads them, and refuses an engine that cannot run the agent.
    pub(super) fn new(info: &SystemInfo, runtime: Option<&str>) -> Result<Self> {
        let system = info.os_type.as_deref().unwrap_or_default();
        let architecture = info.architecture.as_deref().unwrap_or_default();
        if system != "linux" || rust_name(architecture) != std::env::consts::ARCH {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the docker engine runs {system} on {architecture}, expected linux on {}: \
                     the agent of this build runs nowhere else",
                    std::env::consts::ARCH
                ),
            ));
        }
        let name = runtime
            .or(info.default_runtime.as_deref())
            .unwrap_or("runc")
            .to_owned();
        let runtimes = info.runtimes.clone().unwrap_or_default();
        // A name with a dot is a containerd shim, which no list of the engine shows.
        let registered = runtimes.get(&name);
        let arguments = registered.and_then(|r| r.runtime_args.as_deref());
        let oci_seccomp = arguments.unwrap_or_default().iter().any(|argument| {
            let argument = argument.trim_start_matches('-');
            matches!(argument, "oci-seccomp" | "oci-seccomp=true")
        });
        let no_overlay = flag(arguments.unwrap_or_default(), "overlay2") == Some("none");
        let Some(path) = registered
            .map(|r| r.path.clone().unwrap_or_default())
            .or_else(|| name.contains('.').then(|| name.clone()))
        else {
            let mut known: Vec<&str> = runtimes.keys().map(String::as_str).collect();
            known.sort_unstable();
            return Err(Error::invalid(
                "docker.runtime",
                &name,
                &format!("one of {}", known.join(", ")),
                "register the runtime in the engine's configuration",
            ));
        };
        let options = info.security_options.clone().unwrap_or_default();
        let option = |name: &str| {
            options
                .iter()
                .find(|o| o.split(',').any(|part| part == format!("name={name}")))
        };
        let yes = |value: Option<bool>| value.unwrap_or(false);
        let isolation = promised(&name, &path);
        let no_network = no_network(isolation, arguments.unwrap_or_default());
        Ok(Self {
            local: false,
            one_user: false,
            engine_exec: false,
            same_kernel: same_kernel(info.kernel_version.as_deref()),
            data: info.docker_root_dir.clone(),
            disk: holds_disk_limits(info),
            no_network,
            engine: info.id.clone().unwrap_or_default(),
            server: info.server_version.clone().unwrap_or_default(),
            kernel: info.kernel_version.clone().unwrap_or_default(),
            isolation,
            claim: claimed(&name, &path),
            heeds_filters: match isolation {
                Isolation::UserKernel => oci_seccomp,
                Isolation::VirtualMachine => false,
                _ => true,
            },
            saves_disk: match isolation {
                Isolation::UserKernel => no_overlay,
                Isolation::VirtualMachine => false,
                _ => true,
            },
            runtime: name,
            memory: yes(info.memory_limit),
            swap: yes(info.swap_limit),
            cpu: yes(info.cpu_cfs_quota),
            pids: yes(info.pids_limit),
            seccomp: option("seccomp").is_some(),
            apparmor: option("apparmor").is_some(),
            selinux: option("selinux").is_some(),
            user_namespace: option("userns").is_some() || option("rootless").is_some(),
            cgroup_namespace: option("cgroupns").is_some(),
        })
    }

    /// Names the provider.
    pub(super) fn info(&self) -> ProviderInfo {
        ProviderInfo {
            name: "docker".to_owned(),
            runtime: self.runtime.clone(),
            versions: BTreeMap::from([
                ("docker".to_owned(), self.server.clone()),
                ("kernel".to_owned(), self.kernel.clone()),
                ("stacyvm".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ]),
        }
    }

    /// Whether system calls are answered by a kernel of the sandbox's own.
    pub(super) fn own_kernel(&self) -> bool {
        matches!(
            self.isolation,
            Isolation::UserKernel | Isolation::VirtualMachine
        )
    }

    /// Whether containers are given our own filter of system calls: not where it
    /// would be ignored, and kernels without filters refuse it.
    pub(super) fn own_filter(&self) -> bool {
        self.seccomp && self.heeds_filters
    }

    /// Whether ports can be published where callers of this host reach them.
    pub(super) fn publishes(&self) -> bool {
        self.local && self.no_network.is_none()
    }

    /// What can be promised. What is left out cannot.
    pub(super) fn capabilities(&self) -> Capabilities {
        let enforced = |yes: bool| if yes { Level::Enforced } else { Level::Absent };
        let own_kernel = self.own_kernel();
        Capabilities {
            exec_stdin: true,
            exec_tty: true,
            users: if self.one_user {
                Users::One
            } else {
                Users::Many
            },
            exec_background: true,
            reattach_output: true,
            kill_scope: KillScope::Tree,
            signals: Signals::Any,
            files: true,
            file_watch: true,
            file_tar: true,
            dial: true,
            listen: true,
            pause: true,
            outlives_host: true,
            attached_lifetime: true,
            claim: true,
            // The timer is the agent's, in the sandbox that it ends.
            ttl: Level::BestEffort,
            processes: true,
            usage: true,
            image_registry: true,
            snapshot_disk: self.saves_disk,
            mount_tmpfs: true,
            mount_host: self.local,
            // A new one is root's, and nobody but root could let that user in.
            mount_volume: self.local && !self.one_user,
            read_only_root: Level::Enforced,
            isolation: self.isolation,
            root_mapped: enforced(self.user_namespace || own_kernel),
            syscall_filter: enforced(self.seccomp || own_kernel),
            no_new_privileges: Level::Enforced,
            memory_limit: match (self.memory, self.swap) {
                (true, true) => Level::Enforced,
                (true, false) => Level::BestEffort,
                (false, _) => Level::Absent,
            },
            cpu_limit: enforced(self.cpu),
            // What the host counts of gVisor are threads of its kernel, which a small
            // limit keeps from starting.
            pids_limit: enforced(self.pids && self.isolation != Isolation::UserKernel),
            open_files_limit: Level::Enforced,
            network_none: Level::Enforced,
            network_full: self.no_network.is_none(),
            publish_ports: self.publishes(),
            endpoint: self.publishes(),
            disk_limit: enforced(self.disk),
            env: true,
            labels: true,
            ..Capabilities::default()
        }
    }
}

/// Why a runtime gives no network. gVisor's own network stack does not reach the name
/// service of a bridge, and was never seen at work here; of virtual machines nothing
/// was seen.
fn no_network(isolation: Isolation, arguments: &[String]) -> Option<&'static str> {
    match isolation {
        Isolation::UserKernel if flag(arguments, "network") == Some("host") => None,
        Isolation::UserKernel => {
            Some("gVisor has one where it is registered with `--network=host`")
        }
        Isolation::VirtualMachine => Some("it was not tried with virtual machines"),
        _ => None,
    }
}

/// Whether the engine keeps containers where it takes limits. It refuses one where
/// the disk is mounted without project quotas, before anything is made.
fn holds_disk_limits(info: &SystemInfo) -> bool {
    let mut status = info.driver_status.iter().flatten();
    info.driver.as_deref() == Some("overlay2")
        && status.any(|row| matches!(row.as_slice(), [name, on, ..] if name == "Backing Filesystem" && on == "xfs"))
}

/// Whether a kernel is the one that this process runs on.
fn same_kernel(version: Option<&str>) -> bool {
    let own = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    own.is_ok_and(|own| Some(own.trim()) == version)
}

/// The value of a flag: the last one counts, and it may be an argument of its own.
fn flag<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let mut found = None;
    let mut all = arguments.iter().peekable();
    while let Some(argument) = all.next() {
        let argument = argument.trim_start_matches('-');
        match argument.split_once('=') {
            Some((key, value)) if key == name => found = Some(value),
            None if argument == name => found = all.peek().map(|next| next.as_str()),
            _ => {}
        }
    }
    found
}

/// The kernel's name of an architecture as the compiler names it.
pub(super) fn rust_name(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::Runtime;
    use std::collections::HashMap;

    fn info() -> SystemInfo {
        let runtime = |path: &str| Runtime {
            path: Some(path.to_owned()),
            ..Runtime::default()
        };
        SystemInfo {
            os_type: Some("linux".into()),
            architecture: Some(std::env::consts::ARCH.into()),
            default_runtime: Some("runc".into()),
            runtimes: Some(HashMap::from([
                ("runc".to_owned(), runtime("runc")),
                ("runsc".to_owned(), runtime("/usr/bin/runsc")),
                ("kata".to_owned(), runtime("/usr/bin/runc")),
            ])),
            memory_limit: Some(true),
            swap_limit: Some(true),
            security_options: Some(vec!["name=seccomp,profile=default".into()]),
            ..SystemInfo::default()
        }
    }

    #[test]
    fn a_name_alone_is_no_isolation() {
        let of = |runtime| Facts::new(&info(), Some(runtime)).unwrap().isolation;
        assert_eq!(of("runc"), Isolation::Namespaces);
        assert_eq!(of("runsc"), Isolation::UserKernel);
        assert_eq!(of("kata"), Isolation::Namespaces);
        assert_eq!(of("io.containerd.kata.v2"), Isolation::VirtualMachine);
    }

    #[test]
    fn a_filter_that_would_be_ignored_is_not_given() {
        let of = |runtime: &str, argument: Option<&str>| {
            let mut info = info();
            let registered = info.runtimes.as_mut().and_then(|all| all.get_mut(runtime));
            if let Some(registered) = registered {
                registered.runtime_args = argument.map(|text| vec![text.to_owned()]);
            }
            Facts::new(&info, Some(runtime)).unwrap().own_filter()
        };
        assert!(of("runc", None));
        assert!(of("runsc", Some("--oci-seccomp")) && of("runsc", Some("-oci-seccomp=true")));
        assert!(!of("runsc", None) && !of("runsc", Some("--oci-seccomp=false")));
        assert!(!of("io.containerd.runsc.v1", None) && !of("io.containerd.kata.v2", None));
    }

    #[test]
    fn disks_are_saved_where_they_lie_in_the_containers_layer() {
        let of = |runtime: &str, arguments: &[&str]| {
            let mut info = info();
            let registered = info.runtimes.as_mut().and_then(|all| all.get_mut(runtime));
            if let Some(registered) = registered {
                let arguments = arguments.iter().map(|text| (*text).to_owned());
                registered.runtime_args = Some(arguments.collect());
            }
            let facts = Facts::new(&info, Some(runtime)).unwrap();
            assert_eq!(
                facts.capabilities().snapshot_disk,
                facts.snapshots().is_ok()
            );
            facts.snapshots().is_ok()
        };
        assert!(of("runc", &[]) && of("kata", &[]));
        assert!(of("runsc", &["--overlay2=none"]) && of("runsc", &["-overlay2", "none"]));
        for other in [
            &[][..],
            &["--overlay2=root:self"],
            &["--overlay2=none", "--overlay2=root:memory"],
            &["--overlay2"],
            &["--overlay2-x=none"],
        ] {
            assert!(!of("runsc", other), "{other:?}");
        }
        assert!(!of("io.containerd.kata.v2", &[]) && !of("io.containerd.runsc.v1", &[]));
    }

    #[test]
    fn an_engine_that_cannot_hold_a_limit_does_not_promise_it() {
        let mut weak = info();
        let strong = Facts::new(&weak, None).unwrap().capabilities();
        assert_eq!(strong.memory_limit, Level::Enforced);
        assert_eq!(strong.syscall_filter, Level::Enforced);
        assert_eq!(strong.pids_limit, Level::Absent);
        weak.pids_limit = Some(true);
        let pids = |runtime| {
            let facts = Facts::new(&weak, Some(runtime)).unwrap();
            facts.capabilities().pids_limit
        };
        assert_eq!(pids("runc"), Level::Enforced);
        assert_eq!(pids("runsc"), Level::Absent);
        assert_eq!(strong.root_mapped, Level::Absent);
        weak.swap_limit = Some(false);
        weak.security_options = Some(vec!["name=seccomp,profile=unconfined".into()]);
        let unconfined = Facts::new(&weak, None).unwrap();
        assert!(unconfined.own_filter());
        weak.security_options = None;
        let weak = Facts::new(&weak, None).unwrap().capabilities();
        assert_eq!(weak.memory_limit, Level::BestEffort);
        assert_eq!(weak.syscall_filter, Level::Absent);
    }

    #[test]
    fn a_network_is_promised_where_the_runtime_has_one_and_ports_where_they_are_reached() {
        let of = |runtime: &str, argument: &str, local: bool| {
            let mut info = info();
            let registered = info.runtimes.as_mut().and_then(|all| all.get_mut(runtime));
            if let Some(registered) = registered {
                registered.runtime_args = Some(vec![argument.to_owned()]);
            }
            let facts = Facts {
                local,
                ..Facts::new(&info, Some(runtime)).unwrap()
            };
            let can = facts.capabilities();
            (can.network_full, can.publish_ports, can.mount_host)
        };
        assert_eq!(of("runc", "", true), (true, true, true));
        assert_eq!(of("runc", "", false), (true, false, false));
        assert_eq!(of("runsc", "--network=none", true), (false, false, true));
        assert_eq!(
            of("runsc", "--platform=systrap", true),
            (false, false, true)
        );
        assert_eq!(of("runsc", "--network=host", true), (true, true, true));
        assert_eq!(of("runsc", "--network=host", false), (true, false, false));
        assert!(!of("io.containerd.kata.v2", "", true).0);
    }

    #[test]
    fn a_limit_of_disk_is_promised_on_xfs_alone() {
        let of = |driver: &str, backing: &str| {
            let row = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
            let info = SystemInfo {
                driver: Some(driver.into()),
                driver_status: Some(vec![
                    row("Backing Filesystem", backing),
                    row("Supports d_type", "true"),
                ]),
                ..info()
            };
            Facts::new(&info, None).unwrap().capabilities().disk_limit
        };
        assert_eq!(of("overlay2", "xfs"), Level::Enforced);
        assert_eq!(of("overlay2", "extfs"), Level::Absent);
        assert_eq!(of("vfs", "xfs"), Level::Absent);
        assert_eq!(
            Facts::new(&info(), None).unwrap().capabilities().disk_limit,
            Level::Absent
        );
    }

    #[test]
    fn an_engine_of_another_kind_and_an_unknown_runtime_are_refused() {
        let mut other = info();
        other.os_type = Some("windows".into());
        assert_eq!(
            Facts::new(&other, None).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        let mut other = info();
        other.architecture = Some("riscv64".into());
        assert_eq!(
            Facts::new(&other, None).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        let error = Facts::new(&info(), Some("crun")).unwrap_err();
        assert_eq!(error.fact("expected"), Some("one of kata, runc, runsc"));
    }
}
