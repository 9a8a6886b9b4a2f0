//! What a sandbox is made of, as Python says it.

use std::collections::BTreeMap;
use std::time::Duration;

use pyo3::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use stacyvm::provider::Pull;
use stacyvm::sandbox::spec::{
    Lifetime, Mount, Network, Port, Privileges, Profile, Resources, SecretReference, Source,
};
use stacyvm::{Create, Engine, Error, PoolBuilder, Result, SandboxId, SandboxSpec};

macro_rules! options {
    ($($name:ident: $type:ty,)*) => {
        /// The keywords of `Sandbox.create`.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct CreateOptions { $(#[serde(default)] $name: Option<$type>,)* }

        /// The names of all keywords of `Sandbox.create`.
        #[pyfunction]
        pub(crate) fn create_options() -> Vec<&'static str> {
            vec![$(stringify!($name),)*]
        }
    };
}

options! {
    image: String,
    template: String,
    snapshot: String,
    provider: String,
    runtime: String,
    timeout: f64,
    idle_timeout: f64,
    memory_mib: u64,
    cpus: f64,
    pids: u32,
    open_files: u64,
    disk_mib: u64,
    env: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
    user: String,
    cwd: String,
    privileges: Privileges,
    network: Network,
    ports: Vec<Port>,
    mounts: Vec<Mount>,
    lifetime: Lifetime,
    read_only_root: bool,
    profile: Profile,
    provider_options: BTreeMap<String, serde_json::Value>,
    pull: Pull,
    secrets: BTreeMap<String, SecretReference>,
    idempotency_key: String,
    id: String,
}

impl CreateOptions {
    /// What a sandbox is made of, and where and how it is made.
    fn split(self) -> Result<(SandboxSpec, How)> {
        let mut spec = SandboxSpec::default();
        spec.source = Source::one_of(self.image, self.template, self.snapshot)?;
        spec.env = self.env.unwrap_or_default();
        spec.labels = self.metadata.unwrap_or_default();
        spec.secrets = self.secrets.unwrap_or_default();
        spec.user = self.user;
        spec.workdir = self.cwd;
        spec.privileges = self.privileges.unwrap_or_default();
        spec.resources = Resources {
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            pids: self.pids,
            open_files: self.open_files,
            disk_mib: self.disk_mib,
        };
        spec.mounts = self.mounts.unwrap_or_default();
        spec.network = self.network;
        spec.ports = self.ports.unwrap_or_default();
        spec.ttl = self.timeout.map(|s| seconds("timeout", s)).transpose()?;
        spec.idle_timeout = self
            .idle_timeout
            .map(|s| seconds("idle_timeout", s))
            .transpose()?;
        spec.lifetime = self.lifetime.unwrap_or_default();
        spec.read_only_root = self.read_only_root.unwrap_or_default();
        spec.profile = self.profile.unwrap_or_default();
        spec.provider_options = self.provider_options.unwrap_or_default();
        let how = How {
            provider: self.provider,
            runtime: self.runtime,
            pull: self.pull,
            idempotency_key: self.idempotency_key,
            id: self.id,
        };
        Ok((spec, how))
    }

    /// The request to an engine.
    pub(crate) fn request(self, engine: &Engine) -> Result<Create> {
        let (spec, how) = self.split()?;
        let mut create = engine.create(spec);
        if let Some(provider) = how.provider {
            create = create.provider(provider);
        }
        if let Some(runtime) = how.runtime {
            create = create.runtime(runtime);
        }
        if let Some(pull) = how.pull {
            create = create.pull(pull);
        }
        if let Some(key) = how.idempotency_key {
            create = create.idempotency_key(key);
        }
        if let Some(id) = how.id {
            create = create.id(SandboxId::new(id)?);
        }
        Ok(create)
    }

    /// The same for sandboxes that are made ahead.
    pub(crate) fn pool(self, engine: &Engine) -> Result<PoolBuilder> {
        let (spec, how) = self.split()?;
        let mut pool = engine.pool(spec);
        for (field, value) in [("id", how.id), ("idempotency_key", how.idempotency_key)] {
            if let Some(value) = value {
                return Err(Error::invalid(
                    field,
                    value,
                    "none of a pool, which makes many",
                    "leave it out",
                ));
            }
        }
        if let Some(provider) = how.provider {
            pool = pool.provider(provider);
        }
        if let Some(runtime) = how.runtime {
            pool = pool.runtime(runtime);
        }
        if let Some(pull) = how.pull {
            pool = pool.pull(pull);
        }
        Ok(pool)
    }
}

/// Where and how a sandbox is made, beside what it is made of.
struct How {
    provider: Option<String>,
    runtime: Option<String>,
    pull: Option<Pull>,
    idempotency_key: Option<String>,
    id: Option<String>,
}

/// A time in seconds.
pub(crate) fn seconds(field: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| {
        Error::invalid(
            field,
            value,
            "seconds, not below zero",
            "give a number of seconds, or None",
        )
    })
}

/// Options that came as JSON.
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(json)).map_err(
        |error| {
            let field = error.path().to_string();
            Error::unreadable(&field, &error.into_inner().to_string())
        },
    )
}
