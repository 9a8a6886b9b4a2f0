"""A server of the HTTP API over this package, for the conformance suite: what a case asks of a
provider goes through the package and back, so that the package can change no meaning.

It prints its URL, and ends when its standard input does, with all that it made.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import signal
import socket
import socketserver
import sys
import tempfile
import threading
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import conformance_files as files
from conformance_commands import Commands, Pipe, Session
from conformance_sandboxes import Rooms, seen
from conformance_wire import FRAMES, Body, BrokeOff, Refused, Stream, error_of
from stacyvm import Engine, Sandbox

STATE = tempfile.mkdtemp(prefix="stacyvm-conformance-")
ROOMS = Rooms(Engine(state_dir=STATE))
# For a client that was answered before it had said all.
SECONDS_TO_GO = 10


class Connection(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def answer(self, body: Body) -> Any:
        url = urlsplit(self.path)
        match self.command, *url.path.split("/")[2:]:
            case "GET", "provider":
                info: dict[str, Any] = {"name": "python", "runtime": "stacyvm", "versions": {}}
                return {"info": info, "capabilities": ROOMS.claims}
            case "GET", "probe":
                return {"usable": True, "findings": []}
            case "POST", "pull":
                return {}
            case "GET", "sandboxes":
                query = dict(parse_qsl(url.query))
                return {"sandboxes": ROOMS.page(query.get("after", ""), int(query["limit"]))}
            case "POST", "sandboxes":
                return ROOMS.create(**body.json())
            case "GET", "sandboxes", name:
                return seen(ROOMS.sandbox(name))
            case "DELETE", "sandboxes", name:
                return ROOMS.destroy(name)
            case method, "sandboxes", name, "files" | "execs" as kind, *rest:
                room = ROOMS.all[name]
                return self.file(room.sandbox, body, *rest) if kind == "files" else self.exec(room, method, body, *rest)
            case method, "sandboxes", name, what, *rest:
                return self.sandbox(name, body, method, what, *rest)
            case _:
                raise Refused("unsupported", "this is not had here")

    def sandbox(self, name: str, body: Body, *what: str) -> Any:
        match what:
            case "PUT", "deadline":
                return ROOMS.set_deadline(name, **body.json())
            case "POST", "pause":
                return ROOMS.sandbox(name).pause()
            case "POST", "resume":
                return ROOMS.sandbox(name).resume()
            case "GET", "usage":
                return ROOMS.usage(name)
            case "GET", "processes":
                return {"processes": ROOMS.all[name].processes()}
            case "POST", "ports", port, "dial":
                return Pipe(ROOMS.sandbox(name).dial(int(port)))
            case "GET", "ports", port, "endpoint":
                endpoint = ROOMS.sandbox(name).get_endpoint(int(port))
                return {"address": endpoint.address, "headers": endpoint.headers}
            case _:
                raise Refused("unsupported", "this is not had here")

    def exec(self, commands: Commands, *what: Any) -> Any:
        upgrades = self.headers.get("upgrade") == Session.protocol
        match what:
            case "GET", _:
                return {"execs": commands.listed()}
            case "POST", body if upgrades:
                return commands.start(body.json())
            case "POST", body, name, "attach" if upgrades:
                return commands.attach(name, body.json())
            case "POST", body, name, "log":
                return commands.log(name, body.json())
            case "POST", body, name, "signal":
                return commands.signal(name, body.json())
            case _:
                raise Refused("unsupported", "this is not had here")

    def file(self, sandbox: Sandbox, body: Body, *what: str) -> Any:
        match what:
            case ():
                return files.operate(sandbox, body.json())
            case ("read",):
                return files.read(sandbox, body.json())
            case ("write",):
                return files.write(sandbox, body)
            case ("export",):
                return files.export(sandbox, body.json())
            case ("import",):
                return files.unpack(sandbox, body)
            case ("watch",):
                return files.watch(sandbox, body.json())
            case _:
                raise Refused("unsupported", "this is not had here")

    def do_GET(self) -> None:
        body = Body(self.rfile, self.headers)
        try:
            value, error = self.answer(body), None
            if not body.chunked:
                body.read(body.left)
        except BrokeOff:
            self.close_connection = True
            return
        except Exception as failed:  # noqa: BLE001 - told to the client
            value, error = None, error_of(failed)
        if isinstance(value, (Session, Pipe)):
            self.close_connection = True
            self.head(101, connection="upgrade", upgrade=value.protocol)
            if isinstance(value, Session):
                value.follow(self.rfile, self.wfile)
            else:
                value.follow(self.rfile, self.wfile, lambda: self.connection.shutdown(socket.SHUT_WR))
        elif isinstance(value, Stream):
            self.close_connection = True
            self.head(200, content_type=FRAMES, connection="close")
            value.write(self.wfile, self.rfile)
        else:
            data = json.dumps(error or value or {}).encode()
            self.head(400 if error else 200, content_type="application/json", content_length=len(data))
            self.wfile.write(data)
            if not body.is_whole:
                self.wait_for_the_client_to_go()

    def head(self, status: int, **headers: object) -> None:
        lines = [f"HTTP/1.1 {status} ", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode())

    def wait_for_the_client_to_go(self) -> None:
        """What it still sends would have the connection reset, and the answer with it."""
        self.close_connection = True
        self.connection.settimeout(SECONDS_TO_GO)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read1():
                pass

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
    ROOMS.close()
    # A helper that was parked may still be going.
    shutil.rmtree(STATE, ignore_errors=True)
