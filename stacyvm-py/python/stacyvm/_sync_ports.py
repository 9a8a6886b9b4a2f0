"""Connections to and from ports inside, in threads. Made from `_async_ports.py` by scripts/python-sync.py."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from ._call import waited
from ._native import Connection as NativeConnection
from ._native import Listener as NativeListener

if TYPE_CHECKING:
    from socket import socket as Socket

    from typing_extensions import Self


class Connection:
    """A connection to or from a port inside. Iterating gives bytes as they come.

    One may send while another one receives. It is closed with its block.
    """

    def __init__(self, native: NativeConnection) -> None:
        self._native = native

    def recv(self, limit: int = 65536) -> bytes:
        """Waits for bytes of the other side; `b""` once it sends no more."""
        return waited(self._native.recv(limit))

    def send(self, data: str | bytes) -> None:
        """Sends all of this; waits while the other side does not read."""
        waited(self._native.send(data))

    def send_eof(self) -> None:
        """Tells the other side that no more comes; it may send on."""
        waited(self._native.send_eof())

    def socket(self) -> Socket:
        """Gives the connection as a socket of this process instead, for
        `asyncio.open_connection(sock=...)`, `http.client`, `ssl` and the like. What
        breaks it is the socket's end then, without a reason."""
        return waited(self._native.socket())

    def close(self) -> None:
        """Closes it, also where somebody waits to receive or to send."""
        waited(self._native.close())

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.recv():
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Listener:
    """A port inside that is listened on. Iterating gives connections as they come.

    It is closed with its block; connections that were made go on.
    """

    def __init__(self, native: NativeListener) -> None:
        self._native = native

    @property
    def port(self) -> int:
        """The port."""
        return self._native.port

    def accept(self) -> Connection | None:
        """Waits for a connection of a program inside; `None` once the port is closed."""
        native = waited(self._native.accept())
        return None if native is None else Connection(native)

    def close(self) -> None:
        """Closes the port, also where somebody waits for a connection."""
        waited(self._native.close())

    def __iter__(self) -> Iterator[Connection]:
        while (connection := self.accept()) is not None:
            yield connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
