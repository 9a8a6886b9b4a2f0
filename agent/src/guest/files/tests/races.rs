//! A thread swaps a directory for a link while operations run.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

/// Swaps `name` with a link to `outside` until `work` is done.
fn while_swapping(place: &Place, name: &str, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let (one, other) = (place.path(name), place.path("swap-link"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Fails while one of them is being removed.
                let _ = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
            }
        });
        // Also when an assertion fails, the thread must end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn prepare() -> (Place, Vec<String>) {
    let place = Place::new();
    for number in 0..20 {
        place.file(&format!("outside/keep{number}"), "kept");
        place.file(&format!("outside/d/keep{number}"), "kept");
    }
    let outside = snapshot(&place.path("outside"));
    (place, outside)
}

#[test]
fn removal_stays_inside_while_names_are_swapped() {
    let (place, outside) = prepare();
    for _ in 0..150 {
        for number in 0..20 {
            place.file(&format!("tree/sub/keep{number}"), "x");
            place.file(&format!("tree/sub/d/keep{number}"), "x");
        }
        place.link("swap-link", place.path("outside"));
        while_swapping(&place, "tree/sub", || {
            // It may lose against the swapping, but never leave the tree.
            let _ = remove(place.path("tree"));
        });
        assert_eq!(snapshot(&place.path("outside")), outside);
        let _ = remove(place.path("tree"));
        let _ = remove(place.path("swap-link"));
    }
}

#[test]
fn attributes_stay_inside_while_names_are_swapped() {
    let (place, outside) = prepare();
    for _ in 0..20 {
        place.file("tree/sub/d/keep1", "x");
        place.file("tree/sub/keep1", "x");
    }
    place.link("swap-link", place.path("outside"));
    while_swapping(&place, "tree/sub", || {
        for round in 0..300 {
            let _ = operate(FileOperation::SetAttributes {
                path: bytes(place.path("tree")),
                mode: Some(0o700 + round % 64),
                owner: None,
                group: None,
                modified_s: Some(i64::from(round)),
                recursive: true,
                follow: false,
                modified_ns: None,
            });
        }
    });
    assert_eq!(snapshot(&place.path("outside")), outside);
}

#[test]
fn unpacking_stays_inside_while_names_are_swapped() {
    let (place, outside) = prepare();
    for name in ["keep1", "d/keep1", "new", "d/new"] {
        place.file(&format!("from/sub/{name}"), "evil");
    }
    place.link("from/sub/d/link", "x");
    let archive = export(place.path("from"), true).ok().data;
    place.dir("tree/sub/d");
    place.link("swap-link", place.path("outside"));
    let mut done = 0;
    while_swapping(&place, "tree/sub", || {
        for _ in 0..300 {
            let outcome = import(place.path("tree"), &archive);
            match outcome.failure_kind() {
                None => done += 1,
                Some(FailureKind::BadArchive) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(snapshot(&place.path("outside")), outside);
    assert!(done > 0, "some got through");
}

#[test]
fn a_listing_and_an_archive_stay_inside_while_names_are_swapped() {
    let (place, _) = prepare();
    place.file("tree/sub/mine", "x");
    place.link("swap-link", place.path("outside"));
    while_swapping(&place, "tree/sub", || {
        for _ in 0..300 {
            let path = bytes(place.path("tree"));
            let names = operate(FileOperation::List { path, depth: 9 }).names();
            assert!(!names.iter().any(|name| name.contains("keep")), "{names:?}");
            let archive = export(place.path("tree"), false).data;
            let leaked = archive.windows(4).any(|part| part == b"keep");
            assert!(!leaked);
        }
    });
}

#[test]
fn writers_and_readers_never_see_a_part() {
    let place = Place::new();
    let path = place.file("f", &"a".repeat(100_000));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for letter in [b'a', b'b'] {
            let (path, stop) = (&path, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    write(path, WriteMode::Replace, &vec![letter; 100_000]).ok();
                }
            });
        }
        let result = std::panic::catch_unwind(|| {
            for _ in 0..300 {
                let data = read(&path, 0, None).ok().data;
                assert_eq!(data.len(), 100_000);
                assert!(data.iter().all(|byte| *byte == data[0]));
            }
        });
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    assert_eq!(std::fs::read_dir(place.path("")).expect("list").count(), 1);
}
