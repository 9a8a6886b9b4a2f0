# pyright: reportPrivateUsage=false
"""Exceptions: a class for each code, all of them a `StacyError`."""

from __future__ import annotations

import builtins
import errno as numbers
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._native import CommandResult


class StacyError(Exception):
    """What went wrong in stacyvm.

    The classes below it that are also builtins are so because the builtin is true of
    them: `TimeoutError` is the builtin one too.
    """

    code: ClassVar[str] = ""
    """The stable code: `not_found`, `timeout`, ..."""
    retryable: bool = False
    """Whether the same call may succeed later."""
    retry_after: float | None = None
    """Seconds to wait before that."""
    operation: str = ""
    """The operation that failed, as `exec` or `create`."""
    provider: str | None = None
    """The provider that failed."""
    context: dict[str, str]
    """Facts: `field`, `value`, `expected`, `remedy`, `path`, ..."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.context = {}

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InvalidArgumentError(StacyError, ValueError):
    """A value makes no sense; `context` names the field and what was expected."""

    code = "invalid_argument"


def invalid(field: str, expected: str, remedy: str) -> InvalidArgumentError:
    """The error for an argument that is not as it should be. Its value is not told."""
    error = InvalidArgumentError(f"{field} is another thing than expected: {expected}; {remedy}")
    error.context = {"field": field, "expected": expected, "remedy": remedy}
    return error


class UnsupportedError(StacyError):
    """This combination of provider, runtime and host cannot do it. Nothing was done."""

    code = "unsupported"


class NotFoundError(StacyError):
    """No such sandbox, command, image, user or port."""

    code = "not_found"


class PathNotFoundError(NotFoundError, FileNotFoundError):
    """No such path."""

    errno = numbers.ENOENT


class AlreadyExistsError(StacyError):
    """It is there already."""

    code = "already_exists"


class ConflictError(StacyError):
    """Another state or another request of the same key stands against it."""

    code = "conflict"


class PermissionDeniedError(StacyError, PermissionError):
    """The caller, or the user inside, may not."""

    code = "permission_denied"
    errno = numbers.EACCES


class UnauthenticatedError(StacyError):
    """A credential is missing or wrong."""

    code = "unauthenticated"


class ResourceExhaustedError(StacyError):
    """A quota, a limit or the host's means are used up."""

    code = "resource_exhausted"


class NoSpaceError(StacyError, OSError):
    """A disk is full."""

    code = "no_space"
    errno = numbers.ENOSPC


class TimeoutError(StacyError, builtins.TimeoutError):
    """A deadline passed."""

    code = "timeout"
    errno = numbers.ETIMEDOUT


class CancelledError(StacyError):
    """The caller gave it up."""

    code = "cancelled"


class UnavailableError(StacyError, ConnectionError):
    """The runtime, its daemon or its service does not answer."""

    code = "unavailable"


class SandboxGoneError(StacyError):
    """The sandbox ended."""

    code = "sandbox_gone"


class CommandNotFoundError(StacyError, FileNotFoundError):
    """The command does not exist inside; nothing ran."""

    code = "command_not_found"
    errno = numbers.ENOENT


class CommandNotExecutableError(StacyError, PermissionError):
    """The command exists but cannot be executed; nothing ran."""

    code = "command_not_executable"
    errno = numbers.EACCES


class IsDirectoryError(StacyError, IsADirectoryError):
    """A directory where a file is needed."""

    code = "is_directory"
    errno = numbers.EISDIR


class NotDirectoryError(StacyError, NotADirectoryError):
    """A file where a directory is needed."""

    code = "not_directory"
    errno = numbers.ENOTDIR


class DirectoryNotEmptyError(StacyError, OSError):
    """The directory has entries."""

    code = "directory_not_empty"
    errno = numbers.ENOTEMPTY


class ProtocolError(StacyError):
    """The other side broke the protocol."""

    code = "protocol"


class CorruptError(StacyError):
    """Stored data is damaged."""

    code = "corrupt"


class IncompatibleError(StacyError):
    """Stored data or a peer is of a version that this build cannot serve."""

    code = "incompatible"


class InternalError(StacyError):
    """A defect of stacyvm or of its host."""

    code = "internal"


class CommandFailedError(StacyError):
    """A command that was run with `check=True` did not exit with 0."""

    code = "command_failed"

    result: CommandResult
    """What it said, and how it ended."""

    def __init__(self, message: str, result: CommandResult) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type[Self], tuple[str, CommandResult]]:
        return type(self), (str(self), self.result)


def escaped(text: str) -> str:
    """Text of a sandbox, of which no terminal is moved or cleared."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text
    )


CLASSES: dict[str, type[StacyError]] = {
    cls.code: cls
    for cls in StacyError.__subclasses__()
    if cls is not CommandFailedError
}
"""The class of each code of the library."""


def from_native(
    code: str,
    message: str,
    retry_after: float | None,
    operation: str,
    provider: str | None,
    context: dict[str, str],
) -> StacyError:
    """The exception of an error of the library."""
    cls = CLASSES.get(code, StacyError)
    if cls is NotFoundError and "path" in context:
        cls = PathNotFoundError
    error = cls(message)
    error.retryable = retry_after is not None
    error.retry_after = retry_after
    error.operation = operation
    error.provider = provider
    error.context = context
    if isinstance(error, OSError):
        error.filename = context.get("path")
    return error


__all__ = [
    "AlreadyExistsError",
    "CancelledError",
    "CommandFailedError",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "ConflictError",
    "CorruptError",
    "DirectoryNotEmptyError",
    "IncompatibleError",
    "InternalError",
    "InvalidArgumentError",
    "IsDirectoryError",
    "NoSpaceError",
    "NotDirectoryError",
    "NotFoundError",
    "PathNotFoundError",
    "PermissionDeniedError",
    "ProtocolError",
    "ResourceExhaustedError",
    "SandboxGoneError",
    "StacyError",
    "TimeoutError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
]
