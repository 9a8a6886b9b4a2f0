//! The agent: PID 1 and the supervisor of this command, whom no command may
//! trace, read, signal or hold down.

use std::path::Path;

use crate::answer::Answer;
use crate::capabilities::with_file;
use crate::paths::{opened_for_writing, refused};
use crate::sys::{self, Arg};
use crate::{Attack, Told};
use Arg::Number as N;

pub(crate) const ATTACKS: &[Attack] = &[
    ("agent.trace", |_| trace(1)),
    ("agent.signal", |_| signal(1)),
    ("agent.read_memory", |_| read_memory(1)),
    ("agent.open_memory", |_| open("/proc/1/mem")),
    ("agent.environment", |_| open("/proc/1/environ")),
    ("agent.maps", |_| open("/proc/1/maps")),
    ("agent.read_program", |_| open("/proc/1/exe")),
    ("agent.write_program", write_program),
    ("agent.root", |_| list("/proc/1/root")),
    ("agent.directory", |_| list("/proc/1/cwd")),
    ("agent.descriptors", |_| descriptors(1)),
    ("agent.namespaces", |_| link("/proc/1/ns/mnt")),
    ("agent.take_descriptor", take_descriptor),
    ("agent.limits", limits),
    ("agent.processors", processors),
    ("agent.out_of_memory", |_| {
        opened_for_writing(Path::new("/proc/1/oom_score_adj"))
    }),
    ("agent.trace_supervisor", |_| trace(parent())),
    ("agent.signal_supervisor", |_| signal(parent())),
    ("agent.read_supervisor", |_| read_memory(parent())),
    ("agent.supervisor_descriptors", |_| descriptors(parent())),
    ("agent.become_supervisor", |_| become_supervisor()),
    ("agent.set_id_of_supervisor", |_| set_id_of_supervisor()),
    ("agent.leaked_descriptors", leaked_descriptors),
    ("agent.own_program", own_program),
];

fn parent() -> usize {
    usize::try_from(sys::parent()).unwrap_or_default()
}

/// Seizes a process and lets it go at once.
fn trace(pid: usize) -> Answer {
    const SEIZE: usize = 0x4206;
    const DETACH: usize = 17;
    if pid == 0 {
        return Answer::silent(0, "the process is outside");
    }
    let seized = sys::call(libc::SYS_ptrace, &[N(SEIZE), N(pid), N(0), N(0)]);
    if seized.is_ok() {
        // It was not stopped; the kernel lets go when this process ends, too.
        let _ = sys::call(libc::SYS_ptrace, &[N(DETACH), N(pid), N(0), N(0)]);
    }
    Answer::of(seized, "it was seized")
}

/// Asks whether a signal could be sent, and sends none.
fn signal(pid: usize) -> Answer {
    if pid == 0 {
        return Answer::silent(0, "the process is outside");
    }
    let done = sys::call(libc::SYS_kill, &[N(pid), N(0)]);
    Answer::of(done, "it can be signalled")
}

/// The user of the supervisor, where it can be seen.
fn user_of_supervisor() -> Result<u32, Answer> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", parent()));
    let text = text.map_err(|_| Answer::silent(0, "the process is outside"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    let user = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    user.ok_or_else(|| Answer::unable("the status cannot be read"))
}

/// As that user a command could signal it.
fn become_supervisor() -> Answer {
    let user = match user_of_supervisor() {
        Ok(user) => N(user as usize),
        Err(answer) => return answer,
    };
    let keep = sys::minus(1);
    // Each way alone would do: signals ask for the real and the effective user.
    let done = sys::call(libc::SYS_setresuid, &[N(keep), user, N(keep)])
        .or_else(|_| sys::call(libc::SYS_setreuid, &[user, N(keep)]))
        .or_else(|_| sys::call(libc::SYS_setuid, &[user]));
    Answer::of(done, "this process became the supervisor's user")
}

/// With a set-id program of that user's whoever executes it would become it.
fn set_id_of_supervisor() -> Answer {
    let user = match user_of_supervisor() {
        Ok(user) => user,
        Err(answer) => return answer,
    };
    with_file(0o700, |path| {
        let descriptor = std::fs::File::open(path);
        let done = std::os::unix::fs::lchown(path, Some(user), None)
            .or_else(|_| std::os::unix::fs::chown(path, Some(user), None))
            .or_else(|_| std::os::unix::fs::fchown(descriptor?, Some(user), None));
        match done {
            Ok(()) => Answer::fired("a file was given to the supervisor's user"),
            Err(error) => refused(&error),
        }
    })
}

/// Reads where nothing is: which error comes tells whether it was allowed.
fn read_memory(pid: usize) -> Answer {
    if pid == 0 {
        return Answer::silent(0, "the process is outside");
    }
    let mut byte = 0_u8;
    let mut here = [std::ptr::from_mut(&mut byte) as usize, 1];
    let mut there = [1_usize, 1];
    let arguments = [
        N(pid),
        sys::at(&mut here),
        N(1),
        sys::at(&mut there),
        N(1),
        N(0),
    ];
    match sys::call(libc::SYS_process_vm_readv, &arguments) {
        Ok(_) | Err(libc::EFAULT) => Answer::fired("its memory can be read"),
        Err(errno) => Answer::silent(errno, ""),
    }
}

fn open(path: &str) -> Answer {
    match std::fs::File::open(path) {
        Ok(_) => Answer::fired("it opened"),
        Err(error) => refused(&error),
    }
}

fn list(path: &str) -> Answer {
    match std::fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Answer::fired("it was listed"),
        Ok(false) => Answer::silent(0, "it is empty"),
        Err(error) => refused(&error),
    }
}

