//! Names and paths of files, rights, and the kind of each refusal.

use stacyvm::sandbox::files::{FileKind, FileOperation, WriteMode};
use stacyvm::{ErrorKind, Sandbox};

use super::cases;
use super::common::soon;
use super::files_common::{GONE, another_user, me, names, operate, path, whole};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "files.names_are_bytes" ["F1.7"] needs(FILES) => odd_names;
    Must "files.the_longest_name_works_and_a_longer_one_is_refused" ["F1.7"] needs(FILES) => long_names;
    Must "files.a_long_path_works" ["F1.7"] needs(FILES) => long_path;
    Must "files.paths_that_make_no_sense_are_refused" ["F1.7"] needs(FILES) => bad_paths;
    Must "files.two_dots_lead_up_and_never_out" ["F1.4"] needs(FILES) => dots;
    Must "files.what_is_missing_or_of_another_kind_is_told_so" ["F1.7"] needs(FILES) => kinds;
    Must "files.an_error_names_its_path_in_one_line" ["F1.7"] needs(FILES) => named;
    Must "files.the_rights_of_the_user_hold" ["F1.3"] needs(FILES, USERS) => rights;
    Must "files.another_user_owns_what_it_makes" ["F1.3"] needs(FILES, USERS) => other_owner;
    Must "files.a_user_that_there_is_not_is_refused" ["F1.3"] needs(FILES) => unknown_user;
    Must "files.a_pipe_is_not_read_as_a_file" ["F1.7"] needs(FILES) => pipe;
    Must "files.calls_on_a_sandbox_that_ended_are_gone" ["F1.7"] needs(FILES) => after_the_end;
    Must "files.sandboxes_share_no_files" [] needs(FILES) => not_shared;
};

async fn odd_names(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let odd: [&[u8]; 12] = [
        b" ",
        b"-rf",
        b"\n",
        b"\\",
        b"*",
        b"a b",
        b"\x01\x1b[31m",
        b"~",
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        "\u{1d11e}\u{65e5}".as_bytes(),
        b"\xff\xfe",
    ];
    for name in odd {
        let file = [b"/tmp/d/", name].concat();
        files.write(&file, name.to_vec()).await?;
    }
    for name in odd {
        let file = [b"/tmp/d/", name].concat();
        let read = files.read(&file).await?;
        ensure_eq!(read, name, "the file {:?}", String::from_utf8_lossy(name));
        ensure_eq!(files.stat(&file).await?.path, file, "its path");
    }
    let mut sorted: Vec<&[u8]> = odd.to_vec();
    sorted.sort_unstable();
    let listed = files.list("/tmp/d").await?;
    let listed: Vec<&[u8]> = listed.iter().map(|entry| entry.path.as_slice()).collect();
    ensure_eq!(listed, sorted, "the names in a listing");
    Ok(())
}

async fn long_names(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let longest = format!("/tmp/d/{}", "n".repeat(255));
    files.write(&longest, "x").await?;
    ensure_eq!(files.read_text(&longest).await?, "x", "the file");
    let seen = names(&sandbox, "/tmp/d").await?;
    ensure_eq!(seen, ["n".repeat(255)], "the names there");
    let longer = format!("{longest}n");
    let kinds = [ErrorKind::InvalidArgument];
    refused(files.write(&longer, "x").await, &kinds, "a longer name")?;
    refused(files.make_dir(&longer).await, &kinds, "a longer directory")?;
    refused(
        files.rename(&longest, &longer).await,
        &kinds,
        "a move to it",
    )?;
    ensure_eq!(names(&sandbox, "/tmp/d").await?.len(), 1, "the files there");
    Ok(())
}

async fn long_path(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let deep = format!("/tmp{}", format!("/{}", "d".repeat(99)).repeat(40));
    files.write(format!("{deep}/file"), "deep").await?;
    let text = files.read_text(format!("{deep}/file")).await?;
    ensure_eq!(text, "deep", "a file 40 directories down");
    files.remove(format!("/tmp/{}", "d".repeat(99))).await?;
    ensure_eq!(names(&sandbox, "/tmp").await?, [""; 0], "what is left");
    Ok(())
}

async fn bad_paths(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let long = format!("/tmp/{}", "a/".repeat(2046));
    for bad in ["", "tmp/file", "./file", "/tmp/\0file", &long] {
        let kinds = [ErrorKind::InvalidArgument];
        let what = format!("the path {:?}", &bad[..bad.len().min(20)]);
        refused(files.write(bad, "x").await, &kinds, &what)?;
        refused(files.read(bad).await, &kinds, &what)?;
        refused(files.stat(bad).await, &kinds, &what)?;
        refused(files.list(bad).await, &kinds, &what)?;
        refused(files.remove(bad).await, &kinds, &what)?;
    }
    let written = files.write("/tmp/file/", "x").await;
    refused(written, &[ErrorKind::IsDirectory], "a file named `file/`")?;
    ensure_eq!(names(&sandbox, "/tmp").await?, [""; 0], "what was made");
    Ok(())
}

