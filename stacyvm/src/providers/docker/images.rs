//! Images of the engine: which one a sandbox is made of, and whether it runs here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bollard::models::{ImageConfig, ImageInspect};
use tokio::sync::OwnedMutexGuard;

use super::create::{INSTANCE, TENANT};
use super::error::{is_absent, map, status};
use super::facts::{Facts, rust_name};
use super::life::Life;
use super::patience::Answer;
use super::snapshot::{self, SNAPSHOT};
use super::volume::no_image;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{SandboxId, SnapshotId, TenantId};
use crate::sandbox::spec::{SandboxSpec, Source};

/// The longest command of an image that is told.
const MOST_COMMAND: usize = 8 * 1024;

/// What a sandbox is made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Base {
    /// What the engine is to be told: the name of an image, and the id of a snapshot,
    /// whose owner was looked at.
    pub(super) name: String,
    /// The engine's id of it.
    pub(super) id: String,
    /// What it says about commands.
    pub(super) config: ImageConfig,
}

impl Base {
    /// Its entrypoint and command as JSON, for people: empty where it has none.
    pub(super) fn command(&self) -> String {
        let entrypoint = self.config.entrypoint.iter().flatten();
        let command: Vec<_> = entrypoint.chain(self.config.cmd.iter().flatten()).collect();
        if command.is_empty() {
            return String::new();
        }
        let text = serde_json::to_string(&command).unwrap_or_default();
        if text.len() > MOST_COMMAND {
            return String::new();
        }
        text
    }
}

/// What this process does with images.
#[derive(Debug, Default)]
pub(super) struct Images {
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Sandboxes that stand still because they are saved.
    saving: Mutex<Vec<SandboxId>>,
}

impl Images {
    /// Waits until nobody else of this process works on what has this name.
    pub(super) async fn alone(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    /// Notes that a sandbox is saved, until what this gives is dropped.
    pub(super) fn saving(&self, id: &SandboxId) -> Saving<'_> {
        let mut saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        saving.push(id.clone());
        Saving {
            images: self,
            id: id.clone(),
        }
    }

    /// Whether a sandbox is saved just now.
    pub(super) fn is_saved(&self, id: &SandboxId) -> bool {
        let saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        saving.contains(id)
    }
}

/// A note that a sandbox is saved.
pub(super) struct Saving<'a> {
    images: &'a Images,
    id: SandboxId,
}

impl Drop for Saving<'_> {
    fn drop(&mut self) {
        let saving = self.images.saving.lock();
        let mut saving = saving.unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = saving.iter().position(|id| *id == self.id) {
            saving.swap_remove(at);
        }
    }
}

impl Life {
    /// Finds what a sandbox of this tenant is to be made of, and changes nothing.
    ///
    /// # Errors
    ///
    /// `not_found` where the engine has none, `unsupported` for one of another
    /// architecture, `permission_denied` for a snapshot that is named as an image.
    pub(super) async fn base(&self, spec: &SandboxSpec, tenant: &TenantId) -> Result<Base> {
        let (name, seen) = match &spec.source {
            Source::Image(name) => {
                let seen = self.image(name).await?.ok_or_else(|| no_image(name))?;
                if label(&seen, SNAPSHOT).is_some() {
                    return Err(is_a_snapshot(name));
                }
                (name.clone(), seen)
            }
            Source::Snapshot(name) => {
                self.facts.snapshots()?;
                let snapshot = SnapshotId::new(name.clone())?;
                let owner = Some((&self.config.instance, tenant));
                let seen = self.saved(&snapshot, owner).await?;
                let seen = seen.ok_or_else(|| snapshot::missing(&snapshot))?;
                (seen.id.clone().unwrap_or_default(), seen)
            }
            Source::Template(_) => {
                return Err(Error::unsupported(
                    "the docker provider makes sandboxes of images and snapshots alone",
                )
                .context("field", "template"));
            }
        };
        runs_here(&name, &seen)?;
        Ok(Base {
            name,
            id: seen.id.unwrap_or_default(),
            config: seen.config.unwrap_or_default(),
        })
    }

    /// What the engine has under a name or an id.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for what cannot be one: it is part of an address.
    pub(super) async fn image(&self, name: &str) -> Result<Option<ImageInspect>> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._:/@[]-".contains(c);
        let whole = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !name.chars().all(plain) || !name.split('/').all(whole) {
            return Err(no_name(name));
        }
        match self.docker.inspect_image(name).within(&self.docker).await {
            Ok(seen) => Ok(Some(seen)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) if status(&e) == Some(400) => Err(no_name(name).source(e)),
            Err(e) => Err(map(e)),
        }
    }
}

