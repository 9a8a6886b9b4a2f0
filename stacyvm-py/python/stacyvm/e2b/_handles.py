# pyright: reportPrivateUsage=false
"""Handles of commands and watches. Those of the two halves are of another shape in E2B:
one is iterated, the other calls functions from a task."""

from __future__ import annotations

import asyncio
import codecs
import inspect
import signal
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import cast

from .. import WatchEvent
from .._call import awaited, waited
from .._errors import NotFoundError, StacyError
from .._native import Event, ExitInfo
from .._native import Watch as NativeWatch
from ._async_feed import AsyncFeed, AsyncReader
from ._errors import SandboxException, TimeoutException, named, told
from ._exits import checked, result_of
from ._sync_feed import Feed, Reader
from ._types import CommandResult, FilesystemEvent, OutputHandler, PtyOutput, Stderr, Stdout

Output = tuple["Stdout | None", "Stderr | None", "PtyOutput | None"]
"""Output as it came: one of the three is there."""

_decoder = codecs.getincrementaldecoder("utf-8")


class _Said:
    """The output of a command as text, and its result."""

    def __init__(self, tty: bool, retain: bool) -> None:
        self._tty = tty
        self._retain = retain
        self._decoders = _decoder("replace"), _decoder("replace")
        self._kept: tuple[list[str], list[str]] = [], []
        self.result: CommandResult | None = None

    def text(self, which: int) -> str:
        return "".join(self._kept[which])

    def _piece(self, which: int, data: bytes, end: bool = False) -> Iterator[Output]:
        text = self._decoders[which].decode(data, end)
        if text:
            if self._retain:
                self._kept[which].append(text)
            yield (text, None, None) if which == 0 else (None, text, None)

    def event(self, event: Event) -> Iterator[Output]:
        if event.lost is not None:
            warnings.warn(
                f"{sum(event.lost)} bytes of output came faster than they were read and are lost",
                RuntimeWarning,
                stacklevel=4,
            )
        if event.stdout is not None:
            if self._tty:
                yield None, None, event.stdout
            else:
                yield from self._piece(0, event.stdout)
        if event.stderr is not None:
            yield from self._piece(1, event.stderr)
        if event.exit is not None:
            yield from self.end(event.exit)

    def end(self, exit: ExitInfo) -> Iterator[Output]:
        yield from self._piece(0, b"", True)
        yield from self._piece(1, b"", True)
        self.result = result_of(exit, self.text(0), self.text(1))

    def checked(self) -> CommandResult:
        if self.result is None:
            raise SandboxException("the command is followed no more; connect to it again")
        return checked(self.result)


