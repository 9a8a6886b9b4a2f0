//! The service manager of a user, which gives processes a place among the
//! cgroups that are that user's.
//!
//! A login over a terminal or the network is in a cgroup that is root's, and
//! whoever is there can move nothing to where the user may. A scope that the
//! user's own systemd makes is in such a place from its start.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, SealFlags};

/// The most that is kept of what such a program says.
const MOST_WORDS: u64 = 4096;
/// Where systemd keeps whose processes outlive their sessions.
const LINGER: &str = "/var/lib/systemd/linger";

/// A user's systemd, and the program that asks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manager {
    systemd_run: PathBuf,
    runtime_dir: PathBuf,
    /// What its cgroups control.
    pub(super) controllers: Vec<String>,
}

impl Manager {
    /// That of this user, where it delegates cgroups of version 2.
    pub(super) fn find() -> Option<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let service = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service");
        Self::find_at(
            uid,
            Path::new(&service),
            PathBuf::from(format!("/run/user/{uid}")),
        )
    }

    fn find_at(uid: u32, service: &Path, runtime_dir: PathBuf) -> Option<Self> {
        if std::fs::metadata(service).ok()?.uid() != uid {
            return None;
        }
        let controllers = std::fs::read_to_string(service.join("cgroup.controllers")).ok()?;
        std::fs::symlink_metadata(runtime_dir.join("bus")).ok()?;
        let places = ["/usr/bin/systemd-run", "/bin/systemd-run"].iter();
        Some(Self {
            systemd_run: places.map(PathBuf::from).find(|path| path.exists())?,
            runtime_dir,
            controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// A command that becomes `program` in a scope of its own, as the process
    /// that is started and with its streams.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.systemd_run);
        command
            .args(["--user", "--scope", "--quiet", "--collect"])
            .arg("--description=stacyvm-helper")
            .arg("--")
            .arg(program)
            .arg("helper")
            .env_clear()
            .env("XDG_RUNTIME_DIR", &self.runtime_dir);
        command
    }
}

/// Whether helpers outlive the last session of their user: its systemd ends
/// with that, and all that it has placed, unless the user lingers. `None` where
/// helpers are no part of it, or the user has no name.
pub(super) fn lingers(manager: Option<&Manager>, name: Option<&str>) -> Option<bool> {
    let uid = rustix::process::geteuid().as_raw();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    lingers_at(
        manager.is_some() || is_of_manager(&own, uid),
        name?,
        Path::new(LINGER),
    )
}

/// Whether a process of these cgroups is of this user's systemd.
fn is_of_manager(cgroups: &str, uid: u32) -> bool {
    cgroups.contains(&format!("/user@{uid}.service/"))
}

fn lingers_at(is_of_manager: bool, name: &str, linger: &Path) -> Option<bool> {
    is_of_manager.then(|| std::fs::symlink_metadata(linger.join(name)).is_ok())
}

/// What a program that gives a helper its place says on its standard error. A
/// memory file and no pipe: it has its size from the start, nobody waits for
/// it, and the helper that inherits it is held up by nothing.
#[derive(Debug)]
pub(super) struct Words(File);

impl Words {
    /// Nothing yet; none where the kernel has no memory for it.
    pub(super) fn new() -> Option<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("stacyvm-words", flags).ok()?);
        file.set_len(MOST_WORDS).ok()?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&file, seals).ok()?;
        Some(Self(file))
    }

    /// What a process writes them to.
    pub(super) fn stdio(&self) -> Option<Stdio> {
        Some(self.0.try_clone().ok()?.into())
    }

    /// What was said, in one line.
    pub(super) fn read(&self) -> String {
        let mut bytes = vec![0; usize::try_from(MOST_WORDS).unwrap_or(0)];
        let count = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..count]);
        let lines = text.trim_end_matches('\0').lines().map(str::trim);
        lines
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("; ")
    }
}

#[cfg(test)]
impl Manager {
    /// One that runs this program instead of `systemd-run`.
    pub(super) fn of(systemd_run: PathBuf) -> Self {
        Self {
            systemd_run,
            runtime_dir: PathBuf::from("/nonexistent"),
            controllers: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lingers_is_told_by_the_file_of_the_user() {
        let linger = tempfile::tempdir().unwrap();
        std::fs::write(linger.path().join("tester"), "").unwrap();
        let at = |of_manager, name| lingers_at(of_manager, name, linger.path());
        assert_eq!(at(true, "tester"), Some(true));
        assert_eq!(at(true, "other"), Some(false));
        assert_eq!(at(false, "other"), None);
        let scope = "0::/user.slice/user-7.slice/user@7.service/app.slice/run-1.scope\n";
        assert!(is_of_manager(scope, 7));
        assert!(!is_of_manager(scope, 70));
        assert!(!is_of_manager(
            "0::/user.slice/user-7.slice/session-3.scope\n",
            7
        ));
    }

    #[test]
    fn words_are_bounded_and_one_line() {
        use std::io::Write as _;
        let words = Words::new().unwrap();
        assert_eq!(words.read(), "");
        let mut writer = words.0.try_clone().unwrap();
        writer.write_all(b"one\n\n two\n").unwrap();
        assert_eq!(words.read(), "one; two");
        assert!(writer.write_all(&[b'x'; 10_000]).is_err());
        assert!(words.read().starts_with("one; two; xxx"));
        assert!(words.read().len() as u64 <= MOST_WORDS);
    }

    #[test]
    fn a_manager_has_cgroups_of_the_users_and_a_bus() {
        let home = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let find = || Manager::find_at(uid, home.path(), home.path().to_owned());
        assert_eq!(find(), None, "no controllers");
        std::fs::write(home.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        assert_eq!(find(), None, "no bus");
        std::fs::write(home.path().join("bus"), "").unwrap();
        let Some(found) = find() else {
            // A machine without systemd has no `systemd-run`.
            assert!(!Path::new("/usr/bin/systemd-run").exists());
            return;
        };
        assert_eq!(found.controllers, ["cpu", "memory", "pids"]);
        let other = Manager::find_at(uid + 1, home.path(), home.path().to_owned());
        assert_eq!(other, None, "somebody else's");
    }
}
