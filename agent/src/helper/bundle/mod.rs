//! A sandbox that an OCI runtime's binary makes.
//!
//! The helper stays what it is: it puts the root together, keeps the agent's
//! channel, and has the last word on limits. The runtime only makes the
//! container. Root and bundle are mounts of a mount namespace that ends with
//! the runtime's start, so that the host never sees them.

mod child;
mod hold;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::cgroup::{self, Cgroups};
use super::fault::{Result, Tried};
use super::mounts::{self, NODEV, NOSUID, RDONLY};
use super::state::{Init, State, own_pid};
use super::sys;
use crate::helper_protocol::{Bundle, Failed, FailedKind, FromHelper, Launch, Limits, Root};
use crate::packet;

/// Seconds that a runtime may take for one thing.
const PATIENCE: i64 = 30;
/// Directories in which a runtime finds the programs that it needs itself.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The runtime's own state, in the sandbox's directory.
const STATE: &str = "runtime";
/// Where it writes what went wrong.
const LOG: &str = "runtime.log";
/// Where it writes the number of the first process.
const PID_FILE: &str = "runtime.pid";
/// The agent's program.
const AGENT: &str = "agent";
/// Passes over children that do not end, a millisecond apart.
const MOST_PASSES: u32 = 5000;
/// The same over children that are about to end.
const LATE_PASSES: u32 = 200;
/// The most of a log that is looked at.
const MAX_LOG: u64 = 64 * 1024;

/// A container, as its runtime knows it.
#[derive(Debug)]
pub(crate) struct Container {
    runtime: PathBuf,
    /// The sandbox's directory.
    directory: PathBuf,
    id: String,
    first_id: u32,
    limits: Limits,
    /// Whether its first process is a kernel of its own.
    pub(crate) own_kernel: bool,
    /// Whether the root's own mount cannot be written.
    read_only: bool,
}

/// A start in preparation.
pub(crate) struct Start<'a> {
    pub(crate) launch: &'a Launch,
    pub(crate) bundle: &'a Bundle,
    pub(crate) first_id: u32,
    /// The agent's program.
    pub(crate) program: &'a OwnedFd,
    /// The agent's end of its channel.
    pub(crate) control: &'a OwnedFd,
}

/// Makes the cgroups that the helper uses, under the sandbox's own name. The
/// ledger names those too that only a runtime makes.
pub(crate) fn make_cgroups(state: &mut State) -> Result<()> {
    let name = state.name.clone();
    state.record("cgroup", &cgroup::everywhere(&name))?;
    state.cgroups = Some(Cgroups::make(&name)?);
    Ok(())
}

impl Start<'_> {
    /// Has the runtime make and start it. `trees`: the data directory, the
    /// root's directory where the root is one, then one for each mount.
    pub(crate) fn run(self, state: &mut State, trees: Vec<OwnedFd>) -> Result<()> {
        let directory = fs::read_link(format!("/proc/self/fd/{}", state.directory.as_raw_fd()))
            .tried("find the sandbox's directory")?;
        let agent = self.agent_mount(state)?;
        let (sync, child_sync) = packet::pair().tried("make a channel")?;
        // From here on there may be something to delete.
        state.container = Some(Container {
            runtime: self.bundle.runtime.clone().into(),
            directory: directory.clone(),
            id: self.launch.id.clone(),
            first_id: self.first_id,
            limits: self.launch.limits,
            own_kernel: self.bundle.own_kernel,
            read_only: self.launch.read_only_root || self.launch.root == Root::Host,
        });
        let parent = own_pid();
        let pidfd = match sys::clone_into(u64::from(libc::CLONE_NEWNS.unsigned_abs()), None)
            .tried("make a mount namespace")?
        {
            sys::Clone::Child => child::Child {
                start: &self,
                parent,
                directory: &directory,
                sync: child_sync,
                agent,
                trees,
            }
            .run(),
            sys::Clone::Parent { pidfd, .. } => pidfd,
        };
        drop((child_sync, agent, trees));
        let status = wait_for(&pidfd)?;
        let mut buffer = Vec::new();
        if let Ok(Some((FromHelper::Failed(failed), _))) = packet::receive(&sync, &mut buffer) {
            return Err(failed);
        }
        if status != Some(0) {
            return Err(self.refused(&directory));
        }
        let text = fs::read_to_string(directory.join(PID_FILE)).tried(
            "find the process that the runtime should have made; is it an OCI runtime? (its pid file)",
        )?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| {
            Failed::new(FailedKind::Internal, "the runtime wrote no process number")
        })?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .tried("find the runtime's first process")?;
        state.init = Some(Init {
            pid: pid.as_raw_nonzero().get(),
            pidfd,
        });
        reap_all_but(Some(pid));
        Ok(())
    }

    /// The agent as a file that can be mounted: memory files cannot.
    fn agent_mount(&self, state: &State) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&state.directory, AGENT, flags, Mode::RWXU)
            .tried("write the agent")?;
        let mut to = File::from(file);
        let mut from = File::from(self.program.try_clone().tried("read the agent")?);
        std::io::copy(&mut from, &mut to).tried("write the agent")?;
        // Not to be read by root inside, so that it owns no `/proc` file of it;
        // but a kernel of its own reads what it starts as that root.
        let mode = if self.bundle.own_kernel { 0o555 } else { 0o511 };
        rustix::fs::fchmod(&to, Mode::from_raw_mode(mode)).tried("write the agent")?;
        // A file that is open for writing cannot be executed.
        drop(to);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&state.directory, AGENT, flags, Mode::empty())
            .tried("open the agent")?;
        let mount = mounts::copy(&file, "the agent")?;
        mounts::restrict(&mount, RDONLY | NOSUID | NODEV)?;
        Ok(mount)
    }

    /// What the runtime says about its failure.
    fn refused(&self, directory: &Path) -> Failed {
        let mut log = String::new();
        if let Ok(file) = File::open(directory.join(LOG)) {
            // What is no text is not for people.
            let _ = file.take(MAX_LOG).read_to_string(&mut log);
        }
        let name = Path::new(&self.bundle.runtime).file_name();
        let name = name.unwrap_or_default().to_string_lossy();
        let said = complaint(&log);
        if said.contains("hybrid mode") {
            return Failed::new(
                FailedKind::Unsupported,
                format!(
                    "{name} refuses a host that has cgroups of version 2 besides version 1: {said}"
                ),
            );
        }
        Failed::new(
            FailedKind::Internal,
            format!("{name} did not start the sandbox: {said}"),
        )
    }
}

