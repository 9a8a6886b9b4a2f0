//! Starts a command as `vfork` would: the child borrows the memory of its
//! parent, which sleeps until the child has executed a program or given up.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::null;

use libc::{c_char, c_int, c_void};

use super::{check, drop_bounding, no_new_privileges, set_capabilities};

/// Bytes of the child's stack: it runs a few frames and no allocation.
const STACK: usize = 64 * 1024;

/// Whom the command becomes.
pub(in crate::guest) struct Credentials {
    pub(in crate::guest) uid: u32,
    pub(in crate::guest) gid: u32,
    pub(in crate::guest) groups: Vec<u32>,
}

/// Everything that the child needs, made before it exists.
pub(in crate::guest) struct Plan {
    /// Paths to try, in order.
    pub(in crate::guest) candidates: Vec<CString>,
    pub(in crate::guest) argv: Vec<CString>,
    pub(in crate::guest) env: Vec<CString>,
    pub(in crate::guest) workdir: CString,
    /// Descriptors, all above 2, that become 0, 1 and 2.
    pub(in crate::guest) stdio: [OwnedFd; 3],
    /// The file through which the command enters its cgroup, above 2 as well.
    pub(in crate::guest) group: Option<OwnedFd>,
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

struct Child<'a> {
    plan: &'a Plan,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    failed: Option<(Stage, c_int)>,
}

/// Starts the command and returns its process number once it executes.
pub(in crate::guest) fn spawn(plan: &Plan) -> Result<i32, (Stage, io::Error)> {
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        list.iter()
            .map(|text| text.as_ptr())
            .chain([null()])
            .collect()
    };
    let mut child = Child {
        plan,
        argv: pointers(&plan.argv),
        env: pointers(&plan.env),
        failed: None,
    };
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: the stack is aligned and its own; the parent sleeps until the child
    // has left this memory (CLONE_VFORK), so `child` and `stack` outlive its use.
    let pid = check(unsafe {
        libc::clone(
            start,
            top.cast::<c_void>(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut child).cast::<c_void>(),
        )
    })
    .map_err(|error| (Stage::Clone, error))?;
    // SAFETY: the child wrote it, if at all, before this process went on.
    match unsafe { std::ptr::read_volatile(&raw const child.failed) } {
        None => Ok(pid),
        Some((stage, errno)) => {
            // SAFETY: the child has ended; a null status is allowed.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            Err((stage, io::Error::from_raw_os_error(errno)))
        }
    }
}

extern "C" fn start(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a `Child` that nobody else touches while this runs.
    let child = unsafe { &mut *argument.cast::<Child<'_>>() };
    let (stage, error) = prepare_and_execute(child);
    child.failed = Some((stage, error.raw_os_error().unwrap_or(libc::EIO)));
    // SAFETY: ends this process alone.
    unsafe { libc::_exit(127) }
}

/// Runs in the child: no allocation, and no lock but those of a single thread.
fn prepare_and_execute(child: &Child<'_>) -> (Stage, io::Error) {
    let plan = child.plan;
    let last = io::Error::last_os_error;
    // SAFETY: plain calls on integers; descriptors are the child's own copies.
    unsafe {
        libc::setsid();
        if let Some(group) = &plan.group
            && libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1
        {
            return (Stage::Group, last());
        }
        if plan.tty && libc::ioctl(plan.stdio[0].as_raw_fd(), libc::TIOCSCTTY, 0) < 0 {
            return (Stage::Terminal, last());
        }
        for (to, from) in (0..).zip(&plan.stdio) {
            if libc::dup2(from.as_raw_fd(), to) < 0 {
                return (Stage::Descriptors, last());
            }
        }
        if libc::syscall(libc::SYS_close_range, 3, c_int::MAX, 0) < 0 {
            // The parent keeps few descriptors, all small.
            for fd in 3..256 {
                libc::close(fd);
            }
        }
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
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
            libc::execve(path.as_ptr(), child.argv.as_ptr(), child.env.as_ptr());
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
    drop_bounding()?;
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
    set_capabilities(0)?;
    no_new_privileges()
}
