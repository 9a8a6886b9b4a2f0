//! The system calls that no safe wrapper offers.

#![allow(unsafe_code, reason = "raw system calls, each with its reason")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A result of a system call.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Gives freed memory back to the kernel: what making a sandbox took is not
/// kept while it only waits.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: always sound.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The two sides of [`clone_into`].
pub(crate) enum Clone {
    /// In the new process.
    Child,
    /// In the old one.
    Parent {
        /// The new process's number.
        pid: libc::pid_t,
        /// A descriptor of it.
        pidfd: OwnedFd,
    },
}

/// Makes a process in new namespaces, and on v2 born in a cgroup.
pub(crate) fn clone_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Clone> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    // SAFETY: all zero is a valid clone_args; every pointer in it is optional.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(fd.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: the arguments are initialised and of the size that is given. No
    // stack is given, so this is a fork; the caller has one thread, so the
    // child may go on as an ordinary process.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        return Ok(Clone::Child);
    }
    Ok(Clone::Parent {
        pid: libc::pid_t::try_from(pid).map_err(io::Error::other)?,
        // SAFETY: the kernel made this descriptor for us and nobody else owns it.
        pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
    })
}

/// Changes the attributes of a mount, and, where asked, of those below it. It
/// shares no more with the mount that it is a copy of: what is mounted in one
/// would appear in the other, which may be the host's.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    recursive: bool,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: set
            | if user_namespace.is_some() {
                libc::MOUNT_ATTR_IDMAP
            } else {
                0
            },
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: user_namespace.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or_default()),
    };
    // SAFETY: the path is an empty C string, the attributes live across the
    // call and have the size that is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 },
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Becomes another program, given by its descriptor. Returns only an error.
pub(crate) fn execveat(program: BorrowedFd<'_>, name: &CStr) -> io::Error {
    let argv = [name.as_ptr(), std::ptr::null()];
    let environment = environment();
    let envp: Vec<*const libc::c_char> = environment
        .iter()
        .map(|variable| variable.as_ptr())
        .chain([std::ptr::null()])
        .collect();
    // SAFETY: the argument vectors are ended by null and live until the call
    // succeeds, which ends this program.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// What the agent finds in its environment: nothing, but in tests a fault.
fn environment() -> Vec<std::ffi::CString> {
    #[cfg(feature = "faults")]
    if let Some(fault) = crate::faults::selected() {
        let variable = format!("{}={fault}", crate::faults::VARIABLE);
        return std::ffi::CString::new(variable).into_iter().collect();
    }
    Vec::new()
}

/// Takes a uid and gid of 0 and no other groups.
pub(crate) fn become_root() -> io::Result<()> {
    // The raw calls, because there is one thread and nothing to synchronise.
    // SAFETY: no list is read as its length is 0.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) })?;
    // SAFETY: these calls take numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) })?;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) })?;
    Ok(())
}

/// Becomes a user for good; the group stays.
pub(crate) fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: this call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) }).map(drop)
}

/// Makes files for another user from here on, with the same rights over them
/// as before.
pub(crate) fn own_files_as(id: u32) -> io::Result<()> {
    // SAFETY: these calls take numbers, and answer with the old one always.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, id);
        libc::syscall(libc::SYS_setfsuid, id);
    }
    // SAFETY: as above; -1 is no user and changes nothing.
    let now = unsafe { libc::syscall(libc::SYS_setfsuid, -1) };
    if now != libc::c_long::from(id) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // The change took capabilities over files out of the effective set.
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}

/// Moves to new namespaces.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes a number; none of the flags used here shares less memory
    // or files with another thread, as there is none.
    check(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers; no descriptor is closed now.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Closes every descriptor past the standard ones but `kept`. Only for the
/// child of a clone, which drops none of what its parent owns.
pub(crate) fn close_all_but(kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.iter().copied().chain([RawFd::MAX]) {
        if fd > first {
            // SAFETY: the owners of these descriptors are copies in a process
            // that never returns to where they would be dropped.
            unsafe {
                libc::syscall(libc::SYS_close_range, first, fd - 1, 0);
            }
        }
        first = fd.saturating_add(1);
    }
}

/// Closes every descriptor from `first` on. Only for a program's first act,
/// when nothing owns any of them.
pub(crate) fn close_from(first: RawFd) {
    // SAFETY: called before any descriptor past the standard ones is owned.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
    }
}

/// Makes `fd` descriptor `number`, kept across exec.
pub(crate) fn place(fd: OwnedFd, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // SAFETY: clears the flags of a descriptor that we own.
        check(libc::c_long::from(unsafe {
            libc::fcntl(number, libc::F_SETFD, 0)
        }))?;
        std::mem::forget(fd);
        return Ok(());
    }
    // SAFETY: the caller is about to exec; whatever `number` was is not used again.
    check(libc::c_long::from(unsafe {
        libc::dup2(fd.as_raw_fd(), number)
    }))
    .map(drop)
}

/// Blocks SIGTERM and SIGINT and gives a descriptor that they make readable.
pub(crate) fn termination_signals() -> io::Result<OwnedFd> {
    // SAFETY: all zero is a valid empty set, which the calls then fill.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        check(libc::c_long::from(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const set,
            std::ptr::null_mut(),
        )))?;
        let fd = check(libc::c_long::from(libc::signalfd(
            -1,
            &raw const set,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )))?;
        Ok(OwnedFd::from_raw_fd(
            RawFd::try_from(fd).map_err(io::Error::other)?,
        ))
    }
}

/// Ignores a signal, or restores its default.
pub(crate) fn ignore_signal(signal: libc::c_int, ignore: bool) {
    let action = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler function is installed.
    unsafe {
        libc::signal(signal, action);
    }
}

/// Takes back every blocked signal.
pub(crate) fn unblock_signals() {
    // SAFETY: all zero is a valid empty set; the old one is not asked for.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zero is a valid ifreq; the name fits and is ended by zero;
    // the kernel reads and writes that one struct.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        request.ifr_ifru.ifru_flags =
            libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
        check(libc::c_long::from(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw const request,
        )))
        .map(drop)
    }
}

/// Asks the loop driver for a free device's number.
pub(crate) fn loop_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
    // SAFETY: this request takes no argument.
    let number = check(libc::c_long::from(unsafe {
        libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE)
    }))?;
    u32::try_from(number).map_err(io::Error::other)
}

/// What `LOOP_CONFIGURE` takes (`struct loop_config` of `linux/loop.h`).
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    // `struct loop_info64`: device, inode, rdevice, offset, size limit;
    // number, encryption type and key size; flags; names and key.
    places: [u64; 5],
    numbers: [u32; 3],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// Puts a file behind a loop device that frees itself when it is closed last.
pub(crate) fn loop_configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    let config = LoopConfig {
        fd: u32::try_from(file.as_raw_fd()).unwrap_or_default(),
        block_size: 0,
        places: [0; 5],
        numbers: [0; 3],
        flags: LO_FLAGS_AUTOCLEAR,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    const { assert!(size_of::<LoopConfig>() == 304) };
    // SAFETY: the struct has the layout of `struct loop_config` (304 bytes,
    // checked above) and lives across the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config)
    }))
    .map(drop)
}

/// Waits. The helper has one thread and no runtime that this could hold up.
#[expect(clippy::disallowed_methods, reason = "there is no runtime here")]
pub(crate) fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

/// Ends this process at once, without running anything on the way.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns; the child of a clone has nothing to flush.
    unsafe { libc::_exit(code) }
}
