//! Directories as they are listed, and paths that a pattern finds.

use futures_util::StreamExt as _;
use stacyvm::ErrorKind;
use stacyvm::sandbox::files::{FileOperation, FileReply};

use super::cases;
use super::files_common::{gathered, names, operate, path, paths};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "files.a_directory_is_listed_in_name_order" ["F1.6"] needs(FILES) => listed;
    Must "files.a_listing_goes_as_deep_as_asked" ["F1.4" "F1.6"] needs(FILES) => depth;
    Must "files.an_empty_directory_lists_nothing" ["F1.6"] needs(FILES) => empty;
    Must "files.a_large_directory_is_listed_whole" ["F1.6"] needs(FILES) => large;
    Must "files.a_pattern_finds_what_a_shell_would" ["F1.6"] needs(FILES) => patterns;
    Must "files.two_stars_find_every_level_but_follow_no_link" ["F1.4" "F1.6"] needs(FILES) => every_level;
    Must "files.more_paths_than_asked_for_are_an_error" ["F1.6"] needs(FILES) => too_many_paths;
};

async fn listed(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    for name in ["b", "a", "B", "10", "9", ".hidden", "\u{e4}"] {
        files.write(format!("/tmp/d/{name}"), name).await?;
    }
    files.make_dir("/tmp/d/c").await?;
    files.link("a", "/tmp/d/link").await?;
    let all = files.list("/tmp/d").await?;
    let expected = [".hidden", "10", "9", "B", "a", "b", "c", "link", "\u{e4}"];
    ensure_eq!(paths(&all), expected, "the names");
    for entry in &all {
        let name = String::from_utf8_lossy(&entry.path);
        let stat = files.stat(format!("/tmp/d/{name}")).await?;
        ensure_eq!(
            (
                entry.kind,
                entry.size,
                entry.mode,
                entry.uid,
                entry.gid,
                entry.modified,
                &entry.target
            ),
            (
                stat.kind,
                stat.size,
                stat.mode,
                stat.uid,
                stat.gid,
                stat.modified,
                &stat.target
            ),
            "what a listing tells of {name}, and a look at it"
        );
    }
    Ok(())
}

async fn depth(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    for file in ["a/1", "a/b/2", "a/b/c/3", "d/4"] {
        files.write(format!("/tmp/t/{file}"), "x").await?;
    }
    files.link("../t", "/tmp/t/e").await?;
    for (depth, expected) in [
        (1, vec!["a", "d", "e"]),
        (2, vec!["a", "a/1", "a/b", "d", "d/4", "e"]),
        (
            3,
            vec!["a", "a/1", "a/b", "a/b/2", "a/b/c", "d", "d/4", "e"],
        ),
        (
            9,
            vec![
                "a", "a/1", "a/b", "a/b/2", "a/b/c", "a/b/c/3", "d", "d/4", "e",
            ],
        ),
    ] {
        let seen = gathered(files.list_depth("/tmp/t", depth).await?).await?;
        ensure_eq!(paths(&seen), expected, "{depth} levels");
    }
    Ok(())
}

async fn empty(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.files().make_dir("/tmp/empty").await?;
    ensure_eq!(names(&sandbox, "/tmp/empty").await?, [""; 0], "its entries");
    ensure_eq!(
        names(&sandbox, "/tmp/").await?,
        ["empty"],
        "those of the one above"
    );
    Ok(())
}

async fn large(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let name = |n: usize| format!("{n:04}-{}", "x".repeat(200));
    for n in 0..300 {
        sandbox
            .files()
            .link("nowhere", format!("/tmp/d{}", name(n)))
            .await?;
    }
    let seen = names(&sandbox, "/tmp").await?;
    let expected: Vec<String> = (0..300).map(|n| format!("d{}", name(n))).collect();
    ensure_eq!(seen.len(), expected.len(), "how many are listed");
    ensure!(seen == expected, "other names are listed than were made");
    Ok(())
}

