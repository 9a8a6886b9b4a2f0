//! Archives that mean harm, each with what must come of it. None reaches
//! anything outside its layer, and none leaves anything half-made.

use super::build::*;
use super::*;

/// What must come of an archive.
enum Outcome {
    /// It is refused with this kind.
    Refused(ErrorKind),
    /// It is refused at this cap.
    Cap(&'static str),
    /// It makes exactly this.
    Tree(&'static [&'static str]),
}
use ErrorKind::{Corrupt, InvalidArgument, Unsupported};
use Outcome::{Cap, Refused, Tree};

const BAD: Outcome = Refused(InvalidArgument);

fn long(bytes: usize) -> Vec<u8> {
    vec![b'n'; bytes]
}

fn gnu_long(kind: u8, name: &[u8]) -> Member {
    file("././@LongLink", [name, b"\0"].concat()).kind(kind)
}

fn torn(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes.truncate(at);
    bytes
}

fn global(records: &str) -> Member {
    file("g", records).kind(b'g')
}

fn sparse_1_0(map: &str, real: &str, data: &[u8]) -> Member {
    let mut content = map.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(512).max(512), 0);
    content.extend_from_slice(data);
    file("GNUSparseFile.0/s", content)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "s")
        .pax("GNU.sparse.realsize", real)
}

