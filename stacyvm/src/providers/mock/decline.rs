//! What the mock declines, before any effect.

use crate::error::{Error, Result};
use crate::provider::{Capabilities, Isolation, KillScope, Level, Signals, Users};
use crate::sandbox::spec::{Network, Privileges, Profile, Resources, SandboxSpec, Source};

/// What the mock can do: everything that is data, nothing that needs a kernel.
pub(super) fn capabilities() -> Capabilities {
    Capabilities {
        exec_stdin: true,
        users: Users::Many,
        exec_background: true,
        reattach_output: true,
        kill_scope: KillScope::Tree,
        signals: Signals::Any,
        oom_reported: true,
        files: true,
        file_watch: true,
        file_tar: true,
        dial: true,
        listen: true,
        pause: true,
        snapshot_disk: true,
        // It is memory of the process that owns it: nothing outlives that.
        attached_lifetime: true,
        claim: true,
        ttl: Level::BestEffort,
        idle_timeout: Level::BestEffort,
        processes: true,
        usage: true,
        image_host: true,
        image_registry: true,
        env: true,
        labels: true,
        isolation: Isolation::None,
        ..Capabilities::default()
    }
}

fn decline(field: &str, value: impl std::fmt::Display, why: &str) -> Error {
    Error::unsupported(format!("the mock cannot serve {field}: {why}"))
        .context("field", field)
        .context("value", value)
}

/// Refuses a spec that the mock cannot serve. Every field is named here, so
/// that a new one cannot be forgotten.
pub(super) fn check(name: &str, spec: &SandboxSpec) -> Result<()> {
    spec.check()?;
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
        idle_timeout: _,
        lifetime: _,
        secrets: _,
        read_only_root,
        profile,
        provider_options,
    } = spec;
    match source {
        Source::Image(image) if image.starts_with('/') => {
            return Err(decline(
                "image",
                image,
                "it reads no directory of the host; name any image instead",
            ));
        }
        Source::Image(_) | Source::Snapshot(_) => {}
        Source::Template(template) => {
            return Err(decline(
                "template",
                template,
                "templates are not resolved here",
            ));
        }
    }
    if *privileges == Privileges::NamespacedRoot {
        return Err(decline("privileges", "namespaced_root", "it has no kernel"));
    }
    let Resources {
        memory_mib,
        cpus,
        pids,
        open_files,
        disk_mib,
    } = resources;
    for (field, asked) in [
        ("memory_mib", memory_mib.map(|v| v.to_string())),
        ("cpus", cpus.map(|v| v.to_string())),
        ("pids", pids.map(|v| v.to_string())),
        ("open_files", open_files.map(|v| v.to_string())),
        ("disk_mib", disk_mib.map(|v| v.to_string())),
    ] {
        if let Some(value) = asked {
            return Err(decline(
                field,
                value,
                "a limit needs a kernel that holds it",
            ));
        }
    }
    for (index, mount) in mounts.iter().enumerate() {
        if let Some(mib) = mount.size_mib {
            return Err(decline(
                &format!("mounts[{index}].size_mib"),
                mib,
                "a size needs a file system that holds it; leave it out",
            ));
        }
    }
    if let Some(mount) = mounts.first() {
        return Err(decline("mounts", &mount.target, "it mounts nothing"));
    }
    if let Some(network) = network {
        let value = match network {
            Network::None => "none",
            Network::Allow(_) => "allow",
            Network::Full => "full",
        };
        return Err(decline(
            "network",
            value,
            "it has no network to grant or to deny",
        ));
    }
    if let Some(port) = ports.first() {
        return Err(decline(
            "ports",
            port.guest,
            "it publishes nothing on the host; dial instead",
        ));
    }
    if *read_only_root {
        return Err(decline("read_only_root", "true", "its root is memory"));
    }
    if *profile == Profile::Strict {
        return Err(decline("profile", "strict", "it isolates nothing"));
    }
    if let Some(options) = provider_options.get(name) {
        return Err(Error::invalid(
            format!("provider_options.{name}"),
            options,
            "no options",
            "configure the mock with its builder",
        ));
    }
    Ok(())
}
