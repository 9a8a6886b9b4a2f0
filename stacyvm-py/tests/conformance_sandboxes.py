"""Sandboxes of the conformance suite's server."""

from __future__ import annotations

from datetime import datetime, timezone
import re
import threading
from typing import Any

from conformance_commands import Commands
from conformance_wire import Refused, time_of
from stacyvm import Engine, Sandbox

# What the provider below can do and the package has calls for. It has none for ids of snapshots that the
# caller mints. The API does not carry `listen`; an owner's connection and images are not served.
SERVED = {
    "env", "image_host", "exec_stdin", "exec_tty", "users", "kill_scope", "signals", "processes", "oom_reported",
    "exec_background", "reattach_output", "files", "file_tar", "file_watch", "pause", "ttl", "idle_timeout", "usage", "isolation",
    "memory_limit", "cpu_limit", "pids_limit", "open_files_limit", "disk_limit", "limits_visible", "network_none",
    "network_full", "network_allow", "mount_host", "mount_tmpfs", "mount_volume", "mount_volume_size", "read_only_root",
    "namespaced_root", "root_mapped", "syscall_filter", "no_new_privileges", "publish_ports", "endpoint", "dial",
}
# What of a spec has the name of an option; what the package calls otherwise; what is asked for in seconds.
SAME = {"env", "user", "network", "mounts", "ports", "privileges", "profile", "read_only_root", "provider_options"}
OTHERWISE = {"workdir": "cwd", "labels": "metadata"}
SECONDS = {"ttl": "timeout", "idle_timeout": "idle_timeout"}
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str | int) -> float:
    if isinstance(text, int):
        return text
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhd])", text))


def options_of(spec: dict[str, Any], secrets: dict[str, str]) -> dict[str, Any]:
    """The keywords of `create` of what a spec asks for."""
    asked = {name: value for name, value in spec.items() if value not in (None, {}, [], False)}
    asked["env"] = {**asked.get("env", {}), **secrets}
    options: dict[str, Any] = {}
    for name, value in asked.items():
        if name in SAME:
            options[name] = value
        elif name in OTHERWISE:
            options[OTHERWISE[name]] = value
        elif name in SECONDS:
            options[SECONDS[name]] = seconds(value)
        elif name in ("resources", "source"):
            options |= {key: one for key, one in value.items() if one is not None}
        elif (name, value) != ("lifetime", "detached"):
            raise Refused("unsupported", f"{name} is not had here")
    return options


def seen(sandbox: Sandbox) -> dict[str, Any]:
    info = sandbox.get_info()
    return {
        "id": info.id, "state": info.phase if info.phase in ("running", "paused") else "ended",
        "created": time_of(info.created), "ends": time_of(info.ends),
        "effective": {need: {"level": level, "value": value} for need, (level, value) in info.effective.items()},
    }


class Rooms:
    """Sandboxes, each with the commands that clients named."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.all: dict[str, Commands] = {}
        self.locks: dict[str, threading.Lock] = {}
        with engine.create(image="host") as sandbox:
            claims = sandbox.capabilities()
        self.claims = {name: claims[name] for name in SERVED}

    def alone(self, name: str) -> threading.Lock:
        """Held by the one who makes or ends a sandbox."""
        return self.locks.setdefault(name, threading.Lock())

    def create(self, id: str, spec: dict[str, Any], secrets: dict[str, str] | None = None) -> dict[str, Any]:
        with self.alone(id):
            if id in self.all:
                raise Refused("conflict", "the id is taken")
            options = options_of(spec, secrets or {})
            self.all[id] = Commands(self.engine.create(**options, id=id))
        return seen(self.sandbox(id))

    def sandbox(self, name: str) -> Sandbox:
        return self.all[name].sandbox

    def page(self, after: str, limit: int) -> list[dict[str, Any]]:
        # Others come and go meanwhile.
        there = sorted(name for name in list(self.all) if name > after)[:limit]
        found = [self.all.get(name) for name in there]
        return [seen(commands.sandbox) for commands in found if commands is not None]

    def set_deadline(self, name: str, ends: dict[str, int] | None) -> None:
        if ends is None:
            return self.sandbox(name).set_timeout(None)
        left = ends["seconds"] + ends["nanoseconds"] / 1e9 - datetime.now(timezone.utc).timestamp()
        # It was no less than a second when it was asked for.
        self.sandbox(name).set_timeout(max(left, 1))

    def usage(self, name: str) -> dict[str, Any]:
        metrics = self.sandbox(name).metrics()
        names = ("memory_bytes", "memory_peak_bytes", "cpu_us", "processes", "disk_bytes", "oom_kills")
        return {name: getattr(metrics, name) for name in names}

    def destroy(self, name: str) -> None:
        # After a create of it that is under way.
        with self.alone(name):
            if name in self.all:
                self.all.pop(name).sandbox.kill()

    def close(self) -> None:
        while self.all:
            self.all.popitem()[1].sandbox.kill()
        self.engine.close()
