//! The record of owners in a layer that an ordinary user unpacked, as the image
//! store writes it and the helper reads it.

/// Who owns one thing of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// Its path in the layer, without a slash in front; empty for the root.
    pub path: &'a [u8],
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permission bits with set-id bits.
    pub mode: u32,
    /// The value of `security.capability`, in hexadecimal digits.
    pub capability: Option<&'a str>,
}

impl Owner<'_> {
    /// The bytes of its Linux capabilities; `None` where these are no digits.
    pub fn capability_bytes(&self) -> Option<Vec<u8>> {
        let digits = self.capability?.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks_exact(2).map(byte).collect()
    }
}

/// What stands before the path in an entry: `UID GID MODE CAPABILITY` and a space.
pub fn head(uid: u32, gid: u32, mode: u32, capability: Option<&[u8]>) -> String {
    use std::fmt::Write as _;
    let mut head = format!("{uid} {gid} {mode:o} ");
    match capability {
        Some(value) => {
            for byte in value {
                let _ = write!(head, "{byte:02x}");
            }
        }
        None => head.push('-'),
    }
    head.push(' ');
    head
}

/// The entries of a record, which end with a NUL each; `None` for one that is damaged.
pub fn entries(record: &[u8]) -> impl Iterator<Item = Option<Owner<'_>>> {
    let entries = record.split(|byte| *byte == 0);
    entries.filter(|entry| !entry.is_empty()).map(parse)
}

fn parse(entry: &[u8]) -> Option<Owner<'_>> {
    let mut parts = entry.splitn(5, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (uid, gid, mode, capability) = (text()?, text()?, text()?, text()?);
    Some(Owner {
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        mode: u32::from_str_radix(mode, 8).ok()?,
        capability: (capability != "-").then_some(capability),
        path: parts.next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut record = head(1000, 33, 0o4750, None).into_bytes();
        record.extend_from_slice(b"home/a b\0");
        record.extend_from_slice(head(0, 0, 0o755, Some(&[1, 0xa2])).as_bytes());
        record.extend_from_slice(b"\0");
        let read: Vec<_> = entries(&record).map(Option::unwrap).collect();
        assert_eq!(
            (read[0].path, read[0].uid, read[0].gid, read[0].mode),
            (&b"home/a b"[..], 1000, 33, 0o4750)
        );
        assert_eq!(read[0].capability_bytes(), None);
        assert_eq!(read[1].path, b"");
        assert_eq!(read[1].capability_bytes(), Some(vec![1, 0xa2]));
        for damaged in ["1 2 3", "x 1 644 - f", "1 1 9 - f"] {
            assert_eq!(entries(damaged.as_bytes()).next(), Some(None), "{damaged}");
        }
    }
}
