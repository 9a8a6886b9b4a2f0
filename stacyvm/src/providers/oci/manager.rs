//! The service manager of a user, which gives processes a place among the
//! cgroups that are that user's.
//!
//! A login over a terminal or the network is in a cgroup that is root's, and
//! whoever is there can move nothing to where the user may. A scope that the
//! user's own systemd makes is in such a place from its start.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

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

#[cfg(test)]
mod tests {
    use super::*;

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
