//! A helper that has made what every sandbox needs, and the launch of one.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};

use super::cgroup::Cgroups;
use super::child::Child;
use super::fault::{Result, Tried};
use super::monitor::Sandbox;
use super::mounts::{self, NODEV, NOSUID};
use super::state::{Init, State};
use super::users::{
    map_of_host, map_of_one, namespace_of, namespace_with, namespace_without, private_map,
};
use super::{bundle, check_name, data, disk, inside, root, sys};
use crate::confinement::ROOT_CAPABILITIES;
use crate::helper_protocol::{
    Failed, FailedKind, FromHelper, InForce, Launch, Mount, MountSource, NOBODY, Park, RANGE, Root,
    SOCKET_NAME, ToHelper, Users,
};
use crate::packet;
use crate::protocol::control::ControlMessage;

/// Ready for a launch.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) state: State,
    users: Users,
    /// To the agent.
    control: OwnedFd,
    agent: Agent,
    /// Bound, and open to nobody yet.
    socket: OwnedFd,
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
    pub(crate) fn make(
        park: &Park,
        sandboxes: OwnedFd,
        range: Option<OwnedFd>,
        program: OwnedFd,
    ) -> Result<Self> {
        let mut state = State::make(sandboxes, &park.name, range)?;
        let filled = bind(&state.directory).and_then(|socket| {
            fault_point!("helper.park.socket");
            let (agent, control) = if park.bundle {
                Self::wait_for_bundle(program)?
            } else {
                Self::fill(&mut state, park, program)?
            };
            Ok((socket, agent, control))
        });
        match filled {
            Ok((socket, agent, control)) => Ok(Self {
                state,
                users: park.users.clone(),
                control,
                agent,
                socket,
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
        fault_point!("helper.park.ledger");
        let cgroups = Cgroups::make(&park.name)?;
        let birthplace = cgroups.birthplace()?;
        state.cgroups = Some(cgroups);
        fault_point!("helper.park.cgroups");
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
                many_users: park.users.are_many(),
            }
            .run(),
            sys::Clone::Parent { pid, pidfd } => (pid, pidfd),
        };
        state.init = Some(Init { pid, pidfd });
        drop((child_sync, child_control, program));
        fault_point!("helper.park.child");
        park.users.map(pid)?;
        if park.users.private().is_none() {
            state.namespace = Some(namespace_of(pid)?);
        }
        if let Some(cgroups) = &state.cgroups {
            cgroups.join(pid)?;
        }
        fault_point!("helper.park.ids");
        let data = data_directory(state, data::Layout::Host, &park.users)?;
        packet::send(&sync, &FromHelper::Done, &[data.as_fd()]).tried("let the child go on")?;
        drop(data);
        fault_point!("helper.park.data");
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
            Ok(in_force) => {
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
                    listener: self.socket,
                    in_force,
                    record: launch.record,
                    started_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
                    ends_in_ms: launch.ends_in_ms,
                    idle_ms: launch.agent.idle_ms,
                    waits: launch.waits,
                })
            }
            Err(failed) => Err((self.state, failed)),
        }
    }

    fn try_launch(&mut self, launch: &Launch, fds: Vec<OwnedFd>) -> Result<Vec<InForce>> {
        check_name(&launch.id)?;
        if launch.has_namespaced_root() && (launch.bundle.is_some() || !self.users.are_many()) {
            return Err(Failed::new(
                FailedKind::Unsupported,
                "namespaced_root needs a range of ids, and no runtime of its own",
            ));
        }
        if launch.bundle.is_some() != matches!(self.agent, Agent::Program { .. }) {
            return Err(Failed::new(
                FailedKind::Invalid,
                "the helper was parked for another kind of launch",
            ));
        }
        let mut fds = VecDeque::from(fds);
        let mut in_force = vec![InForce {
            name: "user".into(),
            value: launch.agent.user.clone(),
        }];
        let trees = self.trees(launch, &mut fds, &mut in_force)?;
        for _ in 0..launch.volume_locks {
            let lock = next(&mut fds, "the lock of a volume")?;
            self.state.volumes.push(lock);
        }
        let trees = match &self.agent {
            // The child goes ahead: the agent that it becomes does nothing
            // before it is told its configuration, below.
            Agent::Child(sync) => {
                let borrowed: Vec<_> = trees.iter().map(AsFd::as_fd).collect();
                let message = ToHelper::Launch(Box::new(launch.clone()));
                packet::send(sync, &message, &borrowed).tried("tell the child")?;
                drop(borrowed);
                // While one of these is open its file system stays mounted.
                drop(trees);
                Vec::new()
            }
            Agent::Program { .. } => trees,
        };
        fault_point!("helper.launch.child-told");
        self.state.rename(&launch.id)?;
        fault_point!("helper.launch.named");
        if launch.bundle.is_some() {
            bundle::make_cgroups(&mut self.state)?;
        }
        if let Some(cgroups) = &self.state.cgroups {
            in_force.extend(cgroups.limit(&launch.limits)?);
        }
        if launch.mounts.iter().any(Mount::is_of_host) {
            let owners = match &self.users {
                Users::Private { .. } => format!("root is {NOBODY} outside"),
                Users::Delegated(_) | Users::Single => "owners as outside".into(),
            };
            in_force.push(InForce {
                name: "host_directories".into(),
                value: if launch.writes_to_host() {
                    owners + ", no set-id bits"
                } else {
                    owners
                },
            });
        }
        if launch.root == Root::Layers {
            in_force.push(InForce {
                name: "image_layers".into(),
                value: format!("{}, shared", launch.layers.lower.len()),
            });
            in_force.push(InForce {
                name: "image_owners".into(),
                value: self.image_owners(launch).into(),
            });
        }
        if let Some(files) = launch.agent.open_files {
            // Every command gets it as its hard limit, or does not start.
            in_force.push(InForce {
                name: "open_files_limit".into(),
                value: files.to_string(),
            });
        }
        rustix::net::listen(&self.socket, 64).tried("listen on the helper's socket")?;
        fault_point!("helper.launch.listening");
        self.tell_agent(launch, fds.pop_front())
            .map_err(|failed| self.word_of_child().unwrap_or(failed))?;
        fault_point!("helper.launch.agent-told");
        if let (Agent::Program { program, control }, Some(bundle)) = (&self.agent, &launch.bundle) {
            let start = bundle::Start {
                launch,
                bundle,
                first_id: self.users.private().unwrap_or_default(),
                program,
                control,
            };
            // What it then finds in force is told when the agent is ready.
            start.run(&mut self.state, trees)?;
            return Ok(in_force);
        }
        let no_new_privs = if launch.has_namespaced_root() {
            in_force.push(InForce {
                name: "privileges".into(),
                value: root_in_words(),
            });
            "0"
        } else {
            "1"
        };
        for (name, value) in [
            ("user_namespace", self.users.in_words()),
            ("no_new_privs", no_new_privs.into()),
            ("seccomp", "default deny".into()),
            ("network", "lo only".into()),
        ] {
            in_force.push(InForce {
                name: name.into(),
                value,
            });
        }
        Ok(in_force)
    }

    /// The mounts that whoever makes the root is given, in the order of
    /// [`root::assemble`]; takes what they are made of from `fds`.
    fn trees(
        &mut self,
        launch: &Launch,
        fds: &mut VecDeque<OwnedFd>,
        in_force: &mut Vec<InForce>,
    ) -> Result<Vec<OwnedFd>> {
        let owners = match (self.users.private(), &self.state.init) {
            (Some(_), Some(init)) => Some(namespace_of(init.pid)?),
            // The runtime's own does not exist yet.
            (Some(first), None) => Some(namespace_with(&private_map(first))?),
            // Only root maps owners; without it they are what the namespace says.
            (None, _) => None,
        };
        let namespaced_root = launch.has_namespaced_root();
        let shared = match self.users.private() {
            Some(first) if launch.mounts.iter().any(Mount::is_of_host) => {
                Some(namespace_with(&if namespaced_root {
                    map_of_one(first)
                } else {
                    map_of_host(first)
                })?)
            }
            _ => None,
        };
        let of_root = match self.users.private() {
            Some(first) if namespaced_root && launch.root.is_given() => Some(namespace_without(
                first,
                launch.agent.supervisor_uid.min(RANGE - 2),
            )?),
            _ => None,
        };
        let of_root = if of_root.is_some() { &of_root } else { &owners };
        let mut trees = Vec::new();
        // A child has one for a view of the host.
        if launch.root.is_given() || launch.limits.disk_bytes.is_some() || launch.bundle.is_some() {
            trees.push(self.data(launch, in_force)?);
        }
        let mut wanted = Vec::new();
        match launch.root {
            Root::Host => {}
            Root::Directory => wanted.push(("the root", false, of_root)),
            Root::Layers => wanted.push(("the image store", false, of_root)),
        }
        for mount in &launch.mounts {
            if mount.source == MountSource::Host {
                let map = if mount.is_of_host() { &shared } else { &owners };
                wanted.push((mount.target.as_str(), mount.writable, map));
            }
        }
        let from = wanted
            .iter()
            .map(|(what, ..)| next(fds, what))
            .collect::<Result<Vec<_>>>()?;
        let wanted = wanted.into_iter().zip(&from);
        let show = |((what, writable, map), from): ((&str, bool, &Option<OwnedFd>), &OwnedFd)| {
            root::host_tree(from, what, writable, map.as_ref())
        };
        if let Some(namespace) = &self.state.namespace
            && !from.is_empty()
        {
            trees.extend(inside::run(namespace.as_fd(), true, || {
                wanted
                    .map(|(mount, from)| show((mount, &inside::reopen(from, mount.0)?)))
                    .collect()
            })?);
        } else {
            for one in wanted {
                trees.push(show(one)?);
            }
        }
        Ok(trees)
    }

    /// Who owns the files of an image inside.
    fn image_owners(&self, launch: &Launch) -> &'static str {
        match &self.users {
            _ if !launch.layers.unowned => "as in the image",
            Users::Single => "all the default user's (1000), whatever the image says",
            Users::Private { .. } | Users::Delegated(_) => "all nobody's, whatever the image says",
        }
    }

    /// Leaves configuration and connection in the channel for the agent.
    fn tell_agent(&self, launch: &Launch, connection: Option<OwnedFd>) -> Result<()> {
        // A kernel of its own is killed as a whole, so that kills say nothing of
        // a command, and its processes are in no cgroup of this one.
        let shared_kernel = launch.bundle.as_ref().is_none_or(|b| !b.own_kernel);
        let cgroups = self.state.cgroups.as_ref().filter(|_| shared_kernel);
        let commands = match cgroups {
            Some(cgroups) => cgroups.commands(&launch.limits)?,
            None => Vec::new(),
        };
        let counter = cgroups.and_then(Cgroups::kill_counter);
        let files: Vec<_> = counter.iter().chain(&commands).map(AsFd::as_fd).collect();
        let config = ControlMessage::Config {
            config: launch.agent.clone(),
            commands: u8::try_from(commands.len()).unwrap_or_default(),
        };
        packet::send(&self.control, &config, &files).tried("tell the agent")?;
        if launch.connection {
            let connection = connection.ok_or_else(|| missing("connection"))?;
            let message = ControlMessage::Connection {};
            packet::send(&self.control, &message, &[connection.as_fd()])
                .tried("hand the connection over")?;
        }
        Ok(())
    }

    /// Why a child that has closed the agent's channel failed.
    fn word_of_child(&self) -> Option<Failed> {
        let Agent::Child(sync) = &self.agent else {
            return None;
        };
        match packet::receive(sync, &mut Vec::new()) {
            Ok(Some((FromHelper::Failed(failed), _))) => Some(failed),
            _ => None,
        }
    }

    /// The mount of what the sandbox writes.
    fn data(&mut self, launch: &Launch, in_force: &mut Vec<InForce>) -> Result<OwnedFd> {
        let layout = match launch.root {
            Root::Host => data::Layout::Host,
            Root::Directory | Root::Layers if launch.read_only_root => data::Layout::ReadOnly,
            Root::Directory | Root::Layers => data::Layout::Layer,
        };
        let Some(bytes) = launch.limits.disk_bytes else {
            return data_directory(&self.state, layout, &self.users);
        };
        let (mount, device) = disk::make(&mut self.state, bytes)?;
        self.state.loop_device = Some(device);
        data::make(&mount, layout, self.users.private())?;
        in_force.push(InForce {
            name: "disk_limit".into(),
            value: format!("{bytes} bytes"),
        });
        Ok(mount)
    }
}

