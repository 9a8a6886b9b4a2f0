//! Archives: a tree goes out and comes in as it was, and nothing else with it.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use stacyvm::sandbox::files::{
    Attributes, ByteStream, ExportRequest, FileEntry, FileKind, ImportRequest,
};
use stacyvm::{ErrorKind, Result, Sandbox};

use super::cases;
use super::common::{declined, pattern, same_bytes, soon};
use super::files_common::{another_user, drained, gathered, me, names, path, whole};
use super::tar_bytes::{
    Member, archive, block, ended, members, summed, with_gnu_name, with_pax, with_prefix,
};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "tar.what_was_sent_is_unpacked_as_it_was" ["F2.1"] needs(FILES, TAR) else tar_declined => round_trip;
    Must "tar.an_archive_holds_what_is_there" ["F2.1"] needs(FILES, TAR) => held;
    Must "tar.one_file_is_an_archive_of_one_member" ["F2.1" "F2.5"] needs(FILES, TAR) => one_file;
    Must "tar.a_link_is_followed_only_if_told_to" ["F1.4"] needs(FILES, TAR) => links;
    Must "tar.archives_of_other_programs_are_unpacked" ["F2.1"] needs(FILES, TAR) => foreign;
    Must "tar.what_is_there_is_replaced_and_the_rest_kept" ["F2.1"] needs(FILES, TAR) => onto;
    Must "tar.hard_links_stay_one_file" ["F2.1"] needs(FILES, TAR) => hard_links;
    Must "tar.modes_are_kept_but_no_set_id_bits" ["F2.1"] needs(FILES, TAR) => modes;
    Must "tar.what_is_unpacked_belongs_to_who_unpacks_it" ["F1.3"] needs(FILES, TAR) => mine;
    Must "tar.owners_are_kept_by_root_alone" ["F1.3"] needs(FILES, TAR, USERS) => owners;
    Must "tar.a_large_tree_goes_from_one_sandbox_to_another" ["F2.1" "F2.3"] needs(FILES, TAR) => large;
    Must "tar.an_archive_that_nobody_reads_on_holds_nothing_up" ["F2.7"] needs(FILES, TAR) => abandoned;
};

async fn tar_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let (provider, cx, id) = (f.provider(), f.context(), sandbox.id());
    let request = ExportRequest {
        user: None,
        path: path("/tmp")?,
        contents: true,
        follow: false,
    };
    let call = async { provider.export_tar(cx, id, &request).await.map(drop) };
    declined(f, &sandbox, "an export", call).await?;
    let data = whole(archive(&[Member::file("refused", "x")]));
    let request = ImportRequest {
        user: None,
        path: path("/tmp")?,
        parents: false,
        keep_owner: false,
    };
    let call = provider.import_tar(cx, id, &request, data);
    declined(f, &sandbox, "an import", call).await?;
    let there = sandbox.shell("cat /tmp/refused").output().await?;
    ensure!(!there.status.success(), "what was refused was unpacked");
    Ok(())
}

async fn exported(sandbox: &Sandbox, at: &str, contents: bool) -> Checked<Vec<u8>> {
    let data = sandbox.files().export_tar(at, contents).await?;
    Ok(drained(data).await??)
}

pub(super) async fn import(sandbox: &Sandbox, at: &str, bytes: Vec<u8>) -> Checked<Result<()>> {
    // In pieces that end anywhere.
    let pieces: Vec<Result<Bytes>> = bytes
        .chunks(1000)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    let data: ByteStream = Box::pin(stream::iter(pieces));
    soon("the end of an import", sandbox.files().import_tar(at, data)).await
}

/// What matters of a tree: everything but the numbers of owners and the times
/// of links, which not every file system keeps.
async fn tree(sandbox: &Sandbox, at: &str) -> Checked<Vec<FileEntry>> {
    let mut all = gathered(sandbox.files().list_depth(at, 50).await?).await?;
    for entry in &mut all {
        if entry.kind == FileKind::Directory {
            entry.size = 0;
        }
        // Archives of ustar have whole seconds.
        let since = entry
            .modified
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        entry.modified = UNIX_EPOCH + Duration::from_secs(since.as_secs());
        if entry.kind == FileKind::Link {
            entry.modified = UNIX_EPOCH;
        }
    }
    Ok(all)
}

