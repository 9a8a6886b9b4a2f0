//! Where settings come from.
//!
//! A value given by the caller wins over the environment, which wins over the
//! file, which wins over the default. The file is the one that the caller
//! names, else `STACYVM_CONFIG`, else `stacyvm/stacyvm.yaml` in the user's
//! configuration directory, else `/etc/stacyvm/stacyvm.yaml`; never one in the
//! working directory.

mod env;
mod file;
mod images;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use env::VARIABLES;
pub use images::{ImageCaps, ImagesConfig};

use crate::error::{Error, ErrorKind, Result};
use crate::provider::Users;
use crate::sandbox::spec::check_life;
use crate::units::format_duration;
use env::Environment;
use file::File;

const SYSTEM_FILE: &str = "/etc/stacyvm/stacyvm.yaml";

/// The settings in force, each with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The directory for records, sandboxes, volumes and sockets.
    pub state_dir: PathBuf,
    /// The provider of a create that names none.
    pub default_provider: String,
    /// Helpers of the embedded provider that wait for the next create.
    pub parked_helpers: usize,
    /// The program of the embedded provider's helpers, where an administrator
    /// gave rights to a path: see [`OciConfig::helper`](crate::providers::oci::OciConfig::helper).
    pub helper: Option<PathBuf>,
    /// The providers, by the name that callers use.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Beneath which host directories may be mounted; `None` leaves that to
    /// whoever may use stacyvm at all.
    pub mount_roots: Option<Vec<PathBuf>>,
    /// The longest life of a sandbox.
    pub max_ttl: Option<Duration>,
    /// The life of a detached sandbox that asks for none.
    pub default_ttl: Option<Duration>,
    /// How often a call that may be repeated is tried.
    pub attempts: u32,
    /// Where images come from, and when.
    pub images: ImagesConfig,
    origins: BTreeMap<String, Origin>,
}

/// Who runs the commands of a sandbox of a Docker engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecBy {
    /// The agent inside.
    Agent,
    /// The engine itself.
    Engine,
}

/// One provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// What it is: `oci`, `docker`, `http`.
    pub kind: String,
    /// The runtime below it, where it has a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The address of its daemon or service, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The directory with `ca.pem`, and `cert.pem` with `key.pem`, of a Docker
    /// engine at `tcp://` or `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certs: Option<PathBuf>,
    /// False where agents of a Docker engine of this host are to be reached by the
    /// engine alone, and not by sockets in directories of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    /// `one` where sandboxes of a Docker engine are to have one user, as engines want
    /// whose policy forbids added Linux capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Users>,
    /// `engine` where commands are to be a Docker engine's own execs, for images and
    /// engines where the agent cannot be used: slower, and less than with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecBy>,
    /// The URL of the server, of a provider of kind `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Values that the caller gives.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The file to read; it must exist.
    pub file: Option<PathBuf>,
    /// The directory for state.
    pub state_dir: Option<PathBuf>,
    /// The runtime of a provider: its name, and the runtime.
    pub runtime: Option<(String, String)>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "from", content = "name")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// The caller.
    Caller,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Caller => f.write_str("command line"),
        }
    }
}

/// The most helpers that wait.
const MOST_PARKED: usize = 64;
/// The most tries of one call.
const MOST_ATTEMPTS: u32 = 100;

