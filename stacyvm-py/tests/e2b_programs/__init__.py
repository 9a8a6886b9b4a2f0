"""Programs of E2B's documentation, nearly word for word: the import is another one, waits
are shorter, and paths are such that the user may write. Each has what it prints, as a
pattern; the number in the name of its page is that of the example on it."""

from __future__ import annotations

from typing import NamedTuple


class Program(NamedTuple):
    """A documented example."""

    page: str
    code: str
    prints: str
