//! The system calls that no safe crate offers: processes, rights, signals.
#![allow(
    unsafe_code,
    reason = "fork, clone, capabilities and signal masks have no safe wrapper"
)]

mod kept;
mod oom;
pub(super) mod spawn;

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_ulong, pid_t};

pub(super) use self::kept::Kept;
pub(super) use self::oom::{OwnScore, fork_before, yield_memory};
use crate::filter;

/// Which side of a [`fork`] runs on.
pub(super) enum Fork {
    Child,
    Parent(pid_t),
}

/// What [`reap`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaped {
    /// Children live, none has ended.
    Running,
    /// There is no child at all.
    NoChildren,
    /// This child ended.
    Child(pid_t, Status),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Code(i32),
    Signal(i32),
}

const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_FOWNER: u32 = 3;
const CAP_KILL: u32 = 5;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;
/// What a supervisor keeps.
const SUPERVISOR_CAPS: u64 =
    1 << CAP_CHOWN | 1 << CAP_KILL | 1 << CAP_SETGID | 1 << CAP_SETUID | 1 << CAP_SETPCAP;
/// What a worker keeps that is root: rights over files.
const FILE_CAPS: u64 = 1 << CAP_CHOWN | 1 << CAP_DAC_OVERRIDE | 1 << CAP_FOWNER;
/// The last capability number that is tried; the kernel refuses the first it does not know.
const LAST_CAP: c_ulong = 63;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_long(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Forks a process that has one thread.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: the process has one thread, so no lock can be held by another.
    let pid = check(unsafe { libc::fork() })?;
    Ok(if pid == 0 {
        Fork::Child
    } else {
        Fork::Parent(pid)
    })
}

/// Ends a forked process without running what its parent registered for its own end.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

fn prctl(option: c_int, value: c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take integers only.
    check(unsafe { libc::prctl(option, value, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) }).map(drop)
}

/// Keeps others from tracing this process and from reading its `/proc` files.
pub(super) fn hide() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// For this process and all that it starts, for good. A kernel without filters
/// has its limit alone, which commands can set to another value. So has a process
/// without `no_new_privs`; whoever starts the agent sees to that, and helpers check.
pub(super) fn turn_core_dumps_off() -> io::Result<()> {
    // Where it is 0 already only some may set it to 1.
    spawn::limit(libc::RLIMIT_CORE, 1);
    let installed = filter::install(&filter::core_dumps());
    let unable = [libc::ENOSYS, libc::EINVAL, libc::EACCES];
    installed.or_else(|error| match error.raw_os_error() {
        Some(errno) if unable.contains(&errno) => Ok(()),
        _ => Err(error),
    })
}

/// Makes orphans among the descendants children of this process.
pub(super) fn adopt_orphans() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Sets the name that process lists show.
pub(super) fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the pointer is a terminated string that outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Starts a session of its own.
pub(super) fn new_session() {
    // SAFETY: always sound; it fails only where the process leads a group already.
    unsafe { libc::setsid() };
}

/// Makes descriptor `fd` this process's own.
pub(super) fn adopt(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on any number is sound.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open, was inherited for this purpose, and is taken once at start.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// As [`watch_signals`], and gives every signal its default meaning, except
/// SIGPIPE and SIGIO, which are ignored: a command can have the latter sent to any
/// process, as an owner of its descriptor. Forked children inherit that.
pub(super) fn take_signals(signals: &[i32]) -> io::Result<OwnedFd> {
    // The C library keeps numbers for itself, and whoever started us may have
    // set those to be ignored, so the kernel is asked: all zero is the default action.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the action is as long as the kernel's, no handler is
        // installed; some numbers are refused, which is fine.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    for signal in [libc::SIGPIPE, libc::SIGIO] {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    watch_signals(signals)
}

/// Blocks the signals that are read from the returned descriptor instead, and no other.
pub(super) fn watch_signals(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set is initialised; one thread.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) })?;
    // SAFETY: the set is initialised, -1 asks for a new descriptor.
    let fd = check(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    })?;
    // SAFETY: the descriptor was just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: all zero bytes are a valid set, and it is initialised before use.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in signals {
        // SAFETY: the set is initialised.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    set
}

/// The next pending signal and the process that sent it, 0 where that one is outside.
pub(super) fn next_signal(fd: BorrowedFd<'_>) -> Option<(i32, u32)> {
    const SIZE: usize = size_of::<libc::signalfd_siginfo>();
    let mut bytes = [0; SIZE];
    match rustix::io::read(fd, &mut bytes) {
        Ok(read) if read == SIZE => {
            // SAFETY: the kernel wrote one whole record of plain integers.
            let info: libc::signalfd_siginfo =
                unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
            Some((i32::try_from(info.ssi_signo).unwrap_or(0), info.ssi_pid))
        }
        _ => None,
    }
}

/// Sends a signal; a negative number means a process group.
pub(super) fn kill(pid: pid_t, signal: i32) -> io::Result<()> {
    // SAFETY: always sound.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Collects one ended child, without waiting.
pub(super) fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: the pointer is valid for the call.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Reaped::Running,
        pid if pid > 0 => Reaped::Child(
            pid,
            if libc::WIFSIGNALED(status) {
                Status::Signal(libc::WTERMSIG(status))
            } else {
                Status::Code(libc::WEXITSTATUS(status))
            },
        ),
        _ => Reaped::NoChildren,
    }
}

