//! What others must not find: a process with a word in its arguments and in its
//! environment, files, shared memory, a message queue, a socket, a port.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use crate::Told;
use crate::sys::{self, Arg};
use Arg::Number as N;

const CREATE: usize = 0o1000 | 0o666;

/// The name of the socket.
pub(crate) fn socket(marker: &str) -> String {
    format!("stacyvm-bait-{marker}")
}

/// The variable of the process.
pub(crate) fn variable(marker: &str) -> String {
    format!("STACYVM_BAIT={marker}")
}

/// The files.
pub(crate) fn files(marker: &str) -> impl Iterator<Item = PathBuf> {
    let name = format!("stacyvm-bait-{marker}");
    ["/tmp", "/dev/shm", "/var/tmp", "/workspace"]
        .map(|place| PathBuf::from(place).join(&name))
        .into_iter()
}

/// The key of the memory and of the queue.
pub(crate) fn key(marker: &str) -> usize {
    let sum = marker.bytes().fold(0x5AC7_u32, |sum, byte| {
        sum.wrapping_mul(16_777_619) ^ u32::from(byte)
    });
    // Not 0, which is a key of nobody's, and no negative number.
    usize::try_from(sum & 0x7FFF_FFFF)
        .unwrap_or_default()
        .max(1)
}

/// Lays it all out, says `ready PORT`, and takes it away when its standard input
/// ends or somebody asks it to end.
#[expect(clippy::print_stdout, reason = "whoever started it waits for this")]
pub(crate) fn lay(told: &Told) {
    let marker = told.text("marker");
    let port = TcpListener::bind("127.0.0.1:0");
    let address = SocketAddr::from_abstract_name(socket(marker));
    // What cannot be laid out will not be found, and its control says so.
    let _socket = address.and_then(|address| UnixListener::bind_addr(&address));
    sys::mask(0);
    let home = told.text("home");
    let hidden = PathBuf::from(home).join(format!(".{marker}"));
    let mut laid: Vec<PathBuf> = files(marker).collect();
    if !home.is_empty() {
        laid.push(hidden);
    }
    laid.retain(|path| std::fs::write(path, marker).is_ok());
    let memory = sys::call(libc::SYS_shmget, &[N(key(marker)), N(4096), N(CREATE)]);
    let queue = sys::call(libc::SYS_msgget, &[N(key(marker)), N(CREATE)]);
    let number = port
        .as_ref()
        .ok()
        .and_then(|port| port.local_addr().ok())
        .map_or(0, |at| at.port());
    println!("ready {number}");
    // Nobody waits any more where that fails; the next read ends.
    let _ = std::io::stdout().flush();
    let mut rest = Vec::new();
    // However it ends, it is over.
    let _ = std::io::stdin().read_to_end(&mut rest);
    for path in laid {
        // Somebody else may have taken it away.
        let _ = std::fs::remove_file(path);
    }
    if let Ok(memory) = memory {
        // As above.
        let _ = sys::call(libc::SYS_shmctl, &[N(memory), N(0), N(0)]);
    }
    if let Ok(queue) = queue {
        // As above.
        let _ = sys::call(libc::SYS_msgctl, &[N(queue), N(0), N(0)]);
    }
}
