//! What this host can hold against a sandbox.

use std::path::Path;

use rustix::fs::{Access, access};
use stacyvm_agent::delegation;

use super::identities::{Identities, account_of, is_host_root};
use super::manager::{self, Manager};
use super::obstacle::{self, Obstacle};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{
    Capabilities, Finding, Isolation, KillScope, Level, ProbeReport, Signals, Users,
};

/// What was found out when the provider was opened.
#[derive(Clone, Debug)]
pub(super) struct Host {
    root: bool,
    /// Why no user namespaces can be made.
    obstacle: Option<Obstacle>,
    /// Why a sandbox has one user.
    single: Option<String>,
    memory: bool,
    pids: bool,
    cpu: bool,
    freezer: bool,
    disk: bool,
    /// Gives helpers their place among the cgroups.
    manager: Option<Manager>,
    /// Whether helpers outlive the last session of their user, where that
    /// depends on its systemd.
    lingers: Option<bool>,
}

impl Host {
    /// Looks. `installed`: the helper is one that an administrator installed.
    pub(super) fn look(identities: &Identities, installed: bool) -> Self {
        let root = is_host_root();
        let hierarchies = delegation::hierarchies();
        let manager = if root || hierarchies.iter().any(|h| h.controls("memory")) {
            None
        } else {
            Manager::find()
        };
        let controller = |name: &str| match &manager {
            Some(manager) => name == "freezer" || manager.controllers.iter().any(|c| c == name),
            None => hierarchies.iter().any(|h| h.controls(name)),
        };
        let obstacle = if root {
            obstacle::find_for_root()
        } else {
            obstacle::find(installed)
        };
        Self {
            root,
            obstacle,
            single: match identities {
                Identities::Single(reason) => Some(reason.clone()),
                Identities::Private(_) | Identities::Delegated(_) => None,
            },
            memory: controller("memory"),
            pids: controller("pids"),
            cpu: controller("cpu"),
            freezer: controller("freezer"),
            disk: root && access("/dev/loop-control", Access::WRITE_OK).is_ok() && mke2fs(),
            lingers: if root {
                None
            } else {
                let account = account_of(rustix::process::geteuid().as_raw());
                let name = account.as_ref().map(|(name, _)| name.as_str());
                manager::lingers(manager.as_ref(), name)
            },
            manager,
        }
    }

    /// Who gives helpers their place among the cgroups, where they have none.
    pub(super) fn manager(&self) -> Option<&Manager> {
        self.manager.as_ref()
    }

    /// What can be promised; `own_kernel` where the runtime has one. Then what
    /// this host counts are threads of that kernel, not processes inside, and
    /// running out of memory ends it as a whole.
    pub(super) fn capabilities(&self, own_kernel: bool) -> Capabilities {
        let held = |holds: bool| {
            if holds {
                Level::Enforced
            } else {
                Level::Absent
            }
        };
        Capabilities {
            exec_stdin: true,
            // Those of gVisor signal no new size, and interrupt one process.
            exec_tty: !own_kernel,
            users: if self.single.is_some() {
                Users::One
            } else {
                Users::Many
            },
            exec_background: true,
            reattach_output: true,
            kill_scope: KillScope::Tree,
            signals: Signals::Any,
            oom_reported: self.memory && !own_kernel,
            files: true,
            file_watch: true,
            file_tar: true,
            dial: true,
            listen: true,
            pause: self.freezer,
            attached_lifetime: true,
            claim: true,
            ttl: Level::Enforced,
            // What runs inside is in use for as long as it likes; the TTL binds.
            idle_timeout: Level::BestEffort,
            processes: true,
            usage: true,
            image_host: true,
            image_directory: true,
            image_store: cfg!(feature = "image"),
            mount_host: true,
            mount_tmpfs: true,
            mount_volume: true,
            // Of gVisor's processes nobody has looked whether they keep to it.
            mount_volume_size: self.root && !own_kernel,
            read_only_root: Level::Enforced,
            isolation: if own_kernel {
                Isolation::UserKernel
            } else {
                Isolation::Namespaces
            },
            // Without root, one without a range maps no root.
            root_mapped: Level::Enforced,
            syscall_filter: Level::Enforced,
            no_new_privileges: Level::Enforced,
            memory_limit: held(self.memory),
            cpu_limit: held(self.cpu),
            pids_limit: held(self.pids && !own_kernel),
            open_files_limit: Level::Enforced,
            disk_limit: held(self.disk),
            network_none: Level::Enforced,
            env: true,
            ..Capabilities::default()
        }
    }