/// The mount of a new directory below the sandbox's, for what it writes.
fn data_directory(state: &State, layout: data::Layout, users: &Users) -> Result<OwnedFd> {
    let name = layout.directory();
    rustix::fs::mkdirat(&state.directory, name, Mode::RWXU).tried("make the data directory")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&state.directory, name, flags, Mode::empty())
        .tried("open the data directory")?;
    let mount = |of: &OwnedFd| {
        let mount = mounts::copy(of, "the data directory")?;
        mounts::restrict_all(&mount, NOSUID | NODEV)?;
        Ok(mount)
    };
    let Some(namespace) = &state.namespace else {
        data::make(&made, layout, users.private())?;
        return mount(&made);
    };
    // Root inside is somebody else than this user, and must make files there. Nobody
    // outside comes this far, as the directory above is this user's alone.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o777)).tried("open the data directory up")?;
    let mut mounts = inside::run(namespace.as_fd(), true, || {
        let made = inside::reopen(&made, "the data directory")?;
        if users.are_many() {
            sys::become_root().tried("take the root id of the namespace")?;
            data::fill(&made, layout, Some(0))?;
        } else {
            data::fill(&made, layout, None)?;
        }
        Ok(vec![mount(&made)?])
    })?;
    mounts
        .pop()
        .ok_or_else(|| Failed::new(FailedKind::Internal, "the data directory has no mount"))
}

/// What root's programs have with `namespaced_root`.
fn root_in_words() -> String {
    let names = ROOT_CAPABILITIES.map(|(name, _)| name.trim_start_matches("CAP_").to_lowercase());
    format!("namespaced_root: {}", names.join(", "))
}

/// The socket for hosts, in the sandbox's directory. Nobody can connect before
/// the call to listen.
fn bind(directory: &OwnedFd) -> Result<OwnedFd> {
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
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
    let address = SocketAddrUnix::new(path).tried("name the helper's socket")?;
    rustix::net::bind(&socket, &address).tried("bind the helper's socket")?;
    rustix::fs::chmodat(
        directory,
        SOCKET_NAME,
        Mode::RUSR | Mode::WUSR,
        rustix::fs::AtFlags::empty(),
    )
    .tried("close the helper's socket to others")?;
    Ok(socket)
}

fn missing(what: &str) -> Failed {
    Failed::new(
        FailedKind::Invalid,
        format!("a descriptor is missing: {what}"),
    )
}

/// The next descriptor of a packet.
pub(crate) fn next(fds: &mut VecDeque<OwnedFd>, what: &str) -> Result<OwnedFd> {
    fds.pop_front().ok_or_else(|| missing(what))
}
