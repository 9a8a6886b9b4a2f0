//! Reading and writing files.

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path)
        .expect("metadata")
        .permissions()
        .mode()
        & 0o7777
}

#[test]
fn a_part_of_a_file_is_read() {
    let place = Place::new();
    let file = place.file("f", "0123456789");
    for (offset, length, want) in [
        (0, None, "0123456789"),
        (3, None, "3456789"),
        (3, Some(2), "34"),
        (3, Some(0), ""),
        (8, Some(100), "89"),
        (10, None, ""),
        (11, Some(5), ""),
        (u64::MAX, None, ""),
        (u64::MAX, Some(u64::MAX), ""),
        (1, Some(u64::MAX), "123456789"),
        (i64::MAX as u64 - 1, None, ""),
    ] {
        let outcome = read(&file, offset, length).ok();
        assert_eq!(outcome.data, want.as_bytes(), "{offset} {length:?}");
        assert_eq!(outcome.frames[0].0, Kind::Entry);
        assert_eq!(outcome.frames[1].0, Kind::Done);
        assert_eq!(outcome.entry().size, 10);
    }
    let link = place.link("l", "f");
    assert_eq!(read(link, 0, None).ok().data, b"0123456789");
    // Its size is said to be 0.
    let status = read("/proc/self/status", 0, None).ok();
    assert!(status.data.starts_with(b"Name:"));
    let part = read("/proc/self/status", 2, Some(3)).ok();
    assert_eq!(part.data, b"me:");
}

#[test]
fn each_way_of_writing_keeps_its_promise() {
    let place = Place::new();
    let path = place.path("f");
    let entry = write(&path, WriteMode::Replace, b"one").ok().entry();
    assert_eq!(
        (entry.size, entry.mode, &entry.path),
        (3, 0o644, &bytes(&path))
    );
    assert_eq!(mode(&path), 0o644);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6751)).expect("mode");
    write(&path, WriteMode::Replace, b"two").ok();
    assert_eq!(mode(&path), 0o751, "kept, but without set-id bits");
    write(&path, WriteMode::Append, b"+three").ok();
    assert_eq!(place.read("f"), "two+three");
    assert_eq!(mode(&path), 0o751);
    write(place.path("g"), WriteMode::Append, b"new").ok();
    assert_eq!(
        (place.read("g"), mode(&place.path("g"))),
        ("new".into(), 0o644)
    );
    write(place.path("h"), WriteMode::CreateNew, b"new").ok();
    assert_eq!(place.read("h"), "new");
    for (how, name) in [
        (WriteMode::Replace, "m1"),
        (WriteMode::Append, "m2"),
        (WriteMode::CreateNew, "m3"),
    ] {
        let mut request = write_request(place.path("deep").join(name).join("f"), how);
        request.mode = Some(0o666);
        run_task(&FileTask::Write(request.clone()), b"x").fails(FailureKind::NotFound);
        request.parents = true;
        run_task(&FileTask::Write(request), b"x").ok();
        assert_eq!(
            mode(&place.path("deep").join(name).join("f")),
            0o666,
            "whatever the umask"
        );
    }
    assert_eq!(mode(&place.path("deep")), 0o755);
    // A name that is no text.
    let odd = place
        .path("")
        .join(std::ffi::OsString::from_vec(b"\xff\n\x1b".to_vec()));
    write(&odd, WriteMode::Replace, b"odd").ok();
    assert_eq!(read(&odd, 0, None).ok().data, b"odd");
}

#[test]
fn a_link_is_followed_to_the_file_it_means() {
    let place = Place::new();
    let target = place.file("dir/target", "old");
    place.link("relative", "dir/target");
    place.link("absolute", &target);
    place.link("dir/second", "../relative");
    place.link("dangling", "dir/made");
    for name in ["relative", "absolute", "dir/second"] {
        write(place.path(name), WriteMode::Replace, name.as_bytes()).ok();
        assert_eq!(place.read("dir/target"), name);
        write(place.path(name), WriteMode::Append, b"+").ok();
        assert_eq!(place.read("dir/target"), format!("{name}+"));
        assert!(place.path(name).is_symlink());
    }
    write(place.path("dangling"), WriteMode::Replace, b"made").ok();
    assert_eq!(place.read("dir/made"), "made");
}

