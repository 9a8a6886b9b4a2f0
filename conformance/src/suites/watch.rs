//! Watches: every change after the call is reported, or said to be lost.

use std::time::Duration;

use futures_util::StreamExt as _;
use stacyvm::sandbox::exec::BoxStream;
use stacyvm::sandbox::files::{Attributes, WatchEvent, WatchKind, WatchRequest};
use stacyvm::{ErrorKind, Result, Sandbox};

use super::cases;
use super::common::{declined, pattern, soon};
use super::files_common::{GONE, another_user, path};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "watch.what_is_made_changed_and_removed_is_reported" ["F1.5"] needs(FILES, WATCH) else watch_declined => life_of_a_file;
    Must "watch.files_that_are_not_whole_are_not_told_of" ["F1.5"] needs(FILES, WATCH) => whole_alone;
    Must "watch.what_commands_do_is_reported" ["F1.5"] needs(FILES, WATCH) => commands;
    Must "watch.a_move_is_an_end_and_a_beginning" ["F1.5"] needs(FILES, WATCH) => moved;
    Must "watch.attributes_are_reported" ["F1.5"] needs(FILES, WATCH) => attributes;
    Must "watch.a_flat_watch_sees_its_own_directory_alone" ["F1.5"] needs(FILES, WATCH) => flat;
    Must "watch.a_deep_watch_sees_new_directories_too" ["F1.5"] needs(FILES, WATCH) => deep;
    Must "watch.a_file_is_watched_by_its_path" ["F1.5"] needs(FILES, WATCH) => one_file;
    Must "watch.nothing_after_the_call_is_missed" ["F1.5"] needs(FILES, WATCH) => at_once;
    Must "watch.several_see_the_same_and_end_alone" ["F1.5"] needs(FILES, WATCH) => several;
    Must "watch.what_nobody_read_comes_later_or_is_said_to_be_lost" ["F1.5"] needs(FILES, WATCH) => unread;
    Must "watch.what_cannot_be_watched_is_refused" ["F1.3"] needs(FILES, WATCH) => impossible;
    Must "watch.what_the_user_cannot_read_is_not_watched" ["F1.3"] needs(FILES, WATCH, USERS) => rights;
    Must "watch.more_than_thirty_two_are_refused_and_hold_nothing_up" ["F2.7"] needs(FILES, WATCH) => too_many;
    Must "watch.it_ends_with_its_call" ["F2.8"] needs(FILES, WATCH) => cancelled;
    Must "watch.it_ends_with_the_sandbox" ["F2.8"] needs(FILES, WATCH) => ended;
};

type Events = BoxStream<Result<WatchEvent>>;

async fn watch_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let request = WatchRequest {
        user: None,
        path: path("/tmp")?,
        recursive: false,
    };
    let watching = f.provider().watch(f.context(), sandbox.id(), &request);
    let call = async { watching.await.map(drop) };
    declined(f, &sandbox, "a watch", call).await
}

/// Reads until an event of this kind about this path.
async fn until(events: &mut Events, kind: WatchKind, path: &str) -> Checked<Vec<WatchEvent>> {
    until_one_of(events, &[kind], path).await
}

async fn until_one_of(
    events: &mut Events,
    kinds: &[WatchKind],
    path: &str,
) -> Checked<Vec<WatchEvent>> {
    let mut before = Vec::new();
    let what = format!("one of {kinds:?} of {path:?}");
    loop {
        let next = soon(&what, events.next()).await?;
        let event =
            next.ok_or_else(|| Failure::broken(format!("the watch ended before {what}")))??;
        if kinds.contains(&event.kind) && event.path == path.as_bytes() {
            return Ok(before);
        }
        ensure!(before.len() < 10_000, "no {what} within 10000 events");
        before.push(event);
    }
}

async fn life_of_a_file(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.make_dir("/tmp/w").await?;
    let mut events = files.watch("/tmp/w", false).await?;
    files.write("/tmp/w/file", "one").await?;
    until(&mut events, WatchKind::Created, "file").await?;
    files.append("/tmp/w/file", "two").await?;
    until(&mut events, WatchKind::Modified, "file").await?;
    files.remove("/tmp/w/file").await?;
    until(&mut events, WatchKind::Removed, "file").await?;
    files.make_dir("/tmp/w/directory").await?;
    until(&mut events, WatchKind::Created, "directory").await?;
    files.link("x", "/tmp/w/link").await?;
    until(&mut events, WatchKind::Created, "link").await?;
    files.remove("/tmp/w/directory").await?;
    until(&mut events, WatchKind::Removed, "directory").await?;
    Ok(())
}

async fn whole_alone(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/w/file", "old").await?;
    let mut events = files.watch("/tmp/w", true).await?;
    files.write("/tmp/w/file", pattern(100_000)).await?;
    files.write("/tmp/w/new", "x").await?;
    files.write("/tmp/w/last", "x").await?;
    let before = until(&mut events, WatchKind::Created, "last").await?;
    let ours: [&[u8]; 3] = [b"file", b"new", b"last"];
    let other = before.iter().find(|e| !ours.contains(&e.path.as_slice()));
    ensure_eq!(other, None, "what else was reported");
    for name in ["file", "new"] {
        let told = before.iter().any(|e| e.path == name.as_bytes());
        ensure!(told, "`{name}` was not reported: {before:?}");
    }
    Ok(())
}

