//! Archives from arbitrary bytes, read as an import and as an image's layer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacyvm_agent::guest::files::tar::Reader;

const BLOCK: usize = 512;

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

fn walk(archive: &[u8]) {
    walk_by(archive, Reader::new(archive));
    walk_by(archive, Reader::of_layer(archive));
}

fn walk_by(archive: &[u8], mut reader: Reader<&[u8]>) {
    let mut buffer = [0; 4096];
    let mut members = 0;
    while let Ok(Some(member)) = reader.next_member() {
        assert!(!member.name.is_empty() && member.name.len() <= 4096);
        assert!(!member.name.contains(&0) && !member.link.contains(&0));
        let mut content = 0;
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            content += count as u64;
        }
        assert!(content <= member.size);
        if let Some(map) = &member.sparse {
            let ends = map.parts.iter().map(|(offset, length)| offset + length);
            assert!(ends.max().unwrap_or(0) <= map.whole);
            let sum: u64 = map.parts.iter().map(|(_, length)| length).sum();
            assert_eq!(sum, member.size);
        }
        assert!(reader.position() <= archive.len() as u64);
        members += 1;
        assert!(members <= archive.len() / BLOCK, "it runs on");
    }
}

fuzz_target!(|bytes: &[u8]| {
    walk(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    walk(&sealed);
});
