//! Paths that make no sense, lead astray, or name what is no file.

use super::*;
use crate::protocol::message::WatchRequest;

/// Every way to name a path in a request.
fn requests(path: &[u8]) -> Vec<(&'static str, FileTask)> {
    let bytes = || ByteVec::from(path.to_vec());
    let file = |operation| {
        FileTask::Operation(FileRequest {
            user: None,
            operation,
        })
    };
    vec![
        (
            "stat",
            file(FileOperation::Stat {
                path: bytes(),
                follow: true,
            }),
        ),
        (
            "list",
            file(FileOperation::List {
                path: bytes(),
                depth: 1,
            }),
        ),
        (
            "make",
            file(FileOperation::MakeDir {
                path: bytes(),
                parents: false,
                mode: 0o755,
            }),
        ),
        (
            "rename",
            file(FileOperation::Rename {
                from: bytes(),
                to: ByteVec::from(b"/tmp/x".to_vec()),
                replace: true,
            }),
        ),
        (
            "rename to",
            file(FileOperation::Rename {
                from: ByteVec::from(b"/tmp/x".to_vec()),
                to: bytes(),
                replace: true,
            }),
        ),
        (
            "remove",
            file(FileOperation::Remove {
                path: bytes(),
                recursive: true,
                missing_ok: false,
            }),
        ),
        (
            "set",
            file(FileOperation::SetAttributes {
                path: bytes(),
                mode: Some(0o600),
                owner: None,
                group: None,
                modified_s: None,
                recursive: true,
                follow: false,
                modified_ns: None,
            }),
        ),
        (
            "glob",
            file(FileOperation::Glob {
                pattern: bytes(),
                limit: 10,
            }),
        ),
        (
            "link",
            file(FileOperation::Link {
                target: ByteVec::from(b"x".to_vec()),
                path: bytes(),
            }),
        ),
        (
            "read",
            FileTask::Read(ReadRequest {
                user: None,
                path: bytes(),
                offset: 0,
                length: None,
            }),
        ),
        (
            "write",
            FileTask::Write(WriteRequest {
                user: None,
                path: bytes(),
                how: WriteMode::Replace,
                mode: None,
                parents: true,
            }),
        ),
        (
            "watch",
            FileTask::Watch(WatchRequest {
                user: None,
                path: bytes(),
                recursive: true,
            }),
        ),
        (
            "export",
            FileTask::Export(ExportRequest {
                user: None,
                path: bytes(),
                contents: false,
                follow: false,
            }),
        ),
        (
            "import",
            FileTask::Import(ImportRequest {
                user: None,
                path: bytes(),
                parents: true,
                keep_owner: false,
            }),
        ),
    ]
}

#[test]
fn every_operation_refuses_what_is_no_absolute_path() {
    let long = [&b"/"[..], &b"a/".repeat(3000)].concat();
    let paths: &[&[u8]] = &[
        b"",
        b".",
        b"..",
        b"a",
        b"a/b",
        b"./a",
        b"../a",
        b"~",
        b"~/a",
        b"\0",
        b"\xff",
        b" /a",
        b"\\a",
        b"C:\\a",
        b"file:///a",
        b"/a\0",
        b"/a\0b",
        b"/\0",
        b"\0/a",
        b"/tmp/\0/..",
        &long,
    ];
    for path in paths {
        for (name, task) in requests(path) {
            let failure = run_task(&task, b"").fails(FailureKind::Invalid);
            let subject = failure.subject.expect("subject");
            assert!(path.starts_with(&subject), "{name} names the path");
            assert!(!failure.message.contains('\0'), "{name}");
        }
    }
}