async fn dated(sandbox: &Sandbox, at: &[u8], seconds: u64) -> Checked {
    let attributes = Attributes {
        modified: Some(UNIX_EPOCH + Duration::from_secs(seconds)),
        ..Attributes::default()
    };
    sandbox
        .files()
        .set_attributes(at, attributes, false)
        .await?;
    Ok(())
}

/// A tree with everything that an archive can hold.
async fn planted(sandbox: &Sandbox) -> Checked {
    let files = sandbox.files();
    let long = "n".repeat(150);
    let odd: [&[u8]; 5] = [
        b"/tmp/t/plain",
        b"/tmp/t/a/b/deep",
        "/tmp/t/\u{e9} \u{65e5}".as_bytes(),
        b"/tmp/t/\xff\xfe",
        b"/tmp/t/a/empty",
    ];
    for (n, file) in odd.iter().enumerate() {
        let size = if file.ends_with(b"empty") {
            0
        } else {
            700 * (n + 1)
        };
        files.write(file, pattern(size)).await?;
        dated(sandbox, file, 1_500_000_000 + n as u64).await?;
    }
    files.write(format!("/tmp/t/{long}/{long}"), "long").await?;
    files.write("/tmp/t/big", pattern(300_000)).await?;
    files.chmod("/tmp/t/big", 0o600).await?;
    files.chmod("/tmp/t/plain", 0o751).await?;
    files.make_dir("/tmp/t/nothing").await?;
    files.link("plain", "/tmp/t/link").await?;
    files.link("/etc", "/tmp/t/absolute").await?;
    files.link("../../nowhere", "/tmp/t/a/dangling").await?;
    files.link("l".repeat(300), "/tmp/t/long_link").await?;
    files.chmod("/tmp/t/a/b", 0o1777).await?;
    files.chmod("/tmp/t/nothing", 0o555).await?;
    for directory in ["/tmp/t/nothing", "/tmp/t/a/b", "/tmp/t/a"] {
        dated(sandbox, directory.as_bytes(), 1_400_000_000).await?;
    }
    Ok(())
}

async fn round_trip(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    planted(&sandbox).await?;
    let before = tree(&sandbox, "/tmp/t").await?;
    ensure_eq!(before.len(), 15, "what was planted");
    let bytes = exported(&sandbox, "/tmp/t", true).await?;
    import(&sandbox, "/tmp/copy", bytes).await??;
    let after = tree(&sandbox, "/tmp/copy").await?;
    for (before, after) in before.iter().zip(&after) {
        ensure_eq!(after, before, "an entry after its journey");
    }
    ensure_eq!(after.len(), before.len(), "how many arrived");
    for entry in before.iter().filter(|entry| entry.kind == FileKind::File) {
        let at = |root: &[u8]| [root, b"/", &entry.path].concat();
        let (one, two) = (at(b"/tmp/t"), at(b"/tmp/copy"));
        let (one, two) = (
            sandbox.files().read(one).await?,
            sandbox.files().read(two).await?,
        );
        same_bytes(&two, &one, "the content of a file after its journey")?;
    }
    // And once more under its own name.
    let bytes = exported(&sandbox, "/tmp/t", false).await?;
    import(&sandbox, "/tmp/again/", bytes).await??;
    ensure_eq!(names(&sandbox, "/tmp/again").await?, ["t"], "what arrived");
    ensure_eq!(tree(&sandbox, "/tmp/again/t").await?, before, "its tree");
    Ok(())
}

/// The members of an archive by name, without slashes at the end and `./`.
fn plain(bytes: &[u8]) -> Checked<Vec<(String, Member)>> {
    let named = members(bytes)?.into_iter().map(|member| {
        let name = String::from_utf8_lossy(&member.name).into_owned();
        let name = name.trim_end_matches('/');
        (name.strip_prefix("./").unwrap_or(name).to_owned(), member)
    });
    let mut named: Vec<(String, Member)> = named.collect();
    named.sort_by(|one, two| one.0.cmp(&two.0));
    Ok(named)
}

