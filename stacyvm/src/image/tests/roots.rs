//! What a layer becomes, and how layers lie over each other.

use std::os::unix::fs::MetadataExt as _;

use super::build::*;
use super::*;
use crate::image::unpack::testing::unpack_as_user;

/// The root of an image as a copy.
fn copied(ground: &Ground, image: &Image) -> PathBuf {
    let out = ground.path("out");
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir(&out).unwrap();
    ground
        .images
        .materialize(&Context::default(), image, &out)
        .unwrap();
    out
}

#[test]
fn attributes_are_those_of_the_archive() {
    let ground = Ground::new();
    let time = "1600000000.123456789";
    let image = ground
        .rootfs(&tar(&[
            dir("./").mode(0o711),
            dir("d").mode(0o1777).pax("mtime", time),
            file("d/f", "content")
                .mode(0o4750)
                .owner(1000, 2000)
                .pax("mtime", time),
            symlink("d/l", "f").owner(7, 8).pax("mtime", time),
            hard("d/h", "d/f"),
        ]))
        .unwrap();
    let layer = ground.layer(&image, 0);
    let look = |name: &str| std::fs::symlink_metadata(layer.join(name)).unwrap();
    assert_eq!(look("").mode() & 0o7777, 0o711);
    for name in ["d", "d/f", "d/l"] {
        assert_eq!(
            (look(name).mtime(), look(name).mtime_nsec()),
            (1_600_000_000, 123_456_789),
            "{name}"
        );
    }
    assert_eq!(look("d").mode() & 0o7777, 0o1777);
    assert_eq!(look("d/f").mode() & 0o7777, 0o4750);
    assert_eq!(look("d/f").ino(), look("d/h").ino());
    match ground.images.flavour() {
        Flavour::Ids => {
            assert_eq!((look("d/f").uid(), look("d/f").gid()), (1000, 2000));
            assert_eq!((look("d/l").uid(), look("d/l").gid()), (7, 8));
        }
        Flavour::Own => {
            let owners = ground.images.layer_owners(image.layers[0].diff_id).unwrap();
            let all: Vec<_> = owners.iter().map(|o| o.unwrap()).collect();
            let seen: Vec<_> = all.iter().map(|o| (o.path, o.uid, o.gid)).collect();
            // Each name of a file, and what is in a directory before it.
            let expected: [(&[u8], u32, u32); 3] =
                [(b"d/l", 7, 8), (b"d/h", 1000, 2000), (b"d/f", 1000, 2000)];
            assert_eq!(seen, expected);
            assert_eq!(all[2].mode, 0o4750);
        }
    }
}

#[test]
fn what_is_not_made_or_kept_is_listed() {
    let ground = Ground::new();
    let device = Member {
        device: (8, 1),
        ..member(b'4', "dev/sda1")
    };
    let image = ground
        .rootfs(&tar(&[
            device,
            file("f", "x")
                .pax("SCHILY.xattr.user.kept", "v")
                .pax("SCHILY.xattr.trusted.other", "v")
                .pax("SCHILY.xattr.user.overlay.opaque", "y"),
            file("g", "x").pax("SCHILY.xattr.security.selinux", "v"),
        ]))
        .unwrap();
    let record = ground.images.layer_record(image.layers[0].diff_id).unwrap();
    assert_eq!(record.device_count, 1);
    assert_eq!(
        record.devices[0],
        DeviceNode {
            path: "dev/sda1".into(),
            block: true,
            major: 8,
            minor: 1
        }
    );
    let dropped: Vec<_> = record.dropped_xattrs.keys().map(String::as_str).collect();
    assert_eq!(
        dropped,
        ["security.selinux", "trusted.other", "user.overlay.opaque"]
    );
    let path = ground.layer(&image, 0).join("f");
    let mut value = [0_u8; 8];
    assert_eq!(rustix::fs::lgetxattr(&path, "user.kept", &mut value), Ok(1));
    assert!(rustix::fs::lgetxattr(&path, "user.overlay.opaque", &mut value).is_err());
}

