"""Methods that E2B lets one call on a sandbox, or on the class with a sandbox's id."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class by_id(Generic[T, P, R]):
    """`sandbox.kill()`, `Sandbox.kill(sandbox_id)` and `Sandbox.kill(sandbox)`."""

    def __init__(self, method: Callable[Concatenate[T, P], R]) -> None:
        self._method = method
        self.__doc__ = method.__doc__
        self.__name__ = method.__name__

    @overload
    def __get__(self, obj: None, owner: type[T]) -> Callable[Concatenate[str, P], R]: ...

    @overload
    def __get__(self, obj: T, owner: type[T] | None = None) -> Callable[P, R]: ...

    def __get__(self, obj: T | None, owner: Any = None) -> Callable[..., R]:
        method = cast("Callable[..., R]", self._method)
        if obj is not None:
            return cast("Callable[..., R]", MethodType(method, obj))

        def called(sandbox_id: str | T, *args: Any, **how: Any) -> R:
            if isinstance(sandbox_id, str):
                named: T = owner._with_id(sandbox_id)
                return method(named, *args, **how)
            return method(sandbox_id, *args, **how)

        called.__doc__, called.__name__ = self.__doc__, self.__name__
        return called
