//! Twelve probes: what a hostile command tries first.
//!
//! Each runs in a default sandbox, where it must not fire, and in a weak place
//! (a plain root process of the host in a mount and process namespace of its
//! own), where it must: a probe that never fires proves nothing.
//!
//! The probes are this test program itself, started inside with
//! `STACYVM_PROBE` set.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Command;

use stacyvm::SandboxSpec;
use stacyvm::provider::Users;
use stacyvm::sandbox::spec::{Mount, MountSource};

/// The exit code of a probe that got what it should not get.
const FIRED: i32 = 42;
/// The exit code of a probe that got nothing.
const HELD: i32 = 43;

const MARKER: &str = "stacyvm-probe-marker";

mod sys {
    #![allow(
        unsafe_code,
        reason = "probes make the raw calls that an attacker makes"
    )]

    /// The result of a raw system call.
    pub(super) fn call(number: libc::c_long, args: [usize; 5]) -> bool {
        // SAFETY: the callers pass numbers, null, or pointers to NUL-terminated
        // literals that live as long as the program.
        unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) >= 0 }
    }

    /// Whether a process can be made in a new user namespace.
    pub(super) fn clone_into_user_namespace() -> bool {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        // SAFETY: without CLONE_VM this is a fork; the child does nothing but exit.
        unsafe {
            match libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) {
                0 => libc::_exit(0),
                pid => pid > 0,
            }
        }
    }
}

fn text(literal: &'static std::ffi::CStr) -> usize {
    literal.as_ptr() as usize
}

fn parameter(name: &str) -> String {
    std::env::var_os(name)
        .and_then(|v| v.into_string().ok())
        .unwrap_or_default()
}

/// A name, and whether it got what it should not get.
type Probe = (&'static str, fn() -> bool);

const PROBES: &[Probe] = &[
    ("host_processes", || {
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return false;
        };
        entries.flatten().any(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains("777.25"))
        })
    }),
    ("host_files", || {
        std::fs::read_to_string(parameter("PROBE_FILE")).is_ok_and(|text| text == MARKER)
            || std::fs::read("/etc/shadow").is_ok()
    }),
    ("environment", || {
        let own = std::env::vars_os().any(|(_, value)| value == MARKER);
        let others = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| {
                std::fs::read(entry.path().join("environ")).is_ok_and(|e| {
                    String::from_utf8_lossy(&e).contains(&format!("HOST_SECRET={MARKER}"))
                })
            });
        own || others
    }),
    ("descriptors", || {
        std::fs::read_dir("/proc/self/fd")
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| {
                std::fs::read_link(entry.path())
                    .is_ok_and(|target| target.to_string_lossy().ends_with("probe-descriptor"))
            })
    }),
    ("network", || {
        std::net::TcpStream::connect(parameter("PROBE_ADDRESS")).is_ok()
    }),
    ("abstract_sockets", || {
        SocketAddr::from_abstract_name(parameter("PROBE_ABSTRACT"))
            .and_then(|address| UnixStream::connect_addr(&address))
            .is_ok()
    }),
    ("mount", || {
        sys::call(
            libc::SYS_mount,
            [text(c"none"), text(c"/tmp"), text(c"tmpfs"), 0, 0],
        )
    }),
    ("ptrace_pid_1", || {
        let seize = usize::try_from(libc::PTRACE_SEIZE).unwrap_or_default();
        sys::call(libc::SYS_ptrace, [seize, 1, 0, 0, 0])
            || std::fs::OpenOptions::new()
                .read(true)
                .open("/proc/1/mem")
                .is_ok()
    }),
    ("unshare", || {
        let own = Command::new("unshare").args(["--user", "true"]).status();
        own.is_ok_and(|status| status.success()) || sys::clone_into_user_namespace()
    }),
    ("raw_socket", || {
        let number = |value: i32| usize::try_from(value).unwrap_or_default();
        sys::call(
            libc::SYS_socket,
            [number(libc::AF_INET), number(libc::SOCK_RAW), 1, 0, 0],
        ) || sys::call(
            libc::SYS_socket,
            [number(libc::AF_PACKET), number(libc::SOCK_RAW), 0, 0, 0],
        )
    }),
    ("proc_sys_write", || {
        let path = "/proc/sys/kernel/randomize_va_space";
        let Ok(now) = std::fs::read(path) else {
            return false;
        };
        std::fs::write(path, now).is_ok()
    }),
    ("device_node", || {
        let mode = usize::try_from(libc::S_IFCHR | 0o666).unwrap_or_default();
        let made = sys::call(
            libc::SYS_mknod,
            [text(c"/tmp/stacyvm-probe-null"), mode, 0x103, 0, 0],
        );
        let opened = std::fs::File::open("/tmp/stacyvm-probe-null").is_ok();
        // Nothing to remove where nothing was made.
        let _ = std::fs::remove_file("/tmp/stacyvm-probe-null");
        made && opened
    }),
];