async fn dots(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.make_dir("/tmp/a/b").await?;
    files.write("/tmp/a/b/../file", "x").await?;
    ensure_eq!(files.read_text("/tmp/a/file").await?, "x", "the file");
    ensure_eq!(
        files.read_text("/tmp//a/./b/./../file").await?,
        "x",
        "the same by another path"
    );
    // The root is its own parent.
    let inside = f.shell(&sandbox, "cat /etc/passwd").await?.stdout;
    let up = "/..".repeat(40);
    files
        .link(format!("{}/etc/passwd", &up[1..]), "/tmp/out")
        .await?;
    for outside in [format!("{up}/etc/passwd"), "/tmp/out".to_owned()] {
        let seen = files.read(&outside).await?;
        ensure!(seen == inside, "{outside} is not the file inside");
    }
    let kinds = [ErrorKind::InvalidArgument];
    for no_name in ["/", "/tmp/a/b/..", "/tmp/a/."] {
        refused(
            files.remove(no_name).await,
            &kinds,
            &format!("removing {no_name}"),
        )?;
        let moved = files.rename(no_name, "/tmp/moved").await;
        refused(moved, &kinds, &format!("moving {no_name}"))?;
    }
    ensure!(files.exists("/tmp/a/b").await?, "`/tmp/a/b` is gone");
    Ok(())
}

async fn kinds(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/file", "x").await?;
    files.make_dir("/tmp/directory").await?;
    let missing = [ErrorKind::NotFound];
    for path in ["/tmp/missing", "/tmp/missing/below"] {
        refused(files.read(path).await, &missing, &format!("reading {path}"))?;
        refused(
            files.stat(path).await,
            &missing,
            &format!("a look at {path}"),
        )?;
        refused(files.list(path).await, &missing, &format!("listing {path}"))?;
        ensure!(!files.exists(path).await?, "{path} is there");
    }
    let no_directory = [ErrorKind::NotDirectory];
    let below = "/tmp/file/below";
    refused(
        files.read(below).await,
        &no_directory,
        "reading below a file",
    )?;
    refused(
        files.write(below, "x").await,
        &no_directory,
        "writing below a file",
    )?;
    refused(
        files.make_dir(below).await,
        &no_directory,
        "a directory below a file",
    )?;
    refused(
        files.list("/tmp/file").await,
        &no_directory,
        "listing a file",
    )?;
    ensure!(!files.exists(below).await?, "something is below a file");
    let directory = [ErrorKind::IsDirectory];
    refused(
        files.read("/tmp/directory").await,
        &directory,
        "reading a directory",
    )?;
    let written = files.write("/tmp/directory", "x").await;
    refused(written, &directory, "writing a directory")?;
    let appended = files.append("/tmp/directory", "x").await;
    refused(appended, &directory, "appending to a directory")?;
    let stat = files.stat("/tmp/directory").await?;
    ensure_eq!(stat.kind, FileKind::Directory, "what it is");
    Ok(())
}

async fn named(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let read = sandbox.files().read("/tmp/no\nsuch\x1b[31mfile").await;
    let error = refused(read, &[ErrorKind::NotFound], "a file that is not there")?;
    let facts: Vec<String> = error
        .facts()
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let all = format!("{error} {}", facts.join(" "));
    ensure!(all.contains("such"), "the file is not named: {all:?}");
    ensure!(
        !all.contains(['\n', '\x1b']),
        "it has control characters of the name: {all:?}"
    );
    Ok(())
}

async fn rights(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let root = sandbox.files().with_user("root");
    let other = another_user(f, &sandbox).await?;
    let files = sandbox.files().with_user(other);
    root.make_dir("/tmp/open").await?;
    let secret = |mode| {
        root.write_with(
            "/tmp/open/secret",
            WriteMode::Replace,
            Some(mode),
            whole("secret"),
        )
    };
    secret(0o600).await?;
    root.write("/tmp/closed/file", "x").await?;
    root.chmod("/tmp/closed", 0o700).await?;
    let denied = [ErrorKind::PermissionDenied];
    let file = "/tmp/open/secret";
    refused(files.read(file).await, &denied, "reading root's file")?;
    refused(files.write(file, "x").await, &denied, "writing root's file")?;
    refused(files.append(file, "x").await, &denied, "appending to it")?;
    refused(files.chmod(file, 0o666).await, &denied, "changing its mode")?;
    refused(files.remove(file).await, &denied, "removing it")?;
    refused(files.rename(file, "/tmp/mine").await, &denied, "moving it")?;
    refused(
        files.write("/tmp/open/new", "x").await,
        &denied,
        "a file beside it",
    )?;
    refused(
        files.make_dir("/tmp/open/new").await,
        &denied,
        "a directory beside it",
    )?;
    refused(
        files.link("x", "/tmp/open/new").await,
        &denied,
        "a link beside it",
    )?;
    refused(
        files.list("/tmp/closed").await,
        &denied,
        "listing root's directory",
    )?;
    refused(
        files.stat("/tmp/closed/file").await,
        &denied,
        "a look into it",
    )?;
    refused(
        files.read("/tmp/closed/file").await,
        &denied,
        "reading there",
    )?;
    let given = files
        .chown("/tmp/open/secret", Some(other.to_owned()), None)
        .await;
    refused(given, &denied, "taking it")?;
    ensure_eq!(root.read_text(file).await?, "secret", "root's file");
    ensure_eq!(
        names(&sandbox, "/tmp/open").await?,
        ["secret"],
        "what is beside it"
    );
    secret(0o644).await?;
    ensure_eq!(files.read_text(file).await?, "secret", "what all may read");
    Ok(())
}