type Row = (&'static str, Vec<u8>, Outcome);

fn names() -> Vec<Row> {
    vec![
        ("`..` first", tar(&[file("../outside", "x")]), BAD),
        (
            "`..` in the middle",
            tar(&[file("a/../../outside", "x")]),
            BAD,
        ),
        ("`..` that stays inside", tar(&[file("a/../b", "x")]), BAD),
        ("`..` last", tar(&[dir("a/..")]), BAD),
        (
            "an absolute name is taken as one inside",
            tar(&[file("/etc/passwd", "x")]),
            Tree(&["etc/ 755", "etc/passwd 644 x"]),
        ),
        (
            "slashes and dots",
            tar(&[file(".//a/./b", "x")]),
            Tree(&["a/ 755", "a/b 644 x"]),
        ),
        ("the root as a file", tar(&[file("./", "")]), Tree(&[])),
        (
            "the root as a file with content",
            tar(&[file(".", "x")]),
            BAD,
        ),
        ("the root as a link", tar(&[symlink("/", "/etc")]), BAD),
        (
            "the root as a hard link",
            tar(&[file("a", "x"), hard(".", "a")]),
            BAD,
        ),
        ("no name", tar(&[file("", "x")]), BAD),
        (
            "NUL in a long name",
            tar(&[file("a", "x").pax("path", b"a\0b")]),
            BAD,
        ),
        (
            "a component of 256 bytes",
            tar(&[file("a", "x").pax("path", long(256))]),
            BAD,
        ),
        (
            "a path past PATH_MAX",
            tar(&[file("a", "x").pax("path", [long(200), b"/".to_vec()].concat().repeat(25))]),
            BAD,
        ),
        (
            "`..` in a PAX name",
            tar(&[file("a", "x").pax("path", "../outside")]),
            BAD,
        ),
        (
            "`..` in a GNU name",
            tar(&[gnu_long(b'L', b"../outside"), file("a", "x")]),
            BAD,
        ),
        (
            "two formats of a long name",
            tar(&[gnu_long(b'L', b"b"), file("a", "x").pax("path", "c")]),
            BAD,
        ),
        (
            "two GNU names",
            tar(&[gnu_long(b'L', b"b"), gnu_long(b'L', b"c"), file("a", "x")]),
            BAD,
        ),
        ("a GNU name of nobody", tar(&[gnu_long(b'L', b"b")]), BAD),
        (
            "a prefix that leads out",
            tar(&[file("x", "x").patch(345, b"../..")]),
            BAD,
        ),
        (
            "bytes that are no text",
            tar(&[file(b"\xff\xfe", "x")]),
            Tree(&["\u{fffd}\u{fffd} 644 x"]),
        ),
        (
            "names that drive a terminal",
            tar(&[file("a\x1b[2Jb", "x")]),
            Tree(&["a\x1b[2Jb 644 x"]),
        ),
    ]
}

fn links() -> Vec<Row> {
    vec![
        (
            "through an absolute link",
            tar(&[symlink("l", "/"), file("l/outside", "x")]),
            BAD,
        ),
        (
            "through a link out",
            tar(&[symlink("l", "../../../.."), file("l/outside", "x")]),
            BAD,
        ),
        (
            "through a link inside",
            tar(&[dir("d"), symlink("l", "d"), file("l/f", "x")]),
            BAD,
        ),
        (
            "through a link that became one",
            tar(&[
                dir("d"),
                file("d/f", "x"),
                symlink("d", "/"),
                file("d/outside", "x"),
            ]),
            BAD,
        ),
        (
            "a directory in place of a link",
            tar(&[symlink("l", "/"), dir("l"), file("l/f", "x")]),
            Tree(&["l/ 755", "l/f 644 x"]),
        ),
        (
            "a file in place of a link does not follow it",
            tar(&[symlink("l", "/outside"), file("l", "x")]),
            Tree(&["l 644 x"]),
        ),
        (
            "a link keeps where it leads",
            tar(&[symlink("l", "/etc/../../x")]),
            Tree(&["l -> /etc/../../x"]),
        ),
        (
            "a loop of links",
            tar(&[symlink("a", "b"), symlink("b", "a"), file("a/x", "x")]),
            BAD,
        ),
        ("a link without a target", tar(&[symlink("l", "")]), BAD),
        (
            "a target past PATH_MAX",
            tar(&[symlink("l", "t").pax("linkpath", long(4097))]),
            BAD,
        ),
        (
            "NUL in a target",
            tar(&[symlink("l", "t").pax("linkpath", b"a\0b")]),
            BAD,
        ),
        ("a hard link out", tar(&[hard("h", "../../outside")]), BAD),
        (
            "a hard link to the host",
            tar(&[hard("h", "/etc/passwd")]),
            BAD,
        ),
        (
            "a hard link through a link",
            tar(&[symlink("l", "/"), hard("h", "l/etc/passwd")]),
            BAD,
        ),
        (
            "a hard link to a link is one more link",
            tar(&[symlink("l", "/etc/passwd"), hard("h", "l")]),
            Tree(&["h -> /etc/passwd", "l -> /etc/passwd"]),
        ),
        (
            "a hard link to what comes later",
            tar(&[hard("h", "f"), file("f", "x")]),
            BAD,
        ),
        (
            "a hard link to a directory",
            tar(&[dir("d"), hard("h", "d")]),
            BAD,
        ),
        (
            "a hard link to itself",
            tar(&[file("f", "x"), hard("f", "f")]),
            BAD,
        ),
        (
            "a hard link in place of its target's directory",
            tar(&[dir("d"), file("d/f", "x"), hard("d", "d/f")]),
            BAD,
        ),
        (
            "a hard link with content",
            tar(&[file("f", "x"), hard("h", "f").size(512), file("g", "y")]),
            BAD,
        ),
        (
            "a hard link to a whiteout",
            tar(&[file(".wh.w", ""), hard("h", "w")]),
            BAD,
        ),
    ]
}

fn kinds() -> Vec<Row> {
    let device = |kind, device| Member {
        device,
        ..member(kind, "dev")
    };
    vec![
        (
            "a block device is not made",
            tar(&[device(b'4', (8, 0))]),
            Tree(&[]),
        ),
        (
            "a character device is not made",
            tar(&[device(b'3', (1, 1))]),
            Tree(&[]),
        ),
        (
            "a device 0:0 is a whiteout",
            tar(&[device(b'3', (0, 0))]),
            Tree(&["dev whiteout 0"]),
        ),
        (
            "a pipe is made and not opened",
            tar(&[member(b'6', "p"), file("f", "x")]),
            Tree(&["f 644 x", "p fifo 644"]),
        ),
        (
            "a file below a file",
            tar(&[file("f", "x"), file("f/g", "y")]),
            BAD,
        ),
        (
            "a file below a pipe",
            tar(&[member(b'6', "p"), file("p/g", "y")]),
            BAD,
        ),
        (
            "a file in place of a pipe does not open it",
            tar(&[member(b'6', "p"), file("p", "y")]),
            Tree(&["p 644 y"]),
        ),
        (
            "a file in place of a directory",
            tar(&[dir("d"), file("d/f", "x"), file("d", "y")]),
            Tree(&["d 644 y"]),
        ),
        ("an unknown type", tar(&[member(b'Z', "z")]), BAD),
        ("a part of another archive", tar(&[member(b'M', "m")]), BAD),
        (
            "set-id bits are kept",
            tar(&[file("s", "x").mode(0o6755)]),
            Tree(&["s 6755 x"]),
        ),
        (
            "a directory that closes itself",
            tar(&[dir("d").mode(0), file("d/f", "x")]),
            Tree(&["d/ 0", "d/f 644 x"]),
        ),
        (
            "an owner past 65535",
            tar(&[file("f", "x").pax("uid", "65536")]),
            Refused(Unsupported),
        ),
        (
            "a group past 32 bits",
            tar(&[file("f", "x").pax("gid", "4294967296")]),
            BAD,
        ),
        (
            "an owner below 0",
            tar(&[file("f", "x").patch(108, &[0xff; 8])]),
            BAD,
        ),
    ]
}

fn whiteouts() -> Vec<Row> {
    vec![
        ("a whiteout of no name", tar(&[file(".wh.", "")]), BAD),
        ("a whiteout of `..`", tar(&[file("a/.wh...", "")]), BAD),
        ("a whiteout of `.`", tar(&[file("a/.wh..", "")]), BAD),
        (
            "something below a whiteout",
            tar(&[file(".wh.a/b", "x")]),
            BAD,
        ),
        (
            "a whiteout below a link",
            tar(&[symlink("l", "/"), file("l/.wh.outside", "")]),
            BAD,
        ),
        (
            "opaque through a link",
            tar(&[symlink("l", "/"), file("l/.wh..wh..opq", "")]),
            BAD,
        ),
        (
            "a whiteout and then its file",
            tar(&[file(".wh.f", ""), file("f", "x")]),
            Tree(&["f 644 x"]),
        ),
        (
            "a file and then its whiteout",
            tar(&[file("f", "x"), file(".wh.f", "")]),
            Tree(&["f 644 x"]),
        ),
        (
            "below a whiteout's name",
            tar(&[file(".wh.d", ""), file("d/f", "x")]),
            Tree(&["d/ 755", "d/f 644 x"]),
        ),
        (
            "what AUFS wrote for itself",
            tar(&[
                dir(".wh..wh.plnk"),
                file(".wh..wh.plnk/1.2", "x"),
                file(".wh..wh.aufs", ""),
            ]),
            Tree(&[]),
        ),
        (
            "overlay's own attribute is not taken",
            tar(&[
                dir("d").pax("SCHILY.xattr.user.overlay.opaque", "y"),
                dir("e").pax("SCHILY.xattr.trusted.overlay.redirect", "/d"),
            ]),
            Tree(&["d/ 755", "e/ 755"]),
        ),
    ]
}

fn forms() -> Vec<Row> {
    let good = tar(&[file("a", "x")]);
    let mut unsealed = file("a", "x");
    unsealed.unsealed = true;
    vec![
        ("nothing at all", Vec::new(), BAD),
        (
            "no archive",
            b"#!/bin/sh\necho no archive\n".repeat(40),
            BAD,
        ),
        ("a wrong checksum", tar(&[unsealed]), BAD),
        ("torn in a header", torn(good.clone(), 300), BAD),
        (
            "torn in content",
            torn(tar(&[file("a", vec![1; 2000])]), 1024),
            BAD,
        ),
        ("no end mark and no digest", torn(good.clone(), 1024), BAD),
        (
            "a size that is no number",
            tar(&[file("a", "x").patch(124, b"99999999999")]),
            BAD,
        ),
        (
            "a size below 0",
            tar(&[file("a", "x").patch(124, &[0xff; 12])]),
            BAD,
        ),
        (
            "a size past 63 bits",
            tar(&[file("a", "x").pax("size", "9223372036854775808")]),
            BAD,
        ),
        (
            "a PAX size past the archive",
            tar(&[file("a", "x").pax("size", "1000000")]),
            BAD,
        ),
        (
            "a PAX size inside the archive hides a member from who ignores it",
            tar(&[file("a", "").pax("size", "1024"), file("b".repeat(40), "y")]),
            Tree(&["a 644 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"]),
        ),
        (
            "PAX records past 1 MiB",
            tar(&[file("a", "x").pax("comment", long(2 << 20))]),
            BAD,
        ),
        (
            "a PAX record with a wrong length",
            tar(&[file("x", "99 path=a\n").kind(b'x'), file("a", "x")]),
            BAD,
        ),
        (
            "PAX headers of nobody",
            tar(&[file("x", "10 path=ab\n").kind(b'x')]),
            BAD,
        ),
        (
            "a global header that names members",
            tar(&[global("10 path=ab\n"), file("a", "x")]),
            BAD,
        ),
        (
            "a global header that sets attributes",
            tar(&[global("25 SCHILY.xattr.user.a=bc\n"), file("a", "x")]),
            BAD,
        ),
        (
            "a comment for all is nothing",
            tar(&[global("15 comment=abc\n\n"), file("a", "x")]),
            BAD,
        ),
        ("gzip that is torn", torn(gzip(&good), 30), BAD),
        (
            "gzip with something behind it",
            [gzip(&good), b"tail".to_vec()].concat(),
            BAD,
        ),
        ("gzip of gzip", gzip(&gzip(&good)), BAD),
        (
            "two parts of gzip are one",
            [gzip(&good[..512]), gzip(&good[512..])].concat(),
            Tree(&["a 644 x"]),
        ),
        ("zstd that is torn", torn(zstd(&good), 20), BAD),
        ("zstd", zstd(&good), Tree(&["a 644 x"])),
        ("xz", b"\xfd7zXZ\0\0\0".to_vec(), Refused(Unsupported)),
        (
            "sparse, version 1.0",
            tar(&[sparse_1_0("2\n0\n2\n10\n2\n", "12", b"abcd")]),
            Tree(&["s 644 ab\0\0\0\0\0\0\0\0cd"]),
        ),
        (
            "sparse, version 0.1",
            tar(&[file("GNUSparseFile.0/s", "abcd")
                .pax("GNU.sparse.map", "0,2,6,2")
                .pax("GNU.sparse.size", "8")
                .pax("GNU.sparse.name", "s")]),
            Tree(&["s 644 ab\0\0\0\0cd"]),
        ),
        (
            "sparse parts that overlap",
            tar(&[sparse_1_0("2\n0\n2\n1\n2\n", "12", b"abcd")]),
            BAD,
        ),
        (
            "a sparse part past the file",
            tar(&[sparse_1_0("1\n10\n4\n", "12", b"abcd")]),
            BAD,
        ),
        (
            "a sparse map that wraps",
            tar(&[sparse_1_0("1\n18446744073709551615\n4\n", "12", b"abcd")]),
            BAD,
        ),
        (
            "a sparse map without content",
            tar(&[sparse_1_0("9999999\n", "12", b"")]),
            BAD,
        ),
        (
            "a sparse name that leads out",
            tar(&[file("a", "ab")
                .pax("GNU.sparse.map", "0,2")
                .pax("GNU.sparse.size", "2")
                .pax("GNU.sparse.name", "../outside")]),
            BAD,
        ),
    ]
}

/// Archives that are too much, for a store with small caps.
fn bombs() -> Vec<Row> {
    let many: Vec<Member> = (0..300).map(|n| file(format!("f{n}"), "")).collect();
    let deep = "d/".repeat(40) + "f";
    let after_end = [tar(&[file("a", "x")]), vec![0; 3 << 20]].concat();
    vec![
        ("too many members", tar(&many), Cap("entries")),
        (
            "too deep",
            tar(&[file("a", "x").pax("path", deep)]),
            Cap("depth"),
        ),
        (
            "zeros in gzip",
            gzip(&tar(&[file("z", vec![0; 3 << 20])])),
            Cap("ratio"),
        ),
        (
            "zeros in zstd",
            zstd(&tar(&[file("z", vec![0; 3 << 20])])),
            Cap("ratio"),
        ),
        ("zeros behind the end mark", gzip(&after_end), Cap("ratio")),
        (
            "too large without compression",
            tar(&[file("z", vec![1; 5 << 20])]),
            Cap("layer_bytes"),
        ),
        (
            "a sparse file that seems to be a terabyte",
            tar(&[sparse_1_0("1\n0\n2\n", "1099511627776", b"ab")]),
            Cap("layer_bytes"),
        ),
        (
            "attributes that are too long",
            tar(&[file("a", "x").pax("SCHILY.xattr.user.a", long(5000))]),
            Cap("xattr_bytes"),
        ),
    ]
}

fn judge(ground: &Ground, what: &str, bytes: &[u8], outcome: &Outcome) {
    let made = ground.rootfs(bytes);
    match (made, outcome) {
        (Err(error), Refused(kind)) => assert_eq!(error.kind(), *kind, "{what}: {error:?}"),
        (Err(error), Cap(cap)) => {
            assert_eq!(
                error.kind(),
                ErrorKind::ResourceExhausted,
                "{what}: {error:?}"
            );
            assert_eq!(error.fact("cap"), Some(*cap), "{what}: {error:?}");
            assert!(error.fact("remedy").unwrap().contains(cap), "{what}");
        }
        (Ok(image), Tree(expected)) => {
            let found = tree(&ground.layer(&image, 0));
            assert_eq!(found, *expected, "{what}");
        }
        (Ok(image), _) => {
            panic!("{what}: it made {:?}", tree(&ground.layer(&image, 0)))
        }
        (Err(error), Tree(_)) => panic!("{what}: {error:?}"),
    }
}

fn each(rows: Vec<Row>) {
    let ground = Ground::new();
    for (what, bytes, outcome) in rows {
        judge(&ground, what, &bytes, &outcome);
        // Also what was made is taken away, so that each row stands alone.
        ground.is_clean();
        if ground.images.find("test:1").is_ok() {
            ground.images.remove("test:1").unwrap();
        }
        let layers = ground.images.path().join("layers");
        assert_eq!(std::fs::read_dir(layers).unwrap().count(), 0, "{what}");
        let blobs = ground.images.path().join("blobs/sha256");
        assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0, "{what}");
    }
}

