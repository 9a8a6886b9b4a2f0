//! Cgroups: limits of its own, and the program that the kernel starts for one.

use std::path::{Path, PathBuf};

use crate::answer::Answer;
use crate::paths::{opened_for_writing, own_name, refused};
use crate::sys::{self, Arg};
use crate::{Attack, Told};
use Arg::{Number as N, Text as T};

pub(crate) const ATTACKS: &[Attack] = &[
    ("cgroup.release_agent", |_| write("release_agent")),
    ("cgroup.move_processes", |_| write("cgroup.procs")),
    ("cgroup.memory_limit", |_| {
        Answer::any([write("memory.limit_in_bytes"), write("memory.max")])
    }),
    ("cgroup.device_rules", |_| write("devices.allow")),
    ("cgroup.make", make),
    ("cgroup.mount_v1", |_| mount(c"cgroup", c"memory")),
    ("cgroup.mount_v2", |_| mount(c"cgroup2", c"")),
];

/// The directories of cgroups that can be seen, two steps deep.
fn directories() -> Vec<PathBuf> {
    const MOST: usize = 200;
    let mut found = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut next = 0;
    while next < found.len() && found.len() < MOST {
        let directory = found[next].clone();
        next += 1;
        if directory.components().count() > 6 {
            continue;
        }
        let entries = std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten();
        found.extend(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_dir() && !path.is_symlink()),
        );
    }
    found
}

/// Opens files of this name for writing.
fn write(name: &str) -> Answer {
    let files = directories()
        .into_iter()
        .map(|directory| directory.join(name));
    let files = files.filter(|path| path.symlink_metadata().is_ok());
    Answer::any(files.map(|path| opened_for_writing(&path)))
}

/// Makes a cgroup and removes it.
fn make(_: &Told) -> Answer {
    Answer::any(directories().into_iter().map(|directory| {
        // Where there are no cgroups below, it is an ordinary directory.
        if !directory.join("cgroup.procs").exists() {
            return Answer::unable("no cgroup");
        }
        let path = directory.join(own_name());
        match std::fs::create_dir(&path) {
            Ok(()) => {
                // It is empty, so the kernel takes it away.
                let _ = std::fs::remove_dir(&path);
                Answer::fired(format!("a cgroup was made in {}", directory.display()))
            }
            Err(error) => refused(&error),
        }
    }))
}

fn mount(kind: &'static std::ffi::CStr, data: &'static std::ffi::CStr) -> Answer {
    let place = T(c"/tmp");
    let done = sys::call(
        libc::SYS_mount,
        &[T(c"none"), place, T(kind), N(0), T(data)],
    );
    if done.is_err() {
        return Answer::of(done, "");
    }
    let seen = Path::new("/tmp/cgroup.procs").exists();
    // Nobody else should see it; what cannot be undone is told all the same.
    let _ = sys::call(libc::SYS_umount2, &[place, N(2)]);
    if seen {
        Answer::fired("the host's cgroups were mounted")
    } else {
        Answer::silent(0, "something else was mounted")
    }
}