/// `security.capability` of version 2, with CAP_NET_RAW.
const CAPABILITY: &[u8] = &[
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn linux_capabilities_outlive_the_change_of_the_owner() {
    let ground = Ground::new();
    let image = ground
        .rootfs(&tar(&[file("ping", "x")
            .mode(0o755)
            .owner(5, 5)
            .pax("SCHILY.xattr.security.capability", CAPABILITY)]))
        .unwrap();
    if ground.images.flavour() == Flavour::Own {
        let owners = ground.images.layer_owners(image.layers[0].diff_id).unwrap();
        let first = owners.iter().next().unwrap().unwrap();
        assert_eq!(
            first.capability,
            Some("0100000200200000000000000000000000000000")
        );
        return;
    }
    for root in [ground.layer(&image, 0), copied(&ground, &image)] {
        let mut value = [0_u8; 64];
        let length =
            rustix::fs::lgetxattr(root.join("ping"), "security.capability", &mut value).unwrap();
        assert_eq!(&value[..length], CAPABILITY);
    }
}

fn lower() -> Vec<u8> {
    tar(&[
        dir("keep").mode(0o1777),
        file("keep/old", "old"),
        file("gone", "x"),
        dir("dir"),
        file("dir/a", "a"),
        file("dir/b", "b"),
        dir("covered"),
        file("covered/old", "x"),
        file("swap", "x"),
        dir("again"),
        file("again/old", "x"),
        symlink("link", "keep"),
        file("one", "same"),
        hard("two", "one"),
    ])
}

fn upper() -> Vec<u8> {
    tar(&[
        // `keep` is here only because of what is in it.
        file("keep/new", "new"),
        file(".wh.gone", ""),
        file(".wh.never-was", ""),
        file("dir/.wh.a", ""),
        dir("covered"),
        file("covered/.wh..wh..opq", ""),
        file("covered/new", "y"),
        dir("swap"),
        file("swap/in", "y"),
        file(".wh.again", ""),
        file("again/new", "y"),
        dir("link"),
        file("link/f", "y"),
    ])
}

const MERGED: &[&str] = &[
    "again/ 755",
    "again/new 644 y",
    "covered/ 755",
    "covered/new 644 y",
    "dir/ 755",
    "dir/b 644 b",
    "keep/ 1777",
    "keep/new 644 new",
    "keep/old 644 old",
    "link/ 755",
    "link/f 644 y",
    "one 644 same",
    "swap/ 755",
    "swap/in 644 y",
    "two 644 same",
];

#[test]
fn layers_lie_over_each_other_in_a_copy() {
    let ground = Ground::new();
    let image = ground
        .layout(&Layout::of_tars(&[lower(), upper()]))
        .unwrap();
    let out = copied(&ground, &image);
    assert_eq!(tree(&out), MERGED);
    let ino = |name: &str| std::fs::metadata(out.join(name)).unwrap().ino();
    assert_eq!(ino("one"), ino("two"));
    assert_eq!(
        std::fs::metadata(out.join("dir/b")).unwrap().mtime(),
        1_700_000_000
    );
    ground.is_clean();
}

#[test]
fn the_kernels_overlay_shows_the_same() {
    let ground = Ground::new();
    let image = ground
        .layout(&Layout::of_tars(&[lower(), upper()]))
        .unwrap();
    let root = ground.images.root(&image).unwrap();
    let restored: Vec<_> = root
        .restored
        .iter()
        .map(|r| (r.path.as_slice(), r.mode))
        .collect();
    assert_eq!(restored, [(&b"keep"[..], 0o1777)]);
    let out = ground.path("out");
    std::fs::create_dir(&out).unwrap();
    let lower: Vec<_> = root.lower.iter().map(|l| l.display().to_string()).collect();
    let done = std::process::Command::new("unshare")
        .args([
            "--mount",
            "--map-root-user",
            "--propagation",
            "private",
            "sh",
            "-c",
        ])
        .arg(
            "mount -t overlay overlay -o userxattr,lowerdir=\"$1\" \"$2\" || exit 77; \
             cd \"$2\"; find . -mindepth 1 -printf '%P %y %m\\n' | sort; cat keep/new dir/b",
        )
        .args(["sh", &lower.join(":")])
        .arg(&out)
        .output();
    let done = match done {
        Ok(done) if done.status.code() != Some(77) && !done.stdout.is_empty() => done,
        other => {
            eprintln!("not run: overlayfs cannot be mounted in a user namespace here: {other:?}");
            return;
        }
    };
    let text = String::from_utf8(done.stdout).unwrap();
    let found: Vec<&str> = text.lines().collect();
    let expected = [
        "again d 755",
        "again/new f 644",
        "covered d 755",
        "covered/new f 644",
        "dir d 755",
        "dir/b f 644",
        "keep d 755",
        "keep/new f 644",
        "keep/old f 644",
        "link d 755",
        "link/f f 644",
        "one f 644",
        "swap d 755",
        "swap/in f 644",
        "two f 644",
    ];
    assert_eq!(found[..expected.len()], expected);
    assert_eq!(found[expected.len()..], ["newb"]);
}

#[test]
fn names_are_hidden_by_attributes_where_devices_cannot_be_made() {
    use crate::image::unpack::testing::unpack_with_attributes;
    let ground = Ground::new();
    let out = ground.path("out");
    std::fs::create_dir(&out).unwrap();
    unpack_with_attributes(
        &tar(&[
            file("d/.wh.a", ""),
            file("d/b", "x"),
            dir("e"),
            file("e/.wh..wh..opq", ""),
        ]),
        &out,
    );
    assert_eq!(tree(&out), ["d/ 755", "d/a 600", "d/b 644 x", "e/ 755"]);
    let value = |path: &str, name: &str| {
        let mut value = [0_u8; 4];
        let length = rustix::fs::lgetxattr(out.join(path), name, &mut value).unwrap();
        value[..length].to_vec()
    };
    assert_eq!(value("d/a", "user.overlay.whiteout"), b"y");
    assert_eq!(value("d", "user.overlay.opaque"), b"x");
    assert_eq!(value("e", "user.overlay.opaque"), b"y");
}

#[test]
fn a_root_without_rights_can_be_entered_by_the_store_of_a_user() {
    let ground = Ground::new();
    let into = ground.path("into");
    std::fs::create_dir(&into).unwrap();
    let archive = tar(&[dir("./").mode(0), dir("d").mode(0)]);
    unpack_as_user(&archive, &into).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&into), 0o700);
    assert_eq!(mode(&into.join("d")), 0);
}
