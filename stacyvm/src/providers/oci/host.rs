//! What this host can hold against a sandbox.

use std::path::Path;

use rustix::fs::{Access, access};

use crate::error::{Error, Result};
use crate::provider::{Capabilities, Finding, Isolation, KillScope, Level, ProbeReport, Signals};

/// What was found out when the provider was opened.
#[derive(Clone, Debug)]
pub(super) struct Host {
    root: bool,
    user_namespaces: bool,
    memory: bool,
    pids: bool,
    cpu: bool,
    freezer: bool,
    disk: bool,
}

impl Host {
    pub(super) fn look() -> Self {
        let unified =
            std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        let on_v2 = |name: &str| unified.split_whitespace().any(|c| c == name);
        let on_v1 = |name: &str| {
            let path = format!("/sys/fs/cgroup/{name}");
            Path::new(&path).join("cgroup.procs").exists() && access(path, Access::WRITE_OK).is_ok()
        };
        let controller = |name: &str| on_v2(name) || on_v1(name);
        Self {
            root: rustix::process::geteuid().is_root(),
            user_namespaces: std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
                .is_ok_and(|n| n.trim() != "0"),
            memory: controller("memory"),
            pids: controller("pids"),
            cpu: controller("cpu"),
            freezer: on_v1("freezer") || !unified.is_empty(),
            disk: access("/dev/loop-control", Access::WRITE_OK).is_ok() && mke2fs(),
        }
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
            exec_user: true,
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
            ttl: Level::Enforced,
            processes: true,
            usage: true,
            image_host: true,
            image_directory: true,
            mount_host: true,
            mount_tmpfs: true,
            mount_volume: true,
            read_only_root: Level::Enforced,
            isolation: if own_kernel {
                Isolation::UserKernel
            } else {
                Isolation::Namespaces
            },
            root_mapped: held(self.user_namespaces),
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
        if self.is_usable() {
            return Ok(());
        }
        let needed = ["root", "user_namespaces"];
        let findings = self.probe().findings;
        let lacking = findings
            .iter()
            .find(|finding| !finding.fine && needed.contains(&finding.subject.as_str()));
        match lacking {
            Some(finding) => Err(Error::unsupported(format!(
                "the embedded provider cannot run here: {} is {}; {}, or use another provider",
                finding.subject, finding.seen, finding.remedy
            ))
            .context("need", &finding.subject)
            .context("remedy", &finding.remedy)),
            None => Ok(()),
        }
    }

    fn is_usable(&self) -> bool {
        self.root && self.user_namespaces
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
        let limit = "mount the cgroup controller, or leave the limit out";
        let findings = vec![
            finding(
                "root",
                self.root,
                if self.root {
                    "uid 0"
                } else {
                    "an ordinary user"
                },
                "run as root",
            ),
            finding(
                "user_namespaces",
                self.user_namespaces,
                yes_no(self.user_namespaces),
                "set sysctl user.max_user_namespaces to 1000 or more",
            ),
            finding("memory_controller", self.memory, yes_no(self.memory), limit),
            finding("pids_controller", self.pids, yes_no(self.pids), limit),
            finding("cpu_controller", self.cpu, yes_no(self.cpu), limit),
            finding(
                "disk_limit",
                self.disk,
                yes_no(self.disk),
                "install e2fsprogs and load the loop module, or leave the limit out",
            ),
        ];
        ProbeReport {
            usable: self.is_usable(),
            findings,
        }
    }
}

fn mke2fs() -> bool {
    ["/sbin/mke2fs", "/usr/sbin/mke2fs"]
        .iter()
        .any(|path| Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_cannot_says_what_it_lacks() {
        let able = Host {
            root: true,
            user_namespaces: true,
            ..Host::look()
        };
        able.check().unwrap();
        for (host, need) in [
            (
                Host {
                    root: false,
                    ..able.clone()
                },
                "root",
            ),
            (
                Host {
                    user_namespaces: false,
                    ..able
                },
                "user_namespaces",
            ),
        ] {
            let error = host.check().unwrap_err();
            assert_eq!(error.fact("need"), Some(need));
            assert!(!error.fact("remedy").unwrap().is_empty());
        }
    }
}
