//! `cp` between a host and a sandbox, on the embedded provider.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, one that cannot run says why, and a copy is given time to begin"
)]

mod support;

use std::io::Write;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Output, Stdio};

use support::{Cli, cli, shown};

#[test]
fn cp_moves_files_and_directories_as_docker_cp_does() {
    let cli = cli();
    let id = cli.create(&[]);
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name).to_str().unwrap().to_owned();
    let inside = |name: &str| format!("{id}:{name}");
    std::fs::create_dir_all(host.path().join("tree/sub")).unwrap();
    std::fs::write(host.path().join("tree/sub/file"), "content").unwrap();
    symlink("file", host.path().join("tree/sub/link")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o750);
    std::fs::set_permissions(host.path().join("tree/sub/file"), mode).unwrap();

    cli.ok(&["cp", &path("tree/sub/file"), &inside("/workspace/renamed")]);
    cli.ok(&["cp", &path("tree"), &inside("/workspace")]);
    cli.ok(&[
        "cp",
        &format!("{}/.", path("tree")),
        &inside("/workspace/new"),
    ]);
    let listing = cli.ok(&[
        "exec",
        &id,
        "sh",
        "-c",
        "cat renamed tree/sub/file new/sub/link; stat -c %a tree/sub/file; readlink tree/sub/link",
    ]);
    assert_eq!(listing, "contentcontentcontent750\nfile\n");

    cli.ok(&["cp", &inside("/workspace/tree"), &path("back")]);
    assert_eq!(
        std::fs::read(host.path().join("back/sub/file")).unwrap(),
        b"content"
    );
    assert_eq!(
        std::fs::read_link(host.path().join("back/sub/link")).unwrap(),
        Path::new("file")
    );
    cli.ok(&["cp", &inside("/workspace/renamed"), &path("other")]);
    assert_eq!(
        std::fs::read(host.path().join("other")).unwrap(),
        b"content"
    );

    let archive = cli
        .command()
        .args(["cp", &inside("/workspace/tree"), "-"])
        .output()
        .unwrap();
    assert!(archive.status.success());
    let mut unpack = cli
        .command()
        .args(["cp", "-", &inside("/tmp")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    unpack
        .stdin
        .take()
        .unwrap()
        .write_all(&archive.stdout)
        .unwrap();
    assert!(unpack.wait().unwrap().success());
    assert_eq!(
        cli.ok(&["exec", &id, "cat", "/tmp/tree/sub/file"]),
        "content"
    );

    for arguments in [
        ["cp", &path("missing"), &inside("/workspace/")],
        ["cp", &path("tree"), &inside("/workspace/renamed")],
        ["cp", &inside("/missing"), &path("x")],
    ] {
        assert_eq!(cli.code(&arguments), 125, "{arguments:?}");
    }
}

#[test]
fn what_cannot_be_copied_is_told() {
    let cli = cli();
    let id = cli.create(&[]);
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(host.path().join("tree")).unwrap();
    std::fs::write(host.path().join("tree/file"), "content").unwrap();
    std::os::unix::net::UnixListener::bind(host.path().join("tree/evil\x1b]0;x")).unwrap();

    let into = format!("{id}:/workspace");
    let output = cli.run(&["cp", &path("tree"), &into]);
    assert!(output.status.success(), "{}", shown(&output));
    let warned = String::from_utf8(output.stderr).unwrap();
    assert_eq!(warned.lines().count(), 1, "{warned:?}");
    assert!(
        warned.contains("evil") && !warned.contains('\x1b'),
        "{warned:?}"
    );

    // One that is made inside, where a program can.
    let script = "import socket; socket.socket(socket.AF_UNIX).bind('/workspace/tree/inner')";
    let made = cli.run(&["exec", &id, "python3", "-c", script]);
    if made.status.code() == Some(127) {
        eprintln!("not run in full: no python3 inside to make a socket with");
        return;
    }
    assert!(made.status.success(), "{}", shown(&made));
    let from = format!("{id}:/workspace/tree");
    let output = cli.run(&["cp", "--json", &from, &path("back")]);
    assert!(output.status.success(), "{}", shown(&output));
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(warned.lines().count() == 1 && warned.contains("inner"));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let inner = serde_json::json!([{ "name": "./inner", "name_encoding": "utf-8" }]);
    assert_eq!(
        (&told["left_out"], &told["left_out_more"]),
        (&inner, &0.into())
    );
    let back = std::fs::read(host.path().join("back/file")).unwrap();
    assert_eq!(back, b"content");

    // Where standard output is the archive, standard error is the report.
    let output = cli.run(&["cp", "--json", &from, "-"]);
    assert!(output.status.success() && output.stdout.len() > 1024);
    let told: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(told["left_out"][0]["name"], "tree/inner");
}

/// A sandbox, and a directory of the host.
struct Sides {
    cli: Cli,
    id: String,
    host: tempfile::TempDir,
}

impl Sides {
    fn new() -> Self {
        let cli = cli();
        let id = cli.create(&[]);
        let host = tempfile::tempdir().unwrap();
        Self { cli, id, host }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.host.path().display())
    }

    fn inside(&self, name: &str) -> String {
        format!("{}:{name}", self.id)
    }

    /// Runs a line as root, where there is root.
    fn sh(&self, line: &str) -> String {
        let root: &[&str] = if self.cli.has_users() {
            &["-u", "root"]
        } else {
            &[]
        };
        let command = [&self.id, "sh", "-c", line];
        self.cli.ok(&[&["exec"], root, &command].concat())
    }

    /// A copy that must be refused for what one of its sides is.
    fn refused(&self, from: &str, to: &str, why: &str) {
        let output = self.cli.run(&["cp", from, to]);
        let told = String::from_utf8_lossy(&output.stderr);
        let failed = output.status.code() == Some(125) && told.contains(why);
        assert!(failed, "{from} to {to}: {}", shown(&output));
    }

    /// What is in the directory of the host.
    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.host.path()).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_link_that_is_named_as_a_directory_is_followed() {
    let sides = Sides::new();
    std::fs::create_dir(sides.path("tree")).unwrap();
    std::fs::write(sides.path("tree/file"), "content").unwrap();
    symlink("tree", sides.path("link")).unwrap();
    sides.sh("mkdir /tmp/tree; echo inner > /tmp/tree/file; ln -s tree /tmp/link");
    for (number, end) in ["/.", "/"].iter().enumerate() {
        let (to, back) = (format!("/tmp/in{number}"), format!("out{number}"));
        let from = sides.path("link") + end;
        sides.cli.ok(&["cp", &from, &sides.inside(&to)]);
        assert_eq!(sides.sh(&format!("cat {to}/file")), "content");
        let from = sides.inside("/tmp/link") + end;
        sides.cli.ok(&["cp", &from, &sides.path(&back)]);
        let copied = std::fs::read_to_string(sides.path(&back) + "/file");
        assert_eq!(copied.unwrap(), "inner\n");
    }
    let archive = sides.cli.run(&["cp", &sides.inside("/tmp/link/."), "-"]);
    assert!(archive.status.success(), "{}", shown(&archive));
    let names = String::from_utf8_lossy(&archive.stdout);
    assert!(names.contains("./file"));
    // Named as a link it stays one.
    sides
        .cli
        .ok(&["cp", &sides.path("link"), &sides.inside("/tmp/kept")]);
    assert_eq!(sides.sh("readlink /tmp/kept"), "tree\n");
}

