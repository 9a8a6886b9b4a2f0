"""A server of the HTTP API over this package, for the conformance suite: what a case asks of a
provider goes through the package and back, so that the package can change no meaning.

It prints its URL, and ends when its standard input does, with all that it made.
"""

from __future__ import annotations

import base64
import contextlib
from datetime import datetime
import http.server
import json
import shutil
import signal
import socket
import socketserver
import struct
import sys
import tempfile
import threading
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from stacyvm import Engine, ExitInfo, Sandbox, StacyError
from stacyvm._native import Process  # pyright: ignore[reportPrivateUsage]

CLAIMS = {
    "env": True, "image_host": True, "exec_stdin": True, "exec_tty": True, "users": "many",
    "kill_scope": "tree", "signals": "any", "processes": True, "oom_reported": True,
}
HEAD, STDOUT, STDERR, LOST, EXITED, STDIN, CLOSE, RESIZE, SIGNAL, CREDIT, DONE = (
    1, 16, 17, 18, 19, 32, 33, 34, 35, 36, 37,
)
ERROR, EVENT, LONGEST = 4, 64, 1 << 20

STATE = tempfile.mkdtemp(prefix="stacyvm-conformance-")
ENGINE = Engine(state_dir=STATE)
ROOMS: dict[str, "Room"] = {}
LOCKS: dict[str, threading.Lock] = {}


def alone(name: str) -> threading.Lock:
    """Held by the one who makes or ends a sandbox."""
    return LOCKS.setdefault(name, threading.Lock())


class Refused(Exception):
    """An error of the API by its kind."""


def error_of(error: Exception) -> dict[str, Any]:
    if isinstance(error, StacyError):
        context = [[key, value] for key, value in error.context.items()]
        return {"kind": error.code, "message": str(error), "context": context}
    if isinstance(error, Refused):
        return {"kind": error.args[0], "message": error.args[1]}
    if isinstance(error, KeyError):
        return {"kind": "not_found", "message": f"there is no {error}"}
    return {"kind": "invalid_argument", "message": f"{type(error).__name__}: {error}"}


def raw(word: Any) -> bytes:
    return word.encode() if isinstance(word, str) else base64.b64decode(word["base64"])


def ended(exit: ExitInfo) -> dict[str, Any]:
    match exit.reason:
        case "code":
            return {"reason": "code", "code": exit.exit_code}
        case "signal":
            return {"reason": "signal", "signal": exit.signal}
        case "timed_out" | "cancelled":
            return {"reason": exit.reason, "sandbox_ended": False}
        case other:
            return {"reason": other}


def time_of(moment: datetime | None) -> dict[str, int] | None:
    if moment is None:
        return None
    return {"seconds": int(moment.timestamp()), "nanoseconds": moment.microsecond * 1000}


class Room:
    """A sandbox, and the commands that clients named."""

    def __init__(self, name: str, spec: dict[str, Any], secrets: dict[str, str]) -> None:
        source = spec.pop("source", {"image": "host"})
        known = {"env", "workdir", "user", "labels", "lifetime", "profile", "privileges", "network", "resources"}
        unknown = {key for key, value in spec.items() if key not in known and value not in (None, [], {}, False)}
        if unknown or "image" not in source or spec.get("lifetime", "detached") != "detached":
            raise Refused("unsupported", f"{unknown or source} is not had here")
        limits: dict[str, Any] = spec.get("resources") or {}
        resources = {key: value for key, value in limits.items() if value is not None}
        options: dict[str, Any] = {
            "image": source["image"], "env": {**spec.get("env", {}), **secrets},
            "user": spec.get("user"), "cwd": spec.get("workdir"), "network": spec.get("network"),
            "profile": spec.get("profile", "default"), "privileges": spec.get("privileges", "none"),
            "id": name, **resources,
        }
        self.sandbox: Sandbox = ENGINE.create(**options)
        self.commands: dict[str, Process] = {}
        self.seen = {"id": name, "state": "running"}

    @property
    def native(self) -> Any:
        return self.sandbox._native  # pyright: ignore[reportPrivateUsage]

    def id_of(self, command: str) -> str:
        """The package's id of a command that a client named."""
        return self.commands[command].id

    def start(self, body: dict[str, Any]) -> Process:
        if body["exec"] in self.commands:
            raise Refused("already_exists", "the id is taken")
        if body.get("background"):
            raise Refused("unsupported", "commands in the background are not had here")
        tty, timeout = body.get("tty"), body.get("timeout_us")
        process = self.native.start(
            [raw(word) for word in body["argv"]], env=dict(body.get("env", [])),
            cwd=body.get("workdir"), user=body.get("user"), stdin=body.get("stdin", False),
            timeout=None if timeout is None else timeout / 1e6,
            size=(tty["rows"], tty["columns"]) if tty else None,
        ).wait()
        self.commands[body["exec"]] = process
        return cast(Process, process)

    def execs(self) -> list[dict[str, Any]]:
        names = {process.id: name for name, process in self.commands.items()}
        return [
            {
                "exec": names[info.id], "argv": info.argv, "pid": info.pid, "tty": info.tty,
                "background": info.background, "processes": info.processes,
                "started": time_of(info.started),
                "exited": None if info.exit is None else ended(info.exit),
            }
            for info in self.sandbox.commands.list()
            if info.id in names
        ]


