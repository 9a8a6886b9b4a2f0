//! Directories: made, listed, moved, removed, searched; and attributes of trees.

use stacyvm::sandbox::files::{Attributes, FileKind, FileOperation, FileReply};
use stacyvm::{ErrorKind, Sandbox};

use super::cases;
use super::files_common::{gathered, me, names, operate, path, paths};
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "files.a_directory_is_made_with_what_is_missing_above" ["F1.8"] needs(FILES) => made;
    Must "files.a_directory_has_the_mode_that_was_asked_for" ["F1.9"] needs(FILES) => made_with_mode;
    Must "files.a_move_takes_everything_along" ["F1.9"] needs(FILES) => moved;
    Must "files.a_move_replaces_only_if_told_to" ["F1.8"] needs(FILES) => moved_onto;
    Must "files.a_move_that_makes_no_sense_is_refused" ["F1.7"] needs(FILES) => bad_moves;
    Must "files.a_directory_with_entries_is_removed_only_if_told_to" ["F1.8"] needs(FILES) => removed;
    Must "files.removing_what_is_missing_is_an_error_unless_allowed" ["F1.8"] needs(FILES) => removed_missing;
    Must "files.attributes_are_set_alone" ["F1.9"] needs(FILES) => attributes;
    Must "files.attributes_of_a_tree_are_set_but_not_behind_links" ["F1.4"] needs(FILES) => recursive;
    Must "files.owners_are_given_by_name_and_number" ["F1.3"] needs(FILES, USERS) => owners;
};

async fn make_dir(
    f: &Fixture,
    sandbox: &Sandbox,
    at: &str,
    parents: bool,
    mode: u32,
) -> stacyvm::Result<()> {
    let operation = FileOperation::MakeDir {
        path: stacyvm::sandbox::files::GuestPath::new(at)?,
        parents,
        mode,
    };
    operate(f, sandbox, operation).await.map(drop)
}

async fn made(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.make_dir("/tmp/a/b/c").await?;
    files.make_dir("/tmp/a/b/c").await?;
    files.make_dir("/tmp/a/b/").await?;
    ensure_eq!(names(&sandbox, "/tmp/a/b").await?, ["c"], "what was made");
    files.write("/tmp/file", "x").await?;
    let exists = [ErrorKind::AlreadyExists];
    refused(
        files.make_dir("/tmp/file").await,
        &exists,
        "a directory where a file is",
    )?;
    let alone = make_dir(f, &sandbox, "/tmp/a/b", false, 0o755).await;
    refused(alone, &exists, "a directory that must be new")?;
    let nowhere = make_dir(f, &sandbox, "/tmp/x/y", false, 0o755).await;
    refused(
        nowhere,
        &[ErrorKind::NotFound],
        "a directory in a missing one",
    )?;
    ensure!(!files.exists("/tmp/x").await?, "`/tmp/x` was made");
    // A link to a directory is one.
    files.link("a", "/tmp/link").await?;
    files.make_dir("/tmp/link").await?;
    files.make_dir("/tmp/link/d").await?;
    ensure!(
        files.exists("/tmp/a/d").await?,
        "nothing was made behind a link"
    );
    ensure_eq!(
        files.stat("/tmp/link").await?.kind,
        FileKind::Link,
        "the link"
    );
    Ok(())
}

async fn made_with_mode(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let (uid, gid) = me(f, &sandbox).await?;
    for mode in [0o700, 0o777, 0o1777, 0o555] {
        let at = format!("/tmp/{mode:o}");
        make_dir(f, &sandbox, &at, false, mode).await?;
        let stat = sandbox.files().stat(&at).await?;
        ensure_eq!(
            (format!("{:o}", stat.mode), stat.uid, stat.gid),
            (format!("{mode:o}"), uid, gid),
            "mode, owner and group"
        );
    }
    Ok(())
}

async fn moved(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/from/a/file", "x").await?;
    files.link("a/file", "/tmp/from/link").await?;
    files.chmod("/tmp/from/a/file", 0o640).await?;
    let before = files.stat("/tmp/from/a/file").await?;
    files.make_dir("/tmp/elsewhere").await?;
    files.rename("/tmp/from", "/tmp/elsewhere/to").await?;
    ensure!(!files.exists("/tmp/from").await?, "it is still there");
    let after = files.stat("/tmp/elsewhere/to/a/file").await?;
    ensure_eq!(
        (after.mode, after.modified, after.size),
        (before.mode, before.modified, before.size),
        "mode, time and size of a file that was moved along"
    );
    let text = files.read_text("/tmp/elsewhere/to/link").await?;
    ensure_eq!(text, "x", "what a link that was moved along leads to");
    files.rename("/tmp/elsewhere/to/link", "/tmp/link").await?;
    let target = files.stat("/tmp/link").await?.target;
    ensure_eq!(target, Some(b"a/file".to_vec()), "what a moved link says");
    Ok(())
}