#[test]
fn a_link_as_destination_is_followed_inside_and_refused_on_the_host() {
    let sides = Sides::new();
    std::fs::write(sides.path("new"), "new").unwrap();
    sides.sh("cd /tmp; mkdir d; ln -s d/real a; ln -s /tmp/a b; ln -s l1 l2; ln -s l2 l1; echo old > d/real; chmod 777 d");
    sides
        .cli
        .ok(&["cp", &sides.path("new"), &sides.inside("/tmp/b")]);
    assert_eq!(
        sides.sh("cd /tmp; readlink a b; cat d/real"),
        "d/real\n/tmp/a\nnew"
    );
    // Also where there is nothing yet.
    sides.sh("rm /tmp/d/real");
    sides
        .cli
        .ok(&["cp", &sides.path("new"), &sides.inside("/tmp/a")]);
    assert_eq!(sides.sh("cat /tmp/d/real"), "new");
    sides.refused(&sides.path("new"), &sides.inside("/tmp/l1"), "link");

    std::fs::write(sides.path("victim"), "kept").unwrap();
    symlink("victim", sides.path("to-file")).unwrap();
    symlink("nothing", sides.path("to-nothing")).unwrap();
    let before = sides.names();
    for name in ["to-file", "to-nothing"] {
        sides.refused(&sides.inside("/tmp/d/real"), &sides.path(name), "a link");
        assert!(Path::new(&sides.path(name)).is_symlink());
    }
    assert_eq!(sides.names(), before);
    assert_eq!(
        std::fs::read_to_string(sides.path("victim")).unwrap(),
        "kept"
    );
}

