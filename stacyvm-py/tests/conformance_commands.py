"""Commands of the conformance suite's server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
from datetime import datetime, timedelta, timezone
from io import BufferedIOBase
import json
import struct
import threading
from typing import Any

from conformance_wire import (
    CLOSE, CREDIT, DONE, ERROR, EVENT, EXITED, HEAD, LONGEST, LOST, RESIZE, SIGNAL, STDERR, STDIN, STDOUT,
    Refused, Stream, ended, error_of, frame, raw, time_of, told,
)
from stacyvm import Connection, Sandbox, StacyError
from stacyvm._native import Event, Process  # pyright: ignore[reportPrivateUsage]


class Commands:
    """The commands of a sandbox, by the names that clients gave them."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.ids: dict[str, str] = {}

    @property
    def native(self) -> Any:
        return self.sandbox._native  # pyright: ignore[reportPrivateUsage]

    def names(self) -> dict[str | None, str]:
        return {id: name for name, id in self.ids.items()}

    def start(self, body: dict[str, Any]) -> Session:
        name, tty, timeout = body["exec"], body.get("tty"), body.get("timeout_us")
        if name in self.ids:
            raise Refused("already_exists", "the id is taken")
        background = body.get("background", False)
        process: Process = self.native.start(
            [raw(word) for word in body["argv"]], env=dict(body.get("env", [])),
            cwd=body.get("workdir"), user=body.get("user"), stdin=body.get("stdin", False),
            timeout=None if timeout is None else timeout / 1e6, background=background,
            size=(tty["rows"], tty["columns"]) if tty else None,
        ).wait()
        self.ids[name] = process.id
        return Session(name, process, ends=not background)

    def attach(self, name: str, body: dict[str, Any]) -> Session:
        how = {"stdin": body.get("stdin", False), "replay": body.get("replay", False)}
        return Session(name, self.native.attach(self.ids[name], **how).wait(), ends=False)

    def log(self, name: str, body: dict[str, Any]) -> Stream:
        """What is kept of a command's output, and what comes if it is followed."""
        age, since = body.get("age_us"), None
        if age is not None:
            since = datetime.now(timezone.utc) - timedelta(microseconds=age)
        logs = self.native.logs(self.ids[name], body.get("follow", False), since).wait()

        def frames() -> Iterator[bytes]:
            while (one := logs.next_event().wait()) is not None:
                yield frame_of(one[1])

        return Stream(frames())

    def signal(self, name: str, body: dict[str, Any]) -> None:
        self.sandbox.commands.send_signal(self.ids[name], body["signal"], scope=body["scope"])

    def listed(self) -> list[dict[str, Any]]:
        names = self.names()
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

    def processes(self) -> list[dict[str, Any]]:
        names = self.names()
        return [
            {
                "pid": p.pid, "parent": p.parent, "uid": p.uid, "state": p.state, "argv": p.argv,
                "resident_bytes": p.resident_bytes, "cpu_us": p.cpu_us, "exec": names.get(p.command),
            }
            for p in self.sandbox.processes()
        ]


def frame_of(event: Event) -> bytes:
    if event.exit is not None:
        return told(EXITED, ended(event.exit))
    if event.lost is not None:
        return told(LOST, {"stdout": event.lost[0], "stderr": event.lost[1]})
    return frame(STDERR, event.stderr) if event.stderr is not None else frame(STDOUT, event.stdout or b"")


class Session:
    """A command that is followed on the connection that asked for it."""

    protocol = "stacyvm-exec/1"

    def __init__(self, name: str, process: Process, ends: bool) -> None:
        self.name, self.process, self.ends = name, process, ends
        self.credit, self.may_send = 0, threading.Condition()
        self.writing, self.over = threading.Lock(), False

    def send(self, client: BufferedIOBase, one: bytes) -> None:
        with self.writing:
            client.write(one)

    def follow(self, calls: BufferedIOBase, client: BufferedIOBase) -> None:
        self.send(client, told(HEAD, {"exec": self.name, "pid": self.process.pid}))
        events = threading.Thread(target=self.tell, args=(client,), daemon=True)
        events.start()
        try:
            self.listen(calls, client)
        finally:
            with self.may_send:
                self.over = True
                self.may_send.notify_all()
            # What outlived the first process goes on.
            if self.ends and self.process.result() is None:
                with contextlib.suppress(StacyError):
                    self.process.kill().wait()

    def tell(self, client: BufferedIOBase) -> None:
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
                    return self.send(client, told(ERROR, error_of(error)))
                if event is None:
                    return
                data = event.stdout if event.stdout is not None else event.stderr
                with self.may_send:
                    self.credit -= EVENT + len(data or b"")
                self.send(client, frame_of(event))
                if event.exit is not None:
                    return

    def listen(self, calls: BufferedIOBase, client: BufferedIOBase) -> None:
        while len(head := calls.read(9)) == 9:
            length, kind, number = struct.unpack(">IBI", head)
            if not 4 <= length <= LONGEST:
                return
            payload = calls.read(length - 4)
            if kind == CREDIT:
                with self.may_send:
                    self.credit += number
                    self.may_send.notify_all()
            else:
                threading.Thread(target=self.call, args=(client, kind, number, payload), daemon=True).start()

    def call(self, client: BufferedIOBase, kind: int, number: int, payload: bytes) -> None:
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
            self.send(client, frame(DONE, struct.pack(">I", number) + said))


class Pipe:
    """A connection to a port inside, on the connection that asked for it."""

    protocol = "stacyvm-stream/1"

    def __init__(self, inside: Connection) -> None:
        self.inside = inside

    def follow(self, calls: BufferedIOBase, client: BufferedIOBase, end: Callable[[], object]) -> None:
        back = threading.Thread(target=self.back, args=(client, end), daemon=True)
        back.start()
        with self.inside, contextlib.suppress(OSError, StacyError):
            while data := calls.read1(1 << 16):
                self.inside.send(data)
            self.inside.send_eof()
            back.join()

    def back(self, client: BufferedIOBase, end: Callable[[], object]) -> None:
        with contextlib.suppress(OSError, StacyError):
            for data in self.inside:
                client.write(data)
        # The client sees the end; it may send on.
        with contextlib.suppress(OSError):
            end()
