"""What is told survives `pickle` and `copy`, and so comes back from other processes."""

from __future__ import annotations

import copyreg

from ._native import pack, packed_classes, unpack


def unpacked(name: str, told: str) -> object:
    """The object that was packed."""
    return unpack(name, told)


def packed(told: object) -> tuple[object, tuple[str, str]]:
    """What `pickle` makes an object from."""
    return unpacked, pack(told)


def register() -> None:
    """Tells `pickle` and `copy` of the classes."""
    for cls in packed_classes():
        copyreg.pickle(cls, packed)  # type: ignore[arg-type]
