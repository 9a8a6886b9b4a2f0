"""Processes that go on between the calls of an AI agent."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

from agents.sandbox.session.pty_output import collect_pty_output
from agents.sandbox.session.pty_types import PtyExecUpdate

from .._chunk import Chunk
from .._errors import NotFoundError, SandboxGoneError, StacyError

if TYPE_CHECKING:
    from .._async import AsyncCommandHandle, AsyncPtyHandle
    from .._native import ExitInfo

KEPT = 1 << 20
"""Bytes that are kept of what a process writes between two looks; more are counted."""


class Process:
    """A process, and what it wrote since it was looked at."""

    def __init__(self, handle: AsyncPtyHandle | AsyncCommandHandle) -> None:
        self.handle = handle
        self.used = time.monotonic()
        self.done = False
        self._status: int | None = None
        self._chunks: deque[bytes] = deque()
        self._kept = 0
        self._lost = 0
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        try:
            async for piece in self.handle:
                if isinstance(piece, Chunk):
                    piece = ((piece.stdout or "") + (piece.stderr or "")).encode()
                self._keep(piece)
            end = (await self.handle.wait()).exit
            self._status = status(end)
            self._keep(ended(end))
        except StacyError as error:
            self._keep(f"\n[{error}]\n".encode())
        finally:
            self.done = True
            self._news.set()

    def _keep(self, piece: bytes) -> None:
        room = KEPT - self._kept
        self._kept += min(len(piece), room)
        self._lost += max(len(piece) - room, 0)
        self._chunks.append(piece[:room])
        self._news.set()

    async def look(self, number: int, wait: int, tokens: int | None) -> PtyExecUpdate:
        """What it wrote, when it has ended or after so many milliseconds."""
        output, count, done = await collect_pty_output(
            output_chunks=self._chunks,
            output_lock=self._lock,
            output_notify=self._news,
            is_done=lambda: self.done,
            yield_time_ms=wait,
            max_output_tokens=tokens,
        )
        output += dropped(self._lost, "output")
        self._kept = self._lost = 0
        self.used = time.monotonic()
        return PtyExecUpdate(
            process_id=None if done else number,
            output=output,
            exit_code=self._status if done else None,
            original_token_count=count,
        )

    async def end(self) -> None:
        """Kills its whole tree. One that is gone already is what is wanted."""
        try:
            with contextlib.suppress(NotFoundError, SandboxGoneError):
                await self.handle.kill()
        finally:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)


def status(end: ExitInfo) -> int | None:
    """What a shell tells of an end; nothing of one that is neither a code nor a signal."""
    if end.reason == "out_of_memory":
        return 128 + signal.SIGKILL
    return end.exit_code if end.signal is None else 128 + end.signal


def ended(end: ExitInfo) -> bytes:
    """A line about an end that is no exit."""
    return b"" if end.reason == "code" else f"\n[the command ended by: {end}]\n".encode()


def dropped(count: int, what: str) -> bytes:
    """A line about bytes that are not there."""
    return f"\n[{count} bytes of {what} were not kept]\n".encode() if count else b""