/// A label of an image, unless it is empty.
pub(super) fn label<'a>(seen: &'a ImageInspect, name: &str) -> Option<&'a str> {
    let labels = seen.config.as_ref()?.labels.as_ref()?;
    labels
        .get(name)
        .map(String::as_str)
        .filter(|l| !l.is_empty())
}

/// Whose an image is that has the labels of an owner.
pub(super) fn owner(seen: &ImageInspect) -> Option<(&str, &str)> {
    Some((label(seen, INSTANCE)?, label(seen, TENANT)?))
}

/// The agent, and the commands of other architectures, run nowhere else.
fn runs_here(name: &str, seen: &ImageInspect) -> Result<()> {
    let system = seen.os.as_deref().unwrap_or_default();
    let architecture = seen.architecture.as_deref().unwrap_or_default();
    let here = std::env::consts::ARCH;
    let fits = |said: &str, expected: &str| said.is_empty() || said == expected;
    if fits(system, "linux") && fits(rust_name(architecture), here) {
        return Ok(());
    }
    let value = format!("{system}/{architecture}");
    let expected = format!("linux/{}", docker_name(here));
    Err(Error::unsupported(format!(
        "the image `{name}` is for {value}, expected one for {expected}, which this docker \
         engine runs"
    ))
    .context("field", "image")
    .context("value", value)
    .context("expected", &expected)
    .context(
        "remedy",
        format!("get the other one with `docker pull --platform {expected} {name}`, or build it"),
    ))
}

/// The engine's name of an architecture.
fn docker_name(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn no_name(name: &str) -> Error {
    Error::invalid(
        "image",
        name,
        "[REGISTRY/]NAME[:TAG][@DIGEST] or the id of an image",
        "correct the name of the image",
    )
}

fn is_a_snapshot(name: &str) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!("`{name}` is a snapshot, expected an image"),
    )
    .context("field", "image")
    .context("value", name)
    .context(
        "remedy",
        "make the sandbox from the snapshot, by its id; of one's own image on top of it, \
         clear the label `stacyvm.snapshot`",
    )
}

impl Facts {
    /// Whether what a sandbox writes lies where the engine saves it.
    pub(super) fn snapshots(&self) -> Result<()> {
        if self.saves_disk {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "the runtime `{}` keeps what sandboxes write away from the docker engine, expected one \
             that writes to the container's own layer",
            self.runtime
        ))
        .context("field", "snapshot")
        .context("value", &self.runtime)
        .context(
            "expected",
            "runc, or gVisor that is registered with `--overlay2=none`",
        )
        .context(
            "remedy",
            "register `runsc` with the argument `--overlay2=none`, or use another runtime",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_another_architecture_is_told_with_the_one_that_runs() {
        let of = |os: &str, architecture: &str| {
            let seen = ImageInspect {
                os: Some(os.to_owned()),
                architecture: Some(architecture.to_owned()),
                ..ImageInspect::default()
            };
            runs_here("a:1", &seen)
        };
        let here = docker_name(std::env::consts::ARCH);
        of("linux", here).unwrap();
        of("", "").unwrap();
        for (os, architecture) in [("linux", "s390x"), ("windows", here), ("linux", "386")] {
            let error = of(os, architecture).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.fact("field"), Some("image"));
            let value = format!("{os}/{architecture}");
            assert_eq!(error.fact("value"), Some(value.as_str()));
            let remedy = error.fact("remedy").unwrap();
            assert!(
                remedy.contains(&format!("--platform linux/{here} a:1")),
                "{remedy}"
            );
        }
    }

    #[test]
    fn the_command_of_an_image_is_told_whole_or_not() {
        let of = |entrypoint: &[&str], cmd: &[&str]| {
            let list = |all: &[&str]| Some(all.iter().map(|s| (*s).to_owned()).collect());
            let config = ImageConfig {
                entrypoint: list(entrypoint),
                cmd: list(cmd),
                ..ImageConfig::default()
            };
            Base {
                config,
                ..Base::default()
            }
            .command()
        };
        assert_eq!(of(&["/e"], &["a b"]), r#"["/e","a b"]"#);
        assert_eq!(of(&[], &[]), "");
        assert_eq!(of(&[], &["x".repeat(MOST_COMMAND).as_str()]), "");
    }

    #[tokio::test]
    async fn what_has_one_name_is_worked_on_by_one() {
        let images = Images::default();
        let first = images.alone("a").await;
        let _other = images.alone("b").await;
        let short = std::time::Duration::from_millis(20);
        assert!(
            tokio::time::timeout(short, images.alone("a"))
                .await
                .is_err()
        );
        drop(first);
        let _second = images.alone("a").await;
    }
}
