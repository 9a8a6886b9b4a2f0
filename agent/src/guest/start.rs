//! How an agent comes up: who tells it what, and where hosts come from.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use super::agent::Agent;
use super::control;
use super::{places, sys};
use crate::protocol::control::{CONTROL_FD, ControlMessage};
use crate::protocol::message::{self, AgentConfig};

/// Seconds that the configuration may take to come; hosts wait for less.
const CONFIG_SECONDS: i64 = 30;
/// The longest configuration that is read from standard input.
const MAX_CONFIG: u32 = 256 * 1024;

fn other(message: impl std::fmt::Display) -> io::Error {
    io::Error::other(message.to_string())
}

/// Starts, serves, and returns when the sandbox is to end.
pub(super) fn run(from_stdin: bool) -> io::Result<()> {
    let score = if from_stdin {
        sys::OwnScore::open()
    } else {
        None
    };
    sys::hide()?;
    sys::turn_core_dumps_off()?;
    sys::trim_allocator();
    sys::set_name(c"stacyvm-agent");
    // The last one is that of a pipe whose reader has gone.
    let signals = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGPIPE];
    let signals = sys::take_signals(&signals)?;
    sys::adopt_orphans()?;
    fault_point!("agent.begun");
    if from_stdin {
        sys::drop_bounding_early();
        take_devices_away();
        let (mut there, back) = take_standard_streams()?;
        let config = config_from(&mut there)?;
        let listener = listen(&config)?;
        places::make(&config);
        keep_commands_off(&config)?;
        if config.owns_proc_files() {
            sys::own_proc_files()?;
        }
        let score = score.filter(|_| !config.can_switch_user);
        let mut agent = Agent::new(config, signals, None, Some(listener), None)?;
        agent.score = score;
        agent.welcome_maker(there.into(), back);
        agent.run();
        return Ok(());
    }
    let control = sys::adopt(CONTROL_FD)?;
    let Some((ControlMessage::Config { config, commands }, mut fds)) =
        control::receive(&control, true)?
    else {
        return Err(other("the first control message must be the configuration"));
    };
    if config.has_namespaced_root() {
        sys::keep_from_commands()?;
    } else {
        sys::drop_bounding_early();
    }
    places::make(&config);
    keep_commands_off(&config)?;
    fault_point!("agent.configured");
    let commands = fds.split_off(fds.len().saturating_sub(usize::from(commands)));
    let counter = fds.pop();
    let mut agent = Agent::new(config, signals, Some(control), None, counter)?;
    agent.commands = commands;
    agent.run();
    Ok(())
}

/// Where commands may be root as the agent is, it becomes somebody whom no command
/// is. Whatever it forks is out of their reach from its first moment, and so is the
/// agent itself where no process 1 is spared (gVisor).
fn keep_commands_off(config: &AgentConfig) -> io::Result<()> {
    if config.can_switch_user && !config.has_namespaced_root() {
        sys::become_apart(config.supervisor_uid)?;
    }
    Ok(())
}

/// Takes away what gVisor has in every `/dev`, and no engine puts there unasked:
/// file systems and network interfaces of one's own. Elsewhere they are not there.
fn take_devices_away() {
    for node in ["/dev/fuse", "/dev/net/tun"] {
        let _ = std::fs::remove_file(node);
    }
}

fn config_from(stdin: &mut File) -> io::Result<AgentConfig> {
    let mut length = [0; 4];
    wait_for(stdin)?;
    stdin.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_CONFIG {
        return Err(other(format!(
            "configuration of {length} bytes, at most {MAX_CONFIG} are accepted"
        )));
    }
    let mut bytes = vec![0; length as usize];
    stdin.read_exact(&mut bytes)?;
    let config: AgentConfig =
        message::decode(&bytes).map_err(|_| other("the configuration does not decode"))?;
    bytes.fill(0);
    if config.key.len() < 32 {
        return Err(other("a keyed agent needs a key of at least 32 bytes"));
    }
    Ok(config)
}

/// Waits until somebody says something. Who is started again without being told
/// anything, as by `docker restart`, ends: its timer would be nobody's.
fn wait_for(stdin: &File) -> io::Result<()> {
    let mut fds = [PollFd::new(stdin, PollFlags::IN)];
    let most = Timespec {
        tv_sec: CONFIG_SECONDS,
        tv_nsec: 0,
    };
    loop {
        match poll(&mut fds, Some(&most)) {
            Ok(0) => return Err(other("nobody told the configuration")),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes standard input and output away from whatever is started later: they are the
/// first way to the agent, for whoever made the sandbox.
fn take_standard_streams() -> io::Result<(File, OwnedFd)> {
    let there = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let back = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((there.into(), back))
}

/// Listens where only the bridges' user can connect: that of the supervisors where
/// there is one, else root.
fn listen(config: &AgentConfig) -> io::Result<OwnedFd> {
    let path = config
        .socket
        .as_ref()
        .ok_or_else(|| other("a keyed agent needs a socket path"))?;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    if let Some(parent) = path.parent() {
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent);
        made?;
        let closed = std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o700));
        if config.can_switch_user {
            // Else all inside is of one user, and the directory may be root's.
            closed?;
        }
    }
    let _ = std::fs::remove_file(path);
    let old = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(old);
    let listener = listener?;
    if config.can_switch_user {
        // The directory last: until then only the agent itself sees into it. An engine
        // that does not know this user leaves both to root.
        let owner = Some(config.supervisor_uid);
        let lent = std::os::unix::fs::lchown(path, owner, None);
        if let (Ok(()), Some(parent)) = (lent, path.parent()) {
            let _ = std::os::unix::fs::lchown(parent, owner, None);
        }
    }
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}
