use super::*;

/// From, to, whether the source is a directory, what is at the target and
/// at its parent, and where it goes.
type Case = (
    &'static str,
    &'static str,
    bool,
    There,
    There,
    Option<(&'static str, &'static str)>,
);

#[test]
fn a_link_from_an_earlier_copy_is_not_followed() {
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir(host.path().join("victim")).unwrap();
    std::os::unix::fs::symlink("victim", host.path().join("result")).unwrap();
    let target = |name: &[u8]| Target {
        directory: host.path().as_os_str().as_bytes().to_vec(),
        name: name.to_vec(),
    };
    let refused = LocalDirectory::open(&target(b"result")).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::NotDirectory);
    assert!(LocalDirectory::open(&target(b"new")).is_ok());
    assert!(host.path().join("new").is_dir());
}

/// One member of a ustar archive, and its content.
fn member(name: &str, letter: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0_u8; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(148, b"        ");
    put(156, &[letter]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

#[tokio::test]
async fn an_archive_of_one_file_holds_that_file_and_nothing_else() {
    let host = tempfile::tempdir().unwrap();
    let place = async |target: &str, kind: FileKind, members: &[Vec<u8>]| {
        let target = Target {
            directory: host.path().as_os_str().as_bytes().to_vec(),
            name: target.as_bytes().to_vec(),
        };
        let mut archive = members.concat();
        archive.resize(archive.len() + 1024, 0);
        let mut data = Archive::from(stream::iter([Ok(archive.into())]).boxed());
        place_one(
            target,
            b"f".to_vec(),
            kind,
            &mut data,
            CopyOptions::default(),
        )
        .await
    };
    let left = || {
        let names = std::fs::read_dir(host.path()).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let file = || member("f", b'0', "", b"content");
    let link = || member("f", b'2', "/etc/passwd", b"");
    let hostile: Vec<(FileKind, Vec<Vec<u8>>)> = vec![
        (FileKind::File, vec![]),
        (FileKind::File, vec![member("g", b'0', "", b"x")]),
        (FileKind::File, vec![file(), member("g", b'0', "", b"x")]),
        (FileKind::File, vec![member("g", b'0', "", b"x"), file()]),
        (FileKind::File, vec![file(), file()]),
        (FileKind::File, vec![file(), member("h", b'1', "f", b"")]),
        (FileKind::File, vec![member("f", b'1', "f", b"")]),
        (FileKind::File, vec![file(), member("d/", b'5', "", b"")]),
        (FileKind::File, vec![member("./", b'5', "", b""), file()]),
        (FileKind::File, vec![member("f/", b'5', "", b"")]),
        (FileKind::File, vec![member("f/f", b'0', "", b"x")]),
        (FileKind::File, vec![member("../f", b'0', "", b"x")]),
        (FileKind::File, vec![member("f", b'6', "", b"")]),
        (FileKind::File, vec![link()]),
        (FileKind::Link, vec![file()]),
    ];
    for target in ["f", "other"] {
        for (kind, members) in &hostile {
            let refused = place(target, *kind, members).await.unwrap_err();
            assert_eq!(left(), [""; 0], "{kind:?} {members:?}: {refused}");
        }
    }
    place("f", FileKind::File, &[file()]).await.unwrap();
    place("other", FileKind::Link, &[link()]).await.unwrap();
    assert_eq!(left(), ["f", "other"]);
    assert_eq!(std::fs::read(host.path().join("f")).unwrap(), b"content");
    // What has the name already is replaced, not written through.
    place("other", FileKind::File, &[file()]).await.unwrap();
    assert_eq!(
        std::fs::read(host.path().join("other")).unwrap(),
        b"content"
    );
}

#[test]
fn a_destination_is_decided_as_docker_cp_does() {
    use There::{Directory as D, File as F, Nothing as N, Special as S};
    let table: &[Case] = &[
        ("a", "/d", false, D, D, Some(("/d", "a"))),
        ("a", "/x", false, N, D, Some(("/", "x"))),
        ("a", "/x", false, F, D, Some(("/", "x"))),
        ("a", "/x/", false, N, D, None),
        ("a", "/x/", false, F, D, None),
        ("a", "/n/x", false, N, N, None),
        ("d", "/t", true, D, D, Some(("/t", "d"))),
        ("d/", "/t", true, D, D, Some(("/t", "d"))),
        ("d/.", "/t", true, D, D, Some(("/t", "."))),
        ("d", "/t", true, N, D, Some(("/", "t"))),
        ("d/.", "/t/u", true, N, D, Some(("/t", "u"))),
        ("d", "/t", true, F, D, None),
        ("d", "/n/t", true, N, N, None),
        ("a", "/s", false, S, D, None),
        ("d", "/s", true, S, D, None),
    ];
    for (from, to, is_dir, there, parent, expected) in table {
        let got = decide(from.as_bytes(), to.as_bytes(), *is_dir, *there, *parent).ok();
        let got = got.map(|t| {
            (
                String::from_utf8(t.directory).unwrap(),
                String::from_utf8(t.name).unwrap(),
            )
        });
        let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(got, expected, "{from} to {to}");
    }
}
