# pyright: reportPrivateUsage=false
"""E2B's exceptions, which are stacyvm's too: the error of stacyvm is their `__cause__`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from .. import _errors as stacy
from ._types import CommandResult


class SandboxException(stacy.StacyError):
    """The base of E2B's exceptions."""

    status_code: int | None = None
    """The status of an answer of E2B's service; there is none here."""

    def __init__(self, *args: object, status_code: int | None = None) -> None:
        super().__init__(str(args[0]) if args else "")
        self.status_code = status_code


class TimeoutException(SandboxException, stacy.TimeoutError):
    """A time passed."""


class InvalidArgumentException(SandboxException, stacy.InvalidArgumentError):
    """A value makes no sense."""


class NotEnoughSpaceException(SandboxException, stacy.NoSpaceError):
    """A disk is full."""


class NotFoundException(SandboxException, stacy.NotFoundError):
    """No such sandbox, command, user, file."""


class FileNotFoundException(NotFoundException, stacy.PathNotFoundError):
    """No such file or directory."""


class SandboxNotFoundException(NotFoundException):
    """No such sandbox, or it has ended."""


class SandboxNotRunningException(TimeoutException, stacy.SandboxGoneError):
    """The sandbox ended, or is paused."""


class SandboxUnreachableException(TimeoutException, stacy.UnavailableError):
    """The sandbox does not answer."""


class AuthenticationException(stacy.UnauthenticatedError):
    """A credential is missing or wrong."""


class TemplateException(SandboxException):
    """A template that cannot be used."""


class RateLimitException(SandboxException, stacy.ResourceExhaustedError):
    """A quota, a limit or the host's means are used up."""


class ServiceBusyException(Exception):
    """Never raised here: E2B's service has no capacity."""


class GuestUnresponsiveException(SandboxException):
    """Never raised here: a snapshot of a sandbox that hung."""


class NotSupportedException(SandboxException, stacy.UnsupportedError):
    """Of E2B, but not offered here; the message says what to use. (Not a name of E2B.)"""


@dataclass(eq=False)
class CommandExitException(SandboxException, CommandResult):
    """A command did not exit with 0."""

    def __post_init__(self) -> None:
        super().__init__(str(self))

    def __str__(self) -> str:
        return f"Command exited with code {self.exit_code} and error:\n{self.stderr}"

    def __reduce__(self) -> tuple[type[CommandExitException], tuple[object, ...]]:
        return type(self), (self.stderr, self.stdout, self.exit_code, self.error)


NAMES: dict[type[stacy.StacyError], type[stacy.StacyError]] = {
    stacy.PathNotFoundError: FileNotFoundException,
    stacy.NotFoundError: NotFoundException,
    stacy.InvalidArgumentError: InvalidArgumentException,
    stacy.IsDirectoryError: InvalidArgumentException,
    stacy.NotDirectoryError: InvalidArgumentException,
    stacy.NoSpaceError: NotEnoughSpaceException,
    stacy.TimeoutError: TimeoutException,
    stacy.SandboxGoneError: SandboxNotRunningException,
    stacy.UnavailableError: SandboxUnreachableException,
    stacy.UnauthenticatedError: AuthenticationException,
    stacy.ResourceExhaustedError: RateLimitException,
    stacy.UnsupportedError: NotSupportedException,
}


def named(error: stacy.StacyError, *, control: bool = False) -> stacy.StacyError:
    """The exception that E2B has for an error. `control` is true of calls that E2B asks
    its service, for which a sandbox that ended is one that does not exist."""
    if isinstance(error, (SandboxException, AuthenticationException)):
        return error
    cls = NAMES.get(type(error), SandboxException)
    gone = isinstance(error, stacy.SandboxGoneError)
    if control and (gone or (cls is NotFoundException and "sandbox" in error.context)):
        cls = SandboxNotFoundException
    other = cls(str(error))
    other.retryable = error.retryable
    other.retry_after = error.retry_after
    other.operation = error.operation
    other.provider = error.provider
    other.context = error.context
    # Of several codes E2B has one class.
    vars(other)["code"] = error.code
    return other


@contextmanager
def told(*, control: bool = False) -> Generator[None, None, None]:
    """Gives the errors of stacyvm the names of E2B."""
    try:
        yield
    except (SandboxException, AuthenticationException):
        raise
    except stacy.StacyError as error:
        raise named(error, control=control) from error
