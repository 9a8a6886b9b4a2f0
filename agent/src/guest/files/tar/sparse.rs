//! The maps of sparse members: which parts of a file its content is.

use super::header::{self, Block, field::Field};
use super::pax;

/// One part: its offset in the file, and its bytes.
pub(super) type Part = (u64, u64);

/// Parts of one map; more is refused.
pub(super) const MAX_PARTS: usize = 64 * 1024;
/// Pairs of offset and length: in a header, and in a block that goes on.
const IN_HEADER: (usize, usize) = (386, 4);
const IN_BLOCK: (usize, usize) = (0, 21);
const GOES_ON_IN_HEADER: usize = 482;
const GOES_ON_IN_BLOCK: usize = 504;
const WHOLE: Field = (483, 12);

/// The parts in a header of GNU's old format, the bytes of the whole file, and
/// whether a block with more of them follows.
pub(super) fn old_header(block: &Block) -> Option<(Vec<Part>, u64, bool)> {
    let whole = u64::try_from(header::number(block, WHOLE)?).ok()?;
    Some((
        pairs(block, IN_HEADER)?,
        whole,
        block[GOES_ON_IN_HEADER] != 0,
    ))
}

/// The same of a block that goes on with a map.
pub(super) fn old_block(block: &Block) -> Option<(Vec<Part>, bool)> {
    Some((pairs(block, IN_BLOCK)?, block[GOES_ON_IN_BLOCK] != 0))
}

fn pairs(block: &Block, (at, count): (usize, usize)) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    for index in 0..count {
        let at = at + index * 24;
        if block[at] == 0 {
            break;
        }
        let number = |at| u64::try_from(header::number(block, (at, 12))?).ok();
        parts.push((number(at)?, number(at + 12)?));
    }
    Some(parts)
}

/// The map of `GNU.sparse.map`: numbers with commas between them.
pub(super) fn commas(text: &[u8]) -> Option<Vec<Part>> {
    let numbers: Option<Vec<u64>> = text.split(|b| *b == b',').map(pax::decimal).collect();
    paired(&numbers?)
}

/// Pairs of numbers.
pub(super) fn paired(numbers: &[u64]) -> Option<Vec<Part>> {
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_PARTS {
        return None;
    }
    Some(numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect())
}

/// Whether a map is one: parts in order, apart, within the file, and as many
/// bytes as there is content.
pub(super) fn is_sound(parts: &[Part], whole: u64, content: u64) -> bool {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (offset, length) in parts {
        let Some(next) = offset.checked_add(*length) else {
            return false;
        };
        if *offset < end || next > whole {
            return false;
        }
        end = next;
        sum += length;
    }
    parts.len() <= MAX_PARTS && sum == content && i64::try_from(whole).is_ok()
}