#[test]
fn hostile_names_are_refused_or_stay_inside() {
    each(names());
}

#[test]
fn hostile_links_reach_nothing() {
    each(links());
}

#[test]
fn hostile_kinds_owners_and_modes_are_refused_or_kept_inside() {
    each(kinds());
}

#[test]
fn hostile_whiteouts_hide_what_they_may_and_no_more() {
    each(whiteouts());
}

#[test]
fn malformed_archives_are_refused() {
    each(forms());
}

#[test]
fn there_are_more_than_forty_of_them() {
    let all = [names(), links(), kinds(), whiteouts(), forms(), bombs()];
    let count: usize = all.iter().map(Vec::len).sum();
    assert!(count >= 100, "{count}");
}

#[test]
fn bombs_stop_at_the_caps_and_leave_nothing() {
    let mut ground = Ground::new();
    let caps = Caps {
        entries: 256,
        depth: 32,
        ratio: 100,
        ratio_floor: 1 << 20,
        layer_bytes: 4 << 20,
        blob_bytes: 6 << 20,
        xattr_bytes: 4096,
        ..Caps::default()
    };
    ground.images = ground.images.with_caps(caps).unwrap();
    for (what, bytes, outcome) in bombs() {
        judge(&ground, what, &bytes, &outcome);
        ground.is_clean();
    }
}

