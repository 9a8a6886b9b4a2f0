"""What E2B's calls take and give."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import IO, Any, Literal, TypedDict, TypeVar, Union

T = TypeVar("T")

OutputHandler = Union[Callable[[T], None], Callable[[T], Awaitable[None]]]
"""Is called with what comes; in an event loop it may be a coroutine function."""
Username = str
Stdout = str
Stderr = str
PtyOutput = bytes
WriteData = Union[str, bytes, IO[bytes], IO[str], Iterable[bytes]]
"""What a file is written from."""
SandboxListOrder = Literal["asc", "desc"]
"""By the time of creation."""
SnapshotMode = Literal["full", "filesystem"]
SandboxOnResume = Literal["restore", "reboot"]
ALL_TRAFFIC = "0.0.0.0/0"
"""Every address."""


@dataclass
class PtySize:
    """The size of a terminal."""

    rows: int
    cols: int


@dataclass
class CommandResult:
    """What a command said, and how it ended."""

    stderr: str
    stdout: str
    exit_code: int
    """-1 for a command that a signal ended."""
    error: str | None
    """`exit status 3` or `signal: killed`; `None` after success."""


@dataclass
class ProcessInfo:
    """A command that runs."""

    pid: int
    tag: str | None
    """`None`: commands have no tags here."""
    cmd: str
    args: list[str]
    envs: dict[str, str]
    """Empty: a command's variables are not told again."""
    cwd: str | None
    """`None`: nor is its directory."""


class FileType(Enum):
    """What there is at a path."""

    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"


@dataclass
class WriteInfo:
    """A file that was written."""

    name: str
    type: FileType | None
    path: str
    metadata: dict[str, str] | None = field(default=None, kw_only=True)
    """`None`: files have no labels here."""


@dataclass
class EntryInfo(WriteInfo):
    """A file, directory or symbolic link."""

    size: int
    mode: int
    permissions: str
    """As `-rw-r--r--`."""
    owner: str
    group: str
    modified_time: datetime
    symlink_target: str | None = None


class WriteEntry(TypedDict):
    """One of the files of `files.write_files`."""

    path: str
    data: WriteData


class FilesystemEventType(Enum):
    """What happened to a path that is watched."""

    CHMOD = "chmod"
    CREATE = "create"
    REMOVE = "remove"
    RENAME = "rename"
    """Never told here: the old name is removed and the new one created."""
    WRITE = "write"


@dataclass
class FilesystemEvent:
    """A change of a path that is watched."""

    name: str
    """Where, relative to the directory."""
    type: FilesystemEventType
    entry: EntryInfo | None = None
    """With `include_entry`: what is there now."""


class SandboxState(str, Enum):
    """Where a sandbox stands."""

    PAUSED = "paused"
    RUNNING = "running"

    def __str__(self) -> str:
        return str(self.value)


@dataclass
class SandboxInfo:
    """What is known of a sandbox."""

    sandbox_id: str
    sandbox_domain: str | None
    """`None`: it is reached in its host."""
    template_id: str
    """What its root file system was made from: `host`, an image."""
    name: str | None
    metadata: dict[str, str]
    started_at: datetime
    end_at: datetime
    """When it will be ended; the last of all times where it has no end."""
    state: SandboxState
    cpu_count: int
    memory_mb: int
    envd_version: str
    """`stacyvm`: there is no envd inside."""
    allow_internet_access: bool | None = None
    network: dict[str, Any] | None = None
    """`None`: what it may reach is not told again."""
    lifecycle: dict[str, Any] | None = field(
        default_factory=lambda: {"on_timeout": "kill", "auto_resume": False}
    )
    volume_mounts: list[dict[str, str]] = field(default_factory=lambda: list[dict[str, str]]())


@dataclass
class SandboxQuery:
    """Which sandboxes to list."""

    metadata: dict[str, str] | None = None
    state: list[SandboxState] | None = None
    started_after: datetime | None = None
    template: str | None = None


@dataclass
class SandboxMetrics:
    """What a sandbox uses."""

    cpu_count: int
    cpu_used_pct: float
    """Since its creation."""
    disk_total: int
    """0 where it has no limit."""
    disk_used: int
    """0 where the provider does not see it."""
    mem_total: int
    mem_used: int
    mem_cache: int
    """0: part of `mem_used` here."""
    timestamp: datetime


@dataclass
class SnapshotInfo:
    """A snapshot, from which `Sandbox.create(snapshot_id)` makes sandboxes."""

    snapshot_id: str
    names: list[str] = field(default_factory=lambda: list[str]())


@dataclass(frozen=True)
class SandboxNetworkSelectorContext:
    """What a function for `allow_out` or `deny_out` is called with."""

    all_traffic: str = ALL_TRAFFIC
    rules: Mapping[str, Any] = field(default_factory=lambda: dict[str, Any]())


Selector = Union[Sequence[str], Callable[[SandboxNetworkSelectorContext], Sequence[str]]]
"""Addresses, networks and hosts."""


class SandboxNetworkOpts(TypedDict, total=False):
    """What a sandbox may reach."""

    allow_out: Selector
    deny_out: Selector
    allow_public_traffic: bool


class SandboxLifecycle(TypedDict, total=False):
    """What happens at the end of the time."""

    on_timeout: Literal["kill"]
    auto_resume: Literal[False]


class ApiParams(TypedDict, total=False):
    """How E2B's service is asked. All of it is taken and means nothing here."""

    request_timeout: float | None
    retries: int | None
    headers: dict[str, str] | None
    api_headers: dict[str, str] | None
    api_key: str | None
    validate_api_key: bool | None
    domain: str | None
    api_url: str | None
    debug: bool | None
    proxy: Any
    sandbox_url: str | None
    http_version: Any


class CreateParams(ApiParams, total=False):
    """The keywords of `create` that are stacyvm's own, beside E2B's."""

    image: str
    provider: str
    runtime: str
    memory_mib: int | None
    cpus: float | None
    pids: int | None
    disk_mib: int | None
    ports: Sequence[Mapping[str, int]]
    mounts: Sequence[Mapping[str, Any]]
    lifetime: Literal["attached", "detached"]