async fn rename_new(
    f: &Fixture,
    sandbox: &Sandbox,
    from: &str,
    to: &str,
) -> Checked<stacyvm::Result<FileReply>> {
    let operation = FileOperation::Rename {
        from: path(from)?,
        to: path(to)?,
        replace: false,
    };
    Ok(operate(f, sandbox, operation).await)
}

async fn moved_onto(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/one", "one").await?;
    files.write("/tmp/two", "two").await?;
    files.make_dir("/tmp/directory").await?;
    files.link("nowhere", "/tmp/dangling").await?;
    for there in ["/tmp/two", "/tmp/directory", "/tmp/dangling"] {
        let moved = rename_new(f, &sandbox, "/tmp/one", there).await?;
        let what = format!("a move onto {there} that replaces nothing");
        refused(moved, &[ErrorKind::AlreadyExists], &what)?;
    }
    ensure_eq!(files.read_text("/tmp/one").await?, "one", "the first file");
    ensure_eq!(files.read_text("/tmp/two").await?, "two", "the second one");
    rename_new(f, &sandbox, "/tmp/one", "/tmp/three").await??;
    files.rename("/tmp/three", "/tmp/two").await?;
    ensure_eq!(
        files.read_text("/tmp/two").await?,
        "one",
        "what was replaced"
    );
    // A link is replaced, and what it leads to is not.
    files.link("two", "/tmp/link").await?;
    files.write("/tmp/four", "four").await?;
    files.rename("/tmp/four", "/tmp/link").await?;
    ensure_eq!(
        files.stat("/tmp/link").await?.kind,
        FileKind::File,
        "what was a link"
    );
    ensure_eq!(files.read_text("/tmp/two").await?, "one", "what it led to");
    let expected = ["dangling", "directory", "link", "two"];
    ensure_eq!(names(&sandbox, "/tmp").await?, expected, "what is there");
    Ok(())
}

async fn bad_moves(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/file", "x").await?;
    files.write("/tmp/full/file", "y").await?;
    files.make_dir("/tmp/empty").await?;
    for (from, to, kind) in [
        ("/tmp/missing", "/tmp/new", ErrorKind::NotFound),
        ("/tmp/file", "/tmp/missing/new", ErrorKind::NotFound),
        ("/tmp/file", "/tmp/empty", ErrorKind::IsDirectory),
        ("/tmp/empty", "/tmp/file", ErrorKind::NotDirectory),
        ("/tmp/empty", "/tmp/full", ErrorKind::DirectoryNotEmpty),
        ("/tmp/full", "/tmp/full/below", ErrorKind::InvalidArgument),
        ("/tmp/file", "/tmp/file/below", ErrorKind::NotDirectory),
    ] {
        let moved = files.rename(from, to).await;
        refused(moved, &[kind], &format!("moving {from} to {to}"))?;
    }
    files.rename("/tmp/file", "/tmp/file").await?;
    let all = gathered(files.list_depth("/tmp", 9).await?).await?;
    let expected = ["empty", "file", "full", "full/file"];
    ensure_eq!(paths(&all), expected, "what is there");
    files.rename("/tmp/full", "/tmp/empty").await?;
    ensure_eq!(
        names(&sandbox, "/tmp").await?,
        ["empty", "file"],
        "what is there"
    );
    Ok(())
}

fn removal(at: &str, recursive: bool, missing_ok: bool) -> Checked<FileOperation> {
    Ok(FileOperation::Remove {
        path: path(at)?,
        recursive,
        missing_ok,
    })
}

async fn removed(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/d/a/file", "x").await?;
    files.make_dir("/tmp/d/empty").await?;
    for full in ["/tmp/d", "/tmp/d/a"] {
        let done = operate(f, &sandbox, removal(full, false, true)?).await;
        let what = format!("removing {full} alone");
        refused(done, &[ErrorKind::DirectoryNotEmpty], &what)?;
    }
    ensure_eq!(files.read_text("/tmp/d/a/file").await?, "x", "the file");
    operate(f, &sandbox, removal("/tmp/d/empty", false, false)?).await?;
    ensure_eq!(names(&sandbox, "/tmp/d").await?, ["a"], "what is left");
    files.remove("/tmp/d/a/file").await?;
    files.write("/tmp/d/b/c/file", "x").await?;
    files.remove("/tmp/d").await?;
    ensure_eq!(names(&sandbox, "/tmp").await?, [""; 0], "what is left");
    Ok(())
}