    /// Fails where nothing can be made.
    pub(super) fn check(&self) -> Result<()> {
        match &self.obstacle {
            None => Ok(()),
            Some(obstacle) => Err(cannot_run(obstacle)),
        }
    }

    /// Says what a failure to make the first things of a sandbox means.
    pub(super) fn explain(error: Error) -> Error {
        let expected = [
            ErrorKind::PermissionDenied,
            ErrorKind::NoSpace,
            ErrorKind::Unsupported,
        ];
        if !expected.contains(&error.kind()) {
            return error;
        }
        match obstacle::explain(error.message()) {
            Some(obstacle) => cannot_run(&obstacle).source(error),
            None => error,
        }
    }

    pub(super) fn probe(&self) -> ProbeReport {
        let finding = |subject: &str, fine: bool, seen: &str, remedy: &str| Finding {
            subject: subject.to_owned(),
            fine,
            seen: seen.to_owned(),
            remedy: if fine {
                String::new()
            } else {
                remedy.to_owned()
            },
        };
        let yes_no = |fine: bool| if fine { "there" } else { "missing" };
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cause = cgroups_cause(&mounts, self.root);
        let limited = |fine: bool| match cause {
            Some((seen, _)) if !fine => seen,
            _ => yes_no(fine),
        };
        let limit = if let Some((_, remedy)) = cause {
            remedy
        } else if self.root {
            "mount the cgroup controller, or leave the limit out"
        } else {
            "have systemd delegate it to this user (`Delegate=` of user@.service, in a session with a user manager), or leave the limit out"
        };
        let mut findings = vec![
            match &self.obstacle {
                None => finding("user_namespaces", true, "there", ""),
                Some(obstacle) => {
                    finding("user_namespaces", false, &obstacle.seen, &obstacle.remedy)
                }
            },
            match &self.single {
                None => finding("users", true, "many", ""),
                Some(reason) => finding(
                    "users",
                    false,
                    &format!("one: {reason}"),
                    "have the administrator install uidmap and run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`, with a range that nobody has, and that /proc/self/uid_map holds; without it commands run as one user, keep this user's groups and can signal their supervisor",
                ),
            },
            finding("memory_limit", self.memory, limited(self.memory), limit),
            finding("pids_limit", self.pids, limited(self.pids), limit),
            finding("cpu_limit", self.cpu, limited(self.cpu), limit),
        ];
        findings.push(finding(
            "disk_limit",
            self.disk,
            yes_no(self.disk),
            if self.root {
                "install e2fsprogs and load the loop module, or leave the limit out"
            } else {
                "run as root, or leave the limit out"
            },
        ));
        if let Some(lingers) = self.lingers {
            findings.push(finding(
                "lingering",
                lingers,
                if lingers {
                    "on"
                } else {
                    "off: sandboxes end with this user's last session, detached ones too"
                },
                "`loginctl enable-linger`, or sandboxes end with this user's last session",
            ));
        }
        ProbeReport {
            usable: self.obstacle.is_none(),
            findings,
        }
    }
}

fn cannot_run(obstacle: &Obstacle) -> Error {
    Error::unsupported(format!(
        "the embedded provider cannot run here: user namespaces are {}; {}, or use another provider",
        obstacle.seen, obstacle.remedy
    ))
    .context("need", "user_namespaces")
    .context("remedy", &obstacle.remedy)
}

