# pyright: reportPrivateUsage=false
"""The engine of `Sandbox.create()`, opened by its first use."""

from __future__ import annotations

from ._native import Engine

_default: Engine | None = None


def default_engine() -> Engine:
    """The engine with the settings that the command line has too: `STACYVM_CONFIG`, else
    `stacyvm/stacyvm.yaml` in the user's or the system's configuration directory, and
    the variables of the environment."""
    global _default
    if _default is None:
        _default = Engine()
    return _default