/// Closes every descriptor above 2 that is not in `keep`.
pub(super) fn close_all_but(keep: &mut [i32]) {
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.iter().copied().filter(|fd| *fd >= 3) {
        close_range(from, fd - 1);
        from = fd + 1;
    }
    close_range(from, i32::MAX);
}

fn close_range(from: i32, to: i32) {
    if from > to {
        return;
    }
    // SAFETY: the caller, a forked child, uses none of these descriptors any more.
    if unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } == 0 {
        return;
    }
    let mut open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    if open.is_empty() {
        open = (from..=to.min(65_536)).collect();
    }
    for fd in open {
        if (from..=to).contains(&fd) {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION: u32 = 0x2008_0522;

fn capabilities() -> io::Result<u64> {
    let mut header = CapHeader {
        version: CAP_VERSION,
        pid: 0,
    };
    let mut data = [CapData {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: header and data have the layout of version 3.
    check_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

fn set_capabilities(caps: u64) -> io::Result<()> {
    put_capabilities(caps, caps)
}

#[expect(clippy::cast_possible_truncation, reason = "halves of a set")]
fn put_capabilities(effective: u64, permitted: u64) -> io::Result<()> {
    let header = CapHeader {
        version: CAP_VERSION,
        pid: 0,
    };
    let data = [0, 32].map(|half| CapData {
        effective: (effective >> half) as u32,
        permitted: (permitted >> half) as u32,
        inheritable: 0,
    });
    // SAFETY: header and data have the layout of version 3.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
}

/// Takes the uid that no command has, and keeps all rights.
pub(super) fn become_apart(uid: u32) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1)?;
    // SAFETY: integers only; one thread, so the kernel's view is the process's.
    check_long(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    // They are kept, and not in force until they are asked for again.
    set_capabilities(capabilities()?)?;
    prctl(libc::PR_SET_KEEPCAPS, 0)?;
    // A change of credentials may have reset it.
    hide()
}

/// Gives this process's files in `/proc` to its own user, where nobody else is that.
pub(super) fn own_proc_files() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 1)
}

/// Keeps of the capabilities only those that starting and killing commands needs,
/// and reading what names users. The user stays the agent's, whom no command is.
pub(super) fn become_supervisor() -> io::Result<()> {
    set_capabilities(capabilities()? & (SUPERVISOR_CAPS | 1 << CAP_DAC_OVERRIDE))
}

/// Puts out of force what a supervisor needs until it knows its command's user; in
/// force again for the next one.
pub(super) fn put_file_rights(in_force: bool) -> io::Result<()> {
    let permitted = capabilities()?;
    let effective = if in_force {
        permitted
    } else {
        permitted & SUPERVISOR_CAPS
    };
    put_capabilities(effective, permitted)
}

/// Becomes a user for good. Of the capabilities root alone keeps those over
/// files: it is our own code that runs on, and `chown` is root's to do.
pub(super) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let keep = if uid == 0 { FILE_CAPS } else { 0 };
    drop_bounding()?;
    // SAFETY: the list is valid for its length; one thread.
    check_long(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: integers only.
    check_long(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: integers only.
    check_long(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    set_capabilities(capabilities()? & keep)?;
    no_new_privileges()?;
    hide()
}

/// Becomes a user whom no command is, for good and without any right. Its files in
/// `/proc` are its own then: those of a hidden process are root's.
pub(super) fn become_bridge(uid: u32) -> io::Result<()> {
    become_user(uid, uid, &[])?;
    own_proc_files()
}

/// Keeps the capabilities that came along without root from whatever is executed.
pub(super) fn keep_from_commands() -> io::Result<()> {
    // None is inheritable then, and so none ambient.
    set_capabilities(capabilities()?)
}

/// Drops every capability without a change of user.
pub(super) fn drop_rights() -> io::Result<()> {
    // Without SETPCAP the bounding set stays; no_new_privs makes it moot.
    let _ = drop_bounding();
    set_capabilities(0)?;
    no_new_privileges()
}

/// Set once the bounding set is empty, which every child inherits.
static BOUNDED: AtomicBool = AtomicBool::new(false);

/// Empties the bounding set ahead of the first command, so that none of them
/// has to. Without the right to, it is left to whoever must succeed.
pub(super) fn drop_bounding_early() {
    if drop_bounding().is_ok() {
        BOUNDED.store(true, Ordering::Relaxed);
    }
}

fn drop_bounding() -> io::Result<()> {
    if BOUNDED.load(Ordering::Relaxed) {
        return Ok(());
    }
    for cap in 0..=LAST_CAP {
        match prctl(libc::PR_CAPBSET_DROP, cap) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    // SAFETY: integers only. Old kernels have no ambient set.
    unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong,
            0 as c_ulong,
            0 as c_ulong,
            0 as c_ulong,
        )
    };
    Ok(())
}

fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Keeps freed buffers from staying with the allocator.
pub(super) fn trim_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: integers only, before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * 1024);
    }
}

/// The foreground process group of the terminal behind a master.
pub(super) fn foreground_group(master: BorrowedFd<'_>) -> Option<pid_t> {
    let mut group: pid_t = 0;
    // SAFETY: the pointer is valid for the call.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPGRP, &raw mut group) }).ok()?;
    (group > 1).then_some(group)
}
