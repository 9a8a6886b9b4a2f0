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
from ._code import Context, Execution, ExecutionError, Logs, OutputMessage, Result
from ._errors import (
    AuthenticationException,
    CommandExitException,
    FileNotFoundException,
    GuestUnresponsiveException,
    InvalidArgumentException,
    NotEnoughSpaceException,
    NotFoundException,
    NotSupportedException,
    RateLimitException,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxUnreachableException,
    ServiceBusyException,
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
    "Context",
    "EntryInfo",
    "Execution",
    "ExecutionError",
    "FileNotFoundException",
    "FileStreamReader",
    "FileType",
    "FilesystemEvent",
    "FilesystemEventType",
    "GuestUnresponsiveException",
    "InvalidArgumentException",
    "Logs",
    "NotEnoughSpaceException",
    "NotFoundException",
    "NotSupportedException",
    "OutputHandler",
    "OutputMessage",
    "ProcessInfo",
    "PtyOutput",
    "PtySize",
    "RateLimitException",
    "Result",
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
    "ServiceBusyException",
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

_ABSENT = {
    ("Template", "AsyncTemplate", "Build", "CopyItem", "Dockerfile", "LogEntry", "ReadyCmd",
     "default_build_logger", "wait_for_"): "name an image: `Sandbox.create(image=...)`",
    ("Volume", "AsyncVolume"): "mount what the host has: `Sandbox.create(mounts=...)`",
    ("Secret", "AsyncSecret", "SandboxIam"): "give credentials with `envs`",
    ("Git",): "run git: `sandbox.commands.run(\"git ...\")`",
    ("McpServer", "GitHubMcp"): "run an MCP server with `sandbox.commands.run`",
    ("E2B", "ApiClient", "ConnectionConfig", "client"): "there is no service; use `Sandbox.create()`",
    ("get_signature",): "there are no URLs of files; use `sandbox.files`",
}
"""How names of E2B begin that are not offered, and what to use."""


def __getattr__(name: str) -> Any:
    for beginnings, words in _ABSENT.items():
        if name.startswith(beginnings):
            raise ImportError(f"stacyvm.e2b has no {name}, which is of E2B's cloud; {words}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
