//! What an attack says, read as what it is: hostile.

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result, escape};
use crate::sandbox::exec::ExitStatus;

/// The most that is read of an attack's output.
pub(super) const MOST: usize = 4096;

/// What an attack says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AttackVerdict {
    /// It got what it should not get.
    Fired,
    /// It was kept out.
    Silent,
    /// It could not be tried.
    Unable,
}

/// One line of an attack.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The attack.
    pub attack: String,
    /// How it went.
    pub verdict: AttackVerdict,
    /// The error that kept it out; 0 where there was none.
    pub errno: i32,
    /// What it saw; hostile.
    pub evidence: String,
}

/// How an attack ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What it said; nothing where it was ended before.
    pub answer: Option<Answer>,
    /// How it ended.
    pub status: ExitStatus,
}

impl Attempt {
    /// Reads what an attack wrote.
    ///
    /// # Errors
    ///
    /// `protocol` for anything but one line about this attack and a good end, or
    /// no line and an end by the kernel.
    pub fn parse(attack: &str, status: ExitStatus, stdout: &[u8]) -> Result<Self> {
        let lies = |what: &str| {
            Error::new(
                ErrorKind::Protocol,
                format!("the attack's answer is none: {what}"),
            )
            .context("attack", attack)
            .context("status", status)
        };
        if stdout.is_empty() {
            return match status {
                ExitStatus::Signal { .. } | ExitStatus::OutOfMemory => Ok(Self {
                    answer: None,
                    status,
                }),
                _ => Err(lies("it says nothing")),
            };
        }
        if stdout.len() > MOST {
            return Err(lies("it is too long"));
        }
        let line = stdout
            .strip_suffix(b"\n")
            .ok_or_else(|| lies("it is no line"))?;
        let answer: Answer =
            serde_json::from_slice(line).map_err(|error| lies(&escape(&error.to_string())))?;
        if answer.attack != attack {
            return Err(lies("it is about another attack"));
        }
        if !status.success() {
            return Err(lies("it ended badly"));
        }
        Ok(Self {
            answer: Some(answer),
            status,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: ExitStatus = ExitStatus::Code { code: 0 };
    const GOOD: &[u8] =
        b"{\"attack\":\"a.b\",\"verdict\":\"silent\",\"errno\":1,\"evidence\":\"\"}\n";

    #[test]
    fn only_one_line_about_this_attack_is_an_answer() {
        let attempt = Attempt::parse("a.b", END, GOOD).unwrap();
        assert_eq!(attempt.answer.unwrap().errno, 1);
        let long = [
            b"{\"attack\":\"a.b\",\"evidence\":\"".as_slice(),
            &[b'x'; MOST],
        ]
        .concat();
        let refused: [(&str, ExitStatus, Vec<u8>); 8] = [
            ("another", END, GOOD.to_vec()),
            ("a.b", ExitStatus::Code { code: 1 }, GOOD.to_vec()),
            ("a.b", END, Vec::new()),
            ("a.b", END, GOOD.trim_ascii_end().to_vec()),
            ("a.b", END, [GOOD, GOOD].concat()),
            ("a.b", END, b"\xff\n".to_vec()),
            (
                "a.b",
                END,
                GOOD.to_vec().replace_first(b"silent", b"sileny"),
            ),
            ("a.b", END, long),
        ];
        for (attack, status, bytes) in refused {
            let error = Attempt::parse(attack, status, &bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{bytes:?}");
        }
    }

    #[test]
    fn what_the_kernel_ended_says_nothing() {
        let ended = Attempt::parse("a.b", ExitStatus::OutOfMemory, b"").unwrap();
        assert_eq!(ended.answer, None);
    }

    trait Replace {
        fn replace_first(self, from: &[u8], to: &[u8]) -> Self;
    }

    impl Replace for Vec<u8> {
        fn replace_first(mut self, from: &[u8], to: &[u8]) -> Self {
            let at = self
                .windows(from.len())
                .position(|part| part == from)
                .unwrap();
            self.splice(at..at + from.len(), to.iter().copied());
            self
        }
    }
}
