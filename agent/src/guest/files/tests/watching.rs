//! Watching for changes.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::protocol::message::{WatchEvent, WatchKind, WatchRequest};

struct Watching {
    events: Receiver<(Kind, Vec<u8>)>,
    /// Closing it ends the watch.
    end: Option<std::os::unix::net::UnixStream>,
    worker: Option<std::thread::JoinHandle<()>>,
}

impl Watching {
    fn start(path: &Path, recursive: bool) -> Self {
        let task = FileTask::Watch(WatchRequest {
            user: None,
            path: bytes(path),
            recursive,
        });
        let (end, data) = std::os::unix::net::UnixStream::pair().expect("pair");
        let (sender, events) = channel();
        let worker = std::thread::spawn(move || {
            run(&task, data.as_fd(), &mut |kind, payload| {
                let _ = sender.send((kind, payload.to_vec()));
            });
        });
        let watching = Self {
            events,
            end: Some(end),
            worker: Some(worker),
        };
        assert_eq!(watching.next().0, Kind::Done);
        watching
    }

    fn next(&self) -> (Kind, Vec<u8>) {
        let wait = Duration::from_secs(20);
        self.events.recv_timeout(wait).expect("an event in time")
    }

    /// Takes events until this one comes; answers those before it.
    fn until(&self, kind: WatchKind, path: &str) -> Vec<WatchEvent> {
        let mut before = Vec::new();
        loop {
            let (frame, payload) = self.next();
            assert_eq!(frame, Kind::WatchEvent);
            let event: WatchEvent = message::decode(&payload).expect("event");
            if event.kind == kind && *event.path == *path.as_bytes() {
                return before;
            }
            before.push(event);
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.end = None;
        let ended = self.worker.take().expect("worker").join();
        assert!(std::thread::panicking() || ended.is_ok());
    }
}

#[test]
fn changes_are_reported_relative_to_the_path() {
    use WatchKind::{Attributes, Created, Modified, Removed};
    let place = Place::new();
    place.dir("sub");
    let watching = Watching::start(&place.path(""), false);
    place.file("a", "x");
    watching.until(Created, "a");
    watching.until(Modified, "a");
    std::fs::set_permissions(
        place.path("a"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .expect("mode");
    watching.until(Attributes, "a");
    std::fs::rename(place.path("a"), place.path("b")).expect("moved");
    let between = watching.until(Created, "b");
    let removed = |event: &WatchEvent| event.kind == Removed && *event.path == *b"a";
    assert!(between.iter().any(removed));
    // Not below.
    place.file("sub/deep", "x");
    std::fs::remove_file(place.path("b")).expect("removed");
    let between = watching.until(Removed, "b");
    assert!(
        between.iter().all(|event| !event.path.starts_with(b"sub/")),
        "{between:?}"
    );
}

#[test]
fn files_that_are_not_whole_are_not_told_of() {
    let place = Place::new();
    place.dir("unpacked");
    let watching = Watching::start(&place.path(""), true);
    let archive = export(place.file("made", "x"), false).ok().data;
    watching.until(WatchKind::Modified, "made");
    for content in [b"new", b"old"] {
        write(place.path("file"), WriteMode::Replace, content).ok();
        import(place.path("unpacked"), &archive).ok();
    }
    write(place.path("log"), WriteMode::Append, b"x").ok();
    // One that somebody gave such a name is told of.
    place.file("#123", "x");
    let told = watching.until(WatchKind::Created, "#123");
    let mut named: Vec<&[u8]> = told.iter().map(|event| &event.path[..]).collect();
    named.sort_unstable();
    named.dedup();
    let expected: [&[u8]; 3] = [b"file", b"log", b"unpacked/made"];
    assert_eq!(named, expected, "{told:?}");
}

#[test]
fn nothing_in_new_directories_is_missed() {
    let place = Place::new();
    place.dir("old/er");
    let watching = Watching::start(&place.path(""), true);
    place.file("old/er/f", "x");
    watching.until(WatchKind::Created, "old/er/f");
    for round in 0..50 {
        let name = format!("n{round}/a/b/c/f");
        place.file(&name, "x");
        watching.until(WatchKind::Created, &name);
    }
    // A tree that is moved in is told whole; moved away it is not followed.
    let other = Place::new();
    other.file("in/x/y", "z");
    std::fs::rename(other.path("in"), place.path("in")).expect("moved");
    watching.until(WatchKind::Created, "in/x/y");
    std::fs::rename(place.path("in"), other.path("out")).expect("moved");
    watching.until(WatchKind::Removed, "in");
    other.file("out/x/unseen", "");
    place.file("end", "");
    let between = watching.until(WatchKind::Created, "end");
    assert!(
        between.iter().all(|event| !event.path.ends_with(b"unseen")),
        "{between:?}"
    );
}

#[test]
fn a_watch_follows_no_link_and_tells_of_a_file() {
    let place = Place::new();
    let other = Place::new();
    other.dir("d");
    place.link("link", other.path("d"));
    place.file("file", "x");
    let tree = Watching::start(&place.path(""), true);
    let single = Watching::start(&place.path("file"), true);
    other.file("d/unseen", "");
    place.link("second", other.path("d"));
    other.file("d/unseen2", "");
    std::fs::write(place.path("file"), "y").expect("written");
    single.until(WatchKind::Modified, "");
    let between = tree.until(WatchKind::Modified, "file");
    assert!(
        between.iter().all(|event| !event.path.contains(&b'/')),
        "{between:?}"
    );
    std::fs::remove_file(place.path("file")).expect("removed");
    single.until(WatchKind::Removed, "");
}

#[test]
fn lost_events_are_reported() {
    let place = Place::new();
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("limit");
    let limit: usize = limit.trim().parse().expect("number");
    let (end, data) = std::os::unix::net::UnixStream::pair().expect("pair");
    let task = FileTask::Watch(WatchRequest {
        user: None,
        path: bytes(place.path("")),
        recursive: true,
    });
    let mut end = Some(end);
    let mut overflow = false;
    run(&task, data.as_fd(), &mut |kind, payload| {
        if kind == Kind::Done {
            // The worker waits here while the queue runs over.
            for number in 0..=limit {
                let name = if number % 2 == 0 { "a" } else { "b" };
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                let path = place.path(name);
                if number < 2 {
                    std::fs::write(&path, "").expect("file");
                }
                std::fs::set_permissions(path, mode).expect("mode");
            }
        } else {
            let event: WatchEvent = message::decode(payload).expect("event");
            if event.kind == WatchKind::Overflow {
                overflow = true;
                end = None;
            }
        }
    });
    assert!(overflow);
}
