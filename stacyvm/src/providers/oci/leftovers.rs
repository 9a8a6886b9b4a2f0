//! What of embedded sandboxes lies on the host, in whatever state directory.
//!
//! A name proves nothing. A directory is a sandbox's by the lock in it, a
//! cgroup by a line in a ledger or in the note of a range of users or by the
//! mark of its helper, a device by its file, a process by its executable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use stacyvm_agent::helper_protocol::{LOCK_NAME, SOCKET_NAME};
use stacyvm_agent::mark::Mark;

use super::directory::PARKED;
use super::mountinfo::{Location, Mounts};
use super::processes::{Processes, Role};
use super::{ranges, sweep};
use crate::id::SandboxId;
use crate::provider::{Leftover, Reach};

/// How the evidence of a living helper ends whose socket was removed.
pub(super) const UNREACHED: &str = ", and its socket there has gone";

/// What is found on the host.
#[derive(Debug)]
pub(super) struct Look {
    own: PathBuf,
    reach: Reach,
    processes: Processes,
    /// State directories, in the order in which they were found; the own first.
    places: Vec<PathBuf>,
    /// The names that a living helper holds, in any of them.
    living: BTreeSet<String>,
    found: BTreeMap<String, Leftover>,
}

impl Look {
    /// Looks around. Changes nothing.
    pub(super) fn around(own: &Path, reach: Reach) -> Vec<Leftover> {
        let mut look = Self {
            own: own.to_owned(),
            reach,
            processes: Processes::scan(),
            places: vec![own.to_owned()],
            living: BTreeSet::new(),
            found: BTreeMap::new(),
        };
        if reach == Reach::Host {
            look.find_places();
        }
        for place in look.places.clone() {
            look.directories(&place);
        }
        if reach == Reach::Host {
            look.notes();
            look.marked();
        }
        look.loop_devices();
        look.processes();
        look.mounts();
        look.found.into_values().collect()
    }

    /// Where living helpers work, and where each user's state is by default.
    fn find_places(&mut self) {
        let homes = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let homes = homes.lines().filter_map(|line| line.split(':').nth(5));
        let default = homes.map(|home| Path::new(home).join(".local/state/stacyvm"));
        let helpers = self.processes.all.values();
        let of_helpers = helpers.filter_map(|process| process.state_dir.clone());
        for place in of_helpers.chain(default) {
            if place.join("sandboxes").is_dir() && !self.places.contains(&place) {
                self.places.push(place);
            }
        }
    }

    fn add(&mut self, kind: &str, name: &str, place: Option<&Path>, told: Told) {
        let id = format!("{kind}:{name}");
        self.found.entry(id.clone()).or_insert_with(|| Leftover {
            id,
            kind: kind.to_owned(),
            name: name.to_owned(),
            instance: None,
            state_dir: place.map(|place| place.display().to_string()),
            sandbox: told.sandbox.and_then(|name| SandboxId::new(name).ok()),
            owner_lives: told.lives,
            evidence: told.evidence,
            remedy: told.remedy,
        });
    }

