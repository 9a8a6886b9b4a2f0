//! Symbolic links: made, followed where that is meant, and never out.

use stacyvm::ErrorKind;
use stacyvm::sandbox::files::{FileKind, FileOperation};

use super::cases;
use super::files_common::{gathered, names, operate, path, paths};
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "files.a_link_says_what_it_was_made_to_say" ["F1.4"] needs(FILES) => said;
    Must "files.a_look_sees_the_link_and_not_its_target" ["F1.4"] needs(FILES) => looked_at;
    Must "files.contents_are_read_and_written_through_a_link" ["F1.4"] needs(FILES) => through;
    Must "files.a_link_to_nothing_is_something" ["F1.4"] needs(FILES) => dangling;
    Must "files.links_in_circles_come_to_an_end" ["F1.4" "F1.7"] needs(FILES) => circles;
    Must "files.removing_follows_no_link" ["F1.4"] needs(FILES) => removed;
    Must "files.links_that_make_no_sense_are_refused" ["F1.7"] needs(FILES) => refused_links;
    Must "files.a_link_leads_where_it_leads_inside" ["F1.4"] needs(FILES) => inside;
};

async fn said(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let long = "l/".repeat(1000);
    let all: [&[u8]; 6] = [
        b"file",
        b"../x",
        b"/etc/passwd",
        b"\xff\n",
        b"a//b/./",
        long.as_bytes(),
    ];
    for target in all {
        files.link(target, "/tmp/link").await?;
        let stat = files.stat("/tmp/link").await?;
        ensure_eq!(stat.kind, FileKind::Link, "what it is");
        ensure_eq!(stat.target.as_deref(), Some(target), "what it says");
        ensure_eq!(stat.size, target.len() as u64, "its size");
        files.remove("/tmp/link").await?;
    }
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn looked_at(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/file", "four").await?;
    files.make_dir("/tmp/directory").await?;
    files.link("file", "/tmp/to_file").await?;
    files.link("directory", "/tmp/to_directory").await?;
    for (link, kind) in [
        ("/tmp/to_file", FileKind::File),
        ("/tmp/to_directory", FileKind::Directory),
    ] {
        ensure_eq!(files.stat(link).await?.kind, FileKind::Link, "{link}");
        let followed = files.stat_followed(link).await?;
        ensure_eq!(
            (followed.kind, followed.target),
            (kind, None),
            "{link}, followed"
        );
    }
    let followed = files.stat_followed("/tmp/to_file").await?;
    ensure_eq!(followed.size, 4, "the size of what it leads to");
    Ok(())
}

async fn through(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/d/file", "old").await?;
    files.link("d/file", "/tmp/one").await?;
    files.link("/tmp/one", "/tmp/two").await?;
    files.link("d", "/tmp/directory").await?;
    for link in ["/tmp/one", "/tmp/two", "/tmp/directory/file"] {
        ensure_eq!(files.read_text(link).await?, "old", "{link}");
    }
    files.write("/tmp/two", "new").await?;
    files.append("/tmp/one", "er").await?;
    ensure_eq!(files.read_text("/tmp/d/file").await?, "newer", "the file");
    for link in ["/tmp/one", "/tmp/two"] {
        let kind = files.stat(link).await?.kind;
        ensure_eq!(kind, FileKind::Link, "{link} after a write through it");
    }
    files.write("/tmp/directory/second", "x").await?;
    let seen = names(&sandbox, "/tmp/directory").await?;
    ensure_eq!(seen, ["file", "second"], "a directory by its link");
    Ok(())
}

async fn dangling(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.link("missing", "/tmp/link").await?;
    ensure!(files.exists("/tmp/link").await?, "it is not there");
    let missing = [ErrorKind::NotFound];
    refused(
        files.stat_followed("/tmp/link").await,
        &missing,
        "what it leads to",
    )?;
    refused(
        files.read("/tmp/link").await,
        &missing,
        "reading through it",
    )?;
    refused(files.list("/tmp/link").await, &missing, "listing it")?;
    files.write("/tmp/link", "made").await?;
    ensure_eq!(
        files.read_text("/tmp/missing").await?,
        "made",
        "what a write made"
    );
    ensure_eq!(
        files.stat("/tmp/link").await?.kind,
        FileKind::Link,
        "the link"
    );
    Ok(())
}

async fn circles(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let nowhere = files.link("two", "/tmp/t/one").await;
    let missing = [ErrorKind::NotFound];
    refused(nowhere, &missing, "a link in a missing directory")?;
    files.make_dir("/tmp/t").await?;
    files.link("two", "/tmp/t/one").await?;
    files.link("one", "/tmp/t/two").await?;
    files.link(".", "/tmp/t/self").await?;
    let kinds = [ErrorKind::InvalidArgument];
    refused(files.read("/tmp/t/one").await, &kinds, "reading in circles")?;
    refused(
        files.stat_followed("/tmp/t/one").await,
        &kinds,
        "a look in circles",
    )?;
    refused(
        files.write("/tmp/t/one", "x").await,
        &kinds,
        "writing in circles",
    )?;
    refused(files.list("/tmp/t/one").await, &kinds, "listing in circles")?;
    ensure_eq!(
        files.stat("/tmp/t/one").await?.kind,
        FileKind::Link,
        "the link"
    );
    let all = gathered(files.list_depth("/tmp/t", 50).await?).await?;
    ensure_eq!(paths(&all), ["one", "self", "two"], "a deep listing");
    let seen = names(&sandbox, "/tmp/t/self/self/self").await?;
    ensure_eq!(seen, ["one", "self", "two"], "a listing by way of itself");
    files.remove("/tmp/t").await?;
    ensure_eq!(names(&sandbox, "/tmp").await?, [""; 0], "what is left");
    Ok(())
}

async fn removed(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/outside/file", "x").await?;
    for link in ["/tmp/link", "/tmp/t/a/link"] {
        files.make_dir("/tmp/t/a").await?;
        files.link("/tmp/outside", link).await?;
    }
    files.link("/tmp/outside/file", "/tmp/t/file").await?;
    files.remove("/tmp/link").await?;
    files.remove("/tmp/t").await?;
    ensure_eq!(names(&sandbox, "/tmp").await?, ["outside"], "what is left");
    let text = files.read_text("/tmp/outside/file").await?;
    ensure_eq!(text, "x", "what the links led to");
    Ok(())
}

async fn refused_links(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/file", "x").await?;
    files.link("missing", "/tmp/dangling").await?;
    for there in ["/tmp/file", "/tmp/dangling", "/tmp"] {
        let made = files.link("other", there).await;
        refused(
            made,
            &[ErrorKind::AlreadyExists],
            &format!("a link at {there}"),
        )?;
    }
    let long = "l".repeat(5000);
    for target in ["", "a\0b", &long] {
        let made = files.link(target, "/tmp/link").await;
        let what = format!("a link to {:?}", &target[..target.len().min(9)]);
        refused(made, &[ErrorKind::InvalidArgument], &what)?;
    }
    let below = files.link("x", "/tmp/file/link").await;
    refused(below, &[ErrorKind::NotDirectory], "a link below a file")?;
    ensure_eq!(
        names(&sandbox, "/tmp").await?,
        ["dangling", "file"],
        "what is there"
    );
    Ok(())
}

async fn inside(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let inside = f.shell(&sandbox, "cat /etc/passwd").await?.stdout;
    files.link("/", "/tmp/root").await?;
    files.link("../../../../../..", "/tmp/up").await?;
    for by in ["/tmp/root/etc/passwd", "/tmp/up/etc/passwd"] {
        let seen = files.read(by).await?;
        ensure!(seen == inside, "{by} is not the file inside");
    }
    files.write("/tmp/root/tmp/file", "x").await?;
    ensure_eq!(
        files.read_text("/tmp/file").await?,
        "x",
        "a file by the root's link"
    );
    let stat = FileOperation::Stat {
        path: path("/tmp/root/tmp/root")?,
        follow: false,
    };
    let seen = operate(f, &sandbox, stat).await?;
    let stacyvm::sandbox::files::FileReply::Entry(entry) = seen else {
        return Err(crate::Failure::broken(format!("a look gave {seen:?}")));
    };
    ensure_eq!(entry.target, Some(b"/".to_vec()), "what the link says");
    ensure_eq!(
        entry.path,
        b"/tmp/root/tmp/root",
        "its path as it was asked for"
    );
    Ok(())
}
