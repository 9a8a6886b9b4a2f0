//! Which engine is meant where nobody names one: that of the docker command
//! line, else the first local socket that there is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::tls::DockerTls;
use crate::error::{Error, ErrorKind, Result};

/// The longest file of Docker's that is read.
const LONGEST: u64 = 4 * 1024 * 1024;

/// What of the environment and of the host decides. Read at one place, so that
/// tests have their own.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    host: Option<String>,
    context: Option<String>,
    verify: bool,
    unverified: bool,
    certs: Option<PathBuf>,
    /// Where the docker command line keeps its settings.
    settings: Option<PathBuf>,
    /// The sockets that are looked at, in order.
    sockets: Vec<PathBuf>,
}

/// An engine that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) host: String,
    pub(super) tls: Option<DockerTls>,
    /// What named it, for people.
    pub(super) by: String,
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn read() -> Self {
        Self::new(|name| std::env::var_os(name))
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let value = |name: &str| variable(name).filter(|v| !v.is_empty());
        let text = |name: &str| value(name).map(|v| v.to_string_lossy().into_owned());
        let absolute = |name: &str| value(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = absolute("HOME").map(|home| home.join(".docker"));
        let settings = value("DOCKER_CONFIG").map(PathBuf::from).or(home);
        let runtime = absolute("XDG_RUNTIME_DIR");
        let of_user = |name: &str| runtime.as_ref().map(|directory| directory.join(name));
        let sockets = [
            Some(PathBuf::from("/var/run/docker.sock")),
            of_user("docker.sock"),
            of_user("podman/podman.sock"),
            Some(PathBuf::from("/run/podman/podman.sock")),
        ];
        Self {
            host: text("DOCKER_HOST"),
            context: text("DOCKER_CONTEXT"),
            verify: value("DOCKER_TLS_VERIFY").is_some(),
            unverified: value("DOCKER_TLS").is_some(),
            certs: value("DOCKER_CERT_PATH")
                .map(PathBuf::from)
                .or_else(|| settings.clone()),
            settings,
            sockets: sockets.into_iter().flatten().collect(),
        }
    }

    /// The certificates that the environment has for a host that is named. They
    /// are those of `tcp://` and `https://` alone: other engines have no use for them.
    pub(super) fn tls(&self, host: &str) -> Result<Option<DockerTls>> {
        let scheme = host.split_once("://").map_or("tcp", |(scheme, _)| scheme);
        if !matches!(scheme, "tcp" | "https") {
            return Ok(None);
        }
        if self.verify {
            let Some(directory) = &self.certs else {
                return Err(Error::invalid(
                    "DOCKER_TLS_VERIFY",
                    "set",
                    "a directory of certificates beside it",
                    "name it in DOCKER_CERT_PATH",
                ));
            };
            return DockerTls::directory(directory).map(Some);
        }
        if self.unverified {
            return Err(Error::invalid(
                "DOCKER_TLS",
                "set",
                "DOCKER_TLS_VERIFY instead: an engine that is not verified could be anybody's",
                "set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH",
            ));
        }
        Ok(None)
    }

    /// The engine that is meant.
    pub(super) fn find(&self) -> Result<Found> {
        if let Some(host) = &self.host {
            return Ok(Found {
                tls: self.tls(host)?,
                host: host.clone(),
                by: "DOCKER_HOST".to_owned(),
            });
        }
        if let Some(name) = &self.context {
            return self.context_or_socket(name, "DOCKER_CONTEXT");
        }
        match self.current()? {
            Some((name, file)) => self.context_or_socket(&name, &file),
            None => self.socket(),
        }
    }

    /// The context that the docker command line uses, and the file that says so.
    fn current(&self) -> Result<Option<(String, String)>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Settings {
            current_context: Option<String>,
        }
        let Some(file) = self.settings.as_ref().map(|s| s.join("config.json")) else {
            return Ok(None);
        };
        let Some(settings) = read::<Settings>(&file)? else {
            return Ok(None);
        };
        let named = settings.current_context.filter(|name| !name.is_empty());
        Ok(named.map(|name| (name, file.display().to_string())))
    }

    fn context_or_socket(&self, name: &str, said_by: &str) -> Result<Found> {
        // The name of having none.
        if name == "default" {
            return self.socket();
        }
        let absent = || {
            Error::invalid(
                "docker.context",
                name,
                &format!("a context that there is: {}", self.contexts().join(", ")),
                "make it with `docker context create`, or name an engine with DOCKER_HOST",
            )
            .context("from", said_by)
        };
        let settings = self.settings.as_ref().ok_or_else(absent)?;
        let contexts = settings.join("contexts");
        let digest = super::ticket::hex(&Sha256::digest(name));
        let file = contexts.join("meta").join(&digest).join("meta.json");
        let meta: Meta = read(&file)?.ok_or_else(absent)?;
        let Some(endpoint) = meta.endpoints.docker.filter(|e| !e.host.is_empty()) else {
            return Err(Error::invalid(
                "docker.context",
                name,
                "a context with the address of a docker engine",
                "give it one with `docker context update --docker host=unix:///path`",
            )
            .context("from", said_by));
        };
        let certs = contexts.join("tls").join(&digest).join("docker");
        let tls = if certs.is_dir() {
            Some(DockerTls::directory(&certs)?)
        } else {
            None
        };
        if endpoint.skip_tls_verify {
            return Err(Error::invalid(
                "docker.context",
                name,
                "one that verifies its engine: else it could be anybody's",
                "make it without skip-tls-verify, with the authority's ca.pem",
            )
            .context("from", said_by));
        }
        Ok(Found {
            host: endpoint.host,
            tls,
            by: format!("the context {name} ({said_by})"),
        })
    }

    /// The names of all contexts, `default` included.
    fn contexts(&self) -> Vec<String> {
        let mut names = vec!["default".to_owned()];
        let meta = self.settings.as_ref().map(|s| s.join("contexts/meta"));
        let entries = meta.and_then(|meta| std::fs::read_dir(meta).ok());
        for entry in entries.into_iter().flatten().flatten() {
            if let Ok(Some(meta)) = read::<Meta>(&entry.path().join("meta.json")) {
                names.push(meta.name);
            }
        }
        names.sort();
        names
    }

    /// The first socket that there is. One that this user may not even look for
    /// is passed over.
    fn socket(&self) -> Result<Found> {
        if let Some(found) = self.sockets.iter().find(|path| path.exists()) {
            return Ok(Found {
                host: format!("unix://{}", found.display()),
                tls: None,
                by: "the first socket that there is".to_owned(),
            });
        }
        let looked: Vec<String> = self
            .sockets
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let file = match &self.settings {
            Some(settings) => settings.join("config.json").display().to_string(),
            None => "the settings of docker (HOME is not set)".to_owned(),
        };
        Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "no docker engine was found: DOCKER_HOST, DOCKER_CONTEXT and {file} name none, \
                 and none of the sockets {} is there; start an engine, or name one with \
                 DOCKER_HOST or the setting `host` of the provider",
                looked.join(", ")
            ),
        )
        .context("remedy", "start an engine, or name one with DOCKER_HOST"))
    }
}

/// A context as the docker command line keeps it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<DockerEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEndpoint {
    #[serde(default)]
    host: String,
    #[serde(default, rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

/// Reads a file of Docker's; `None` where there is none.
fn read<T: for<'de> Deserialize<'de>>(file: &Path) -> Result<Option<T>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file);
    let read = opened.and_then(|opened| opened.take(LONGEST).read_to_end(&mut bytes));
    let bad = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::invalid(
            "docker.settings",
            file.display(),
            "a readable file of JSON as the docker command line writes it",
            "mend or remove it, or name an engine with DOCKER_HOST",
        )
        .source(error)
    };
    match read {
        Ok(_) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(bad(error.into())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(bad(error.into())),
    }
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
