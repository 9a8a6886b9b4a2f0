"""A sandbox as a backend of LangChain's deep agents.

It needs `pip install "stacyvm[langchain]"`.

    from deepagents import create_deep_agent
    from stacyvm import Sandbox
    from stacyvm.langchain import StacySandbox

    with Sandbox.create() as sandbox:
        agent = create_deep_agent(backend=StacySandbox(sandbox))
"""

from __future__ import annotations

from deepagents.backends.protocol import (
    FILE_NOT_FOUND,
    INVALID_PATH,
    IS_DIRECTORY,
    PERMISSION_DENIED,
    ExecuteResponse,
    FileDownloadResponse,
    FileOperationError,
    FileUploadResponse,
)
from deepagents.backends.sandbox import BaseSandbox

from ._errors import (
    InvalidArgumentError,
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    PermissionDeniedError,
    StacyError,
)
from ._sync import Sandbox

__all__ = ["StacySandbox"]

TIMEOUT = 1800
"""Seconds that a command may take which asks for no time of its own."""


class StacySandbox(BaseSandbox):
    """A sandbox for deep agents. Who made the sandbox ends it."""

    def __init__(self, sandbox: Sandbox, *, timeout: float | None = TIMEOUT) -> None:
        self._sandbox = sandbox
        self._timeout = timeout

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return self._sandbox.id

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Runs a line of the shell. Both streams come as one; a command that did not
        exit by itself has no exit code, and its output says how it ended."""
        line = ["/bin/sh", "-c", 'exec /bin/sh -c "$1" 2>&1', "sh", command]
        result = self._sandbox.commands.run(line, timeout=timeout or self._timeout)
        output = result.stdout
        if result.exit_code is None:
            output += f"\n[the command ended by: {result.exit}]"
        truncated = result.stdout_truncated_bytes > 0
        return ExecuteResponse(output=output, exit_code=result.exit_code, truncated=truncated)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files, each for itself, and the directories above them."""
        return [FileUploadResponse(path=path, error=self._write(path, data)) for path, data in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files, each for itself."""
        return [self._read(path) for path in paths]

    def _write(self, path: str, data: bytes) -> FileOperationError | None:
        try:
            self._sandbox.files.write(path, data)
        except StacyError as error:
            return _code(error)
        return None

    def _read(self, path: str) -> FileDownloadResponse:
        try:
            content = self._sandbox.files.read(path, format="bytes")
        except StacyError as error:
            return FileDownloadResponse(path=path, error=_code(error))
        return FileDownloadResponse(path=path, content=content)


def _code(error: StacyError) -> FileOperationError:
    """The word of deep agents for what a file could not be; other errors are raised."""
    if isinstance(error, NotFoundError):
        return FILE_NOT_FOUND
    if isinstance(error, PermissionDeniedError):
        return PERMISSION_DENIED
    if isinstance(error, IsDirectoryError):
        return IS_DIRECTORY
    if isinstance(error, (InvalidArgumentError, NotDirectoryError)):
        return INVALID_PATH
    raise error
