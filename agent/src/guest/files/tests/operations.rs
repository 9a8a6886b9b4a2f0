//! Listing, making, moving, removing, finding, attributes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::{Mode, OFlags, mkdirat, open, openat};

use super::*;
use crate::protocol::message::FileKind;

fn list(path: &Path, depth: u32) -> Outcome {
    let path = bytes(path);
    operate(FileOperation::List { path, depth }).ok()
}

fn glob(pattern: &Path, limit: u32) -> Outcome {
    let pattern = bytes(pattern);
    operate(FileOperation::Glob { pattern, limit })
}

#[test]
fn a_listing_goes_as_deep_as_asked_in_name_order() {
    let place = Place::new();
    for name in ["b/x/deep", "b/a", "a", "c", "b.x", ".hidden"] {
        place.file(name, "12");
    }
    place.link("b/link", "x");
    assert_eq!(list(&place.path(""), 0).names(), [""; 0]);
    assert_eq!(
        list(&place.path(""), 1).names(),
        [".hidden", "a", "b", "b.x", "c"]
    );
    let two = [".hidden", "a", "b", "b/a", "b/link", "b/x", "b.x", "c"];
    assert_eq!(list(&place.path(""), 2).names(), two);
    let outcome = list(&place.path(""), u32::MAX);
    let all = [
        ".hidden", "a", "b", "b/a", "b/link", "b/x", "b/x/deep", "b.x", "c",
    ];
    assert_eq!(outcome.names(), all);
    let entries = outcome.entries();
    assert_eq!(entries[4].kind, FileKind::Link);
    assert_eq!(entries[4].target, Some(ByteVec::from(b"x".to_vec())));
    assert_eq!((entries[6].kind, entries[6].size), (FileKind::File, 2));
    let meta = std::fs::metadata(place.path("b/x/deep")).expect("metadata");
    assert_eq!(entries[6].modified_s, meta.mtime());
    assert_eq!(i64::from(entries[6].modified_ns), meta.mtime_nsec());
    assert_eq!((entries[6].uid, entries[6].gid), (meta.uid(), meta.gid()));
    if meta.uid() == 0 {
        assert_eq!(entries[6].user.as_deref(), Some("root"));
    }
}

#[test]
fn a_large_directory_comes_in_batches() {
    let place = Place::new();
    let dir = open(place.path(""), OFlags::PATH, Mode::empty()).expect("directory");
    for number in 0..5000 {
        let name = format!("{number:0200}");
        let flags = OFlags::CREATE | OFlags::WRONLY;
        openat(&dir, name, flags, Mode::RUSR).expect("file");
    }
    let outcome = list(&place.path(""), 1);
    assert!(outcome.frames.len() > 10);
    let names = outcome.names();
    assert_eq!(names.len(), 5000);
    assert!(names.is_sorted());
}

/// Makes a chain of directories that no path can name.
fn chain(place: &Place, depth: usize) {
    let mut dir = open(place.path(""), OFlags::PATH, Mode::empty()).expect("directory");
    for _ in 0..depth {
        mkdirat(&dir, "d", Mode::RWXU).expect("directory");
        dir = openat(&dir, "d", OFlags::PATH, Mode::empty()).expect("directory");
        let flags = OFlags::CREATE | OFlags::WRONLY;
        openat(&dir, "f", flags, Mode::RUSR).expect("file");
    }
}

#[test]
fn a_tree_deeper_than_any_path_is_no_trouble() {
    let place = Place::new();
    chain(&place, 3000);
    let names = list(&place.path(""), u32::MAX).names();
    assert_eq!(names.len(), 6000);
    operate(FileOperation::SetAttributes {
        path: bytes(place.path("d")),
        mode: Some(0o755),
        owner: None,
        group: None,
        modified_s: Some(1),
        recursive: true,
        follow: false,
        modified_ns: None,
    })
    .ok();
    let entries = list(&place.path(""), u32::MAX).entries();
    assert!(
        entries
            .iter()
            .all(|entry| (entry.mode, entry.modified_s) == (0o755, 1))
    );
    let archive = export(place.path("d"), false).ok().data;
    assert!(archive.len() > 6000 * 512);
    assert!(glob(&place.path("**/f"), 10_000).ok().names().len() > 1000);
    remove(place.path("d")).ok();
    assert!(!place.path("d").exists());
}

#[test]
fn a_time_is_set_to_the_nanosecond() {
    let place = Place::new();
    std::fs::write(place.path("f"), "x").expect("written");
    for (seconds, nanoseconds) in [(1, 2), (-1, 999_999_999), (1_000_000_000, 0)] {
        operate(FileOperation::SetAttributes {
            path: bytes(place.path("f")),
            mode: None,
            owner: None,
            group: None,
            modified_s: Some(seconds),
            recursive: false,
            follow: false,
            modified_ns: Some(nanoseconds),
        })
        .ok();
        let meta = std::fs::metadata(place.path("f")).expect("there");
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            (seconds, i64::from(nanoseconds))
        );
    }
}

