"""Connections to and from ports inside, in an event loop. `_sync_ports.py` is made from this file by scripts/python-sync.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING

from ._call import awaited
from ._native import Connection as NativeConnection
from ._native import Listener as NativeListener

if TYPE_CHECKING:
    from socket import socket as Socket

    from typing_extensions import Self


class AsyncConnection:
    """A connection to or from a port inside. Iterating gives bytes as they come.

    One may send while another one receives. It is closed with its block.
    """

    def __init__(self, native: NativeConnection) -> None:
        self._native = native

    async def recv(self, limit: int = 65536) -> bytes:
        """Waits for bytes of the other side; `b""` once it sends no more."""
        return await awaited(self._native.recv(limit))

    async def send(self, data: str | bytes) -> None:
        """Sends all of this; waits while the other side does not read."""
        await awaited(self._native.send(data))

    async def send_eof(self) -> None:
        """Tells the other side that no more comes; it may send on."""
        await awaited(self._native.send_eof())

    async def socket(self) -> Socket:
        """Gives the connection as a socket of this process instead, for
        `asyncio.open_connection(sock=...)`, `http.client`, `ssl` and the like. What
        breaks it is the socket's end then, without a reason."""
        return await awaited(self._native.socket())

    async def close(self) -> None:
        """Closes it, also where somebody waits to receive or to send."""
        await awaited(self._native.close())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.recv():
            yield piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncListener:
    """A port inside that is listened on. Iterating gives connections as they come.

    It is closed with its block; connections that were made go on.
    """

    def __init__(self, native: NativeListener) -> None:
        self._native = native

    @property
    def port(self) -> int:
        """The port."""
        return self._native.port

    async def accept(self) -> AsyncConnection | None:
        """Waits for a connection of a program inside; `None` once the port is closed."""
        native = await awaited(self._native.accept())
        return None if native is None else AsyncConnection(native)

    async def close(self) -> None:
        """Closes the port, also where somebody waits for a connection."""
        await awaited(self._native.close())

    async def __aiter__(self) -> AsyncIterator[AsyncConnection]:
        while (connection := await self.accept()) is not None:
            yield connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
