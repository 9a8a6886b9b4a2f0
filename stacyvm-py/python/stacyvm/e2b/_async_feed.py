# pyright: reportPrivateUsage=false
"""What a command says, in an event loop. `_sync_feed.py` is made from this file by scripts/python-sync.py."""

from __future__ import annotations

from asyncio import Lock
from collections import deque
from weakref import WeakValueDictionary

from .._call import awaited
from .._native import Event
from .._native import Process as NativeProcess
from .._native import Sandbox as NativeSandbox

_feeds: WeakValueDictionary[tuple[str, str], AsyncFeed] = WeakValueDictionary()


class AsyncFeed:
    """A command that this process follows. A command has one follower, but E2B lets a
    program hold many handles: they share this one, and each sees all that comes."""

    def __init__(self, sandbox: NativeSandbox, native: NativeProcess, tty: bool) -> None:
        self.sandbox = sandbox
        self.native = native
        self.tty = tty
        self._lock = Lock()
        self._readers: WeakValueDictionary[int, AsyncReader] = WeakValueDictionary()
        self._over = False
        _feeds[sandbox.id, native.id] = self

    @staticmethod
    async def following(sandbox: NativeSandbox, command: str, tty: bool) -> AsyncFeed:
        """The feed of a command: the one that is there, or one that shows what comes
        from now on."""
        feed = _feeds.get((sandbox.id, command))
        if feed is None:
            native = await awaited(sandbox.attach(command, stdin=True, replay=False))
            feed = AsyncFeed(sandbox, native, tty)
        return feed

    async def _pass_on(self) -> None:
        event = await awaited(self.native.next_event())
        self._over = event is None or event.exit is not None
        if event is not None:
            for reference in self._readers.valuerefs():
                reader = reference()
                if reader is not None:
                    reader._events.append(event)


class AsyncReader:
    """One of those who read a feed."""

    def __init__(self, feed: AsyncFeed) -> None:
        self._feed = feed
        self._events: deque[Event] = deque()
        feed._readers[id(self)] = self

    def close(self) -> None:
        """Reads no more."""
        self._feed._readers.pop(id(self), None)

    async def next(self) -> Event | None:
        """What comes next; `None` after the end."""
        while not self._events:
            async with self._feed._lock:
                if self._events:
                    break
                if self._feed._over:
                    return None
                await self._feed._pass_on()
        return self._events.popleft()
