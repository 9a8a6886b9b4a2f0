//! What a sandbox should be.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::exec::{check_absolute, check_user, check_variable_name};
use crate::error::{Error, Result};
use crate::units::{LONGEST, format_duration, serde_duration};

/// What a sandbox should be. One type for Rust, files, the wire and the
/// bindings; unknown fields are refused.
///
/// What is written here is *required*: a combination of provider, runtime and
/// host that cannot do it refuses before anything is made. What is left out is
/// filled in by the [`Profile`] where the combination can.
///
/// ```
/// use stacyvm::SandboxSpec;
/// use std::time::Duration;
///
/// let spec = SandboxSpec::host().memory_mib(512).ttl(Duration::from_secs(600)).env("LANG", "C");
/// spec.check().unwrap();
/// assert!(serde_json::from_str::<SandboxSpec>(r#"{"memory": 1}"#).is_err());
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SandboxSpec {
    /// What its root file system is made from.
    pub source: Source,
    /// The environment of every command. Values are never stored or shown.
    pub env: BTreeMap<String, String>,
    /// The user of commands that name none: `name`, `uid`, `name:group` or `uid:gid`;
    /// if none that of the image, else 1000, who is no root.
    pub user: Option<String>,
    /// The directory of commands that name none, `/workspace` if none. Made if it is
    /// missing and root inside may make it there; else commands fail with `not_found`.
    pub workdir: Option<String>,
    /// What root inside may do.
    pub privileges: Privileges,
    /// Its limits.
    pub resources: Resources,
    /// Directories added to its root.
    pub mounts: Vec<Mount>,
    /// What it reaches.
    pub network: Option<Network>,
    /// Ports inside that are published on the host.
    pub ports: Vec<Port>,
    /// Free text by key, for people and programs.
    pub labels: BTreeMap<String, String>,
    /// How long it lives.
    #[serde(with = "serde_duration")]
    pub ttl: Option<Duration>,
    /// How long it lives without use. In use it is while a command or a process
    /// that one left runs, a file is read, written or watched, or a connection to
    /// a port is open; not while it is paused, and not by looks at it (`info`,
    /// `logs`, `processes`). What runs inside can so postpone this end, and
    /// [`ttl`](Self::ttl) binds all the same.
    #[serde(with = "serde_duration")]
    pub idle_timeout: Option<Duration>,
    /// Whether it ends with its owner.
    pub lifetime: Lifetime,
    /// Secrets by reference: the variable inside and where its value is found.
    pub secrets: BTreeMap<String, SecretReference>,
    /// Whether its root file system cannot be written.
    pub read_only_root: bool,
    /// What is added to what is written here.
    pub profile: Profile,
    /// Settings that only one provider knows, by its name; that provider checks them.
    pub provider_options: BTreeMap<String, serde_json::Value>,
}

impl fmt::Debug for SandboxSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxSpec")
            .field("source", &self.source)
            .field("env_names", &self.env.keys().collect::<Vec<_>>())
            .field("user", &self.user)
            .field("workdir", &self.workdir)
            .field("resources", &self.resources)
            .field("mounts", &self.mounts)
            .field("network", &self.network)
            .field("ports", &self.ports)
            .field("labels", &self.labels)
            .field("ttl", &self.ttl)
            .field("idle_timeout", &self.idle_timeout)
            .field("lifetime", &self.lifetime)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// What a root file system is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// An image: a registry reference, `host` (a read-only view of the host's
    /// system directories), or an absolute path of a root directory.
    Image(String),
    /// A named template.
    Template(String),
    /// A snapshot of another sandbox.
    Snapshot(String),
}

impl Default for Source {
    fn default() -> Self {
        Self::Image("host".to_owned())
    }
}

impl Source {
    /// The one that is named; the image `host` where none is.
    ///
    /// # Errors
    ///
    /// `invalid_argument` where several are.
    pub fn one_of(
        image: Option<String>,
        template: Option<String>,
        snapshot: Option<String>,
    ) -> Result<Self> {
        let named = [
            image.map(Self::Image),
            template.map(Self::Template),
            snapshot.map(Self::Snapshot),
        ];
        let mut named = named.into_iter().flatten();
        let source = named.next().unwrap_or_default();
        match named.next() {
            None => Ok(source),
            Some(second) => Err(Error::invalid(
                "image",
                format!("{source:?} and {second:?}"),
                "one of image, template and snapshot",
                "leave the others out",
            )),
        }
    }
}