async fn removed_missing(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let kinds = [ErrorKind::NotFound];
    for missing in ["/tmp/missing", "/tmp/missing/below"] {
        let done = sandbox.files().remove(missing).await;
        refused(done, &kinds, &format!("removing {missing}"))?;
        let done = operate(f, &sandbox, removal(missing, false, false)?).await;
        refused(done, &kinds, &format!("removing {missing} alone"))?;
        operate(f, &sandbox, removal(missing, true, true)?).await?;
    }
    Ok(())
}

async fn attributes(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/file", "x").await?;
    let before = files.stat("/tmp/file").await?;
    for mode in [0o600, 0o7777, 0o000, 0o644] {
        files.chmod("/tmp/file", mode).await?;
        let stat = files.stat("/tmp/file").await?;
        ensure_eq!(format!("{:o}", stat.mode), format!("{mode:o}"), "the mode");
        ensure_eq!(
            (stat.uid, stat.gid, stat.size, stat.modified),
            (before.uid, before.gid, before.size, before.modified),
            "owner, group, size and time, which were not to be set"
        );
    }
    // Nothing at all is allowed, and changes nothing.
    files
        .set_attributes("/tmp/file", Attributes::default(), false)
        .await?;
    files.link("file", "/tmp/link").await?;
    files.chmod("/tmp/link", 0o604).await?;
    let mode = files.stat("/tmp/file").await?.mode;
    ensure_eq!(
        format!("{mode:o}"),
        "604",
        "the mode of what a link leads to"
    );
    let missing = files.chmod("/tmp/missing", 0o600).await;
    refused(
        missing,
        &[ErrorKind::NotFound],
        "the mode of what is missing",
    )?;
    Ok(())
}

async fn recursive(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/outside", "x").await?;
    files.write("/tmp/t/a/file", "x").await?;
    files.write("/tmp/t/file", "x").await?;
    files.link("/tmp/outside", "/tmp/t/link").await?;
    files.link("/tmp/t", "/tmp/t/a/loop").await?;
    let attributes = Attributes {
        mode: Some(0o750),
        ..Attributes::default()
    };
    files.set_attributes("/tmp/t", attributes, true).await?;
    for (at, expected) in [
        ("/tmp/t", "750"),
        ("/tmp/t/a", "750"),
        ("/tmp/t/a/file", "750"),
        ("/tmp/t/file", "750"),
        ("/tmp/outside", "644"),
    ] {
        let mode = files.stat(at).await?.mode;
        ensure_eq!(format!("{mode:o}"), expected, "the mode of {at}");
    }
    Ok(())
}

async fn owners(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let root = sandbox.files().with_user("root");
    root.write("/tmp/file", "x").await?;
    for (owner, group, expected) in [
        (Some("1234"), Some("4321"), (1234, 4321)),
        (Some("root"), None, (0, 4321)),
        (None, Some("0"), (0, 0)),
    ] {
        let (owner, group) = (owner.map(Into::into), group.map(Into::into));
        root.chown("/tmp/file", owner, group).await?;
        let stat = root.stat("/tmp/file").await?;
        ensure_eq!((stat.uid, stat.gid), expected, "owner and group");
    }
    let stat = root.stat("/tmp/file").await?;
    ensure_eq!(stat.user.as_deref(), Some("root"), "the owner's name");
    for unknown in ["no-such-user-here", ""] {
        let given = root.chown("/tmp/file", Some(unknown.into()), None).await;
        let kinds = [ErrorKind::NotFound, ErrorKind::InvalidArgument];
        refused(given, &kinds, &format!("an owner {unknown:?}"))?;
    }
    let (uid, _) = me(f, &sandbox).await?;
    if uid != 0 {
        sandbox.files().write("/tmp/mine", "x").await?;
        let files = sandbox.files();
        let given = files.chown("/tmp/mine", Some("root".into()), None);
        let denied = [ErrorKind::PermissionDenied];
        refused(
            given.await,
            &denied,
            "giving a file away without being root",
        )?;
    }
    Ok(())
}
