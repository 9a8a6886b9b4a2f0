//! Devices: nodes that are there, and nodes that are made.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::answer::Answer;
use crate::paths::refused;
use crate::sys::{self, Arg};
use crate::{Attack, Told};

pub(crate) const ATTACKS: &[Attack] = &[
    ("devices.memory", |_| {
        open(&["mem", "kmem", "port", "nvram", "cpu/0/msr"])
    }),
    ("devices.kernel_log", |_| open(&["kmsg"])),
    ("devices.disk", disk),
    ("devices.virtual_machine", |_| {
        open(&["kvm", "vhost-net", "vhost-vsock"])
    }),
    ("devices.vsock", |_| open(&["vsock"])),
    ("devices.fuse", |_| open(&["fuse"])),
    ("devices.tun", |_| open(&["net/tun"])),
    ("devices.loop_control", |_| {
        open(&["loop-control", "mapper/control"])
    }),
    ("devices.userfaultfd", |_| open(&["userfaultfd"])),
    ("devices.console", |_| {
        open(&["console", "tty0", "vcs", "ttyS0"])
    }),
    ("devices.display", |_| {
        open(&["fb0", "dri/card0", "vga_arbiter"])
    }),
    ("devices.unexpected", unexpected),
    ("devices.make_character", |_| {
        make(libc::S_IFCHR | 0o666, libc::makedev(1, 5))
    }),
    ("devices.make_disk", make_disk),
];

/// Opens nodes of `/dev` and closes them.
fn open(names: &[&str]) -> Answer {
    Answer::any(names.iter().filter_map(|name| {
        let path = Path::new("/dev").join(name);
        path.symlink_metadata().is_ok().then(|| opened(&path))
    }))
}

fn opened(path: &Path) -> Answer {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    match file.and_then(|file| file.metadata()) {
        // A console that is a terminal of the sandbox is none of the host.
        Ok(found) if is_terminal_of_devpts(&found) => {
            Answer::silent(0, "it is a terminal of its own")
        }
        Ok(_) => Answer::fired(format!("{} opened", path.display())),
        Err(error) => refused(&error),
    }
}

fn is_terminal_of_devpts(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (136..144).contains(&libc::major(found.rdev()))
}

/// Every node below `/dev`.
fn nodes() -> Vec<(std::path::PathBuf, std::fs::FileType)> {
    let mut found = Vec::new();
    let mut open = vec![std::path::PathBuf::from("/dev")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && open.len() < 100 => open.push(entry.path()),
                Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                    found.push((entry.path(), kind));
                }
                _ => {}
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

fn disk(_: &Told) -> Answer {
    let disks = nodes()
        .into_iter()
        .filter(|(_, kind)| kind.is_block_device());
    Answer::any(disks.map(|(path, _)| opened(&path)))
}

/// Nodes that are none of the few that every program needs.
fn unexpected(_: &Told) -> Answer {
    const EXPECTED: [&str; 9] = [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "pts",
    ];
    let found = nodes().into_iter().find(|(path, _)| {
        let below = path.strip_prefix("/dev").unwrap_or(path);
        let first = below
            .components()
            .next()
            .map(|part| part.as_os_str().to_os_string());
        !EXPECTED
            .iter()
            .any(|name| first.as_deref() == Some(name.as_ref()))
    });
    match found {
        Some((path, _)) => Answer::fired(format!("{} is there", path.display())),
        None => Answer::silent(0, "there is none"),
    }
}

/// The disks that the kernel tells of, made as nodes.
fn make_disk(_: &Told) -> Answer {
    let text = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
    let numbers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let major: u32 = words.next()?.parse().ok()?;
        let minor: u32 = words.next()?.parse().ok()?;
        Some(libc::makedev(major, minor))
    });
    let mut numbers: Vec<_> = numbers.collect();
    // A common number where none is told: whether nodes can be made is asked.
    numbers.push(libc::makedev(7, 0));
    Answer::any(
        numbers
            .into_iter()
            .map(|number| make(libc::S_IFBLK | 0o666, number)),
    )
}

/// Makes a node in each directory that may be written, and opens it.
fn make(mode: u32, number: u64) -> Answer {
    let places = [
        c"/tmp/stacyvm-probe-node",
        c"/dev/shm/stacyvm-probe-node",
        c"/workspace/stacyvm-probe-node",
    ];
    Answer::any(places.into_iter().map(|place| {
        let arguments = [
            sys::int(libc::AT_FDCWD),
            Arg::Text(place),
            Arg::Number(usize::try_from(mode).unwrap_or_default()),
            Arg::Number(usize::try_from(number).unwrap_or_default()),
        ];
        if let Err(errno) = sys::call(libc::SYS_mknodat, &arguments) {
            return Answer::silent(errno, "");
        }
        let path = Path::new(place.to_str().unwrap_or_default());
        let opened = File::open(path);
        // What was made is taken away; where that fails the file says who made it.
        let _ = std::fs::remove_file(path);
        match opened {
            Ok(_) => Answer::fired(format!("a node {mode:o} was made and opened")),
            Err(error) => refused(&error),
        }
    }))
}
