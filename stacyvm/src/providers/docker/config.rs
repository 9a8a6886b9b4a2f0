//! Which engine, which runtime, and where keys are kept.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::id::InstanceId;

/// The socket of an engine that was installed the usual way.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// How a [`DockerProvider`](super::DockerProvider) reaches its engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DockerConfig {
    /// The engine, in the form of `DOCKER_HOST`: `unix:///path`, or
    /// `tcp://address:port` for one that is reached without TLS, which only a
    /// protected network may offer.
    pub host: String,
    /// The runtime by the name that the engine has it under; the engine's
    /// default if none.
    pub runtime: Option<String>,
    /// A directory that only this user can enter, made where it is missing.
    /// The keys of sandboxes are kept in it, so that another process of this
    /// user can go on.
    pub state: PathBuf,
    /// The store under which sandboxes are made.
    pub instance: InstanceId,
    /// The longest time that a single answer of the engine may take.
    pub answer_within: Duration,
    /// How long a sandbox with an attached lifetime goes on after its owner is
    /// gone. A host that stands still for longer loses it too.
    pub lease: Duration,
    /// A file of credentials of registries as Docker and Podman write it; without one
    /// `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    /// The engine is given what it needs for a pull, and keeps none of it.
    pub auth_file: Option<PathBuf>,
}

/// With the time that an engine takes to remove a container, less than the ten
/// seconds in which an attached sandbox follows its owner.
const LEASE: Duration = Duration::from_secs(7);

impl DockerConfig {
    /// The engine at [`DEFAULT_HOST`] with its default runtime.
    pub fn new(state: impl Into<PathBuf>, instance: InstanceId) -> Self {
        Self {
            host: DEFAULT_HOST.to_owned(),
            runtime: None,
            state: state.into(),
            instance,
            answer_within: Duration::from_mins(2),
            lease: LEASE,
            auth_file: None,
        }
    }

    /// Takes another engine.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// Takes another runtime.
    pub fn runtime(mut self, runtime: impl Into<String>) -> Self {
        self.runtime = Some(runtime.into());
        self
    }

    /// Takes another time that an attached sandbox outlives its owner by.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Takes the credentials of registries from another file.
    pub fn auth_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.auth_file = Some(file.into());
        self
    }

    pub(super) fn client(&self) -> Result<bollard::Docker> {
        let seconds = self.answer_within.as_secs().max(1);
        let connected = match self.host.split_once("://") {
            #[cfg(unix)]
            Some(("unix", path)) if path.starts_with('/') => {
                bollard::Docker::connect_with_socket(path, seconds, bollard::API_DEFAULT_VERSION)
            }
            #[cfg(windows)]
            Some(("npipe", path)) => {
                bollard::Docker::connect_with_socket(path, seconds, bollard::API_DEFAULT_VERSION)
            }
            Some(("tcp" | "http", address)) if !address.is_empty() => {
                bollard::Docker::connect_with_http(address, seconds, bollard::API_DEFAULT_VERSION)
            }
            _ => {
                return Err(Error::invalid(
                    "docker.host",
                    &self.host,
                    "unix:///path or tcp://address:port",
                    "forward an engine behind TLS or SSH to a local socket",
                ));
            }
        };
        connected.map_err(super::error::map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn only_hosts_that_can_be_reached_are_taken() {
        let config = |host: &str| DockerConfig::new("/s", InstanceId::random()).host(host);
        for bad in [
            "",
            "unix://",
            "unix://x",
            "ssh://a",
            "https://a:1",
            "tcp://",
        ] {
            let error = config(bad).client().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
        config("tcp://127.0.0.1:1").client().unwrap();
        let error = config("unix:///absent.sock").client().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