class Session:
    """A command that is followed on the connection that asked for it."""

    def __init__(self, name: str, process: Process) -> None:
        self.name, self.process = name, process
        self.credit, self.may_send = 0, threading.Condition()
        self.writing, self.over = threading.Lock(), False

    def send(self, client: socket.socket, kind: int, payload: bytes) -> None:
        with self.writing:
            client.sendall(struct.pack(">IB", len(payload), kind) + payload)

    def follow(self, client: socket.socket) -> None:
        head = {"exec": self.name, "pid": self.process.pid}
        self.send(client, HEAD, json.dumps(head).encode())
        events = threading.Thread(target=self.tell, args=(client,), daemon=True)
        events.start()
        try:
            self.listen(client)
        finally:
            with self.may_send:
                self.over = True
                self.may_send.notify_all()
            # What outlived the first process goes on.
            if self.process.result() is None:
                with contextlib.suppress(StacyError):
                    self.process.kill().wait()

    def tell(self, client: socket.socket) -> None:
        """Sends what happens; nothing is taken while nobody reads."""
        with contextlib.suppress(OSError):
            while True:
                with self.may_send:
                    self.may_send.wait_for(lambda: self.credit > 0 or self.over)
                    if self.over:
                        return
                try:
                    event = self.process.next_event().wait()
                except StacyError as error:
                    return self.send(client, ERROR, json.dumps(error_of(error)).encode())
                if event is None:
                    return
                data = event.stdout if event.stdout is not None else event.stderr
                with self.may_send:
                    self.credit -= EVENT + len(data or b"")
                if event.exit is not None:
                    return self.send(client, EXITED, json.dumps(ended(event.exit)).encode())
                if event.lost is not None:
                    lost = {"stdout": event.lost[0], "stderr": event.lost[1]}
                    self.send(client, LOST, json.dumps(lost).encode())
                elif data is not None:
                    self.send(client, STDOUT if event.stdout is not None else STDERR, data)

    def listen(self, client: socket.socket) -> None:
        while len(head := client.recv(9, socket.MSG_WAITALL)) == 9:
            length, kind, number = struct.unpack(">IBI", head)
            if not 4 <= length <= LONGEST:
                return
            payload = client.recv(length - 4, socket.MSG_WAITALL) if length > 4 else b""
            if kind == CREDIT:
                with self.may_send:
                    self.credit += number
                    self.may_send.notify_all()
            else:
                threading.Thread(target=self.call, args=(client, kind, number, payload), daemon=True).start()

    def call(self, client: socket.socket, kind: int, number: int, payload: bytes) -> None:
        said = b""
        try:
            if kind == STDIN:
                self.process.write_stdin(payload).wait()
            elif kind == CLOSE:
                self.process.close_stdin().wait()
            elif kind == RESIZE:
                size = json.loads(payload)
                self.process.resize(size["rows"], size["columns"]).wait()
            elif kind == SIGNAL:
                asked = json.loads(payload)
                self.process.signal(asked["signal"], asked["scope"]).wait()
            else:
                raise Refused("protocol", f"no call has the number {kind}")
        except Exception as error:  # noqa: BLE001 - told to the client
            said = json.dumps(error_of(error)).encode()
        with contextlib.suppress(OSError):
            self.send(client, DONE, struct.pack(">I", number) + said)


