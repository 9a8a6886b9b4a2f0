//! Faults by seed: what goes wrong, when, and the log that shows it.

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::provider::OperationKind;
use crate::sandbox::exec::{ExecEvent, ExitStatus};

/// What goes wrong in a mock. The same plan and the same calls give the same
/// faults and the same [`super::Mock::log`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultPlan {
    /// Decides the rules that go by chance.
    pub seed: u64,
    /// Every rule that matches a call takes effect.
    pub rules: Vec<FaultRule>,
}

impl FaultPlan {
    /// A plan without rules.
    pub fn seed(seed: u64) -> Self {
        Self {
            seed,
            rules: Vec::new(),
        }
    }

    /// Adds a rule for one operation.
    pub fn rule(mut self, operation: OperationKind, when: When, fault: Fault) -> Self {
        self.rules.push(FaultRule {
            operation: Some(operation),
            when,
            fault,
        });
        self
    }

    /// Adds a rule for every operation.
    pub fn any(mut self, when: When, fault: Fault) -> Self {
        self.rules.push(FaultRule {
            operation: None,
            when,
            fault,
        });
        self
    }

    /// What goes wrong in the `nth` call (from 1) of an operation.
    pub(super) fn decide(&self, operation: OperationKind, nth: u64) -> Decided {
        let mut decided = Decided::default();
        for (index, rule) in self.rules.iter().enumerate() {
            let matches = rule.operation.is_none_or(|wanted| wanted == operation);
            if !matches || !rule.when.holds(self.seed, index as u64, operation, nth) {
                continue;
            }
            decided.names.push(rule.fault.name());
            match rule.fault {
                Fault::Delay(duration) => decided.delay += duration,
                Fault::FailBefore(kind) => decided.before = Some(kind),
                Fault::FailAfter(kind) => decided.after = Some(kind),
                Fault::Truncate { bytes } => decided.output.truncate = Some(bytes),
                Fault::LoseConnection { after_bytes } => decided.output.lose = Some(after_bytes),
                Fault::WrongExit { code } => decided.output.code = Some(code),
                Fault::SwapStreams => decided.output.swap = true,
            }
        }
        decided
    }
}

/// One way in which something goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRule {
    /// The operation; every one if none.
    pub operation: Option<OperationKind>,
    /// Which of its calls.
    pub when: When,
    /// What happens.
    pub fault: Fault,
}

/// Which calls of an operation a rule means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// Every one.
    Always,
    /// The nth, from 1.
    Nth(u64),
    /// Each with this probability, 0 to 1, by the seed.
    Chance(f64),
}

impl When {
    fn holds(self, seed: u64, rule: u64, operation: OperationKind, nth: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Nth(wanted) => wanted == nth,
            Self::Chance(chance) => {
                // By position and not in the order of a running generator, so
                // that calls at once cannot change each other's luck.
                let mut mixed = seed;
                for part in [rule, operation as u64, nth] {
                    mixed = mix(mixed ^ mix(part));
                }
                let share = u32::try_from(mixed >> 32).unwrap_or(u32::MAX);
                f64::from(share) / (f64::from(u32::MAX) + 1.0) < chance
            }
        }
    }
}

/// SplitMix64.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The call takes longer, on tokio's clock.
    Delay(Duration),
    /// The call fails and has done nothing.
    FailBefore(ErrorKind),
    /// The call fails and has done everything.
    FailAfter(ErrorKind),
    /// The output of a command, or a file that is read, stops after so many
    /// bytes, and nothing says so. A lie.
    Truncate {
        /// Bytes that still arrive.
        bytes: u64,
    },
    /// The stream of a command or file breaks off after so many bytes.
    LoseConnection {
        /// Bytes that still arrive.
        after_bytes: u64,
    },
    /// A command that exits seems to exit with this code. A lie.
    WrongExit {
        /// The code.
        code: i32,
    },
    /// Standard output and standard error of a command are swapped. A lie.
    SwapStreams,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Delay(_) => "delay",
            Self::FailBefore(_) => "fail_before",
            Self::FailAfter(_) => "fail_after",
            Self::Truncate { .. } => "truncate",
            Self::LoseConnection { .. } => "lose_connection",
            Self::WrongExit { .. } => "wrong_exit",
            Self::SwapStreams => "swap_streams",
        }
    }
}

