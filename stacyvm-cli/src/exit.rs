//! Exit codes: the command's own where there is one, else what shells use.

use std::process::ExitCode;

use stacyvm::{Error, ErrorKind, ExitStatus};

/// A probe fired.
pub(crate) const FIRED: u8 = 1;
/// Probes were silent, and some of it proves nothing.
pub(crate) const UNPROVED: u8 = 4;
/// `leaks` found something.
pub(crate) const LEAKS: u8 = 3;
/// The command timed out.
pub(crate) const TIMED_OUT: u8 = 124;
/// stacyvm failed, or its arguments were wrong.
pub(crate) const FAILED: u8 = 125;
/// The command exists inside but cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The command does not exist inside.
pub(crate) const NOT_FOUND: u8 = 127;
/// Standard output was closed by its reader (128 + SIGPIPE).
pub(crate) const PIPE_CLOSED: u8 = 141;

/// The code of a command's end.
pub(crate) fn of_status(status: ExitStatus) -> u8 {
    match status {
        ExitStatus::Code { code } => u8::try_from(code & 0xff).unwrap_or(FAILED),
        ExitStatus::Signal { signal } => u8::try_from(128 + (signal & 0x7f)).unwrap_or(FAILED),
        ExitStatus::TimedOut { .. } => TIMED_OUT,
        ExitStatus::OutOfMemory | ExitStatus::Cancelled { .. } => 128 + 9,
        ExitStatus::SandboxGone => FAILED,
    }
}

/// The code of an error.
pub(crate) fn of_error(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::CommandNotFound => NOT_FOUND,
        ErrorKind::CommandNotExecutable => NOT_EXECUTABLE,
        _ => FAILED,
    }
}

/// What a reader should know of an end that a code alone does not tell.
pub(crate) fn remark(status: ExitStatus) -> Option<&'static str> {
    match status {
        ExitStatus::Code { .. } | ExitStatus::Signal { .. } => None,
        ExitStatus::TimedOut {
            sandbox_ended: false,
        } => Some("the command timed out and was killed"),
        ExitStatus::TimedOut {
            sandbox_ended: true,
        } => Some("the command timed out and resisted; the sandbox was ended"),
        ExitStatus::OutOfMemory => {
            Some("the command was killed: the sandbox ran out of memory; --memory gives it more")
        }
        ExitStatus::Cancelled {
            sandbox_ended: false,
        } => Some("the command was killed"),
        ExitStatus::Cancelled {
            sandbox_ended: true,
        } => Some("the command resisted its kill; the sandbox was ended"),
        ExitStatus::SandboxGone => Some("the sandbox ended before the command did"),
    }
}

pub(crate) fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_the_codes_of_the_manual() {
        let table = [
            (ExitStatus::Code { code: 0 }, 0),
            (ExitStatus::Code { code: 7 }, 7),
            (ExitStatus::Code { code: 255 }, 255),
            (ExitStatus::Signal { signal: 15 }, 143),
            (
                ExitStatus::TimedOut {
                    sandbox_ended: false,
                },
                124,
            ),
            (ExitStatus::OutOfMemory, 137),
            (ExitStatus::SandboxGone, 125),
        ];
        for (status, expected) in table {
            assert_eq!(of_status(status), expected, "{status}");
        }
        assert_eq!(of_error(&Error::new(ErrorKind::CommandNotFound, "x")), 127);
        assert_eq!(
            of_error(&Error::new(ErrorKind::CommandNotExecutable, "x")),
            126
        );
        assert_eq!(of_error(&Error::new(ErrorKind::Unsupported, "x")), 125);
    }
}
