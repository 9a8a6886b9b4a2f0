# pyright: reportPrivateUsage=false, reportIncompatibleVariableOverride=false
"""Makes sessions of the SDK, and finds them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Literal, cast

from agents.sandbox import Manifest
from agents.sandbox.errors import ConfigurationError, ErrorCode
from agents.sandbox.session import (
    BaseSandboxClient,
    BaseSandboxClientOptions,
    Dependencies,
    Instrumentation,
    SandboxSession,
    SandboxSessionState,
)
from agents.sandbox.snapshot import SnapshotBase, SnapshotSpec, resolve_snapshot
from pydantic import ConfigDict

from .._async import AsyncEngine, AsyncSandbox
from .._errors import NotFoundError, SandboxGoneError, StacyError
from ._session import StacySandboxSession, StacySandboxSessionState, start_error

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._types import CreateOptions


class StacySandboxClientOptions(BaseSandboxClientOptions):
    """How a sandbox is made: `exposed_ports`, and the keywords of `AsyncSandbox.create`.

    They are part of a session's state, and so are the values of `env`: a secret is given
    by reference, in `secrets`.
    """

    model_config = ConfigDict(extra="allow")

    type: Literal["stacyvm"] = "stacyvm"
    exposed_ports: tuple[int, ...] = ()

    if TYPE_CHECKING:

        def __init__(
            self, *, exposed_ports: tuple[int, ...] = (), **create: Unpack[CreateOptions]
        ) -> None: ...


class StacySandboxClient(BaseSandboxClient[StacySandboxClientOptions | None]):
    """Makes and finds sessions, on the default engine or on one of your own."""

    backend_id = "stacyvm"
    supports_default_options = True

    def __init__(
        self,
        *,
        engine: AsyncEngine | None = None,
        instrumentation: Instrumentation | None = None,
        dependencies: Dependencies | None = None,
    ) -> None:
        self._engine = engine
        self._instrumentation = instrumentation or Instrumentation()
        self._dependencies = dependencies

    async def create(
        self,
        *,
        snapshot: SnapshotSpec | SnapshotBase | None = None,
        manifest: Manifest | None = None,
        options: StacySandboxClientOptions | None = None,
    ) -> SandboxSession:
        """Makes a sandbox. Its workspace is filled when the session starts."""
        manifest = self._validate_manifest_for_create(manifest or Manifest())
        options = options or StacySandboxClientOptions()
        session_id = uuid.uuid4()
        state = StacySandboxSessionState(
            session_id=session_id,
            manifest=manifest,
            snapshot=resolve_snapshot(snapshot, str(session_id)),
            exposed_ports=options.exposed_ports,
            options=dict(options.model_extra or {}),
        )
        return self._session(state, await self._make(state))

    async def delete(self, session: SandboxSession) -> SandboxSession:
        """Ends a session's sandbox. One that has ended is success."""
        if not isinstance(session._inner, StacySandboxSession):
            raise TypeError(f"session: {session._inner!r} is of another client")
        await session._inner.shutdown()
        return session

    async def resume(self, state: SandboxSessionState) -> SandboxSession:
        """Finds a session's sandbox, or makes another one, which starts from the
        session's snapshot."""
        if not isinstance(state, StacySandboxSessionState):
            raise TypeError(f"state: {state.type!r} is of another client")
        state.assert_path_grants_rebound()
        sandbox = await self._find(state.sandbox_id)
        found = sandbox is not None
        if sandbox is None:
            state.workspace_root_ready = False
            sandbox = await self._make(state)
        session = self._session(state, sandbox)
        session._inner._set_start_state_preserved(found)
        return session

    def deserialize_session_state(self, payload: dict[str, object]) -> SandboxSessionState:
        """Reads what `serialize_session_state` wrote."""
        return self._deserialize_session_state_payload(payload, StacySandboxSessionState)

    def _session(self, state: StacySandboxSessionState, sandbox: AsyncSandbox) -> SandboxSession:
        session = StacySandboxSession(state=state, sandbox=sandbox)
        return self._wrap_session(session, instrumentation=self._instrumentation)

    async def _find(self, sandbox_id: str) -> AsyncSandbox | None:
        if not sandbox_id:
            return None
        try:
            sandbox = await (self._engine or AsyncSandbox).connect(sandbox_id)
            phase = (await sandbox.get_info()).phase
            if phase == "paused":
                await sandbox.resume()
        except (NotFoundError, SandboxGoneError):
            return None
        return sandbox if phase in ("running", "paused") else None

    async def _make(self, state: StacySandboxSessionState) -> AsyncSandbox:
        root = state.manifest.root
        for grant in state.manifest.extra_path_grants:
            if grant.host_path is not None:
                raise ConfigurationError(
                    message=f"extra_path_grants: `{grant.path}` has a host_path, expected none;"
                    " give the directory to StacySandboxClientOptions as one of `mounts`",
                    error_code=ErrorCode.SANDBOX_CONFIG_INVALID,
                    op="start",
                    context={"field": "extra_path_grants", "path": grant.path},
                    retryable=False,
                )
        options = cast("CreateOptions", dict(state.options))
        ports = list(options.get("ports", ()))
        told = [port.get("guest") for port in ports]
        ports += [{"guest": port} for port in state.exposed_ports if port not in told]
        if ports:
            options["ports"] = ports
        try:
            sandbox = await (self._engine or AsyncSandbox).create(**options)
        except StacyError as error:
            raise start_error(root, error) from error
        state.sandbox_id = sandbox.id
        return sandbox
