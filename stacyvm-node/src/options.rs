//! What a sandbox is made of, as Node says it.

use std::collections::BTreeMap;

use napi_derive::napi;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};
use stacyvm::provider::Pull;
use stacyvm::sandbox::spec::{
    Lifetime, Mount, MountSource, Network, Port, Privileges, Profile, Resources, SecretReference,
    Source,
};
use stacyvm::{Create, Engine, Error, PoolBuilder, Result, SandboxId, SandboxSpec};

use crate::convert::duration;

/// The options of `Sandbox.create`. What is written is required: it is in force,
/// or the call fails before anything is made.
#[napi(object, object_from_js = false, object_to_js = false)]
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CreateOptions {
    /// An image's reference, `host`, or the absolute path of a root directory.
    pub image: Option<String>,
    /// The name of a template.
    pub template: Option<String>,
    /// The id of a snapshot.
    pub snapshot: Option<String>,
    /// A configured provider: `oci` (embedded), `docker`, ...
    pub provider: Option<String>,
    /// The runtime below it: `runsc`, `runc`, ...
    pub runtime: Option<String>,
    /// Milliseconds that it lives; an hour unless the configuration says otherwise.
    pub timeout_ms: Option<f64>,
    /// Milliseconds that it lives without use.
    pub idle_timeout_ms: Option<f64>,
    /// Memory in MiB.
    #[napi(ts_type = "number")]
    pub memory_mib: Option<u64>,
    /// Processors; 0.5 is half of one.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Open files of one process.
    #[napi(ts_type = "number")]
    pub open_files: Option<u64>,
    /// Writable disk in MiB.
    #[napi(ts_type = "number")]
    pub disk_mib: Option<u64>,
    /// The environment of every command.
    pub env: Option<BTreeMap<String, String>>,
    /// Labels, by which `list` finds it.
    pub metadata: Option<BTreeMap<String, String>>,
    /// By variable inside: a variable or a file of the host.
    #[napi(ts_type = "Record<string, { env: string } | { file: string }>")]
    pub secrets: Option<BTreeMap<String, SecretReference>>,
    /// The user of commands that name none.
    pub user: Option<String>,
    /// The directory of commands that name none.
    pub cwd: Option<String>,
    /// What root inside may do.
    #[napi(ts_type = "'none' | 'namespaced_root'")]
    pub privileges: Option<Privileges>,
    /// What it reaches.
    #[napi(ts_type = "'none' | 'full' | { allow: Array<string> }")]
    pub network: Option<Network>,
    /// Published ports: inside, and on the host's loopback address, where 0 or none is any.
    #[napi(ts_type = "Array<{ guest: number; host?: number }>")]
    pub ports: Option<Vec<Port>>,
    /// Directories added to its root.
    #[napi(
        ts_type = "Array<{ target: string; source: { host: string } | { volume: string } | { tmpfs: { sizeMib: number } }; writable?: boolean; sizeMib?: number }>"
    )]
    pub mounts: Option<Vec<MountOption>>,
    /// `attached` ends with this process, however that ends.
    #[napi(ts_type = "'attached' | 'detached'")]
    pub lifetime: Option<Lifetime>,
    /// Whether its root file system cannot be written.
    pub read_only_root: Option<bool>,
    /// `strict` requires all hardening and refuses where it cannot be enforced.
    #[napi(ts_type = "'default' | 'strict'")]
    pub profile: Option<Profile>,
    /// Settings that only one provider knows, by its name.
    #[napi(ts_type = "Record<string, unknown>")]
    pub provider_options: Option<BTreeMap<String, serde_json::Value>>,
    /// When the image is pulled.
    #[napi(ts_type = "'never' | 'missing' | 'always'")]
    pub pull: Option<Pull>,
    /// The same key and options give the same sandbox.
    pub idempotency_key: Option<String>,
    /// Its id, instead of a random one.
    pub id: Option<String>,
}

/// The names of all options of `Sandbox.create`.
#[napi]
#[must_use]
pub fn create_options() -> Vec<&'static str> {
    let mut names = Names(&[]);
    let _ = CreateOptions::deserialize(&mut names);
    names.0.to_vec()
}

/// Takes down the names of the fields that a type asks for.
struct Names(&'static [&'static str]);

impl<'de> Deserializer<'de> for &mut Names {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A mount in Node's names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MountOption {
    target: String,
    source: MountFrom,
    #[serde(default)]
    writable: bool,
    size_mib: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
enum MountFrom {
    Host(String),
    Tmpfs { size_mib: u64 },
    Volume(String),
}

impl From<MountOption> for Mount {
    fn from(mount: MountOption) -> Self {
        Self {
            target: mount.target,
            source: match mount.source {
                MountFrom::Host(path) => MountSource::Host(path),
                MountFrom::Tmpfs { size_mib } => MountSource::Tmpfs { size_mib },
                MountFrom::Volume(name) => MountSource::Volume(name),
            },
            writable: mount.writable,
            size_mib: mount.size_mib,
        }
    }
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
        let mounts = self.mounts.unwrap_or_default();
        spec.mounts = mounts.into_iter().map(Into::into).collect();
        spec.network = self.network;
        spec.ports = self.ports.unwrap_or_default();
        let time = |field, value: Option<f64>| value.map(|ms| duration(field, ms)).transpose();
        spec.ttl = time("timeoutMs", self.timeout_ms)?;
        spec.idle_timeout = time("idleTimeoutMs", self.idle_timeout_ms)?;
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
        for (field, value) in [("id", how.id), ("idempotencyKey", how.idempotency_key)] {
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

/// Options that came as JSON.
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(json)).map_err(
        |error| {
            let field = error.path().to_string();
            Error::unreadable(&field, &error.into_inner().to_string())
        },
    )
}
