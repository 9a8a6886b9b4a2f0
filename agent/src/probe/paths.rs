//! Files of the kernel: those that command it, opened for writing and not
//! written, and those that tell about the host, read.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::answer::Answer;
use crate::sys::{self, Arg};

/// A name for what an attack makes. Nobody can be there first, and what a killed
/// one left is in nobody's way.
pub(crate) fn own_name() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library's one source of random numbers.
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("stacyvm-probe-{random:016x}")
}

/// What is tried with a file.
#[derive(Clone, Copy, Debug)]
enum How {
    /// Opened for writing.
    Write,
    /// Read: it has something to tell.
    Read,
    /// Read: it tells an address that is not 0.
    Addresses,
    /// Listed: the directory has entries.
    List,
}
use How::{Addresses, List, Read, Write};

/// Paths of which a part may be `*`.
type Row = (&'static str, How, &'static [&'static str]);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("kernel_files.core_pattern", Write, &["/proc/sys/kernel/core_pattern"]),
    ("kernel_files.modprobe", Write, &["/proc/sys/kernel/modprobe"]),
    ("kernel_files.uevent_helper", Write, &["/proc/sys/kernel/hotplug", "/sys/kernel/uevent_helper"]),
    ("kernel_files.poweroff_cmd", Write, &["/proc/sys/kernel/poweroff_cmd"]),
    ("kernel_files.sysrq_trigger", Write, &["/proc/sysrq-trigger"]),
    ("kernel_files.sysrq", Write, &["/proc/sys/kernel/sysrq"]),
    ("kernel_files.panic", Write, &["/proc/sys/kernel/panic", "/proc/sys/kernel/panic_on_oops"]),
    ("kernel_files.randomize", Write, &["/proc/sys/kernel/randomize_va_space"]),
    ("kernel_files.pid_max", Write, &["/proc/sys/kernel/pid_max"]),
    ("kernel_files.overcommit", Write, &["/proc/sys/vm/overcommit_memory", "/proc/sys/vm/drop_caches"]),
    ("kernel_files.suid_dumpable", Write, &["/proc/sys/fs/suid_dumpable", "/proc/sys/fs/protected_symlinks"]),
    ("kernel_files.binfmt_misc", Write, &["/proc/sys/fs/binfmt_misc/register"]),
    ("kernel_files.user_limits", Write, &["/proc/sys/user/max_user_namespaces"]),
    ("kernel_files.interrupts", Write, &["/proc/irq/default_smp_affinity", "/proc/irq/*/smp_affinity"]),
    ("kernel_files.mtrr", Write, &["/proc/mtrr"]),
    ("kernel_files.module_parameters", Write, &["/sys/module/*/parameters/*"]),
    ("kernel_files.uevent", Write, &["/sys/class/mem/*/uevent", "/sys/class/net/*/uevent"]),
    ("kernel_files.block_queue", Write, &["/sys/block/*/queue/*"]),
    ("kernel_files.memory_tuning", Write, &["/sys/kernel/mm/*/*", "/sys/kernel/mm/*"]),
    ("kernel_files.power", Write, &["/sys/power/state", "/sys/kernel/reboot/*", "/sys/devices/system/cpu/*/online"]),
    ("kernel_files.debugfs", List, &["/sys/kernel/debug"]),
    ("kernel_files.tracefs", List, &["/sys/kernel/tracing"]),
    ("kernel_files.security", List, &["/sys/kernel/security"]),
    ("masked.kcore", Read, &["/proc/kcore"]),
    ("masked.kallsyms", Addresses, &["/proc/kallsyms"]),
    ("masked.iomem", Addresses, &["/proc/iomem"]),
    ("masked.keys", Read, &["/proc/keys"]),
    ("masked.timer_list", Read, &["/proc/timer_list"]),
    ("masked.sched_debug", Read, &["/proc/sched_debug"]),
    ("masked.page_flags", Read, &["/proc/kpagecount", "/proc/kpageflags"]),
    ("masked.slab", Read, &["/proc/slabinfo"]),
    ("masked.vmalloc", Addresses, &["/proc/vmallocinfo"]),
    ("masked.firmware", List, &["/sys/firmware", "/sys/firmware/acpi"]),
    ("masked.powercap", List, &["/sys/devices/virtual/powercap"]),
    ("host.shadow", Read, &["/etc/shadow", "/etc/gshadow"]),
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.0)
}

