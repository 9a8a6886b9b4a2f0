//! What a spec needs of a provider.

use crate::provider::{Capabilities, Level, Users};
use crate::sandbox::spec::{
    Lifetime, MountSource, Network, Privileges, Profile, Resources, SandboxSpec, Source,
};

/// One thing that a spec needs.
#[derive(Clone, Debug)]
pub(super) struct Need {
    /// The capability, as it is called in [`Capabilities`].
    pub(super) capability: &'static str,
    /// The field that asks for it.
    pub(super) field: String,
    /// The field's value, for people; never a secret.
    pub(super) value: String,
    /// The least level, where the capability has levels.
    pub(super) least: Option<Level>,
    met: Met,
}

#[derive(Clone, Copy, Debug)]
enum Met {
    Never,
    Flag(fn(&Capabilities) -> bool),
    Level(fn(&Capabilities) -> Level, Level),
}

impl Need {
    /// What to do where nobody meets it.
    pub(super) fn advice(&self) -> &'static str {
        match self.capability {
            "image_registry" | "image_store" => {
                "use `host`, the absolute path of a root directory, or configure a provider that has images, such as docker"
            }
            "namespaced_root" => {
                "leave it out, or use the embedded provider with its own runtime and a range of users: as root, or with lines for this user in /etc/subuid and /etc/subgid and newuidmap installed"
            }
            _ => "leave it out, or configure a provider that has it",
        }
    }

    /// Whether a provider meets it.
    pub(super) fn is_met(&self, capabilities: &Capabilities) -> bool {
        match self.met {
            Met::Never => false,
            Met::Flag(has) => has(capabilities),
            Met::Level(level, least) => level(capabilities) >= least,
        }
    }
}

struct Needs {
    all: Vec<Need>,
    least: Level,
}

impl Needs {
    fn flag(
        &mut self,
        capability: &'static str,
        field: impl Into<String>,
        value: impl Into<String>,
        has: fn(&Capabilities) -> bool,
    ) {
        self.all.push(Need {
            capability,
            field: field.into(),
            value: value.into(),
            least: None,
            met: Met::Flag(has),
        });
    }

    fn level(
        &mut self,
        capability: &'static str,
        field: &str,
        value: impl Into<String>,
        level: fn(&Capabilities) -> Level,
    ) {
        self.all.push(Need {
            capability,
            field: field.to_owned(),
            value: value.into(),
            least: Some(self.least),
            met: Met::Level(level, self.least),
        });
    }

    /// A field that no provider serves yet.
    fn never(&mut self, capability: &'static str, field: &str, value: &str) {
        self.all.push(Need {
            capability,
            field: field.to_owned(),
            value: value.to_owned(),
            least: None,
            met: Met::Never,
        });
    }
}