/// What root inside may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privileges {
    /// Nothing that needs a capability.
    #[default]
    None,
    /// What package managers need, inside a user namespace or a virtual machine:
    /// rights over users and files for root's programs, and set-id programs of the
    /// root file system that work. None of it reaches beyond the sandbox.
    NamespacedRoot,
}

/// Limits. What is `None` is left to the profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Memory in MiB, swap off.
    pub memory_mib: Option<u64>,
    /// Processors; 0.5 is half of one.
    pub cpus: Option<f64>,
    /// Processes and threads, those of the agent and its supervisors included. The
    /// embedded provider keeps a quarter of them, 32 at most, from what commands
    /// fork.
    pub pids: Option<u32>,
    /// Open files of one process.
    pub open_files: Option<u64>,
    /// Writable disk in MiB.
    pub disk_mib: Option<u64>,
}

/// The limit of open files that the default profile adds. A host that cannot
/// raise its own limit so far gives what it has.
pub const PROFILE_OPEN_FILES: u64 = 65_536;

/// A directory added to the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where inside, absolute.
    pub target: String,
    /// What.
    pub source: MountSource,
    /// Whether it can be written; a tmpfs always can.
    #[serde(default)]
    pub writable: bool,
    /// The most that a volume may hold, in MiB; of volumes alone. It stays with the
    /// volume: a later mount with another size changes it, one without leaves it.
    /// A volume that was made without a size gets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_mib: Option<u64>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSource {
    /// A directory of the host, absolute.
    Host(String),
    /// Memory, in MiB; it counts towards the memory limit.
    Tmpfs {
        /// Its size.
        size_mib: u64,
    },
    /// A named volume that outlives the sandbox.
    Volume(String),
}

/// What a sandbox reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Network {
    /// Nothing but itself.
    None,
    /// Only these hosts, addresses and networks.
    Allow(Vec<String>),
    /// Whatever the host reaches.
    Full,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The port inside.
    pub guest: u16,
    /// The port on the host's loopback address; 0 lets the host choose.
    #[serde(default)]
    pub host: u16,
}

/// Whether a sandbox ends with its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// It ends when the process that made it is gone, however that ended.
    Attached,
    /// It lives until its TTL or until it is killed.
    #[default]
    Detached,
}

impl std::str::FromStr for Lifetime {
    type Err = Error;

    /// Reads `attached` or `detached`; anything else is `invalid_argument`.
    fn from_str(word: &str) -> Result<Self> {
        match word {
            "attached" => Ok(Self::Attached),
            "detached" => Ok(Self::Detached),
            other => Err(Error::invalid(
                "lifetime",
                other,
                "attached or detached",
                "ask for one of them",
            )),
        }
    }
}

/// Where the value of a secret is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretReference {
    /// A variable of the host process.
    Env(String),
    /// A file of the host.
    File(String),
}

/// What is added to what the caller wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Hardening and limits wherever the combination can; the level in force is shown.
    #[default]
    Default,
    /// The same, but all of it is required and enforced.
    Strict,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($value:ident: $type:ty) => |$spec:ident| $body:expr;)*) => {
        impl SandboxSpec {
            $($(#[$doc])* pub fn $name(mut self, $value: $type) -> Self {
                { let $spec = &mut self; $body; }
                self
            })*
        }
    };
}

setters! {
    /// Sets the user of commands that name none.
    user(value: impl Into<String>) => |s| s.user = Some(value.into());
    /// Sets the directory of commands that name none.
    workdir(value: impl Into<String>) => |s| s.workdir = Some(value.into());
    /// Sets what root inside may do.
    privileges(value: Privileges) => |s| s.privileges = value;
    /// Limits memory.
    memory_mib(value: u64) => |s| s.resources.memory_mib = Some(value);
    /// Limits processors.
    cpus(value: f64) => |s| s.resources.cpus = Some(value);
    /// Limits processes and threads.
    pids(value: u32) => |s| s.resources.pids = Some(value);
    /// Limits open files of one process.
    open_files(value: u64) => |s| s.resources.open_files = Some(value);
    /// Limits writable disk.
    disk_mib(value: u64) => |s| s.resources.disk_mib = Some(value);
    /// Adds a mount.
    mount(value: Mount) => |s| s.mounts.push(value);
    /// Sets what it reaches.
    network(value: Network) => |s| s.network = Some(value);
    /// Sets how long it lives.
    ttl(value: Duration) => |s| s.ttl = Some(value);
    /// Sets how long it lives without use.
    idle_timeout(value: Duration) => |s| s.idle_timeout = Some(value);
    /// Sets whether it ends with its owner.
    lifetime(value: Lifetime) => |s| s.lifetime = value;
    /// Sets what is added to what is written.
    profile(value: Profile) => |s| s.profile = value;
}