pub(crate) fn run(name: &str) -> Option<Answer> {
    let (_, how, patterns) = ROWS.iter().find(|row| row.0 == name)?;
    if name == "masked.keys" {
        // A user who has none yet sees none: its session's keyring is made, where it may be.
        let _ = sys::call(
            libc::SYS_keyctl,
            &[Arg::Number(0), Arg::Number(sys::minus(3)), Arg::Number(1)],
        );
    }
    let paths = patterns.iter().flat_map(|pattern| expand(pattern));
    Some(Answer::any(paths.map(|path| attempt(&path, *how))))
}

fn attempt(path: &Path, how: How) -> Answer {
    let shown = path.display();
    match how {
        Write => opened_for_writing(path),
        Read => match read(path) {
            Ok(bytes) if bytes.is_empty() => Answer::silent(0, "it is empty"),
            Ok(_) => Answer::fired(format!("{shown} was read")),
            Err(answer) => answer,
        },
        Addresses => match read(path) {
            Ok(bytes) if has_address(&bytes) => Answer::fired(format!("{shown} told addresses")),
            Ok(_) => Answer::silent(0, "it tells no address"),
            Err(answer) => answer,
        },
        List => match std::fs::read_dir(path) {
            Ok(mut entries) => match entries.next() {
                Some(_) => Answer::fired(format!("{shown} has entries")),
                None => Answer::silent(0, "it is empty"),
            },
            Err(error) => refused(&error),
        },
    }
}

/// What an error says of an attempt.
pub(crate) fn refused(error: &std::io::Error) -> Answer {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    Answer::silent(errno, "")
}

/// Opens a file for writing and writes nothing. What is mounted over such files
/// to hide them takes writes too, and is not them.
pub(crate) fn opened_for_writing(path: &Path) -> Answer {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(path);
    match file.and_then(|file| file.metadata()) {
        Ok(found) if found.file_type().is_char_device() && found.rdev() == libc::makedev(1, 3) => {
            Answer::silent(0, "it is hidden")
        }
        Ok(_) => Answer::fired(format!("{} opened for writing", path.display())),
        Err(error) => refused(&error),
    }
}

/// The beginning of a file.
fn read(path: &Path) -> Result<Vec<u8>, Answer> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(64 << 10).read_to_end(&mut bytes))
        .map_err(|error| refused(&error))?;
    Ok(bytes)
}

/// Whether a line begins with an address that is not 0.
fn has_address(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.lines().any(|line| {
        let first = line
            .split([' ', '-'])
            .find(|word| !word.is_empty())
            .unwrap_or_default();
        let digits = first.trim_start_matches("0x");
        digits.len() >= 8
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
            && digits.bytes().any(|b| b != b'0')
    })
}

/// The paths that fit a pattern, at most some hundred.
fn expand(pattern: &str) -> Vec<PathBuf> {
    const MOST: usize = 400;
    let mut paths = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        if part != "*" {
            for path in &mut paths {
                path.push(part);
            }
            continue;
        }
        let listed = paths
            .iter()
            .flat_map(|path| std::fs::read_dir(path).into_iter().flatten());
        paths = listed
            .flatten()
            .map(|entry| entry.path())
            .take(MOST)
            .collect();
        paths.sort();
    }
    paths.retain(|path| path.symlink_metadata().is_ok());
    if pattern.ends_with('*') {
        paths.retain(|path| path.metadata().is_ok_and(|found| !found.is_dir()));
    }
    paths
}
