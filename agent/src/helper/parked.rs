//! A helper that has made what every sandbox needs, and the launch of one.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags};

use super::cgroup::Cgroups;
use super::child::Child;
use super::fault::{Result, Tried};
use super::monitor::Sandbox;
use super::mounts::{self, NODEV, NOSUID};
use super::state::{Init, State};
use super::{bundle, check_name, data, disk, packet, root, sys};
use crate::helper_protocol::{
    DATA_NAME, Failed, FailedKind, FromHelper, InForce, Launch, MountSource, Park, Root,
    SOCKET_NAME, ToHelper,
};
use crate::protocol::control::ControlMessage;

/// Ids that a sandbox gets.
const RANGE: u32 = 65536;

/// Ready for a launch.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) state: State,
    first_id: Option<u32>,
    /// To the agent.
    control: OwnedFd,
    agent: Agent,
}

/// What becomes the agent.
#[derive(Debug)]
enum Agent {
    /// A first process in its namespaces, with the channel to it until then.
    Child(OwnedFd),
    /// What a runtime starts.
    Program {
        /// The file.
        program: OwnedFd,
        /// The agent's end of its channel.
        control: OwnedFd,
    },
}

impl Parked {
    /// Makes directory, cgroups and namespaces. An error leaves nothing.
    pub(crate) fn make(park: &Park, sandboxes: OwnedFd, program: OwnedFd) -> Result<Self> {
        let mut state = State::make(sandboxes, &park.name)?;
        let filled = if park.bundle {
            Self::wait_for_bundle(program)
        } else {
            Self::fill(&mut state, park, program)
        };
        match filled {
            Ok((agent, control)) => Ok(Self {
                state,
                first_id: park.first_id,
                control,
                agent,
            }),
            Err(failed) => {
                state.tear_down();
                Err(failed)
            }
        }
    }

    /// All else is the runtime's to make.
    fn wait_for_bundle(program: OwnedFd) -> Result<(Agent, OwnedFd)> {
        // A runtime leaves the sandbox to whoever started it.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .tried("take over what a runtime starts")?;
        let (control, agent_control) = packet::pair().tried("make a channel")?;
        let agent = Agent::Program {
            program,
            control: agent_control,
        };
        Ok((agent, control))
    }

    fn fill(state: &mut State, park: &Park, program: OwnedFd) -> Result<(Agent, OwnedFd)> {
        state.record("cgroup", &Cgroups::plan(&park.name))?;
        let cgroups = Cgroups::make(&park.name)?;
        let birthplace = cgroups.birthplace()?;
        state.cgroups = Some(cgroups);
        let (sync, child_sync) = packet::pair().tried("make a channel")?;
        let (control, child_control) = packet::pair().tried("make a channel")?;
        let flags = libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWNET;
        let cloned = sys::clone_into(
            u64::from(flags.unsigned_abs()),
            birthplace.as_ref().map(AsFd::as_fd),
        )
        .tried("make the namespaces")?;
        let (pid, pidfd) = match cloned {
            sys::Clone::Child => Child {
                sync: child_sync,
                control: child_control,
                program,
                wide: park.first_id.is_some(),
            }
            .run(),
            sys::Clone::Parent { pid, pidfd } => (pid, pidfd),
        };
        state.init = Some(Init { pid, pidfd });
        drop((child_sync, child_control, program));
        write_maps(pid, park.first_id)?;
        if let Some(cgroups) = &state.cgroups {
            cgroups.join(pid)?;
        }
        packet::send(&sync, &FromHelper::Done, &[]).tried("let the child go on")?;
        let mut buffer = Vec::new();
        match packet::receive(&sync, &mut buffer).tried("hear the child")? {
            Some((FromHelper::Parked, _)) => Ok((Agent::Child(sync), control)),
            Some((FromHelper::Failed(failed), _)) => Err(failed),
            _ => Err(Failed::new(FailedKind::Internal, "the child ended early")),
        }
    }