/// The last error in a runtime's log, as one line of plain text.
fn complaint(log: &str) -> String {
    let is_error = |line: &&str| line.contains("level=error") || line.contains("level=fatal");
    let lines = || log.lines().rev().filter(|line| !line.trim().is_empty());
    let Some(line) = lines().find(is_error).or_else(|| lines().next()) else {
        return "it left no message".into();
    };
    let message = line.split_once("msg=\"").map_or(line, |(_, message)| {
        message.trim_end().trim_end_matches('"')
    });
    without_colours(message).escape_debug().take(500).collect()
}

/// Without the escape sequences that a program writes for a terminal.
fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            // Parameters end with a letter.
            let _ = rest.find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Waits for a child to end, and says with what code; kills one that is too slow.
fn wait_for(pidfd: &OwnedFd) -> Result<Option<i32>> {
    let limit = Timespec {
        tv_sec: PATIENCE,
        tv_nsec: 0,
    };
    let in_time = loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)) {
            Ok(count) => break count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).tried("wait for a runtime"),
        }
    };
    if !in_time {
        // It may have ended by itself just now.
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
    let status = loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(status) => break status,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).tried("wait for a runtime"),
        }
    };
    if !in_time {
        return Err(Failed::new(
            FailedKind::Internal,
            format!("the runtime did not end within {PATIENCE} s"),
        ));
    }
    Ok(status.and_then(|status| status.exit_status()))
}

/// Takes the ends of processes that a runtime left to the helper. The end of
/// the sandbox's own first process is for the monitor.
fn reap_all_but(kept: Option<Pid>) {
    // Not in every kernel; then they wait for the helper's own end.
    for pid in children() {
        if Some(pid) != kept {
            // What still runs is none of those.
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// As [`reap_all_but`]. Some part of the runtime may outlive its main process a
/// little; nobody would take its end afterwards.
fn reap_late(kept: Option<Pid>) {
    for _ in 0..LATE_PASSES {
        reap_all_but(kept);
        if children().iter().all(|pid| Some(*pid) == kept) {
            return;
        }
        sys::pause(Duration::from_millis(1));
    }
}

/// The children of the helper.
fn children() -> Vec<Pid> {
    let text = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        .collect()
}

/// Kills what a runtime left to the helper, and waits for its ends: what is
/// orphaned on the way comes to the helper, too.
fn kill_children() {
    for _ in 0..MOST_PASSES {
        let children = children();
        if children.is_empty() {
            return;
        }
        for pid in children {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        reap_all_but(None);
        sys::pause(Duration::from_millis(1));
    }
}

impl Container {
    /// Has the runtime forget it, and takes away what it made elsewhere.
    pub(crate) fn delete(&self) -> Vec<String> {
        if self.own_kernel {
            // runsc would wait for its file server, which is a child of the
            // helper. All that it keeps is in the sandbox's directory.
            kill_children();
        } else {
            self.forget();
        }
        reap_all_but(None);
        let paths = cgroup::everywhere(&self.id);
        paths.iter().filter_map(|p| cgroup::destroy(p)).collect()
    }

    /// Has the runtime take its own things away.
    fn forget(&self) {
        let child = Command::new(&self.runtime)
            .arg("--root")
            .arg(self.directory.join(STATE))
            .args(["delete", "--force", &self.id])
            .env_clear()
            .env("PATH", SEARCH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        // Its word decides nothing: it fails for what never came to be, too.
        // What it may leave is below, and in the sandbox's directory.
        if let Ok(child) = child
            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
            && let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        {
            let _ = wait_for(&pidfd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn the_last_error_of_a_log_is_told_as_one_plain_line() {
        let log = "time=\"x\" level=warning msg=\"odd\"\n\
            time=\"x\" level=error msg=\"exec: no such file\"\n\
            time=\"x\" level=debug msg=\"bye\"\n\n";
        assert_eq!(complaint(log), "exec: no such file");
        assert_eq!(complaint("2024: a\u{1b}[31mb\u{7}\n"), "2024: ab\\u{7}");
        assert_eq!(complaint("\n"), "it left no message");
    }
}
