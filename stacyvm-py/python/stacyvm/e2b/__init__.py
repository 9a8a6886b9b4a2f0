"""E2B's names over stacyvm: `from e2b import Sandbox` becomes `from stacyvm.e2b import Sandbox`.

>>> from stacyvm.e2b import Sandbox
>>> with Sandbox.create() as sandbox:
...     print(sandbox.commands.run("echo hello").stdout, end="")
hello

What differs from E2B is in docs/migrate-from-e2b.md.
"""

from typing import Any

from ._async import AsyncSandbox, AsyncSandboxPaginator
from ._async_files import AsyncFileStreamReader
from ._errors import (
    AuthenticationException,
    CommandExitException,
    FileNotFoundException,
    InvalidArgumentException,
    NotEnoughSpaceException,
    NotFoundException,
    NotSupportedException,
    RateLimitException,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxUnreachableException,
    TemplateException,
    TimeoutException,
)
from ._handles import AsyncCommandHandle, AsyncWatchHandle, CommandHandle, WatchHandle
from ._sync import Sandbox, SandboxPaginator
from ._sync_files import FileStreamReader
from ._types import (
    ALL_TRAFFIC,
    ApiParams,
    CommandResult,
    EntryInfo,
    FilesystemEvent,
    FilesystemEventType,
    FileType,
    OutputHandler,
    ProcessInfo,
    PtyOutput,
    PtySize,
    SandboxInfo,
    SandboxLifecycle,
    SandboxListOrder,
    SandboxMetrics,
    SandboxNetworkOpts,
    SandboxNetworkSelectorContext,
    SandboxOnResume,
    SandboxQuery,
    SandboxState,
    SnapshotInfo,
    SnapshotMode,
    Stderr,
    Stdout,
    Username,
    WriteData,
    WriteEntry,
    WriteInfo,
)

__all__ = [
    "ALL_TRAFFIC",
    "ApiParams",
    "AsyncCommandHandle",
    "AsyncFileStreamReader",
    "AsyncSandbox",
    "AsyncSandboxPaginator",
    "AsyncWatchHandle",
    "AuthenticationException",
    "CommandExitException",
    "CommandHandle",
    "CommandResult",
    "EntryInfo",
    "FileNotFoundException",
    "FileStreamReader",
    "FileType",
    "FilesystemEvent",
    "FilesystemEventType",
    "InvalidArgumentException",
    "NotEnoughSpaceException",
    "NotFoundException",
    "NotSupportedException",
    "OutputHandler",
    "ProcessInfo",
    "PtyOutput",
    "PtySize",
    "RateLimitException",
    "Sandbox",
    "SandboxException",
    "SandboxInfo",
    "SandboxLifecycle",
    "SandboxListOrder",
    "SandboxMetrics",
    "SandboxNetworkOpts",
    "SandboxNetworkSelectorContext",
    "SandboxNotFoundException",
    "SandboxNotRunningException",
    "SandboxOnResume",
    "SandboxPaginator",
    "SandboxQuery",
    "SandboxState",
    "SandboxUnreachableException",
    "SnapshotInfo",
    "SnapshotMode",
    "Stderr",
    "Stdout",
    "TemplateException",
    "TimeoutException",
    "Username",
    "WatchHandle",
    "WriteData",
    "WriteEntry",
    "WriteInfo",
]

_IMAGES = "use an image: `Sandbox.create(image=...)`"
_ABSENT = {
    "AsyncTemplate": _IMAGES,
    "AsyncVolume": "mount what the host has: `Sandbox.create(mounts=...)`",
    "E2B": "use `Sandbox.create()`",
    "Secret": "give credentials with `envs`",
    "Template": _IMAGES,
    "Volume": "mount what the host has: `Sandbox.create(mounts=...)`",
    "default_build_logger": _IMAGES,
    "get_signature": "there are no URLs of files; use `sandbox.files`",
    "wait_for_port": _IMAGES,
}


def __getattr__(name: str) -> Any:
    if name in _ABSENT:
        raise ImportError(f"stacyvm.e2b has no {name}, which is of E2B's cloud; {_ABSENT[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
