//! A place without confinement, in which attacks fire: the host, as whoever
//! starts this, in a mount and process namespace of its own, so that nothing
//! of it stays. The host's processes, network and interprocess objects can be
//! seen, and what a careless operator would have added: a socket of a
//! container engine, more file systems of the kernel, an inheritable
//! capability, an open descriptor, a metadata service.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use crate::network::METADATA;
use crate::sys::{self, Arg};
use Arg::{Number as N, Text as T};

/// The exit code of a place that cannot be made.
const CANNOT: i32 = 3;

/// Starts an attack in a weak place; with `--user` first, one in which an
/// ordinary user is root of a user namespace of its own.
pub(crate) fn start(arguments: &[String]) -> i32 {
    // Whoever started this may be gone: then so is this.
    let _ = sys::call(libc::SYS_prctl, &[N(1), N(9), N(0), N(0), N(0)]);
    let (user, arguments) = match arguments.split_first() {
        Some((first, rest)) if first == "--user" => (true, rest),
        _ => (false, arguments),
    };
    let Some(attack) = arguments.first() else {
        return CANNOT;
    };
    let root = sys::user() == 0;
    if user && !become_root() {
        return CANNOT;
    }
    // What such an attack leaves behind must not end with a namespace.
    if (user || root) && !attack.starts_with("output.") {
        let flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
        let own = sys::call(libc::SYS_unshare, &[sys::int(flags)]).and_then(|_| private());
        if own.is_err() {
            return CANNOT;
        }
    }
    if attack == "network.metadata" {
        // A network of its own has such an address without touching the host's.
        let _ = sys::call(libc::SYS_unshare, &[sys::int(libc::CLONE_NEWNET)]);
    }
    if attack == "protocol.sockets"
        && sys::call(libc::SYS_unshare, &[sys::int(libc::CLONE_NEWNET)]).is_err()
    {
        // Sockets of the host are not spoken to.
        return CANNOT;
    }
    // The first process of the namespace, which an attack takes for the agent.
    sys::in_a_child(|| first(arguments)).unwrap_or(CANNOT)
}

/// A user namespace in which this user is root, and nobody else is there.
fn become_root() -> bool {
    let (user, group) = (sys::user(), sys::group());
    sys::call(libc::SYS_unshare, &[sys::int(libc::CLONE_NEWUSER)]).is_ok()
        && std::fs::write("/proc/self/setgroups", "deny").is_ok()
        && std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).is_ok()
        && std::fs::write("/proc/self/gid_map", format!("0 {group} 1")).is_ok()
}

/// Nothing that is mounted from here on is seen outside.
fn private() -> Result<usize, i32> {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    let flags = usize::try_from(flags).unwrap_or_default();
    sys::call(
        libc::SYS_mount,
        &[T(c"none"), T(c"/"), N(0), N(flags), N(0)],
    )
}

fn first(arguments: &[String]) -> i32 {
    let attack = arguments.first().map_or("", String::as_str);
    let _kept = furnish(attack);
    let ended = Command::new(crate::OWN_PROGRAM).args(arguments).status();
    ended
        .ok()
        .and_then(|status| status.code())
        .unwrap_or(CANNOT)
}

/// What stays open as long as the attack runs.
#[derive(Debug, Default)]
struct Kept {
    sockets: Vec<UnixListener>,
    port: Option<TcpListener>,
}

/// Adds what a host may lack and an attack looks for. What cannot be added is
/// not found, and the check then says that it proves nothing.
fn furnish(attack: &str) -> Kept {
    let mut kept = Kept::default();
    let mount = |kind, place| {
        // As above.
        let _ = sys::call(
            libc::SYS_mount,
            &[T(c"none"), T(place), T(kind), N(0), N(0)],
        );
    };
    match attack {
        "kernel_files.binfmt_misc" => mount(c"binfmt_misc", c"/proc/sys/fs/binfmt_misc"),
        "kernel_files.debugfs" => mount(c"debugfs", c"/sys/kernel/debug"),
        "kernel_files.tracefs" => mount(c"tracefs", c"/sys/kernel/tracing"),
        "kernel_files.security" => mount(c"securityfs", c"/sys/kernel/security"),
        "capabilities.inheritable" => inherit(),
        "agent.leaked_descriptors" => {
            // Left open for the attack, on purpose.
            let _ = sys::call(libc::SYS_openat, &[sys::int(libc::AT_FDCWD), T(c"/"), N(0)]);
        }
        "network.metadata" => kept.port = metadata(),
        "protocol.sockets" => {
            let name = SocketAddr::from_abstract_name("stacyvm-probe");
            kept.sockets
                .extend(name.and_then(|name| UnixListener::bind_addr(&name)));
        }
        // Processes by the numbers that they have here.
        _ if attack.starts_with("agent.") => mount(c"proc", c"/proc"),
        _ if attack.starts_with("sockets.") => {
            mount(c"tmpfs", c"/run");
            for path in [
                "/run/docker.sock",
                "/run/containerd/containerd.sock",
                "/run/dbus/system_bus_socket",
                "/run/systemd/private",
            ] {
                let directory = std::path::Path::new(path).parent();
                let made = directory.map(std::fs::create_dir_all);
                if made.is_some_and(|made| made.is_ok()) {
                    kept.sockets.extend(UnixListener::bind(path));
                }
            }
        }
        _ => {}
    }
    kept
}

/// Makes a capability inheritable that is held.
fn inherit() {
    const VERSION: u32 = 0x2008_0522;
    let mut header = [VERSION, 0];
    let mut sets = [0_u32; 6];
    if sys::call(
        libc::SYS_capget,
        &[sys::at(&mut header), sys::at(&mut sets)],
    )
    .is_ok()
    {
        // Effective, permitted, inheritable, of the lower numbers and the higher.
        sets[2] = sets[1];
        // As in `furnish`.
        let _ = sys::call(
            libc::SYS_capset,
            &[sys::at(&mut header), sys::at(&mut sets)],
        );
    }
}

/// A service at the address of metadata, in this network.
fn metadata() -> Option<TcpListener> {
    const SET_ADDRESS: usize = 0x8916;
    const SET_FLAGS: usize = 0x8914;
    let family = sys::int(libc::AF_INET);
    let socket = sys::call(
        libc::SYS_socket,
        &[family, sys::int(libc::SOCK_DGRAM), N(0)],
    )
    .ok()?;
    // `struct ifreq`: a name of 16 bytes, then the address or the flags.
    let mut address = [0_u8; 40];
    address[..4].copy_from_slice(b"lo:1");
    address[16..18].copy_from_slice(&2_u16.to_ne_bytes());
    address[20..24].copy_from_slice(&[169, 254, 169, 254]);
    let mut up = [0_u8; 40];
    up[..2].copy_from_slice(b"lo");
    up[16..18].copy_from_slice(&1_u16.to_ne_bytes());
    for (request, argument) in [(SET_FLAGS, &mut up), (SET_ADDRESS, &mut address)] {
        sys::call(libc::SYS_ioctl, &[N(socket), N(request), sys::at(argument)]).ok()?;
    }
    TcpListener::bind(METADATA).ok()
}