#[test]
fn directories_get_exactly_the_mode_asked_for() {
    let place = Place::new();
    let make = |name: &str, parents, mode| {
        let path = bytes(place.path(name));
        operate(FileOperation::MakeDir {
            path,
            parents,
            mode,
        })
    };
    let mode = |name: &str| {
        let meta = std::fs::metadata(place.path(name)).expect(name);
        meta.permissions().mode() & 0o7777
    };
    for bits in [0o777, 0o700, 0o000, 0o1777, 0o2775, 0o555] {
        let name = format!("{bits:o}");
        make(&name, false, bits).ok();
        assert_eq!(mode(&name), bits);
    }
    make("a/b/c", true, 0o777).ok();
    make("a/b/c", true, 0o700).ok();
    assert_eq!((mode("a"), mode("a/b/c")), (0o777, 0o777));
    place.link("l", "a");
    make("l/b/d/", true, 0o755).ok();
    assert!(place.path("a/b/d").is_dir());
    make("l", true, 0o755).ok();
}

#[test]
fn moving_replaces_only_when_told() {
    let place = Place::new();
    place.file("a", "a");
    place.file("b", "b");
    place.dir("d/e");
    place.link("link", "a");
    let rename = |from: &str, to: &str, replace| {
        let (from, to) = (bytes(place.path(from)), bytes(place.path(to)));
        operate(FileOperation::Rename { from, to, replace })
    };
    rename("a", "b", false).fails(FailureKind::AlreadyExists);
    assert_eq!((place.read("a"), place.read("b")), ("a".into(), "b".into()));
    rename("a", "b", true).ok();
    assert_eq!(place.read("b"), "a");
    rename("d", "moved", false).ok();
    assert!(place.path("moved/e").is_dir());
    rename("link", "moved/link", false).ok();
    assert!(place.path("moved/link").is_symlink());
}

#[test]
fn removing_never_follows_a_link() {
    let place = Place::new();
    place.file("keep/inner/file", "kept");
    place.link("tree-link", "keep");
    place.dir("tree/sub");
    place.link("tree/link", "../keep");
    place.link("tree/sub/up", "../..");
    place.file("tree/sub/file", "x");
    let unlink = |name: &str, recursive, missing_ok| {
        let path = bytes(place.path(name));
        operate(FileOperation::Remove {
            path,
            recursive,
            missing_ok,
        })
    };
    unlink("tree", true, false).ok();
    unlink("tree-link/", true, false).ok();
    assert!(!place.path("tree").exists() && !place.path("tree-link").is_symlink());
    assert_eq!(place.read("keep/inner/file"), "kept");
    unlink("tree", true, true).ok();
    unlink("no/such/tree", true, true).ok();
    unlink("keep/inner/file/x", true, true).fails(FailureKind::NotDirectory);
    unlink("keep", false, false).fails(FailureKind::NotEmpty);
    place.dir("empty");
    unlink("empty", false, false).ok();
    // A directory that nobody may read.
    place.file("closed/file", "x");
    std::fs::set_permissions(place.path("closed"), PermissionsExt::from_mode(0o0)).expect("mode");
    if rustix::process::geteuid().is_root() {
        unlink("closed", true, false).ok();
    } else {
        unlink("closed", true, false).fails(FailureKind::PermissionDenied);
    }
}

