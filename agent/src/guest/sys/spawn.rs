//! Starts a command much as `vfork` would: the child borrows the memory of its
//! parent, which sleeps until the child has executed a program or given up.
//! Unlike with `vfork` the child is there before its command is known.

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, IntoRawFd as _, OwnedFd};
use std::ptr::null;

use libc::{c_char, c_int, c_void};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::packet;

use super::{capabilities, check, drop_bounding, no_new_privileges, set_capabilities};
use crate::confinement;

/// What root's programs get where the sandbox's privileges say so.
const ROOT_CAPS: u64 = confinement::bits(&confinement::ROOT_CAPABILITIES);
/// Bytes of the child's stack: it runs a few frames and no allocation.
const STACK: usize = 64 * 1024;
/// Cgroups that a command enters: of processes, and of memory where the kernel
/// has these apart.
pub(in crate::guest) const MOST_GROUPS: usize = 2;

/// Whom the command becomes.
pub(in crate::guest) struct Credentials {
    pub(in crate::guest) uid: u32,
    pub(in crate::guest) gid: u32,
    pub(in crate::guest) groups: Vec<u32>,
    /// Whether root's programs, and set-id ones, get what the bounding set has.
    pub(in crate::guest) namespaced_root: bool,
}

/// Everything that the child needs, made before it exists.
pub(in crate::guest) struct Plan {
    /// Paths to try, in order.
    pub(in crate::guest) candidates: Vec<CString>,
    pub(in crate::guest) argv: Vec<CString>,
    pub(in crate::guest) env: Vec<CString>,
    pub(in crate::guest) workdir: CString,
    /// What becomes 0, 1 and 2.
    pub(in crate::guest) stdio: [OwnedFd; 3],
    pub(in crate::guest) tty: bool,
    /// `None` keeps the parent's user.
    pub(in crate::guest) credentials: Option<Credentials>,
    pub(in crate::guest) open_files: Option<u64>,
}

/// Where a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guest) enum Stage {
    Clone,
    Group,
    Terminal,
    Descriptors,
    Credentials,
    Workdir,
    Execute,
}

/// What parent and child share. One of them sleeps whenever the other looks.
struct Shared {
    /// The child's end of the channel, and the parent's end as the child has it.
    channels: [c_int; 2],
    /// The files through which the command enters its cgroups; -1 for none.
    groups: [c_int; MOST_GROUPS],
    /// Whether it does that before it knows its command.
    enter: bool,
    order: Option<Order>,
    failed: Option<(Stage, c_int)>,
}

/// The command, once it is known. All of it outlives the child's use.
#[derive(Clone, Copy)]
struct Order {
    plan: *const Plan,
    argv: *const *const c_char,
    env: *const *const c_char,
}

/// What one child after the other runs on. Made once, as new memory costs the kernel
/// of some sandboxes much.
pub(in crate::guest) struct Stack(Vec<u128>);

impl Stack {
    pub(in crate::guest) fn new() -> Self {
        Self(vec![0; STACK / size_of::<u128>()])
    }
}

/// A child without a command. Dropped, it ends.
pub(in crate::guest) struct Waiting<'a> {
    pid: i32,
    /// `None` once it has its command.
    channel: Option<OwnedFd>,
    shared: *mut Shared,
    /// The child runs on it until this is gone.
    _stack: &'a mut Stack,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.channel.take().is_some() {
            collect(self.pid);
        }
        // SAFETY: it came from a box, and the child has left this memory.
        drop(unsafe { Box::from_raw(self.shared) });
    }
}

/// Waits for the end of a child.
pub(in crate::guest) fn collect(pid: i32) {
    // SAFETY: a null status is allowed.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Starts a child that waits for its command. It enters its cgroups through
/// `groups`, which are above 2; with `enter` at once.
pub(in crate::guest) fn wait<'a>(
    groups: &[OwnedFd],
    enter: bool,
    stack: &'a mut Stack,
) -> io::Result<Waiting<'a>> {
    let (ours, theirs) = packet::pair()?;
    let mut raw = [-1; MOST_GROUPS];
    for (raw, group) in raw.iter_mut().zip(groups) {
        *raw = group.as_raw_fd();
    }
    let shared = Box::into_raw(Box::new(Shared {
        channels: [theirs.as_raw_fd(), ours.as_raw_fd()],
        groups: raw,
        enter,
        order: None,
        failed: None,
    }));
    let top = stack.0.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the stack is aligned and the child's own. It and `shared` are kept
    // until the child has executed a program or ended.
    match check(unsafe { libc::clone(start, top.cast::<c_void>(), flags, shared.cast()) }) {
        Err(error) => {
            // SAFETY: it came from a box, and there is no child.
            drop(unsafe { Box::from_raw(shared) });
            Err(error)
        }
        Ok(pid) => Ok(Waiting {
            pid,
            channel: Some(ours),
            shared,
            _stack: stack,
        }),
    }
}