#[test]
fn wrong_digests_and_sizes_are_refused() {
    let ground = Ground::new();
    let good = tar(&[file("a", "x")]);
    let other = tar(&[file("a", "y")]);
    // The blob is whole, and unpacks to another layer than was said.
    let swapped = Layout::of(&[(gzip(&other), good.clone())]);
    assert_eq!(ground.layout(&swapped).unwrap_err().kind(), Corrupt);
    ground.is_clean();
    // The blob is another one of the same length, or of another length.
    for change in [0, 1] {
        let layout = Layout::of(&[(good.clone(), good.clone())]);
        let path = ground.path("layout");
        let _ = std::fs::remove_dir_all(&path);
        layout.write(&path);
        let blob = path.join("blobs/sha256").join(Digest::of(&good).hex());
        let mut bytes = other.clone();
        bytes.resize(good.len() + change, 0);
        std::fs::write(blob, bytes).unwrap();
        let error = ground
            .import(&format!("oci:{}", path.display()))
            .unwrap_err();
        assert_eq!(error.kind(), Corrupt, "{change}: {error:?}");
        ground.is_clean();
    }
    // A document of another digest.
    let layout = Layout::of(&[(good.clone(), good.clone())]);
    let path = ground.path("layout");
    let _ = std::fs::remove_dir_all(&path);
    layout.write(&path);
    let config = Digest::of(&layout.blobs[1]);
    let blob = path.join("blobs/sha256").join(config.hex());
    let text = std::fs::read_to_string(&blob).unwrap();
    std::fs::write(&blob, text.replace("/bin/true", "/bin/evil")).unwrap();
    let error = ground
        .import(&format!("oci:{}", path.display()))
        .unwrap_err();
    assert_eq!(error.kind(), Corrupt, "{error:?}");
    ground.is_clean();
}

#[test]
fn a_layout_with_links_or_pipes_reads_nothing_else() {
    let ground = Ground::new();
    let good = tar(&[file("a", "x")]);
    let layout = Layout::of(&[(good.clone(), good.clone())]);
    for name in ["index.json", "oci-layout", "blobs"] {
        let path = ground.path("layout");
        let _ = std::fs::remove_dir_all(&path);
        layout.write(&path);
        let real = ground.path("out");
        let _ = std::fs::remove_dir_all(&real);
        std::fs::create_dir(&real).unwrap();
        std::fs::rename(path.join(name), real.join("moved")).unwrap();
        std::os::unix::fs::symlink(real.join("moved"), path.join(name)).unwrap();
        ground
            .import(&format!("oci:{}", path.display()))
            .unwrap_err();
    }
    let path = ground.path("layout");
    let _ = std::fs::remove_dir_all(&path);
    layout.write(&path);
    std::fs::remove_file(path.join("index.json")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path.join("index.json"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    ground
        .import(&format!("oci:{}", path.display()))
        .unwrap_err();
    ground.is_clean();
}