/// Not a test of its own: what runs inside.
#[test]
#[expect(clippy::exit, reason = "its exit code is the answer")]
fn probe_entry() {
    let name = parameter("STACYVM_PROBE");
    if let Some((_, probe)) = PROBES.iter().find(|(probe, _)| *probe == name) {
        std::process::exit(if probe() { FIRED } else { HELD });
    }
}

/// Things of the host that the probes look for.
struct Bait {
    directory: tempfile::TempDir,
    process: std::process::Child,
    listener: std::net::TcpListener,
    abstract_name: String,
    _abstract_listener: UnixListener,
    descriptor: std::fs::File,
}

impl Bait {
    fn lay() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), MARKER).unwrap();
        let descriptor = std::fs::File::create(directory.path().join("probe-descriptor")).unwrap();
        // Descriptors are closed on exec by default; this one is a leak on purpose.
        rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::empty()).unwrap();
        let process = Command::new("sleep")
            .arg("777.25")
            .env("HOST_SECRET", MARKER)
            .spawn()
            .unwrap();
        let abstract_name = format!("stacyvm-probe-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        Self {
            process,
            listener: std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
            _abstract_listener: UnixListener::bind_addr(&address).unwrap(),
            abstract_name,
            descriptor,
            directory,
        }
    }

    /// What a probe is told, so that it looks for the right thing.
    fn parameters(&self, probe: &str) -> Vec<(&'static str, String)> {
        vec![
            ("STACYVM_PROBE", probe.to_owned()),
            (
                "PROBE_FILE",
                self.directory.path().join("file").display().to_string(),
            ),
            (
                "PROBE_ADDRESS",
                self.listener.local_addr().unwrap().to_string(),
            ),
            ("PROBE_ABSTRACT", self.abstract_name.clone()),
        ]
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        // The test has its result; the process may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const ARGUMENTS: [&str; 3] = ["probe_entry", "--exact", "--nocapture"];

/// A place with namespaces that keep little away, for root.
fn in_a_weak_place(program: &std::path::Path, bait: &Bait, probe: &str) -> Option<i32> {
    let mut weak = Command::new("unshare");
    weak.args(["--mount", "--propagation", "private", "--pid", "--fork"])
        .args(["--", "sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(program)
        .args(ARGUMENTS)
        .envs(bait.parameters(probe));
    weak.output().unwrap().status.code()
}

#[tokio::test]
async fn twelve_probes_fire_in_a_weak_place_and_not_in_a_default_sandbox() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let bait = Bait::lay();
    assert!(bait.descriptor.as_raw_fd() > 2);
    assert_eq!(PROBES.len(), 12, "one is missing");
    let program = std::env::current_exe().unwrap();
    let mount = Mount {
        target: "/probe".into(),
        source: MountSource::Host(program.parent().unwrap().display().to_string()),
        writable: false,
        size_mib: None,
    };
    let sandbox = host
        .engine
        .create(SandboxSpec::host().mount(mount))
        .await
        .unwrap();
    let inside = format!("/probe/{}", program.file_name().unwrap().to_string_lossy());
    let users: &[Option<&str>] = match host.can().await.users {
        Users::Many => &[None, Some("root")],
        Users::One => &[None],
    };
    let mut wrong = Vec::new();
    for (name, _) in PROBES {
        if rustix::process::geteuid().is_root() {
            // Without root some of them have no weak place; root's run shows it.
            let code = in_a_weak_place(&program, &bait, name);
            if code != Some(FIRED) {
                wrong.push(format!(
                    "{name}: {code:?} in the weak place, so it proves nothing"
                ));
            }
        }
        for user in users {
            let mut exec = sandbox.exec([&[inside.as_str()], ARGUMENTS.as_slice()].concat());
            if let Some(user) = user {
                exec = exec.user(*user);
            }
            for (key, value) in bait.parameters(name) {
                exec = exec.env(key, value);
            }
            let output = exec.output().await.unwrap();
            if output.status.code() != Some(HELD) {
                wrong.push(format!(
                    "{name} as {user:?}: {} in a default sandbox",
                    output.status
                ));
            }
        }
    }
    sandbox.kill().await.unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