async fn held(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let (uid, gid) = me(f, &sandbox).await?;
    files.write("/tmp/t/d/file", "content").await?;
    files.chmod("/tmp/t/d/file", 0o4751).await?;
    dated(&sandbox, b"/tmp/t/d/file", 1_234_567_890).await?;
    files.link("d/file", "/tmp/t/link").await?;
    let bytes = exported(&sandbox, "/tmp/t", true).await?;
    ensure_eq!(bytes.len() % 512, 0, "the rest of a block");
    let inside = plain(&bytes)?;
    let seen: Vec<(&str, char)> = inside
        .iter()
        .map(|(name, m)| (name.as_str(), m.kind))
        .collect();
    let expected = [(".", '5'), ("d", '5'), ("d/file", '0'), ("link", '2')];
    ensure_eq!(seen, expected, "the members");
    let file = &inside[2].1;
    ensure_eq!(
        (
            file.data.as_slice(),
            file.mode & 0o7777,
            file.uid,
            file.gid,
            file.modified
        ),
        (&b"content"[..], 0o4751, uid, gid, 1_234_567_890),
        "content, mode, owner, group and time of the file"
    );
    ensure_eq!(inside[3].1.link, b"d/file", "what the link says");
    let inside = plain(&exported(&sandbox, "/tmp/t/d", false).await?)?;
    let seen: Vec<&str> = inside.iter().map(|(name, _)| name.as_str()).collect();
    ensure_eq!(
        seen,
        ["d", "d/file"],
        "the members under the name of the directory"
    );
    Ok(())
}

async fn one_file(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let bytes = pattern(100_000);
    sandbox.files().write("/tmp/d/file", bytes.clone()).await?;
    let inside = members(&exported(&sandbox, "/tmp/d/file", false).await?)?;
    ensure_eq!(inside.len(), 1, "the members");
    ensure_eq!(
        (inside[0].name.as_slice(), inside[0].kind),
        (&b"file"[..], '0'),
        "its name and kind"
    );
    same_bytes(&inside[0].data, &bytes, "its content")
}

async fn links(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/d/file", "content").await?;
    files.link("d/file", "/tmp/to_file").await?;
    files.link("d", "/tmp/to_directory").await?;
    let export = async |at: &str, follow| -> Checked<Vec<(String, Member)>> {
        let request = ExportRequest {
            user: None,
            path: path(at)?,
            contents: false,
            follow,
        };
        plain(&drained(sandbox.files().export_tar_with(request).await?).await??)
    };
    for at in ["/tmp/to_file", "/tmp/to_directory"] {
        let kinds: Vec<char> = export(at, false).await?.iter().map(|m| m.1.kind).collect();
        ensure_eq!(kinds, ['2'], "the kinds of the members of {at}");
    }
    let seen = export("/tmp/to_file", true).await?;
    let seen: Vec<(&str, char, &[u8])> = seen
        .iter()
        .map(|(name, member)| (name.as_str(), member.kind, member.data.as_slice()))
        .collect();
    ensure_eq!(
        seen,
        [("to_file", '0', &b"content"[..])],
        "a file, followed"
    );
    let seen = export("/tmp/to_directory", true).await?;
    let seen: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    ensure_eq!(
        seen,
        ["to_directory", "to_directory/file"],
        "a directory, followed"
    );
    Ok(())
}

