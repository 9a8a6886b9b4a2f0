//! System calls that no sandbox needs. Most are made with arguments that the
//! kernel's own first check refuses: which error comes tells whether the call
//! got there.

use crate::answer::Answer;
use crate::sys::{self, Arg, int as n, minus};
use Arg::{Number as N, Room, Text as T};

/// When such a call has fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// It worked.
    Done,
    /// The kernel's code behind it answered, whatever it said.
    Reached,
}
use When::{Done, Reached};

type Row = (&'static str, libc::c_long, &'static [Arg], When);

const RAW: Arg = n(libc::SOCK_RAW);
/// Larger than any structure of such a call, and than a page.
const TOO_LARGE: Arg = N(8192);
/// Flags that no call knows.
const UNKNOWN: Arg = N(0xFFFF_FFFF);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("seccomp.af_alg", libc::SYS_socket, &[n(libc::AF_ALG), n(libc::SOCK_SEQPACKET), N(0)], Done),
    ("seccomp.af_vsock", libc::SYS_socket, &[n(libc::AF_VSOCK), n(libc::SOCK_STREAM), N(0)], Done),
    ("seccomp.netlink_audit", libc::SYS_socket, &[n(libc::AF_NETLINK), RAW, n(libc::NETLINK_AUDIT)], Done),
    ("seccomp.netlink_uevent", libc::SYS_socket, &[n(libc::AF_NETLINK), RAW, n(libc::NETLINK_KOBJECT_UEVENT)], Done),
    ("seccomp.netlink_netfilter", libc::SYS_socket, &[n(libc::AF_NETLINK), RAW, n(libc::NETLINK_NETFILTER)], Done),
    ("seccomp.bpf", libc::SYS_bpf, &[N(0), Room, TOO_LARGE], Reached),
    ("seccomp.keyctl", libc::SYS_keyctl, &[N(0), N(minus(3)), N(0)], Reached),
    ("seccomp.add_key", libc::SYS_add_key, &[N(1), N(1), N(0), N(0), N(minus(2))], Reached),
    ("seccomp.request_key", libc::SYS_request_key, &[N(1), N(1), N(0), N(0)], Reached),
    ("seccomp.userfaultfd", libc::SYS_userfaultfd, &[N(1)], Reached),
    ("seccomp.perf_event_open", libc::SYS_perf_event_open, &[Room, N(0), N(0), N(minus(1)), UNKNOWN], Reached),
    ("seccomp.io_uring", libc::SYS_io_uring_setup, &[N(0), Room], Reached),
    ("seccomp.unshare_user", libc::SYS_unshare, &[n(libc::CLONE_NEWUSER)], Done),
    ("seccomp.unshare_mount", libc::SYS_unshare, &[n(libc::CLONE_NEWNS)], Done),
    ("seccomp.unshare_network", libc::SYS_unshare, &[n(libc::CLONE_NEWNET)], Done),
    ("seccomp.setns", libc::SYS_setns, &[N(minus(1)), N(0)], Reached),
    ("seccomp.fsopen", libc::SYS_fsopen, &[T(c"tmpfs"), N(0)], Done),
    ("seccomp.open_tree", libc::SYS_open_tree, &[n(libc::AT_FDCWD), T(c"/"), N(0)], Reached),
    ("seccomp.move_mount", libc::SYS_move_mount, &[N(minus(1)), T(c""), N(minus(1)), T(c""), UNKNOWN], Reached),
    ("seccomp.mount_setattr", libc::SYS_mount_setattr, &[N(minus(1)), T(c""), UNKNOWN, Room, N(32)], Reached),
    ("seccomp.umount", libc::SYS_umount2, &[T(c"/proc"), UNKNOWN], Reached),
    ("seccomp.pivot_root", libc::SYS_pivot_root, &[N(1), N(1)], Reached),
    ("seccomp.chroot", libc::SYS_chroot, &[N(1)], Reached),
    ("seccomp.kexec_load", libc::SYS_kexec_load, &[N(0), N(0), N(0), UNKNOWN], Reached),
    ("seccomp.init_module", libc::SYS_init_module, &[N(0), N(0), T(c"")], Reached),
    ("seccomp.finit_module", libc::SYS_finit_module, &[N(minus(1)), T(c""), UNKNOWN], Reached),
    ("seccomp.delete_module", libc::SYS_delete_module, &[N(1), N(0)], Reached),
    // Without its magic numbers it does nothing for anybody.
    ("seccomp.reboot", libc::SYS_reboot, &[N(0), N(0), N(0), N(0)], Reached),
    ("seccomp.swapon", libc::SYS_swapon, &[T(c""), UNKNOWN], Reached),
    ("seccomp.swapoff", libc::SYS_swapoff, &[N(1)], Reached),
    ("seccomp.acct", libc::SYS_acct, &[N(1)], Reached),
    ("seccomp.quotactl", libc::SYS_quotactl, &[UNKNOWN, N(0), N(0), N(0)], Reached),
    ("seccomp.open_by_handle_at", libc::SYS_open_by_handle_at, &[n(libc::AT_FDCWD), N(1), N(0)], Reached),
    ("seccomp.name_to_handle_at", libc::SYS_name_to_handle_at, &[n(libc::AT_FDCWD), T(c"/"), Room, Room, UNKNOWN], Reached),
    ("seccomp.fanotify_init", libc::SYS_fanotify_init, &[N(0x200), N(0)], Done),
    ("seccomp.personality", libc::SYS_personality, &[N(0x004_0000)], Done),
    ("seccomp.kcmp", libc::SYS_kcmp, &[N(minus(1)), N(minus(1)), UNKNOWN], Reached),
    ("seccomp.pidfd_getfd", libc::SYS_pidfd_getfd, &[N(minus(1)), N(0), UNKNOWN], Reached),
    // F_SETSIG, by which any signal reaches whoever owns a descriptor.
    ("seccomp.descriptor_signal", libc::SYS_fcntl, &[N(minus(1)), N(10), n(libc::SIGKILL)], Reached),
    ("seccomp.process_madvise", libc::SYS_process_madvise, &[N(minus(1)), Room, N(0), N(0), UNKNOWN], Reached),
    ("seccomp.set_mempolicy", libc::SYS_set_mempolicy, &[N(0), N(0), N(0)], Done),
    ("seccomp.move_pages", libc::SYS_move_pages, &[N(0), N(0), N(0), N(0), N(0), UNKNOWN], Reached),
    ("seccomp.lsm_list_modules", 461, &[Room, Room, UNKNOWN], Reached),
    ("kernel_log.syslog", libc::SYS_syslog, &[N(3), Room, N(4096)], Done),
    ("clock.settimeofday", libc::SYS_settimeofday, &[N(0), N(0)], Done),
    // A time that cannot be read is refused before it is set.
    ("clock.clock_settime", libc::SYS_clock_settime, &[N(0), N(1)], Reached),
    ("clock.wake_alarm", libc::SYS_timerfd_create, &[n(libc::CLOCK_REALTIME_ALARM), N(0)], Done),
];

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OF_X86: &[Row] = &[
    ("seccomp.iopl", libc::SYS_iopl, &[N(3)], Done),
    ("seccomp.ioperm", libc::SYS_ioperm, &[N(0x80), N(1), N(1)], Done),
    ("seccomp.sysfs", libc::SYS_sysfs, &[N(3)], Reached),
    ("seccomp.ustat", libc::SYS_ustat, &[N(0), Room], Reached),
];
#[cfg(not(target_arch = "x86_64"))]
const OF_X86: &[Row] = &[];

