"""Calls of the native half: waited for, or awaited."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Generator, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

T_co = TypeVar("T_co", covariant=True)


class Call(Protocol[T_co]):
    """A call that begins when it is waited for or awaited, once."""

    def wait(self) -> T_co:
        """Waits for the result. Ctrl-C gives the call up."""
        ...

    def __await__(self) -> Generator[Any, Any, Delivery[T_co]]: ...


class Delivery(Protocol[T_co]):
    """The result of a call, which is taken back if nobody takes it."""

    def take(self) -> T_co:
        """The result, which has arrived."""
        ...


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop in which a call is awaited."""
    # A program without a loop does not pay for it.
    import asyncio

    return asyncio.get_running_loop()


def settle(future: asyncio.Future[Any], succeeded: bool, value: Any) -> None:
    """Gives a future its result, unless it was cancelled."""
    if future.done():
        return
    if succeeded:
        future.set_result(value)
    else:
        future.set_exception(value)


def asked_as_json(options: Mapping[str, Any]) -> str:
    """Options as the native half reads them."""
    return json.dumps(options, default=_plain)


def _plain(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType]
    raise TypeError(f"an option has a value of type {type(value).__name__}, which no option has")


async def call_back(callback: Callable[[Any], object] | None, value: Any) -> None:
    """Tells a callback of something, and awaits what it returns where that is to be awaited."""
    if callback is not None and value is not None:
        answer = callback(value)
        if isinstance(answer, Awaitable):
            await answer


def call_back_now(callback: Callable[[Any], object] | None, value: Any) -> None:
    """Tells a callback of something."""
    if callback is not None and value is not None:
        callback(value)


async def awaited(call: Call[T_co]) -> T_co:
    """The result of a call, in an event loop."""
    return (await call).take()


def waited(call: Call[T_co]) -> T_co:
    """The result of a call, in this thread."""
    return call.wait()


async def read_piece(read: Callable[[int], Any], size: int) -> Any:
    """What a file gives next. One that has to wait does so in a thread."""
    # A program without a loop does not pay for it.
    import asyncio
    import inspect

    if inspect.iscoroutinefunction(read):
        return await read(size)
    piece = await asyncio.to_thread(read, size)
    return await piece if inspect.isawaitable(piece) else piece
