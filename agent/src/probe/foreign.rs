//! What belongs to others: bait of the host (`marker`, `port`) and of another
//! sandbox (`other_marker`, `other_port`). See [`crate::bait`].

use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::answer::Answer;
use crate::bait;
use crate::paths::refused;
use crate::sys::{self, Arg};
use crate::{Attack, Told};

/// Whose bait is looked for.
#[derive(Clone, Copy)]
enum Whose {
    Host,
    Other,
}

impl Whose {
    fn marker(self, told: &Told) -> &str {
        told.text(match self {
            Self::Host => "marker",
            Self::Other => "other_marker",
        })
    }

    fn port(self, told: &Told) -> Option<u16> {
        let name = match self {
            Self::Host => "port",
            Self::Other => "other_port",
        };
        u16::try_from(told.number(name)?).ok()
    }
}
use Whose::{Host, Other};

pub(crate) const ATTACKS: &[Attack] = &[
    ("host.processes", |told| processes(Host, told)),
    ("host.environments", |told| environments(Host, told)),
    ("host.files", |told| files(Host, told)),
    ("host.shared_memory", |told| shared_memory(Host, told)),
    ("host.message_queue", |told| message_queue(Host, told)),
    ("host.abstract_socket", |told| abstract_socket(Host, told)),
    ("host.loopback_port", |told| port(Host, told)),
    ("host.listeners", listeners),
    ("host.own_environment", own_environment),
    ("host.home_of_root", home_of_root),
    ("neighbour.processes", |told| processes(Other, told)),
    ("neighbour.environments", |told| environments(Other, told)),
    ("neighbour.files", |told| files(Other, told)),
    ("neighbour.shared_memory", |told| shared_memory(Other, told)),
    ("neighbour.message_queue", |told| message_queue(Other, told)),
    ("neighbour.abstract_socket", |told| {
        abstract_socket(Other, told)
    }),
    ("neighbour.loopback_port", |told| port(Other, told)),
];

const NOT_TOLD: &str = "it was not told what to look for";

fn looked_for(whose: Whose, told: &Told) -> Result<String, Answer> {
    let marker = whose.marker(told);
    if marker.is_empty() {
        return Err(Answer::unable(NOT_TOLD));
    }
    Ok(marker.to_owned())
}

/// Whether some process, other than this one and who started it, has a word in
/// a file of its own.
fn in_processes(file: &str, word: &str) -> Answer {
    let own = [
        std::process::id(),
        u32::try_from(sys::parent()).unwrap_or_default(),
    ];
    let own_line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Answer::silent(libc::ENOENT, "there is no /proc");
    };
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // Who started this one has the same words.
        if own.contains(&pid) || line.ends_with(&own_line) {
            continue;
        }
        let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
        if String::from_utf8_lossy(&bytes).contains(word) {
            return Answer::fired(format!("a process has it in its {file}"));
        }
    }
    Answer::silent(0, "no process has it")
}

fn processes(whose: Whose, told: &Told) -> Answer {
    match looked_for(whose, told) {
        Ok(marker) => in_processes("cmdline", &format!("bait\0marker={marker}")),
        Err(answer) => answer,
    }
}

fn environments(whose: Whose, told: &Told) -> Answer {
    match looked_for(whose, told) {
        Ok(marker) => in_processes("environ", &bait::variable(&marker)),
        Err(answer) => answer,
    }
}

fn files(whose: Whose, told: &Told) -> Answer {
    match looked_for(whose, told) {
        Ok(marker) => {
            Answer::any(
                bait::files(&marker).map(|path| match std::fs::read_to_string(path) {
                    Ok(text) if text == marker => Answer::fired("the file was read"),
                    Ok(_) => Answer::silent(0, "another file has that name"),
                    Err(error) => refused(&error),
                }),
            )
        }
        Err(answer) => answer,
    }
}

fn shared_memory(whose: Whose, told: &Told) -> Answer {
    match looked_for(whose, told) {
        Ok(marker) => {
            let key = Arg::Number(bait::key(&marker));
            let found = sys::call(libc::SYS_shmget, &[key, Arg::Number(0), Arg::Number(0)]);
            Answer::of(found, "the memory was found")
        }
        Err(answer) => answer,
    }
}

fn message_queue(whose: Whose, told: &Told) -> Answer {
    match looked_for(whose, told) {
        Ok(marker) => {
            let key = Arg::Number(bait::key(&marker));
            let found = sys::call(libc::SYS_msgget, &[key, Arg::Number(0)]);
            Answer::of(found, "the queue was found")
        }
        Err(answer) => answer,
    }
}

fn abstract_socket(whose: Whose, told: &Told) -> Answer {
    match looked_for(whose, told) {
        Ok(marker) => {
            let connected = UnixAddress::from_abstract_name(bait::socket(&marker))
                .and_then(|address| UnixStream::connect_addr(&address));
            match connected {
                Ok(_) => Answer::fired("the socket answered"),
                Err(error) => refused(&error),
            }
        }
        Err(answer) => answer,
    }
}

/// Connects, for a moment.
pub(crate) fn connect(address: SocketAddr) -> Answer {
    match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
        Ok(_) => Answer::fired(format!("{} answered", address.ip())),
        Err(error)
            if error.raw_os_error() == Some(libc::ECONNREFUSED) && !address.ip().is_loopback() =>
        {
            Answer::fired(format!("{} refused: it was reached", address.ip()))
        }
        Err(error) => refused(&error),
    }
}

fn port(whose: Whose, told: &Told) -> Answer {
    match whose.port(told) {
        Some(port) => connect(SocketAddr::from(([127, 0, 0, 1], port))),
        None => Answer::unable(NOT_TOLD),
    }
}

/// Whether the host's listening port is told.
fn listeners(told: &Told) -> Answer {
    let Some(port) = Host.port(told) else {
        return Answer::unable(NOT_TOLD);
    };
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    if text.contains(&format!("0100007F:{port:04X}")) {
        Answer::fired("the port of the host is told")
    } else {
        Answer::silent(0, "it is not told")
    }
}

/// Whether a variable of the host's process is in this environment.
fn own_environment(told: &Told) -> Answer {
    let name = told.text("variable");
    if name.is_empty() {
        return Answer::unable(NOT_TOLD);
    }
    if std::env::var_os(name).is_some() {
        Answer::fired("the environment of the host is inherited")
    } else {
        Answer::silent(0, "it is not there")
    }
}

/// The home directory of the host's root.
fn home_of_root(told: &Told) -> Answer {
    let Ok(marker) = looked_for(Host, told) else {
        return Answer::unable(NOT_TOLD);
    };
    let home = told.text("home");
    if home.is_empty() {
        return Answer::unable(NOT_TOLD);
    }
    match std::fs::read_to_string(Path::new(home).join(format!(".{marker}"))) {
        Ok(text) if text == marker => Answer::fired("a file in the home directory was read"),
        Ok(_) => Answer::silent(0, "another file has that name"),
        Err(error) => refused(&error),
    }
}