/// Everything that a spec needs, in the order of its fields.
///
/// What is written needs at least best effort; with [`Profile::Strict`] it
/// needs enforcement, as does the hardening that the profile adds.
pub(super) fn needs(spec: &SandboxSpec) -> Vec<Need> {
    let strict = spec.profile == Profile::Strict;
    let mut needs = Needs {
        all: Vec::new(),
        least: if strict {
            Level::Enforced
        } else {
            Level::BestEffort
        },
    };
    // Without `..`: a new field does not compile until its needs are written.
    let SandboxSpec {
        source,
        env,
        user,
        workdir: _,
        privileges,
        resources,
        mounts,
        network,
        ports,
        labels: _, // The store keeps them; no provider has to.
        ttl,
        idle_timeout,
        lifetime,
        secrets,
        read_only_root,
        profile: _,
        provider_options: _,
    } = spec;

    match source {
        Source::Image(name) if name == "host" => {
            needs.flag("image_host", "source.image", name, |c| c.image_host);
        }
        Source::Image(name) if name.starts_with('/') => {
            needs.flag("image_directory", "source.image", name, |c| {
                c.image_directory
            });
        }
        Source::Image(name) if super::policy::path_of_archive(name).is_some() => {
            needs.flag("image_store", "source.image", name, |c| c.image_store);
        }
        // A provider that pulls nothing still has what its store has.
        Source::Image(name) => {
            needs.flag("image_registry", "source.image", name, |c| {
                c.image_registry || c.image_store
            });
        }
        Source::Template(name) => needs.never("template", "source.template", name),
        Source::Snapshot(name) => needs.flag("snapshot_disk", "source.snapshot", name, |c| {
            c.snapshot_disk || c.snapshot_memory
        }),
    }
    if !env.is_empty() {
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        needs.flag("env", "env", names.join(", "), |c| c.env);
    }
    if let Some(user) = user {
        needs.flag("users", "user", user, |c| c.users == Users::Many);
    }
    match privileges {
        Privileges::None => {}
        Privileges::NamespacedRoot => {
            needs.flag("namespaced_root", "privileges", "namespaced_root", |c| {
                c.namespaced_root
            });
            if strict {
                needs.never("no_new_privileges", "privileges", "namespaced_root");
            }
        }
    }
    needs.resources(resources);
    for (index, mount) in mounts.iter().enumerate() {
        let field = format!("mounts[{index}]");
        match &mount.source {
            MountSource::Host(path) => {
                needs.flag("mount_host", field, path, |c| c.mount_host);
            }
            MountSource::Tmpfs { size_mib } => {
                needs.flag(
                    "mount_tmpfs",
                    field,
                    format!("tmpfs of {size_mib} MiB"),
                    |c| c.mount_tmpfs,
                );
            }
            MountSource::Volume(name) => {
                needs.flag("mount_volume", field, name, |c| c.mount_volume);
            }
        }
        if let Some(mib) = mount.size_mib {
            let field = format!("mounts[{index}].size_mib");
            needs.flag("mount_volume_size", field, mib.to_string(), |c| {
                c.mount_volume_size
            });
        }
    }
    match network {
        None => {}
        Some(Network::None) => needs.level("network_none", "network", "none", |c| c.network_none),
        Some(Network::Allow(hosts)) => {
            needs.level(
                "network_allow",
                "network",
                format!("allow {}", hosts.join(", ")),
                |c| c.network_allow,
            );
        }
        Some(Network::Full) => needs.flag("network_full", "network", "full", |c| c.network_full),
    }
    for (index, port) in ports.iter().enumerate() {
        needs.flag(
            "publish_ports",
            format!("ports[{index}]"),
            format!("{}:{}", port.host, port.guest),
            |c| c.publish_ports,
        );
    }
    let duration = crate::units::format_duration;
    if let Some(ttl) = ttl {
        needs.level("ttl", "ttl", duration(*ttl), |c| c.ttl);
    }
    if let Some(idle) = idle_timeout {
        needs.level("idle_timeout", "idle_timeout", duration(*idle), |c| {
            c.idle_timeout
        });
    }
    match lifetime {
        Lifetime::Detached => {}
        Lifetime::Attached => needs.flag("attached_lifetime", "lifetime", "attached", |c| {
            c.attached_lifetime
        }),
    }
    if !secrets.is_empty() {
        let names: Vec<&str> = secrets.keys().map(String::as_str).collect();
        needs.flag("env", "secrets", names.join(", "), |c| c.env);
    }
    if *read_only_root {
        needs.level("read_only_root", "read_only_root", "true", |c| {
            c.read_only_root
        });
    }
    if strict {
        needs.level("root_mapped", "profile", "strict", |c| c.root_mapped);
        needs.level("syscall_filter", "profile", "strict", |c| c.syscall_filter);
        needs.level("no_new_privileges", "profile", "strict", |c| {
            c.no_new_privileges
        });
    }
    needs.all
}

impl Needs {
    fn resources(&mut self, resources: &Resources) {
        let Resources {
            memory_mib,
            cpus,
            pids,
            open_files,
            disk_mib,
        } = resources;
        if let Some(mib) = memory_mib {
            self.level("memory_limit", "memory_mib", mib.to_string(), |c| {
                c.memory_limit
            });
        }
        if let Some(cpus) = cpus {
            self.level("cpu_limit", "cpus", cpus.to_string(), |c| c.cpu_limit);
        }
        if let Some(pids) = pids {
            self.level("pids_limit", "pids", pids.to_string(), |c| c.pids_limit);
        }
        if let Some(files) = open_files {
            self.level("open_files_limit", "open_files", files.to_string(), |c| {
                c.open_files_limit
            });
        }
        if let Some(mib) = disk_mib {
            self.level("disk_limit", "disk_mib", mib.to_string(), |c| c.disk_limit);
        }
    }
}