/// What was decided for one call.
#[derive(Clone, Debug, Default)]
pub(super) struct Decided {
    pub(super) delay: Duration,
    pub(super) before: Option<ErrorKind>,
    pub(super) after: Option<ErrorKind>,
    pub(super) output: OutputFault,
    pub(super) names: Vec<&'static str>,
}

pub(super) fn injected(kind: ErrorKind) -> Error {
    Error::new(kind, "the fault plan of the mock wants this call to fail")
}

/// What goes wrong in a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct OutputFault {
    truncate: Option<u64>,
    lose: Option<u64>,
    code: Option<i32>,
    swap: bool,
}

impl OutputFault {
    /// Whether the connection is lost by now.
    pub(super) fn is_lost(&self) -> bool {
        self.lose == Some(0)
    }

    /// Changes an event; `None` swallows it.
    pub(super) fn apply(&mut self, event: ExecEvent) -> Option<ExecEvent> {
        let event = match event {
            ExecEvent::Stdout(bytes) if self.swap => ExecEvent::Stderr(bytes),
            ExecEvent::Stderr(bytes) if self.swap => ExecEvent::Stdout(bytes),
            other => other,
        };
        match event {
            ExecEvent::Stdout(bytes) => self.cut(bytes, ExecEvent::Stdout),
            ExecEvent::Stderr(bytes) => self.cut(bytes, ExecEvent::Stderr),
            ExecEvent::Exited(ExitStatus::Code { code }) => {
                Some(ExecEvent::Exited(match self.lose {
                    Some(_) => ExitStatus::SandboxGone,
                    None => ExitStatus::Code {
                        code: self.code.unwrap_or(code),
                    },
                }))
            }
            other => Some(other),
        }
    }

    fn cut(
        &mut self,
        mut bytes: bytes::Bytes,
        event: impl Fn(bytes::Bytes) -> ExecEvent,
    ) -> Option<ExecEvent> {
        self.take_lose(&mut bytes);
        self.take_truncate(&mut bytes);
        (!bytes.is_empty()).then(|| event(bytes))
    }

    /// Shortens a piece to what still arrives before the connection is lost.
    pub(super) fn take_lose(&mut self, bytes: &mut bytes::Bytes) -> Option<u64> {
        shorten(&mut self.lose, bytes)
    }

    /// Shortens a piece to what still arrives before the stream is cut off.
    pub(super) fn take_truncate(&mut self, bytes: &mut bytes::Bytes) -> Option<u64> {
        shorten(&mut self.truncate, bytes)
    }
}

fn shorten(budget: &mut Option<u64>, bytes: &mut bytes::Bytes) -> Option<u64> {
    let left = budget.as_mut()?;
    bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= bytes.len() as u64;
    Some(*left)
}

/// One call of a mock, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The operation.
    pub operation: &'static str,
    /// The sandbox, by the order of creation, from 1: ids are random and two
    /// runs could not be compared by them.
    pub sandbox: Option<u64>,
    /// What the plan made go wrong.
    pub faults: Vec<&'static str>,
    /// `ok`, or the code of the error.
    pub outcome: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_and_another_decides_otherwise() {
        let draw = |seed| -> Vec<bool> {
            (1..200)
                .map(|nth| When::Chance(0.5).holds(seed, 0, OperationKind::Exec, nth))
                .collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let hits = draw(7).iter().filter(|hit| **hit).count();
        assert!((60..140).contains(&hits), "{hits}");
        assert!(!When::Chance(0.0).holds(1, 0, OperationKind::Exec, 1));
        assert!(When::Chance(1.0).holds(1, 0, OperationKind::Exec, 1));
    }
}
