//! Which engine, which runtime, and where keys are kept.

use std::path::PathBuf;
use std::time::Duration;

use super::discover::Surroundings;
use super::host::Target;
use super::tls::DockerTls;
use crate::error::Result;
use crate::id::InstanceId;
use crate::provider::Users;

/// The socket of an engine that was installed the usual way.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// How a [`DockerProvider`](super::DockerProvider) reaches its engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DockerConfig {
    /// The engine, in the form of `DOCKER_HOST`: `unix:///path`,
    /// `tcp://address:port`, `http://address:port`, `https://address:port`. What
    /// is reached without TLS only a protected network may offer.
    pub host: String,
    /// The certificates of an engine at `tcp://` or `https://`. `tcp://` without
    /// them is no TLS, `https://` without them trusts what the system trusts.
    pub tls: Option<DockerTls>,
    /// What named the engine, where it was found.
    pub(super) found_by: Option<String>,
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
    /// Whether agents listen in directories of this host, below [`state`](Self::state),
    /// where that is possible: on an engine of this host, with runtimes that share its
    /// kernel, for root on Linux. Connections are then this kernel's own; else, and
    /// where it turns out that the engine does not see these directories, each is an
    /// exec of the engine, a bridge. On by default.
    pub direct: bool,
    /// The users of a sandbox, many by default: then the engine is asked for the seven
    /// Linux capabilities by which the agent becomes the user of a command. With
    /// [`Users::One`] it is asked for none, as policies of some engines want; all then
    /// runs as the image's user, else 1000, the agent too.
    pub users: Users,
}

/// With the time that an engine takes to remove a container, less than the ten
/// seconds in which an attached sandbox follows its owner.
const LEASE: Duration = Duration::from_secs(7);

impl DockerConfig {
    /// The engine at [`DEFAULT_HOST`] with its default runtime.
    pub fn new(state: impl Into<PathBuf>, instance: InstanceId) -> Self {
        Self {
            host: DEFAULT_HOST.to_owned(),
            tls: None,
            found_by: None,
            runtime: None,
            state: state.into(),
            instance,
            answer_within: Duration::from_mins(2),
            lease: LEASE,
            auth_file: None,
            direct: true,
            users: Users::Many,
        }
    }

    /// The engine that the docker command line would use, else a local one:
    /// `DOCKER_HOST`, else `DOCKER_CONTEXT`, else the current context of
    /// `config.json` in `DOCKER_CONFIG` or `~/.docker`, else the first of the
    /// sockets `/var/run/docker.sock`, `docker.sock` and `podman/podman.sock` in
    /// `XDG_RUNTIME_DIR`, and `/run/podman/podman.sock` that there is. With
    /// `DOCKER_TLS_VERIFY` the files of `DOCKER_CERT_PATH` are its certificates.
    ///
    /// # Errors
    ///
    /// `unavailable` where there is none, with all the places that were looked
    /// at; `invalid_argument` for a context or certificates that cannot be used.
    pub fn discover(state: impl Into<PathBuf>, instance: InstanceId) -> Result<Self> {
        let found = Surroundings::read().find()?;
        Ok(Self {
            host: found.host,
            tls: found.tls,
            found_by: Some(found.by),
            ..Self::new(state, instance)
        })
    }

    /// Takes another engine, without certificates.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self.tls = None;
        self.found_by = None;
        self
    }

    /// Takes these certificates.
    pub fn tls(mut self, tls: DockerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Takes the certificates that the environment has for `tcp://` and
    /// `https://`, as the docker command line does for a host that it is given:
    /// with `DOCKER_TLS_VERIFY` those of `DOCKER_CERT_PATH`.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for certificates that cannot be used, and for
    /// `DOCKER_TLS` alone, which would not verify the engine.
    pub fn environment_tls(mut self) -> Result<Self> {
        self.tls = Surroundings::read().tls(&self.host)?;
        Ok(self)
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

    /// Says whether agents may listen in directories of this host.
    pub fn direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Says whether sandboxes have many users or one.
    pub fn users(mut self, users: Users) -> Self {
        self.users = users;
        self
    }

    /// Takes the credentials of registries from another file.
    pub fn auth_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.auth_file = Some(file.into());
        self
    }

    /// The engine's socket, where it is one of this host.
    pub(super) fn socket(&self) -> Option<&str> {
        self.host.strip_prefix("unix://")
    }

    /// A client of the engine that has said nothing yet.
    pub(super) fn client(&self) -> Result<bollard::Docker> {
        let target = Target::new(&self.host, self.tls.as_ref())?;
        super::connect::client(&target, self.answer_within)
    }
}
