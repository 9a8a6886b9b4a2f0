"""Output as it comes."""

from __future__ import annotations

from typing import NamedTuple


class Chunk(NamedTuple):
    """Output as it came: one of the two is text."""

    stdout: str | None
    stderr: str | None
