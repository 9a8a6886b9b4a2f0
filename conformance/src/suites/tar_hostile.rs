//! Archives that mean harm, stop, or make no sense.

use bytes::Bytes;
use futures_util::stream;
use stacyvm::sandbox::files::{ByteStream, ImportRequest};
use stacyvm::{Error, ErrorKind, Result};

use super::cases;
use super::common::{pattern, soon};
use super::files_common::{GONE, another_user, drained, names, path, whole};
use super::tar::import;
use super::tar_bytes::{Member, archive, block, ended, summed, with_pax};
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "tar.hostile_names_are_refused_and_reach_nothing" ["F2.2" "F1.4"] needs(FILES, TAR) => hostile;
    Must "tar.devices_are_refused" ["F2.2"] needs(FILES, TAR) => devices;
    Must "tar.damage_is_refused" ["F2.2"] needs(FILES, TAR) => damage;
    Must "tar.a_stream_that_stops_leaves_no_half_of_a_file" ["F1.2" "F2.2"] needs(FILES, TAR) => cut;
    Must "tar.what_cannot_be_read_is_an_error" ["F2.4"] needs(FILES, TAR, USERS) => unreadable;
    Must "tar.what_makes_no_sense_is_refused" ["F1.7"] needs(FILES, TAR) => senseless;
};

async fn hostile(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/victim", "victim").await?;
    files.make_dir("/tmp/open").await?;
    files.link("/tmp/open", "/tmp/in_link").await?;
    let all: [(&str, Vec<Member>); 11] = [
        ("an absolute name", vec![Member::file("/tmp/victim", "x")]),
        ("a name that leads up", vec![Member::file("../victim", "x")]),
        (
            "one that leads down and up",
            vec![Member::file("a/../../victim", "x")],
        ),
        ("one that ends above", vec![Member::new('5', "a/..")]),
        (
            "a name through a link of the archive",
            vec![
                Member::link('2', "l", "/tmp/open"),
                Member::file("l/out", "x"),
            ],
        ),
        (
            "one through a link that leads up",
            vec![Member::link('2', "l", ".."), Member::file("l/victim", "x")],
        ),
        (
            "a directory through a link",
            vec![
                Member::link('2', "l", "/tmp/open"),
                Member::new('5', "l/out"),
            ],
        ),
        (
            "a hard link to a file above",
            vec![Member::link('1', "h", "../victim"), Member::file("h", "x")],
        ),
        (
            "a hard link through a link",
            vec![
                Member::link('2', "l", ".."),
                Member::link('1', "h", "l/victim"),
            ],
        ),
        ("a file without a name", vec![Member::file(".", "x")]),
        (
            "a name that is too long",
            vec![Member::file("n".repeat(256), "x")],
        ),
    ];
    for (what, members) in all {
        let blocks = members.iter().map(|m| {
            if m.name.len() > 100 {
                with_pax(m)
            } else {
                block(m)
            }
        });
        let bytes = ended(blocks.collect::<Vec<_>>().concat());
        files.make_dir("/tmp/in/deep").await?;
        let done = import(&sandbox, "/tmp/in/deep", bytes).await?;
        refused(done, &[ErrorKind::InvalidArgument], what)?;
        ensure_eq!(
            files.read_text("/tmp/victim").await?,
            "victim",
            "the victim of {what}"
        );
        ensure_eq!(
            names(&sandbox, "/tmp/open").await?,
            [""; 0],
            "what {what} made outside"
        );
        let beside = names(&sandbox, "/tmp/in").await?;
        ensure_eq!(beside, ["deep"], "what {what} made beside its directory");
        files.remove("/tmp/in").await?;
    }
    // A link that is there already is not unpacked through either.
    files.make_dir("/tmp/in").await?;
    files.link("/tmp/open", "/tmp/in/l").await?;
    let done = import(&sandbox, "/tmp/in", archive(&[Member::file("l/out", "x")])).await?;
    refused(
        done,
        &[ErrorKind::InvalidArgument],
        "a name through a link that is there",
    )?;
    ensure_eq!(names(&sandbox, "/tmp/open").await?, [""; 0], "what it made");
    // The directory of the import itself may be named by one.
    import(
        &sandbox,
        "/tmp/in_link",
        archive(&[Member::file("file", "x")]),
    )
    .await??;
    ensure_eq!(
        names(&sandbox, "/tmp/open").await?,
        ["file"],
        "what an import by a link made"
    );
    Ok(())
}

async fn devices(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for kind in ['3', '4', 'Z', '9'] {
        let bytes = archive(&[Member::new(kind, "device")]);
        let done = import(&sandbox, "/tmp/in", bytes).await?;
        let what = format!("a member of the kind {kind}");
        refused(done, &[ErrorKind::InvalidArgument], &what)?;
        ensure!(
            !sandbox.files().exists("/tmp/in/device").await?,
            "{what} was made"
        );
    }
    Ok(())
}

