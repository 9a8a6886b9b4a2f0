//! The helper: one small process beside each embedded sandbox. It makes the
//! sandbox, is its monitor and its timer, and leaves nothing of it behind.
//!
//! It has one thread and is never tied to the host that started it: the end
//! of the owner channel, the deadline, and requests decide over its life. If
//! it is killed itself, the kernel kills the sandbox with it, and what then
//! stays (a directory, cgroups) is named in the ledger for a sweep.

mod bundle;
mod cgroup;
mod child;
mod connection;
mod data;
mod disk;
mod etc;
mod fault;
mod inside;
mod kernel_fs;
mod layers;
mod mapped;
mod monitor;
mod mounts;
mod nested;
mod parked;
mod root;
mod seccomp;
mod state;
mod sys;
mod users;

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::fs::{CWD, Mode, OFlags};

use crate::helper_protocol::{
    Failed, FailedKind, FromHelper, GENERATION, GiveAway, MOST_OPEN_FILES, MapLayers, Park, RANGE,
    Remove, SINGLE_USER, ToHelper, Users,
};
use crate::packet;
use crate::remove;
use fault::{Result, Tried};

/// Runs the helper until its sandbox is gone: with the owner channel as
/// standard input, as [`crate::helper_protocol`] describes. Fails only where
/// that channel is none.
pub fn main() -> ExitCode {
    // Before anything is opened: what the host let through is not ours.
    sys::close_from(3);
    raise_open_files();
    reset_limits();
    let Ok(owner) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else {
        return ExitCode::from(2);
    };
    let failed = match run(&owner) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failed) => failed,
    };
    match packet::send(&owner, &FromHelper::Failed(failed), &[]) {
        Ok(()) => ExitCode::FAILURE,
        // Nobody listens, or this was not started by a host.
        Err(_) => ExitCode::from(2),
    }
}

/// The stack of a command, as kernels begin with it.
const STACK: u64 = 8 * 1024 * 1024;

/// Raises how many files may be opened at most, so that a sandbox may have
/// more of them than the process that started this one.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: now.current,
        maximum: now.maximum.map(|most| most.max(MOST_OPEN_FILES)),
    };
    // Without the right to do so the limit stays what it is.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Undoes limits of the process that started this one: they would bind every
/// command of the sandbox, and the helper itself. Without the right to raise a
/// hard limit that one stays, and the soft one is raised to it.
fn reset_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    for (resource, wanted) in [
        (Resource::Cpu, None),
        (Resource::Fsize, None),
        (Resource::As, None),
        (Resource::Data, None),
        (Resource::Rss, None),
        (Resource::Stack, Some(STACK)),
    ] {
        let raised = Rlimit {
            current: wanted,
            maximum: None,
        };
        if setrlimit(resource, raised).is_err() {
            let maximum = getrlimit(resource).maximum;
            let current = match (wanted, maximum) {
                (Some(wanted), Some(most)) => Some(wanted.min(most)),
                (wanted, most) => wanted.or(most),
            };
            // As above.
            let _ = setrlimit(resource, Rlimit { current, maximum });
        }
    }
}

