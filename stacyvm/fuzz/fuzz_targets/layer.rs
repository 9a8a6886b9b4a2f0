//! Arbitrary bytes as an archive of a root directory, imported into a store with
//! small caps: whatever they are, nothing outside changes, no cap is passed, the
//! store is whole afterwards, and nothing panics.
#![no_main]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use stacyvm::image::{Caps, Images, ImportOptions};
use stacyvm::{Context, ErrorKind};

const BLOCK: usize = 512;
const CANARY: &[u8] = b"canary";

/// A store in a directory, with something beside it.
struct Ground {
    home: PathBuf,
    images: Images,
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        // The script takes it away: a process that libFuzzer ends runs no destructor.
        let home = tempfile::tempdir().expect("a directory").keep();
        fs::create_dir(home.join("canary")).expect("a canary");
        fs::write(home.join("canary/file"), CANARY).expect("a canary");
        let images = Images::open(&home.join("images")).expect("a store");
        let mut caps = Caps::default();
        caps.entries = 48;
        caps.layer_bytes = 128 << 10;
        caps.depth = 12;
        caps.path_bytes = 300;
        caps.xattr_bytes = 1 << 10;
        let images = images.with_caps(caps).expect("caps");
        Ground { home, images }
    })
}

/// Sets right the checksum of what looks like a header: mutation would hardly
/// ever get past it, and what comes after it is what matters.
fn seal(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
}

/// How many files lie below a directory, and how long they seem.
fn measure(directory: &Path) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let Ok(found) = entry.path().symlink_metadata() else {
                continue;
            };
            files += 1;
            if found.is_dir() {
                left.push(entry.path());
            } else if found.is_file() && found.nlink() == 1 {
                bytes += found.size();
            }
        }
    }
    (files, bytes)
}

fn names(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

fn unpack(archive: &[u8]) {
    let Ground { home, images } = ground();
    let path = home.join("archive");
    fs::write(&path, archive).expect("an archive");
    let source = format!("rootfs-archive:{}", path.display());
    let source = source.parse().expect("a source");
    let imported = images.import(
        &Context::default(),
        &source,
        &ImportOptions::named("fuzz:1"),
    );
    match imported {
        Ok(image) => {
            let caps = images.caps();
            for layer in images.root(&image).expect("its root").lower {
                let (files, bytes) = measure(&layer);
                // A member may need all directories above it.
                assert!(
                    files <= caps.entries * (caps.depth as u64 + 1),
                    "{files} files"
                );
                assert!(bytes <= caps.layer_bytes, "{bytes} bytes");
            }
            let damage = images.verify(&Context::default()).expect("a store");
            assert!(damage.is_empty(), "{damage:?}");
            images.remove("fuzz:1").expect("it is removed");
        }
        Err(error) => {
            let kind = error.kind();
            let expected = [
                ErrorKind::InvalidArgument,
                ErrorKind::ResourceExhausted,
                ErrorKind::Unsupported,
            ];
            assert!(expected.contains(&kind), "{error:?}");
        }
    }
    images.prune().expect("a store");
    assert_eq!(
        names(&home.join("images/tmp")),
        0,
        "something half-made stays"
    );
    assert_eq!(names(home), 3, "something was made outside");
    assert_eq!(names(&home.join("canary")), 1, "something was made outside");
    let canary = fs::read(home.join("canary/file"));
    assert_eq!(
        canary.ok().as_deref(),
        Some(CANARY),
        "something outside was changed"
    );
}

fuzz_target!(|bytes: &[u8]| {
    unpack(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    if sealed != bytes {
        unpack(&sealed);
    }
});
