//! Linux capabilities: what is held, and what each would allow.

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use stacyvm_agent::confinement::{ROOT_CAPABILITIES, bits};

use crate::answer::Answer;
use crate::paths::{own_name, refused};
use crate::sys::{self, Arg};
use crate::{Attack, Told};
use Arg::{Number as N, Text as T};

pub(crate) const ATTACKS: &[Attack] = &[
    ("capabilities.effective", |_| held(&["CapEff", "CapPrm"])),
    ("capabilities.bounding", |_| held(&["CapBnd"])),
    ("capabilities.beyond_root", |_| beyond_root()),
    ("capabilities.inheritable", |_| held(&["CapInh", "CapAmb"])),
    ("capabilities.after_exec", after_exec),
    ("capabilities.become_another", become_another),
    ("capabilities.join_group", join_group),
    ("capabilities.give_away", give_away),
    ("capabilities.read_any_file", read_any_file),
    ("capabilities.priority", |_| priority()),
    ("capabilities.realtime", |_| realtime()),
    ("capabilities.lock_memory", lock_memory),
    ("setuid.no_new_privileges", no_new_privileges),
    ("setuid.programs", programs),
    ("setuid.file_capability", file_capability),
];

/// A line of the status of this process.
pub(crate) fn status(key: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

fn held(keys: &[&str]) -> Answer {
    let values = keys.iter().map(|key| (key, status(key)));
    Answer::any(values.map(|(key, value)| match value {
        Some(value) if value.bytes().all(|b| b == b'0') => Answer::silent(0, "none is held"),
        Some(value) => Answer::fired(format!("{key} is {value}")),
        None => Answer::unable("the status cannot be read"),
    }))
}

/// Any but those that `privileges: namespaced_root` gives root's programs.
fn beyond_root() -> Answer {
    let given = bits(&ROOT_CAPABILITIES);
    Answer::any(["CapEff", "CapPrm", "CapBnd"].map(|key| {
        let set = status(key).and_then(|value| u64::from_str_radix(&value, 16).ok());
        match set.map(|set| set & !given) {
            Some(0) => Answer::silent(0, "there is none"),
            Some(others) => Answer::fired(format!("{key} has {others:016x} too")),
            None => Answer::unable("the status cannot be read"),
        }
    }))
}

/// What this program holds when it is started once more: root gains there.
fn after_exec(_: &Told) -> Answer {
    let again = std::process::Command::new(crate::OWN_PROGRAM)
        .arg("capabilities.effective")
        .output();
    match again {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains(r#""fired""#) => {
            Answer::fired("the program held some when it was started once more")
        }
        Ok(_) => Answer::silent(0, "none is held"),
        Err(error) => refused(&error),
    }
}

/// A number that is neither root's nor this user's.
fn another() -> usize {
    if sys::user() == 1 { 2 } else { 1 }
}

fn become_another(_: &Told) -> Answer {
    let user = N(another());
    let done = sys::call(libc::SYS_setresuid, &[user, user, user]);
    Answer::of(done, "this process became another user")
}

fn join_group(_: &Told) -> Answer {
    let mut groups = [4242_u32];
    let done = sys::call(libc::SYS_setgroups, &[N(1), sys::at(&mut groups)]);
    Answer::of(done, "this process joined another group")
}

/// A new file of this program, in the first directory that takes one.
fn new_file(mode: u32) -> Result<PathBuf, Answer> {
    let name = own_name();
    let mut last = Answer::unable("no directory can be written");
    for directory in ["/tmp", "/workspace", "/dev/shm"] {
        let path = PathBuf::from(directory).join(&name);
        match std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
        {
            Ok(_) => return Ok(path),
            Err(error) => last = refused(&error),
        }
    }
    Err(last)
}

/// Does something with a new file, and removes it.
pub(crate) fn with_file(mode: u32, work: impl FnOnce(&PathBuf) -> Answer) -> Answer {
    match new_file(mode) {
        Ok(path) => {
            let answer = work(&path);
            // It has no content, and its name says what made it.
            let _ = std::fs::remove_file(&path);
            answer
        }
        Err(answer) => answer,
    }
}

fn give_away(_: &Told) -> Answer {
    with_file(0o600, |path| {
        match std::os::unix::fs::chown(path, u32::try_from(another()).ok(), None) {
            Ok(()) => Answer::fired("a file was given to another user"),
            Err(error) => refused(&error),
        }
    })
}

fn read_any_file(_: &Told) -> Answer {
    with_file(0o600, |path| {
        if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o0)) {
            return refused(&error);
        }
        match std::fs::File::open(path) {
            Ok(_) => Answer::fired("a file that nobody may read was opened"),
            Err(error) => refused(&error),
        }
    })
}

fn priority() -> Answer {
    let done = sys::call(libc::SYS_setpriority, &[N(0), N(0), N(sys::minus(5))]);
    Answer::of(done, "this process goes before others")
}

fn realtime() -> Answer {
    let mut priority = 1_i32;
    let policy = N(usize::try_from(libc::SCHED_FIFO).unwrap_or_default());
    let done = sys::call(
        libc::SYS_sched_setscheduler,
        &[N(0), policy, sys::at(&mut priority)],
    );
    Answer::of(done, "this process runs before all others")
}

fn lock_memory(_: &Told) -> Answer {
    const BYTES: usize = 32 << 20;
    match sys::memory(BYTES).and_then(|memory| memory.lock()) {
        Ok(()) => Answer::fired("32 MiB were locked"),
        Err(errno) => Answer::silent(errno, ""),
    }
}

fn no_new_privileges(_: &Told) -> Answer {
    match status("NoNewPrivs").as_deref() {
        Some("1") => Answer::silent(0, "it is set"),
        Some(_) => Answer::fired("set-id programs give their owner's rights"),
        None => Answer::unable("the status cannot be read"),
    }
}

/// Set-id programs that would give root's rights.
fn programs(_: &Told) -> Answer {
    const PLACES: [&str; 6] = [
        "/bin/su",
        "/usr/bin/su",
        "/bin/mount",
        "/usr/bin/passwd",
        "/usr/bin/sudo",
        "/bin/busybox",
    ];
    let kept = status("NoNewPrivs").as_deref() == Some("1");
    Answer::any(PLACES.into_iter().filter_map(|place| {
        let found = std::fs::metadata(place).ok()?;
        let of_root = std::os::unix::fs::MetadataExt::uid(&found) == 0;
        let set = found.permissions().mode() & 0o4000 != 0;
        Some(match (set && of_root, kept) {
            (true, false) => Answer::fired(format!("{place} gives root's rights")),
            (true, true) => Answer::silent(0, "no_new_privileges is set"),
            (false, _) => Answer::silent(0, "no set-id program"),
        })
    }))
}

/// Gives a file a capability, with which it could be started.
fn file_capability(_: &Told) -> Answer {
    with_file(0o700, |path| {
        let Some(path) = path
            .to_str()
            .and_then(|path| std::ffi::CString::new(path).ok())
        else {
            return Answer::unable("the name is no text");
        };
        // Version 2, `CAP_SYS_ADMIN` permitted and effective.
        let mut value = [0x0200_0001_u32, 1 << 21, 0, 0, 0];
        let arguments = [
            Arg::At(path.as_ptr() as usize),
            T(c"security.capability"),
            sys::at(&mut value),
            N(20),
            N(0),
        ];
        let done = sys::call(libc::SYS_setxattr, &arguments);
        Answer::of(done, "a file got a capability")
    })
}