#[test]
fn what_is_in_the_way_is_told_by_kind() {
    use FailureKind::{
        AlreadyExists, Invalid, IsDirectory, LinkLoop, NotDirectory, NotEmpty, NotFound,
    };
    let place = Place::new();
    place.file("file", "x");
    place.file("full/inner", "x");
    place.dir("empty");
    place.link("dangling", "nowhere");
    place.link("loop", "loop");
    place.link("to-dir", "full");
    place.link("to-slash", "full/");
    place.link("to-parent", "..");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        place.path("pipe"),
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .expect("pipe");
    let _socket = std::os::unix::net::UnixListener::bind(place.path("socket")).expect("socket");
    let long = "n".repeat(256);
    let stat = |name: &str, follow| {
        operate(FileOperation::Stat {
            path: bytes(place.path(name)),
            follow,
        })
    };
    let list = |name: &str| {
        operate(FileOperation::List {
            path: bytes(place.path(name)),
            depth: 1,
        })
    };
    let make = |name: &str, parents| {
        operate(FileOperation::MakeDir {
            path: bytes(place.path(name)),
            parents,
            mode: 0o755,
        })
    };
    let rename = |from: &str, to: &str, replace| {
        operate(FileOperation::Rename {
            from: bytes(place.path(from)),
            to: bytes(place.path(to)),
            replace,
        })
    };
    let unlink = |name: &str| {
        operate(FileOperation::Remove {
            path: bytes(place.path(name)),
            recursive: false,
            missing_ok: false,
        })
    };
    let put = |name: &str, how| write(place.path(name), how, b"new");
    let link = |name: &str, target: &[u8]| {
        operate(FileOperation::Link {
            target: ByteVec::from(target.to_vec()),
            path: bytes(place.path(name)),
        })
    };
    let get = |name: &str| read(place.path(name), 0, None);
    let send = |name: &str, contents| export(place.path(name), contents);
    let before = snapshot(&place.path(""));
    let cases: Vec<(&str, Outcome, FailureKind)> = vec![
        ("stat missing", stat("missing", true), NotFound),
        ("stat below file", stat("file/x", true), NotDirectory),
        ("stat file/", stat("file/", true), NotDirectory),
        ("stat dangling", stat("dangling", true), NotFound),
        ("stat loop", stat("loop", true), LinkLoop),
        ("stat long", stat(&long, true), Invalid),
        ("list missing", list("missing"), NotFound),
        ("list file", list("file"), NotDirectory),
        ("list pipe", list("pipe"), NotDirectory),
        ("list loop", list("loop"), LinkLoop),
        ("make existing", make("empty", false), AlreadyExists),
        ("make on file", make("file", true), AlreadyExists),
        ("make below file", make("file/x/y", true), NotDirectory),
        ("make without parents", make("a/b", false), NotFound),
        ("make on dangling", make("dangling", true), AlreadyExists),
        ("make in loop", make("loop/x", true), NotDirectory),
        ("rename missing", rename("missing", "x", true), NotFound),
        ("rename to full", rename("empty", "full", true), NotEmpty),
        (
            "rename file on dir",
            rename("file", "empty", true),
            IsDirectory,
        ),
        (
            "rename dir on file",
            rename("empty", "file", true),
            NotDirectory,
        ),
        ("rename onto", rename("file", "pipe", false), AlreadyExists),
        (
            "rename onto dangling",
            rename("file", "dangling", false),
            AlreadyExists,
        ),
        (
            "rename into itself",
            rename("full", "full/inner/x", true),
            NotDirectory,
        ),
        (
            "rename below itself",
            rename("full", "full/x", true),
            Invalid,
        ),
        ("rename dots", rename("full/..", "x", true), Invalid),
        ("remove missing", unlink("missing"), NotFound),
        ("remove full", unlink("full"), NotEmpty),
        ("remove dot", unlink("full/."), Invalid),
        ("remove dots", unlink("full/.."), Invalid),
        ("remove below file", unlink("file/x"), NotDirectory),
        ("read directory", get("full"), IsDirectory),
        ("read pipe", get("pipe"), Invalid),
        ("read socket", get("socket"), Invalid),
        ("read missing", get("missing"), NotFound),
        ("read loop", get("loop"), LinkLoop),
        ("read file/", get("file/"), NotDirectory),
        (
            "write directory",
            put("full", WriteMode::Replace),
            IsDirectory,
        ),
        (
            "write through to directory",
            put("to-dir", WriteMode::Replace),
            IsDirectory,
        ),
        (
            "write through slash",
            put("to-slash", WriteMode::Replace),
            IsDirectory,
        ),
        (
            "write through dots",
            put("to-parent", WriteMode::Append),
            IsDirectory,
        ),
        ("write file/", put("file/", WriteMode::Replace), IsDirectory),
        ("write pipe", put("pipe", WriteMode::Replace), Invalid),
        ("append pipe", put("pipe", WriteMode::Append), Invalid),
        ("write socket", put("socket", WriteMode::Replace), Invalid),
        ("write loop", put("loop", WriteMode::Replace), LinkLoop),
        ("append loop", put("loop", WriteMode::Append), LinkLoop),
        (
            "create existing",
            put("file", WriteMode::CreateNew),
            AlreadyExists,
        ),
        (
            "create on dangling",
            put("dangling", WriteMode::CreateNew),
            AlreadyExists,
        ),
        (
            "write below missing",
            put("a/b", WriteMode::Replace),
            NotFound,
        ),
        (
            "write below file",
            put("file/b", WriteMode::Replace),
            NotDirectory,
        ),
        ("write long name", put(&long, WriteMode::Replace), Invalid),
        ("write dots", put("full/..", WriteMode::Replace), Invalid),
        ("link existing", link("file", b"x"), AlreadyExists),
        ("link empty", link("new", b""), Invalid),
        ("link NUL", link("new", b"a\0b"), Invalid),
        ("link long", link("new", &b"x".repeat(4096)), Invalid),
        ("export missing", send("missing", false), NotFound),
        ("export contents of file", send("file", true), NotDirectory),
        (
            "export contents of link",
            send("to-dir", true),
            NotDirectory,
        ),
        ("export socket", send("socket", false), Invalid),
        (
            "import to file",
            import(place.path("file"), &[0; 1024]),
            NotDirectory,
        ),
        (
            "import to missing",
            import(place.path("missing"), &[0; 1024]),
            NotFound,
        ),
        ("read /dev/zero", read("/dev/zero", 0, None), Invalid),
        (
            "write /dev/null",
            write("/dev/null", WriteMode::Replace, b""),
            Invalid,
        ),
        ("remove /", remove("/"), Invalid),
        ("remove //", remove("//"), Invalid),
    ];
    assert!(cases.len() > 40);
    for (name, outcome, kind) in cases {
        assert_eq!(outcome.failure_kind(), Some(kind), "{name}");
        assert_eq!(outcome.frames.len(), 1, "{name}: one frame");
    }
    assert_eq!(snapshot(&place.path("")), before, "nothing was changed");
}

#[test]
fn a_request_that_is_none_is_refused() {
    for kind in Kind::ALL {
        let decoded = FileTask::decode(*kind, b"\xff\xff");
        let is_file = matches!(
            kind,
            Kind::File
                | Kind::ReadFile
                | Kind::WriteFile
                | Kind::Watch
                | Kind::ExportTar
                | Kind::ImportTar
        );
        match decoded {
            Some(Err(failure)) => assert!(is_file && failure.kind == FailureKind::Invalid),
            None => assert!(!is_file),
            Some(Ok(task)) => panic!("{task:?}"),
        }
    }
    let request = write_request("/a", WriteMode::Append);
    let decoded = FileTask::decode(Kind::WriteFile, &message::encode(&request));
    assert_eq!(decoded, Some(Ok(FileTask::Write(request))));
}