async fn damage(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let fine = archive(&[Member::file("file", "x".repeat(2000))]);
    let mut wrong_sum = fine.clone();
    wrong_sum[0] = b'g';
    let mut no_number = fine.clone();
    no_number[124..135].copy_from_slice(b"99999999999");
    let mut too_long = fine.clone();
    too_long[124..135].copy_from_slice(b"77777777777");
    let mut bad_pax = block(&Member::file("pax", "999999 path=x\n"));
    bad_pax[156] = b'x';
    let mut endless_pax = block(&Member::file("pax", "x"));
    endless_pax[156] = b'x';
    endless_pax[124..135].copy_from_slice(b"77777777777");
    for (what, bytes) in [
        ("a wrong checksum", wrong_sum),
        ("a size that is no number", summed(no_number)),
        ("a size beyond the end", summed(too_long)),
        (
            "a pax record beyond its end",
            [summed(bad_pax), fine.clone()].concat(),
        ),
        (
            "a pax header without end",
            [summed(endless_pax), fine.clone()].concat(),
        ),
        ("text", b"this is no archive".repeat(100)),
        (
            "one that was compressed",
            [&b"\x1f\x8b\x08\0"[..], &pattern(2000)].concat(),
        ),
    ] {
        let done = import(&sandbox, "/tmp/in", bytes).await?;
        refused(done, &[ErrorKind::InvalidArgument], what)?;
        ensure!(
            !sandbox.files().exists("/tmp/in/file").await?,
            "{what} made a file"
        );
    }
    import(&sandbox, "/tmp/in", fine).await??;
    Ok(())
}

async fn cut(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/in/second", "old").await?;
    let fine = archive(&[
        Member::file("first", pattern(5000)),
        Member::file("second", pattern(5000)),
    ]);
    let second = 512 + 5120;
    for end in [
        100,
        512,
        3000,
        second,
        second + 512,
        second + 3000,
        second + 512 + 4999,
    ] {
        let done = import(&sandbox, "/tmp/in", fine[..end].to_vec()).await?;
        let what = format!("an archive that stops at byte {end}");
        refused(done, &[ErrorKind::InvalidArgument], &what)?;
        ensure_eq!(
            files.read_text("/tmp/in/second").await?,
            "old",
            "the file after {what}"
        );
        let left: Vec<String> = names(&sandbox, "/tmp/in").await?;
        ensure!(
            left.iter().all(|name| name == "first" || name == "second"),
            "{what} left {left:?}"
        );
        if files.exists("/tmp/in/first").await? {
            ensure_eq!(
                files.stat("/tmp/in/first").await?.size,
                5000,
                "the size of a file that came whole"
            );
        }
    }
    let pieces = [
        Ok(Bytes::copy_from_slice(&fine[..second + 3000])),
        Err(Error::new(ErrorKind::Internal, "the caller's disk broke")),
    ];
    let data: ByteStream = Box::pin(stream::iter(pieces));
    let done = soon("the end of the import", files.import_tar("/tmp/in", data)).await?;
    let error = refused(done, &[ErrorKind::Internal], "an archive that breaks off")?;
    ensure!(
        error.message().contains("disk broke"),
        "another error than the caller's: {error}"
    );
    ensure_eq!(files.read_text("/tmp/in/second").await?, "old", "the file");
    Ok(())
}

async fn unreadable(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let root = sandbox.files().with_user("root");
    root.write("/tmp/t/secret", "x").await?;
    root.chmod("/tmp/t/secret", 0o600).await?;
    root.write("/tmp/d/closed/file", "x").await?;
    root.chmod("/tmp/d/closed", 0o700).await?;
    let files = sandbox.files().with_user(another_user(f, &sandbox).await?);
    for at in ["/tmp/t", "/tmp/d"] {
        let sent = match files.export_tar(at, true).await {
            Ok(data) => drained(data).await?,
            Err(error) => Err(error),
        };
        let what = format!("an archive of {at} with what cannot be read");
        refused(
            sent.map(|bytes| bytes.len()),
            &[ErrorKind::PermissionDenied],
            &what,
        )?;
    }
    ensure!(
        !drained(root.export_tar("/tmp/t", true).await?)
            .await??
            .is_empty(),
        "root gets nothing"
    );
    Ok(())
}

async fn senseless(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/file", "x").await?;
    let export = async |at: &str, contents| -> Checked<Result<usize>> {
        match files.export_tar(at, contents).await {
            Ok(data) => Ok(drained(data).await?.map(|bytes| bytes.len())),
            Err(error) => Ok(Err(error)),
        }
    };
    let missing = [ErrorKind::NotFound];
    refused(
        export("/tmp/missing", false).await?,
        &missing,
        "sending what is missing",
    )?;
    refused(
        export("/tmp/missing", true).await?,
        &missing,
        "its contents",
    )?;
    let no_directory = [ErrorKind::NotDirectory];
    refused(
        export("/tmp/file", true).await?,
        &no_directory,
        "the contents of a file",
    )?;
    let below = import(&sandbox, "/tmp/file", archive(&[])).await?;
    let kinds = [ErrorKind::NotDirectory, ErrorKind::AlreadyExists];
    refused(below, &kinds, "unpacking into a file")?;
    let request = ImportRequest {
        user: None,
        path: path("/tmp/new")?,
        parents: false,
        keep_owner: false,
    };
    let nowhere = files.import_tar_with(request, whole(archive(&[]))).await;
    refused(nowhere, &missing, "unpacking into a missing directory")?;
    ensure_eq!(names(&sandbox, "/tmp").await?, ["file"], "what is there");
    sandbox.kill().await?;
    refused(export("/tmp", true).await?, &GONE, "sending after the end")?;
    let after = import(&sandbox, "/tmp", archive(&[])).await?;
    refused(after, &GONE, "unpacking after the end")?;
    Ok(())
}
