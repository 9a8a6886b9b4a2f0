//! The cgroups of one sandbox: version 1, one directory in each hierarchy
//! that has a controller we use, or version 2, one directory for all.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::fault::{Result, Tried};
use super::nested;
use super::sys::pause;
use crate::delegation::{Hierarchy, hierarchies, read};
use crate::helper_protocol::{Failed, FailedKind, InForce, Limits, Usage};
use crate::mark::Mark;

/// The directory below a hierarchy's base that holds all of ours.
const PARENT: &str = "stacyvm";

/// The nice value of the agent, its supervisors and its workers.
const AGENT_NICE: i32 = -20;

/// The cgroups of one sandbox.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    name: String,
}

/// Where the cgroup of a sandbox is in every hierarchy of this host, used or
/// not: a runtime makes one in each.
pub(crate) fn everywhere(name: &str) -> Vec<PathBuf> {
    let mounts = read(Path::new("/proc/self/mountinfo"));
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next()?;
        let mount = left.split(' ').nth(4)?;
        matches!(kind, "cgroup" | "cgroup2").then(|| Path::new(mount).join(PARENT).join(name))
    };
    mounts.lines().filter_map(mount).collect()
}

/// Kills what is in a cgroup that a runtime made and removes it; names what stays.
pub(crate) fn destroy(path: &Path) -> Option<String> {
    for _ in 0..500 {
        // Version 2 kills all at once, from Linux 5.14 on; elsewhere this is
        // no file, and each process is killed below.
        let _ = write(&path.join("cgroup.kill"), "1");
        for dir in nested::below(path)
            .iter()
            .map(PathBuf::as_path)
            .chain([path])
        {
            let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in inside.lines().filter_map(|line| line.parse().ok()) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    // It may have ended by itself.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        match remove_all(path) {
            Ok(()) => return None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(_) => pause(Duration::from_millis(10)),
        }
    }
    Some(format!("cgroup {}", path.display()))
}

/// Removes a cgroup and those below it.
fn remove_all(dir: &Path) -> io::Result<()> {
    let result = fs::remove_dir(dir);
    if result.is_ok() {
        return result;
    }
    for nested in nested::below(dir) {
        // What cannot be removed keeps its parent, whose error is told.
        let _ = fs::remove_dir(nested);
    }
    fs::remove_dir(dir)
}

