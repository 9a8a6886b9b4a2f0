//! Names in archives, and how they are written in records.

use std::fmt::Write as _;

use crate::error::{Error, ErrorKind, Result};
use crate::image::caps::{self, Caps};

/// The longest component that file systems have.
const LONGEST: usize = 255;

/// An error about a member.
pub(super) fn refused(what: &str, name: &[u8]) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("the archive of a layer is refused: {what}"),
    )
    .context("field", "image.layer")
    .context("path", encode(name))
    .context("remedy", "get or build the image again")
}

/// The components of a name. A leading slash, empty components and `.` mean
/// nothing, as in Docker and umoci; `..` is refused, wherever it leads.
pub(super) fn components<'a>(name: &'a [u8], caps: &Caps) -> Result<Vec<&'a [u8]>> {
    if name.len() > caps.path_bytes {
        return Err(caps::reached(
            "path_bytes",
            caps.path_bytes,
            "a path of a layer is too long",
        )
        .context("path", encode(name)));
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(refused("`..` in a name", name)),
            _ if part.len() > LONGEST => {
                return Err(refused(
                    "a component of a name is longer than 255 bytes",
                    name,
                ));
            }
            _ if part.contains(&0) => return Err(refused("NUL in a name", name)),
            _ => parts.push(part),
        }
        if parts.len() > caps.depth {
            return Err(
                caps::reached("depth", caps.depth, "a path of a layer is too deep")
                    .context("path", encode(name)),
            );
        }
    }
    Ok(parts)
}

/// What the last component means in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A member like any other.
    Plain(&'a [u8]),
    /// Nothing of lower layers is seen in the directory.
    Opaque,
    /// This name of lower layers is not seen.
    Whiteout(&'a [u8]),
    /// A file of AUFS for itself.
    Ignored,
}

/// Judges the components of a name by the rules for `.wh.`.
pub(super) fn meaning<'a>(parts: &[&'a [u8]], name: &[u8]) -> Result<Meaning<'a>> {
    let Some((last, above)) = parts.split_last() else {
        return Ok(Meaning::Plain(b""));
    };
    if parts
        .iter()
        .any(|part| part.starts_with(b".wh..wh.") && *part != b".wh..wh..opq")
    {
        return Ok(Meaning::Ignored);
    }
    if above.iter().any(|part| part.starts_with(b".wh.")) {
        return Err(refused("something lies below a whiteout", name));
    }
    Ok(match last.strip_prefix(b".wh.") {
        None => Meaning::Plain(last),
        Some(b".wh..opq") => Meaning::Opaque,
        Some(b"" | b"." | b"..") => return Err(refused("a whiteout of no name", name)),
        Some(gone) => Meaning::Whiteout(gone),
    })
}

/// A path as text that holds every byte: what is not plain is `%XX`.
pub(in crate::image) fn encode(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The path that [`encode`] wrote; `None` for what it never writes.
pub(in crate::image) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut path = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            path.push(byte);
            continue;
        }
        let pair = [bytes.next()?, bytes.next()?];
        path.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
        assert_eq!(encode(b"a b%\n"), "a%20b%25%0A");
        for text in ["%", "%1", "%zz"] {
            assert_eq!(decode(text), None);
        }
    }

    #[test]
    fn whiteouts_are_told_by_their_names() {
        let of = |name: &'static str| {
            let caps = Caps::default();
            meaning(
                &components(name.as_bytes(), &caps).unwrap(),
                name.as_bytes(),
            )
        };
        assert_eq!(of("a/.wh.b").unwrap(), Meaning::Whiteout(b"b"));
        assert_eq!(of("a/.wh..wh..opq").unwrap(), Meaning::Opaque);
        assert_eq!(of(".wh..wh.aufs").unwrap(), Meaning::Ignored);
        assert_eq!(of("a/.whb").unwrap(), Meaning::Plain(b".whb"));
        assert_eq!(of("./").unwrap(), Meaning::Plain(b""));
        for name in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b", ".wh..wh..opq/b"] {
            assert!(of(name).is_err(), "{name}");
        }
    }
}
