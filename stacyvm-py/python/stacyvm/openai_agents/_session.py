# pyright: reportIncompatibleVariableOverride=false
"""A sandbox as a session of the SDK."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from agents.sandbox.errors import (
    ExecTimeoutError,
    ExecTransportError,
    ExposedPortUnavailableError,
    SandboxError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
    WorkspaceRootNotFoundError,
    WorkspaceStartError,
)
from agents.sandbox.session import BaseSandboxSession, SandboxSessionState
from agents.sandbox.session.pty_types import (
    PTY_PROCESSES_MAX,
    PtyExecUpdate,
    allocate_pty_process_id,
    clamp_pty_yield_time_ms,
    process_id_to_prune_from_meta,
    resolve_pty_write_yield_time_ms,
)
from agents.sandbox.session.runtime_helpers import (
    RESOLVE_WORKSPACE_PATH_HELPER,
    RuntimeHelperScript,
)
from agents.sandbox.session.workspace_payloads import coerce_write_payload
from agents.sandbox.types import ExecResult, ExposedPortEndpoint, User
from agents.sandbox.util.tar_utils import UnsafeTarMemberError, validate_tarfile
from pydantic import Field

from .._async import AsyncCommandHandle, AsyncPtyHandle, AsyncSandbox
from .._async_files import AsyncFiles
from .._errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    NotFoundError,
    PathNotFoundError,
    StacyError,
)
from ._process import Process, dropped, ended, status

if TYPE_CHECKING:
    from .._types import HowToRun

ARCHIVE_MAX = 16 << 30
"""Bytes of a workspace's archive that are taken from a sandbox."""
TAR = """
if tar --help 2>&1 | grep -q hard-dereference; then
    tar --hard-dereference "$@" || [ $? -eq 1 ]
else
    exec tar "$@"
fi
"""
"""The SDK takes no hard links back, so there are none where tar (not BusyBox's) can do
without. Its 1 tells of files that changed meanwhile: they are there as they were read."""


class StacySandboxSessionState(SandboxSessionState):
    """What a session is found or made again by."""

    type: Literal["stacyvm"] = "stacyvm"
    sandbox_id: str = ""
    options: dict[str, Any] = Field(default_factory=dict)