async fn commands(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.files().make_dir("/tmp/w").await?;
    let mut events = sandbox.files().watch("/tmp/w/", false).await?;
    f.shell(&sandbox, "echo x > /tmp/w/a").await?;
    until(&mut events, WatchKind::Created, "a").await?;
    f.shell(&sandbox, "echo y >> /tmp/w/a; echo z > /tmp/w/b")
        .await?;
    until(&mut events, WatchKind::Modified, "a").await?;
    until(&mut events, WatchKind::Created, "b").await?;
    Ok(())
}

async fn moved(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/w/a", "x").await?;
    files.write("/tmp/outside", "x").await?;
    let mut events = files.watch("/tmp/w", false).await?;
    files.rename("/tmp/w/a", "/tmp/w/b").await?;
    until(&mut events, WatchKind::Removed, "a").await?;
    until(&mut events, WatchKind::Created, "b").await?;
    files.rename("/tmp/w/b", "/tmp/away").await?;
    until(&mut events, WatchKind::Removed, "b").await?;
    files.rename("/tmp/outside", "/tmp/w/c").await?;
    until(&mut events, WatchKind::Created, "c").await?;
    Ok(())
}

async fn attributes(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/w/file", "x").await?;
    let mut events = files.watch("/tmp/w", false).await?;
    files.chmod("/tmp/w/file", 0o600).await?;
    until(&mut events, WatchKind::Attributes, "file").await?;
    let attributes = Attributes {
        modified: Some(std::time::UNIX_EPOCH + Duration::from_secs(1)),
        ..Attributes::default()
    };
    files
        .set_attributes("/tmp/w/file", attributes, false)
        .await?;
    // Linux tells a time that is set alone as it tells a write.
    let kinds = [WatchKind::Attributes, WatchKind::Modified];
    until_one_of(&mut events, &kinds, "file").await?;
    Ok(())
}

async fn flat(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.make_dir("/tmp/w/sub").await?;
    let mut events = files.watch("/tmp/w", false).await?;
    files.write("/tmp/w/sub/below", "x").await?;
    files.write("/tmp/beside", "x").await?;
    files.write("/tmp/w/own", "x").await?;
    let before = until(&mut events, WatchKind::Created, "own").await?;
    let others = before
        .iter()
        .filter(|e| e.path != b"sub" && e.path != b"own");
    ensure_eq!(
        others.collect::<Vec<_>>(),
        Vec::<&WatchEvent>::new(),
        "what else was reported"
    );
    Ok(())
}

async fn deep(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.make_dir("/tmp/w/old").await?;
    let mut events = files.watch("/tmp/w", true).await?;
    files.write("/tmp/w/old/file", "x").await?;
    until(&mut events, WatchKind::Created, "old/file").await?;
    // Several levels at once, and a file in the last of them.
    files.write("/tmp/w/a/b/c/file", "x").await?;
    until(&mut events, WatchKind::Created, "a").await?;
    until(&mut events, WatchKind::Created, "a/b/c/file").await?;
    files.append("/tmp/w/a/b/c/file", "y").await?;
    until(&mut events, WatchKind::Modified, "a/b/c/file").await?;
    files.remove("/tmp/w/a/b/c/file").await?;
    until(&mut events, WatchKind::Removed, "a/b/c/file").await?;
    // What was moved away is not watched any more.
    files.rename("/tmp/w/a", "/tmp/away").await?;
    until(&mut events, WatchKind::Removed, "a").await?;
    files.write("/tmp/away/b/later", "x").await?;
    files.write("/tmp/w/last", "x").await?;
    let before = until(&mut events, WatchKind::Created, "last").await?;
    ensure!(
        !before.iter().any(|event| event.path.ends_with(b"later")),
        "a directory that was moved away is watched: {before:?}"
    );
    Ok(())
}

async fn one_file(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/w/file", "x").await?;
    let mut events = files.watch("/tmp/w/file", false).await?;
    files.write("/tmp/w/beside", "x").await?;
    files.append("/tmp/w/file", "y").await?;
    let before = until(&mut events, WatchKind::Modified, "").await?;
    let named = before.iter().filter(|event| !event.path.is_empty());
    ensure_eq!(
        named.collect::<Vec<_>>(),
        Vec::<&WatchEvent>::new(),
        "what else was reported"
    );
    files.remove("/tmp/w/file").await?;
    until(&mut events, WatchKind::Removed, "").await?;
    Ok(())
}

async fn at_once(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.make_dir("/tmp/w").await?;
    for n in 0..20 {
        let mut events = files.watch("/tmp/w", n % 2 == 0).await?;
        files.link("x", format!("/tmp/w/{n}")).await?;
        until(&mut events, WatchKind::Created, &n.to_string()).await?;
    }
    Ok(())
}

