//! Values that may be nowhere, and looking for them in whatever was written.

#![allow(unreachable_pub, reason = "a module of tests")]

use std::fs;
use std::path::Path;

/// A value that is a secret, by the place it was put in.
pub struct Canary {
    pub place: &'static str,
    pub value: String,
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Canary {
    /// A value like no other, with characters that the encodings change.
    pub fn new(place: &'static str) -> Self {
        let random = stacyvm::SandboxId::random();
        let value = format!("K\"7/+{}é&{random}", random.as_str().to_uppercase());
        Self {
            forms: forms(value.as_bytes()),
            value,
            place,
        }
    }

    /// The same with a value that somebody else made.
    pub fn with(self, value: String) -> Self {
        Self {
            forms: forms(value.as_bytes()),
            value,
            ..self
        }
    }

    /// The encodings in which it is in these bytes.
    pub fn found_in(&self, bytes: &[u8]) -> Vec<&'static str> {
        let forms = self.forms.iter();
        forms
            .filter(|(_, form)| contains(bytes, form))
            .map(|(name, _)| *name)
            .collect()
    }
}

fn hex_of(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15];
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(digits).map(digit).collect()
}

/// Six encodings: as it is, base64 (both alphabets, wherever it begins), hex
/// (both cases), percent, JSON, and UTF-16.
fn forms(value: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8(value.to_vec()).unwrap();
    let hex = hex_of(value);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let percent: String = value
        .iter()
        .map(|byte| {
            if plain(*byte) {
                char::from(*byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect();
    let json = serde_json::to_string(&text).unwrap();
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut forms = vec![
        ("as it is", value.to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("hex", hex.to_uppercase().into_bytes()),
        ("percent", percent.into_bytes()),
        ("JSON", json.trim_matches('"').into()),
        ("UTF-16", wide),
    ];
    for skipped in 0..3 {
        let form = base64(value, skipped);
        forms.push((
            "base64",
            form.replace('+', "-").replace('/', "_").into_bytes(),
        ));
        forms.push(("base64", form.into_bytes()));
    }
    forms
}

/// The characters that stand for these bytes alone, where so many come before.
fn base64(bytes: &[u8], before: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let all = [&vec![0; before][..], bytes].concat();
    let bit = |at: usize| (all[at / 8] >> (7 - at % 8)) & 1;
    let sextets = all.len() * 8 / 6;
    let first = (before * 8).div_ceil(6);
    let sextet = |at: usize| (0..6).fold(0, |n, i| n << 1 | bit(at * 6 + i));
    (first..sextets)
        .map(|at| char::from(ALPHABET[usize::from(sextet(at))]))
        .collect()
}

/// Whether the bytes hold these, by the distance that the last byte allows.
fn contains(bytes: &[u8], what: &[u8]) -> bool {
    let mut step = [what.len(); 256];
    for (at, byte) in what[..what.len() - 1].iter().enumerate() {
        step[usize::from(*byte)] = what.len() - 1 - at;
    }
    let mut at = 0;
    while let Some(window) = bytes.get(at..at + what.len()) {
        if window == what {
            return true;
        }
        at += step[usize::from(window[what.len() - 1])];
    }
    false
}

/// Every file below a directory, except below what is left out.
pub fn files_below(path: &Path, left_out: &[&Path], each: &mut dyn FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if left_out.contains(&path.as_path()) {
            continue;
        }
        if kind.is_dir() {
            files_below(&path, left_out, each);
        } else if kind.is_file()
            && let Ok(bytes) = fs::read(&path)
        {
            each(&path, &bytes);
        }
    }
}

#[test]
fn a_canary_is_found_in_every_encoding() {
    let canary = Canary::new("a test");
    let text = canary.value.as_bytes();
    let hex = hex_of(text).to_uppercase();
    assert_eq!(canary.found_in(&[b"xx", text, b"y"].concat()), ["as it is"]);
    assert_eq!(canary.found_in(format!("a{hex}b").as_bytes()), ["hex"]);
    let json = serde_json::to_string(&[&canary.value]).unwrap();
    assert_eq!(canary.found_in(json.as_bytes()), ["JSON"]);
    // As `base64` of coreutils has it, from any place on.
    assert_eq!(base64(b"stacyvm", 0), "c3RhY3l2b");
    assert_eq!(base64(b"stacyvm", 1), "N0YWN5dm");
    assert_eq!(base64(b"stacyvm", 2), "zdGFjeXZt");
    assert_eq!(canary.found_in(b"nothing of it"), [""; 0]);
}
