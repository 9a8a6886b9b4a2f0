//! From arguments to a specification.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use stacyvm::sandbox::exec::TtySize;
use stacyvm::sandbox::spec::{Mount, MountSource, Network, Privileges, Profile};
use stacyvm::units::{parse_duration, parse_mib};
use stacyvm::{Error, ExecSpec, Result, SandboxSpec};

use crate::args::{ExecArgs, RunArgs, SpecArgs};

/// The specification that the arguments describe.
pub(crate) fn sandbox(args: &SpecArgs) -> Result<SandboxSpec> {
    let mut spec = SandboxSpec::image(&args.image);
    spec.user.clone_from(&args.user);
    spec.workdir.clone_from(&args.workdir);
    spec.resources.cpus = args.cpus;
    spec.read_only_root = args.read_only;
    spec.resources.memory_mib = args
        .memory
        .as_deref()
        .map(|m| parse_mib("memory", m))
        .transpose()?;
    spec.resources.disk_mib = args
        .disk
        .as_deref()
        .map(|d| parse_mib("disk", d))
        .transpose()?;
    spec.resources.pids = args.pids.map(pids).transpose()?;
    spec.ttl = duration("ttl", args.ttl.as_deref())?;
    spec.idle_timeout = duration("idle-timeout", args.idle_timeout.as_deref())?;
    spec.network = args.network.as_deref().map(network).transpose()?;
    if let Some(profile) = &args.profile {
        spec.profile = match profile.as_str() {
            "default" => Profile::Default,
            "strict" => Profile::Strict,
            other => {
                return Err(Error::invalid(
                    "profile",
                    other,
                    "default or strict",
                    "leave it out for default",
                ));
            }
        };
    }
    spec.privileges = privileges(args.privileges.as_deref())?;
    for text in &args.mounts {
        spec.mounts.push(mount(text)?);
    }
    for (name, value) in variables(&args.env)? {
        spec.env.insert(name, value);
    }
    for label in &args.labels {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        spec.labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(spec)
}

/// The command of `run`.
pub(crate) fn run(args: &RunArgs, argv: &[OsString]) -> Result<ExecSpec> {
    let mut exec = command(argv);
    exec.stdin = args.interactive;
    exec.tty = args.tty.then(tty_size);
    exec.timeout = duration("timeout", args.timeout.as_deref())?;
    exec.check()?;
    Ok(exec)
}

/// The command of `exec`.
pub(crate) fn exec(args: &ExecArgs) -> Result<ExecSpec> {
    let mut exec = command(&args.argv);
    exec.stdin = args.interactive;
    exec.tty = args.tty.then(tty_size);
    exec.background = args.detach;
    exec.timeout = duration("timeout", args.timeout.as_deref())?;
    exec.env = variables(&args.env)?;
    exec.workdir.clone_from(&args.workdir);
    exec.user.clone_from(&args.user);
    exec.check()?;
    Ok(exec)
}

fn command(argv: &[OsString]) -> ExecSpec {
    ExecSpec::new(argv.iter().map(|a| a.clone().into_vec()))
}

fn tty_size() -> TtySize {
    crate::terminal::size().unwrap_or_default()
}

/// An optional duration argument.
pub(crate) fn duration(field: &str, text: Option<&str>) -> Result<Option<Duration>> {
    text.map(|t| parse_duration(field, t)).transpose()
}

/// What root inside may do.
pub(crate) fn privileges(name: Option<&str>) -> Result<Privileges> {
    match name {
        None | Some("none") => Ok(Privileges::None),
        Some("namespaced-root" | "namespaced_root") => Ok(Privileges::NamespacedRoot),
        Some(other) => Err(Error::invalid(
            "privileges",
            other,
            "none or namespaced-root",
            "leave it out for none",
        )),
    }
}

fn pids(number: i64) -> Result<u32> {
    u32::try_from(number).map_err(|_| {
        Error::invalid(
            "pids",
            number,
            "4 to 4194304",
            "leave it out for the default",
        )
    })
}

fn network(text: &str) -> Result<Network> {
    match text {
        "none" => Ok(Network::None),
        "full" => Ok(Network::Full),
        _ => match text.strip_prefix("allow=") {
            Some(list) if !list.is_empty() => {
                Ok(Network::Allow(list.split(',').map(str::to_owned).collect()))
            }
            _ => Err(Error::invalid(
                "network",
                text,
                "none, full, or allow=HOST[,HOST...]",
                "leave it out for none",
            )),
        },
    }
}

/// Reads `SOURCE:TARGET[:rw|:ro]`.
fn mount(text: &str) -> Result<Mount> {
    let bad = || {
        Error::invalid(
            "mount",
            text,
            "/host/dir:/target[:rw], volume:NAME[=SIZE]:/target[:rw] or tmpfs=SIZE:/target",
            "write source and target with a colon between them",
        )
    };
    let (rest, writable) = match text.rsplit_once(':') {
        Some((rest, "rw")) => (rest, true),
        Some((rest, "ro")) => (rest, false),
        _ => (text, false),
    };
    let (source, target) = rest.rsplit_once(':').ok_or_else(bad)?;
    if !target.starts_with('/') {
        return Err(bad());
    }
    let mut size_mib = None;
    let source = if let Some(size) = source.strip_prefix("tmpfs=") {
        MountSource::Tmpfs {
            size_mib: parse_mib("mount", size)?,
        }
    } else if let Some(name) = source.strip_prefix("volume:") {
        let (name, size) = match name.split_once('=') {
            Some((name, size)) => (name, Some(parse_mib("mount", size)?)),
            None => (name, None),
        };
        size_mib = size;
        MountSource::Volume(name.to_owned())
    } else if source.starts_with('/') {
        MountSource::Host(source.to_owned())
    } else {
        return Err(bad());
    };
    Ok(Mount {
        target: target.to_owned(),
        source,
        writable,
        size_mib,
    })
}

fn variables(texts: &[String]) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for text in texts {
        match text.split_once('=') {
            Some((name, value)) => out.push((name.to_owned(), value.to_owned())),
            None => match std::env::var_os(text).map(OsString::into_string) {
                Some(Ok(value)) => out.push((text.clone(), value)),
                Some(Err(_)) => {
                    return Err(Error::invalid(
                        "env",
                        text,
                        "a variable whose value is UTF-8",
                        "write NAME=VALUE",
                    ));
                }
                None => {
                    return Err(Error::invalid(
                        "env",
                        text,
                        "NAME=VALUE or the name of a set variable",
                        "set the variable or write NAME=VALUE",
                    ));
                }
            },
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_documented() {
        let host = mount("/a:/b:rw").unwrap();
        assert_eq!(
            host,
            Mount {
                target: "/b".into(),
                source: MountSource::Host("/a".into()),
                writable: true,
                size_mib: None
            }
        );
        assert!(!mount("/a:/b").unwrap().writable);
        assert_eq!(
            mount("volume:x:/b").unwrap().source,
            MountSource::Volume("x".into())
        );
        assert_eq!(
            mount("tmpfs=64m:/b").unwrap().source,
            MountSource::Tmpfs { size_mib: 64 }
        );
        let sized = mount("volume:x=2g:/b:rw").unwrap();
        assert_eq!(sized.source, MountSource::Volume("x".into()));
        assert_eq!((sized.size_mib, sized.writable), (Some(2048), true));
        for bad in [
            "",
            "/a",
            "a:/b",
            "/a:b",
            ":/b",
            "tmpfs=x:/b",
            "/a:/b:rx",
            "volume:x=:/b",
            "volume:x=y:/b",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_are_read_as_documented() {
        assert_eq!(network("none").unwrap(), Network::None);
        assert_eq!(
            network("allow=a,b").unwrap(),
            Network::Allow(vec!["a".into(), "b".into()])
        );
        assert!(network("allow=").is_err() && network("host").is_err());
    }

    #[test]
    fn a_variable_without_a_value_must_be_set_here() {
        assert!(variables(&["STACYVM_TEST_SURELY_UNSET".into()]).is_err());
        assert_eq!(
            variables(&["A=b=c".into()]).unwrap(),
            [("A".into(), "b=c".into())]
        );
    }
}