async fn foreign(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let long = |letter: &str| format!("{}/{}", letter.repeat(120), letter.repeat(130));
    let mut old = block(&Member::file("old", "7th edition"));
    old[156] = 0;
    old[257..265].fill(0);
    let bytes = [
        block(&Member::new('5', "./")),
        block(&Member::file("./plain", "one")),
        summed(old),
        with_prefix(&Member::file("divided", "two"), "made/by/prefix"),
        with_pax(&Member::file(long("p"), "three")),
        with_gnu_name(&Member::file(long("g"), "four")),
        block(&Member::file("a//b/./c", "five")),
    ];
    import(&sandbox, "/tmp/in", ended(bytes.concat())).await??;
    for (file, content) in [
        ("plain".to_owned(), "one"),
        ("old".to_owned(), "7th edition"),
        ("made/by/prefix/divided".to_owned(), "two"),
        (long("p"), "three"),
        (long("g"), "four"),
        ("a/b/c".to_owned(), "five"),
    ] {
        let seen = sandbox.files().read_text(format!("/tmp/in/{file}")).await?;
        ensure_eq!(seen, content, "{}", &file[..file.len().min(30)]);
    }
    let stat = sandbox.files().stat("/tmp/in/plain").await?;
    let expected = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    ensure_eq!(stat.modified, expected, "the time of a file");
    // One without members is one too.
    import(&sandbox, "/tmp/empty", archive(&[])).await??;
    ensure_eq!(
        names(&sandbox, "/tmp/empty").await?,
        [""; 0],
        "what it held"
    );
    Ok(())
}

async fn onto(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/in/kept", "kept").await?;
    files.write("/tmp/in/file", "old").await?;
    files.write("/tmp/in/d/kept", "kept").await?;
    files.write("/tmp/outside", "outside").await?;
    files.link("/tmp/outside", "/tmp/in/link").await?;
    let bytes = archive(&[
        Member::file("file", "new"),
        Member::new('5', "d").mode(0o700),
        Member::file("d/new", "new"),
        Member::file("link", "new"),
        Member::file("twice", "first"),
        Member::file("twice", "second"),
    ]);
    import(&sandbox, "/tmp/in", bytes).await??;
    for (file, content) in [
        ("/tmp/in/kept", "kept"),
        ("/tmp/in/file", "new"),
        ("/tmp/in/d/kept", "kept"),
        ("/tmp/in/d/new", "new"),
        ("/tmp/in/link", "new"),
        ("/tmp/in/twice", "second"),
        ("/tmp/outside", "outside"),
    ] {
        ensure_eq!(files.read_text(file).await?, content, "{file}");
    }
    ensure_eq!(
        files.stat("/tmp/in/link").await?.kind,
        FileKind::File,
        "what was a link"
    );
    let mode = files.stat("/tmp/in/d").await?.mode;
    ensure_eq!(
        format!("{mode:o}"),
        "700",
        "the mode of a directory that was there"
    );
    // A file takes no directory's place, and a directory no file's.
    for member in [Member::file("d", "x"), Member::new('5', "file")] {
        let kinds = [
            ErrorKind::IsDirectory,
            ErrorKind::NotDirectory,
            ErrorKind::AlreadyExists,
        ];
        let done = import(&sandbox, "/tmp/in", archive(&[member])).await?;
        refused(done, &kinds, "one in the place of the other")?;
    }
    ensure_eq!(
        files.read_text("/tmp/in/d/kept").await?,
        "kept",
        "what was in the directory"
    );
    Ok(())
}

async fn hard_links(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let bytes = archive(&[
        Member::file("d/one", "same"),
        Member::link('1', "two", "d/one"),
    ]);
    import(&sandbox, "/tmp/in", bytes).await??;
    ensure_eq!(
        files.read_text("/tmp/in/two").await?,
        "same",
        "the second name"
    );
    files.append("/tmp/in/two", " file").await?;
    let text = files.read_text("/tmp/in/d/one").await?;
    ensure_eq!(
        text,
        "same file",
        "the first name after a write to the second"
    );
    Ok(())
}

async fn modes(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let bytes = archive(&[
        Member::new('5', "closed").mode(0o555),
        Member::file("closed/file", "x").mode(0o400),
        Member::file("program", "x").mode(0o6755),
        Member::new('5', "sticky").mode(0o3777),
    ]);
    import(&sandbox, "/tmp/in", bytes).await??;
    for (at, expected) in [
        ("closed", "555"),
        ("closed/file", "400"),
        ("program", "755"),
        ("sticky", "1777"),
    ] {
        let mode = sandbox.files().stat(format!("/tmp/in/{at}")).await?.mode;
        ensure_eq!(format!("{mode:o}"), expected, "the mode of {at}");
    }
    Ok(())
}

