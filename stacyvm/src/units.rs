//! Durations and sizes as people write them.

use std::time::Duration;

use crate::error::{Error, Result};

/// The longest duration that is accepted anywhere: a hundred years.
pub(crate) const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// Reads a duration: a number with a unit (`ms`, `s`, `m`, `h`, `d`), or
/// several in falling order (`1h30m`). `0` alone needs no unit.
///
/// # Errors
///
/// `invalid_argument` naming `field`.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(stacyvm::units::parse_duration("ttl", "1m30s").unwrap(), Duration::from_secs(90));
/// assert!(stacyvm::units::parse_duration("ttl", "-5s").is_err());
/// ```
pub fn parse_duration(field: &str, text: &str) -> Result<Duration> {
    let bad = || {
        Error::invalid(
            field,
            text,
            "a duration such as 500ms, 30s, 5m, 2h or 1h30m, of at most 100 years",
            "write a whole number and a unit",
        )
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_lowercase())
                .len();
        let unit_ms: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        if unit_ms >= smallest {
            return Err(bad());
        }
        smallest = unit_ms;
        rest = &rest[letters..];
        let ms = number.checked_mul(unit_ms).ok_or_else(bad)?;
        total = total
            .checked_add(Duration::from_millis(ms))
            .ok_or_else(bad)?;
    }
    if smallest == u64::MAX || total > LONGEST {
        return Err(bad());
    }
    Ok(total)
}

/// Writes a duration so that [`parse_duration`] reads it back to the millisecond.
pub fn format_duration(duration: Duration) -> String {
    let mut ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ] {
        if ms >= size {
            out += &(ms / size).to_string();
            out += unit;
            ms %= size;
        }
    }
    out
}

/// Reads an amount of memory or disk as mebibytes: a whole number of MiB, or
/// with a unit (`512m`, `512MiB`, `2g`, `2GiB`).
///
/// # Errors
///
/// `invalid_argument` naming `field`.
pub fn parse_mib(field: &str, text: &str) -> Result<u64> {
    let bad = || {
        Error::invalid(
            field,
            text,
            "an amount such as 512m, 512MiB or 2g",
            "write a whole number of MiB, or add the unit m or g",
        )
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let factor = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "m" | "mib" => 1,
        "g" | "gib" => 1024,
        "t" | "tib" => 1024 * 1024,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

/// Serde of `Option<Duration>` as text; numbers are read as seconds.
pub(crate) mod serde_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => serializer.serialize_str(&super::format_duration(*duration)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Seconds(u64),
            Text(String),
        }
        match Option::<Written>::deserialize(deserializer)? {
            None => Ok(None),
            Some(Written::Seconds(seconds)) => Ok(Some(Duration::from_secs(seconds))),
            Some(Written::Text(text)) => super::parse_duration("duration", &text)
                .map(Some)
                .map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_the_round_trip() {
        for text in ["500ms", "30s", "1h30m", "2d", "1d2h3m4s5ms"] {
            let duration = parse_duration("x", text).unwrap();
            assert_eq!(format_duration(duration), text);
        }
    }

    #[test]
    fn bad_durations_and_sizes_are_refused() {
        for text in [
            "",
            "5",
            "-1s",
            "1.5s",
            "s",
            "1s1h",
            "1s1s",
            "1 s",
            "99999999999999999999s",
            "1000000d",
        ] {
            assert!(parse_duration("ttl", text).is_err(), "{text:?}");
        }
        for text in ["", "m", "-1", "1.5g", "1k", "99999999999999999999"] {
            assert!(parse_mib("memory", text).is_err(), "{text:?}");
        }
        assert_eq!(parse_mib("memory", "2GiB").unwrap(), 2048);
    }
}