impl SandboxSpec {
    /// A sandbox of an image: a registry reference, `host`, or the absolute
    /// path of a root directory.
    pub fn image(image: impl Into<String>) -> Self {
        Self {
            source: Source::Image(image.into()),
            ..Self::default()
        }
    }

    /// A sandbox that sees the host's system directories, read-only.
    pub fn host() -> Self {
        Self::default()
    }

    /// Sets a variable of every command.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets a label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Checks what every provider would refuse.
    ///
    /// # Errors
    ///
    /// `invalid_argument`, naming the field, its value, what was expected and
    /// the remedy.
    pub fn check(&self) -> Result<()> {
        self.check_source()?;
        self.check_resources()?;
        for (name, value) in &self.env {
            check_variable_name("env", name)?;
            if value.contains('\0') {
                return Err(Error::invalid(
                    format!("env.{name}"),
                    "[redacted]",
                    "no NUL byte",
                    "remove the NUL byte",
                ));
            }
            if name.len() + value.len() + "=".len() >= LONGEST_VARIABLE {
                return Err(Error::invalid(
                    format!("env.{name}"),
                    format!("{} bytes", value.len()),
                    &format!(
                        "less than {LONGEST_VARIABLE} bytes with its name, as Linux takes no more"
                    ),
                    "hand large values over in files",
                ));
            }
        }
        for name in self.secrets.keys() {
            check_variable_name("secrets", name)?;
        }
        if let Some(user) = &self.user {
            check_user(user)?;
        }
        if let Some(workdir) = &self.workdir {
            check_absolute("workdir", workdir)?;
        }
        for (field, value) in [("ttl", self.ttl), ("idle_timeout", self.idle_timeout)] {
            value.map_or(Ok(()), |value| check_life(field, value))?;
        }
        self.check_mounts()?;
        for (index, port) in self.ports.iter().enumerate() {
            if port.guest == 0 {
                return Err(Error::invalid(
                    format!("ports[{index}].guest"),
                    0,
                    "1 to 65535",
                    "name the port that the program inside listens on",
                ));
            }
        }
        if self.labels.len() > MOST_LABELS {
            return Err(Error::invalid(
                "labels",
                format!("{} labels", self.labels.len()),
                &format!("at most {MOST_LABELS}"),
                "keep what is long in a store of your own, by the sandbox's id",
            ));
        }
        for (key, value) in &self.labels {
            if key.is_empty()
                || key.len() > 128
                || value.len() > 1024
                || key.contains(char::is_control)
                || value.contains('\0')
            {
                return Err(Error::invalid(
                    "labels",
                    key,
                    "a key of 1 to 128 plain characters and a value of at most 1024 bytes",
                    "shorten it",
                ));
            }
            if key.starts_with("stacyvm.") {
                return Err(Error::invalid(
                    "labels",
                    key,
                    "a key that does not begin with stacyvm.",
                    "that prefix marks ownership; choose another",
                ));
            }
        }
        Ok(())
    }

    fn check_source(&self) -> Result<()> {
        let (field, name) = match &self.source {
            Source::Image(name) => ("image", name),
            Source::Template(name) => ("template", name),
            Source::Snapshot(name) => ("snapshot", name),
        };
        if name.is_empty() || name.len() > 1024 || name.contains(|c: char| c.is_control()) {
            return Err(Error::invalid(
                field,
                name,
                "a name of 1 to 1024 plain characters",
                "use `host`, the name of an image, an archive or a layout, or the absolute path of a root directory",
            ));
        }
        Ok(())
    }