class Connection(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, rbufsize = "HTTP/1.1", True, 0

    def answer(self, data: bytes) -> Any:
        url = urlsplit(self.path)
        upgrades = self.headers.get("upgrade") == "stacyvm-exec/1"
        match self.command, *url.path.split("/")[1:]:
            case "GET", "v1", "provider":
                info: dict[str, Any] = {"name": "python", "runtime": "stacyvm", "versions": {}}
                return {"info": info, "capabilities": CLAIMS}
            case "GET", "v1", "probe":
                return {"usable": True, "findings": []}
            case "POST", "v1", "pull":
                return {}
            case "GET", "v1", "sandboxes":
                query = dict(parse_qsl(url.query))
                names = sorted(name for name in ROOMS if name > query.get("after", ""))
                return {"sandboxes": [ROOMS[name].seen for name in names[: int(query.get("limit", 1000))]]}
            case "POST", "v1", "sandboxes":
                body = json.loads(data)
                with alone(body["id"]):
                    if body["id"] in ROOMS:
                        raise Refused("conflict", "the id is taken")
                    room = Room(body["id"], body.get("spec", {}), body.get("secrets", {}))
                    ROOMS[body["id"]] = room
                return room.seen
            case "GET", "v1", "sandboxes", name:
                return ROOMS[name].seen
            case "DELETE", "v1", "sandboxes", name:
                # After a create of it that is under way.
                with alone(name):
                    if name in ROOMS:
                        ROOMS.pop(name).sandbox.kill()
                return {}
            case "GET", "v1", "sandboxes", name, "processes":
                room = ROOMS[name]
                asked = {process.id: command for command, process in room.commands.items()}
                return {"processes": [
                    {
                        "pid": p.pid, "parent": p.parent, "uid": p.uid, "state": p.state, "argv": p.argv,
                        "resident_bytes": p.resident_bytes, "cpu_us": p.cpu_us,
                        "exec": asked.get(p.command or ""),
                    }
                    for p in room.sandbox.processes()
                ]}
            case "GET", "v1", "sandboxes", name, "execs":
                return {"execs": ROOMS[name].execs()}
            case "POST", "v1", "sandboxes", name, "execs" if upgrades:
                body = json.loads(data)
                return Session(body["exec"], ROOMS[name].start(body))
            case "POST", "v1", "sandboxes", name, "execs", command, "signal":
                body, room = json.loads(data), ROOMS[name]
                room.native.signal(room.id_of(command), body["signal"], body["scope"]).wait()
                return {}
            case _:
                raise Refused("unsupported", "this is not had here")

    def do_GET(self) -> None:
        length = int(self.headers.get("content-length", 0))
        data = self.connection.recv(length, socket.MSG_WAITALL) if length else b"{}"
        try:
            value, error = self.answer(data), None
        except Exception as failed:  # noqa: BLE001 - told to the client
            value, error = None, error_of(failed)
        if isinstance(value, Session):
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 101 \r\nconnection: upgrade\r\nupgrade: stacyvm-exec/1\r\n\r\n")
            return value.follow(self.connection)
        body, status = json.dumps(error or value).encode(), 400 if error else 200
        head = f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads, request_queue_size = True, 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client is gone."""


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = Server(("127.0.0.1", 0), Connection)
    print("http://{}:{}".format(*server.server_address), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.buffer.read()
    while ROOMS:
        ROOMS.popitem()[1].sandbox.kill()
    ENGINE.close()
    # A helper that was parked may still be going.
    shutil.rmtree(STATE, ignore_errors=True)
