//! Leftovers, room on the disk, and what nobody needs any more.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::directory::is_held;
use super::disk_use::Scale;
use super::error::system;
use super::leftovers::Look;
use super::mountinfo::Location;
use super::volumes::Volumes;
use super::{Oci, processes, program, quota, sweep};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{DiskUse, Leftover, NotRemoved, Reach, Tidied, TidyRequest};

impl Oci {
    pub(super) async fn look(&self, reach: Reach) -> Result<Vec<Leftover>> {
        let own = self.state_dir.clone();
        blocking(move || Look::around(&own, reach)).await
    }

    /// Looks again at what seems to be left: a sandbox that is made during one
    /// look seems to be so.
    async fn look_twice(&self, reach: Reach) -> Result<Vec<Leftover>> {
        let first = self.look(reach).await?;
        if first.iter().all(|leftover| leftover.owner_lives) {
            return Ok(first);
        }
        let mut second = self.look(reach).await?;
        second.retain(|leftover| leftover.owner_lives || first.iter().any(|l| l.id == leftover.id));
        Ok(second)
    }

    pub(super) async fn remove(&self, id: &str) -> Result<()> {
        // Opened before it is looked at, so that its number cannot become another's.
        let process = match id.strip_prefix("process:").map(str::parse) {
            Some(Ok(pid)) => processes::open(pid).map_err(|e| system("open a process", e))?,
            _ => None,
        };
        let found = self.look_twice(Reach::Host).await?;
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
            // What its helper watches lives, and can be ended in an orderly way.
            "process" if leftover.evidence.ends_with(super::leftovers::UNREACHED) => {
                Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{id} is the helper of a living sandbox, expected something that nobody holds"),
                )
                .context("evidence", &leftover.evidence)
                .context("remedy", &leftover.remedy))
            }
            "process" => match process {
                Some(process) => processes::kill(&process).map_err(|e| system("end a process", e)),
                // It was another's when the look began.
                None => Ok(()),
            },
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
            _ => sweep::sweep_at(&self.owned, path).await?,
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
        places.extend(named("volume", self.volumes.path()));
        places.extend(named("cache", &self.state_dir.join("cache")));
        let images = self.state_dir.join("images");
        if images.exists() {
            places.push(("images", images));
        }
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

    pub(super) async fn tidy_up(&self, request: &TidyRequest) -> Result<Tidied> {
        let mut tidied = Tidied::default();
        if request.dead {
            let mut swept = self
                .swept
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            tidied.gone.append(&mut swept);
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
            if request.dry_run {
                tidied.gone.push(weighed);
                continue;
            }
            match self.tidy_away(kind, &name, &path).await {
                Ok(true) => tidied.gone.push(weighed),
                Ok(false) => {}
                Err(error) => tidied.failed.push(NotRemoved {
                    kind: kind.to_owned(),
                    name,
                    reason: error.to_string(),
                }),
            }
        }
        Ok(tidied)
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
                name.starts_with("helper-") && !executed.contains(path) && !program::is_kept(path)
            }));
        }
        if request.volumes {
            let volumes = named("volume", self.volumes.path());
            let mounted: HashSet<Location> = blocking(processes::mounted).await?;
            all.extend(volumes.into_iter().filter(|(_, path)| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                // Helpers of older versions hold no lock.
                let used = Location::of(path)
                    .is_some_and(|volume| mounted.iter().any(|at| volume.strip(at).is_some()));
                !used && self.may_go(request, &name)
            }));
        }
        Ok(all)
    }

    /// Whether a volume, or what is left of one, may go. One that cannot be
    /// looked at may: its removal then tells why it stays.
    fn may_go(&self, request: &TidyRequest, name: &str) -> bool {
        if Volumes::is_taken(name) {
            return true;
        }
        let asked = match &request.only_volumes {
            Some(only) => only.iter().any(|asked| asked == name),
            None => true,
        };
        asked && self.volumes.is_free(name).unwrap_or(true)
    }

    /// Removes one thing; false where somebody needs it after all.
    async fn tidy_away(&self, kind: &str, name: &str, path: &Path) -> Result<bool> {
        match kind {
            "sandbox" => self.owned.sweep(name).await,
            "volume" => self.remove_volume(name).await,
            _ => {
                let path = path.to_owned();
                blocking(move || program::remove_cached(&path)).await?
            }
        }
    }

    /// Removes a volume, unless somebody uses it by now. A create of the same
    /// name waits for no more than a rename, and gets a new one.
    async fn remove_volume(&self, name: &str) -> Result<bool> {
        let taken = if Volumes::is_taken(name) {
            name.to_owned()
        } else {
            match self.volumes.take_away(name)? {
                Some(taken) => taken,
                None => return Ok(false),
            }
        };
        let parent = self.volumes.open()?;
        let volume = quota::open(&self.volumes.path_of(&taken));
        self.owned.remove_in(parent.as_fd(), &taken).await?;
        if let Ok(volume) = volume {
            quota::take_back(&volume);
        }
        Ok(true)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::oci::OciConfig;
    use crate::providers::oci::program::Program;

    async fn oci(home: &Path) -> Oci {
        Oci::open(OciConfig::new(home)).await.unwrap()
    }

    #[tokio::test]
    async fn only_what_has_a_lock_of_ours_or_nothing_in_it_is_swept() {
        let home = tempfile::tempdir().unwrap();
        drop(oci(home.path()).await);
        let sandboxes = home.path().join("sandboxes");
        let kept = [
            sandboxes.join("precious/notes"),
            sandboxes.join("parked-0123456789/ledger"),
        ];
        for path in &kept {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "mine").unwrap();
        }
        std::fs::create_dir(sandboxes.join("parked-begun")).unwrap();
        std::fs::write(sandboxes.join("parked-begun/helper.lock.new"), "").unwrap();
        let oci = oci(home.path()).await;
        assert!(kept.iter().all(|path| path.exists()));
        assert!(!sandboxes.join("parked-begun").exists());
        let swept = oci.look(Reach::Own).await.unwrap();
        assert!(swept.is_empty(), "{swept:?}");
    }

    fn all_volumes() -> TidyRequest {
        TidyRequest {
            volumes: true,
            ..TidyRequest::default()
        }
    }

    fn names(tidied: &Tidied) -> Vec<&str> {
        tidied.gone.iter().map(|item| item.name.as_str()).collect()
    }

    #[tokio::test]
    async fn the_program_of_an_engine_that_is_idle_stays_in_the_cache() {
        use std::os::unix::net::UnixStream;
        let home = tempfile::tempdir().unwrap();
        let oci = oci(home.path()).await;
        let cache = home.path().join("cache");
        // As on a host that executes no memory files.
        let engine = || Program::of_cache(&cache, stacyvm_agent::AGENT).unwrap();
        let (one, two) = (engine(), engine());
        std::fs::write(cache.join("helper-old"), "x").unwrap();
        let request = TidyRequest {
            cache: true,
            ..TidyRequest::default()
        };
        assert_eq!(names(&oci.tidy_up(&request).await.unwrap()), ["helper-old"]);
        drop(one);
        // Past the look, as one that was opened since.
        let [(kind, kept)] = &named("cache", &cache)[..] else {
            panic!("{cache:?}")
        };
        assert!(!oci.tidy_away(kind, "", kept).await.unwrap());
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let (mut helper, _) = two.start(theirs.into()).unwrap();
        helper.kill().unwrap();
        helper.wait().unwrap();
        drop(two);
        assert_eq!(oci.tidy_up(&request).await.unwrap().gone.len(), 1);
        assert!(!kept.exists());
    }

    #[tokio::test]
    async fn volumes_go_as_asked_and_one_that_cannot_keeps_no_other() {
        let home = tempfile::tempdir().unwrap();
        let oci = oci(home.path()).await;
        for name in ["a", "b", "bad", "c", "held"] {
            oci.volumes.make(name, None).unwrap();
        }
        let held = oci.volumes.hold("held").await.unwrap();
        // No lock can be opened there.
        std::fs::create_dir(home.path().join("volume-locks/bad")).unwrap();
        // What a prune that was killed has left.
        let left = oci.volumes.take_away("c").unwrap().unwrap();
        let request = TidyRequest {
            only_volumes: Some(["b", "bad", "held"].map(str::to_owned).into()),
            ..all_volumes()
        };
        let dry = TidyRequest {
            dry_run: true,
            ..request.clone()
        };
        let told = oci.tidy_up(&dry).await.unwrap();
        assert_eq!(names(&told), ["b", "bad", left.as_str()]);
        assert_eq!(named("volume", oci.volumes.path()).len(), 5, "it was dry");
        let tidied = oci.tidy_up(&request).await.unwrap();
        assert_eq!(names(&tidied), ["b", left.as_str()]);
        let [failed] = &tidied.failed[..] else {
            panic!("{tidied:?}")
        };
        assert_eq!(
            (failed.name.as_str(), failed.kind.as_str()),
            ("bad", "volume")
        );
        assert!(!failed.reason.is_empty());
        drop(held);
        let tidied = oci.tidy_up(&all_volumes()).await.unwrap();
        assert_eq!(names(&tidied), ["a", "held"]);
    }

    #[tokio::test]
    async fn a_leftover_deeper_than_files_may_be_open_is_swept() {
        use rustix::fs::{Mode, OFlags};
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let home = tempfile::tempdir().unwrap();
        let oci = oci(home.path()).await;
        let dead = home.path().join("sandboxes/sdead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("helper.lock"), "").unwrap();
        let limit = 400;
        let mut at = rustix::fs::open(&dead, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..2 * limit {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(limit),
            ..before
        };
        setrlimit(Resource::Nofile, low).unwrap();
        let request = TidyRequest {
            dead: true,
            ..TidyRequest::default()
        };
        let tidied = oci.tidy_up(&request).await.unwrap();
        setrlimit(Resource::Nofile, before).unwrap();
        assert_eq!(names(&tidied), ["sdead"], "{tidied:?}");
        assert!(!dead.exists());
    }
}
