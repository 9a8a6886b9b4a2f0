"""What the servers of the conformance suite speak: frames, words and errors of the HTTP API."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
import contextlib
from datetime import datetime, timedelta, timezone
from email.message import Message
from io import BufferedIOBase
import json
import struct
import threading
from typing import Any

from stacyvm import ExitInfo, StacyError

HEAD, DATA, END, ERROR, ITEM = 1, 2, 3, 4, 5
STDOUT, STDERR, LOST, EXITED = 16, 17, 18, 19
STDIN, CLOSE, RESIZE, SIGNAL, CREDIT, DONE = 32, 33, 34, 35, 36, 37
EVENT, LONGEST = 64, 1 << 20
FRAMES = "application/vnd.stacyvm.frames"


class Refused(Exception):
    """An error of the API by its kind."""


class BrokeOff(Exception):
    """The client is gone, or says what is no request."""


def error_of(error: Exception) -> dict[str, Any]:
    if isinstance(error, StacyError):
        after = error.retry_after
        return {
            "kind": error.code, "message": str(error), "operation": error.operation, "provider": error.provider,
            "context": [[key, value] for key, value in error.context.items()],
            "retry": "maybe" if error.retryable else "never",
            "retry_after_ms": None if after is None else round(after * 1000),
        }
    if isinstance(error, Refused):
        return {"kind": error.args[0], "message": error.args[1]}
    if isinstance(error, KeyError):
        return {"kind": "not_found", "message": f"there is no {error}"}
    return {"kind": "invalid_argument", "message": f"{type(error).__name__}: {error}"}


def raw(word: Any) -> bytes:
    return word.encode() if isinstance(word, str) else base64.b64decode(word["base64"])


def word_of(text: str) -> Any:
    """A name that the package told: what is no text of it has surrogates there."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def time_of(moment: datetime | None) -> dict[str, int] | None:
    if moment is None:
        return None
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    second = timedelta(seconds=1)
    return {"seconds": since // second, "nanoseconds": (since % second).microseconds * 1000}


def moment_of(time: dict[str, int]) -> datetime:
    since = timedelta(seconds=time["seconds"], microseconds=time["nanoseconds"] // 1000)
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + since


def ended(exit: ExitInfo) -> dict[str, Any]:
    match exit.reason:
        case "code":
            return {"reason": "code", "code": exit.exit_code}
        case "signal":
            return {"reason": "signal", "signal": exit.signal}
        case "timed_out" | "cancelled":
            return {"reason": exit.reason, "sandbox_ended": False}
        case other:
            return {"reason": other}


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IB", len(payload), kind) + payload


def told(kind: int, what: Any) -> bytes:
    return frame(kind, json.dumps(what).encode())


def exactly(source: BufferedIOBase, length: int) -> bytes:
    try:
        data = source.read(length)
    except OSError as error:
        raise BrokeOff from error
    if len(data) < length:
        raise BrokeOff
    return data


class Body:
    """The body of a request, which comes in chunks or has a length."""

    def __init__(self, source: BufferedIOBase, headers: Message) -> None:
        self.source = source
        self.chunked = headers.get("transfer-encoding") == "chunked"
        self.left = 0 if self.chunked else int(headers.get("content-length", 0))

    @property
    def is_whole(self) -> bool:
        return self.left == 0 and not self.chunked

    def chunk(self) -> bool:
        """Whether there is one more."""
        self.left = int(self.source.readline(32) or b"-1", 16)
        if self.left < 0:
            raise BrokeOff
        if self.left == 0:
            exactly(self.source, 2)
            self.chunked = False
        return self.left > 0

    def read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            if self.left == 0 and not (self.chunked and self.chunk()):
                raise BrokeOff
            piece = exactly(self.source, min(self.left, length - len(data)))
            self.left -= len(piece)
            if self.left == 0 and self.chunked:
                exactly(self.source, 2)
            data += piece
        return data

    def json(self) -> Any:
        return json.loads(self.read(self.left) or b"{}")

    def frame(self) -> tuple[int, bytes]:
        length, kind = struct.unpack(">IB", self.read(5))
        if length > LONGEST:
            raise BrokeOff
        return kind, self.read(length)

    def head(self) -> Any:
        kind, payload = self.frame()
        if kind != HEAD:
            raise Refused("invalid_argument", f"the body begins with a frame {kind}, expected a head")
        return json.loads(payload)

    def pieces(self) -> Iterator[bytes]:
        """What is uploaded; where the client's own data failed, an error."""
        while True:
            kind, payload = self.frame()
            if kind == DATA:
                yield payload
            elif kind == END:
                # Nothing comes after it.
                if self.chunked and self.chunk():
                    raise Refused("invalid_argument", "a body that goes on after its end")
                return
            else:
                raise Refused("cancelled", "the client's data failed")


class Stream:
    """Frames that are the body of an answer."""

    def __init__(
        self,
        frames: Iterator[bytes],
        stop: Callable[[], object] | None = None,
        end: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.frames, self.stop, self.end = frames, stop, end

    def write(self, client: BufferedIOBase, gone: BufferedIOBase) -> None:
        """Until its end, or the client's: that one says nothing more and goes."""
        if self.stop is not None:
            threading.Thread(target=self.watch, args=(gone,), daemon=True).start()
        try:
            for one in self.frames:
                client.write(one)
            client.write(told(END, self.end()) if self.end else frame(END))
        except StacyError as error:
            client.write(told(ERROR, error_of(error)))

    def watch(self, gone: BufferedIOBase) -> None:
        with contextlib.suppress(OSError, ValueError):
            gone.read(1)
        if self.stop is not None:
            self.stop()