#[test]
fn readers_see_the_old_file_until_all_has_arrived() {
    let place = Place::new();
    let path = place.file("f", "old");
    let inode = std::fs::metadata(&path).expect("metadata").ino();
    let before = snapshot(&place.path(""));
    // The end of the input looks at the world before it comes.
    let mut parts = 0;
    let look = std::iter::from_fn(|| {
        parts += 1;
        // More than a pipe holds, so that the worker has begun to write.
        (parts < 20).then(|| {
            assert_eq!(snapshot(&place.path("")), before);
            vec![b'x'; 64 * 1024]
        })
    });
    let task = FileTask::Write(write_request(&path, WriteMode::Replace));
    run_stream(&task, Chunks(look, Vec::new()), Vec::new()).ok();
    let meta = std::fs::metadata(&path).expect("metadata");
    assert_eq!(meta.len(), 19 * 64 * 1024);
    assert_ne!(meta.ino(), inode, "another file took the name");
    assert_eq!(std::fs::read_dir(place.path("")).expect("list").count(), 1);
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let place = Place::new();
    let disk = place.dir("disk");
    let mounted = rustix::mount::mount(
        "none",
        &disk,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        Some(c"size=256k"),
    );
    if let Err(errno) = mounted {
        // Only root can make a small disk.
        assert_eq!(errno, rustix::io::Errno::PERM);
        eprintln!("not run: no right to mount");
        return;
    }
    write(disk.join("f"), WriteMode::Replace, b"old").ok();
    let big = vec![b'x'; 1024 * 1024];
    let new = write(disk.join("f"), WriteMode::Replace, &big);
    let created = write(disk.join("g"), WriteMode::CreateNew, &big);
    let kept = std::fs::read(disk.join("f")).expect("old file");
    let count = std::fs::read_dir(&disk).expect("list").count();
    let moved = {
        std::fs::write(place.path("big"), &big).expect("file");
        let outcome = operate(FileOperation::Rename {
            from: bytes(place.path("big")),
            to: bytes(disk.join("big")),
            replace: true,
        });
        (outcome, std::fs::read_dir(&disk).expect("list").count())
    };
    rustix::mount::unmount(&disk, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    new.fails(FailureKind::NoSpace);
    created.fails(FailureKind::NoSpace);
    assert_eq!((kept, count), (b"old".to_vec(), 1));
    moved.0.fails(FailureKind::NoSpace);
    assert_eq!(moved.1, 1, "nothing hidden remains");
    assert!(place.path("big").exists(), "the original stays");
}

#[test]
fn moving_across_file_systems_copies_everything() {
    let place = Place::new();
    let disk = place.dir("disk");
    let mounted = rustix::mount::mount(
        "none",
        &disk,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    );
    if let Err(errno) = mounted {
        assert_eq!(errno, rustix::io::Errno::PERM);
        eprintln!("not run: no right to mount");
        return;
    }
    super::round_trip::tree(&place, "tree");
    let before = snapshot(&place.path("tree"));
    let moved = operate(FileOperation::Rename {
        from: bytes(place.path("tree")),
        to: bytes(disk.join("there")),
        replace: false,
    });
    // A socket cannot be copied: what holds one stays whole.
    place.file("held/file", "x");
    std::os::unix::net::UnixListener::bind(place.path("held/socket")).expect("socket");
    let held = operate(FileOperation::Rename {
        from: bytes(place.path("held")),
        to: bytes(disk.join("elsewhere")),
        replace: false,
    });
    let again = operate(FileOperation::Rename {
        from: bytes(place.file("other", "x")),
        to: bytes(disk.join("there")),
        replace: false,
    });
    let after = snapshot(&disk.join("there"));
    let count = std::fs::read_dir(&disk).expect("list").count();
    rustix::mount::unmount(&disk, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    moved.ok();
    assert_eq!(after, before);
    assert_eq!(count, 1, "nothing hidden remains");
    assert!(!place.path("tree").exists());
    held.fails(FailureKind::Invalid);
    assert!(place.path("held/file").exists() && place.path("held/socket").exists());
    again.fails(FailureKind::AlreadyExists);
    assert!(place.path("other").exists());
}
