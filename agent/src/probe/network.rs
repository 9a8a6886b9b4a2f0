//! The network: what is reached, what is told, what may be made.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::answer::Answer;
use crate::foreign::connect;
use crate::paths::refused;
use crate::sys::{self, Arg};
use crate::{Attack, Told};
use Arg::Number as N;

pub(crate) const ATTACKS: &[Attack] = &[
    ("network.metadata", |_| connect(METADATA)),
    ("network.route", route),
    ("network.interfaces", interfaces),
    ("network.routing_table", routing_table),
    ("network.raw_socket", |_| {
        socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)
    }),
    ("network.raw_socket_6", |_| {
        socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)
    }),
    ("network.packet_socket", |_| {
        socket(libc::AF_PACKET, libc::SOCK_RAW, 0)
    }),
    ("network.administer", administer),
    ("sockets.docker", |_| {
        sockets(&["/run/docker.sock", "/var/run/docker.sock"])
    }),
    ("sockets.containerd", |_| {
        sockets(&[
            "/run/containerd/containerd.sock",
            "/run/crio/crio.sock",
            "/run/podman/podman.sock",
        ])
    }),
    ("sockets.system_bus", |_| {
        sockets(&[
            "/run/dbus/system_bus_socket",
            "/var/run/dbus/system_bus_socket",
        ])
    }),
    ("sockets.system_manager", |_| {
        sockets(&[
            "/run/systemd/private",
            "/run/systemd/journal/stdout",
            "/run/systemd/notify",
        ])
    }),
];

/// Where clouds tell a machine its own secrets.
pub(crate) const METADATA: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254)),
    80,
);

/// Whether there is a way out. Nothing is sent.
fn route(_: &Told) -> Answer {
    let connected = ["192.0.2.1:9", "[2001:db8::1]:9"].map(|to| {
        let any = if to.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        match UdpSocket::bind(any).and_then(|socket| socket.connect(to)) {
            Ok(()) => Answer::fired(format!("there is a way to {to}")),
            Err(error) => refused(&error),
        }
    });
    Answer::any(connected)
}

fn interfaces(_: &Told) -> Answer {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = text
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim()));
    // What kernels make in every new network, and what is down without an address.
    let own = [
        "lo", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0",
        "ip6gre0", "ifb0", "ifb1",
    ];
    match names.into_iter().find(|name| !own.contains(name)) {
        Some(name) => Answer::fired(format!("{name} is there")),
        None => Answer::silent(0, "there is only its own"),
    }
}

fn routing_table(_: &Told) -> Answer {
    let text = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    match text.lines().nth(1) {
        Some(_) => Answer::fired("there are routes"),
        None => Answer::silent(0, "there is none"),
    }
}

fn socket(family: i32, kind: i32, protocol: i32) -> Answer {
    let made = sys::call(
        libc::SYS_socket,
        &[sys::int(family), sys::int(kind), sys::int(protocol)],
    );
    Answer::of(made, "the socket was made")
}

/// Sets the flags of the loopback interface to what they are.
fn administer(_: &Told) -> Answer {
    const GET_FLAGS: usize = 0x8913;
    const SET_FLAGS: usize = 0x8914;
    let made = sys::call(
        libc::SYS_socket,
        &[sys::int(libc::AF_INET), sys::int(libc::SOCK_DGRAM), N(0)],
    );
    let Ok(socket) = made else {
        return Answer::unable("there is no socket");
    };
    // `struct ifreq`: a name of 16 bytes, then the flags.
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    let read = sys::call(
        libc::SYS_ioctl,
        &[N(socket), N(GET_FLAGS), sys::at(&mut request)],
    );
    let set = read.and_then(|_| {
        sys::call(
            libc::SYS_ioctl,
            &[N(socket), N(SET_FLAGS), sys::at(&mut request)],
        )
    });
    Answer::of(set, "the flags of an interface were set to what they are")
}

fn sockets(paths: &[&str]) -> Answer {
    let found = paths.iter().filter(|path| Path::new(path).exists());
    Answer::any(found.map(|path| match UnixStream::connect(path) {
        Ok(_) => Answer::fired(format!("{path} answered")),
        Err(error) => refused(&error),
    }))
}