pub(super) fn write(path: &Path, text: impl AsRef<str>) -> io::Result<()> {
    // Never created: a file that is missing here is a controller that is.
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, text.as_ref().as_bytes())
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn keyed(path: &Path, key: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

impl Cgroups {
    /// Makes them. A host where none can be made gives a sandbox without limits.
    pub(crate) fn make(name: &str) -> Result<Self> {
        let mut made = Self {
            hierarchies: Vec::new(),
            name: name.to_owned(),
        };
        let mark = Mark::own();
        for hierarchy in hierarchies() {
            let parent = hierarchy.base.join(PARENT);
            let result = (|| {
                if let Err(error) = fs::create_dir(&parent)
                    && error.kind() != io::ErrorKind::AlreadyExists
                {
                    return Err(error);
                }
                if hierarchy.version == 2 {
                    for dir in [&hierarchy.base, &parent] {
                        for controller in &hierarchy.controllers {
                            if controller != "freezer" {
                                write(
                                    &dir.join("cgroup.subtree_control"),
                                    format!("+{controller}"),
                                )?;
                            }
                        }
                    }
                }
                fs::create_dir(parent.join(name))?;
                if let Some(mark) = &mark {
                    mark.set(&parent.join(name));
                }
                Ok(())
            })();
            match result {
                Ok(()) => made.hierarchies.push(hierarchy),
                // Without rights here there are no limits, which the report
                // says and a launch that needs them refuses.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                    ) => {}
                Err(error) => {
                    made.remove();
                    return Err(error).tried(format!(
                        "make the cgroup {name} in {}",
                        hierarchy.base.display()
                    ));
                }
            }
        }
        Ok(made)
    }

    /// What will be made, for the ledger.
    pub(crate) fn plan(name: &str) -> Vec<PathBuf> {
        hierarchies()
            .into_iter()
            .map(|h| h.base.join(PARENT).join(name))
            .collect()
    }

    /// Where they are after a rename; nothing where the kernel cannot rename.
    pub(crate) fn paths_as(&self, name: &str) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .filter(|h| h.version == 1)
            .map(|h| h.base.join(PARENT).join(name))
            .collect()
    }

    fn dir(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.base.join(PARENT).join(&self.name)
    }

    fn of(&self, controller: &str) -> Option<(PathBuf, u8)> {
        let found = self
            .hierarchies
            .iter()
            .find(|h| h.controllers.iter().any(|c| c == controller))?;
        Some((self.dir(found), found.version))
    }

    /// Whether a process of the host is in these cgroups.
    pub(crate) fn hold(&self, pid: i32) -> bool {
        let seen = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let path = format!("/{PARENT}/{}", self.name);
        self.hierarchies.iter().all(|hierarchy| {
            seen.lines().any(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (Some(controllers), Some(at)) = (parts.next(), parts.next()) else {
                    return false;
                };
                let is_this = match hierarchy.version {
                    2 => controllers.is_empty(),
                    _ => controllers
                        .split(',')
                        .any(|c| hierarchy.controllers.iter().any(|h| h == c)),
                };
                is_this && at.ends_with(&path)
            })
        })
    }

    /// The directory to be born in (version 2), or nothing.
    pub(crate) fn birthplace(&self) -> Result<Option<OwnedFd>> {
        let Some(hierarchy) = self.hierarchies.iter().find(|h| h.version == 2) else {
            return Ok(None);
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(self.dir(hierarchy), flags, Mode::empty())
            .tried("open the cgroup")
            .map(Some)
    }

    /// Moves a process in (version 1). May take 10 ms, a grace period of the
    /// kernel, which is why helpers are parked with this behind them.
    pub(crate) fn join(&self, pid: i32) -> Result<()> {
        for hierarchy in self.hierarchies.iter().filter(|h| h.version == 1) {
            write(&self.dir(hierarchy).join("cgroup.procs"), pid.to_string()).tried(format!(
                "join the cgroup of {}",
                hierarchy.controllers.join(",")
            ))?;
        }
        Ok(())
    }

    /// Renames the directories, where the kernel can (version 1).
    pub(crate) fn rename(&mut self, name: &str) -> Result<()> {
        if self.hierarchies.iter().any(|h| h.version == 2) {
            return Ok(());
        }
        for (done, hierarchy) in self.hierarchies.iter().enumerate() {
            let parent = hierarchy.base.join(PARENT);
            if let Err(error) = fs::rename(parent.join(&self.name), parent.join(name)) {
                for hierarchy in &self.hierarchies[..done] {
                    let parent = hierarchy.base.join(PARENT);
                    // Undoing may fail only as the directory is gone, and then nothing is left.
                    let _ = fs::rename(parent.join(name), parent.join(&self.name));
                }
                return Err(error).tried(format!("rename the cgroup to {name}"));
            }
        }
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// Puts limits in force and says which are.
    pub(crate) fn limit(&self, limits: &Limits) -> Result<Vec<InForce>> {
        let missing = |what: &str| {
            Failed::new(
                FailedKind::Unsupported,
                format!("limit {what}: this host lets us use no cgroup for it"),
            )
        };
        let mut in_force = Vec::new();
        let mut add = |name: &str, value: String| {
            in_force.push(InForce {
                name: name.into(),
                value,
            });
        };
        if let Some(bytes) = limits.memory_bytes {
            let (dir, version) = self.of("memory").ok_or_else(|| missing("memory"))?;
            let text = bytes.to_string();
            if version == 1 {
                write(&dir.join("memory.limit_in_bytes"), &text).tried("limit memory")?;
                // Absent where the kernel does not account for swap; then the
                // limit stands, and swap is bounded by what the host has.
                let swap = dir.join("memory.memsw.limit_in_bytes");
                if swap.exists() {
                    write(&swap, &text).tried("limit swap")?;
                    add("swap_off", "memory and swap share one limit".into());
                } else {
                    // Keeps the sandbox's pages out of swap as far as it can be asked for.
                    let _ = write(&dir.join("memory.swappiness"), "0");
                }
            } else {
                write(&dir.join("memory.max"), &text).tried("limit memory")?;
                // The agent must outlive a kill; only what grew too far dies.
                let _ = write(&dir.join("memory.oom.group"), "0");
                if write(&dir.join("memory.swap.max"), "0").is_ok() {
                    add("swap_off", "0".into());
                }
            }
            add("memory_limit", format!("{bytes} bytes"));
        }
        if let Some(pids) = limits.pids {
            let (dir, _) = self.of("pids").ok_or_else(|| missing("processes"))?;
            write(&dir.join("pids.max"), pids.to_string()).tried("limit processes")?;
            add("pids_limit", pids.to_string());
        }
        if let Some(millis) = limits.cpu_millis {
            let (dir, version) = self.of("cpu").ok_or_else(|| missing("processors"))?;
            // The kernel takes no quota below 1 ms, so small shares get a longer period.
            let period: u64 = if millis < 10 { 1_000_000 } else { 100_000 };
            let quota = (period * millis / 1000).max(1000);
            if version == 1 {
                write(&dir.join("cpu.cfs_period_us"), period.to_string())
                    .and_then(|()| write(&dir.join("cpu.cfs_quota_us"), quota.to_string()))
                    .tried("limit processors")?;
            } else {
                write(&dir.join("cpu.max"), format!("{quota} {period}"))
                    .tried("limit processors")?;
            }
            add("cpu_limit", format!("{quota} of {period} us"));
        }
        Ok(in_force)
    }

    /// Lets the agent go before its commands, however many of them want the
    /// processor. What that takes from others it takes in these cgroups alone.
    pub(crate) fn favour(&self, agent: i32) {
        if self.of("cpu").is_some()
            && let Some(pid) = rustix::process::Pid::from_raw(agent)
        {
            // Without the right to, it waits its turn like anybody else.
            let _ = rustix::process::setpriority_process(Some(pid), AGENT_NICE);
        }
    }

    /// Makes the cgroups of commands, which leave some of the limits to the
    /// agent, and opens the ways into them.
    pub(crate) fn commands(&self, limits: &Limits) -> Result<Vec<OwnedFd>> {
        const WHAT: &str = "make the cgroup of commands";
        let mut ways = Vec::new();
        // In version 1 a process is moved by root or by its own user alone.
        let may_move = rustix::process::geteuid().is_root();
        match (self.of("pids"), limits.pids) {
            (Some((_, 1)), _) if !may_move => {}
            (Some((dir, 1)), Some(pids)) => {
                ways.push(nested::of_processes(&dir, 1, pids).tried(WHAT)?);
            }
            // Needs threaded children, which not every host of version 2 has.
            (Some((dir, version)), Some(pids)) => {
                ways.extend(nested::of_processes(&dir, version, pids).ok());
            }
            _ => {}
        }
        // Version 2 has no limit of memory for threaded children.
        if let (Some((dir, 1)), Some(bytes), true) =
            (self.of("memory"), limits.memory_bytes, may_move)
        {
            ways.extend(nested::of_memory(&dir, bytes).tried(WHAT)?);
        }
        Ok(ways)
    }

    /// The file in which the kernel counts commands that it killed for lack of
    /// memory. Version 1 counts in the cgroup of whom it killed alone.
    pub(crate) fn kill_counter(&self) -> Option<OwnedFd> {
        let (mut dir, version) = self.of("memory")?;
        if version == 1 && nested::commands(&dir).is_dir() {
            dir = nested::commands(&dir);
        }
        let file = if version == 1 {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(dir.join(file), flags, Mode::empty()).ok()
    }

    /// What is used now.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        if let Some((dir, version)) = self.of("memory") {
            let (now, peak, events) = if version == 1 {
                (
                    "memory.usage_in_bytes",
                    "memory.max_usage_in_bytes",
                    "memory.oom_control",
                )
            } else {
                ("memory.current", "memory.peak", "memory.events")
            };
            usage.memory_bytes = number(&dir.join(now));
            usage.memory_peak_bytes = number(&dir.join(peak));
            let kills = |dir: &Path| keyed(&dir.join(events), "oom_kill");
            usage.oom_kills = kills(&dir);
            if version == 1
                && let Some(of_commands) = kills(&nested::commands(&dir))
            {
                usage.oom_kills = Some(usage.oom_kills.unwrap_or_default() + of_commands);
            }
        }
        if let Some((dir, _)) = self.of("pids") {
            usage.pids = number(&dir.join("pids.current")).and_then(|n| u32::try_from(n).ok());
        }
        if let Some((dir, 1)) = self.of("cpuacct") {
            usage.cpu_us = number(&dir.join("cpuacct.usage")).map(|ns| ns / 1000);
        } else if let Some((dir, _)) = self.of("cpu") {
            usage.cpu_us = keyed(&dir.join("cpu.stat"), "usage_usec");
        }
        usage
    }

    /// Stops all processes, or lets them go on; waits at most two seconds.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        let Some((dir, version)) = self.of("freezer") else {
            return Err(Failed::new(
                FailedKind::Unsupported,
                "pause: this host lets us use no cgroup for it",
            ));
        };
        let (file, text) = match (version, frozen) {
            (1, true) => ("freezer.state", "FROZEN"),
            (1, false) => ("freezer.state", "THAWED"),
            (_, true) => ("cgroup.freeze", "1"),
            (_, false) => ("cgroup.freeze", "0"),
        };
        write(&dir.join(file), text).tried("freeze or thaw")?;
        for round in 1..400 {
            let seen = if version == 1 {
                // A freeze that found a process busy stays half done until it is
                // asked for again, or begun anew
                // (cgroup-v1/freezer-subsystem.rst in the kernel).
                if round % 10 == 0 && frozen {
                    write(&dir.join(file), "THAWED").tried("freeze or thaw")?;
                    pause(Duration::from_millis(1));
                }
                write(&dir.join(file), text).tried("freeze or thaw")?;
                let state = fs::read_to_string(dir.join(file)).unwrap_or_default();
                state.trim() == text
            } else {
                keyed(&dir.join("cgroup.events"), "frozen") == Some(u64::from(frozen))
            };
            if seen {
                return Ok(());
            }
            pause(Duration::from_millis(5));
        }
        if frozen {
            // Half a freeze is worse than none.
            let _ = write(&dir.join(file), if version == 1 { "THAWED" } else { "0" });
        }
        Err(Failed::new(
            FailedKind::Internal,
            "freeze or thaw: some process did not follow within two seconds",
        ))
    }

    /// Lets processes go on that may be frozen, without waiting for them: here,
    /// and in cgroups below that somebody on the host froze.
    pub(crate) fn thaw(&self) {
        let Some((dir, version)) = self.of("freezer") else {
            return;
        };
        for dir in nested::below(&dir).into_iter().chain([dir]) {
            // Version 2 kills what is frozen; version 1 does not.
            let _ = match version {
                1 => write(&dir.join("freezer.state"), "THAWED"),
                _ => write(&dir.join("cgroup.freeze"), "0"),
            };
        }
    }

    /// Removes the directories and names what stays. Right after the last
    /// process was waited for the kernel may still call one busy.
    pub(crate) fn remove(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for hierarchy in std::mem::take(&mut self.hierarchies) {
            let dir = self.dir(&hierarchy);
            let mut time = Duration::from_micros(200);
            let mut waited = Duration::ZERO;
            loop {
                match remove_all(&dir) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) if waited > Duration::from_secs(5) => {
                        left.push(format!("cgroup {}: {error}", dir.display()));
                        break;
                    }
                    Err(_) => {
                        pause(time);
                        waited += time;
                        time = (time * 2).min(Duration::from_millis(50));
                    }
                }
            }
        }
        left
    }
}
