//! Shell patterns for one path component.

/// Whether a component has anything but literal characters.
pub(super) fn is_magic(component: &[u8]) -> bool {
    component
        .iter()
        .any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// Whether the name matches. A dot at its beginning must be written out.
///
/// The time is at most the product of both lengths, whatever the pattern.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && !(pattern.starts_with(b".") || pattern.starts_with(b"\\.")) {
        return false;
    }
    let (mut p, mut n) = (0, 0);
    // Where to go on after the last star: it takes one character more.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            star = Some((p, n));
            continue;
        }
        if n == name.len() {
            if p == pattern.len() {
                return true;
            }
        } else if let Some(step) = step(&pattern[p..], &name[n..]) {
            p += step;
            n += character(&name[n..]).1;
            continue;
        }
        match star {
            Some((after, from)) if from < name.len() => {
                let from = from + character(&name[from..]).1;
                star = Some((after, from));
                (p, n) = (after, from);
            }
            _ => return false,
        }
    }
}

/// Bytes of the pattern that match the first character of the name.
fn step(pattern: &[u8], name: &[u8]) -> Option<usize> {
    let (wanted, _) = character(name);
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => match bracket(pattern, wanted) {
            Some((true, length)) => Some(length),
            Some((false, _)) => None,
            None => (wanted == u32::from(b'[')).then_some(1),
        },
        b'\\' if pattern.len() > 1 => {
            let (literal, length) = character(&pattern[1..]);
            (literal == wanted).then_some(1 + length)
        }
        _ => {
            let (literal, length) = character(pattern);
            (literal == wanted).then_some(length)
        }
    }
}

/// Whether a bracket expression has the character, and its length; `None`
/// where the bracket is never closed and so stands for itself.
fn bracket(pattern: &[u8], wanted: u32) -> Option<(bool, usize)> {
    let mut at = 1;
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        if *pattern.get(at)? == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        let low = bracket_character(pattern, &mut at)?;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') && !matches!(pattern.get(at + 1), Some(b']') | None) {
            at += 1;
            high = bracket_character(pattern, &mut at)?;
        }
        found |= (low..=high).contains(&wanted);
    }
}

fn bracket_character(pattern: &[u8], at: &mut usize) -> Option<u32> {
    if pattern.get(*at) == Some(&b'\\') && pattern.len() > *at + 1 {
        *at += 1;
    }
    let (value, length) = character(pattern.get(*at..).filter(|rest| !rest.is_empty())?);
    *at += length;
    Some(value)
}

/// The first character and its length; a byte that is not UTF-8 is one
/// character beyond all others.
fn character(bytes: &[u8]) -> (u32, usize) {
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    match (valid.chars().next(), bytes.first()) {
        (Some(c), _) => (u32::from(c), c.len_utf8()),
        (None, Some(byte)) => (0x11_0000 + u32::from(*byte), 1),
        (None, None) => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, yes, no) in [
            ("*", vec!["a", "ab"], vec![".a"]),
            ("a*c", vec!["ac", "abc", "abcc"], vec!["ab", "bac", "acd"]),
            ("*.rs", vec!["a.rs", "a.b.rs"], vec![".rs", "rs", "a.rsx"]),
            (".*", vec![".", ".a"], vec!["a"]),
            ("\\.*", vec![".a"], vec!["a"]),
            ("?", vec!["a", "ä", "€", "𝄞"], vec!["", "ab", "."]),
            ("[a-c]x", vec!["ax", "cx"], vec!["dx", "x", "-x"]),
            ("[!a-c]", vec!["d", "ä"], vec!["a", "b", ""]),
            ("[^a]", vec!["b"], vec!["a"]),
            ("[]a]", vec!["]", "a"], vec!["b"]),
            ("[!]a]", vec!["b"], vec!["]", "a"]),
            ("[a-]", vec!["a", "-"], vec!["b"]),
            ("[ä-ü]", vec!["ö"], vec!["a", "z"]),
            ("[a", vec!["[a"], vec!["a"]),
            ("[", vec!["["], vec![""]),
            ("a[]", vec!["a[]"], vec!["a"]),
            ("[z-a]", vec![], vec!["a", "m", "z"]),
            ("\\*", vec!["*"], vec!["a", "\\*"]),
            ("a\\", vec!["a\\"], vec!["a"]),
            ("[\\]]", vec!["]"], vec!["\\"]),
            ("a**b", vec!["ab", "axxb"], vec!["a"]),
            ("", vec![""], vec!["a"]),
            ("[!.]a", vec!["xa"], vec![".a"]),
        ] {
            for name in yes {
                assert!(
                    matches(pattern.as_bytes(), name.as_bytes()),
                    "{pattern} {name}"
                );
            }
            for name in no {
                assert!(
                    !matches(pattern.as_bytes(), name.as_bytes()),
                    "{pattern} {name}"
                );
            }
        }
        assert!(matches(b"?\xff*", b"\xfe\xff\xfd"));
        assert!(!matches(b"\xff", b"\xfe"));
    }

    #[test]
    fn no_pattern_takes_exponential_time() {
        let pattern = b"*a".repeat(100);
        assert!(!matches(&pattern, &[&b"a".repeat(250)[..], b"b"].concat()));
    }
}
