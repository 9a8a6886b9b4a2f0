# pyright: reportPrivateUsage=false
"""Rust, its Python half and the types that users see name the same things."""

from __future__ import annotations

import inspect
import typing

import stacyvm
from stacyvm import _async, _async_files, _async_ports, _errors, _native, _sync, _sync_files, _sync_ports, _types


def test_each_code_has_its_class() -> None:
    assert set(_errors.CLASSES) == set(_native.error_codes())
    for code, cls in _errors.CLASSES.items():
        name = "".join(part.capitalize() for part in code.split("_")) + "Error"
        assert cls.__name__ == name
        assert getattr(stacyvm, name) is cls


def test_the_options_of_create_are_those_that_rust_reads() -> None:
    assert list(_types.CreateOptions.__annotations__) == _native.create_options()


def test_both_halves_have_the_same_methods() -> None:
    names = [name for name in stacyvm.__all__ if name.startswith("Async")]
    assert len(names) == 12
    for name in names:
        blocking, awaiting = getattr(stacyvm, name.removeprefix("Async")), getattr(stacyvm, name)
        assert methods(blocking) == methods(awaiting), name


def methods(cls: type) -> set[str]:
    names = {name for name, value in vars(cls).items() if inspect.isroutine(value)}
    return {name.replace("__a", "__") for name in names}


def test_what_is_public_is_listed_and_there() -> None:
    for name in stacyvm.__all__:
        assert getattr(stacyvm, name).__doc__, f"{name} has no words"


def test_each_method_says_what_it_does() -> None:
    for module in (_sync, _sync_files, _sync_ports, _async, _async_files, _async_ports):
        for name, cls in vars(module).items():
            if not inspect.isclass(cls) or cls.__module__ != module.__name__:
                continue
            for method, value in vars(cls).items():
                if inspect.isroutine(value) and not method.startswith("_"):
                    assert inspect.getdoc(value), f"{name}.{method} has no words"


def test_hints_can_be_evaluated() -> None:
    for cls in (stacyvm.StacyError, stacyvm.Chunk):
        assert typing.get_type_hints(cls, localns={"CommandResult": stacyvm.CommandResult})
