//! The first process of a sandbox, from its clone to the agent's exec.
//!
//! The order matters; each step says what it must come before or after.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::fault::{Result, Tried};
use super::{kernel_fs, root, seccomp, sys};
use crate::confinement::{CAPABILITIES, ROOT_CAPABILITIES, bits};
use crate::filter;
use crate::helper_protocol::{Failed, FailedKind, FromHelper, Launch, Root, ToHelper};
use crate::packet;
use crate::protocol::control::CONTROL_FD;

/// What the agent keeps. One with a single user has nobody to become, and its
/// own rights to all that is there.
fn agent_capabilities(many_users: bool) -> CapabilitySet {
    let kept: &[_] = if many_users { &CAPABILITIES } else { &[] };
    CapabilitySet::from_bits_truncate(bits(kept))
}

/// What root's programs get where a launch says so.
const OF_ROOT: CapabilitySet = CapabilitySet::from_bits_truncate(bits(&ROOT_CAPABILITIES));

/// What the child owns.
pub(crate) struct Child {
    /// The channel to the helper until exec.
    pub(crate) sync: OwnedFd,
    /// The agent's channel to the helper.
    pub(crate) control: OwnedFd,
    /// The agent.
    pub(crate) program: OwnedFd,
    /// Whether a range of ids is mapped, with root in it.
    pub(crate) many_users: bool,
}

impl Child {
    /// Goes all the way. Every failure is told to the helper.
    pub(crate) fn run(self) -> ! {
        // Copies of what the helper holds must go at once: its lock, which
        // would outlive it, and its owner channel, whose end would never come.
        let mut kept = [
            self.sync.as_raw_fd(),
            self.control.as_raw_fd(),
            self.program.as_raw_fd(),
        ];
        sys::close_all_but(&mut kept);
        let sync = self.sync.try_clone();
        if let (Err(failed), Ok(sync)) = (self.go(), sync) {
            // If the helper is gone there is nobody to tell.
            let _ = packet::send(&sync, &FromHelper::Failed(failed), &[]);
        }
        sys::exit_now(1)
    }

    fn go(self) -> Result<std::convert::Infallible> {
        standard_streams_to_null()?;
        let mut buffer = Vec::new();
        // The maps are written when this comes, with the data directory.
        let mapped = packet::receive::<FromHelper>(&self.sync, &mut buffer);
        let Some(data) = mapped
            .tried("wait for the id maps")?
            .and_then(|(_, fds)| fds.into_iter().next())
        else {
            sys::exit_now(0);
        };
        if self.many_users {
            sys::become_root().tried("take the root id of the namespace")?;
        }
        // After the ids: a change of credentials clears it. A helper that died
        // before it is noticed by the end of the channel below.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .tried("tie the sandbox to its helper")?;
        fault_point!("agent.child.ids");
        // After the ids, or the root of mqueue would belong to nobody; after
        // the cgroups were joined, or the view would begin at the helper's.
        sys::unshare(libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP)
            .tried("make the ipc and cgroup namespaces")?;
        rustix::process::setsid().tried("make a session")?;
        sys::loopback_up().tried("bring lo up")?;
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE
                | rustix::mount::MountPropagationFlags::REC,
        )
        .tried("make mounts private")?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let scratch = root::scratch()?;
        kernel_fs::dev(scratch, self.many_users)?;
        kernel_fs::proc(scratch)?;
        kernel_fs::sys(scratch)?;
        // Most launches ask for the view of the host. Where there can be none,
        // one that does says why.
        fault_point!("agent.child.mounts");
        let view = root::prepare_host(scratch, &data);
        drop(data);
        let view = match view {
            Ok(inside) => root::enter(&inside, scratch).map(Ok)?,
            Err(failed) => Err(failed),
        };
        // Again, so that nothing open is of the host's file systems.
        standard_streams_to_null()?;
        turn_core_dumps_off()?;
        // The launch says whether root's programs get any.
        narrow_bounding_set(!(agent_capabilities(self.many_users) | OF_ROOT))?;
        let system_calls = seccomp::program();
        packet::send(&self.sync, &FromHelper::Parked, &[]).tried("report to the helper")?;
        fault_point!("agent.child.parked");
        // Parked here until a sandbox is asked for.
        let Some((message, fds)) = packet::receive(&self.sync, &mut buffer).tried("wait")? else {
            sys::exit_now(0);
        };
        drop(buffer);
        let ToHelper::Launch(launch) = message else {
            return Err(Failed::new(
                FailedKind::Internal,
                "the helper sent no launch",
            ));
        };
        rustix::system::sethostname(launch.hostname.as_bytes()).tried("set the host name")?;
        fault_point!("agent.child.launch");
        let fds = VecDeque::from(fds);
        match (launch.root, view) {
            (Root::Host, view) => {
                view?;
                root::furnish_host(&launch, fds)?;
            }
            (Root::Directory | Root::Layers, view) => {
                let (scratch, from) = match view {
                    Ok(()) => (root::scratch()?, ""),
                    Err(_) => (scratch, scratch),
                };
                let inside = root::assemble(&launch, fds, scratch, 0, |_| Ok(()))?;
                root::enter(&inside, from)?;
                standard_streams_to_null()?;
            }
        }
        self.become_agent(&launch, &system_calls)
    }

    fn become_agent(
        self,
        launch: &Launch,
        system_calls: &[libc::sock_filter],
    ) -> Result<std::convert::Infallible> {
        let kept = agent_capabilities(self.many_users);
        let root = launch.has_namespaced_root();
        if root {
            become_reserved(launch.agent.supervisor_uid, kept)?;
        } else {
            narrow_bounding_set(OF_ROOT - kept)?;
            set_capabilities(kept, CapabilitySet::empty())?;
            rustix::thread::set_no_new_privs(true).tried("set no_new_privs")?;
        }
        fault_point!("agent.child.rights");
        sys::ignore_signal(libc::SIGPIPE, false);
        sys::unblock_signals();
        let Self {
            sync: _sync,
            control,
            program,
            ..
        } = self;
        // Out of the way of the agent's channel, which comes third.
        let program = rustix::io::fcntl_dupfd_cloexec(&program, CONTROL_FD + 1)
            .tried("move the program's descriptor")?;
        sys::place(control, CONTROL_FD).tried("place the agent's channel")?;
        // Whatever was overlooked: nothing else reaches the agent.
        sys::close_on_exec_from(CONTROL_FD + 1).tried("close descriptors")?;
        if launch.writes_to_host() {
            filter::install(&seccomp::no_set_id()).tried("install the filter of set-id bits")?;
        }
        if root {
            // The agent cannot: without no_new_privs that takes what it has not.
            filter::install(&filter::core_dumps()).tried("install the filter of core dumps")?;
            let reserved = seccomp::reserved(launch.agent.supervisor_uid);
            filter::install(&reserved).tried("install the filter of the reserved user")?;
        }
        // Last, as it refuses most of what was done above.
        filter::install(system_calls).tried("install the system call filter")?;
        if root {
            keep_across_exec(kept)?;
        }
        let error = sys::execveat(program.as_fd(), c"stacyvm-agent");
        Err(error).tried("start the agent")
    }
}