async fn mine(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let (uid, gid) = me(f, &sandbox).await?;
    let bytes = archive(&[
        Member::file("made/file", "x").owner(1234, 4321),
        Member::new('5', "directory").owner(1234, 4321),
        Member::link('2', "link", "x").owner(1234, 4321),
    ]);
    import(&sandbox, "/tmp/in", bytes).await??;
    for entry in gathered(sandbox.files().list_depth("/tmp/in", 9).await?).await? {
        let name = String::from_utf8_lossy(&entry.path);
        ensure_eq!(
            (entry.uid, entry.gid),
            (uid, gid),
            "owner and group of {name}"
        );
    }
    Ok(())
}

async fn owners(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let bytes = archive(&[
        Member::file("file", "x").owner(1234, 4321),
        Member::new('5', "directory").owner(4321, 1234),
        Member::link('2', "link", "x").owner(1234, 1234),
    ]);
    let keep = async |user: &str, at: &str| -> Checked<Result<()>> {
        let request = ImportRequest {
            user: Some(user.to_owned()),
            path: path(at)?,
            parents: true,
            keep_owner: true,
        };
        let files = sandbox.files();
        Ok(files.import_tar_with(request, whole(bytes.clone())).await)
    };
    keep("root", "/tmp/root").await??;
    for (name, expected) in [
        ("file", (1234, 4321)),
        ("directory", (4321, 1234)),
        ("link", (1234, 1234)),
    ] {
        let stat = sandbox.files().stat(format!("/tmp/root/{name}")).await?;
        ensure_eq!((stat.uid, stat.gid), expected, "owner and group of {name}");
    }
    let other = another_user(f, &sandbox).await?;
    let denied = [ErrorKind::PermissionDenied];
    refused(
        keep(other, "/tmp/other").await?,
        &denied,
        "keeping owners without being root",
    )?;
    Ok(())
}

async fn large(f: &Fixture) -> Checked {
    let (one, two) = (f.sandbox().await?, f.sandbox().await?);
    let small: Vec<Member> = (0..400)
        .map(|n| Member::file(format!("d{}/{n}", n % 7), n.to_string()))
        .collect();
    import(&one, "/tmp/t", archive(&small)).await??;
    let big = pattern(8 << 20);
    one.files().write("/tmp/t/big", big.clone()).await?;
    // From one to the other, without being held in between.
    let data = one.files().export_tar("/tmp/t", true).await?;
    let files = two.files();
    let moved = files.import_tar("/tmp/t", Box::pin(data));
    soon("the journey", moved).await??;
    ensure_eq!(
        tree(&two, "/tmp/t").await?,
        tree(&one, "/tmp/t").await?,
        "the tree"
    );
    same_bytes(
        &two.files().read("/tmp/t/big").await?,
        &big,
        "the large file",
    )?;
    ensure_eq!(
        two.files().read_text("/tmp/t/d1/393").await?,
        "393",
        "a small one"
    );
    Ok(())
}

async fn abandoned(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    files.write("/tmp/t/big", pattern(4 << 20)).await?;
    let mut open = Vec::new();
    for _ in 0..12 {
        let mut data = soon("an export begins", files.export_tar("/tmp/t", true)).await??;
        soon("its first piece", data.next()).await?.transpose()?;
        open.push(data);
    }
    soon("a write beside them", files.write("/tmp/small", "x")).await??;
    let bytes = exported(&sandbox, "/tmp/small", false).await?;
    ensure_eq!(members(&bytes)?.len(), 1, "the members of another archive");
    let last = open.pop().ok_or_else(|| Failure::broken("no archive"))?;
    drop(open);
    let rest = drained(last).await??;
    ensure!(
        rest.len() > 3 << 20,
        "an archive lost its end while others were dropped"
    );
    Ok(())
}
