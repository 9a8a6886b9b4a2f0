//! The mounts of a process, as the kernel tells them in `mountinfo`.
//!
//! Its paths are bytes: whoever may mount chooses them, and one that is no text
//! must hide none of the others.

use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

#[derive(Debug)]
pub(crate) struct Mount {
    #[cfg_attr(not(all(feature = "oci", target_os = "linux")), allow(dead_code))]
    pub(crate) id: u64,
    #[cfg_attr(not(all(feature = "oci", target_os = "linux")), allow(dead_code))]
    pub(crate) parent: u64,
    #[cfg_attr(not(all(feature = "oci", target_os = "linux")), allow(dead_code))]
    pub(crate) device: String,
    /// What of the device is shown.
    #[cfg_attr(not(all(feature = "oci", target_os = "linux")), allow(dead_code))]
    pub(crate) root: PathBuf,
    /// Where it is shown.
    pub(crate) point: PathBuf,
    /// The kind of its file system.
    pub(crate) kind: String,
}

/// Lines as `36 35 98:0 /shown /point rw,noatime shared:1 - ext4 /dev/root rw`.
pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(mount)
        .collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount {
        id,
        parent,
        device,
        root,
        point,
        kind,
    })
}

/// A path as the kernel writes it there: what would end a field is in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = |part: &[u8]| {
            let digits = std::str::from_utf8(part).ok()?;
            u8::from_str_radix(digits, 8).ok()
        };
        let escaped = tail.get(..3).filter(|_| *first == b'\\').and_then(octal);
        bytes.push(escaped.unwrap_or(*first));
        rest = &tail[if escaped.is_some() { 3 } else { 0 }..];
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn a_path_that_is_no_text_hides_no_other() {
        let mounts = parse(
            b"1 0 8:1 / / rw shared:1 master:2 - ext4 /dev/a rw\n\
              2 1 0:5 / /no\xfftext rw - fuse.x x rw\n\
              not a line\n\
              3 1 0:6 / /with\\040space rw - proc proc rw\n",
        );
        let seen: Vec<_> = mounts
            .iter()
            .map(|m| (m.point.as_os_str().as_bytes(), m.kind.as_str()))
            .collect();
        let expected: [(&[u8], &str); 3] = [
            (b"/", "ext4"),
            (b"/no\xfftext", "fuse.x"),
            (b"/with space", "proc"),
        ];
        assert_eq!(seen, expected);
    }
}
