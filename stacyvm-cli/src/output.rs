//! What people and programs read: tables, JSON, errors.

use std::io::Write;

use serde::Serialize;
use serde_json::{Map, Value};
use stacyvm::Error;

/// Writes a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// Writes a value as one line of JSON.
pub(crate) fn json_line(value: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

/// Adds bytes to an object under `name`: as text where they are UTF-8, else in
/// base64. `{name}_encoding` says which: `utf-8` or `base64`.
pub(crate) fn bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    let (text, encoding) = match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (base64(bytes), "base64"),
    };
    object.insert(name.to_owned(), text.into());
    object.insert(format!("{name}_encoding"), encoding.into());
}

/// Standard base64, with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place > group.len() {
                '='
            } else {
                letter.into()
            });
        }
    }
    out
}

/// Writes a line.
pub(crate) fn line(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")
}

/// Writes rows in aligned columns under a heading. Cells come from sandboxes
/// and labels, so control characters are shown escaped, and long ones are cut.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    const WIDEST: usize = 60;
    let text = render(heading, rows, WIDEST);
    std::io::stdout().lock().write_all(text.as_bytes())
}

/// The same with every cell whole, for whoever reads on with a program.
pub(crate) fn whole_table(heading: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    let text = render(heading, rows, usize::MAX);
    std::io::stdout().lock().write_all(text.as_bytes())
}

fn render(heading: &[&str], rows: &[Vec<String>], widest: usize) -> String {
    let clean = |cell: &str| {
        let text = stacyvm::error::escape(cell);
        if text.chars().count() <= widest {
            return text;
        }
        let cut: String = text.chars().take(widest - 1).collect();
        cut + "…"
    };
    let rows: Vec<Vec<String>> = std::iter::once(heading.iter().map(|h| (*h).to_owned()).collect())
        .chain(
            rows.iter()
                .map(|row| row.iter().map(|cell| clean(cell)).collect()),
        )
        .collect();
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            rows.iter()
                .filter_map(|r| r.get(column))
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// Writes a value as one line of JSON on standard error.
pub(crate) fn json_aside(value: &Value) {
    // Nobody is left to tell that standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{value}");
}

/// Writes an error on standard error.
pub(crate) fn error(error: &Error, as_json: bool) {
    let mut err = std::io::stderr().lock();
    // Nobody is left to tell that standard error is closed.
    let _ = if as_json {
        writeln!(err, "{}", error_json(error))
    } else {
        writeln!(err, "{}", error_text(error))
    };
}

/// Writes a remark on standard error.
pub(crate) fn remark(text: &str) {
    // As above.
    let _ = writeln!(std::io::stderr().lock(), "stacyvm: {text}");
}

/// The error, and below it the facts that its message does not tell.
fn error_text(error: &Error) -> String {
    let message = error.to_string();
    let mut text = format!("stacyvm: {message}");
    for (key, value) in error.facts() {
        if !value.is_empty() && !says(&message, value) {
            for part in ["\n  ", *key, ": ", value.as_str()] {
                text.push_str(part);
            }
        }
    }
    text
}

/// Whether a text has these words as they are, and not as a part of others.
fn says(text: &str, words: &str) -> bool {
    let goes_on = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || "_-./".contains(c));
    text.match_indices(words).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + words.len()..]);
        !goes_on(before.chars().next_back()) && !goes_on(after.chars().next())
    })
}

fn error_json(error: &Error) -> serde_json::Value {
    let context: serde_json::Map<String, serde_json::Value> = error
        .facts()
        .iter()
        .map(|(k, v)| ((*k).to_owned(), v.clone().into()))
        .collect();
    serde_json::json!({
        "error": {
            "code": error.kind().code(),
            "message": error.to_string(),
            "operation": error.failed_operation(),
            "provider": error.failed_provider(),
            "context": context,
        }
    })
}

#[cfg(test)]
mod tests {
    use stacyvm::ErrorKind;

    use super::*;

    #[test]
    fn guest_text_cannot_drive_the_terminal_or_add_a_row() {
        let rows = vec![vec!["id".into(), "x\x1b]0;evil\x07\ny\u{9b}31m".into()]];
        let text = render(&["ID", "COMMAND"], &rows, 60);
        assert_eq!(text.lines().count(), 2);
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        let table = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in table {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    #[test]
    fn bytes_that_are_no_text_are_not_replaced() {
        let mut object = Map::new();
        bytes(&mut object, "a", "\u{e9}".as_bytes());
        bytes(&mut object, "b", b"\xe9");
        let expected = serde_json::json!({
            "a": "\u{e9}", "a_encoding": "utf-8", "b": "6Q==", "b_encoding": "base64",
        });
        assert_eq!(Value::Object(object), expected);
    }

    #[test]
    fn facts_that_the_message_does_not_tell_are_below_it() {
        let error = Error::new(
            ErrorKind::NotFound,
            "the file /tmp/app is not there: app, 5 s",
        )
        .context("image", "a")
        .context("name", "app")
        .context("path", "/tmp/ap")
        .context("directory", "tmp")
        .context("file", "/tmp/app")
        .context("seconds", 5)
        .context("empty", "");
        let text = error_text(&error);
        let below: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
        assert_eq!(below, ["image: a", "path: /tmp/ap", "directory: tmp"]);
    }

    #[test]
    fn an_error_in_json_has_its_code_and_context() {
        let value = error_json(&Error::invalid(
            "memory_mib",
            0,
            "4 or more",
            "ask for more",
        ));
        assert_eq!(value["error"]["code"], "invalid_argument");
        assert_eq!(value["error"]["context"]["field"], "memory_mib");
    }
}
