"""How commands ended, in E2B's words."""

from __future__ import annotations

import signal

from .. import CommandResult as Ended
from .. import ExitInfo
from ._errors import (
    CommandExitException,
    SandboxException,
    SandboxNotRunningException,
    TimeoutException,
)
from ._types import CommandResult


def result_of(exit: ExitInfo, stdout: str, stderr: str) -> CommandResult:
    """The result of a command that was there to its end, whatever its exit code."""
    if exit.reason == "code":
        code = exit.exit_code or 0
        return CommandResult(stderr, stdout, code, f"exit status {code}" if code else None)
    if exit.reason == "timed_out":
        raise TimeoutException(
            "the command was ended at its timeout; `timeout` makes it longer, 0 endless"
        )
    if exit.reason == "sandbox_gone":
        raise SandboxNotRunningException("the sandbox ended before its command")
    if exit.reason == "cancelled":
        raise SandboxException("the command was given up, or is followed by another process")
    if exit.reason == "out_of_memory":
        return CommandResult(stderr, stdout, -1, "signal: killed: out of memory")
    number = exit.signal or 0
    name = signal.strsignal(number) if 0 < number < signal.NSIG else None
    return CommandResult(stderr, stdout, -1, f"signal: {(name or str(number)).lower()}")


def checked(result: CommandResult) -> CommandResult:
    """The result of a command that exited with 0; others are raised."""
    if result.exit_code != 0:
        raise CommandExitException(
            result.stderr, result.stdout, result.exit_code, result.error
        )
    return result


def gathered(ended: Ended) -> CommandResult:
    """The result of a command whose output was gathered."""
    return checked(result_of(ended.exit, ended.stdout, ended.stderr))
