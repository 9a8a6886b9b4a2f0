//! Damaged layers, from a fixed seed: unpacking never panics, never hangs, and
//! never reaches anything outside its directory.

use super::build::*;
use super::*;
use crate::image::unpack::testing::unpack_as_user;

/// A small generator (splitmix64), so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end.max(1) as u64).unwrap()
    }
}

const BLOCK: usize = 512;

/// Sets right the checksum of what looks like a header: mutation would hardly
/// ever get past it.
fn seal(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
}

/// Names and targets that lead somewhere: mutation of letters alone finds none.
const TEMPTING: [&[u8]; 12] = [
    b"../canary/file\0",
    b"/etc/passwd\0",
    b"link/file\0",
    b"link\0",
    b"up/canary/file\0",
    b"up\0",
    b"..\0",
    b".\0",
    b"dir/.wh.file\0",
    b".wh..wh..opq\0",
    b".wh.link\0",
    b"up/.wh.canary\0",
];

fn mutate(random: &mut Random, archive: &mut Vec<u8>) {
    for _ in 0..=random.below(5) {
        let at = random.below(archive.len());
        let block = at / BLOCK * BLOCK;
        match random.below(8) {
            0 => archive[at] ^= 1 << random.below(8),
            1 => archive[at] = b"0123456789 \0x/.\xff"[random.below(16)],
            2 => archive.truncate(block.max(BLOCK)),
            3 | 4 => {
                let word = TEMPTING[random.below(TEMPTING.len())];
                let to = block + [0, 0, 157][random.below(3)];
                archive[to..to + word.len()].copy_from_slice(word);
            }
            5 => archive[block + 156] = b"0123456xgLKS"[random.below(12)],
            6 => {
                let from = random.below(archive.len() / BLOCK) * BLOCK;
                let copy = archive[from..from + BLOCK].to_vec();
                archive.splice(block..block, copy);
            }
            _ => drop(archive.drain(block..block + BLOCK)),
        }
        if archive.len() < BLOCK {
            return;
        }
        archive.truncate(archive.len() / BLOCK * BLOCK);
    }
    seal(archive);
}

#[test]
fn no_damage_reaches_anything_outside() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("canary")).unwrap();
    std::fs::write(home.path().join("canary/file"), "canary").unwrap();
    let into = home.path().join("layer");
    let device = Member {
        device: (1, 3),
        ..member(b'3', "null")
    };
    let whole = tar(&[
        dir("dir"),
        file("dir/file", "content"),
        symlink("link", "dir"),
        symlink("up", ".."),
        hard("hard", "dir/file"),
        file("dir/.wh.gone", ""),
        file("other/.wh..wh..opq", ""),
        member(b'6', "pipe"),
        device,
        file("long", "x").pax("path", "a/".repeat(20) + "long"),
        file("attr", "x").pax("SCHILY.xattr.user.a", "b"),
        file("holes", "abcd")
            .pax("GNU.sparse.map", "0,2,6,2")
            .pax("GNU.sparse.size", "8"),
    ]);
    let mut random = Random(0x1a7e_0001);
    let (mut unpacked, mut refused) = (0, 0);
    for round in 0..1500 {
        let mut archive = whole.clone();
        mutate(&mut random, &mut archive);
        std::fs::create_dir(&into).unwrap();
        match unpack_as_user(&archive, &into) {
            Ok(()) => unpacked += 1,
            Err(error) => {
                assert_ne!(
                    error.kind(),
                    ErrorKind::Internal,
                    "round {round}: {error:?}"
                );
                refused += 1;
            }
        }
        let parent = rustix::fs::open(
            home.path(),
            rustix::fs::OFlags::PATH,
            rustix::fs::Mode::empty(),
        );
        stacyvm_agent::remove::tree(parent.unwrap(), c"layer").unwrap();
        let canary = home.path().join("canary");
        assert_eq!(
            std::fs::read(canary.join("file")).unwrap(),
            b"canary",
            "round {round}"
        );
        assert_eq!(
            std::fs::read_dir(&canary).unwrap().count(),
            1,
            "round {round}"
        );
        assert_eq!(
            std::fs::read_dir(home.path()).unwrap().count(),
            1,
            "round {round}"
        );
    }
    // Damage that nothing survives would look at the first header alone.
    assert!(
        unpacked > 100 && refused > 100,
        "{unpacked} unpacked, {refused} refused"
    );
}
