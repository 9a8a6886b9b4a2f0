# pyright: reportPrivateUsage=false
"""What a command says, in threads. Made from `_async_feed.py` by scripts/python-sync.py."""

from __future__ import annotations

from threading import Lock
from collections import deque
from weakref import WeakValueDictionary

from .._call import waited
from .._native import Event
from .._native import Process as NativeProcess
from .._native import Sandbox as NativeSandbox

_feeds: WeakValueDictionary[tuple[str, str], Feed] = WeakValueDictionary()


class Feed:
    """A command that this process follows. A command has one follower, but E2B lets a
    program hold many handles: they share this one, and each sees all that comes."""

    def __init__(self, sandbox: NativeSandbox, native: NativeProcess, tty: bool) -> None:
        self.sandbox = sandbox
        self.native = native
        self.tty = tty
        self._lock = Lock()
        self._readers: WeakValueDictionary[int, Reader] = WeakValueDictionary()
        self._over = False
        _feeds[sandbox.id, native.id] = self

    @staticmethod
    def following(sandbox: NativeSandbox, command: str, tty: bool) -> Feed:
        """The feed of a command: the one that is there, or one that shows what comes
        from now on."""
        feed = _feeds.get((sandbox.id, command))
        if feed is None:
            native = waited(sandbox.attach(command, stdin=True, replay=False))
            feed = Feed(sandbox, native, tty)
        return feed

    def _pass_on(self) -> None:
        event = waited(self.native.next_event())
        self._over = event is None or event.exit is not None
        if event is not None:
            for reference in self._readers.valuerefs():
                reader = reference()
                if reader is not None:
                    reader._events.append(event)


class Reader:
    """One of those who read a feed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._events: deque[Event] = deque()
        feed._readers[id(self)] = self

    def close(self) -> None:
        """Reads no more."""
        self._feed._readers.pop(id(self), None)

    def next(self) -> Event | None:
        """What comes next; `None` after the end."""
        while not self._events:
            with self._feed._lock:
                if self._events:
                    break
                if self._feed._over:
                    return None
                self._feed._pass_on()
        return self._events.popleft()