#[test]
fn attributes_change_below_but_not_behind_links() {
    let place = Place::new();
    let outside = place.file("outside/file", "x");
    std::fs::set_permissions(&outside, PermissionsExt::from_mode(0o640)).expect("mode");
    place.file("tree/a/file", "x");
    place.link("tree/link", "../outside");
    place.link("tree/file-link", &outside);
    place.link("to-tree", "tree");
    let set = |name: &str, mode, modified_s, recursive, follow| {
        operate(FileOperation::SetAttributes {
            path: bytes(place.path(name)),
            mode,
            owner: None,
            group: None,
            modified_s,
            recursive,
            follow,
            modified_ns: None,
        })
    };
    let mode = |name: &str| {
        let meta = std::fs::metadata(place.path(name)).expect(name);
        meta.permissions().mode() & 0o7777
    };
    let outside_mode = mode("outside");
    set("tree", Some(0o750), Some(1234), true, false).ok();
    assert_eq!(
        (mode("tree"), mode("tree/a"), mode("tree/a/file")),
        (0o750, 0o750, 0o750)
    );
    assert_eq!(
        (mode("outside"), mode("outside/file")),
        (outside_mode, 0o640)
    );
    let time = |name: &str| {
        std::fs::symlink_metadata(place.path(name))
            .expect(name)
            .mtime()
    };
    assert_eq!(
        (time("tree"), time("tree/a/file"), time("tree/link")),
        (1234, 1234, 1234)
    );
    assert_ne!(time("outside/file"), 1234);
    // Bits that close a directory do not hinder what is in it.
    set("tree", Some(0o400), None, true, false).ok();
    assert_eq!(mode("tree") & 0o777, 0o400);
    set("tree", Some(0o755), None, true, false).ok();
    assert_eq!(mode("tree/a/file"), 0o755);
    set("to-tree", Some(0o700), None, false, true).ok();
    assert_eq!(mode("tree"), 0o700);
    set("to-tree", Some(0o755), None, false, false).fails(FailureKind::Unsupported);
    set("to-tree", Some(0o750), None, true, true).ok();
    assert_eq!(mode("tree/a"), 0o750);
    set("tree", Some(0o10_000), None, false, false).fails(FailureKind::Invalid);
    set("missing", Some(0o700), None, true, false).fails(FailureKind::NotFound);
    let own = |owner: &str| {
        operate(FileOperation::SetAttributes {
            path: bytes(place.path("tree")),
            mode: None,
            owner: Some(owner.to_owned()),
            group: Some("4712".to_owned()),
            modified_s: None,
            recursive: true,
            follow: false,
            modified_ns: None,
        })
    };
    own("no-such-user").fails(FailureKind::NotFound);
    if rustix::process::geteuid().is_root() {
        own("4711").ok();
        for (name, uid) in [
            ("tree", 4711),
            ("tree/a/file", 4711),
            ("tree/link", 4711),
            ("outside", 0),
        ] {
            let meta = std::fs::symlink_metadata(place.path(name)).expect(name);
            assert_eq!(meta.uid(), uid, "{name}");
        }
    }
}

#[test]
fn a_pattern_finds_what_a_shell_would_find() {
    let place = Place::new();
    for name in [
        "a/one.rs",
        "a/two.txt",
        "a/b/three.rs",
        "a/b/a/b/four.rs",
        ".h/five.rs",
        "a/.six.rs",
    ] {
        place.file(name, "");
    }
    place.link("a/b/up", "../..");
    place.link("link", "a");
    let root = place.path("");
    let find = |pattern: &str| {
        let found = glob(&root.join(pattern), 100).ok();
        found
            .entries()
            .iter()
            .map(|entry| {
                let path = String::from_utf8(entry.path.to_vec()).expect("text");
                path.strip_prefix(root.to_str().expect("text"))
                    .expect("below")[1..]
                    .to_owned()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(find("a/*.rs"), ["a/one.rs"]);
    assert_eq!(find("a/.*.rs"), ["a/.six.rs"]);
    assert_eq!(find("*"), ["a", "link"]);
    assert_eq!(find("*/one.rs"), ["a/one.rs", "link/one.rs"]);
    assert_eq!(
        find("**/*.rs"),
        ["a/one.rs", "a/b/three.rs", "a/b/a/b/four.rs"]
    );
    assert_eq!(find("a/**/b/**/*.rs"), ["a/b/three.rs", "a/b/a/b/four.rs"]);
    assert_eq!(
        find("a/b/**"),
        [
            "a/b/a",
            "a/b/a/b",
            "a/b/a/b/four.rs",
            "a/b/three.rs",
            "a/b/up"
        ]
    );
    assert_eq!(find("a/*/"), ["a/b"]);
    assert_eq!(find("a/b/*/"), ["a/b/a", "a/b/up"]);
    assert_eq!(find("a/b/up/a/one.rs"), ["a/b/up/a/one.rs"]);
    assert_eq!(find(".h/*"), [".h/five.rs"]);
    assert_eq!(find("nothing/*"), [""; 0]);
    assert_eq!(find("a/one.rs"), ["a/one.rs"]);
    glob(&root.join("a/**"), 3).fails(FailureKind::Exhausted);
    assert_eq!(glob(&root.join("a/b/**"), 5).ok().names().len(), 5);
    let many = format!("{}x", "**/*/".repeat(60));
    assert_eq!(find(&many), [""; 0], "in time");
}

#[test]
fn links_say_what_they_were_told() {
    let place = Place::new();
    let link = |name: &str, target: &[u8]| {
        let target = ByteVec::from(target.to_vec());
        let path = bytes(place.path(name));
        operate(FileOperation::Link { target, path })
    };
    link("a", b"../x\xff").ok();
    let stat = |follow| {
        let path = bytes(place.path("a"));
        operate(FileOperation::Stat { path, follow })
    };
    let entry = stat(false).ok().entry();
    assert_eq!(entry.target, Some(ByteVec::from(b"../x\xff".to_vec())));
    assert_eq!(entry.kind, FileKind::Link);
    stat(true).fails(FailureKind::NotFound);
}
