//! Judging what a runtime made by what the kernel says of it, before anybody
//! uses it. A runtime that left something out made no sandbox.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Container, reap_all_but, wait_for};
use crate::confinement::{CAPABILITIES, MASKED};
use crate::helper::cgroup::Cgroups;
use crate::helper::fault::{Result, Tried};
use crate::helper::{fault, sys};
use crate::helper_protocol::{Failed, FailedKind, InForce};

const NAMESPACES: [&str; 7] = ["user", "pid", "net", "mnt", "ipc", "uts", "cgroup"];

impl Container {
    /// Checks the first process, and puts in force what a bundle cannot say.
    pub(crate) fn hold(&self, pid: i32, cgroups: Option<&Cgroups>) -> Result<Vec<InForce>> {
        let lacking = |what: &str| {
            Failed::new(
                FailedKind::Unsupported,
                format!("{} did not put in force: {what}", self.name()),
            )
        };
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}")).tried("look at the sandbox")
        };
        let status = read("status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map_or("", |value| value.trim_start_matches(':').trim())
        };
        if field("NSpid").split_whitespace().last() != Some("1") {
            return Err(lacking("a process namespace"));
        }
        for name in NAMESPACES {
            let of = |whose: &str| fs::read_link(format!("/proc/{whose}/ns/{name}"));
            let own = of("self").tried("look at the namespaces")?;
            if of(&pid.to_string()).tried("look at the sandbox")? == own {
                return Err(lacking(&format!("a namespace of kind {name}")));
            }
        }
        let map = format!("0 {} 65536", self.first_id);
        for file in ["uid_map", "gid_map"] {
            let seen: Vec<String> = read(file)?.split_whitespace().map(str::to_owned).collect();
            if seen.join(" ") != map {
                return Err(lacking("the private range of ids"));
            }
        }
        if field("NoNewPrivs") != "1" {
            return Err(lacking("no_new_privs"));
        }
        if field("Seccomp") != "2" {
            return Err(lacking("the filter of system calls"));
        }
        let allowed = CAPABILITIES.iter().fold(0, |set, (_, n)| set | 1_u64 << n);
        for (name, most) in [
            ("CapBnd", allowed),
            ("CapPrm", allowed),
            ("CapEff", allowed),
            ("CapInh", 0),
            ("CapAmb", 0),
        ] {
            let set = u64::from_str_radix(field(name), 16).unwrap_or(u64::MAX);
            if set & !most != 0 {
                return Err(lacking(&format!("few capabilities ({name} is {set:#x})")));
            }
        }
        self.check_mounts(&read("mountinfo")?, &lacking)?;
        let mut in_force = Vec::new();
        if let Some(cgroups) = cgroups {
            if !cgroups.hold(pid) {
                return Err(lacking("the sandbox's own cgroups"));
            }
            // The runtime was told the same limits; ours are what counts.
            in_force = cgroups.limit(&self.limits)?;
        }
        within(pid)?;
        // Some part of the runtime may have outlived its main process a little.
        reap_all_but(rustix::process::Pid::from_raw(pid));
        for (name, value) in [
            ("user_namespace", format!("{}+65536", self.first_id)),
            ("no_new_privs", "1".into()),
            ("seccomp", "default deny".into()),
            ("network", "lo only".into()),
            ("runtime", self.name()),
        ] {
            in_force.push(InForce {
                name: name.into(),
                value,
            });
        }
        Ok(in_force)
    }

    fn name(&self) -> String {
        let name = self.runtime.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The root and what must be hidden.
    fn check_mounts(&self, mounts: &str, lacking: &impl Fn(&str) -> Failed) -> Result<()> {
        // Of several mounts on one place the last one is what is seen.
        let seen = |place: &str| {
            mounts.lines().rev().find_map(|line| {
                let mut parts = line.split(' ').skip(4);
                let (at, options) = (parts.next()?, parts.next()?);
                (at == place).then(|| options.to_owned())
            })
        };
        let has = |options: &str, option: &str| options.split(',').any(|o| o == option);
        let root = seen("/").unwrap_or_default();
        if !has(&root, "nosuid") || !has(&root, "nodev") || (self.read_only && !has(&root, "ro")) {
            return Err(lacking("the rights of the root's mount"));
        }
        for name in MASKED {
            let hidden = seen(&format!("/proc/{name}")).is_some();
            if !hidden && fs::symlink_metadata(format!("/proc/{name}")).is_ok() {
                return Err(lacking(&format!("hiding /proc/{name}")));
            }
        }
        if !seen("/proc/sys").is_some_and(|options| has(&options, "ro")) {
            return Err(lacking("a read-only /proc/sys"));
        }
        Ok(())
    }
}

/// Does what is done in the sandbox's namespaces, by a process of the helper.
fn within(pid: i32) -> Result<()> {
    let open = |kind: &str| -> fault::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/{pid}/ns/{kind}"), flags, Mode::empty())
            .tried("open the sandbox's namespaces")
    };
    let (user, net) = (open("user")?, open("net")?);
    let pidfd = match sys::clone_into(0, None).tried("make a process")? {
        sys::Clone::Child => sys::exit_now(i32::from(finish(&user, &net).is_err())),
        sys::Clone::Parent { pidfd, .. } => pidfd,
    };
    if wait_for(&pidfd)? == Some(0) {
        return Ok(());
    }
    Err(Failed::new(
        FailedKind::Unsupported,
        "this kernel does not let the helper finish the sandbox's namespaces",
    ))
}

fn finish(user: &OwnedFd, net: &OwnedFd) -> std::io::Result<()> {
    move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
    // Not every runtime brings it up.
    move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))?;
    sys::loopback_up()?;
    // Runtimes refuse this setting, which is one of the user namespace.
    fs::write("/proc/sys/user/max_user_namespaces", "0")
}
