//! An engine from settings.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Engine, Policy};
use crate::config::{Config, ImagesConfig, Overrides, ProviderConfig};
use crate::error::{Error, Result};
use crate::layer::RetryPolicy;
use crate::provider::Provider;
use crate::provider::registry::{Missing, ProviderFactory, Surroundings};
use crate::store::MemoryStore;

/// The kinds that a configuration may name, what a build needs for each, and whether
/// this one has it.
const KINDS: [(&str, &str, bool); 3] = [
    (
        "oci",
        "the cargo feature `oci` and Linux",
        cfg!(all(feature = "oci", target_os = "linux")),
    ),
    (
        "docker",
        "the cargo feature `docker`",
        cfg!(feature = "docker"),
    ),
    ("http", "the cargo feature `http`", cfg!(feature = "http")),
];

impl Engine {
    /// Opens an engine with the settings in force ([`crate::config`]).
    ///
    /// # Errors
    ///
    /// Those of [`Config::load`] and [`Engine::open`].
    pub async fn open_default() -> Result<Self> {
        Self::open(Config::load(&Overrides::default())?).await
    }

    /// Opens an engine with these settings. Providers are opened when they are
    /// first used.
    ///
    /// # Errors
    ///
    /// `permission_denied` for a state directory that is not private,
    /// `corrupt` and `incompatible` for a damaged or newer store,
    /// `invalid_argument` for a provider of an unknown kind.
    pub async fn open(config: Config) -> Result<Self> {
        let policy = Policy {
            mount_roots: config.mount_roots.clone(),
            max_ttl: config.max_ttl,
            default_ttl: config.default_ttl,
            pull: config.images.pull,
            state_dir: Some(config.state_dir.clone()),
        };
        let retry = RetryPolicy {
            attempts: config.attempts.max(1),
            ..RetryPolicy::default()
        };
        let mut builder = Self::builder()
            .state_dir(&config.state_dir)
            .policy(policy)
            .retry(retry)
            .default_provider(&config.default_provider);
        if !cfg!(feature = "sqlite") {
            // Without that feature records end with the process.
            builder = builder.store(Arc::new(MemoryStore::new()));
        }
        for (name, settings) in &config.providers {
            let factory = factory(name, settings, &config)?;
            builder = builder.provider_factory(name, factory);
        }
        builder.build().await
    }
}

fn factory(
    name: &str,
    settings: &ProviderConfig,
    config: &Config,
) -> Result<Arc<dyn ProviderFactory>> {
    let known = KINDS.iter().find(|(kind, ..)| *kind == settings.kind);
    let Some((kind, needs, built)) = known else {
        let kinds = KINDS.map(|(kind, ..)| kind).join(", ");
        return Err(Error::invalid(
            format!("providers.{name}.kind"),
            &settings.kind,
            &format!("one of {kinds}"),
            "correct the configuration",
        ));
    };
    check_url(name, settings)?;
    check_certs(name, settings)?;
    check_direct(name, settings)?;
    check_users(name, settings)?;
    check_exec(name, settings)?;
    let configured = Configured {
        kind: (*kind).to_owned(),
        settings: settings.clone(),
        parked_helpers: config.parked_helpers,
        helper: config.helper.clone(),
        images: config.images.clone(),
    };
    if *built {
        return Ok(Arc::new(configured));
    }
    Ok(Arc::new(Missing {
        kind: configured.kind,
        needs: (*needs).to_owned(),
    }))
}

/// A server has a URL, and nothing else has one.
fn check_url(name: &str, settings: &ProviderConfig) -> Result<()> {
    let (expected, remedy) = match (settings.kind.as_str(), &settings.url) {
        ("http", None) => (
            "the URL of a server",
            "set it to what `stacyvm serve` printed, such as http://127.0.0.1:7070",
        ),
        (kind, Some(_)) if kind != "http" => (
            "none: it is of kind `http` alone",
            "remove it, or correct the kind",
        ),
        _ => return Ok(()),
    };
    let field = format!("providers.{name}.url");
    let value = settings.url.as_deref().unwrap_or("none");
    Err(Error::invalid(field, value, expected, remedy))
}

/// Certificates are of a Docker engine that is named beside them.
fn check_certs(name: &str, settings: &ProviderConfig) -> Result<()> {
    let Some(certs) = &settings.certs else {
        return Ok(());
    };
    let (expected, remedy) = match (settings.kind.as_str(), &settings.host) {
        ("docker", Some(_)) => return Ok(()),
        ("docker", None) => (
            "a host beside it",
            "name the engine that they are of as `host`",
        ),
        _ => (
            "none: it is of kind `docker` alone",
            "remove it, or correct the kind",
        ),
    };
    let field = format!("providers.{name}.certs");
    Err(Error::invalid(field, certs.display(), expected, remedy))
}

