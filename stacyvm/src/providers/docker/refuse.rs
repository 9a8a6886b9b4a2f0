//! What this provider does not serve.

use std::path::{Component, Path};

use super::create::SOCKET_DIRECTORY;
use super::facts::Facts;
use crate::error::{Error, Result};
use crate::sandbox::spec::{MountSource, Network, Privileges, SandboxSpec, Source};

/// Refuses what this provider cannot do, before any effect. A new field does
/// not compile until it is decided here.
pub(super) fn refuse(spec: &SandboxSpec, facts: &Facts) -> Result<()> {
    let SandboxSpec {
        source,
        env: _,
        user,
        workdir: _,
        privileges,
        resources,
        mounts,
        network,
        ports,
        labels: _,
        ttl: _,
        idle_timeout,
        lifetime: _,
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
        // Of a snapshot the runtime decides, too.
        Source::Image(_) | Source::Snapshot(_) => {}
        Source::Template(_) => return no("template", "templates"),
    }
    if let Some(user) = user.as_ref().filter(|_| facts.one_user) {
        return Err(Error::unsupported(
            "the docker provider has one user, that of the image, as `users: one` says; leave \
             `user` out, or have many where the engine's policy lets Linux capabilities be added",
        )
        .context("field", "user")
        .context("value", user));
    }
    if *privileges != Privileges::None {
        return no("privileges", "root with privileges inside");
    }
    if resources.disk_mib.is_some() && !facts.disk {
        return no(
            "disk_mib",
            "a limit of writable disk on this engine, which holds one with overlay2 on xfs alone",
        );
    }
    for (index, mount) in mounts.iter().enumerate() {
        if let Some(mib) = mount.size_mib {
            return Err(Error::unsupported(
                "the docker provider does not serve sizes of volumes; leave it out",
            )
            .context("field", format!("mounts[{index}].size_mib"))
            .context("value", mib));
        }
        let target = Path::new(&mount.target);
        let tmpfs = matches!(mount.source, MountSource::Tmpfs { .. });
        let holds_agent = |place: &str| {
            // A directory of the host would get one of the agent's; memory holds it.
            target.starts_with(place) || !tmpfs && Path::new(place).starts_with(target)
        };
        let own_name = target.components().nth(1).map(Component::as_os_str);
        let own_name = own_name.is_some_and(|name| name.to_string_lossy().starts_with(".stacyvm-"));
        if holds_agent(SOCKET_DIRECTORY) || own_name {
            return Err(Error::unsupported(format!(
                "the agent of a container has {SOCKET_DIRECTORY} and names at `/.stacyvm-`; \
                 mount elsewhere"
            ))
            .context("field", format!("mounts[{index}].target"))
            .context("value", &mount.target));
        }
        match mount.source {
            MountSource::Host(_) if !facts.local => {
                return no(
                    "mounts",
                    "directories of the host on an engine that is reached by network, whose host is another one; copy the files instead",
                );
            }
            MountSource::Volume(_) if !facts.local => {
                return no(
                    "mounts",
                    "volumes on an engine that is reached by network, whose disk is another host's; copy the files instead",
                );
            }
            MountSource::Volume(_) if facts.one_user => {
                return no(
                    "mounts",
                    "volumes where there is one user, as a new one is root's; mount a directory or a tmpfs, or copy the files",
                );
            }
            MountSource::Tmpfs { .. } | MountSource::Host(_) | MountSource::Volume(_) => {}
        }
    }
    match network {
        None | Some(Network::None) => {}
        Some(Network::Allow(_)) => return no("network", "an egress allow-list"),
        Some(Network::Full) => {
            if let Some(why) = facts.no_network {
                return no("network", &format!("a network with this runtime: {why}"));
            }
        }
    }
    if !ports.is_empty() {
        if !facts.local {
            return no(
                "ports",
                "published ports on an engine that is reached by network, whose loopback address is another host's; dial them through the sandbox",
            );
        }
        if let Some(why) = facts.no_network {
            return no(
                "ports",
                &format!("published ports with this runtime: {why}; dial them through the sandbox"),
            );
        }
        if *network != Some(Network::Full) {
            return no(
                "ports",
                "published ports without a network; ask for `network: full`, or dial them through the sandbox",
            );
        }
    }
    if idle_timeout.is_some() {
        return no("idle_timeout", "an idle timeout");
    }
    if provider_options.contains_key("docker") {
        return no("provider_options.docker", "options of its own");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::sandbox::spec::{Lifetime, Mount, Port, Profile};
    use std::time::Duration;

    #[test]
    fn what_is_not_served_is_refused_by_field() {
        let image = || SandboxSpec::image("a");
        let mount = |source| Mount {
            target: "/x".into(),
            source,
            writable: false,
            size_mib: None,
        };
        let mut table = vec![
            (SandboxSpec::host(), "image"),
            (SandboxSpec::image("/root"), "image"),
            (image().disk_mib(64), "disk_mib"),
            (
                image().mount(Mount {
                    size_mib: Some(64),
                    ..mount(MountSource::Volume("v".into()))
                }),
                "mounts[0].size_mib",
            ),
            (image().network(Network::Allow(vec![])), "network"),
        ];
        let with = |change: fn(&mut SandboxSpec)| {
            let mut spec = SandboxSpec::image("a");
            change(&mut spec);
            spec
        };
        table.extend([
            (
                with(|s| s.source = Source::Template("t".into())),
                "template",
            ),
            (
                with(|s| s.privileges = Privileges::NamespacedRoot),
                "privileges",
            ),
            (with(|s| s.ports.push(Port { guest: 1, host: 0 })), "ports"),
            (
                with(|s| s.idle_timeout = Some(Duration::from_secs(9))),
                "idle_timeout",
            ),
            (
                with(|s| {
                    s.provider_options
                        .insert("docker".into(), serde_json::json!({}));
                }),
                "provider_options.docker",
            ),
        ]);
        for (spec, field) in table {
            let error = refuse(&spec, &here()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{field}");
            assert_eq!(error.fact("field"), Some(field));
        }
        let served = image()
            .memory_mib(64)
            .cpus(0.5)
            .pids(9)
            .open_files(99)
            .network(Network::None)
            .lifetime(Lifetime::Attached)
            .mount(mount(MountSource::Tmpfs { size_mib: 4 }))
            .profile(Profile::Strict);
        refuse(&served, &here()).unwrap();
        refuse(&served, &Facts::default()).unwrap();
    }

    #[test]
    fn nothing_is_mounted_where_the_agent_is() {
        let of = |target: &str, source| {
            let spec = SandboxSpec::image("a").mount(Mount {
                target: target.into(),
                source,
                writable: true,
                size_mib: None,
            });
            refuse(&spec, &here())
        };
        let volume = || MountSource::Volume("v".into());
        for target in [
            "/run/stacyvm",
            "/run/stacyvm/",
            "/run/stacyvm/x",
            "/run",
            "/.stacyvm-0123",
        ] {
            let error = of(target, volume()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{target}");
            assert_eq!(error.fact("field"), Some("mounts[0].target"));
        }
        of("/run", MountSource::Tmpfs { size_mib: 1 }).unwrap();
        of("/run/stacyvm", MountSource::Tmpfs { size_mib: 1 }).unwrap_err();
        of("/run/other", volume()).unwrap();
        of("/x/.stacyvm-0123", volume()).unwrap();
    }

    /// An engine of this host, with networks.
    fn here() -> Facts {
        Facts {
            local: true,
            ..Facts::default()
        }
    }

    #[test]
    fn what_the_engine_decides_is_refused_by_field_and_reason() {
        let image = || SandboxSpec::image("a");
        let mount = |source| {
            image().mount(Mount {
                target: "/x".into(),
                source,
                writable: false,
                size_mib: None,
            })
        };
        let mut published = image().network(Network::Full);
        published.ports.push(Port { guest: 1, host: 0 });
        let remote = Facts::default();
        let silent = Facts {
            no_network: Some("for a reason"),
            ..here()
        };
        let one = Facts {
            one_user: true,
            ..here()
        };
        let disk = Facts {
            disk: true,
            ..here()
        };
        let host = mount(MountSource::Host("/srv".into()));
        let volume = mount(MountSource::Volume("v".into()));
        let full = image().network(Network::Full);
        for (spec, facts, field, why) in [
            (&host, &remote, "mounts", "another"),
            (&volume, &remote, "mounts", "another"),
            (&volume, &one, "mounts", "one user"),
            (&image().user("root"), &one, "user", "one user"),
            (&published, &remote, "ports", "another"),
            (&full, &silent, "network", "for a reason"),
            (&published, &silent, "network", "for a reason"),
            (&image().disk_mib(64), &here(), "disk_mib", "xfs"),
        ] {
            let error = refuse(spec, facts).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{field}");
            assert_eq!(error.fact("field"), Some(field));
            assert!(error.to_string().contains(why), "{error}");
        }
        for spec in [&host, &volume, &full, &published] {
            refuse(spec, &here()).unwrap();
        }
        refuse(&image().disk_mib(64), &disk).unwrap();
        refuse(&full, &remote).unwrap();
        refuse(&host, &one).unwrap();
        refuse(&image().user("root"), &here()).unwrap();
    }
}
