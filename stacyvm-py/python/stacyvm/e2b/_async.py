# pyright: reportPrivateUsage=false
"""E2B's sandboxes, in an event loop. `_sync.py` is made from this file by scripts/python-sync.py."""

from __future__ import annotations

import builtins
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from .. import SandboxInfo as Info
from .._async import AsyncSandbox as Machine
from .._errors import InvalidArgumentError, NotFoundError, UnsupportedError
from ._async_commands import AsyncCommands, AsyncInside, AsyncPty
from ._async_files import AsyncFilesystem
from ._by_id import by_id
from ._code import (
    Context,
    ErrorHandler,
    Execution,
    Logs,
    MessageHandler,
    ResultHandler,
    error_of,
    execution_of,
    message,
    result_of,
    without_envs,
)
from ._errors import (
    InvalidArgumentException,
    NotSupportedException,
    SandboxNotFoundException,
    told,
)
from ._options import (
    SNAPSHOT,
    absent,
    create_options,
    hinted,
    host_of,
    info_of,
    known,
    metrics_of,
    remaining,
    state_of,
    wanted,
)
from ._types import (
    ApiParams,
    CreateParams,
    SandboxInfo,
    SandboxLifecycle,
    SandboxListOrder,
    SandboxMetrics,
    SandboxNetworkOpts,
    SandboxOnResume,
    SandboxQuery,
    SnapshotInfo,
    SnapshotMode,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

TIMEOUT = 300
"""Seconds that a sandbox lives."""
PAGE = 100
"""Sandboxes of a page."""


class AsyncSandbox:
    """A disposable machine, with E2B's names and defaults."""

    default_sandbox_timeout = TIMEOUT
    default_template = "base"

    _id: str
    _machine: Machine | None

    commands: AsyncCommands
    """Its commands."""
    files: AsyncFilesystem
    """Its files."""
    pty: AsyncPty
    """Its terminals."""

    def __init__(self, *args: object, **opts: object) -> None:
        raise TypeError("use AsyncSandbox.create() or AsyncSandbox.connect(sandbox_id)")

    @classmethod
    def _with_id(cls, sandbox_id: str) -> Self:
        sandbox = cls.__new__(cls)
        sandbox._id = sandbox_id
        sandbox._machine = None
        return sandbox

    @classmethod
    def _of(cls, machine: Machine) -> Self:
        sandbox = cls._with_id(machine.id)
        sandbox._machine = machine
        inside = AsyncInside(machine)
        sandbox.commands = AsyncCommands(inside)
        sandbox.files = AsyncFilesystem(inside)
        sandbox.pty = AsyncPty(inside)
        return sandbox

    async def _found(self) -> Machine:
        if self._machine is None:
            try:
                self._machine = await Machine.connect(self._id)
            except InvalidArgumentError as error:
                raise SandboxNotFoundException(f"Sandbox {self._id} not found") from error
        return self._machine

    async def _known(self) -> tuple[Machine, Info]:
        """It and what is known of it, unless it has ended."""
        machine = await self._found()
        info = await machine.get_info()
        if state_of(info) is None:
            raise SandboxNotFoundException(f"Sandbox {self._id} not found: it is {info.phase}")
        return machine, info

    @classmethod
    async def create(
        cls,
        template: str | None = None,
        timeout: float | None = None,
        metadata: dict[str, str] | None = None,
        envs: dict[str, str] | None = None,
        secure: bool | None = None,
        allow_internet_access: bool | None = None,
        mcp: Mapping[str, Any] | None = None,
        network: SandboxNetworkOpts | None = None,
        iam: Mapping[str, Any] | None = None,
        lifecycle: SandboxLifecycle | None = None,
        volume_mounts: Mapping[str, Any] | None = None,
        logger: object = None,
        idempotency_key: str | None = None,
        **opts: Unpack[CreateParams],
    ) -> Self:
        """Makes a sandbox that lives `timeout` seconds, 300 unless it is said.

        `template` is a snapshot's id, or a template of stacyvm's provider; an image is
        named with `image=...`. There is no network unless `allow_internet_access` or
        `network` ask for it.
        """
        with told(control=True):
            options = create_options(
                template, timeout, metadata, envs, allow_internet_access, network, lifecycle,
                idempotency_key, opts, mcp=mcp, iam=iam, volume_mounts=volume_mounts,
            )
            try:
                return cls._of(await Machine.create(**options))
            except UnsupportedError as error:
                raise hinted(error) from error

    @by_id
    async def connect(
        self,
        timeout: float | None = None,
        logger: object = None,
        *,
        on_resume: SandboxOnResume = "restore",
        **opts: Unpack[ApiParams],
    ) -> AsyncSandbox:
        """Finds a sandbox by its id, and resumes one that is paused. The end is moved
        later to `timeout` seconds from now, 300 unless it is said, never earlier."""
        known(cast("dict[str, Any]", opts))
        if on_resume != "restore":
            raise NotSupportedException("a paused sandbox goes on where it was; kill it to reboot")
        seconds = TIMEOUT if timeout is None else timeout
        with told(control=True):
            machine, info = await self._known()
            if info.phase == "paused":
                await machine.resume()
                await machine.set_timeout(seconds)
            elif info.ends is not None:
                if info.ends < datetime.now(timezone.utc) + timedelta(seconds=seconds):
                    await machine.set_timeout(seconds)
            return self if "commands" in vars(self) else type(self)._of(machine)

    @classmethod
    def list(
        cls,
        query: SandboxQuery | None = None,
        limit: int | None = None,
        next_token: str | None = None,
        order: SandboxListOrder | None = None,
        **opts: Unpack[ApiParams],
    ) -> AsyncSandboxPaginator:
        """Lists the sandboxes that run or are paused, the newest first."""
        known(cast("dict[str, Any]", opts))
        return AsyncSandboxPaginator(query, limit, next_token, order)

    @property
    def sandbox_id(self) -> str:
        """Its id."""
        return self._id

    @property
    def traffic_access_token(self) -> str | None:
        """`None`: ports are not published to the world."""
        return None

    @by_id
    async def kill(self, **opts: Unpack[ApiParams]) -> bool:
        """Ends a sandbox. False if there is none, or it had ended."""
        known(cast("dict[str, Any]", opts))
        try:
            with told(control=True):
                return await (await self._found()).kill()
        except NotFoundError:
            return False

    @by_id
    async def set_timeout(self, timeout: float, **opts: Unpack[ApiParams]) -> None:
        """Sets the end to so many seconds from now; 0 ends it."""
        known(cast("dict[str, Any]", opts))
        with told(control=True):
            machine = await self._found()
            if timeout is None:  # pyright: ignore[reportUnnecessaryComparison]
                raise InvalidArgumentException("timeout is None, expected seconds, 0 or more")
            if timeout == 0:
                await machine.kill()
            else:
                await machine.set_timeout(timeout)

    @by_id
    async def get_info(self, **opts: Unpack[ApiParams]) -> SandboxInfo:
        """What is known of it."""
        known(cast("dict[str, Any]", opts))
        with told(control=True):
            _, info = await self._known()
            state = state_of(info)
            assert state is not None
            return info_of(info, state)

    async def is_running(self, request_timeout: float | None = None) -> bool:
        """Whether commands can run in it now."""
        with told():
            return await (await self._found()).is_running()

    @by_id
    async def get_metrics(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        **opts: Unpack[ApiParams],
    ) -> builtins.list[SandboxMetrics]:
        """What it uses now: a list of one, for the past is not kept."""
        known(cast("dict[str, Any]", opts))
        with told(control=True):
            machine, info = await self._known()
            return [metrics_of(info, await machine.metrics())]

    @by_id
    async def pause(
        self,
        keep_memory: bool | None = None,
        *,
        mode: SnapshotMode | None = None,
        strict: bool = False,
        **opts: Unpack[ApiParams],
    ) -> bool:
        """Stops every process until `connect`. Its memory stays in use, and it has no end
        while it is paused. False if it was paused."""
        known(cast("dict[str, Any]", opts))
        if keep_memory is False or mode == "filesystem":
            raise NotSupportedException("processes are stopped and kept; leave `mode` out")
        with told(control=True):
            machine, info = await self._known()
            if info.phase == "paused":
                return False
            # In this order: who is inside keeps the time on some providers.
            await machine.set_timeout(None)
            try:
                await machine.pause()
            except BaseException:
                await machine.set_timeout(remaining(info))
                raise
            return True

    beta_pause = pause

    @by_id
    async def create_snapshot(
        self,
        name: str | None = None,
        *,
        mode: SnapshotMode | None = None,
        **opts: Unpack[ApiParams],
    ) -> SnapshotInfo:
        """Saves it; `create(snapshot_id)` makes sandboxes from that."""
        known(cast("dict[str, Any]", opts))
        if name is not None:
            raise NotSupportedException("snapshots have no names; keep `snapshot_id`")
        with told(control=True):
            machine, _ = await self._known()
            return SnapshotInfo(SNAPSHOT + (await machine.snapshot()).id)

    async def run_code(
        self,
        code: str,
        language: str | None = None,
        context: Context | None = None,
        on_stdout: MessageHandler | None = None,
        on_stderr: MessageHandler | None = None,
        on_result: ResultHandler | None = None,
        on_error: ErrorHandler | None = None,
        envs: dict[str, str] | None = None,
        timeout: float | None = TIMEOUT,
        request_timeout: float | None = None,
    ) -> Execution:
        """Runs code in an interpreter that keeps its state between calls.

        `TimeoutException` where it took longer than `timeout`; its state is kept.
        """
        without_envs(envs)
        machine, logs = await self._found(), Logs()
        with told():
            gathered = await machine.run_code(
                code,
                language,
                context=context,
                timeout=timeout or None,
                on_stdout=message(on_stdout, logs.stdout, False),
                on_stderr=message(on_stderr, logs.stderr, True),
                on_result=(lambda result: on_result(result_of(result))) if on_result else None,
                on_error=(lambda error: on_error(error_of(error))) if on_error else None,
            )
        return execution_of(gathered, logs)

    async def create_code_context(
        self,
        cwd: str | None = None,
        language: str | None = None,
        request_timeout: float | None = None,
    ) -> Context:
        """Makes an interpreter apart from the others."""
        machine = await self._found()
        with told():
            return await machine.create_code_context(language or "python", cwd=cwd)

    async def list_code_contexts(self) -> builtins.list[Context]:
        """The interpreters of this object."""
        return await (await self._found()).list_code_contexts()

    async def remove_code_context(self, context: Context | str) -> None:
        """Ends an interpreter."""
        await (await self._found()).remove_code_context(context)

    def get_host(self, port: int) -> str:
        """The host and port at which others reach a port of it."""
        if self._machine is None:
            raise SandboxNotFoundException("connect to the sandbox first")
        return host_of(self._machine._native, port)

    download_url = absent('there are no URLs of files; `sandbox.files.read(path, "stream")`')
    upload_url = absent("there are no URLs of files; `sandbox.files.write(path, data)`")
    fork = absent("sandboxes are not forked; make another one, or `create_snapshot()`")
    update_network = absent("say what may be reached when it is made: `create(network=...)`")
    list_snapshots = absent("keep the ids of `create_snapshot()`")
    delete_snapshot = absent("remove it with the tools of its provider")
    beta_create = absent("a sandbox is killed at its timeout; `create()`, and `pause()` before it")
    get_mcp_url = absent("there is no MCP gateway; run a server with `commands.run`")
    get_mcp_token = absent("there is no MCP gateway; run a server with `commands.run`")

    @property
    def git(self) -> Any:
        """Not offered, and deprecated by E2B."""
        raise NotSupportedException("run git: `sandbox.commands.run(\"git ...\")`")

    async def __aenter__(self) -> Self:
        with told(control=True):
            await (await self._found()).__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.kill()

    def __repr__(self) -> str:
        return f"AsyncSandbox({self._id!r})"


class AsyncSandboxPaginator:
    """Sandboxes, page by page: those that were there at its first page."""

    def __init__(
        self,
        query: SandboxQuery | None = None,
        limit: int | None = None,
        next_token: str | None = None,
        order: SandboxListOrder | None = None,
    ) -> None:
        self.query = query
        self.limit = limit
        self.order = order
        self._token = next_token
        self._infos: list[Info] | None = None
        self._has_next = True

    @property
    def has_next(self) -> bool:
        """Whether there are more."""
        return self._has_next

    @property
    def next_token(self) -> str | None:
        """Where another paginator of the same query would go on."""
        return self._token

    async def next_items(self, **opts: Unpack[ApiParams]) -> list[SandboxInfo]:
        """The next page."""
        known(cast("dict[str, Any]", opts))
        if not self._has_next:
            raise Exception("No more items to fetch")
        size = PAGE if self.limit is None else self.limit
        if size < 1:
            raise InvalidArgumentException(f"limit is {size}, expected 1 or more")
        with told(control=True):
            if self._infos is None:
                self._infos = await self._all()
        page, self._infos = self._infos[:size], self._infos[size:]
        self._has_next = bool(self._infos)
        self._token = _token(page[-1]) if self._has_next else None
        states = [(info, state_of(info)) for info in page]
        return [info_of(info, state) for info, state in states if state is not None]

    async def _all(self) -> list[Info]:
        metadata = self.query.metadata if self.query else None
        infos = [
            info
            async for info in Machine.list(metadata=metadata)
            if wanted(self.query, info)
        ]
        newest = self.order != "asc"
        infos.sort(key=_place, reverse=newest)
        if self._token is None:
            return infos
        try:
            at = urlsafe_b64decode(self._token.encode()).decode()
            datetime.fromisoformat(at.partition(" ")[0])
        except ValueError as error:
            raise InvalidArgumentException(
                "next_token is another thing than the `next_token` of another paginator"
            ) from error
        return [info for info in infos if (_place(info) < at if newest else _place(info) > at)]


def _place(info: Info) -> str:
    return f"{info.created.isoformat(timespec='microseconds')} {info.id}"


def _token(info: Info) -> str:
    return urlsafe_b64encode(_place(info).encode()).decode()
