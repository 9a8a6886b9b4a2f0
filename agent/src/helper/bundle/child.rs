//! From a clone in a new mount namespace to the runtime's exec.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::mount::MountPropagationFlags;
use rustix::process::Signal;

use super::{LOG, PID_FILE, SEARCH, STATE, Start};
use crate::helper::child::standard_streams_to_null;
use crate::helper::fault::{Result, Tried};
use crate::helper::state::parent_pid;
use crate::helper::{mounts, root, sys};
use crate::helper_protocol::{BUNDLE_AGENT, BUNDLE_TMP, Failed, FailedKind, FromHelper};
use crate::packet;
use crate::protocol::control::CONTROL_FD;

/// Where the bundle is mounted: a directory that the sandbox's users may pass
/// through, unlike the private one of the sandbox.
const PLACES: [&str; 6] = ["/mnt", "/media", "/srv", "/opt", "/tmp", "/home"];

/// What gVisor is told of how it works.
const OWN_KERNEL: [&str; 5] = [
    // Not KVM, which hangs on some hosts.
    "--platform=systrap",
    // Its loopback alone, so that nothing of the host's network is looked at.
    "--network=none",
    // The writable layer is in the root already.
    "--overlay2=none",
    // What is mounted in the root may change from outside.
    "--file-access=shared",
    // Else the filter in the bundle is left out without a word.
    "--oci-seccomp",
];

/// What the child owns.
pub(super) struct Child<'a> {
    pub(super) start: &'a Start<'a>,
    /// The helper.
    pub(super) parent: u32,
    /// The sandbox's directory.
    pub(super) directory: &'a Path,
    /// The channel to the helper until exec.
    pub(super) sync: OwnedFd,
    /// The agent's file, as a mount.
    pub(super) agent: OwnedFd,
    /// The data directory, the root, what is mounted.
    pub(super) trees: Vec<OwnedFd>,
}

impl Child<'_> {
    /// Goes all the way. Every failure is told to the helper.
    pub(super) fn run(self) -> ! {
        // What else the helper has is not for a runtime: its lock would
        // outlive it, and its owner channel's end would never come.
        let mut kept: Vec<_> = self.trees.iter().map(AsRawFd::as_raw_fd).collect();
        kept.extend([
            self.sync.as_raw_fd(),
            self.agent.as_raw_fd(),
            self.start.control.as_raw_fd(),
        ]);
        sys::close_all_but(&mut kept);
        let sync = self.sync.try_clone();
        if let (Err(failed), Ok(sync)) = (self.go(), sync) {
            // If the helper is gone there is nobody to tell.
            let _ = packet::send(&sync, &FromHelper::Failed(failed), &[]);
        }
        sys::exit_now(1)
    }

    fn go(self) -> Result<std::convert::Infallible> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .tried("tie the runtime to its helper")?;
        if parent_pid() != self.parent {
            sys::exit_now(1);
        }
        standard_streams_to_null()?;
        rustix::process::setsid().tried("make a session")?;
        // Slave, so that this namespace holds nothing that the host unmounts.
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .tried("keep mounts from the host")?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let Start {
            launch,
            bundle,
            first_id,
            ..
        } = *self.start;
        let runtime = Path::new(&bundle.runtime);
        let free = |place: &&str| !self.directory.starts_with(place) && !runtime.starts_with(place);
        let scratch = root::scratch_on(PLACES.into_iter().filter(free), "0711")?;
        // What is made from here on belongs to the root inside.
        sys::own_files_as(first_id).tried("make files for the sandbox")?;
        let trees = VecDeque::from(self.trees);
        let inside = root::assemble(launch, trees, scratch, first_id, |inside| {
            for name in ["proc", "sys", "dev"] {
                mounts::own_directory(inside, name)?;
            }
            if bundle.own_kernel {
                mounts::shared_directory(inside, "tmp")?;
            }
            let (directory, name) = BUNDLE_AGENT.rsplit_once('/').unwrap_or_default();
            // An image may have something of this name, even a link.
            let directory = mounts::own_directory(inside, directory.trim_start_matches('/'))?;
            mounts::write_new(&directory, name, b"", 0o555)?;
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
            let place = rustix::fs::openat(&directory, name, flags, rustix::fs::Mode::empty())
                .tried("open the agent's place")?;
            mounts::attach(&self.agent, place, "the agent")
        })?;
        if bundle.own_kernel {
            // Else gVisor mounts memory there. Through a descriptor, as links
            // of an image lead out of it for whoever mounts by path.
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
            let tmp = mounts::resolve(&inside, "/tmp", flags).tried("open /tmp inside")?;
            let tmp = mounts::copy(&tmp, "/tmp")?;
            root::put(&tmp, &format!("{scratch}/{BUNDLE_TMP}"))?;
        }
        drop((inside, self.agent));
        sys::own_files_as(0).tried("make files for the host again")?;
        let mut config = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(format!("{scratch}/config.json"))
            .tried("write the bundle")?;
        config
            .write_all(bundle.config.as_bytes())
            .tried("write the bundle")?;
        drop(config);
        let mut command = Command::new(runtime);
        command
            .arg("--root")
            .arg(self.directory.join(STATE))
            .arg("--log")
            .arg(self.directory.join(LOG));
        if bundle.own_kernel {
            command.args(OWN_KERNEL);
        }
        command
            .args(["run", "--detach", "--bundle", scratch, "--pid-file"])
            .arg(self.directory.join(PID_FILE));
        if bundle.own_kernel {
            command.arg(format!("--pass-fd={CONTROL_FD}:{CONTROL_FD}"));
        } else {
            command.args(["--preserve-fds", "1"]);
        }
        command.arg(&launch.id).env_clear().env("PATH", SEARCH);
        for signal in [libc::SIGHUP, libc::SIGPIPE] {
            sys::ignore_signal(signal, false);
        }
        sys::unblock_signals();
        let sync = rustix::io::fcntl_dupfd_cloexec(&self.sync, CONTROL_FD + 1)
            .tried("move the helper's channel")?;
        let control = self.start.control.try_clone();
        let control = control.tried("keep the agent's channel")?;
        sys::place(control, CONTROL_FD).tried("place the agent's channel")?;
        // The runtime gets the agent's channel and nothing else.
        sys::close_on_exec_from(CONTROL_FD + 1).tried("close descriptors")?;
        let error = command.exec();
        let failed = Failed {
            kind: FailedKind::Unsupported,
            message: format!(
                "start {}: {}",
                bundle.runtime.escape_debug(),
                error.to_string().to_lowercase()
            ),
            errno: error.raw_os_error(),
            field: None,
        };
        // The first descriptor for it may have been the one that was replaced.
        let _ = packet::send(&sync, &FromHelper::Failed(failed), &[]);
        sys::exit_now(1)
    }
}