async fn several(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.make_dir("/tmp/w").await?;
    let mut one = files.watch("/tmp/w", false).await?;
    let mut two = files.watch("/tmp/w", false).await?;
    files.write("/tmp/w/a", "x").await?;
    for events in [&mut one, &mut two] {
        until(events, WatchKind::Created, "a").await?;
    }
    drop(one);
    files.write("/tmp/w/b", "x").await?;
    until(&mut two, WatchKind::Created, "b").await?;
    Ok(())
}

async fn unread(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.make_dir("/tmp/w").await?;
    let mut events = files.watch("/tmp/w", false).await?;
    for n in 0..1200 {
        files.link("x", format!("/tmp/w/{n}")).await?;
    }
    files.write("/tmp/w/last", "x").await?;
    let mut made = 0;
    loop {
        let event = soon("the next event", events.next()).await?;
        let event = event.ok_or_else(|| Failure::broken("the watch ended"))??;
        match event.kind {
            WatchKind::Overflow => break,
            WatchKind::Created if event.path == b"last" => {
                ensure_eq!(made, 1200, "what was reported, with no word of a loss");
                break;
            }
            WatchKind::Created => made += 1,
            _ => {}
        }
    }
    // It goes on, as far as it was not lost.
    f.shell(&sandbox, "true").await?;
    let mut again = files.watch("/tmp/w", false).await?;
    files.write("/tmp/w/new", "x").await?;
    until(&mut again, WatchKind::Created, "new").await?;
    Ok(())
}

async fn impossible(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/file", "x").await?;
    for (path, kind) in [
        ("/tmp/missing", ErrorKind::NotFound),
        ("/tmp/file/below", ErrorKind::NotDirectory),
        ("tmp", ErrorKind::InvalidArgument),
    ] {
        let watched = files.watch(path, false).await.map(drop);
        refused(watched, &[kind], &format!("watching {path}"))?;
    }
    Ok(())
}

async fn rights(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let root = sandbox.files().with_user("root");
    root.make_dir("/tmp/closed").await?;
    root.chmod("/tmp/closed", 0o700).await?;
    let files = sandbox.files().with_user(another_user(f, &sandbox).await?);
    let watched = files.watch("/tmp/closed", false).await.map(drop);
    let denied = [ErrorKind::PermissionDenied];
    refused(watched, &denied, "watching root's directory")?;
    let mut events = root.watch("/tmp/closed", false).await?;
    root.write("/tmp/closed/file", "x").await?;
    until(&mut events, WatchKind::Created, "file").await?;
    Ok(())
}

/// Watches until no more can be.
async fn fill(sandbox: &Sandbox) -> Checked<Vec<Events>> {
    let mut open = Vec::new();
    loop {
        match soon("a watch", sandbox.files().watch("/tmp/w", false)).await? {
            Ok(events) => open.push(events),
            Err(error) => {
                let result = Err::<(), _>(error);
                refused(result, &[ErrorKind::ResourceExhausted], "one watch more")?;
                return Ok(open);
            }
        }
        ensure!(open.len() <= 32, "more than 32 watches are open");
    }
}

async fn too_many(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.make_dir("/tmp/w").await?;
    let mut open = fill(&sandbox).await?;
    ensure!(!open.is_empty(), "none could be opened");
    soon("a write beside them", files.write("/tmp/w/file", "x")).await??;
    soon("a read beside them", files.read("/tmp/w/file")).await??;
    until(&mut open[0], WatchKind::Created, "file").await?;
    // One that is dropped makes room.
    open.pop();
    for left in (0..200).rev() {
        if let Ok(mut events) = files.watch("/tmp/w", false).await {
            files.write("/tmp/w/again", "x").await?;
            until(&mut events, WatchKind::Created, "again").await?;
            return Ok(());
        }
        ensure!(left > 0, "no watch in the place of one that was dropped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn cancelled(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let (context, canceller) = f.context().clone().cancellable();
    let called = sandbox.with_context(context);
    let mut events = called.files().watch("/tmp", false).await?;
    canceller.cancel();
    let next = soon("the end of the watch", events.next()).await?;
    let next = next.ok_or_else(|| Failure::broken("the watch ended without a word"))?;
    refused(
        next,
        &[ErrorKind::Cancelled],
        "a watch whose call was cancelled",
    )?;
    let after = soon("the end of its events", events.next()).await?;
    ensure!(after.is_none(), "{after:?} came after its end");
    Ok(())
}

async fn ended(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut events = sandbox.files().watch("/tmp", false).await?;
    sandbox.kill().await?;
    for _ in 0..100 {
        // What was under way may still come, then an end or its reason.
        match soon("the end of the watch", events.next()).await? {
            None => return Ok(()),
            Some(Err(error)) => {
                let kinds = [
                    GONE[0],
                    GONE[1],
                    ErrorKind::Unavailable,
                    ErrorKind::Cancelled,
                ];
                refused(Err::<(), _>(error), &kinds, "a watch after the end")?;
                return Ok(());
            }
            Some(Ok(_)) => {}
        }
    }
    Err(Failure::broken(
        "the watch goes on after the end of its sandbox",
    ))
}
