//! The agent's protocol, spoken by a command.

use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use crate::answer::Answer;
use crate::sys;
use crate::{Attack, Told};
use stacyvm_agent::protocol::message::{self, EndReason, Exited};
use stacyvm_agent::protocol::{Header, Kind};

pub(crate) const ATTACKS: &[Attack] = &[
    ("protocol.sockets", sockets),
    ("protocol.forged_end", forged_end),
];

/// What this attack ends with, and says that it did not.
pub(crate) const END: i32 = 9;

/// Frames that a host would believe of an agent: the good end of this command
/// on whatever stream it has, then lengths that lie and kinds that nobody knows.
fn frames() -> Vec<u8> {
    let good = message::encode(&Exited {
        reason: EndReason::Code,
        value: 0,
        survivors: 0,
        sandbox_ended: false,
    });
    let mut all = Vec::new();
    for stream in 0..64 {
        let header = Header {
            length: u32::try_from(good.len()).unwrap_or_default(),
            stream,
            kind: Kind::Exited,
        };
        all.extend(header.encode());
        all.extend(&good);
    }
    for length in [0, 1, 0x7FFF_FFFF, u32::MAX] {
        for kind in [0, Kind::Data as u8, 200, u8::MAX] {
            all.extend(length.to_le_bytes());
            all.extend(1_u32.to_le_bytes());
            all.extend([kind, 0, 0, 0]);
        }
    }
    all
}

/// Says on both streams that it ended well, and ends badly.
fn forged_end(_: &Told) -> Answer {
    let frames = frames();
    for stream in [1, 2] {
        if sys::write(stream, &frames).is_err() {
            return Answer::unable("its output is closed");
        }
    }
    sys::exit(END)
}

/// Listening sockets that a command can connect to and that it did not make:
/// each is told what a hostile host would say.
fn sockets(_: &Told) -> Answer {
    // Flags say that it accepts; the last column is its name.
    const ACCEPTS: &str = "00010000";
    let text = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let names = text.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns.get(3) == Some(&ACCEPTS))
            .then(|| columns.get(7).copied())
            .flatten()
    });
    Answer::any(names.map(|name| match connect(name) {
        Ok(mut stream) => {
            let answered = speak(&mut stream);
            Answer::fired(format!(
                "a socket was reached{}",
                if answered { " and answered" } else { "" }
            ))
        }
        Err(error) => crate::paths::refused(&error),
    }))
}

fn connect(name: &str) -> std::io::Result<UnixStream> {
    match name.strip_prefix('@') {
        Some(hidden) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(hidden)?),
        None => UnixStream::connect(name),
    }
}

/// Whether whoever is there says something to hostile frames.
fn speak(stream: &mut UnixStream) -> bool {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
    let mut byte = [0];
    stream.write_all(&frames()).is_ok() && stream.read(&mut byte).is_ok_and(|count| count > 0)
}
