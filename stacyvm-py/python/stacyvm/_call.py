"""Calls of the native half: waited for, or awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generator, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio

T_co = TypeVar("T_co", covariant=True)


class Call(Protocol[T_co]):
    """A call that begins when it is waited for or awaited, once."""

    def wait(self) -> T_co:
        """Waits for the result. Ctrl-C gives the call up."""
        ...

    def __await__(self) -> Generator[Any, Any, T_co]: ...


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


async def awaited(call: Call[T_co]) -> T_co:
    """The result of a call, in an event loop."""
    return await call


def waited(call: Call[T_co]) -> T_co:
    """The result of a call, in this thread."""
    return call.wait()