async fn other_owner(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let other = another_user(f, &sandbox).await?;
    let files = sandbox.files().with_user(other);
    let written = files.write("/tmp/theirs/file", "x").await?;
    files.link("file", "/tmp/theirs/link").await?;
    files.make_dir("/tmp/theirs/directory").await?;
    let uid: u32 = other.parse().unwrap_or_default();
    ensure_eq!(written.uid, uid, "the owner that the write told");
    for entry in files.list("/tmp/theirs").await? {
        ensure_eq!(
            entry.uid,
            uid,
            "the owner of {:?}",
            String::from_utf8_lossy(&entry.path)
        );
    }
    let (mine, _) = me(f, &sandbox).await?;
    let written = sandbox.files().write("/tmp/mine", "x").await?;
    ensure_eq!(
        written.uid,
        mine,
        "the owner of what the default user makes"
    );
    Ok(())
}

async fn unknown_user(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files().with_user("no-such-user-here");
    let kinds = [ErrorKind::NotFound, ErrorKind::Unsupported];
    refused(
        files.write("/tmp/file", "x").await,
        &kinds,
        "writing as nobody known",
    )?;
    refused(files.list("/tmp").await, &kinds, "listing as nobody known")?;
    refused(
        files.read("/etc/passwd").await,
        &kinds,
        "reading as nobody known",
    )?;
    ensure!(
        !sandbox.files().exists("/tmp/file").await?,
        "it was written"
    );
    Ok(())
}

async fn pipe(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let made = sandbox.exec(["mkfifo", "/tmp/pipe"]).output().await;
    match made {
        Err(error) if error.kind() == ErrorKind::CommandNotFound => {
            let fact = "a program `mkfifo` inside".to_owned();
            return Err(Failure::NotRun(fact));
        }
        made => ensure!(made?.status.success(), "`mkfifo` failed"),
    }
    let files = sandbox.files();
    let kinds = [ErrorKind::InvalidArgument];
    let read = soon("the read of a pipe", files.read("/tmp/pipe")).await?;
    refused(read, &kinds, "reading a pipe")?;
    let written = soon("the write of a pipe", files.write("/tmp/pipe", "x")).await?;
    refused(written, &kinds, "writing a pipe")?;
    ensure_eq!(
        files.stat("/tmp/pipe").await?.kind,
        FileKind::Other,
        "what it is"
    );
    Ok(())
}

async fn after_the_end(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.files().write("/tmp/file", "x").await?;
    sandbox.kill().await?;
    let files = sandbox.files();
    refused(
        files.read("/tmp/file").await,
        &GONE,
        "reading after the end",
    )?;
    refused(
        files.write("/tmp/file", "x").await,
        &GONE,
        "writing after the end",
    )?;
    refused(files.list("/tmp").await, &GONE, "listing after the end")?;
    let stat = FileOperation::Stat {
        path: path("/tmp")?,
        follow: true,
    };
    let looked = operate(f, &sandbox, stat).await;
    refused(looked, &GONE, "a look after the end")?;
    Ok(())
}

async fn not_shared(f: &Fixture) -> Checked {
    let (one, two) = (f.sandbox().await?, f.sandbox().await?);
    let write = async |sandbox: &Sandbox, text: &'static str| -> Checked {
        for place in ["/tmp/file", "/workspace/file"] {
            sandbox.files().write(place, text).await?;
        }
        Ok(())
    };
    write(&one, "one").await?;
    for place in ["/tmp/file", "/workspace/file"] {
        ensure!(!two.files().exists(place).await?, "{place} is in both");
    }
    write(&two, "two").await?;
    for (sandbox, text) in [(&one, "one"), (&two, "two")] {
        for place in ["/tmp/file", "/workspace/file"] {
            let seen = sandbox.files().read_text(place).await?;
            ensure_eq!(seen, text, "{place}");
        }
    }
    Ok(())
}