pub(crate) fn standard_streams_to_null() -> Result<()> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let null =
        rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).tried("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .tried("close the standard streams")
}

/// Whether the kernel gives core dumps to a program or a server of the host.
fn host_handles_core_dumps() -> bool {
    // What cannot be read may be one.
    std::fs::read("/proc/sys/kernel/core_pattern")
        .map_or(true, |pattern| matches!(pattern.first(), Some(b'|' | b'@')))
}

fn turn_core_dumps_off() -> Result<()> {
    // 1 and not 0: a pipe handler of the host runs even for 0, and for 1
    // the kernel gives up before it starts one.
    let core = rustix::process::Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    match rustix::process::setrlimit(rustix::process::Resource::Core, core) {
        // A hard limit of 0 that may not be raised: no file is written, and where the host
        // has no handler there is nobody else.
        Err(rustix::io::Errno::PERM) if !host_handles_core_dumps() => Ok(()),
        Err(rustix::io::Errno::PERM) => Err(Failed::new(
            FailedKind::Unsupported,
            "the hard limit of core dumps is 0, expected 1 or more: for 0 the kernel starts the host's handler (kernel.core_pattern); raise it (`ulimit -Hc 1` as root with CAP_SYS_RESOURCE), or take the handler away",
        )),
        set => set.tried("turn core dumps off"),
    }
}

/// What root's exec would otherwise get back. Takes SETPCAP, so it comes
/// before the capabilities are dropped.
fn narrow_bounding_set(dropped: CapabilitySet) -> Result<()> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !dropped.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Past the last that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error).tried("narrow the bounding set"),
        }
    }
    Ok(())
}

fn set_capabilities(kept: CapabilitySet, inheritable: CapabilitySet) -> Result<()> {
    rustix::thread::clear_ambient_capability_set().tried("clear ambient capabilities")?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable,
        },
    )
    .tried("drop capabilities")
}

/// Becomes the user that nobody inside becomes after it, with all rights as yet.
/// Where root inside may become any other user, it must not be the agent's.
fn become_reserved(user: u32, inheritable: CapabilitySet) -> Result<()> {
    let all = rustix::thread::capabilities(None).tried("look at the capabilities")?;
    rustix::thread::set_keep_capabilities(true).tried("keep the capabilities")?;
    sys::become_user(user).tried("take the reserved user")?;
    // A change of user clears it; one that came before is noticed by the end of
    // the agent's channel.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .tried("tie the sandbox to its helper")?;
    // While the bounding set has them: the kernel wants them in it.
    set_capabilities(all.permitted, inheritable)?;
    narrow_bounding_set(inheritable - OF_ROOT)
}

/// Leaves the agent its capabilities, which it has not as root.
fn keep_across_exec(kept: CapabilitySet) -> Result<()> {
    set_capabilities(kept, kept)?;
    for one in kept.iter() {
        rustix::thread::configure_capability_in_ambient_set(one, true)
            .tried("keep a capability across exec")?;
    }
    Ok(())
}