/// Where the descriptors of a process lead; how many there are is no secret.
fn descriptors(pid: usize) -> Answer {
    match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => {
            Answer::any(
                entries
                    .flatten()
                    .map(|entry| match std::fs::read_link(entry.path()) {
                        Ok(_) => Answer::fired("where a descriptor leads was read"),
                        Err(error) => refused(&error),
                    }),
            )
        }
        Err(error) => refused(&error),
    }
}

fn link(path: &str) -> Answer {
    match std::fs::read_link(path) {
        Ok(_) => Answer::fired(format!("{path} was read")),
        Err(error) => refused(&error),
    }
}

/// A program that runs is not written: that it is busy is said to those only
/// who might.
fn write_program(_: &Told) -> Answer {
    busy(Path::new("/proc/1/exe"))
}

/// The program of this process may be shared with other sandboxes.
fn own_program(_: &Told) -> Answer {
    busy(Path::new(&format!("/proc/{}/exe", parent())))
}

fn busy(path: &Path) -> Answer {
    match std::fs::OpenOptions::new().write(true).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {
            Answer::fired("it might be written once it does not run")
        }
        Ok(_) => Answer::fired("it opened for writing"),
        Err(error) => refused(&error),
    }
}

fn take_descriptor(_: &Told) -> Answer {
    let pid = match sys::call(libc::SYS_pidfd_open, &[N(1), N(0)]) {
        Ok(pid) => pid,
        Err(errno) => return Answer::silent(errno, ""),
    };
    let taken = sys::call(libc::SYS_pidfd_getfd, &[N(pid), N(0), N(0)]);
    match taken {
        // That it has no such descriptor is said to those only who may take one.
        Ok(_) | Err(libc::EBADF) => Answer::fired("a descriptor can be taken"),
        Err(errno) => Answer::silent(errno, ""),
    }
}

/// Sets a limit of PID 1 to what it is.
fn limits(_: &Told) -> Answer {
    let mut limit = [0_u64; 2];
    let files = N(usize::try_from(libc::RLIMIT_NOFILE).unwrap_or_default());
    let read = sys::call(
        libc::SYS_prlimit64,
        &[N(1), files, N(0), sys::at(&mut limit)],
    );
    let set = read.and_then(|_| {
        sys::call(
            libc::SYS_prlimit64,
            &[N(1), files, sys::at(&mut limit), N(0)],
        )
    });
    Answer::of(set, "its limit was set to what it is")
}

/// Sets the processors of PID 1 to what they are.
fn processors(_: &Told) -> Answer {
    let mut mask = [0_u64; 128];
    let size = N(size_of_val(&mask));
    let read = sys::call(
        libc::SYS_sched_getaffinity,
        &[N(1), size, sys::at(&mut mask)],
    );
    let set = read.and_then(|_| {
        sys::call(
            libc::SYS_sched_setaffinity,
            &[N(1), size, sys::at(&mut mask)],
        )
    });
    Answer::of(set, "its processors were set to what they are")
}

/// Descriptors of this process that are neither the three of every command nor
/// its own.
fn leaked_descriptors(_: &Told) -> Answer {
    let open = sys::call(
        libc::SYS_openat,
        &[sys::int(libc::AT_FDCWD), Arg::Text(c"/dev/null"), N(0)],
    );
    let own_list = format!("/proc/{}/fd", std::process::id());
    // The kernel gives the lowest free number: what lies below was there before.
    let lowest = open.unwrap_or(3);
    let others = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let leaked = others.filter_map(|entry| {
        let number: usize = entry.file_name().to_str()?.parse().ok()?;
        let to = std::fs::read_link(entry.path()).ok()?;
        let own = number < 3 || number == lowest || to.as_os_str() == own_list.as_str();
        (!own).then(|| format!("{number} is {}", to.display()))
    });
    // Seen without `/proc` as well.
    let blind = (3..lowest).next().map(|number| format!("{number} is open"));
    match leaked.into_iter().next().or(blind) {
        Some(found) => Answer::fired(found),
        None => Answer::silent(0, "there are only its own three"),
    }
}