impl Waiting<'_> {
    /// Has the child execute the command and returns its process number.
    pub(in crate::guest) fn execute(mut self, plan: &Plan) -> Result<i32, (Stage, io::Error)> {
        let pointers = |list: &[CString]| -> Vec<*const c_char> {
            list.iter()
                .map(|text| text.as_ptr())
                .chain([null()])
                .collect()
        };
        let (argv, env) = (pointers(&plan.argv), pointers(&plan.env));
        // SAFETY: the child sleeps until it is sent something.
        unsafe {
            (*self.shared).order = Some(Order {
                plan,
                argv: argv.as_ptr(),
                env: env.as_ptr(),
            });
        }
        let Some(channel) = self.channel.take() else {
            return Err((Stage::Clone, Errno::BADF.into()));
        };
        let fds: [BorrowedFd<'_>; 3] = plan.stdio.each_ref().map(|fd| fd.as_fd());
        let sent = packet::send_bytes(channel.as_fd(), &[1], &fds);
        if sent.is_ok() {
            // Its end closes as it executes a program or ends.
            while rustix::net::recv(&channel, &mut [0_u8; 1][..], RecvFlags::empty())
                == Err(Errno::INTR)
            {}
        }
        drop(channel);
        // SAFETY: the child has left this memory, or sleeps and will see the end
        // of the channel.
        let failed = unsafe { std::ptr::read_volatile(&raw const (*self.shared).failed) };
        let failed = match sent {
            Err(error) => Some((
                Stage::Descriptors,
                error.raw_os_error().unwrap_or(libc::EIO),
            )),
            Ok(()) => failed,
        };
        let Some((stage, errno)) = failed else {
            return Ok(self.pid);
        };
        collect(self.pid);
        Err((stage, io::Error::from_raw_os_error(errno)))
    }
}

/// Runs in the child: the standard streams, once they come. `None` where the
/// parent is gone.
fn receive_stdio(channel: BorrowedFd<'_>) -> Option<[c_int; 3]> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    while rustix::net::recvmsg(channel, &mut parts, &mut ancillary, flags).err()
        == Some(Errno::INTR)
    {}
    let mut stdio = [-1; 3];
    let mut free = stdio.iter_mut();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            for (place, fd) in free.by_ref().zip(fds) {
                *place = fd.into_raw_fd();
            }
        }
    }
    stdio.iter().all(|fd| *fd > 2).then_some(stdio)
}

extern "C" fn start(argument: *mut c_void) -> c_int {
    let shared = argument.cast::<Shared>();
    // SAFETY: the parent does not change it before it has sent something.
    let ([theirs, ours], mut groups, enter) =
        unsafe { ((*shared).channels, (*shared).groups, (*shared).enter) };
    // SAFETY: its own copy. The parent's end must be the parent's alone.
    unsafe { libc::close(ours) };
    // SAFETY: open until this process executes a program or ends.
    let channel = unsafe { BorrowedFd::borrow_raw(theirs) };
    if enter {
        for group in &mut groups {
            // One that could not is tried again, and told, when it has its command.
            // SAFETY: a plain call on a copied descriptor.
            if *group >= 0 && unsafe { enter_group(*group) } {
                *group = -1;
            }
        }
    }
    let stdio = receive_stdio(channel);
    // SAFETY: the parent sleeps now, or is gone and nobody else looks.
    let shared = unsafe { &mut *shared };
    if let (Some(stdio), Some(order)) = (stdio, shared.order) {
        let (stage, error) = prepare_and_execute(theirs, groups, stdio, order);
        shared.failed = Some((stage, error.raw_os_error().unwrap_or(libc::EIO)));
    }
    // SAFETY: ends this process alone.
    unsafe { libc::_exit(127) }
}