    /// Waits for a launch. `None` where the owner is gone or a signal came.
    pub(crate) fn wait_for_launch(
        &self,
        owner: &OwnedFd,
        signals: &OwnedFd,
    ) -> Result<Option<(Box<Launch>, Vec<OwnedFd>)>> {
        loop {
            let mut ready = [
                PollFd::new(owner, PollFlags::IN),
                PollFd::new(signals, PollFlags::IN),
                // Without a child its place is taken by the signals, seen first.
                PollFd::new(
                    match &self.agent {
                        Agent::Child(sync) => sync,
                        Agent::Program { .. } => signals,
                    },
                    PollFlags::IN,
                ),
            ];
            match poll(&mut ready, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error).tried("wait for a launch"),
            }
            if !ready[1].revents().is_empty() {
                return Ok(None);
            }
            if !ready[2].revents().is_empty() {
                return Err(Failed::new(FailedKind::Internal, "the parked child ended"));
            }
            if ready[0].revents().is_empty() {
                continue;
            }
            let mut buffer = Vec::new();
            return match packet::receive(owner, &mut buffer) {
                Ok(None) => Ok(None),
                Ok(Some((ToHelper::Launch(launch), fds))) => Ok(Some((launch, fds))),
                Ok(Some(_)) => Err(Failed::new(FailedKind::Invalid, "a launch was expected")),
                Err(error) => Err(error).tried("hear the owner"),
            };
        }
    }

    /// Launches the sandbox; on an error gives back what is to be taken down.
    #[expect(
        clippy::result_large_err,
        reason = "the state must survive the failure, once in a process"
    )]
    pub(crate) fn launch(
        mut self,
        launch: Launch,
        fds: Vec<OwnedFd>,
    ) -> std::result::Result<Sandbox, (State, Failed)> {
        match self.try_launch(&launch, fds) {
            Ok((in_force, listener)) => {
                let started = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Ok(Sandbox {
                    state: self.state,
                    sync: match self.agent {
                        Agent::Child(sync) => Some(sync),
                        Agent::Program { .. } => None,
                    },
                    control: self.control,
                    listener,
                    in_force,
                    record: launch.record,
                    started_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
                    ends_in_ms: launch.ends_in_ms,
                })
            }
            Err(failed) => Err((self.state, failed)),
        }
    }

    fn try_launch(
        &mut self,
        launch: &Launch,
        fds: Vec<OwnedFd>,
    ) -> Result<(Vec<InForce>, OwnedFd)> {
        check_name(&launch.id)?;
        if launch.bundle.is_some() != matches!(self.agent, Agent::Program { .. }) {
            return Err(Failed::new(
                FailedKind::Invalid,
                "the helper was parked for another kind of launch",
            ));
        }
        self.state.rename(&launch.id)?;
        if launch.bundle.is_some() {
            bundle::make_cgroups(&mut self.state)?;
        }
        let mut in_force = match &self.state.cgroups {
            Some(cgroups) => cgroups.limit(&launch.limits)?,
            None => Vec::new(),
        };
        let mut given = fds.into_iter();
        let mut next = |what: &str| {
            given.next().ok_or_else(|| {
                Failed::new(
                    FailedKind::Invalid,
                    format!("a descriptor is missing: {what}"),
                )
            })
        };
        let namespace = match (self.first_id, &self.state.init) {
            (Some(_), Some(init)) => Some(user_namespace(init.pid)?),
            (Some(first), None) => Some(bundle::user_namespace_of(first)?),
            _ => None,
        };
        let mut trees = vec![self.data(launch, &mut in_force)?];
        if launch.root == Root::Directory {
            let from = next("root")?;
            trees.push(root::host_tree(
                &from,
                "the root",
                false,
                namespace.as_ref(),
            )?);
        }
        for mount in &launch.mounts {
            if mount.source == MountSource::Host {
                let from = next(&mount.target)?;
                trees.push(root::host_tree(
                    &from,
                    &mount.target,
                    mount.writable,
                    namespace.as_ref(),
                )?);
            }
        }
        let connection = if launch.connection {
            Some(next("connection")?)
        } else {
            None
        };
        let listener = self.listen()?;
        // A kernel of its own is killed as a whole, so that kills say nothing
        // of a command.
        let counts = launch.bundle.as_ref().is_none_or(|b| !b.own_kernel);
        let cgroups = self.state.cgroups.as_ref().filter(|_| counts);
        let counter = cgroups.and_then(Cgroups::kill_counter);
        let counter: Vec<_> = counter.iter().map(AsFd::as_fd).collect();
        let config = ControlMessage::Config {
            config: launch.agent.clone(),
        };
        // These wait in the channel until the agent reads them. They come first:
        // a child that fails closes the channel, and its word would be lost.
        packet::send(&self.control, &config, &counter).tried("tell the agent")?;
        if let Some(connection) = connection {
            let message = ControlMessage::Connection {};
            packet::send(&self.control, &message, &[connection.as_fd()])
                .tried("hand the connection over")?;
        }
        let sync = match (&self.agent, &launch.bundle) {
            (Agent::Child(sync), _) => sync,
            (Agent::Program { program, control }, Some(bundle)) => {
                let start = bundle::Start {
                    launch,
                    bundle,
                    first_id: self.first_id.unwrap_or_default(),
                    program,
                    control,
                };
                // What it then finds in force is told when the agent is ready.
                start.run(&mut self.state, trees)?;
                return Ok((in_force, listener));
            }
            (Agent::Program { .. }, None) => {
                return Err(Failed::new(FailedKind::Invalid, "a bundle is missing"));
            }
        };
        let borrowed: Vec<_> = trees.iter().map(AsFd::as_fd).collect();
        let message = ToHelper::Launch(Box::new(launch.clone()));
        packet::send(sync, &message, &borrowed).tried("tell the child")?;
        drop(borrowed);
        // While one of these is open its file system stays mounted.
        drop(trees);
        for (name, value) in [
            (
                "user_namespace",
                self.first_id
                    .map_or("own id only".into(), |id| format!("{id}+{RANGE}")),
            ),
            ("no_new_privs", "1".into()),
            ("seccomp", "default deny".into()),
            ("network", "lo only".into()),
        ] {
            in_force.push(InForce {
                name: name.into(),
                value,
            });
        }
        Ok((in_force, listener))
    }

    /// The mount of what the sandbox writes.
    fn data(&mut self, launch: &Launch, in_force: &mut Vec<InForce>) -> Result<OwnedFd> {
        if let Some(bytes) = launch.limits.disk_bytes {
            let (mount, device) = disk::make(&mut self.state, bytes)?;
            self.state.loop_device = Some(device);
            data::make(&mount, launch, self.first_id)?;
            in_force.push(InForce {
                name: "disk_limit".into(),
                value: format!("{bytes} bytes"),
            });
            return Ok(mount);
        }
        let directory = &self.state.directory;
        rustix::fs::mkdirat(directory, DATA_NAME, Mode::RWXU).tried("make the data directory")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(directory, DATA_NAME, flags, Mode::empty())
            .tried("open the data directory")?;
        data::make(&made, launch, self.first_id)?;
        let mount = mounts::copy(&made, "the data directory")?;
        mounts::restrict_all(&mount, NOSUID | NODEV)?;
        Ok(mount)
    }

    /// The socket for hosts, in the sandbox's directory.
    fn listen(&self) -> Result<OwnedFd> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        use std::os::fd::AsRawFd as _;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .tried("make the helper's socket")?;
        // Through the descriptor, as an address has 107 bytes at most.
        let directory = self.state.directory.as_raw_fd();
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{directory}/{SOCKET_NAME}"))
            .tried("name the helper's socket")?;
        rustix::net::bind(&socket, &address).tried("bind the helper's socket")?;
        // Nobody can connect before the call to listen.
        rustix::fs::chmodat(
            &self.state.directory,
            SOCKET_NAME,
            Mode::RUSR | Mode::WUSR,
            rustix::fs::AtFlags::empty(),
        )
        .tried("close the helper's socket to others")?;
        rustix::net::listen(&socket, 64).tried("listen on the helper's socket")?;
        Ok(socket)
    }
}

fn user_namespace(pid: i32) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, format!("/proc/{pid}/ns/user"), flags, Mode::empty())
        .tried("open the user namespace")
}

pub(crate) fn write_maps(pid: i32, first_id: Option<u32>) -> Result<()> {
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/{pid}/{file}"), text).tried(format!("write {file}"))
    };
    if let Some(first) = first_id {
        let map = format!("0 {first} {RANGE}\n");
        write("uid_map", map.clone())?;
        return write("gid_map", map);
    }
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {uid} 1\n"))?;
    write("gid_map", format!("0 {gid} 1\n"))
}