class StacySandboxSession(BaseSandboxSession):
    """A sandbox as a session of the SDK. `shutdown` ends it."""

    state: StacySandboxSessionState

    def __init__(self, *, state: StacySandboxSessionState, sandbox: AsyncSandbox) -> None:
        self.state = state
        self._sandbox = sandbox
        self._processes: dict[int, Process] = {}

    async def running(self) -> bool:
        """Whether commands can run in it now."""
        try:
            return await self._sandbox.is_running()
        except NotFoundError:
            return False

    async def _prepare_backend_workspace(self) -> None:
        root = self.state.manifest.root
        try:
            await self._sandbox.files.make_dir(root)
        except StacyError as error:
            raise start_error(root, error) from error

    async def _shutdown_backend(self) -> None:
        with contextlib.suppress(NotFoundError):
            await self._sandbox.kill()

    def _runtime_helpers(self) -> tuple[RuntimeHelperScript, ...]:
        return (RESOLVE_WORKSPACE_PATH_HELPER,)

    async def _validate_path_access(self, path: Path | str, *, for_write: bool = False) -> Path:
        return await self._validate_remote_path_access(path, for_write=for_write)

    # Commands.

    async def exec(
        self,
        *command: str | Path,
        timeout: float | None = None,
        shell: bool | list[str] = True,
        user: str | User | None = None,
    ) -> ExecResult:
        """Runs a command, as another user without `sudo`."""
        argv = self._prepare_exec_command(*command, shell=shell, user=None)
        return await self._run(argv, await self._how(timeout, user))

    async def _exec_internal(
        self, *command: str | Path, timeout: float | None = None
    ) -> ExecResult:
        return await self._run([str(word) for word in command], await self._how(timeout, None))

    async def _how(self, timeout: float | None, user: str | User | None) -> HowToRun:
        env = await self.state.manifest.environment.resolve()
        return {
            "env": env,
            "cwd": self.state.manifest.root,
            "user": _name(user),
            # Zero is a deadline of the SDK, and none of ours.
            "timeout": None if timeout is None else max(timeout, 0.001),
        }

    async def _run(self, argv: list[str], how: HowToRun) -> ExecResult:
        try:
            result = await self._sandbox.exec(argv, **how)
        except (CommandNotFoundError, CommandNotExecutableError) as error:
            found = isinstance(error, CommandNotExecutableError)
            stderr = f"{error}\n".encode()
            return ExecResult(stdout=b"", stderr=stderr, exit_code=126 if found else 127)
        except StacyError as error:
            raise self._exec_error(argv, error) from error
        if result.exit.reason == "timed_out":
            raise ExecTimeoutError(command=argv, timeout_s=how.get("timeout"))
        code = status(result.exit)
        if code is None:
            raise ExecTransportError(command=argv, message=f"the command ended by: {result.exit}")
        notes = ended(result.exit)
        notes += dropped(result.stdout_truncated_bytes, "stdout")
        notes += dropped(result.stderr_truncated_bytes, "stderr")
        return ExecResult(
            stdout=result.stdout_bytes, stderr=result.stderr_bytes + notes, exit_code=code
        )

    def _exec_error(self, argv: list[str], error: StacyError) -> SandboxError:
        if error.context.get("field") == "workdir":
            root = Path(self.state.manifest.root)
            return WorkspaceRootNotFoundError(path=root, context=_facts(error), cause=error)
        return ExecTransportError(
            command=argv,
            context=_facts(error),
            cause=error,
            message=str(error),
            retryable=error.retryable,
        )

    # Processes that go on between calls.

    def supports_pty(self) -> bool:
        """Yes: on a terminal, or in the background without one."""
        return True

    async def pty_exec_start(
        self,
        *command: str | Path,
        timeout: float | None = None,
        shell: bool | list[str] = True,
        user: str | User | None = None,
        tty: bool = False,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        """Starts a process and tells what it wrote until it ended or the time was over.
        `timeout` kills its whole tree after so many seconds."""
        argv = self._prepare_exec_command(*command, shell=shell, user=None)
        how = await self._how(timeout, user)
        if len(self._processes) >= PTY_PROCESSES_MAX:
            meta = [(n, p.used, p.done) for n, p in self._processes.items()]
            oldest = process_id_to_prune_from_meta(meta)
            if oldest is not None:
                await self._processes.pop(oldest).end()
        try:
            handle: AsyncPtyHandle | AsyncCommandHandle
            if tty:
                handle = await self._sandbox.pty.create(argv, **how)
            else:
                handle = await self._sandbox.commands.run(argv, background=True, **how)
        except StacyError as error:
            raise self._exec_error(argv, error) from error
        number = allocate_pty_process_id(set(self._processes))
        self._processes[number] = Process(handle)
        wait = 10_000 if yield_time_s is None else int(yield_time_s * 1000)
        return await self._look(number, clamp_pty_yield_time_ms(wait), max_output_tokens)

    async def pty_write_stdin(
        self,
        *,
        session_id: int,
        chars: str,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        """Types into a process that has a terminal, and tells what any wrote since."""
        process = self._resolve_pty_session_entry(
            pty_processes=self._processes, session_id=session_id
        )
        if chars:
            if not isinstance(process.handle, AsyncPtyHandle):
                # The SDK knows it by these words.
                raise RuntimeError("stdin is not available for this process")
            # What it ended by is told below.
            with contextlib.suppress(StacyError):
                await process.handle.send_input(chars)
        wait = resolve_pty_write_yield_time_ms(
            yield_time_ms=250 if yield_time_s is None else int(yield_time_s * 1000),
            input_empty=not chars,
        )
        return await self._look(session_id, wait, max_output_tokens)

    async def _look(self, number: int, wait: int, tokens: int | None) -> PtyExecUpdate:
        process = self._resolve_pty_session_entry(
            pty_processes=self._processes, session_id=number
        )
        update = await process.look(number, wait, tokens)
        if update.process_id is None:
            self._processes.pop(number, None)
        return update

    async def pty_terminate_all(self) -> None:
        """Kills the processes that were started here."""
        processes = list(self._processes.values())
        self._processes.clear()
        await asyncio.gather(*(process.end() for process in processes))

    # Files.

    def _files(self, user: str | User | None) -> AsyncFiles:
        name = _name(user)
        return self._sandbox.files if name is None else self._sandbox.files.with_user(name)

    async def read(self, path: Path, *, user: str | User | None = None) -> io.IOBase:
        """Reads a file of the workspace, as another user if that is told."""
        inside = (await self._validate_path_access(path)).as_posix()
        try:
            return io.BytesIO(await self._files(user).read(inside, format="bytes"))
        except PathNotFoundError as error:
            raise WorkspaceReadNotFoundError(
                path=path, context=_facts(error), cause=error
            ) from error
        except StacyError as error:
            raise _read_error(path, error) from error

    async def _read_bounded(self, path: Path, *, max_bytes: int) -> bytes:
        inside = (await self._validate_path_access(path)).as_posix()
        data = bytearray()
        async for piece in await self._sandbox.files.read(inside, format="stream"):
            data += piece
            if len(data) >= max_bytes:
                break
        return bytes(data[:max_bytes])

    async def write(
        self, path: Path, data: io.IOBase, *, user: str | User | None = None
    ) -> None:
        """Writes a file of the workspace, and the directories above it."""
        inside = (await self._validate_path_access(path, for_write=True)).as_posix()
        source = coerce_write_payload(path=path, data=data).stream
        try:
            await self._files(user).write(inside, cast("IO[bytes]", source))
        except StacyError as error:
            raise _write_error(path, error) from error

    # The workspace as a whole.

    async def persist_workspace(self) -> io.IOBase:
        """The workspace as a tar archive, without what is ephemeral."""
        root = self._workspace_root_path()
        skipped = sorted(path.as_posix() for path in self._persist_workspace_skip_relpaths())
        excluded = ["--exclude=./" + re.sub(r"[][*?\\]", r"\\\g<0>", path) for path in skipped]
        async with self._archive() as inside:
            words = (*excluded, "-C", root.as_posix(), "-cf", inside, ".")
            done = await self.exec("sh", "-c", TAR, "tar", *words, shell=False)
            if not done.ok():
                raise WorkspaceArchiveReadError(path=root, context=_failed(done), retryable=False)
            archive = tempfile.TemporaryFile()
            try:
                async for piece in await self._sandbox.files.read(inside, format="stream"):
                    if archive.tell() + len(piece) > ARCHIVE_MAX:
                        context = {"reason": "too_large", "limit": ARCHIVE_MAX}
                        raise WorkspaceArchiveReadError(
                            path=root, context=context, retryable=False
                        )
                    archive.write(piece)
            except BaseException as error:
                archive.close()
                if isinstance(error, StacyError):
                    raise _read_error(root, error) from error
                raise
        archive.seek(0)
        return archive

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        """Fills the workspace from an archive that `persist_workspace` made."""
        root = self._workspace_root_path()
        source = coerce_write_payload(path=root, data=data).stream
        with tempfile.TemporaryFile() as archive:
            try:
                await asyncio.to_thread(_copy_checked, source, archive)
            except (UnsafeTarMemberError, tarfile.TarError, OSError) as error:
                context = {"reason": "unsafe_or_invalid_tar", "detail": str(error)}
                raise WorkspaceArchiveWriteError(
                    path=root, context=context, cause=error, retryable=False
                ) from error
            async with self._archive() as inside:
                try:
                    await self._sandbox.files.make_dir(root.as_posix())
                    await self._sandbox.files.write(inside, archive)
                except StacyError as error:
                    raise _write_error(root, error) from error
                words = ("tar", "-C", root.as_posix(), "-xpf", inside)
                done = await self.exec(*words, shell=False)
                if not done.ok():
                    raise WorkspaceArchiveWriteError(
                        path=root, context=_failed(done), retryable=False
                    )

    @asynccontextmanager
    async def _archive(self) -> AsyncGenerator[str, None]:
        """The path of an archive inside, which is gone afterwards."""
        inside = f"/tmp/stacyvm-{uuid.uuid4().hex}.tar"
        try:
            yield inside
        finally:
            with contextlib.suppress(StacyError):
                await self._sandbox.files.remove(inside)

    # Ports.

    async def _resolve_exposed_port(self, port: int) -> ExposedPortEndpoint:
        try:
            url = urlsplit(await self._sandbox.get_url(port))
        except StacyError as error:
            raise ExposedPortUnavailableError(
                port=port,
                exposed_ports=self.state.exposed_ports,
                reason="backend_unavailable",
                context=_facts(error),
                cause=error,
                retryable=error.retryable,
            ) from error
        tls = url.scheme == "https"
        return ExposedPortEndpoint(
            host=url.hostname or "", port=url.port or (443 if tls else 80), tls=tls
        )


def _name(user: str | User | None) -> str | None:
    return user.name if isinstance(user, User) else user


def _copy_checked(source: io.IOBase, archive: IO[bytes]) -> None:
    shutil.copyfileobj(cast("IO[bytes]", source), archive)
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        validate_tarfile(tar)
    archive.seek(0)


def _failed(done: ExecResult) -> dict[str, object]:
    stderr = done.stderr[-4096:].decode(errors="replace")
    return {"reason": "tar_failed", "exit_code": done.exit_code, "stderr": stderr}


def _facts(error: StacyError) -> dict[str, object]:
    return {"backend": "stacyvm", "reason": error.code, "detail": str(error)}


def start_error(root: str, error: StacyError) -> WorkspaceStartError:
    return WorkspaceStartError(
        path=Path(root),
        context=_facts(error),
        cause=error,
        message=f"failed to start session: {error}",
        retryable=error.retryable,
    )


def _read_error(path: Path, error: StacyError) -> WorkspaceArchiveReadError:
    return WorkspaceArchiveReadError(
        path=path, context=_facts(error), cause=error, retryable=error.retryable
    )


def _write_error(path: Path, error: StacyError) -> WorkspaceArchiveWriteError:
    return WorkspaceArchiveWriteError(
        path=path, context=_facts(error), cause=error, retryable=error.retryable
    )
