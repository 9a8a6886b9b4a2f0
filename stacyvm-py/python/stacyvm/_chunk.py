"""Output as it comes."""

from __future__ import annotations

from typing import NamedTuple

from ._native import ExitInfo


class Chunk(NamedTuple):
    """Output as it came: one of the two is text."""

    stdout: str | None
    stderr: str | None


class LogEntry(NamedTuple):
    """What a command wrote, or how it ended: one of the four is something."""

    command: str
    """The command's id."""
    stdout: str | None = None
    stderr: str | None = None
    lost: tuple[int, int] | None = None
    """Bytes of both streams that are not kept any more."""
    exit: ExitInfo | None = None
