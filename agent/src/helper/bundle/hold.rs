//! Judging what a runtime made by what the kernel says of it, before anybody
//! uses it. A runtime that left something out made no sandbox.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Container, reap_late, wait_for};
use crate::confinement::{CAPABILITIES, MASKED};
use crate::helper::cgroup::Cgroups;
use crate::helper::fault::{Result, Tried};
use crate::helper::{fault, sys};
use crate::helper_protocol::{Failed, FailedKind, InForce};

const NAMESPACES: [&str; 7] = ["user", "pid", "net", "mnt", "ipc", "uts", "cgroup"];
/// gVisor's kernel follows its processes from outside, so it is in the process
/// namespace of the helper; theirs is its own.
const KERNEL_NAMESPACES: [&str; 5] = ["user", "net", "mnt", "ipc", "uts"];

impl Container {
    /// Checks the first process, and puts in force what a bundle cannot say.
    pub(crate) fn hold(&self, pid: i32, cgroups: Option<&Cgroups>) -> Result<Vec<InForce>> {
        let lacking = |what: &str| self.lacking(what);
        let read = |file: &str| look(pid, file);
        let status = read("status")?;
        let field = |name: &str| field(&status, name);
        if self.own_kernel {
            return self.hold_kernel(pid, cgroups);
        }
        if field("NSpid").split_whitespace().last() != Some("1") {
            return Err(lacking("a process namespace"));
        }
        // Its own profile, and the agent's that keeps core dumps off.
        self.check_bounds(pid, &status, &NAMESPACES, 2)?;
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
        let mut in_force = self.limit(pid, cgroups)?;
        within(pid)?;
        reap_late(rustix::process::Pid::from_raw(pid));
        self.add_common(&mut in_force);
        Ok(in_force)
    }

    /// As [`hold`](Self::hold), where the first process is gVisor's kernel:
    /// what bounds that bounds all that runs in it, whatever they think they
    /// are. The bundle's words about the first process hold in it alone.
    fn hold_kernel(&self, pid: i32, cgroups: Option<&Cgroups>) -> Result<Vec<InForce>> {
        let is_agent = || -> std::io::Result<bool> {
            let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
            let agent = file(&self.directory.join(super::AGENT))?;
            Ok(file(Path::new(&format!("/proc/{pid}/exe")))? == agent)
        };
        if is_agent().tried("look at the sandbox")? {
            return Err(self.lacking("a kernel of its own"));
        }
        self.check_bounds(pid, &look(pid, "status")?, &KERNEL_NAMESPACES, 1)?;
        let mounts = look(pid, "mountinfo")?;
        let mut roots = mounts.lines().map(|line| line.split(' ').skip(4));
        let own_root = roots.any(|mut parts| {
            let (at, options) = (parts.next(), parts.next().unwrap_or_default());
            at == Some("/") && options.split(',').any(|option| option == "ro")
        });
        if !own_root {
            return Err(self.lacking("a root of its own that cannot be written"));
        }
        let mut in_force = self.limit(pid, cgroups)?;
        in_force.push(InForce {
            name: "kernel".into(),
            value: "its own (gVisor)".into(),
        });
        self.add_common(&mut in_force);
        Ok(in_force)
    }

    /// What bounds a process for the kernel of the host.
    fn check_bounds(
        &self,
        pid: i32,
        status: &str,
        namespaces: &[&str],
        filters: u32,
    ) -> Result<()> {
        for name in namespaces {
            let of = |whose: &str| fs::read_link(format!("/proc/{whose}/ns/{name}"));
            let own = of("self").tried("look at the namespaces")?;
            if of(&pid.to_string()).tried("look at the sandbox")? == own {
                return Err(self.lacking(&format!("a namespace of kind {name}")));
            }
        }
        let map = format!("0 {} 65536", self.first_id);
        for file in ["uid_map", "gid_map"] {
            let seen = look(pid, file)?;
            let seen: Vec<&str> = seen.split_whitespace().collect();
            if seen.join(" ") != map {
                return Err(self.lacking("the private range of ids"));
            }
        }
        if field(status, "NoNewPrivs") != "1" {
            return Err(self.lacking("no_new_privs"));
        }
        let installed = field(status, "Seccomp_filters").parse().unwrap_or(0);
        if field(status, "Seccomp") != "2" || installed < filters {
            return Err(self.lacking("the filter of system calls"));
        }
        Ok(())
    }

    /// Puts the limits in force. The runtime was told the same; ours count.
    fn limit(&self, pid: i32, cgroups: Option<&Cgroups>) -> Result<Vec<InForce>> {
        let Some(cgroups) = cgroups else {
            return Ok(Vec::new());
        };
        if !cgroups.hold(pid) {
            return Err(self.lacking("the sandbox's own cgroups"));
        }
        cgroups.limit(&self.limits)
    }

    fn add_common(&self, in_force: &mut Vec<InForce>) {
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
    }

    fn lacking(&self, what: &str) -> Failed {
        Failed::new(
            FailedKind::Unsupported,
            format!("{} did not put in force: {what}", self.name()),
        )
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

/// What the kernel of the host says of a process.
fn look(pid: i32, file: &str) -> Result<String> {
    let read = fs::read(format!("/proc/{pid}/{file}")).tried("look at the sandbox")?;
    // Paths of mounts are bytes.
    Ok(String::from_utf8_lossy(&read).into_owned())
}

/// One line of a process's `status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.map_or("", |value| value.trim_start_matches(':').trim())
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
