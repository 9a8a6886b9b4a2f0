//! The raw calls that an attacker makes.
#![allow(
    unsafe_code,
    reason = "an attack is made of the calls that no library would make"
)]

use std::ffi::CStr;
use std::io;

/// An argument of a system call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    /// A number, or a pointer that points to nothing.
    Number(usize),
    /// A text.
    Text(&'static CStr),
    /// 16 KiB of zeroes, which the kernel may read and write.
    Room,
    /// A thing of the caller, by its address; it outlives the call.
    At(usize),
}

/// A C integer as an argument.
pub(crate) const fn int(number: i32) -> Arg {
    Arg::Number((number as isize).cast_unsigned())
}

/// A negative number as an argument.
pub(crate) const fn minus(number: usize) -> usize {
    0_usize.wrapping_sub(number)
}

/// The error of the last call.
fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// The address of a thing, for [`Arg::At`].
pub(crate) fn at<T>(thing: &mut T) -> Arg {
    Arg::At(std::ptr::from_mut(thing) as usize)
}

/// Makes a system call: its result, or the error's number.
pub(crate) fn call(number: libc::c_long, arguments: &[Arg]) -> Result<usize, i32> {
    let mut room = vec![0_u64; 2048];
    let mut raw = [0_usize; 6];
    for (place, argument) in raw.iter_mut().zip(arguments) {
        *place = match argument {
            Arg::Number(number) | Arg::At(number) => *number,
            Arg::Text(text) => text.as_ptr() as usize,
            Arg::Room => room.as_mut_ptr() as usize,
        };
    }
    // SAFETY: pointers are to texts of this program, to `room`, or to things of
    // the caller that are as large as this call says; numbers are none that
    // the kernel writes to.
    let result = unsafe { libc::syscall(number, raw[0], raw[1], raw[2], raw[3], raw[4], raw[5]) };
    usize::try_from(result).map_err(|_| errno())
}

/// Ends this process after some seconds.
pub(crate) fn end_in(seconds: u32) {
    // SAFETY: sets a timer of this process.
    unsafe { libc::alarm(seconds) };
}

/// Runs something in a process of its own: its exit code, or 128 and the number
/// of the signal that ended it.
pub(crate) fn in_a_child(work: impl FnOnce() -> i32) -> Result<i32, i32> {
    // SAFETY: this program has one thread where it forks.
    match unsafe { libc::fork() } {
        -1 => Err(errno()),
        // SAFETY: ends the child without running what is the parent's.
        0 => unsafe { libc::_exit(work()) },
        pid => Ok(wait(pid)),
    }
}

/// Makes a process that waits until it is ended.
pub(crate) fn idle_child() -> Result<i32, i32> {
    // SAFETY: this program has one thread where it forks; the child does
    // nothing but wait for signals.
    match unsafe { libc::fork() } {
        -1 => Err(errno()),
        0 => loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        },
        pid => Ok(pid),
    }
}

/// Ends a child and takes it away.
pub(crate) fn end(pid: i32) {
    // SAFETY: a signal to a child of this process that was not waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait(pid);
}

/// Waits for a child.
pub(crate) fn wait(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: the status is written to a local.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if waited >= 0 || errno() != libc::EINTR {
            break;
        }
    }
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

/// Makes a process in new namespaces; whether that worked.
pub(crate) fn clone_with(flags: i32) -> Result<(), i32> {
    // SAFETY: without CLONE_VM this is a fork; the child does nothing but exit.
    unsafe {
        match libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) {
            -1 => Err(errno()),
            0 => libc::_exit(0),
            pid => {
                wait(i32::try_from(pid).unwrap_or(-1));
                Ok(())
            }
        }
    }
}

/// The same by the newer call, whose flags a filter cannot see.
pub(crate) fn clone3_with(flags: i32) -> Result<(), i32> {
    let signal = u64::from(libc::SIGCHLD.unsigned_abs());
    let arguments = [u64::from(flags.unsigned_abs()), 0, 0, 0, signal, 0, 0, 0];
    // SAFETY: the arguments outlive the call. Without CLONE_VM this is a fork;
    // the child does nothing but exit.
    unsafe {
        match libc::syscall(libc::SYS_clone3, arguments.as_ptr(), 64_usize) {
            -1 => Err(errno()),
            0 => libc::_exit(0),
            pid => {
                wait(i32::try_from(pid).unwrap_or(-1));
                Ok(())
            }
        }
    }
}