/// A setting, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name, as in the file.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    ///
    /// `not_found` for a named file that is not there, `invalid_argument` for
    /// what a file or a variable says, `permission_denied` for a file that
    /// everybody can write.
    pub fn load(overrides: &Overrides) -> Result<Self> {
        Self::from_parts(overrides, Environment::read())
    }

    /// The defaults, on a directory for state. Reads no file and no environment.
    pub fn for_state_dir(state_dir: impl Into<PathBuf>) -> Self {
        let provider = |kind: &str| ProviderConfig {
            kind: kind.to_owned(),
            runtime: None,
            host: None,
            certs: None,
            direct: None,
            users: None,
            exec: None,
            url: None,
        };
        Self {
            state_dir: state_dir.into(),
            default_provider: "oci".to_owned(),
            parked_helpers: 1,
            helper: None,
            providers: ["oci", "docker"]
                .map(|kind| (kind.to_owned(), provider(kind)))
                .into(),
            mount_roots: None,
            max_ttl: None,
            default_ttl: Some(Duration::from_hours(1)),
            attempts: 3,
            images: ImagesConfig::default(),
            origins: BTreeMap::new(),
        }
    }

    fn from_parts(overrides: &Overrides, environment: Environment) -> Result<Self> {
        let (path, file) = find_file(overrides, &environment)?;
        let default_state = environment
            .state_home
            .as_ref()
            .map(|home| home.join("stacyvm"));
        let mut config = Self::for_state_dir(default_state.clone().unwrap_or_default());
        config.apply_file(file, &Origin::File(path));
        config.apply_environment(environment)?;
        if let Some(state_dir) = &overrides.state_dir {
            config.state_dir.clone_from(state_dir);
            config.set("state_dir", Origin::Caller);
        }
        if let Some((name, runtime)) = &overrides.runtime {
            let name = if name.is_empty() {
                config.default_provider.clone()
            } else {
                name.clone()
            };
            let provider = config.provider_mut(&name)?;
            provider.runtime = Some(runtime.clone());
            config.set(&format!("providers.{name}"), Origin::Caller);
        }
        if config.state_dir.as_os_str().is_empty() {
            return Err(Error::invalid(
                "state_dir",
                "",
                "a directory",
                "set HOME or STACYVM_STATE_DIR, or use --state-dir",
            ));
        }
        if !config.state_dir.is_absolute() {
            let shown = config.state_dir.display().to_string();
            config.state_dir = std::path::absolute(&config.state_dir).map_err(|e| {
                Error::invalid("state_dir", shown, "a directory", "use an absolute path").source(e)
            })?;
        }
        config.check_numbers_and_roots()?;
        if !config.providers.contains_key(&config.default_provider) {
            let names = config.names();
            return Err(Error::invalid(
                "default_provider",
                &config.default_provider,
                &names,
                "name a configured provider",
            ));
        }
        Ok(config)
    }

    fn check_numbers_and_roots(&self) -> Result<()> {
        if self.parked_helpers > MOST_PARKED {
            return Err(Error::invalid(
                "parked_helpers",
                self.parked_helpers,
                &format!("0 to {MOST_PARKED}"),
                "each is two processes that wait; one or two do for most",
            ));
        }
        if !(1..=MOST_ATTEMPTS).contains(&self.attempts) {
            return Err(Error::invalid(
                "retry.attempts",
                self.attempts,
                &format!("1 to {MOST_ATTEMPTS}"),
                "1 turns retries off",
            ));
        }
        for (field, life) in [
            ("policy.max_ttl", self.max_ttl),
            ("policy.default_ttl", self.default_ttl),
        ] {
            life.map_or(Ok(()), |life| check_life(field, life))?;
        }
        self.images.check()?;
        let mut roots = self.mount_roots.iter().flatten();
        if let Some(root) = roots.find(|root| !root.is_absolute()) {
            return Err(Error::invalid(
                "policy.mount_roots",
                root.display(),
                "absolute paths",
                "begin it with /",
            ));
        }
        Ok(())
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.providers.keys().map(String::as_str).collect();
        format!("one of {}", names.join(", "))
    }

    fn provider_mut(&mut self, name: &str) -> Result<&mut ProviderConfig> {
        let names = self.names();
        self.providers
            .get_mut(name)
            .ok_or_else(|| Error::invalid("provider", name, &names, "name a configured provider"))
    }

    fn set(&mut self, name: &str, origin: Origin) {
        self.origins.insert(name.to_owned(), origin);
    }

    fn apply_file(&mut self, file: File, origin: &Origin) {
        let mut take = |name: &str, given: bool| {
            if given {
                self.origins.insert(name.to_owned(), origin.clone());
            }
        };
        take("state_dir", file.state_dir.is_some());
        take("default_provider", file.default_provider.is_some());
        take("parked_helpers", file.parked_helpers.is_some());
        take("helper", file.helper.is_some());
        take("policy.mount_roots", file.policy.mount_roots.is_some());
        take("policy.max_ttl", file.policy.max_ttl.is_some());
        take("policy.default_ttl", file.policy.default_ttl.is_some());
        take("retry.attempts", file.retry.attempts.is_some());
        take("images.pull", file.images.pull.is_some());
        take("images.mirrors", file.images.mirrors.is_some());
        take("images.insecure", file.images.insecure.is_some());
        take("images.ca_files", file.images.ca_files.is_some());
        take("images.caps", file.images.caps.is_some());
        for name in file.providers.keys() {
            take(&format!("providers.{name}"), true);
        }
        self.state_dir = file
            .state_dir
            .unwrap_or_else(|| std::mem::take(&mut self.state_dir));
        self.default_provider = file
            .default_provider
            .unwrap_or_else(|| std::mem::take(&mut self.default_provider));
        self.parked_helpers = file.parked_helpers.unwrap_or(self.parked_helpers);
        self.helper = file.helper.or(self.helper.take());
        self.providers.extend(file.providers);
        self.mount_roots = file.policy.mount_roots.or(self.mount_roots.take());
        self.max_ttl = file.policy.max_ttl.or(self.max_ttl);
        self.default_ttl = file.policy.default_ttl.or(self.default_ttl);
        self.attempts = file.retry.attempts.unwrap_or(self.attempts);
        let images = std::mem::take(&mut self.images);
        self.images = ImagesConfig {
            pull: file.images.pull.unwrap_or(images.pull),
            mirrors: file.images.mirrors.unwrap_or(images.mirrors),
            insecure: file.images.insecure.unwrap_or(images.insecure),
            ca_files: file.images.ca_files.unwrap_or(images.ca_files),
            caps: file.images.caps.unwrap_or(images.caps),
        };
    }

    fn apply_environment(&mut self, environment: Environment) -> Result<()> {
        let from = |name: &str| Origin::Environment(name.to_owned());
        if let Some(state_dir) = environment.state_dir {
            self.state_dir = state_dir;
            self.set("state_dir", from("STACYVM_STATE_DIR"));
        }
        if let Some(provider) = environment.provider {
            self.default_provider = provider.to_string_lossy().into_owned();
            self.set("default_provider", from("STACYVM_PROVIDER"));
        }
        if let Some(count) = environment.parked_helpers {
            let text = count.to_string_lossy();
            self.parked_helpers = text.parse().map_err(|_| {
                Error::invalid(
                    "STACYVM_PARKED_HELPERS",
                    &text,
                    "a whole number",
                    "0 turns parked helpers off",
                )
            })?;
            self.set("parked_helpers", from("STACYVM_PARKED_HELPERS"));
        }
        if let Some(helper) = environment.helper {
            self.helper = Some(helper);
            self.set("helper", from("STACYVM_HELPER"));
        }
        if let (Some(host), Some(docker)) =
            (environment.docker_host, self.providers.get_mut("docker"))
            && docker.kind == "docker"
            && docker.host.is_none()
        {
            docker.host = Some(host.to_string_lossy().into_owned());
            self.set("providers.docker", from("DOCKER_HOST"));
        }
        Ok(())
    }

    /// Every setting with its value and origin, in the order of the names.
    pub fn settings(&self) -> Vec<Setting> {
        let mut values = vec![
            ("state_dir".to_owned(), self.state_dir.display().to_string()),
            ("default_provider".to_owned(), self.default_provider.clone()),
            ("parked_helpers".to_owned(), self.parked_helpers.to_string()),
            (
                "helper".to_owned(),
                self.helper
                    .as_ref()
                    .map_or_else(|| "its own".to_owned(), |path| path.display().to_string()),
            ),
            (
                "policy.mount_roots".to_owned(),
                show_roots(self.mount_roots.as_deref()),
            ),
            ("policy.max_ttl".to_owned(), show_duration(self.max_ttl)),
            (
                "policy.default_ttl".to_owned(),
                show_duration(self.default_ttl),
            ),
            ("retry.attempts".to_owned(), self.attempts.to_string()),
        ];
        for (name, value) in self.images.shown() {
            values.push((format!("images.{name}"), value));
        }
        for (name, provider) in &self.providers {
            let mut value = provider.kind.clone();
            for (key, given) in [
                ("runtime", &provider.runtime),
                ("host", &provider.host),
                ("url", &provider.url),
            ] {
                if let Some(given) = given {
                    value = format!("{value} {key}={given}");
                }
            }
            if let Some(certs) = &provider.certs {
                value = format!("{value} certs={}", certs.display());
            }
            if let Some(direct) = provider.direct {
                value = format!("{value} direct={direct}");
            }
            if let Some(users) = provider.users {
                let users = match users {
                    Users::One => "one",
                    Users::Many => "many",
                };
                value = format!("{value} users={users}");
            }
            if let Some(exec) = provider.exec {
                let exec = match exec {
                    ExecBy::Agent => "agent",
                    ExecBy::Engine => "engine",
                };
                value = format!("{value} exec={exec}");
            }
            values.push((format!("providers.{name}"), value));
        }
        values.sort();
        values
            .into_iter()
            .map(|(name, value)| {
                let origin = self.origins.get(&name).cloned().unwrap_or(Origin::Default);
                Setting {
                    name,
                    value,
                    origin,
                }
            })
            .collect()
    }
}

fn show_duration(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "none".to_owned(), format_duration)
}

fn show_roots(roots: Option<&[PathBuf]>) -> String {
    match roots {
        None => "any".to_owned(),
        Some(roots) => roots
            .iter()
            .map(|r| r.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// The file in force: the first that exists; a named one must.
fn find_file(overrides: &Overrides, environment: &Environment) -> Result<(PathBuf, File)> {
    if let Some(named) = overrides.file.as_ref().or(environment.config.as_ref()) {
        return match file::read(named)? {
            Some(file) => Ok((named.clone(), file)),
            None => Err(
                Error::new(ErrorKind::NotFound, "the configuration file does not exist")
                    .context("file", named.display())
                    .context("remedy", "correct --config or STACYVM_CONFIG"),
            ),
        };
    }
    let users = environment
        .config_home
        .as_ref()
        .map(|home| home.join("stacyvm/stacyvm.yaml"));
    for path in users
        .into_iter()
        .chain([Path::new(SYSTEM_FILE).to_path_buf()])
    {
        if let Some(file) = file::read(&path)? {
            return Ok((path, file));
        }
    }
    Ok((PathBuf::new(), File::default()))
}

#[cfg(test)]
mod tests;
