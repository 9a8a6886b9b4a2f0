//! Archives that this program and the system's `tar` write and read.

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::super::tar::{self, BadArchive, MemberKind, Reader};
use super::*;
use crate::protocol::message::LeftOut;

/// A tree with everything that an archive can hold.
pub(super) fn tree(place: &Place, name: &str) {
    let root = place.dir(name);
    let at = |more: &str| format!("{name}/{more}");
    place.file(&at("empty"), "");
    place.file(&at("dir/file"), &"content\n".repeat(100));
    place.file(&at("block"), &"b".repeat(512));
    place.file(&at("large"), &"l".repeat(300_001));
    place.file(
        &at(&format!("{}/{}", "d".repeat(120), "f".repeat(200))),
        "long",
    );
    std::fs::write(
        root.join(std::ffi::OsString::from_vec(b"odd\xff\n".to_vec())),
        "odd",
    )
    .expect("file");
    let odd_long = [&b"\xfe"[..], &b"o".repeat(150)].concat();
    std::fs::write(root.join(std::ffi::OsString::from_vec(odd_long)), "odd").expect("file");
    place.link(&at("link"), "dir/file");
    place.link(&at("dangling"), "/no/where");
    place.link(&at("long-link"), "t".repeat(300));
    std::fs::hard_link(root.join("dir/file"), root.join("zz-hard")).expect("hard link");
    std::fs::hard_link(root.join("dir/file"), root.join("dir/hard")).expect("hard link");
    let pipe = root.join("pipe");
    let bits = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, bits).expect("pipe");
    place.dir(&at("closed"));
    let mode = |more: &str, bits| {
        let permissions = PermissionsExt::from_mode(bits);
        std::fs::set_permissions(root.join(more), permissions).expect("mode");
    };
    mode("closed", 0o1555);
    mode("empty", 0o400);
    mode("block", 0o777);
    let time = |more: &str, seconds, nanoseconds| {
        let times = super::super::attributes::times(seconds, nanoseconds);
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, root.join(more), &times, flags).expect("time");
    };
    time("empty", 1_000_000_000, 123_456_789);
    time("block", -5, 250_000_000);
    time("large", -7, 0);
    time("dir", 1_234_567_890, 1);
    time("pipe", 12, 0);
    time("closed", 99_999_999_999, 0);
}

fn feed_tar(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("tar")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tar");
    let mut stdin = child.stdin.take().expect("stdin");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).expect("input"));
        let output = child.wait_with_output().expect("output");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let about_times = |line: &str| line.contains(" time stamp ");
        assert!(said.lines().all(about_times), "{said}");
        output.stdout
    })
}

#[test]
fn what_was_exported_is_imported_as_it_was() {
    let place = Place::new();
    tree(&place, "tree");
    let archive = export(place.path("tree"), false).ok().data;
    assert_eq!(archive.len() % tar::BLOCK, 0);
    import(place.dir("to"), &archive).ok();
    assert_eq!(
        snapshot(&place.path("to/tree")),
        snapshot(&place.path("tree"))
    );
    let contents = export(place.path("tree"), true).ok().data;
    import(place.dir("flat"), &contents).ok();
    // Twice: everything is there already.
    import(place.path("flat"), &contents).ok();
    assert_eq!(snapshot(&place.path("flat")), snapshot(&place.path("tree")));
    // One file, one link, and what a link means.
    let one = export(place.path("tree/dir/file"), false).ok().data;
    let link = export(place.path("tree/link"), false).ok().data;
    let followed = run_task(
        &FileTask::Export(ExportRequest {
            user: None,
            path: bytes(place.path("tree/link")),
            contents: false,
            follow: true,
        }),
        b"",
    )
    .ok()
    .data;
    import(place.dir("one"), &one).ok();
    import(place.path("one"), &link).ok();
    assert!(place.path("one/link").is_symlink());
    import(place.path("one"), &followed).ok();
    assert_eq!(place.read("one/link"), place.read("one/file"));
    assert!(!place.path("one/link").is_symlink(), "the last one wins");
}

