//! The output of several commands, in whole lines that say whose they are.
//!
//! No command can make up another one's line: every line begins with an id, a
//! line is shown when all of it is there, and what could move the cursor or
//! begin a line is shown escaped.

use std::collections::BTreeMap;

use stacyvm::error::escape;
use stacyvm::{ExecEvent, ExecId, LogEvent};

/// A longer line is shown in parts.
const LONGEST_LINE: usize = 64 * 1024;
/// Lines that are begun at once. With one more, all are shown as they are.
const MOST_BEGUN: usize = 256;

/// A line with its prefix and its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) is_error: bool,
    pub(super) text: Vec<u8>,
}

pub(super) struct Lines {
    /// Lines without an end yet, of which there is something.
    begun: BTreeMap<(ExecId, bool), Vec<u8>>,
    /// Whether commands come one after the other: with the next one, all lines
    /// of the last have come.
    one_by_one: bool,
    last: Option<ExecId>,
}

impl Lines {
    pub(super) fn new(one_by_one: bool) -> Self {
        Self {
            begun: BTreeMap::new(),
            one_by_one,
            last: None,
        }
    }

    /// The lines that an event ends.
    pub(super) fn add(&mut self, event: LogEvent) -> Vec<Line> {
        let mut out = Vec::new();
        if self.last.as_ref() != Some(&event.exec) {
            if self.one_by_one {
                out = self.finish();
            }
            self.last = Some(event.exec.clone());
        }
        let (bytes, is_error) = match event.event {
            ExecEvent::Stdout(bytes) => (bytes, false),
            ExecEvent::Stderr(bytes) => (bytes, true),
            ExecEvent::Lost { .. } => return out,
            ExecEvent::Exited(_) => {
                for is_error in [false, true] {
                    let rest = self.begun.remove(&(event.exec.clone(), is_error));
                    out.extend(rest.map(|rest| line(&event.exec, is_error, &rest)));
                }
                return out;
            }
        };
        let key = (event.exec, is_error);
        let mut begun = self.begun.remove(&key).unwrap_or_default();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            begun.extend_from_slice(part);
            while begun.len() >= LONGEST_LINE && !begun.ends_with(b"\n") {
                let rest = begun.split_off(whole_characters(&begun[..LONGEST_LINE]));
                out.push(line(&key.0, is_error, &begun));
                begun = rest;
            }
            if begun.ends_with(b"\n") {
                out.push(line(&key.0, is_error, &begun));
                begun.clear();
            }
        }
        if !begun.is_empty() {
            if self.begun.len() >= MOST_BEGUN {
                out.extend(self.finish());
            }
            self.begun.insert(key, begun);
        }
        out
    }

    /// The lines that have no end.
    pub(super) fn finish(&mut self) -> Vec<Line> {
        let begun = std::mem::take(&mut self.begun).into_iter();
        begun
            .map(|((exec, is_error), bytes)| line(&exec, is_error, &bytes))
            .collect()
    }
}

/// How many of these bytes are no begin of a character whose rest is missing.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let missing = |at: &usize| {
        let rest = std::str::from_utf8(&bytes[*at..]);
        rest.is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (tail..bytes.len()).find(missing).unwrap_or(bytes.len())
}

/// The line of a command. `\r\n`, which terminals write, is its end as well.
fn line(exec: &ExecId, is_error: bool, bytes: &[u8]) -> Line {
    let bytes = match bytes.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    };
    let mut text = format!("{exec} | ");
    for chunk in bytes.utf8_chunks() {
        // A tab moves the cursor on and nowhere else.
        for (index, part) in chunk.valid().split('\t').enumerate() {
            if index > 0 {
                text.push('\t');
            }
            text.push_str(&escape(part));
        }
        for byte in chunk.invalid() {
            text.extend(std::ascii::escape_default(*byte).map(char::from));
        }
    }
    text.push('\n');
    Line {
        is_error,
        text: text.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(exec: &str, event: ExecEvent) -> LogEvent {
        LogEvent {
            exec: ExecId::new(exec).unwrap(),
            event,
        }
    }

    fn shown(lines: &[Line]) -> String {
        lines
            .iter()
            .map(|line| String::from_utf8(line.text.clone()).unwrap())
            .collect()
    }

    fn out(exec: &str, bytes: &[u8]) -> LogEvent {
        event(exec, ExecEvent::Stdout(bytes.to_vec().into()))
    }

    #[test]
    fn no_command_makes_up_the_line_of_another() {
        let attempts: [&[u8]; 9] = [
            b"x\nother | forged",
            b"\rother | forged",
            b"x\r\r\nother | forged",
            b"\x1b[2K\x1b[1Gother | forged",
            b"x\x0bother | forged",
            b"x\x0cother | forged\x08",
            "x\u{2028}other | forged\u{202e}".as_bytes(),
            "x\u{85}other | forged\u{9b}1G".as_bytes(),
            b"x\x9b1Gother | forged\xe2\x82",
        ];
        for attempt in attempts {
            // In every way to cut it, between two pieces of the other's line.
            for cut in 0..=attempt.len() {
                let mut lines = Lines::new(false);
                let mut all = lines.add(out("other", b"be"));
                all.extend(lines.add(out("one", &attempt[..cut])));
                all.extend(lines.add(out("other", b"gun\n")));
                all.extend(lines.add(out("one", &attempt[cut..])));
                all.extend(lines.finish());
                let text = shown(&all);
                let control = |c: char| c.is_control() && c != '\n' || c == '\u{2028}';
                assert!(!text.contains(control), "{text:?}");
                for line in text.lines() {
                    let genuine = line == "other | begun" || line.starts_with("one | ");
                    assert!(genuine, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn text_tabs_and_the_line_ends_of_terminals_stay() {
        let mut lines = Lines::new(true);
        let mut all = lines.add(out("a", "n\u{e4}\tx\r\n\n\\x\n".as_bytes()));
        all.extend(lines.add(out("b", b"next")));
        all.extend(lines.finish());
        assert_eq!(shown(&all), "a | n\u{e4}\tx\na | \na | \\x\nb | next\n");
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_each_part_says_whose_it_is() {
        let mut lines = Lines::new(false);
        let long = "\u{20ac}".repeat(50_000) + "\n";
        let mut all = Vec::new();
        for piece in long.as_bytes().chunks(1000) {
            all.extend(lines.add(out("a", piece)));
        }
        let text = shown(&all);
        assert_eq!(all.len(), 3);
        assert!(
            text.lines().all(|line| line.starts_with("a | ")),
            "{}",
            text.len()
        );
        assert_eq!(text.matches('\u{20ac}').count(), 50_000);
        assert!(!text.contains('\\'));
    }

    #[test]
    fn lines_without_an_end_are_shown_with_the_end_of_their_command_or_when_they_are_many() {
        let mut lines = Lines::new(false);
        assert_eq!(lines.add(out("a", b"rest")), []);
        let end = stacyvm::ExitStatus::Code { code: 0 };
        let ended = lines.add(event("a", ExecEvent::Exited(end)));
        assert_eq!(shown(&ended), "a | rest\n");
        for n in 0..MOST_BEGUN {
            assert_eq!(lines.add(out(&format!("c{n}"), b"x")), []);
        }
        assert_eq!(lines.add(out("more", b"x")).len(), MOST_BEGUN);
        assert_eq!(shown(&lines.finish()), "more | x\n");
    }
}
