# pyright: reportPrivateUsage=false
"""E2B's keywords as stacyvm's, and stacyvm's answers as E2B's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

from .. import SandboxInfo as Info
from .. import SandboxMetrics as Usage
from .._call import waited
from .._errors import StacyError, UnsupportedError
from ._errors import NotSupportedException, named, told
from ._types import (
    ALL_TRAFFIC,
    ApiParams,
    CreateParams,
    SandboxInfo,
    SandboxMetrics,
    SandboxNetworkOpts,
    SandboxNetworkSelectorContext,
    SandboxQuery,
    SandboxState,
    Selector,
)

if TYPE_CHECKING:
    from .._native import Sandbox as NativeSandbox
    from .._types import CreateOptions

BASES = ("base", "code-interpreter-v1")
"""E2B's own templates: here the image that is configured."""
SNAPSHOT = "snapshot:"
"""How the id of a snapshot begins that `create` takes in the place of a template."""
FOR_EVER = datetime.max.replace(tzinfo=timezone.utc)
UNSUPPORTED = {
    "mcp": "run an MCP server with `commands.run`",
    "iam": "give credentials with `envs`",
    "volume_mounts": "mount what the host has: `mounts=[{\"target\": ..., \"source\": {\"host\": ...}}]`",
}


def absent(words: str) -> staticmethod[..., Any]:
    """A method of E2B's that is not offered."""

    def refuse(*args: object, **how: object) -> Any:
        """Not offered: it raises what to use."""
        raise NotSupportedException(words)

    return staticmethod(refuse)


def known(options: Mapping[str, Any], allowed: type = ApiParams) -> None:
    """Refuses keywords that are neither E2B's nor stacyvm's."""
    for name in options:
        if name not in _names(allowed):
            raise TypeError(f"unexpected keyword argument {name!r}")


def _names(cls: type) -> set[str]:
    return set(cast("Any", cls).__required_keys__ | cast("Any", cls).__optional_keys__)


def create_options(
    template: str | None,
    timeout: float | None,
    metadata: Mapping[str, str] | None,
    envs: Mapping[str, str] | None,
    allow_internet_access: bool | None,
    network: SandboxNetworkOpts | None,
    lifecycle: Mapping[str, Any] | None,
    idempotency_key: str | None,
    others: CreateParams,
    **unsupported: object,
) -> CreateOptions:
    """What stacyvm's `create` is asked."""
    known(cast("dict[str, Any]", others), CreateParams)
    for name, value in unsupported.items():
        if value is not None:
            raise NotSupportedException(f"`{name}` is of E2B's cloud; {UNSUPPORTED[name]}")
    if lifecycle and (lifecycle.get("auto_resume") or lifecycle.get("on_timeout", "kill") != "kill"):
        raise NotSupportedException(
            "a sandbox is killed at its timeout; `pause()` it before, which removes the end"
        )
    source = template or "base"
    options: dict[str, Any] = {
        name: value
        for name, value in others.items()
        if name not in _names(ApiParams)
    }
    if source.startswith(SNAPSHOT):
        options["snapshot"] = source[len(SNAPSHOT):]
    elif source not in BASES:
        options["template"] = source
    options["timeout"] = 300 if timeout is None else timeout
    options["env"] = {"E2B_SANDBOX": "true", "E2B_TEMPLATE_ID": source, **(envs or {})}
    options["metadata"] = dict(metadata or {})
    reach = reachable(allow_internet_access, network)
    if reach is not None:
        options["network"] = reach
    if idempotency_key is not None:
        options["idempotency_key"] = idempotency_key
    return cast("CreateOptions", options)


def hinted(error: UnsupportedError) -> StacyError:
    """A create that cannot be, with what to use where it was of a template."""
    other = named(error)
    if error.context.get("need") == "template":
        words = "E2B builds templates in its cloud; name an image: `Sandbox.create(image=...)`"
        other.args = (f"{error}. {words}",)
    return other


def reachable(
    allow_internet_access: bool | None, network: SandboxNetworkOpts | None
) -> str | dict[str, list[str]] | None:
    """What a sandbox may reach; `None` where nothing is said of it."""
    if network is not None:
        for name in network:
            if name not in SandboxNetworkOpts.__optional_keys__:
                raise NotSupportedException(f"`network[{name!r}]` is of E2B's cloud; leave it out")
    allow, deny = _selected(network, "allow_out"), _selected(network, "deny_out")
    if allow_internet_access is False or ALL_TRAFFIC in deny:
        return {"allow": allow} if allow else "none"
    if deny:
        raise NotSupportedException(
            "`deny_out` of single addresses is not offered; deny ALL_TRAFFIC, and name "
            "in `allow_out` what may be reached"
        )
    return "full" if allow or allow_internet_access else None


def _selected(network: SandboxNetworkOpts | None, which: str) -> list[str]:
    selector = cast("Selector", (network or {}).get(which) or [])
    if callable(selector):
        return list(selector(SandboxNetworkSelectorContext()))
    return list(selector)


def state_of(info: Info) -> SandboxState | None:
    """Where a sandbox stands; `None` for one that E2B does not show."""
    states = {"running": SandboxState.RUNNING, "paused": SandboxState.PAUSED}
    return states.get(info.phase)


def info_of(info: Info, state: SandboxState) -> SandboxInfo:
    """A sandbox as E2B describes it."""
    return SandboxInfo(
        sandbox_id=info.id,
        sandbox_domain=None,
        template_id=info.source,
        name=info.source,
        metadata=info.metadata,
        started_at=info.created,
        end_at=info.ends or FOR_EVER,
        state=state,
        cpu_count=cpus(info),
        memory_mb=info.memory_mib or 0,
        envd_version="stacyvm",
    )


def remaining(info: Info) -> float | None:
    """Seconds to the end of a sandbox."""
    if info.ends is None:
        return None
    return max((info.ends - datetime.now(timezone.utc)).total_seconds(), 1)


def cpus(info: Info) -> int:
    """Processors that a sandbox may use."""
    return max(1, round(info.cpus)) if info.cpus else os.cpu_count() or 1


def metrics_of(info: Info, usage: Usage) -> SandboxMetrics:
    """What a sandbox uses, as E2B tells it."""
    now = datetime.now(timezone.utc)
    lived = max((now - info.created).total_seconds(), 1e-3)
    return SandboxMetrics(
        cpu_count=cpus(info),
        cpu_used_pct=round((usage.cpu_us or 0) / 1e4 / lived / cpus(info), 2),
        disk_total=(info.disk_mib or 0) << 20,
        disk_used=usage.disk_bytes or 0,
        mem_total=(info.memory_mib or 0) << 20,
        mem_used=usage.memory_bytes or 0,
        mem_cache=0,
        timestamp=now,
    )


def wanted(query: SandboxQuery | None, info: Info) -> bool:
    """Whether a sandbox is among those that are asked for."""
    state = state_of(info)
    if state is None:
        return False
    if query is None:
        return True
    if query.state and state not in query.state:
        return False
    if query.started_after and info.created < query.started_after.astimezone():
        return False
    return not query.template or query.template == info.source


def host_of(native: NativeSandbox, port: int) -> str:
    """Where a port is reached."""
    with told():
        try:
            return waited(native.endpoint(port)).address
        except UnsupportedError as error:
            raise NotSupportedException(
                f"{error}. Make it with a provider that publishes ports: "
                f"`Sandbox.create(provider=\"docker\", ports=[{{\"guest\": {port}}}])`"
            ) from error