/// Moves the caller to the cgroup of this file. No allocation and no lock.
///
/// # Safety
///
/// `group` must be open.
unsafe fn enter_group(group: c_int) -> bool {
    // SAFETY: the byte is static, the descriptor the caller's to promise.
    unsafe { libc::write(group, c"0".as_ptr().cast(), 1) == 1 }
}

/// Runs in the child: no allocation, and no lock but those of a single thread.
fn prepare_and_execute(
    channel: c_int,
    groups: [c_int; MOST_GROUPS],
    stdio: [c_int; 3],
    order: Order,
) -> (Stage, io::Error) {
    // SAFETY: the parent keeps all of it until it is told of the end.
    let plan = unsafe { &*order.plan };
    let last = io::Error::last_os_error;
    // SAFETY: plain calls on integers; descriptors are the child's own copies.
    unsafe {
        libc::setsid();
        for group in groups {
            if group >= 0 && !enter_group(group) {
                return (Stage::Group, last());
            }
        }
        if plan.tty && libc::ioctl(stdio[0], libc::TIOCSCTTY, 0) < 0 {
            return (Stage::Terminal, last());
        }
        for (to, from) in (0..).zip(stdio) {
            if libc::dup2(from, to) < 0 {
                return (Stage::Descriptors, last());
            }
        }
        // The parent learns of the program by the end of the channel.
        let below = channel == 3 || libc::syscall(libc::SYS_close_range, 3, channel - 1, 0) == 0;
        if !below || libc::syscall(libc::SYS_close_range, channel + 1, c_int::MAX, 0) < 0 {
            // The parent keeps few descriptors, all small.
            for fd in (3..256).filter(|fd| *fd != channel) {
                libc::close(fd);
            }
        }
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGIO, libc::SIG_DFL);
        let none = super::signal_set(&[]);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::umask(0o022);
        // The agent may go before others; where it does not, this changes nothing.
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        if let Some(files) = plan.open_files {
            limit(libc::RLIMIT_NOFILE, files);
        }
    }
    if let Err(error) = take_credentials(plan) {
        return (Stage::Credentials, error);
    }
    // SAFETY: every pointer is a terminated string or list that outlives the call.
    unsafe {
        if libc::chdir(plan.workdir.as_ptr()) < 0 {
            return (Stage::Workdir, last());
        }
        let mut denied = false;
        for path in &plan.candidates {
            libc::execve(path.as_ptr(), order.argv, order.env);
            let error = last();
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = true,
                _ => return (Stage::Execute, error),
            }
        }
        let errno = if denied { libc::EACCES } else { libc::ENOENT };
        (Stage::Execute, io::Error::from_raw_os_error(errno))
    }
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = c_int;

/// Sets both limits, no higher than the hard one allows.
pub(super) fn limit(resource: Resource, value: u64) {
    let mut old = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointers are valid for the calls.
    unsafe {
        if libc::getrlimit(resource, &raw mut old) == 0 {
            let value = value.min(old.rlim_max);
            let new = libc::rlimit {
                rlim_cur: value,
                rlim_max: value,
            };
            libc::setrlimit(resource, &raw const new);
        }
    }
}

fn take_credentials(plan: &Plan) -> io::Result<()> {
    let Some(to) = &plan.credentials else {
        return super::drop_rights();
    };
    if !to.namespaced_root {
        drop_bounding()?;
    }
    // SAFETY: the list is valid for its length; raw calls change this process alone.
    unsafe {
        super::check_long(libc::syscall(
            libc::SYS_setgroups,
            to.groups.len(),
            to.groups.as_ptr(),
        ))?;
        super::check_long(libc::syscall(libc::SYS_setresgid, to.gid, to.gid, to.gid))?;
        super::check_long(libc::syscall(libc::SYS_setresuid, to.uid, to.uid, to.uid))?;
    }
    if !to.namespaced_root {
        set_capabilities(0)?;
        return no_new_privileges();
    }
    // Executing its program gives root the others; until then it enters its directory.
    let kept = if to.uid == 0 { ROOT_CAPS } else { 0 };
    set_capabilities(capabilities()? & kept)
}