    fn directories(&mut self, place: &Path) {
        let entries = fs::read_dir(place.join("sandboxes"));
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = entry.path();
            let Some((directory, held)) = lock_of(&path) else {
                continue;
            };
            if held {
                self.living.insert(name.clone());
                self.unreached(place, &path, &name);
            }
            let remedy = if held {
                format!(
                    "none: it ends by its deadline, with its owner, or by `stacyvm --state-dir {} kill`",
                    place.display()
                )
            } else {
                format!(
                    "`stacyvm --state-dir {} reconcile` takes it away",
                    place.display()
                )
            };
            let sandbox = (!name.starts_with(PARKED)).then(|| name.clone());
            let told = Told {
                sandbox: sandbox.clone(),
                lives: held,
                evidence: if held {
                    "a living helper holds the lock in it".to_owned()
                } else {
                    "the lock in it is free, so its helper is dead".to_owned()
                },
                remedy,
            };
            self.add("directory", &path.display().to_string(), Some(place), told);
            if held {
                continue;
            }
            let ledger = sweep::ledger(&directory).unwrap_or_default();
            let evidence = format!("the ledger in {} names it", path.display());
            self.cgroups(&ledger, sandbox.as_deref(), Some(place), &evidence);
        }
    }

    /// A helper that works for a sandbox and has no socket any more, so that
    /// nobody reaches it. One without an agent is ending.
    fn unreached(&mut self, place: &Path, directory: &Path, name: &str) {
        if name.starts_with(PARKED) || directory.join(SOCKET_NAME).symlink_metadata().is_ok() {
            return;
        }
        let all = &self.processes.all;
        let helper = all.values().find(|process| {
            process.role == Role::Helper
                && process.sandbox.as_deref() == Some(name)
                && process
                    .state_dir
                    .as_ref()
                    .is_some_and(|dir| is_same(dir, place))
        });
        let Some(pid) = helper.map(|helper| helper.pid) else {
            return;
        };
        if !all
            .values()
            .any(|process| process.role == Role::Agent && process.parent == pid)
        {
            return;
        }
        let told = Told {
            sandbox: Some(name.to_owned()),
            lives: false,
            evidence: format!("it holds the lock in {}{UNREACHED}", directory.display()),
            remedy: format!(
                "`stacyvm --state-dir {} kill {name}` ends it, or where no record names it, removal of directory:{}",
                place.display(),
                directory.display()
            ),
        };
        self.add("process", &pid.to_string(), Some(place), told);
    }

    /// Cgroups that a ledger or a note names and that are there.
    fn cgroups(&mut self, text: &str, sandbox: Option<&str>, place: Option<&Path>, evidence: &str) {
        for path in sweep::cgroups(text).unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name.filter(|name| !self.living.contains(*name)) else {
                continue;
            };
            if !path.is_dir() {
                continue;
            }
            let sandbox = sandbox.or(Some(name)).filter(|n| !n.starts_with(PARKED));
            let told = Told {
                sandbox: sandbox.map(str::to_owned),
                lives: false,
                evidence: evidence.to_owned(),
                remedy: "remove it by its id: what runs in it is killed".to_owned(),
            };
            self.add("cgroup", &path.display().to_string(), place, told);
        }
    }

    /// Notes of ranges of users whose helper is dead.
    fn notes(&mut self) {
        for (path, note) in ranges::free_notes() {
            let evidence = format!("the note of a range of users, {}, names it", path.display());
            self.cgroups(&note, None, None, &evidence);
        }
    }

    /// Cgroups whose ledger is lost, with the mark of a helper that is dead.
    fn marked(&mut self) {
        for hierarchy in stacyvm_agent::delegation::hierarchies() {
            let all = fs::read_dir(hierarchy.base.join("stacyvm"));
            for entry in all.into_iter().flatten().flatten() {
                let path = entry.path();
                let Some(mark) = Mark::of(&path).filter(Mark::is_dead) else {
                    continue;
                };
                let evidence = format!("it has the mark of helper {}, which is dead", mark.pid());
                let line = format!("cgroup\t{}\n", path.display());
                self.cgroups(&line, None, None, &evidence);
            }
        }
    }

    fn loop_devices(&mut self) {
        let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        for device in devices {
            let Ok(file) = fs::read_to_string(device.path().join("loop/backing_file")) else {
                continue;
            };
            let file = file.trim_end();
            let file = file.strip_suffix(" (deleted)").unwrap_or(file);
            let Some((place, name)) = self.sandbox_of(Path::new(file)) else {
                continue;
            };
            let node = Path::new("/dev").join(device.file_name());
            let told = Told {
                sandbox: Some(name),
                lives: false,
                evidence: format!("its file is {file}"),
                remedy: format!("losetup --detach {}", node.display()),
            };
            self.add(
                "loop_device",
                &node.display().to_string(),
                Some(&place),
                told,
            );
        }
    }

    /// Agents that go on without their helper, and helpers that nobody reaches.
    fn processes(&mut self) {
        let all: Vec<_> = self.processes.all.values().cloned().collect();
        for process in all {
            let mut lives = false;
            let (sandbox, evidence) = match process.role {
                Role::Helper => {
                    let Some(place) = &process.state_dir else {
                        continue;
                    };
                    let ours = self.reach == Reach::Host || *place == self.own;
                    if process.reachable || !ours {
                        continue;
                    }
                    // Who started it holds a channel to it, as long as it lives.
                    lives = !is_reaper(process.parent);
                    (
                        process.sandbox.clone(),
                        "its executable is stacyvm's, and its directory has gone",
                    )
                }
                Role::Agent => {
                    let parent = self.processes.all.get(&process.parent);
                    let Some(sandbox) = process.sandbox.clone() else {
                        continue;
                    };
                    // Its own processes, and those of a living helper.
                    if parent.is_some() || self.living.contains(&sandbox) {
                        continue;
                    }
                    let known = self
                        .found
                        .values()
                        .any(|l| l.sandbox.as_ref().is_some_and(|id| id.as_str() == sandbox));
                    if self.reach == Reach::Own && !known {
                        continue;
                    }
                    (
                        Some(sandbox),
                        "its executable is stacyvm's, and its helper is dead",
                    )
                }
            };
            let told = Told {
                sandbox,
                lives,
                evidence: evidence.to_owned(),
                remedy: if lives {
                    format!(
                        "none while process {} lives, which may use it",
                        process.parent
                    )
                } else {
                    "remove it by its id: it is killed".to_owned()
                },
            };
            self.add(
                "process",
                &process.pid.to_string(),
                process.state_dir.as_deref(),
                told,
            );
        }
    }

    /// Mounts of sandboxes whose helper is dead, in any mount namespace.
    fn mounts(&mut self) {
        let located: Vec<(PathBuf, Location)> = self
            .places
            .iter()
            .filter_map(|place| Some((place.clone(), Location::of(&place.join("sandboxes"))?)))
            .collect();
        for (namespace, pid) in super::processes::mount_namespaces() {
            let Some(mounts) = Mounts::of(&pid.to_string()) else {
                continue;
            };
            let mut counts: BTreeMap<(PathBuf, String), usize> = BTreeMap::new();
            for mount in mounts.locations() {
                let mut of = mount.iter().flatten();
                if let Some(of) = of.find_map(|at| self.sandbox_at(&located, at)) {
                    *counts.entry(of).or_default() += 1;
                }
            }
            for ((place, name), count) in counts {
                let what = format!("{namespace} {name}");
                let told = Told {
                    sandbox: Some(name),
                    lives: false,
                    evidence: format!("{count} mounts of its directory, seen by process {pid}"),
                    remedy: format!("end what is in that mount namespace: process {pid} is"),
                };
                self.add("mount", &what, Some(&place), told);
            }
        }
    }

    /// The state directory and the name of the sandbox that a path belongs to,
    /// unless its helper lives.
    fn sandbox_of(&self, path: &Path) -> Option<(PathBuf, String)> {
        let (place, rest) = self
            .places
            .iter()
            .find_map(|place| Some((place, path.strip_prefix(place.join("sandboxes")).ok()?)))?;
        self.dead(place, rest)
    }

    /// The same of where a mount is.
    fn sandbox_at(
        &self,
        located: &[(PathBuf, Location)],
        at: &Location,
    ) -> Option<(PathBuf, String)> {
        let mut places = located.iter();
        let (place, rest) =
            places.find_map(|(place, sandboxes)| Some((place, sandboxes.strip(at)?)))?;
        self.dead(place, rest)
    }

    fn dead(&self, place: &Path, rest: &Path) -> Option<(PathBuf, String)> {
        let name = rest.iter().next()?.to_str()?;
        (!self.living.contains(name)).then(|| (place.to_owned(), name.to_owned()))
    }
}

/// Whether two paths lead to the same directory.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    one == other || (real(one).is_some() && real(one) == real(other))
}

/// Whether a process takes in those whose parents ended.
fn is_reaper(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pid <= 1 || name.trim_end() == "systemd"
}

struct Told {
    sandbox: Option<String>,
    lives: bool,
    evidence: String,
    remedy: String,
}

/// The directory of a sandbox, and whether a living helper holds its lock.
/// `None` where it has no lock: then it is no sandbox's.
fn lock_of(path: &Path) -> Option<(OwnedFd, bool)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, path, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let flags = flags | OFlags::NONBLOCK;
    let lock = rustix::fs::openat(&directory, LOCK_NAME, flags, Mode::empty()).ok()?;
    let kind = rustix::fs::fstat(&lock).ok()?.st_mode;
    if !rustix::fs::FileType::from_raw_mode(kind).is_file() {
        return None;
    }
    // A shared lock disturbs nobody who asks the same.
    let held = match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => false,
        Err(Errno::WOULDBLOCK) => true,
        Err(_) => return None,
    };
    Some((directory, held))
}