#[test]
fn the_systems_tar_reads_what_we_write() {
    let place = Place::new();
    tree(&place, "tree");
    let archive = export(place.path("tree"), false).ok().data;
    let to = place.dir("to");
    feed_tar(
        &[
            "-xp",
            "-C",
            to.to_str().expect("text"),
            "--delay-directory-restore",
        ],
        &archive,
    );
    assert_eq!(snapshot(&to.join("tree")), snapshot(&place.path("tree")));
}

#[test]
fn we_read_what_the_systems_tar_writes() {
    let place = Place::new();
    tree(&place, "tree");
    let want = snapshot(&place.path("tree"));
    let from = place.path("");
    let from = from.to_str().expect("text");
    let archive = feed_tar(&["-c", "--format=posix", "-C", from, "tree"], b"");
    import(place.dir("posix"), &archive).ok();
    assert_eq!(snapshot(&place.path("posix/tree")), want);
    let without_times = |lines: Vec<String>| -> Vec<String> {
        let cut = |line: String| line.rsplit_once(" (").expect("time").0.to_owned();
        lines.into_iter().map(cut).collect()
    };
    let archive = feed_tar(&["-c", "--format=gnu", "-C", from, "tree"], b"");
    import(place.dir("gnu"), &archive).ok();
    assert_eq!(
        without_times(snapshot(&place.path("gnu/tree"))),
        without_times(want)
    );
    place.file("small/a/b", "old format");
    for format in ["ustar", "v7", "oldgnu"] {
        let option = format!("--format={format}");
        let archive = feed_tar(&["-c", &option, "-C", from, "small"], b"");
        import(place.dir(format), &archive).ok();
        assert_eq!(place.read(&format!("{format}/small/a/b")), "old format");
    }
}

#[test]
fn sizes_beyond_the_plain_header_are_told() {
    for size in [0, 1, (1 << 33) - 1, 1 << 33, 1 << 40] {
        let record = tar::Record {
            letter: b'0',
            name: b"big",
            link: b"",
            size,
            mode: 0o644,
            uid: u32::MAX - 1,
            gid: 0o777_7777,
            modified_s: i64::MIN + 1,
            modified_ns: 5,
            owner: "an-owner-with-a-name-longer-than-the-field",
            group: "",
        };
        let mut archive = Vec::new();
        tar::encode(&record, &mut archive);
        let mut reader = Reader::new(&archive[..]);
        if let Ok(Some(member)) = reader.next_member() {
            assert_eq!((member.kind, member.size), (MemberKind::File, size));
            assert_eq!((member.uid, member.gid), (u32::MAX - 1, 0o777_7777));
            assert_eq!((member.modified_s, member.modified_ns), (i64::MIN + 1, 5));
        } else {
            panic!("not read");
        }
        if size > 0 {
            let torn = matches!(reader.next_member(), Err(BadArchive::Refused { .. }));
            assert!(torn, "the content is missing");
        }
    }
}

/// Peak resident memory of this process in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("peak");
    line.split_whitespace()
        .nth(1)
        .expect("number")
        .parse()
        .expect("number")
}

#[test]
fn a_stream_of_gigabytes_takes_no_memory() {
    const SIZE: u64 = 2 << 30;
    let place = Place::new();
    // A hole: nothing is stored, everything is sent.
    let path = place.file("sparse", "");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("file");
    file.set_len(SIZE).expect("size");
    let before = peak();
    let count = |task: &FileTask| {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let mut last = None;
        let bytes = std::thread::scope(|scope| {
            let counter = scope
                .spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).expect("data"));
            run(task, writer.as_fd(), &mut |kind, _| last = Some(kind));
            drop(writer);
            counter.join().expect("counted")
        });
        assert_eq!(last, Some(Kind::Done));
        bytes
    };
    let read = FileTask::Read(ReadRequest {
        user: None,
        path: bytes(&path),
        offset: 0,
        length: None,
    });
    assert_eq!(count(&read), SIZE);
    let send = FileTask::Export(ExportRequest {
        user: None,
        path: bytes(&path),
        contents: false,
        follow: false,
    });
    assert!(count(&send) > SIZE);
    let grown = peak() - before;
    assert!(grown < 64 * 1024, "grew by {grown} KiB");
}

