//! Damaged archives, from a fixed seed.

use super::super::tar::{BLOCK, Reader};
use super::*;

struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).expect("small")
    }
}

/// Reads to the end as far as it goes; answers how many members there were.
fn walk(archive: &[u8]) -> usize {
    // A layer holds all that a transfer does, and more.
    let layer = walk_by(archive, Reader::of_layer(archive));
    let transfer = walk_by(archive, Reader::new(archive));
    assert!(transfer <= layer);
    transfer
}

fn walk_by(archive: &[u8], mut reader: Reader<&[u8]>) -> usize {
    let mut members = 0;
    let mut buffer = [0; 100];
    while let Ok(Some(member)) = reader.next_member() {
        assert!(!member.name.is_empty() && member.name.len() <= 4096);
        assert!(!member.name.contains(&0) && !member.link.contains(&0));
        let mut content = 0;
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            content += count as u64;
        }
        assert!(content <= member.size);
        members += 1;
        // Every member takes a block at least.
        assert!(members <= archive.len() / BLOCK);
    }
    members
}

#[test]
fn no_damage_makes_the_reader_panic_or_run_on() {
    let place = Place::new();
    super::round_trip::tree(&place, "tree");
    std::fs::remove_file(place.path("tree/large")).expect("removed");
    let seed = export(place.path("tree"), false).ok().data;
    let whole = walk(&seed);
    assert!(whole > 10);
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let mut read = 0;
    for round in 0..20_000 {
        let mut archive = seed.clone();
        for _ in 0..=random.next(4) {
            let at = random.next(archive.len());
            match random.next(6) {
                0 => archive[at] ^= 1 << random.next(8),
                1 => archive[at] = b"0123456789 \0x/.\xff"[random.next(16)],
                2 => archive.truncate(at.max(1)),
                3 => {
                    let from = random.next(archive.len()) / BLOCK * BLOCK;
                    let block = archive[from..archive.len().min(from + BLOCK)].to_vec();
                    let to = at / BLOCK * BLOCK;
                    archive.splice(to..to, block);
                }
                4 => archive[at..]
                    .iter_mut()
                    .take(16)
                    .for_each(|byte| *byte = 0xff),
                _ => {
                    let to = at / BLOCK * BLOCK;
                    let end = archive.len().min(to + BLOCK);
                    archive.drain(to..end);
                    archive.push(0);
                }
            }
        }
        if round % 2 == 0 {
            reseal(&mut archive);
        }
        read += walk(&archive);
    }
    assert!(
        read > 20_000,
        "damage must not always stop at the first member"
    );
}

/// Sets right the checksum of what looks like a header, so that damage in it
/// is seen by what comes after that test.
fn reseal(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
}
