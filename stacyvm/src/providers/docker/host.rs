//! The address of an engine.

use std::path::{Path, PathBuf};

use super::tls::DockerTls;
use crate::error::{Error, Result};

/// What may stand in `docker.host`.
const FORMS: &str = "unix:///path, tcp://address:port, http://address:port or https://address:port";
/// The port of engines without TLS, and of those with it.
const PORTS: [u16; 2] = [2375, 2376];

/// Where an engine is, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A socket of this host, which may lead to another one.
    Socket(PathBuf),
    /// A named pipe of Windows.
    #[cfg(windows)]
    Pipe(String),
    /// An address and a port, in the form of a URL.
    Plain(String),
    /// The same, with TLS.
    Tls(String, DockerTls),
}

impl Target {
    /// Reads the address of an engine; `tls` is what `tcp://` and `https://` use.
    pub(super) fn new(host: &str, tls: Option<&DockerTls>) -> Result<Self> {
        let bad = |remedy: &str| Err(Error::invalid("docker.host", shown(host), FORMS, remedy));
        // What the docker command line takes without a scheme.
        let (scheme, rest) = host.split_once("://").unwrap_or(("tcp", host));
        match (scheme, tls) {
            ("unix", _) if Path::new(rest).is_absolute() => Ok(Self::Socket(rest.into())),
            #[cfg(windows)]
            ("npipe", _) => Ok(Self::Pipe(host.to_owned())),
            ("ssh", _) => bad("forward the engine to a local socket, as by `ssh -N -L \
                 /tmp/docker.sock:/var/run/docker.sock USER@HOST`, and use unix:///tmp/docker.sock"),
            ("http", Some(_)) => bad("use https:// where certificates are given"),
            ("tcp" | "http", None) => match address(rest, PORTS[0]) {
                Some(address) => Ok(Self::Plain(address)),
                None => bad("correct the address"),
            },
            ("tcp" | "https", tls) => match address(rest, PORTS[1]) {
                Some(address) => Ok(Self::Tls(address, tls.cloned().unwrap_or_default())),
                None => bad("correct the address"),
            },
            _ => bad("correct the address"),
        }
    }
}

/// An address as it may be told: without what is before an `@`, and after a `?`, which
/// can be secrets.
pub(super) fn shown(host: &str) -> String {
    let (scheme, rest) = host.split_once("://").unwrap_or(("", host));
    let separator = if scheme.is_empty() { "" } else { "://" };
    let rest = match rest.rsplit_once('@') {
        Some((_, rest)) => format!("[redacted]@{rest}"),
        None => rest.to_owned(),
    };
    let rest = match rest.split_once('?') {
        Some((rest, _)) => format!("{rest}?[redacted]"),
        None => rest,
    };
    format!("{scheme}{separator}{rest}")
}

/// A name or an address with its port; `None` for anything else. No port means
/// `usual`, no host this one.
fn address(text: &str, usual: u16) -> Option<String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            let port = match rest.strip_prefix(':') {
                None if rest.is_empty() => None,
                None => return None,
                Some(port) => Some(port),
            };
            (format!("[{address}]"), port)
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !name.starts_with('[') && !name.chars().all(fits) {
        return None;
    }
    let port = match port {
        Some(port) if port.starts_with('+') => return None,
        Some(port) => port.parse::<u16>().ok().filter(|port| *port != 0)?,
        None if name.is_empty() => return None,
        None => usual,
    };
    let name = if name.is_empty() { "127.0.0.1" } else { &name };
    Some(format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn secrets_of_an_address_are_not_told() {
        for host in [
            "tcp://u:hunter3@engine:1",
            "u:hunter3@engine:1",
            "http://engine/p?token=hunter3",
            "tcp://a@u:hunter3@engine?x=hunter3",
        ] {
            let error = Target::new(host, None).unwrap_err();
            let told = format!("{error} {error:?} {}", shown(host));
            assert!(!told.contains("hunter3"), "{told}");
            assert!(
                told.contains("engine") && told.contains("[redacted]"),
                "{told}"
            );
        }
        assert_eq!(shown("unix:///run/x.sock"), "unix:///run/x.sock");
        assert_eq!(shown("engine:7"), "engine:7");
    }

    #[test]
    fn the_forms_of_the_docker_command_line_are_read() {
        let plain = |host| match Target::new(host, None).unwrap() {
            Target::Plain(address) => address,
            other => panic!("{host}: {other:?}"),
        };
        assert_eq!(plain("tcp://127.0.0.1:1"), "127.0.0.1:1");
        assert_eq!(plain("tcp://127.0.0.1:1/"), "127.0.0.1:1");
        assert_eq!(plain("http://engine.example:80"), "engine.example:80");
        assert_eq!(plain("tcp://engine"), "engine:2375");
        assert_eq!(plain("engine:7"), "engine:7");
        assert_eq!(plain(":7"), "127.0.0.1:7");
        assert_eq!(plain("tcp://[::1]:7"), "[::1]:7");
        assert_eq!(plain("tcp://[::1]"), "[::1]:2375");
        let tls = DockerTls::default();
        for (host, given, address) in [
            ("tcp://engine", Some(&tls), "engine:2376"),
            ("https://engine:9", Some(&tls), "engine:9"),
            ("https://engine", None, "engine:2376"),
        ] {
            let expected = Target::Tls(address.to_owned(), tls.clone());
            assert_eq!(Target::new(host, given).unwrap(), expected, "{host}");
        }
        // Certificates are for another engine than one of a local socket.
        let socket = Target::new("unix:///run/x.sock", Some(&tls)).unwrap();
        assert_eq!(socket, Target::Socket("/run/x.sock".into()));
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_what_to_do() {
        let tls = DockerTls::default();
        for (host, given) in [
            ("", None),
            ("unix://", None),
            ("unix://x", None),
            ("tcp://", None),
            ("tcp://:", None),
            ("tcp://a:0", None),
            ("tcp://a:70000", None),
            ("tcp://a:+1", None),
            ("tcp://user@a:1", None),
            ("tcp://a:1/path", None),
            ("tcp://[::1", None),
            ("tcp://[::1]x", None),
            ("tcp://[a]:1", None),
            ("fd://", None),
            ("ftp://a:1", None),
            ("ssh://a", None),
            ("ssh://a", Some(&tls)),
            ("http://a:1", Some(&tls)),
        ] {
            let error = Target::new(host, given).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{host}");
            assert_eq!(error.fact("field"), Some("docker.host"));
            assert_eq!(error.fact("value"), Some(&shown(host)[..]));
            assert_eq!(error.fact("expected"), Some(FORMS));
        }
        let error = Target::new("ssh://me@engine", None).unwrap_err();
        assert!(error.fact("remedy").unwrap().contains("ssh -N -L"));
    }
}