type Other = (&'static str, fn() -> Answer);

/// Attacks of this file that take more than one call.
const OTHERS: &[Other] = &[
    ("seccomp.clone_user", || {
        made(sys::clone_with(libc::CLONE_NEWUSER))
    }),
    ("seccomp.clone_mount", || {
        made(sys::clone_with(libc::CLONE_NEWNS))
    }),
    ("seccomp.clone3_user", || {
        made(sys::clone3_with(libc::CLONE_NEWUSER))
    }),
    ("seccomp.mount", mount),
    ("seccomp.bind_mount", bind_mount),
    ("seccomp.other_machine", other_machine),
    ("seccomp.rare_families", rare_families),
    ("seccomp.terminal_input", terminal_input),
    ("seccomp.hostname", hostname),
    ("clock.adjust", adjust),
];

fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(OF_X86)
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let others = OTHERS.iter().map(|(name, _)| *name);
    rows().map(|row| row.0).chain(others)
}

pub(crate) fn run(name: &str) -> Option<Answer> {
    if let Some((_, attack)) = OTHERS.iter().find(|(known, _)| *known == name) {
        return Some(attack());
    }
    let (_, number, arguments, when) = rows().find(|row| row.0 == name)?;
    Some(judge(sys::call(*number, arguments), *when))
}

fn judge(result: Result<usize, i32>, when: When) -> Answer {
    match result {
        Ok(_) => Answer::fired("the call worked"),
        Err(errno @ (libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EAFNOSUPPORT)) => {
            Answer::silent(errno, "")
        }
        Err(errno) if when == Reached => {
            Answer::fired(format!("the kernel judged the arguments: error {errno}"))
        }
        Err(errno) => Answer::silent(errno, ""),
    }
}

fn made(result: Result<(), i32>) -> Answer {
    Answer::of(result, "a process was made in a namespace of its own")
}