#[test]
fn what_is_no_file_and_no_directory_is_never_replaced() {
    let sides = Sides::new();
    std::fs::write(sides.path("file"), "content").unwrap();
    std::fs::create_dir(sides.path("tree")).unwrap();
    let pipe = sides.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(sides.path("socket")).unwrap();
    symlink("pipe", sides.path("link")).unwrap();
    sides.sh("echo inner > /tmp/inner; mkdir /tmp/tree; mkfifo /tmp/pipe");
    let before = sides.names();
    for to in ["pipe", "socket", "link"] {
        for from in ["/tmp/inner", "/tmp/tree"] {
            sides.refused(
                &sides.inside(from),
                &sides.path(to),
                "device, socket or pipe",
            );
        }
    }
    for to in ["/tmp/pipe", "/dev/null"] {
        for from in ["file", "tree"] {
            sides.refused(
                &sides.path(from),
                &sides.inside(to),
                "device, socket or pipe",
            );
        }
    }
    assert_eq!(
        sides.sh("test -p /tmp/pipe && test -c /dev/null && echo kept"),
        "kept\n"
    );
    // As a source of its own neither is what an archive holds.
    sides.refused("/dev/null", &sides.inside("/tmp/x"), "sockets and devices");
    sides.refused(
        &sides.inside("/dev/null"),
        &sides.path("x"),
        "sockets and devices",
    );
    assert_eq!(sides.names(), before);
    assert_eq!(sides.sh("test -e /tmp/x || echo nothing"), "nothing\n");
}

#[test]
fn a_file_that_the_kernel_makes_up_is_copied_with_its_content() {
    let sides = Sides::new();
    sides
        .cli
        .ok(&["cp", "/proc/version", &sides.inside("/tmp/in")]);
    let version = std::fs::read_to_string("/proc/version").unwrap();
    assert_eq!(sides.sh("cat /tmp/in"), version);
    sides
        .cli
        .ok(&["cp", &sides.inside("/proc/version"), &sides.path("out")]);
    assert_eq!(std::fs::read_to_string(sides.path("out")).unwrap(), version);
    std::fs::write(sides.path("empty"), "").unwrap();
    sides
        .cli
        .ok(&["cp", &sides.path("empty"), &sides.inside("/tmp")]);
    assert_eq!(sides.sh("stat -c %s /tmp/empty"), "0\n");
}

#[test]
fn an_archive_that_is_compressed_is_told_from_one_that_is_torn() {
    let sides = Sides::new();
    let unpack = |bytes: &[u8]| -> Output {
        let mut copy = sides.cli.command();
        copy.args(["cp", "-", &sides.inside("/tmp")]);
        copy.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut copy = copy.spawn().unwrap();
        copy.stdin.take().unwrap().write_all(bytes).unwrap();
        copy.wait_with_output().unwrap()
    };
    for beginning in [
        &b"\x1f\x8b\x08"[..],
        b"BZh9",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
    ] {
        for length in [100, 5000] {
            let mut bytes = beginning.to_vec();
            bytes.resize(length, b'x');
            let output = unpack(&bytes);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(125));
            assert!(
                told.contains("compressed") && told.contains("gunzip"),
                "{told}"
            );
        }
    }
    let output = unpack(b"name of nothing");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("compressed"), "{told}");
}

#[test]
fn a_copy_that_is_interrupted_leaves_nothing_half_made() {
    let sides = Sides::new();
    let file = std::fs::File::create(sides.path("large")).unwrap();
    file.set_len(8 << 30).unwrap();
    for (number, signal) in ["INT", "KILL", "INT", "KILL"].iter().enumerate() {
        let to = sides.inside(&format!("/workspace/f{number}"));
        let mut copy = sides.cli.command();
        let mut copy = copy
            .args(["cp", &sides.path("large"), &to])
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(150));
        let pid = rustix::process::Pid::from_child(&copy);
        let signal = match *signal {
            "INT" => rustix::process::Signal::INT,
            _ => rustix::process::Signal::KILL,
        };
        rustix::process::kill_process(pid, signal).unwrap();
        assert!(!copy.wait().unwrap().success(), "it was done already");
    }
    // The worker inside ends when it sees that nobody sends any more.
    let line = "for i in $(seq 500); do test -z \"$(ls -A /workspace)\" && break; sleep 0.01; done; ls -A /workspace";
    assert_eq!(sides.sh(line), "");
}
