//! Durations and sizes as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::to_ms;
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

/// Reads a moment: a duration before `now`, or a time as RFC 3339 has it
/// (`2026-01-31T12:00:00Z`, with an offset such as `+01:00` instead of `Z`).
///
/// # Errors
///
/// `invalid_argument` naming `field`.
///
/// ```
/// use std::time::{Duration, SystemTime, UNIX_EPOCH};
/// let now = SystemTime::now();
/// let parse = |text| stacyvm::units::parse_moment("since", text, now);
/// assert_eq!(parse("90s").unwrap(), now - Duration::from_secs(90));
/// assert_eq!(parse("1970-01-02T01:00:00+01:00").unwrap(), UNIX_EPOCH + Duration::from_secs(86_400));
/// ```
pub fn parse_moment(field: &str, text: &str, now: SystemTime) -> Result<SystemTime> {
    let moment = match parse_duration(field, text) {
        Ok(ago) => now.checked_sub(ago),
        Err(_) => parse_time(text),
    };
    moment.ok_or_else(|| {
        Error::invalid(
            field,
            text,
            "how long ago, such as 30s or 1h30m, or a time such as 2026-01-31T12:00:00Z",
            "write a duration with its unit, or date, time and Z",
        )
    })
}

/// Writes a time as RFC 3339 has it, in UTC and to the millisecond.
pub(crate) fn format_time(time: SystemTime) -> String {
    let ms = to_ms(time);
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    // The Gregorian calendar repeats every 400 years; years begin in March.
    let shifted = days + 719_468;
    let (era, in_era) = (shifted / 146_097, shifted % 146_097);
    let of_era = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * of_era + of_era / 4 - of_era / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    let year = era * 400 + of_era + u64::from(month <= 2);
    let (hours, minutes) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (seconds, rest) = (in_day / 1_000 % 60, in_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{rest:03}Z")
}

/// A time since 1970 as RFC 3339 has it.
pub(crate) fn parse_time(text: &str) -> Option<SystemTime> {
    let number = |text: &str, digits: usize, most: u64| {
        let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok())?.filter(|n| *n <= most)
    };
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-');
    let year = number(date.next()?, 4, 9999)?;
    let month = number(date.next()?, 2, 12)?;
    let day = number(date.next()?, 2, 31)?;
    let (clock, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => time.split_at(at),
        None => return None,
    };
    let offset: i64 = if matches!(offset, "Z" | "z") {
        0
    } else {
        let (hours, minutes) = offset.get(1..)?.split_once(':')?;
        let seconds = number(hours, 2, 23)? * 3_600 + number(minutes, 2, 59)? * 60;
        let seconds = i64::try_from(seconds).ok()?;
        if offset.starts_with('-') {
            -seconds
        } else {
            seconds
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.splitn(3, ':');
    let hours = number(clock.next()?, 2, 23)?;
    let minutes = number(clock.next()?, 2, 59)?;
    let seconds = number(clock.next()?, 2, 60)?;
    let nanoseconds = number(fraction, fraction.len().clamp(1, 9), 999_999_999)?;
    let nanoseconds = nanoseconds * 10_u64.pow(u32::try_from(9 - fraction.len()).ok()?);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let lengths = [
        31,
        if leap(year) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let before = usize::try_from(month.checked_sub(1)?).ok()?;
    if year < 1970 || day == 0 || day > *lengths.get(before)? {
        return None;
    }
    let years: u64 = (1970..year)
        .map(|year| if leap(year) { 366 } else { 365 })
        .sum();
    let days = years + lengths[..before].iter().sum::<u64>() + day - 1;
    let local = days * 86_400 + hours * 3_600 + minutes * 60 + seconds;
    let seconds = u64::try_from(i64::try_from(local).ok()? - offset).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
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
    fn times_survive_the_round_trip() {
        let day = Duration::from_hours(24);
        for count in (0..60_000)
            .step_by(13)
            .chain([19_416, 19_417, 11_016, 47_540])
        {
            let time = UNIX_EPOCH + day * count + Duration::from_millis(u64::from(count) * 997);
            assert_eq!(parse_time(&format_time(time)), Some(time), "{count}");
        }
        let time = UNIX_EPOCH + Duration::from_millis(951_782_400_007);
        assert_eq!(format_time(time), "2000-02-29T00:00:00.007Z");
    }

    #[test]
    fn moments_are_durations_ago_or_times() {
        let now = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let parse = |text| parse_moment("since", text, now);
        let at =
            |seconds, ms| UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(ms);
        for (text, moment) in [
            ("0", now),
            ("1m", at(1_999_999_940, 0)),
            ("2000-02-29T23:59:59Z", at(951_868_799, 0)),
            ("2026-11-26T08:11:12.5Z", at(1_795_680_672, 500)),
            ("2026-11-26 09:11:12+01:00", at(1_795_680_672, 0)),
            ("2026-11-25t23:11:12-09:00", at(1_795_680_672, 0)),
        ] {
            assert_eq!(parse(text).unwrap(), moment, "{text}");
        }
        for text in [
            "",
            "soon",
            "-5s",
            "2026-11-26",
            "2026-11-26T08:11:12",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567890Z",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00+1:00",
            "1969-12-31T23:59:59Z",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.fact("field"), Some("since"), "{text}");
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
