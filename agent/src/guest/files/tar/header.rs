//! The fields of a header block.

use super::BLOCK;

pub(super) type Block = [u8; BLOCK];

/// Offset and length of the fields.
pub(super) mod field {
    pub(crate) type Field = (usize, usize);
    pub(crate) const NAME: Field = (0, 100);
    pub(crate) const MODE: Field = (100, 8);
    pub(crate) const UID: Field = (108, 8);
    pub(crate) const GID: Field = (116, 8);
    pub(crate) const SIZE: Field = (124, 12);
    pub(crate) const MTIME: Field = (136, 12);
    pub(crate) const CHECKSUM: Field = (148, 8);
    pub(crate) const TYPE: usize = 156;
    pub(crate) const LINK: Field = (157, 100);
    pub(crate) const MAGIC: Field = (257, 6);
    pub(crate) const VERSION: Field = (263, 2);
    pub(crate) const USER: Field = (265, 32);
    pub(crate) const GROUP: Field = (297, 32);
    pub(crate) const MAJOR: Field = (329, 8);
    pub(crate) const MINOR: Field = (337, 8);
    pub(crate) const PREFIX: Field = (345, 155);
}
use field::Field;

/// The bytes of a field.
pub(super) fn bytes(block: &Block, (at, length): Field) -> &[u8] {
    &block[at..at + length]
}

/// The bytes of a text field, up to its NUL.
pub(super) fn text(block: &Block, field: Field) -> &[u8] {
    let bytes = bytes(block, field);
    let end = bytes.iter().position(|byte| *byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}

/// The number in a field: octal digits among spaces and NULs, or base 256
/// where the first bit is set. An empty field is 0.
pub(super) fn number(block: &Block, field: Field) -> Option<i64> {
    let bytes = bytes(block, field);
    if bytes[0] & 0x80 != 0 {
        return base_256(bytes);
    }
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = bytes.iter().position(|byte| *byte != b' ') else {
        return Some(0);
    };
    let digits = &bytes[start..];
    let end = digits.iter().position(padding).unwrap_or(digits.len());
    if !digits[end..].iter().all(padding) {
        return None;
    }
    // Twelve octal digits are 36 bits.
    digits[..end].iter().try_fold(0_i64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        Some(value * 8 + i64::from(digit))
    })
}

fn base_256(bytes: &[u8]) -> Option<i64> {
    let negative = bytes[0] & 0x40 != 0;
    let first = if negative { bytes[0] } else { bytes[0] & 0x7f };
    let mut value = i128::from(if negative { -1 } else { 0 });
    for byte in std::iter::once(first).chain(bytes[1..].iter().copied()) {
        value = (value << 8) | i128::from(byte);
    }
    i64::try_from(value).ok()
}

/// Whether the checksum is right, summed as unsigned or, as some old programs
/// did, signed bytes.
pub(super) fn checksum_is_right(block: &Block) -> bool {
    let Some(wanted) = number(block, field::CHECKSUM) else {
        return false;
    };
    let (at, length) = field::CHECKSUM;
    let counted = |index: usize, byte: u8| {
        if (at..at + length).contains(&index) {
            b' '
        } else {
            byte
        }
    };
    let all = || {
        block
            .iter()
            .enumerate()
            .map(|(index, byte)| counted(index, *byte))
    };
    let unsigned: i64 = all().map(i64::from).sum();
    let signed: i64 = all().map(|byte| i64::from(byte.cast_signed())).sum();
    wanted == unsigned || wanted == signed
}

/// Writes the checksum.
pub(super) fn seal(block: &mut Block) {
    let (at, length) = field::CHECKSUM;
    block[at..at + length].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[at..at + 7].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}