    fn check_resources(&self) -> Result<()> {
        let r = &self.resources;
        let bounded =
            |field: &str, value: Option<u64>, least: u64, most: u64, remedy: &str| match value {
                Some(v) if v < least || v > most => Err(Error::invalid(
                    field,
                    v,
                    &format!("{least} to {most}"),
                    remedy,
                )),
                _ => Ok(()),
            };
        bounded(
            "memory_mib",
            r.memory_mib,
            4,
            16 << 20,
            "give the limit in MiB",
        )?;
        bounded(
            "pids",
            r.pids.map(u64::from),
            4,
            4 << 20,
            "leave it out for the default",
        )?;
        bounded(
            "open_files",
            r.open_files,
            16,
            1 << 20,
            "leave it out for the default",
        )?;
        let (least, most) = DISK_MIB.into_inner();
        bounded("disk_mib", r.disk_mib, least, most, "give the limit in MiB")?;
        if let Some(cpus) = r.cpus
            && !(0.01..=4096.0).contains(&cpus)
        {
            return Err(Error::invalid(
                "cpus",
                cpus,
                "0.01 to 4096",
                "0.5 is half of one processor",
            ));
        }
        Ok(())
    }

    fn check_mounts(&self) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        let mut sizes = BTreeMap::new();
        for (index, mount) in self.mounts.iter().enumerate() {
            let at = |part: &str| format!("mounts[{index}].{part}");
            check_absolute(&at("target"), &mount.target)?;
            let parts: Vec<&str> = mount.target.split('/').filter(|p| !p.is_empty()).collect();
            if parts.is_empty() || parts.iter().any(|p| matches!(*p, "." | "..")) {
                return Err(Error::invalid(
                    at("target"),
                    &mount.target,
                    "a directory below / without . and ..",
                    "mount it somewhere below /",
                ));
            }
            if parts.iter().any(|part| part.len() > LONGEST_NAME) {
                return Err(Error::invalid(
                    at("target"),
                    &mount.target,
                    "names of at most 255 bytes",
                    "use shorter names",
                ));
            }
            if matches!(parts[0], "proc" | "sys" | "dev") {
                return Err(Error::invalid(
                    at("target"),
                    &mount.target,
                    "a directory outside /proc, /sys and /dev",
                    "mount it elsewhere",
                ));
            }
            if !seen.insert(parts.join("/")) {
                return Err(Error::invalid(
                    at("target"),
                    &mount.target,
                    "each target once",
                    "remove one of the two mounts",
                ));
            }
            if let Some(mib) = mount.size_mib {
                let invalid =
                    |expected, remedy| Err(Error::invalid(at("size_mib"), mib, expected, remedy));
                let MountSource::Volume(name) = &mount.source else {
                    return invalid("none: it is no volume", "leave it out, or mount a volume");
                };
                if !DISK_MIB.contains(&mib) {
                    return invalid("8 to 67108864", "give the size in MiB");
                }
                if *sizes.entry(name).or_insert(mib) != mib {
                    return invalid(
                        "one size for each volume",
                        "give both mounts of the volume the same size",
                    );
                }
            }
            match &mount.source {
                MountSource::Host(path) => check_absolute(&at("source.host"), path)?,
                MountSource::Tmpfs { size_mib } => {
                    if !(1..=16 << 20).contains(size_mib) {
                        return Err(Error::invalid(
                            at("source.tmpfs.size_mib"),
                            size_mib,
                            "1 to 16777216",
                            "give the size in MiB",
                        ));
                    }
                }
                MountSource::Volume(name) => {
                    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
                    if name.is_empty()
                        || name.len() > 63
                        || !name.bytes().all(plain)
                        || name.starts_with('.')
                    {
                        return Err(Error::invalid(
                            at("source.volume"),
                            name,
                            "1 to 63 characters of a-z, A-Z, 0-9, -, _ and ., not beginning with .",
                            "rename the volume",
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Bytes of a file's name on every file system of Linux.
const LONGEST_NAME: usize = 255;
/// Bytes of one variable with its name and the byte that ends it (`MAX_ARG_STRLEN`
/// of Linux).
const LONGEST_VARIABLE: usize = 128 * 1024;
/// A limit of a disk or a volume, in MiB.
const DISK_MIB: std::ops::RangeInclusive<u64> = 8..=64 << 20;
/// Labels of one sandbox.
const MOST_LABELS: usize = 256;

/// A time to live: long enough to be used, and short enough to have an end.
pub(crate) fn check_life(field: &str, value: Duration) -> Result<()> {
    if (Duration::from_secs(1)..=LONGEST).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        format_duration(value),
        "1s to 100 years",
        "give a time in between; `extend` gives more later",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_refused_at_every_level() {
        for text in [
            r#"{"memory":1}"#,
            r#"{"resources":{"ram":1}}"#,
            r#"{"mounts":[{"target":"/a","source":{"host":"/b"},"rw":true}]}"#,
            r#"{"mounts":[{"target":"/a","source":{"tmpfs":{"size_mib":1,"mode":7}}}]}"#,
            r#"{"ports":[{"guest":1,"proto":"udp"}]}"#,
        ] {
            assert!(serde_json::from_str::<SandboxSpec>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_spec_survives_the_round_trip() {
        let spec = SandboxSpec::image("python:3.12")
            .memory_mib(64)
            .cpus(0.5)
            .ttl(Duration::from_secs(90))
            .env("A", "b")
            .label("k", "v")
            .network(Network::Allow(vec!["example.org".into()]));
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<SandboxSpec>(&text).unwrap(), spec);
        assert_eq!(
            serde_json::from_str::<SandboxSpec>("{}").unwrap(),
            SandboxSpec::default()
        );
    }

    #[test]
    fn bad_values_name_their_field() {
        let host = SandboxSpec::host;
        let mount = |target: &str, source| Mount {
            target: target.into(),
            source,
            writable: false,
            size_mib: None,
        };
        let volume = |name: &str, target: &str, mib| Mount {
            size_mib: Some(mib),
            ..mount(target, MountSource::Volume(name.into()))
        };
        let cases = [
            (host().memory_mib(0), "memory_mib"),
            (host().memory_mib(u64::MAX), "memory_mib"),
            (host().cpus(-1.0), "cpus"),
            (host().cpus(f64::NAN), "cpus"),
            (host().pids(0), "pids"),
            (host().open_files(1), "open_files"),
            (host().disk_mib(1), "disk_mib"),
            (SandboxSpec::image(""), "image"),
            (SandboxSpec::image("a\nb"), "image"),
            (host().workdir("tmp"), "workdir"),
            (host().user("a b"), "user"),
            (host().ttl(Duration::ZERO), "ttl"),
            (host().ttl(Duration::MAX), "ttl"),
            (host().env("", "x"), "env"),
            (host().env("V", "x".repeat(131_070)), "env.V"),
            (host().label("stacyvm.tenant", "x"), "labels"),
            (
                (0..257).fold(host(), |spec, n| spec.label(format!("l{n}"), "x")),
                "labels",
            ),
            (
                host().mount(mount("/", MountSource::Host("/a".into()))),
                "mounts[0].target",
            ),
            (
                host().mount(mount("/a/../b", MountSource::Host("/a".into()))),
                "mounts[0].target",
            ),
            (
                host().mount(mount("/proc/x", MountSource::Host("/a".into()))),
                "mounts[0].target",
            ),
            (
                host().mount(mount(
                    &format!("/a/{}", "x".repeat(256)),
                    MountSource::Host("/a".into()),
                )),
                "mounts[0].target",
            ),
            (
                host().mount(mount("/x", MountSource::Host("a".into()))),
                "mounts[0].source.host",
            ),
            (
                host().mount(mount("/x", MountSource::Volume("../a".into()))),
                "mounts[0].source.volume",
            ),
            (
                host().mount(mount("/x", MountSource::Tmpfs { size_mib: 0 })),
                "mounts[0].source.tmpfs.size_mib",
            ),
            (host().mount(volume("v", "/x", 7)), "mounts[0].size_mib"),
            (
                host().mount(volume("v", "/x", u64::MAX)),
                "mounts[0].size_mib",
            ),
            (
                host()
                    .mount(volume("v", "/x", 8))
                    .mount(volume("v", "/y", 9)),
                "mounts[1].size_mib",
            ),
            (
                host().mount(Mount {
                    size_mib: Some(64),
                    ..mount("/x", MountSource::Host("/a".into()))
                }),
                "mounts[0].size_mib",
            ),
        ];
        for (spec, field) in cases {
            let error = spec.check().unwrap_err();
            assert_eq!(error.fact("field"), Some(field), "{error}");
            assert!(error.fact("expected").is_some() && error.fact("remedy").is_some());
        }
    }

    #[test]
    fn values_of_variables_never_show() {
        let spec = SandboxSpec::host().env("TOKEN", "hunter2");
        assert!(!format!("{spec:?}").contains("hunter2"));
    }
}