class CommandHandle:
    """A command that was started. Iterating gives its output as it comes."""

    def __init__(self, feed: Feed, retain: bool = True) -> None:
        self._feed = feed
        self._reader = Reader(feed)
        self._said = _Said(feed.tty, retain)
        self._disconnected = False

    @property
    def pid(self) -> int:
        """The number of its first process inside."""
        return self._feed.native.pid or 0

    def __iter__(self) -> Iterator[Output]:
        while not self._disconnected and self._said.result is None:
            with told():
                event = self._reader.next()
            if event is None:
                ended = self._feed.native.result()
                if ended is not None:
                    yield from self._said.end(ended.exit)
                return
            yield from self._said.event(event)

    def wait(
        self,
        on_pty: Callable[[PtyOutput], object] | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> CommandResult:
        """Waits for its end. Raises `CommandExitException` where it does not exit with 0."""
        for stdout, stderr, pty in self:
            if stdout is not None and on_stdout is not None:
                on_stdout(stdout)
            if stderr is not None and on_stderr is not None:
                on_stderr(stderr)
            if pty is not None and on_pty is not None:
                on_pty(pty)
        return self._said.checked()

    def disconnect(self) -> None:
        """Reads no more; the command goes on."""
        self._disconnected = True
        self._reader.close()

    def kill(self) -> bool:
        """Kills it and its children. False if it had ended."""
        try:
            with told():
                waited(self._feed.sandbox.signal(self._feed.native.id, signal.SIGKILL, "tree"))
        except NotFoundError:
            return False
        return True

    def send_stdin(self, data: str | bytes, request_timeout: float | None = None) -> None:
        """Writes to its standard input."""
        with told():
            waited(self._feed.native.write_stdin(data))

    def close_stdin(self, request_timeout: float | None = None) -> None:
        """Closes its standard input."""
        with told():
            waited(self._feed.native.close_stdin())


class AsyncCommandHandle:
    """A command that was started. Its output is read by a task of its own."""

    def __init__(
        self,
        feed: AsyncFeed,
        retain: bool = True,
        on_stdout: OutputHandler[Stdout] | None = None,
        on_stderr: OutputHandler[Stderr] | None = None,
        on_pty: OutputHandler[PtyOutput] | None = None,
    ) -> None:
        self._feed = feed
        self._reader = AsyncReader(feed)
        self._said = _Said(feed.tty, retain)
        self._on = on_stdout, on_stderr, on_pty
        self._error: Exception | None = None
        self._task = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """The number of its first process inside."""
        return self._feed.native.pid or 0

    @property
    def stdout(self) -> str:
        """Its standard output so far."""
        return self._said.text(0)

    @property
    def stderr(self) -> str:
        """Its standard error so far."""
        return self._said.text(1)

    @property
    def error(self) -> str | None:
        """How it failed, once it has."""
        return None if self._said.result is None else self._said.result.error

    @property
    def exit_code(self) -> int | None:
        """Its exit code, once it ended."""
        return None if self._said.result is None else self._said.result.exit_code

    async def _output(self) -> AsyncIterator[Output]:
        while self._said.result is None:
            event = await self._reader.next()
            if event is None:
                ended = self._feed.native.result()
                if ended is not None:
                    for output in self._said.end(ended.exit):
                        yield output
                return
            for output in self._said.event(event):
                yield output

    async def _read(self) -> None:
        try:
            async for output in self._output():
                for piece, handler in zip(output, self._on, strict=True):
                    if piece is not None and handler is not None:
                        await _called(handler, piece)
        except StacyError as error:
            self._error = named(error)
            self._error.__cause__ = None if self._error is error else error
        except Exception as error:
            self._error = error

    async def wait(self) -> CommandResult:
        """Waits for its end. Raises `CommandExitException` where it does not exit with 0."""
        await asyncio.wait([self._task])
        if self._error is not None:
            raise self._error
        return self._said.checked()

    async def disconnect(self) -> None:
        """Reads no more; the command goes on."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._reader.close()

    async def kill(self) -> bool:
        """Kills it and its children. False if it had ended."""
        try:
            with told():
                await awaited(
                    self._feed.sandbox.signal(self._feed.native.id, signal.SIGKILL, "tree")
                )
        except NotFoundError:
            return False
        return True

    async def send_stdin(self, data: str | bytes, request_timeout: float | None = None) -> None:
        """Writes to its standard input."""
        with told():
            await awaited(self._feed.native.write_stdin(data))

    async def close_stdin(self, request_timeout: float | None = None) -> None:
        """Closes its standard input."""
        with told():
            await awaited(self._feed.native.close_stdin())


async def _called(handler: Callable[..., object], *args: object) -> None:
    result = handler(*args)
    if inspect.isawaitable(result):
        await cast("Awaitable[object]", result)


class WatchHandle:
    """A watch on a directory."""

    def __init__(
        self, native: NativeWatch, changes: Callable[[WatchEvent], list[FilesystemEvent]]
    ) -> None:
        self._native = native
        self._changes = changes
        self._stopped = False

    def get_new_events(self, request_timeout: float | None = None) -> list[FilesystemEvent]:
        """The changes that came since the last call."""
        if self._stopped:
            raise SandboxException("The watcher is already stopped")
        with told():
            events = waited(self._native.take())
            return [change for event in events for change in self._changes(event)]

    def stop(self, request_timeout: float | None = None) -> None:
        """Ends the watch."""
        with told():
            waited(self._native.stop())
        self._stopped = True


class AsyncWatchHandle:
    """A watch on a directory. Changes are told by a task of its own."""

    def __init__(
        self,
        native: NativeWatch,
        changes: Callable[[WatchEvent], Awaitable[list[FilesystemEvent]]],
        on_event: OutputHandler[FilesystemEvent],
        on_exit: OutputHandler[Exception | None] | None,
        timeout: float | None,
    ) -> None:
        self._native = native
        self._changes = changes
        self._on_event = on_event
        self._on_exit = on_exit
        self._task = asyncio.create_task(self._watch(timeout))

    async def _events(self) -> None:
        while True:
            event = await awaited(self._native.next())
            if event is None:
                return
            for change in await self._changes(event):
                await _called(self._on_event, change)

    async def _watch(self, timeout: float | None) -> None:
        error: Exception | None = None
        try:
            await asyncio.wait_for(self._events(), timeout or None)
        except asyncio.CancelledError:
            pass
        except StacyError as other:
            error = named(other)
        except asyncio.TimeoutError:
            error = TimeoutException("the watch ended at its timeout; `timeout` makes it longer")
        except Exception as other:
            error = other
        if self._on_exit is not None:
            await _called(self._on_exit, error)

    async def stop(self) -> None:
        """Ends the watch."""
        self._task.cancel()
        await asyncio.wait([self._task])
        with told():
            await awaited(self._native.stop())
