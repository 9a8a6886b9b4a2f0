//! Archives from arbitrary bytes, read as an import reads them.
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
    let mut reader = Reader::new(archive);
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
