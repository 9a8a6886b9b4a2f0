//! Leftovers, room on the disk, and what nobody needs any more.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::directory::is_held;
use super::disk_use::Scale;
use super::error::{io, system};
use super::leftovers::Look;
use super::{Oci, processes, sweep};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{DiskUse, Leftover, Reach, TidyRequest};

impl Oci {
    pub(super) async fn look(&self, reach: Reach) -> Result<Vec<Leftover>> {
        let own = self.state_dir.clone();
        blocking(move || Look::around(&own, reach)).await
    }

    pub(super) async fn remove(&self, id: &str) -> Result<()> {
        let found = self.look(Reach::Host).await?;
        let Some(leftover) = found.into_iter().find(|leftover| leftover.id == id) else {
            return Ok(());
        };
        if leftover.owner_lives {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{id} belongs to a living owner, expected something that nobody holds"),
            )
            .context("evidence", &leftover.evidence)
            .context("remedy", &leftover.remedy));
        }
        match leftover.kind.as_str() {
            "directory" => self.remove_directory(Path::new(&leftover.name)).await,
            "cgroup" => {
                let path = Path::new(&leftover.name);
                sweep::thaw(path);
                sweep::remove_cgroup(path).await
            }
            "process" => {
                let pid = leftover.name.parse().unwrap_or(0);
                processes::kill(pid).map_err(|e| system("end a process", e))
            }
            _ => Err(Error::unsupported(format!(
                "{id} is not removed by stacyvm, expected a directory, a cgroup or a process"
            ))
            .context("remedy", &leftover.remedy)),
        }
    }

    async fn remove_directory(&self, path: &Path) -> Result<()> {
        let name = path.file_name().and_then(|name| name.to_str());
        let own = path.parent() == Some(&self.state_dir.join("sandboxes"));
        let swept = match name {
            Some(name) if own => self.owned.sweep(name).await?,
            _ => sweep::sweep_at(path).await?,
        };
        if swept {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "{} is held by a living helper, expected a dead one",
                path.display()
            ),
        ))
    }

    pub(super) async fn weigh(&self) -> Result<Vec<DiskUse>> {
        let mut places = named("sandbox", &self.state_dir.join("sandboxes"));
        places.extend(named("volume", &self.volumes));
        places.extend(named("cache", &self.state_dir.join("cache")));
        blocking(move || {
            let mut scale = Scale::default();
            let weighed = places.iter().map(|(kind, path)| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                scale.weigh(kind, &name, path)
            });
            weighed.collect()
        })
        .await
    }

    pub(super) async fn tidy_up(&self, request: &TidyRequest) -> Result<Vec<DiskUse>> {
        let mut gone = Vec::new();
        if request.dead {
            let mut swept = self
                .swept
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            gone.append(&mut swept);
        }
        for (kind, path) in self.unneeded(request).await? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let weighed = {
                let (name, path) = (name.clone(), path.clone());
                blocking(move || Scale::default().weigh(kind, &name, &path)).await?
            };
            if !request.dry_run && !self.tidy_away(kind, &name, &path).await? {
                continue;
            }
            gone.push(weighed);
        }
        Ok(gone)
    }

    async fn unneeded(&self, request: &TidyRequest) -> Result<Vec<(&'static str, PathBuf)>> {
        let mut all = Vec::new();
        if request.dead {
            let mut dead = named("sandbox", &self.state_dir.join("sandboxes"));
            dead.retain(|(_, path)| {
                let name = path.file_name().and_then(|name| name.to_str());
                let found = name.and_then(|name| self.sandboxes.find_name(name).ok().flatten());
                // Locked for this moment only: the sweep locks it again.
                found.is_some_and(|directory| matches!(is_held(&directory), Ok(Some(_))))
            });
            all.extend(dead);
        }
        if request.cache {
            let cached = named("cache", &self.state_dir.join("cache"));
            let executed = blocking(processes::executed).await?;
            all.extend(cached.into_iter().filter(|(_, path)| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("helper-") && !executed.contains(path)
            }));
        }
        if request.volumes {
            let volumes = named("volume", &self.volumes);
            let mounted: HashSet<PathBuf> = blocking(processes::mounted_paths).await?;
            all.extend(volumes.into_iter().filter(|(_, path)| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let used = mounted
                    .iter()
                    .any(|root| path.ends_with(root.strip_prefix("/").unwrap_or(root)));
                !used && !request.kept_volumes.iter().any(|kept| *kept == name)
            }));
        }
        Ok(all)
    }

    /// Removes one thing; false where somebody needs it after all.
    async fn tidy_away(&self, kind: &str, name: &str, path: &Path) -> Result<bool> {
        if kind == "sandbox" {
            return self.owned.sweep(name).await;
        }
        let path = path.to_owned();
        let removed = blocking(move || {
            if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            }
        })
        .await?;
        match removed {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io("remove what nobody needs", error).context("name", name)),
            Ok(()) => Ok(true),
        }
    }
}

/// What is in a directory, each under this kind.
fn named(kind: &'static str, directory: &Path) -> Vec<(&'static str, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries.map(|entry| (kind, entry.path())).collect();
    all.sort_unstable();
    all
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "looking at this host stopped").source(e))
}