#[test]
fn a_small_file_is_sent_as_long_as_it_is() {
    let place = Place::new();
    // In /sys, files claim a page and hold less.
    let path = [
        "/sys/kernel/uevent_seqnum",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ]
    .into_iter()
    .find(|path| std::fs::metadata(path).is_ok_and(|meta| meta.len() == 4096));
    let Some(path) = path else {
        eprintln!("not run: no file here that claims more than it holds");
        return;
    };
    let outcome = export(path, false).ok();
    import(place.path(""), &outcome.data).ok();
    let name = Path::new(path)
        .file_name()
        .expect("name")
        .to_str()
        .expect("text");
    assert_eq!(
        place.read(name),
        std::fs::read_to_string(path).expect("text")
    );
}

#[test]
fn a_file_that_shrinks_is_told_and_replaces_nothing() {
    const SIZE: u64 = 64 << 20;
    let place = Place::new();
    let path = place.file("large", "x");
    std::fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(SIZE))
        .expect("made long");
    let target = place.file("target/large", "the old file");
    let (mut reader, writer) = std::os::unix::net::UnixStream::pair().expect("pair");
    let mut told = None;
    let data = std::thread::scope(|scope| {
        let shrunk = path.clone();
        let read = scope.spawn(move || {
            let mut data = vec![0; 1 << 20];
            reader.read_exact(&mut data).expect("a part");
            std::fs::write(&shrunk, "short").expect("shrunk");
            reader.read_to_end(&mut data).expect("the rest");
            data
        });
        let task = FileTask::Export(ExportRequest {
            user: None,
            path: bytes(&path),
            contents: false,
            follow: false,
        });
        run(&task, writer.as_fd(), &mut |kind, payload| {
            told = Some((kind, payload.to_vec()));
        });
        drop(writer);
        read.join().expect("read")
    });
    let (kind, payload) = told.expect("an answer");
    assert_eq!(kind, Kind::Failure);
    let failure: Failure = message::decode(&payload).expect("a failure");
    assert_eq!(failure.kind, FailureKind::Changed);
    assert!((data.len() as u64) < SIZE);
    assert_eq!(
        import(place.path("target"), &data).failure_kind(),
        Some(FailureKind::BadArchive)
    );
    assert_eq!(
        std::fs::read_to_string(target).expect("text"),
        "the old file"
    );
}

#[test]
fn what_an_archive_cannot_hold_is_told() {
    let place = Place::new();
    place.file("dir/file", "x");
    let before = export(place.path("dir"), true);
    assert!(before.failure().is_none());
    assert!(before.frames.iter().all(|(kind, _)| *kind != Kind::LeftOut));

    let socket = place.path("dir/socket");
    std::os::unix::net::UnixListener::bind(&socket).expect("socket");
    let told = |contents| {
        let outcome = export(place.path("dir"), contents);
        assert!(outcome.failure().is_none());
        let of_kind = |kind| move |(other, _): &&(Kind, Vec<u8>)| *other == kind;
        let mut told = outcome.frames.iter().filter(of_kind(Kind::LeftOut));
        let (_, payload) = told.next().expect("a report");
        assert!(told.next().is_none());
        message::decode::<LeftOut>(payload).expect("left out")
    };
    let named = |name: &str| LeftOut {
        names: vec![ByteVec::from(name.as_bytes().to_vec())],
        more: 0,
    };
    assert_eq!(told(true), named("./socket"));
    assert_eq!(told(false), named("dir/socket"));
    export(socket, false).fails(FailureKind::Invalid);
}

#[test]
fn a_report_of_what_was_left_out_is_bounded_and_counts_the_rest() {
    let mut left_out = LeftOut::default();
    assert!(left_out.is_empty());
    for _ in 0..100 {
        left_out.add(&[b'n'; 1000]);
    }
    assert!(!left_out.is_empty());
    assert!(message::encode(&left_out).len() < 64 * 1024);
    assert_eq!(left_out.names.len() as u64 + left_out.more, 100);
    assert!(left_out.more > 0);
}
