//! Archives that mean harm, built byte by byte without the code under test.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;

/// One header with its content; the checksum is right unless said otherwise.
#[derive(Clone)]
struct Part {
    block: [u8; 512],
    content: Vec<u8>,
}

impl Part {
    fn new(letter: u8, name: &str) -> Self {
        let mut part = Self {
            block: [0; 512],
            content: Vec::new(),
        };
        part.block[156] = letter;
        part.put(257, b"ustar\x0000");
        part.put(100, b"0000644\0");
        for at in [108, 116] {
            part.put(at, b"0000000\0");
        }
        part.put(136, b"00000000000\0");
        part.put(0, name.as_bytes()).size(0)
    }

    fn file(name: &str, content: &str) -> Self {
        Self::new(b'0', name).with(content)
    }

    fn dir(name: &str) -> Self {
        Self::new(b'5', name).put_own(100, b"0000755\0")
    }

    fn symlink(name: &str, target: &str) -> Self {
        Self::new(b'2', name).put_own(157, target.as_bytes())
    }

    fn hard_link(name: &str, target: &str) -> Self {
        Self::new(b'1', name).put_own(157, target.as_bytes())
    }

    fn pax(records: &[(&str, &str)]) -> Self {
        let mut content = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..=7)
                .map(|digits| rest + digits)
                .find(|length| length.to_string().len() + rest == *length)
                .expect("a length");
            content.push_str(&[&length.to_string(), " ", key, "=", value, "\n"].concat());
        }
        Self::new(b'x', "pax").with(&content)
    }

    fn long(letter: u8, text: &str) -> Self {
        let mut part = Self::new(letter, "././@LongLink").with(&format!("{text}\0"));
        part.put(257, b"ustar  \0").clone()
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn put_own(mut self, at: usize, bytes: &[u8]) -> Self {
        self.put(at, bytes);
        self
    }

    fn size(&mut self, size: usize) -> Self {
        self.put(124, format!("{size:011o}\0").as_bytes()).clone()
    }

    fn with(mut self, content: &str) -> Self {
        self.content = content.as_bytes().to_vec();
        self.size(content.len())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut block = self.block;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = block.to_vec();
        bytes.extend_from_slice(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn archive(parts: &[Part]) -> Vec<u8> {
    let mut bytes: Vec<u8> = parts.iter().flat_map(Part::bytes).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A directory with traps, beside one that nothing may reach.
fn traps() -> (Place, Vec<String>) {
    let place = Place::new();
    place.file("outside/victim", "safe");
    place.dir("outside/dir");
    place.file("to/inside", "mine");
    place.link("to/relative", "../outside");
    place.link("to/absolute", place.path("outside"));
    place.link("to/file-link", "../outside/victim");
    place.link("to/self", ".");
    std::fs::hard_link(place.path("outside/victim"), place.path("to/shared")).expect("link");
    let outside = snapshot(&place.path("outside"));
    (place, outside)
}

#[test]
fn archives_that_mean_harm_are_refused_and_reach_nothing() {
    use FailureKind::{BadArchive, IsDirectory, NotDirectory, NotFound};
    let evil = || Part::file("evil", "evil");
    let long = "n/".repeat(2049);
    let mut bad_sum = archive(&[evil()]);
    bad_sum[148] ^= 1;
    let without_end = archive(&[evil()])[..1024].to_vec();
    let torn_header = archive(&[evil()])[..700].to_vec();
    let torn_content = archive(&[Part::file("evil", &"e".repeat(5000))])[..2000].to_vec();
    let mut torn_padding = archive(&[Part::file("evil", "x")]);
    torn_padding.truncate(600);
    let mut huge = Part::new(b'0', "evil");
    huge.put(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    let mut negative = Part::new(b'0', "evil");
    negative.put(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    let mut big_header = Part::new(b'x', "pax");
    big_header.put(124, b"77777777777\0");
    let field = |at, bytes: &[u8]| evil().put_own(at, bytes);
    let pax = |records: &[(&str, &str)]| archive(&[Part::pax(records), evil()]);
    let cases: Vec<(&str, Vec<u8>, FailureKind)> = vec![
        ("empty", vec![], BadArchive),
        ("one byte", vec![0], BadArchive),
        ("noise", vec![0xa5; 4096], BadArchive),
        ("text", b"hello ".repeat(200), BadArchive),
        ("checksum", bad_sum, BadArchive),
        ("no end", without_end, BadArchive),
        ("torn header", torn_header, BadArchive),
        ("torn content", torn_content, BadArchive),
        ("torn padding", torn_padding, BadArchive),
        ("parent", archive(&[Part::file("../evil", "x")]), BadArchive),
        (
            "parent later",
            archive(&[Part::file("a/../../evil", "x")]),
            BadArchive,
        ),
        (
            "parent inside",
            archive(&[Part::file("a/../evil", "x")]),
            BadArchive,
        ),
        ("parent last", archive(&[Part::dir("a/..")]), BadArchive),
        ("only parent", archive(&[Part::dir("..")]), BadArchive),
        ("absolute", archive(&[Part::file("/evil", "x")]), BadArchive),
        (
            "two slashes",
            archive(&[Part::file("//evil", "x")]),
            BadArchive,
        ),
        (
            "file without name",
            archive(&[Part::file("", "x")]),
            BadArchive,
        ),
        (
            "file is the root",
            archive(&[Part::symlink("./", "x")]),
            BadArchive,
        ),
        (
            "through relative link",
            archive(&[Part::file("relative/evil", "x")]),
            BadArchive,
        ),
        (
            "through absolute link",
            archive(&[Part::file("absolute/evil", "x")]),
            BadArchive,
        ),
        (
            "through link to victim",
            archive(&[Part::file("absolute/victim", "x")]),
            BadArchive,
        ),
        (
            "directory over link",
            archive(&[Part::dir("relative/dir/new")]),
            BadArchive,
        ),
        (
            "directory is a link",
            archive(&[Part::dir("relative")]),
            BadArchive,
        ),
        (
            "through link to itself",
            archive(&[Part::file("self/self/evil", "x")]),
            BadArchive,
        ),
        (
            "through own link",
            archive(&[Part::symlink("l", "../outside"), Part::file("l/evil", "x")]),
            BadArchive,
        ),
        (
            "through own absolute link",
            archive(&[
                Part::symlink("l", "/tmp"),
                Part::file("l/stacyvm-evil", "x"),
            ]),
            BadArchive,
        ),
        (
            "through two own links",
            archive(&[
                Part::symlink("a", "."),
                Part::symlink("b", "a/.."),
                Part::file("b/outside/evil", "x"),
            ]),
            BadArchive,
        ),
        (
            "directory replaced by link",
            archive(&[
                Part::dir("d"),
                Part::symlink("d", "../outside"),
                Part::file("d/evil", "x"),
            ]),
            IsDirectory,
        ),
        (
            "hard link to outside",
            archive(&[Part::hard_link("l", "../outside/victim")]),
            BadArchive,
        ),
        (
            "hard link to absolute",
            archive(&[Part::hard_link("l", "/etc/passwd")]),
            BadArchive,
        ),
        (
            "hard link through link",
            archive(&[Part::hard_link("l", "relative/victim")]),
            BadArchive,
        ),
        (
            "hard link to directory",
            archive(&[Part::hard_link("l", ".")]),
            BadArchive,
        ),
        (
            "hard link to nothing",
            archive(&[Part::hard_link("l", "nothing")]),
            NotFound,
        ),
        (
            "hard link without target",
            archive(&[Part::hard_link("l", "")]),
            BadArchive,
        ),
        (
            "hard link with content",
            archive(&[Part::hard_link("l", "shared").with("evil")]),
            BadArchive,
        ),
        (
            "link without target",
            archive(&[Part::symlink("l", "")]),
            BadArchive,
        ),
        (
            "directory with content",
            archive(&[Part::dir("d").with("evil")]),
            BadArchive,
        ),
        (
            "character device",
            archive(&[Part::new(b'3', "zero")]),
            BadArchive,
        ),
        (
            "block device",
            archive(&[Part::new(b'4', "disk")]),
            BadArchive,
        ),
        ("sparse", archive(&[Part::new(b'S', "s")]), BadArchive),
        (
            "sparse by record",
            pax(&[("GNU.sparse.major", "1")]),
            BadArchive,
        ),
        (
            "second volume",
            archive(&[Part::new(b'M', "m")]),
            BadArchive,
        ),
        ("unknown type", archive(&[Part::new(b'Z', "z")]), BadArchive),
        (
            "size without number",
            archive(&[field(124, b"0000000000x\0")]),
            BadArchive,
        ),
        (
            "size with sign",
            archive(&[field(124, b"-0000000001\0")]),
            BadArchive,
        ),
        (
            "size with a gap",
            archive(&[field(124, b"00 00000004\0")]),
            BadArchive,
        ),
        (
            "size 8",
            archive(&[field(124, b"00000000008\0")]),
            BadArchive,
        ),
        ("huge size", archive(&[huge]), BadArchive),
        ("negative size", archive(&[negative]), BadArchive),
        (
            "owner without number",
            archive(&[field(108, b"rootroo\0")]),
            BadArchive,
        ),
        (
            "mode without number",
            archive(&[field(100, b"rwxrwxr\0")]),
            BadArchive,
        ),
        (
            "time without number",
            archive(&[field(136, b"yesterday!!\0")]),
            BadArchive,
        ),
        ("record parent", pax(&[("path", "../evil")]), BadArchive),
        ("record absolute", pax(&[("path", "/evil")]), BadArchive),
        ("record NUL", pax(&[("path", "a\0b")]), BadArchive),
        ("record long", pax(&[("path", &long)]), BadArchive),
        (
            "record component",
            pax(&[("path", &"n".repeat(256))]),
            BadArchive,
        ),
        ("record size text", pax(&[("size", "4x")]), BadArchive),
        ("record size negative", pax(&[("size", "-4")]), BadArchive),
        (
            "record size huge",
            pax(&[("size", "18446744073709551615")]),
            BadArchive,
        ),
        (
            "record size too far",
            pax(&[("size", "9223372036854775807")]),
            BadArchive,
        ),
        ("record uid", pax(&[("uid", "4294967296")]), BadArchive),
        ("record time", pax(&[("mtime", "NaN")]), BadArchive),
        (
            "malformed records",
            archive(&[Part::new(b'x', "x").with("9999 a=b\n"), evil()]),
            BadArchive,
        ),
        (
            "records cut",
            archive(&[Part::new(b'x', "x").with("6 a=b"), evil()]),
            BadArchive,
        ),
        (
            "endless records",
            archive(&[big_header, evil()]),
            BadArchive,
        ),
        (
            "record of the link",
            archive(&[
                Part::pax(&[("linkpath", "../outside/victim")]),
                Part::hard_link("l", "inside"),
            ]),
            BadArchive,
        ),
        (
            "two records",
            archive(&[Part::pax(&[]), Part::pax(&[("path", "a")]), evil()]),
            BadArchive,
        ),
        (
            "records at the end",
            archive(&[Part::pax(&[("path", "a")])]),
            BadArchive,
        ),
        (
            "global path",
            archive(&[
                Part {
                    block: {
                        let mut b = Part::pax(&[("path", "a")]).block;
                        b[156] = b'g';
                        b
                    },
                    ..Part::pax(&[("path", "a")])
                },
                evil(),
            ]),
            BadArchive,
        ),
        (
            "long name parent",
            archive(&[Part::long(b'L', "../evil"), evil()]),
            BadArchive,
        ),
        (
            "long name NUL",
            archive(&[Part::long(b'L', "a\0b"), evil()]),
            BadArchive,
        ),
        (
            "long name empty",
            archive(&[Part::long(b'L', ""), evil()]),
            BadArchive,
        ),
        (
            "long name long",
            archive(&[Part::long(b'L', &long), evil()]),
            BadArchive,
        ),
        (
            "names of two formats",
            archive(&[Part::long(b'L', "a"), Part::pax(&[("path", "b")]), evil()]),
            BadArchive,
        ),
        (
            "long link",
            archive(&[
                Part::long(b'K', "../outside/victim"),
                Part::hard_link("l", "inside"),
            ]),
            BadArchive,
        ),
        (
            "prefix parent",
            archive(&[Part::file("evil", "x").put_own(345, b"..")]),
            BadArchive,
        ),
        (
            "prefix absolute",
            archive(&[Part::file("evil", "x").put_own(345, b"/tmp")]),
            BadArchive,
        ),
        (
            "below a file",
            archive(&[Part::file("inside/evil", "x")]),
            NotDirectory,
        ),
        (
            "directory over file",
            archive(&[Part::dir("inside")]),
            NotDirectory,
        ),
    ];
    assert!(cases.len() > 40);
    for (name, bytes, kind) in cases {
        let (place, outside) = traps();
        let outcome = import(place.path("to"), &bytes);
        assert_eq!(
            outcome.failure_kind(),
            Some(kind),
            "{name}: {:?}",
            outcome.failure()
        );
        let mut after = snapshot(&place.path("outside"));
        after.retain(|line| !line.is_empty());
        assert_eq!(after, outside, "{name}");
        let names: Vec<_> = std::fs::read_dir(place.path("")).expect("list").collect();
        assert_eq!(names.len(), 2, "{name}");
        for entry in std::fs::read_dir(place.path("to")).expect("list") {
            let kind = entry.expect("entry").file_type().expect("type");
            assert!(!kind.is_char_device() && !kind.is_block_device(), "{name}");
        }
    }
}

#[test]
fn what_is_unusual_but_harmless_is_unpacked_safely() {
    let (place, outside) = traps();
    let to = |name: &str| place.path(&format!("to/{name}"));
    let set_id = Part::file("set-id", "x").put_own(100, b"0006755\0");
    let parts = [
        Part::dir("./"),
        set_id,
        Part::file("file-link", "not the victim"),
        Part::file("shared", "not the victim"),
        Part::file("twice", "first"),
        Part::file("twice", "second"),
        Part::hard_link("again", "./twice"),
        Part::hard_link("again", "twice"),
        Part::symlink("link", "../outside/victim"),
        Part::file("link", "took the place of the link"),
        Part::symlink("stays", "/no/where"),
        Part::hard_link("to-link", "stays"),
        Part::new(b'6', "pipe"),
        Part::new(0, "old/"),
        Part::new(b'7', "contiguous").with("x"),
        Part::file("implied/by/name", "x"),
        Part::pax(&[
            ("path", "renamed"),
            ("size", "3"),
            ("comment", "kept out"),
            ("uid", ""),
        ]),
        Part::file("plain", "abc").put_own(124, b"00000000000\0"),
        Part::long(b'L', "from-gnu"),
        Part::file("cut", "gnu")
            .put_own(257, b"ustar  \0")
            .put_own(345, b"ignored"),
        Part::dir("closed").put_own(100, b"0000000\0"),
        Part::file("closed/inner", "x"),
    ];
    let mut bytes = archive(&parts);
    // What follows the end is drained and means nothing.
    bytes.extend(Part::file("after-the-end", "x").bytes());
    let mode_before = std::fs::metadata(to(""))
        .expect("root")
        .permissions()
        .mode();
    import(to(""), &bytes).ok();
    assert_eq!(
        std::fs::metadata(to(""))
            .expect("root")
            .permissions()
            .mode(),
        mode_before
    );
    assert_eq!(place.read("to/twice"), "second");
    assert_eq!(place.read("to/again"), "second");
    assert_eq!(place.read("to/link"), "took the place of the link");
    assert_eq!(place.read("to/renamed"), "abc");
    assert_eq!(place.read("to/from-gnu"), "gnu");
    assert_eq!(place.read("to/file-link"), "not the victim");
    assert!(
        to("pipe")
            .symlink_metadata()
            .expect("pipe")
            .file_type()
            .is_fifo()
    );
    assert!(to("old").is_dir() && to("to-link").is_symlink() && !to("after-the-end").exists());
    let meta = std::fs::metadata(to("set-id")).expect("file");
    assert_eq!(meta.permissions().mode() & 0o7777, 0o755);
    assert_eq!(
        std::fs::metadata(to("closed"))
            .expect("closed")
            .permissions()
            .mode()
            & 0o777,
        0
    );
    assert_eq!(std::fs::metadata(to("again")).expect("again").nlink(), 2);
    // One line differs: the victim lost the name that it had inside.
    let after: Vec<_> = snapshot(&place.path("outside"))
        .into_iter()
        .map(|line| line.replace(" 1 (", " 2 ("))
        .collect();
    assert_eq!(after, outside);
    assert_eq!(place.read("outside/victim"), "safe");
}

#[test]
fn owners_are_kept_only_when_told() {
    let place = Place::new();
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root can give files away");
        return;
    }
    let owned = |part: Part| part.put_own(108, b"0011147\0").put_own(116, b"0011150\0");
    let parts = [
        owned(Part::file("f", "x")),
        owned(Part::dir("d")),
        owned(Part::symlink("l", "f")),
        owned(Part::new(b'6', "p")),
    ];
    let mut task = import_task(place.dir("mine"));
    run_task(&task, &archive(&parts)).ok();
    let FileTask::Import(request) = &mut task else {
        panic!("an import")
    };
    request.keep_owner = true;
    request.parents = true;
    request.path = bytes(place.path("theirs/deep"));
    run_task(&task, &archive(&parts)).ok();
    for name in ["f", "d", "l", "p"] {
        let owner = |dir: &str| {
            let meta = place.path(dir).join(name).symlink_metadata().expect(name);
            (meta.uid(), meta.gid())
        };
        assert_eq!(owner("mine"), (0, 0), "{name}");
        assert_eq!(owner("theirs/deep"), (0o11147, 0o11150), "{name}");
    }
}

#[test]
fn a_deep_name_is_unpacked_without_using_up_descriptors() {
    let place = Place::new();
    let deep = format!("{}f", "d/".repeat(1500));
    let parts = [
        Part::pax(&[("path", &deep)]),
        Part::file("x", "deep"),
        Part::pax(&[("path", &deep.replace('f', "g"))]),
        Part::dir("x"),
    ];
    import(place.path(""), &archive(&parts)).ok();
    let list = FileOperation::List {
        path: bytes(place.path("")),
        depth: u32::MAX,
    };
    assert_eq!(operate(list).names().len(), 1502);
    remove(place.path("d")).ok();
}

#[test]
fn endless_archives_take_no_memory() {
    let place = Place::new();
    let directory = Part::dir("same").bytes();
    let file = Part::file("f", "").bytes();
    let mut left = 20_000;
    let chunks = std::iter::from_fn(|| {
        left -= 1;
        match left {
            1.. => Some([&directory[..], &file[..]].concat()),
            0 => Some(vec![0; 1024]),
            _ => None,
        }
    });
    run_stream(
        &import_task(place.path("")),
        Chunks(chunks, Vec::new()),
        Vec::new(),
    )
    .ok();
    assert!(place.path("same").is_dir());
}