/// Whether agents are reached directly is a question of Docker alone.
fn check_direct(name: &str, settings: &ProviderConfig) -> Result<()> {
    match settings.direct {
        Some(direct) if settings.kind != "docker" => Err(Error::invalid(
            format!("providers.{name}.direct"),
            direct,
            "none: it is of kind `docker` alone",
            "remove it, or correct the kind",
        )),
        _ => Ok(()),
    }
}

/// The embedded provider's users are what its host has; a server's are its own.
fn check_users(name: &str, settings: &ProviderConfig) -> Result<()> {
    match settings.users {
        Some(_) if settings.kind != "docker" => Err(Error::invalid(
            format!("providers.{name}.users"),
            "set",
            "none: it is of kind `docker` alone",
            "remove it, or correct the kind",
        )),
        _ => Ok(()),
    }
}

/// An engine alone has an exec of its own.
fn check_exec(name: &str, settings: &ProviderConfig) -> Result<()> {
    match settings.exec {
        Some(_) if settings.kind != "docker" => Err(Error::invalid(
            format!("providers.{name}.exec"),
            "set",
            "none: it is of kind `docker` alone",
            "remove it, or correct the kind",
        )),
        _ => Ok(()),
    }
}

/// A provider as it stands in the settings.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(all(
        feature = "oci",
        feature = "docker",
        feature = "http",
        target_os = "linux"
    )),
    allow(dead_code, reason = "each kind of provider reads a part of it")
)]
struct Configured {
    kind: String,
    settings: ProviderConfig,
    parked_helpers: usize,
    helper: Option<PathBuf>,
    images: ImagesConfig,
}

#[async_trait]
impl ProviderFactory for Configured {
    fn kind(&self) -> &str {
        &self.kind
    }

    async fn open(&self, _name: &str, around: &Surroundings) -> Result<Arc<dyn Provider>> {
        // A build without providers asks nothing of it.
        let _ = around;
        match self.kind.as_str() {
            #[cfg(all(feature = "oci", target_os = "linux"))]
            "oci" => {
                use crate::providers::oci::{Oci, OciConfig};
                let mut config = OciConfig::new(around.root()?.path());
                config.parked_helpers = self.parked_helpers;
                config.helper.clone_from(&self.helper);
                config.images = self.images.clone();
                config.runtime = self.settings.runtime.clone().filter(|r| r != "stacyvm");
                Ok(Arc::new(Oci::open(config).await?))
            }
            #[cfg(feature = "docker")]
            "docker" => {
                use crate::config::ExecBy;
                use crate::providers::docker::{
                    DockerConfig, DockerEngineExec, DockerProvider, DockerTls,
                };
                let directory = around.directory("docker")?;
                let instance = around.instance.clone();
                let certs = self.settings.certs.as_ref();
                let mut config = match (&self.settings.host, certs) {
                    (None, _) => DockerConfig::discover(directory, instance)?,
                    (Some(host), None) => DockerConfig::new(directory, instance)
                        .host(host)
                        .environment_tls()?,
                    (Some(host), Some(certs)) => DockerConfig::new(directory, instance)
                        .host(host)
                        .tls(DockerTls::directory(certs)?),
                };
                if let Some(runtime) = &self.settings.runtime {
                    config = config.runtime(runtime);
                }
                config.direct = self.settings.direct.unwrap_or(true);
                if let Some(users) = self.settings.users {
                    config = config.users(users);
                }
                if self.settings.exec == Some(ExecBy::Engine) {
                    return Ok(Arc::new(DockerEngineExec::open(config).await?));
                }
                Ok(Arc::new(DockerProvider::open(config).await?))
            }
            #[cfg(feature = "http")]
            "http" => {
                use crate::providers::http::{HttpConfig, HttpProvider};
                let url = self.settings.url.clone().unwrap_or_default();
                Ok(Arc::new(HttpProvider::open(HttpConfig::new(url)).await?))
            }
            _ => Err(Error::unsupported(format!(
                "this build has no provider of kind `{}`",
                self.kind
            ))),
        }
    }
    fn with_runtime(&self, runtime: &str) -> Option<Arc<dyn ProviderFactory>> {
        if self.kind == "http" {
            return None;
        }
        let mut same = self.clone();
        same.settings.runtime = Some(runtime.to_owned());
        Some(Arc::new(same))
    }
}