async fn patterns(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    for name in [
        "a.txt",
        "b.txt",
        "ab.rs",
        ".hidden.txt",
        "*",
        "sub/c.txt",
        "sub/deep/d.txt",
    ] {
        files.write(format!("/tmp/g/{name}"), "x").await?;
    }
    files.link("sub", "/tmp/g/link").await?;
    for (pattern, expected) in [
        ("*.txt", vec!["a.txt", "b.txt"]),
        ("?.txt", vec!["a.txt", "b.txt"]),
        ("[b-z].txt", vec!["b.txt"]),
        ("[!b].txt", vec!["a.txt"]),
        ("a*", vec!["a.txt", "ab.rs"]),
        (".*.txt", vec![".hidden.txt"]),
        ("\\*", vec!["*"]),
        ("*/c.txt", vec!["link/c.txt", "sub/c.txt"]),
        ("s?b/*/*", vec!["sub/deep/d.txt"]),
        ("nothing*", vec![]),
        ("a.txt", vec!["a.txt"]),
        ("missing/*", vec![]),
    ] {
        let found = files.glob(format!("/tmp/g/{pattern}")).await?;
        let expected: Vec<String> = expected
            .iter()
            .map(|name| format!("/tmp/g/{name}"))
            .collect();
        ensure_eq!(paths(&found), expected, "what {pattern} finds");
    }
    let found = files.glob("/tmp/g/a.*").await?;
    let stat = files.stat("/tmp/g/a.txt").await?;
    ensure_eq!(found, vec![stat], "what a pattern tells of a file");
    let relative = files.glob("*.txt").await;
    refused(
        relative,
        &[ErrorKind::InvalidArgument],
        "a pattern without a root",
    )?;
    Ok(())
}

async fn every_level(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    for name in [
        "c.txt",
        "a/c.txt",
        "a/b/c.txt",
        "a/b/other",
        ".hidden/c.txt",
    ] {
        files.write(format!("/tmp/g/{name}"), "x").await?;
    }
    files.link("/tmp/g", "/tmp/g/a/loop").await?;
    for (pattern, expected) in [
        ("**/c.txt", vec!["a/b/c.txt", "a/c.txt", "c.txt"]),
        ("a/**/c.txt", vec!["a/b/c.txt", "a/c.txt"]),
        ("**/b/*", vec!["a/b/c.txt", "a/b/other"]),
        (
            "a/**",
            vec!["a/b", "a/b/c.txt", "a/b/other", "a/c.txt", "a/loop"],
        ),
    ] {
        let found = files.glob(format!("/tmp/g/{pattern}")).await?;
        let mut found = paths(&found);
        found.sort();
        let expected: Vec<String> = expected
            .iter()
            .map(|name| format!("/tmp/g/{name}"))
            .collect();
        ensure_eq!(found, expected, "what {pattern} finds");
    }
    Ok(())
}

async fn too_many_paths(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for n in 0..4 {
        sandbox.files().write(format!("/tmp/g/{n}"), "x").await?;
    }
    let glob = async |limit| {
        let pattern = path("/tmp/g/*")?;
        let operation = FileOperation::Glob { pattern, limit };
        match operate(f, &sandbox, operation).await {
            Ok(FileReply::Entries(mut entries)) => {
                let mut all = Vec::new();
                while let Some(entry) = entries.next().await {
                    match entry {
                        Ok(entry) => all.push(entry),
                        Err(error) => return Ok(Err(error)),
                    }
                }
                Ok(Ok(all))
            }
            Ok(other) => Err(Failure::broken(format!("a search gave {other:?}"))),
            Err(error) => Ok(Err(error)),
        }
    };
    ensure_eq!(glob(4).await??.len(), 4, "the paths with room for them");
    let kinds = [ErrorKind::ResourceExhausted];
    refused(glob(3).await?, &kinds, "more paths than asked for")?;
    Ok(())
}