fn mount_call(
    source: &'static std::ffi::CStr,
    kind: &'static std::ffi::CStr,
    flags: u64,
) -> Answer {
    let flags = usize::try_from(flags).unwrap_or_default();
    let place = T(c"/tmp");
    let done = sys::call(
        libc::SYS_mount,
        &[T(source), place, T(kind), N(flags), N(0)],
    );
    if done.is_ok() {
        // Nobody else should see it; what cannot be undone is told all the same.
        let _ = sys::call(libc::SYS_umount2, &[place, n(libc::MNT_DETACH)]);
    }
    Answer::of(done, "it was mounted")
}

fn mount() -> Answer {
    mount_call(c"none", c"tmpfs", 0)
}

fn bind_mount() -> Answer {
    mount_call(c"/proc", c"", libc::MS_BIND)
}

#[cfg(target_arch = "x86_64")]
fn other_machine() -> Answer {
    const REFUSED: i32 = 128 + libc::SIGSYS;
    // A filter may end the process, and so does a kernel without such calls.
    let code = sys::in_a_child(|| match sys::bpf_of_i386() {
        Ok(_) => 0,
        Err(errno) => errno,
    });
    match code {
        Ok(code) if code < 128 => judge(if code == 0 { Ok(0) } else { Err(code) }, Reached),
        Ok(REFUSED) => Answer::silent(libc::ENOSYS, ""),
        Ok(_) => Answer::unable("this kernel has no 32-bit calls"),
        Err(errno) => Answer::silent(errno, ""),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn other_machine() -> Answer {
    Answer::unable("only x86-64 has calls of another machine")
}

/// Families that have had flaws and that no sandbox needs: AX.25, IPX, key
/// management, RDS, CAN, TIPC, Bluetooth, phonet, NFC, SMC, XDP.
fn rare_families() -> Answer {
    const FAMILIES: [usize; 11] = [3, 4, 15, 21, 29, 30, 31, 35, 39, 43, 44];
    Answer::any(FAMILIES.into_iter().flat_map(|family| {
        [
            libc::SOCK_STREAM,
            libc::SOCK_RAW,
            libc::SOCK_DGRAM,
            libc::SOCK_SEQPACKET,
        ]
        .map(|kind| {
            let made = sys::call(libc::SYS_socket, &[N(family), n(kind), N(0)]);
            Answer::of(made, &format!("a socket of family {family}"))
        })
    }))
}

/// Types into the input of a terminal, one of its own.
fn terminal_input() -> Answer {
    const TIOCSPTLCK: usize = 0x4004_5431;
    const TIOCGPTPEER: usize = 0x5441;
    const TIOCSCTTY: usize = 0x540E;
    const TIOCSTI: usize = 0x5412;
    let flags = n(libc::O_RDWR | libc::O_NOCTTY);
    let open = |path| sys::call(libc::SYS_openat, &[n(libc::AT_FDCWD), T(path), flags]);
    let Ok(master) = open(c"/dev/ptmx").or_else(|_| open(c"/dev/pts/ptmx")) else {
        return Answer::unable("there is no terminal");
    };
    let request =
        |fd, request, argument| sys::call(libc::SYS_ioctl, &[N(fd), N(request), argument]);
    let mut unlocked = 0_i32;
    // Where that fails there is no other end below.
    let _ = request(master, TIOCSPTLCK, sys::at(&mut unlocked));
    let Ok(own) = request(master, TIOCGPTPEER, flags) else {
        return Answer::unable("the terminal has no other end");
    };
    let code = sys::in_a_child(|| {
        // A session of its own, so that the terminal can be its own.
        let _ = sys::call(libc::SYS_setsid, &[]);
        let _ = request(own, TIOCSCTTY, N(0));
        let mut letter = b'x';
        request(own, TIOCSTI, sys::at(&mut letter)).map_or_else(|errno| errno, |_| 0)
    });
    match code {
        Ok(0) => Answer::fired("a letter was typed into a terminal"),
        Ok(errno) | Err(errno) => Answer::silent(errno, ""),
    }
}

/// Sets the host's name to what it is.
fn hostname() -> Answer {
    let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") else {
        return Answer::unable("the name cannot be read");
    };
    let mut name = name.trim_end().as_bytes().to_vec();
    let Some(first) = name.first_mut().map(sys::at) else {
        return Answer::unable("there is no name");
    };
    let set = sys::call(libc::SYS_sethostname, &[first, N(name.len())]);
    Answer::of(set, "the name was set to what it is")
}

/// Sets the frequency of the clock to what it is.
fn adjust() -> Answer {
    const FREQUENCY: u64 = 2;
    // `struct timex`: the modes are its first word, the frequency its third.
    let mut clock = [0_u64; 32];
    if let Err(errno) = sys::call(libc::SYS_adjtimex, &[sys::at(&mut clock)]) {
        return Answer::silent(errno, "the clock cannot be asked");
    }
    let mut same = [0_u64; 32];
    (same[0], same[2]) = (FREQUENCY, clock[2]);
    let set = sys::call(libc::SYS_adjtimex, &[sys::at(&mut same)]);
    Answer::of(set, "the frequency was set to what it is")
}
