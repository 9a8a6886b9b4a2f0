# pyright: reportPrivateUsage=false
"""E2B's sandboxes, in threads. Made from `_async.py` by scripts/python-sync.py."""

from __future__ import annotations

import builtins
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from .. import SandboxInfo as Info
from .._sync import Sandbox as Machine
from .._errors import InvalidArgumentError, NotFoundError, UnsupportedError
from ._sync_commands import Commands, Inside, Pty
from ._sync_files import Filesystem
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


class Sandbox:
    """A disposable machine, with E2B's names and defaults."""

    default_sandbox_timeout = TIMEOUT
    default_template = "base"

    _id: str
    _machine: Machine | None

    commands: Commands
    """Its commands."""
    files: Filesystem
    """Its files."""
    pty: Pty
    """Its terminals."""

    def __init__(self, *args: object, **opts: object) -> None:
        raise TypeError("use Sandbox.create() or Sandbox.connect(sandbox_id)")

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
        inside = Inside(machine)
        sandbox.commands = Commands(inside)
        sandbox.files = Filesystem(inside)
        sandbox.pty = Pty(inside)
        return sandbox

    def _found(self) -> Machine:
        if self._machine is None:
            try:
                self._machine = Machine.connect(self._id)
            except InvalidArgumentError as error:
                raise SandboxNotFoundException(f"Sandbox {self._id} not found") from error
        return self._machine

    def _known(self) -> tuple[Machine, Info]:
        """It and what is known of it, unless it has ended."""
        machine = self._found()
        info = machine.get_info()
        if state_of(info) is None:
            raise SandboxNotFoundException(f"Sandbox {self._id} not found: it is {info.phase}")
        return machine, info

    @classmethod
    def create(
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
                return cls._of(Machine.create(**options))
            except UnsupportedError as error:
                raise hinted(error) from error

    @by_id
    def connect(
        self,
        timeout: float | None = None,
        logger: object = None,
        *,
        on_resume: SandboxOnResume = "restore",
        **opts: Unpack[ApiParams],
    ) -> Sandbox:
        """Finds a sandbox by its id, and resumes one that is paused. The end is moved
        later to `timeout` seconds from now, 300 unless it is said, never earlier."""
        known(cast("dict[str, Any]", opts))
        if on_resume != "restore":
            raise NotSupportedException("a paused sandbox goes on where it was; kill it to reboot")
        seconds = TIMEOUT if timeout is None else timeout
        with told(control=True):
            machine, info = self._known()
            if info.phase == "paused":
                machine.resume()
                machine.set_timeout(seconds)
            elif info.ends is not None:
                if info.ends < datetime.now(timezone.utc) + timedelta(seconds=seconds):
                    machine.set_timeout(seconds)
            return self if "commands" in vars(self) else type(self)._of(machine)

    @classmethod
    def list(
        cls,
        query: SandboxQuery | None = None,
        limit: int | None = None,
        next_token: str | None = None,
        order: SandboxListOrder | None = None,
        **opts: Unpack[ApiParams],
    ) -> SandboxPaginator:
        """Lists the sandboxes that run or are paused, the newest first."""
        known(cast("dict[str, Any]", opts))
        return SandboxPaginator(query, limit, next_token, order)

    @property
    def sandbox_id(self) -> str:
        """Its id."""
        return self._id

    @property
    def traffic_access_token(self) -> str | None:
        """`None`: ports are not published to the world."""
        return None

    @by_id
    def kill(self, **opts: Unpack[ApiParams]) -> bool:
        """Ends a sandbox. False if there is none, or it had ended."""
        known(cast("dict[str, Any]", opts))
        try:
            with told(control=True):
                return (self._found()).kill()
        except NotFoundError:
            return False

    @by_id
    def set_timeout(self, timeout: float, **opts: Unpack[ApiParams]) -> None:
        """Sets the end to so many seconds from now; 0 ends it."""
        known(cast("dict[str, Any]", opts))
        with told(control=True):
            machine = self._found()
            if timeout is None:  # pyright: ignore[reportUnnecessaryComparison]
                raise InvalidArgumentException("timeout is None, expected seconds, 0 or more")
            if timeout == 0:
                machine.kill()
            else:
                machine.set_timeout(timeout)

    @by_id
    def get_info(self, **opts: Unpack[ApiParams]) -> SandboxInfo:
        """What is known of it."""
        known(cast("dict[str, Any]", opts))
        with told(control=True):
            _, info = self._known()
            state = state_of(info)
            assert state is not None
            return info_of(info, state)

    def is_running(self, request_timeout: float | None = None) -> bool:
        """Whether commands can run in it now."""
        with told():
            return (self._found()).is_running()

    @by_id
    def get_metrics(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        **opts: Unpack[ApiParams],
    ) -> builtins.list[SandboxMetrics]:
        """What it uses now: a list of one, for the past is not kept."""
        known(cast("dict[str, Any]", opts))
        with told(control=True):
            machine, info = self._known()
            return [metrics_of(info, machine.metrics())]

    @by_id
    def pause(
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
            machine, info = self._known()
            if info.phase == "paused":
                return False
            # In this order: who is inside keeps the time on some providers.
            machine.set_timeout(None)
            try:
                machine.pause()
            except BaseException:
                machine.set_timeout(remaining(info))
                raise
            return True

    beta_pause = pause

    @by_id
    def create_snapshot(
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
            machine, _ = self._known()
            return SnapshotInfo(SNAPSHOT + (machine.snapshot()).id)

    def run_code(
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
        machine, logs = self._found(), Logs()
        with told():
            gathered = machine.run_code(
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

    def create_code_context(
        self,
        cwd: str | None = None,
        language: str | None = None,
        request_timeout: float | None = None,
    ) -> Context:
        """Makes an interpreter apart from the others."""
        machine = self._found()
        with told():
            return machine.create_code_context(language or "python", cwd=cwd)

    def list_code_contexts(self) -> builtins.list[Context]:
        """The interpreters of this object."""
        return (self._found()).list_code_contexts()

    def remove_code_context(self, context: Context | str) -> None:
        """Ends an interpreter."""
        (self._found()).remove_code_context(context)

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

    def __enter__(self) -> Self:
        with told(control=True):
            (self._found()).__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"Sandbox({self._id!r})"


class SandboxPaginator:
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

    def next_items(self, **opts: Unpack[ApiParams]) -> list[SandboxInfo]:
        """The next page."""
        known(cast("dict[str, Any]", opts))
        if not self._has_next:
            raise Exception("No more items to fetch")
        size = PAGE if self.limit is None else self.limit
        if size < 1:
            raise InvalidArgumentException(f"limit is {size}, expected 1 or more")
        with told(control=True):
            if self._infos is None:
                self._infos = self._all()
        page, self._infos = self._infos[:size], self._infos[size:]
        self._has_next = bool(self._infos)
        self._token = _token(page[-1]) if self._has_next else None
        states = [(info, state_of(info)) for info in page]
        return [info_of(info, state) for info, state in states if state is not None]

    def _all(self) -> list[Info]:
        metadata = self.query.metadata if self.query else None
        infos = [
            info
            for info in Machine.list(metadata=metadata)
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