fn run(owner: &OwnedFd) -> Result<()> {
    // The name of the thread is the name that `ps -o comm` shows; the argument
    // vector is the same already.
    rustix::thread::set_name(c"stacyvm-helper").tried("take a title")?;
    let null = rustix::fs::openat(
        CWD,
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .tried("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).tried("close the standard input")?;
    // It outlives the terminal and the directory that its host was started in.
    // The call fails only for a group leader, which has no terminal to lose.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").tried("leave the working directory")?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    for signal in [libc::SIGHUP, libc::SIGPIPE] {
        sys::ignore_signal(signal, true);
    }
    // Who started this may ignore it, and then no end of a child has a status.
    sys::ignore_signal(libc::SIGCHLD, false);
    let signals = sys::termination_signals().tried("take signals")?;
    fault_point!("helper.begun");
    let program = rustix::fs::openat(
        CWD,
        "/proc/self/exe",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .tried("open this program")?;
    let mut buffer = Vec::new();
    let Some((message, fds)) = packet::receive(owner, &mut buffer).tried("hear the owner")? else {
        return Ok(());
    };
    let mut fds = fds.into_iter();
    let (park, sandboxes) = match (message, fds.next()) {
        (ToHelper::Park(park), Some(sandboxes)) => (park, sandboxes),
        (ToHelper::Remove(remove), Some(directory)) => {
            remove_for(&remove, &directory)?;
            return packet::send(owner, &FromHelper::Done, &[]).tried("answer the owner");
        }
        (ToHelper::GiveAway(asked), Some(file)) => {
            give_away(&asked, &file)?;
            return packet::send(owner, &FromHelper::Done, &[]).tried("answer the owner");
        }
        (ToHelper::MapLayers(asked), Some(_lock)) => {
            map_layers(&asked, fds)?;
            return packet::send(owner, &FromHelper::Done, &[]).tried("answer the owner");
        }
        _ => {
            return Err(Failed::new(
                FailedKind::Invalid,
                "the first packet must be park, remove, give away or map layers, with a descriptor",
            ));
        }
    };
    check(&park)?;
    let program = if park.program {
        let given = fds.next_back();
        given.ok_or_else(|| Failed::new(FailedKind::Invalid, "a descriptor is missing: program"))?
    } else {
        program
    };
    let mut parked = parked::Parked::make(&park, sandboxes, fds.next(), program)?;
    if let Err(error) = packet::send(owner, &FromHelper::Parked, &[]) {
        parked.state.tear_down();
        return Err(error).tried("answer the owner");
    }
    fault_point!("helper.parked");
    // The packet's buffer is not kept while it waits.
    drop(buffer);
    match parked.wait_for_launch(owner, &signals) {
        Ok(Some((launch, fds))) => {
            fault_point!("helper.launch.heard");
            let sandbox = match parked.launch(*launch, fds) {
                Ok(sandbox) => sandbox,
                Err((mut state, failed)) => {
                    state.tear_down();
                    return Err(failed);
                }
            };
            monitor::Monitor::new(sandbox, owner.as_fd(), signals.as_fd()).run()
        }
        Ok(None) => {
            parked.state.tear_down();
            Ok(())
        }
        Err(failed) => {
            parked.state.tear_down();
            Err(failed)
        }
    }
}

/// A name becomes a directory and cgroups: one plain component.
fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) || name.starts_with('.') {
        return Err(Failed::new(
            FailedKind::Invalid,
            "a name must be 1 to 128 characters of a-z, A-Z, 0-9, -, _ and ., not beginning with .",
        ));
    }
    Ok(())
}

fn check_generation(generation: u32) -> Result<()> {
    if generation != GENERATION {
        return Err(Failed::new(
            FailedKind::Unsupported,
            format!("the host speaks generation {generation}, the helper {GENERATION}"),
        ));
    }
    Ok(())
}

/// Removes what has owners of the range of ids that a sandbox had.
fn remove_for(asked: &Remove, directory: &OwnedFd) -> Result<()> {
    check_generation(asked.generation)?;
    check_name(&asked.name)?;
    let name = std::ffi::CString::new(asked.name.as_str()).tried("read the name")?;
    among_leftovers(&asked.users, || {
        remove::tree(directory, &name).tried(format!("remove {}", asked.name))
    })
}

/// The kernel puts a process that executes a file which it cannot read and whose
/// owners are not all inside among those of the host: then root inside owns no
/// file of the agent in `/proc`.
fn give_away(asked: &GiveAway, file: &OwnedFd) -> Result<()> {
    check_generation(asked.generation)?;
    let owner = rustix::fs::Uid::from_raw(SINGLE_USER);
    let group = rustix::fs::Gid::from_raw(RANGE - 1);
    among_leftovers(&asked.users, || {
        rustix::fs::fchown(file, Some(owner), Some(group)).tried("give the agent's file away")
    })
}

/// Copies layers with the owners that their image names.
fn map_layers(asked: &MapLayers, mut fds: impl Iterator<Item = OwnedFd>) -> Result<()> {
    check_generation(asked.generation)?;
    let Users::Delegated(range) = &asked.users else {
        return Err(Failed::new(
            FailedKind::Invalid,
            "layers are mapped to a range of ids that a user was given",
        ));
    };
    among_leftovers(&asked.users, || {
        while let Some(layer) = fds.next() {
            let (Some(copy), Some(record)) = (fds.next(), fds.next()) else {
                return Err(Failed::new(
                    FailedKind::Invalid,
                    "a descriptor of a layer is missing",
                ));
            };
            mapped::copy(&layer, &copy, record, range.own, asked.reserved)?;
        }
        Ok(())
    })
}

/// Does something with the rights of a range over files of its and of the
/// helper's own user.
fn among_leftovers(users: &Users, work: impl FnOnce() -> Result<()>) -> Result<()> {
    users.check()?;
    let users = users.clone().of_leftovers();
    let namespace = users::namespace(|pid| users.map(pid))?;
    inside::run(namespace.as_fd(), false, || work().map(|()| Vec::new())).map(drop)
}

fn check(park: &Park) -> Result<()> {
    check_generation(park.generation)?;
    park.users.check()?;
    if park.bundle && park.users.private().is_none() {
        return Err(Failed::new(
            FailedKind::Invalid,
            "a bundle needs a private range of ids",
        ));
    }
    check_name(&park.name)
}
