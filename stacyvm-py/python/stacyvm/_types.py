"""What `Sandbox.create` and commands take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Literal, TypedDict, Union

from ._native import PullInfo

Path = Union[str, bytes]
"""A path inside: text, or bytes where it is no text."""
Command = Union[str, bytes, Sequence[Union[str, bytes]]]
"""A line for the shell inside, or an argument vector without a shell."""
Data = Union[str, bytes, bytearray, memoryview, IO[bytes], Iterable[bytes]]
"""What a file is written from."""
OnOutput = Callable[[str], object]
"""Is called with text as it comes; characters are never cut in two."""

OnPull = Callable[[PullInfo], object]
"""Is called with how far a pull is, where the call waits."""


class PoolOptions(TypedDict, total=False):
    """The keywords of `pool`: those of `create`, but for `id`, `idempotency_key` and
    `secrets`, which are a claim's to bring."""

    image: str
    """An image's reference, `host`, or the absolute path of a root directory."""
    template: str
    snapshot: str
    provider: str
    """A configured provider: `oci` (embedded), `docker`, ..."""
    runtime: str
    """The runtime below it: `runsc`, `runc`, ..."""
    timeout: float | None
    """Seconds that one lives from its claim on."""
    idle_timeout: float | None
    """Seconds that it lives without use."""
    memory_mib: int | None
    cpus: float | None
    pids: int | None
    open_files: int | None
    disk_mib: int | None
    env: Mapping[str, str]
    metadata: Mapping[str, str]
    """Labels, by which `list` finds it."""
    user: str | None
    cwd: str | None
    privileges: Literal["none", "namespaced_root"]
    network: Literal["none", "full"] | Mapping[str, Sequence[str]] | None
    ports: Sequence[Mapping[str, int]]
    """Published ports: `{"guest": 80, "host": 8080}`."""
    mounts: Sequence[Mapping[str, Any]]
    """`{"target": "/data", "source": {"host": "/srv"}, "writable": True}`."""
    lifetime: Literal["attached", "detached"]
    """`attached` ends with this process, however that ends."""
    read_only_root: bool
    profile: Literal["default", "strict"]
    provider_options: Mapping[str, Any]
    pull: Literal["never", "missing", "always"]


class CreateOptions(PoolOptions, total=False):
    """The keywords of `create`. What is written is required: it is in force, or the
    call fails before anything is made."""

    secrets: Mapping[str, Mapping[str, str]]
    """By variable inside: `{"env": NAME}` or `{"file": PATH}` of the host."""
    idempotency_key: str
    id: str


class HowToRun(TypedDict, total=False):
    """The keywords that all commands take."""

    env: dict[str, str] | None
    cwd: str | None
    user: str | None
    timeout: float | None
    """Seconds after which its whole tree is killed."""