/// Why limits are missing where it is not that a controller is, and the remedy.
fn cgroups_cause(mounts: &str, root: bool) -> Option<(&'static str, &'static str)> {
    let all = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next()?;
        let options = left.split(' ').nth(5)?;
        let read_only = options.split(',').any(|option| option == "ro");
        let named = right.split(' ').nth(2)?;
        let controls = kind == "cgroup2" || named.split(',').any(|o| o == "memory" || o == "pids");
        (kind.starts_with("cgroup") && controls).then_some((kind, read_only))
    });
    let all: Vec<_> = all.collect();
    if all.is_empty() {
        return None;
    }
    if all.iter().all(|(_, read_only)| *read_only) {
        return Some((
            "missing: the cgroups are mounted read-only",
            "mount them so that they can be written (as root `mount -o remount,rw`, of a container its `--privileged`), or leave the limit out",
        ));
    }
    let one = all.iter().any(|(kind, _)| *kind == "cgroup");
    (one && !root).then_some((
        "missing: this user may write none of the cgroups, which are of version 1",
        "have root make a cgroup of each controller that is this user's and move this process there, boot with cgroups of version 2, or leave the limit out",
    ))
}

fn mke2fs() -> bool {
    ["/sbin/mke2fs", "/usr/sbin/mke2fs"]
        .iter()
        .any(|path| Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Host {
        Host {
            root: false,
            obstacle: None,
            single: None,
            memory: true,
            pids: true,
            cpu: true,
            freezer: true,
            disk: false,
            manager: None,
            lingers: None,
        }
    }

    #[test]
    fn what_ends_with_the_last_session_is_told_with_its_remedy() {
        let finding = |lingers| {
            let host = Host { lingers, ..able() };
            let report = host.probe();
            assert!(report.usable);
            let mut all = report.findings.into_iter();
            all.find(|finding| finding.subject == "lingering")
        };
        assert_eq!(finding(None), None);
        assert!(finding(Some(true)).unwrap().fine);
        let told = finding(Some(false)).unwrap();
        assert!(!told.fine && told.seen.contains("last session"), "{told:?}");
        assert!(told.remedy.contains("loginctl enable-linger"), "{told:?}");
    }

    #[test]
    fn a_host_that_cannot_says_what_it_lacks() {
        able().check().unwrap();
        let lacking = Host {
            obstacle: Some(Obstacle {
                seen: "forbidden".into(),
                remedy: "allow them".into(),
            }),
            ..able()
        };
        let error = lacking.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.fact("need"), Some("user_namespaces"));
        assert_eq!(error.fact("remedy"), Some("allow them"));
        assert!(!lacking.probe().usable);
    }

    #[test]
    fn why_cgroups_hold_no_limits_is_told() {
        let seen = |mounts, root| cgroups_cause(mounts, root).map(|(seen, _)| seen);
        let two = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(seen(two, true), None);
        assert_eq!(seen(two, false), None);
        assert_eq!(seen("", true), None);
        let closed = two.replace("cgroup rw", "cgroup ro,nosuid");
        assert!(seen(&closed, true).unwrap().contains("read-only"));
        let one = "31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(seen(one, true), None);
        assert!(seen(one, false).unwrap().contains("version 1"));
        assert!(
            seen(&format!("{one}{two}"), false)
                .unwrap()
                .contains("version 1")
        );
    }

    #[test]
    fn one_user_is_a_capability_and_not_an_obstacle() {
        let single = Host {
            single: Some("no range".into()),
            ..able()
        };
        single.check().unwrap();
        assert_eq!(single.capabilities(false).users, Users::One);
        assert_eq!(able().capabilities(false).users, Users::Many);
        let report = single.probe();
        assert!(report.usable);
        let users = report.findings.iter().find(|f| f.subject == "users");
        assert!(users.unwrap().seen.contains("no range"));
    }

    #[test]
    fn a_failure_without_rights_is_explained() {
        let failed = || Error::new(ErrorKind::PermissionDenied, "mount proc: permission denied");
        let error = Host::explain(failed());
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("/proc"), "{error}");
        let other = Error::new(ErrorKind::PermissionDenied, "open /usr: permission denied");
        assert_eq!(Host::explain(other).kind(), ErrorKind::PermissionDenied);
    }
}
