//! The records of extended headers: `length key=value\n`.

/// One record.
pub(super) type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of an extended header; `None` where it is malformed.
pub(super) fn records(mut bytes: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return None;
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=')?;
        if equals == 0 {
            return None;
        }
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Some(records)
}

/// A decimal number without sign.
pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// A time in seconds, as `-12.345`: whole seconds rounded down, nanoseconds.
pub(super) fn time(bytes: &[u8]) -> Option<(i64, u32)> {
    let (negative, bytes) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let point = bytes.iter().position(|byte| *byte == b'.');
    let whole = &bytes[..point.unwrap_or(bytes.len())];
    let fraction = point.map_or(&b""[..], |point| &bytes[point + 1..]);
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let mut nanoseconds = 0_u32;
    for place in 0..9 {
        let digit = fraction.get(place).map_or(0, |digit| digit - b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

/// Adds a record. Its length counts its own digits.
pub(super) fn push(to: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(format!("{length} {key}=").as_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_every_length_come_back() {
        for length in (0..130).chain(980..1010).chain(9980..10_010) {
            let value = vec![b'\n'; length];
            let mut bytes = Vec::new();
            push(&mut bytes, "path", &value);
            push(&mut bytes, "mtime", b"1");
            assert_eq!(
                records(&bytes),
                Some(vec![(&b"path"[..], &value[..]), (&b"mtime"[..], &b"1"[..])])
            );
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            "a",
            " ",
            "5",
            "5 a=\n1",
            "6 a=b",
            "0 a=b\n",
            "2 \n",
            "3 =\n",
            "5 =b\n",
            "6  a\n",
            "-6 a=b\n",
            "+6 a=b\n",
            "99 a=b\n",
            "6 a=bx",
            "6 abc\n",
            "18446744073709551616 a=b\n",
            "000000000000000000006 a=b\n",
        ] {
            assert_eq!(records(bytes.as_bytes()), None, "{bytes:?}");
        }
    }

    #[test]
    fn times_round_down() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-1"), Some((-1, 0)));
        for bytes in [
            "",
            "-",
            ".5",
            "1.x",
            "1 ",
            "--1",
            "1e5",
            "9223372036854775808",
        ] {
            assert_eq!(time(bytes.as_bytes()), None, "{bytes}");
        }
    }
}