/// A call of the 32-bit machine: `bpf` with a size that its first check refuses.
#[cfg(target_arch = "x86_64")]
pub(crate) fn bpf_of_i386() -> Result<usize, i32> {
    const BPF: u64 = 357;
    let result: i64;
    // SAFETY: the kernel reads no memory: the size is refused before. `rbx`,
    // which the compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg {command}, rbx",
            "int 0x80",
            "xchg {command}, rbx",
            command = inout(reg) 0_u64 => _,
            inlateout("rax") BPF => result,
            in("rcx") 0_u64,
            in("rdx") 8192_u64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    usize::try_from(result).map_err(|_| i32::try_from(-result).unwrap_or(libc::EIO))
}

/// The user and the effective capabilities' number of this process.
pub(crate) fn user() -> u32 {
    // SAFETY: asks the kernel for a number.
    unsafe { libc::geteuid() }
}

/// The parent of this process.
pub(crate) fn parent() -> i32 {
    // SAFETY: asks the kernel for a number.
    unsafe { libc::getppid() }
}

/// The mask of new files.
pub(crate) fn mask(mode: u32) {
    // SAFETY: sets a number of this process.
    unsafe { libc::umask(mode) };
}

/// Memory that nobody shares: its address. It goes with this process.
pub(crate) fn memory(bytes: usize) -> Result<Memory, i32> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(errno());
    }
    Ok(Memory { address, bytes })
}

/// A mapping.
#[derive(Debug)]
pub(crate) struct Memory {
    address: *mut libc::c_void,
    bytes: usize,
}

impl Memory {
    /// Writes to each page.
    pub(crate) fn touch(&self) {
        for page in (0..self.bytes).step_by(4096) {
            // SAFETY: within the mapping, which lives until the end.
            unsafe { self.address.cast::<u8>().add(page).write_volatile(1) };
        }
    }

    /// Keeps it from being swapped out.
    pub(crate) fn lock(&self) -> Result<(), i32> {
        // SAFETY: the mapping is this large.
        match unsafe { libc::mlock(self.address, self.bytes) } {
            0 => Ok(()),
            _ => Err(errno()),
        }
    }
}

/// A file by its number, which is this process's own.
pub(crate) fn file(number: i32) -> std::fs::File {
    use std::os::fd::FromRawFd as _;
    // SAFETY: the caller has just got the number from the kernel and gives it
    // to nobody else.
    unsafe { std::fs::File::from_raw_fd(number) }
}

/// The time that this process has computed.
pub(crate) fn processor_time() -> std::time::Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time is written to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let rest = u64::try_from(time.tv_nsec).unwrap_or_default();
    std::time::Duration::from_secs(seconds) + std::time::Duration::from_nanos(rest)
}

/// The group of this process.
pub(crate) fn group() -> u32 {
    // SAFETY: asks the kernel for a number.
    unsafe { libc::getegid() }
}

/// Writes all of it to a descriptor.
pub(crate) fn write(stream: i32, mut bytes: &[u8]) -> Result<(), i32> {
    while !bytes.is_empty() {
        // SAFETY: reads within the slice.
        let count = unsafe { libc::write(stream, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(count) {
            Ok(count) => bytes = &bytes[count..],
            Err(_) if errno() == libc::EINTR => {}
            Err(_) => return Err(errno()),
        }
    }
    Ok(())
}

/// Writes what a descriptor takes at once; nothing where that is nothing.
pub(crate) fn write_now(stream: i32, bytes: &[u8]) -> Option<usize> {
    let mut polled = libc::pollfd {
        fd: stream,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry, which outlives the call.
    let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
    if ready != 1 || polled.revents & libc::POLLOUT == 0 {
        return None;
    }
    // A pipe that says so has room for a page, however much there is to write.
    let page = &bytes[..bytes.len().min(4096)];
    // SAFETY: reads within the slice.
    let count = unsafe { libc::write(stream, page.as_ptr().cast(), page.len()) };
    usize::try_from(count).ok()
}

/// Does nothing for some milliseconds.
pub(crate) fn rest(milliseconds: i32) {
    // SAFETY: no descriptors are looked at.
    unsafe { libc::poll(std::ptr::null_mut(), 0, milliseconds) };
}

/// Ends this process, and says nothing more.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: ends this process alone.
    unsafe { libc::_exit(code) }
}

/// Runs something in a process that goes on when this one ends.
pub(crate) fn leave_behind(work: impl FnOnce()) -> Result<(), i32> {
    // SAFETY: this program has one thread where it forks.
    match unsafe { libc::fork() } {
        -1 => Err(errno()),
        0 => {
            end_in(60);
            work();
            // SAFETY: ends the child without running what is the parent's.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(()),
    }
}
