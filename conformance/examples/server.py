#!/usr/bin/env python3
"""A server of the HTTP API that runs commands as processes of the host, and isolates nothing.

It is the provider of `processes/src/lib.rs` once more, in another language: the API is in `docs/openapi.json`, its
frames in `stacyvm/src/wire/frame.rs`. It prints its URL, and ends when its standard input does, with all that it made.
Whoever can connect runs commands as its user. Linux, Python 3.10 or later, the standard library.
"""
import base64, contextlib, errno, glob, http.server, json, math, os, select, shutil, signal, socket, socketserver
import struct, subprocess, sys, tempfile, threading, time, types
from urllib.parse import parse_qsl, urlsplit

CLAIMS = {"env": True, "image_host": True, "network_full": True}
# What requests may say: a type, or some values. The engine keeps labels.
SPEC = {"source": [{"image": "host"}], "network": ["full"], "privileges": ["none"], "lifetime": ["detached"],
        "profile": ["default"], "env": dict, "workdir": str, "labels": dict}
EXEC = {"exec": str, "argv": list, "env": list, "workdir": str, "timeout_us": int}
HEAD, STDOUT, STDERR, EXITED, CREDIT, DONE = 1, 16, 17, 19, 36, 37  # frames
LONGEST, LONGEST_BODY, EVENT = 1 << 20, 4 << 20, 64  # bytes of a frame, of a body, of an event beside its output
NOT_STARTED = {errno.ENOENT: "command_not_found", errno.ENOTDIR: "command_not_found", errno.E2BIG: "invalid_argument",
               **dict.fromkeys((errno.EACCES, errno.EISDIR, errno.ENOEXEC, errno.ENAMETOOLONG),
                               "command_not_executable")}
ROOMS, LOCK = {}, threading.Lock()  # sandboxes, and who serves a request


class Failed(Exception):
    """An error of the API: its kind, and what is said of it."""


def attempt(work, *given):
    """What this gives, or an error of the API."""
    try:
        return work(*given), None
    except Failed as failed:
        kind, message = failed.args
    except KeyError as error:
        kind, message = "not_found", f"there is no {error}"
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        kind, message = "invalid_argument", f"not as docs/openapi.json has it ({type(error).__name__})"
    return None, {"kind": kind, "message": message}


def read(data):
    """Reads JSON. What is null, false or empty asks for nothing."""
    return json.loads(data, object_pairs_hook=lambda pairs: {
        name: one for name, one in pairs if one is not False and one not in (None, [], {})})


def asked(value, known):
    """What an object asks for, of which what is not known is refused."""
    for name, one in value.items():
        what = known.get(name, ())
        if isinstance(what, type) and not isinstance(one, what):
            raise Failed("invalid_argument", f"`{name}` is of another type than in docs/openapi.json")
        if not isinstance(what, type) and one not in what:
            raise Failed("unsupported", f"`{name}` is not had here, or not with this value")
    return value


def create(id, spec={}, secrets={}):
    """Makes a sandbox: its directory, its variables, and no command yet."""
    asked(spec, SPEC)
    if id in ROOMS:
        raise Failed("conflict", "the id is taken")
    home = tempfile.mkdtemp(prefix="stacyvm-")
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": home, "USER": "one", **spec.get("env", {}), **secrets}
    ROOMS[id] = types.SimpleNamespace(env={**env, "STACYVM_SANDBOX": id}, home=home, workdir=spec.get("workdir", home),
                                      commands={}, seen={"id": id, "state": "running"})
    return ROOMS[id].seen


def destroy(name):
    """Ends a sandbox with what has its mark in its environment. What cleared that is not found."""
    if gone := ROOMS.pop(name, None):
        for command in list(gone.commands.values()):
            command.kill({"reason": "sandbox_gone"})
        while killed(f"STACYVM_SANDBOX={name}".encode()):
            time.sleep(0.005)
        shutil.rmtree(gone.home, ignore_errors=True)
    return {}


def killed(mark):
    """How many processes with this mark were there to be killed."""
    count = 0
    for path in glob.glob("/proc/[0-9]*/environ"):
        with contextlib.suppress(OSError), open(path, "rb") as environ:  # It is gone, or somebody else's.
            if mark in environ.read().split(b"\0"):
                os.kill(int(path.split("/")[2]), signal.SIGKILL)
                count += 1
    return count


class Command:
    """A command of the foreground, which is followed on the connection that asked for it."""
    def __init__(self, room, exec, argv, env=(), workdir=None, timeout_us=1 << 50):
        if exec in room.commands:
            raise Failed("already_exists", "the id is taken")
        argv = [word.encode() if isinstance(word, str) else base64.b64decode(word.get("base64")) for word in argv]
        self.info = {"exec": exec, "argv": [word.decode(errors="replace") for word in argv]}
        self.told, self.ends = None, time.monotonic() + timeout_us / 1e6
        workdir, env = workdir or room.workdir, {**room.env, **dict(env)}
        if not os.path.isdir(workdir):
            raise Failed("not_found", "no such directory")
        try:
            self.process = subprocess.Popen(argv, cwd=workdir, env=env, start_new_session=True,
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            kind = NOT_STARTED.get(error.errno, "resource_exhausted")
            raise Failed(kind, f"the command did not start: {error.strerror}") from error
        self.info["pid"], self.pidfd = self.process.pid, os.pidfd_open(self.process.pid)
        self.commands, room.commands[exec] = room.commands, self

    def kill(self, told=None):
        """Kills its first process, and has its end told as this; whether it had not ended."""
        if runs := self.process.poll() is None:
            self.told = self.told or told
            self.process.kill()
        return runs

    def signal(self, data):
        if asked(read(data), {"signal": [signal.SIGKILL], "scope": str})["signal"] and not self.kill():
            raise Failed("not_found", "the command has ended")
        return {}

    def follow(self, client):
        """Serves the connection, whose end is the command's."""
        try:
            self.serve(client)
        finally:
            self.kill()
            del self.commands[self.info["exec"]]
            with self.process:  # It closes the pipes.
                os.close(self.pidfd)

    def serve(self, client):
        """Sends what it writes, and how it ended. Nothing is taken from it while nobody reads."""
        def send(kind, payload):
            client.sendall(struct.pack(">IB", len(payload), kind) + payload)

        send(HEAD, json.dumps(self.info).encode())
        process, runs, credit = self.process, [self.pidfd], 0
        pipes = {process.stdout.fileno(): STDOUT, process.stderr.fileno(): STDERR}
        while True:
            watched = [client, *runs, *pipes] if credit > 0 else [client]
            ready = select.select(watched, (), (), min(max(self.ends - time.monotonic(), 0), 3600))[0]
            if time.monotonic() >= self.ends:
                self.kill({"reason": "timed_out", "sandbox_ended": False})
                self.ends = math.inf
            if client in ready:
                length, kind, number = struct.unpack(">IBI", client.recv(9, socket.MSG_WAITALL))
                if not 4 <= length <= LONGEST:
                    return
                payload = client.recv(length - 4, socket.MSG_WAITALL)
                if kind == CREDIT:
                    credit += number
                else:  # Nothing but a signal reads as one, and nothing else is had.
                    _, error = attempt(self.signal, payload)
                    send(DONE, struct.pack(">I", number) + (json.dumps(error).encode() if error else b""))
            if self.pidfd in ready:
                # The pipes hold what it wrote, and are read once more: what others write there may go on for ever.
                ready, runs = select.select(pipes, (), (), 0)[0], []
                pipes = {pipe: pipes[pipe] for pipe in ready}
            for pipe in [one for one in ready if one in pipes][:1]:
                if data := os.read(pipe, LONGEST):
                    credit -= EVENT + len(data)
                    send(pipes[pipe], data)
                if not (data and runs):
                    del pipes[pipe]
            if not runs and not pipes and credit > 0:
                code = process.wait()
                status = {"reason": "code", "code": code} if code >= 0 else {"reason": "signal", "signal": -code}
                send(EXITED, json.dumps(self.told or status).encode())
                credit = -math.inf  # Nothing follows the end.


class Connection(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, rbufsize = "HTTP/1.1", True, 0

    def answer(self, data):
        url, host = urlsplit(self.path), "%s:%d" % self.server.server_address
        if self.headers.get_all("host") != [host] or "origin" in self.headers or "sec-fetch-site" in self.headers:
            raise Failed("permission_denied", f"browsers are not served, and `host` is {host}")
        match self.command, *url.path.split("/")[1:]:
            case "GET", "v1", "provider":
                return {"info": {"name": "processes", "runtime": "host", "versions": {}}, "capabilities": CLAIMS}
            case "GET", "v1", "probe":
                return {"usable": True, "findings": []}
            case "POST", "v1", "pull":
                return asked(read(data), {"source": SPEC["source"], "when": str}) and {}
            case "GET", "v1", "sandboxes":
                query = dict(parse_qsl(url.query))
                names = sorted(name for name in ROOMS if name > query.get("after", ""))
                return {"sandboxes": [ROOMS[name].seen for name in names[:int(query.get("limit", 1000))]]}
            case "POST", "v1", "sandboxes":
                return create(**asked(read(data), {"id": str, "spec": dict, "secrets": dict}))
            case "GET", "v1", "sandboxes", name:
                return ROOMS[name].seen
            case "DELETE", "v1", "sandboxes", name:
                return destroy(name)
            case "GET", "v1", "sandboxes", name, "execs":
                commands = list(ROOMS[name].commands.values())
                return {"execs": [one.info for one in commands if one.process.poll() is None]}
            case "POST", "v1", "sandboxes", name, "execs" if self.headers.get("upgrade") == "stacyvm-exec/1":
                return Command(ROOMS[name], **asked(read(data), EXEC))
            case "POST", "v1", "sandboxes", name, "execs", command, "signal":
                return ROOMS[name].commands[command].signal(data)
        raise Failed("unsupported", "this is not had here; see docs/openapi.json for all that there can be")

    def do_GET(self):
        """Serves a request, of whatever method."""
        length = int(self.headers.get("content-length", 0))
        if not 0 <= length <= LONGEST_BODY or "transfer-encoding" in self.headers:
            raise ValueError("what was sent is no request")
        data = self.connection.recv(length, socket.MSG_WAITALL)
        with LOCK:
            value, error = attempt(self.answer, data)
        if isinstance(value, Command):
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 101 \r\nconnection: upgrade\r\nupgrade: stacyvm-exec/1\r\n\r\n")
            return value.follow(self.connection)
        body, status = json.dumps(error or value).encode(), 400 if error else 200  # The client goes by its kind.
        head = f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    do_POST = do_PUT = do_DELETE = do_GET


class Server(socketserver.ThreadingTCPServer):
    daemon_threads, request_queue_size = True, 128

    def handle_error(self, request, client_address):
        """The client is gone, or what it sent is no request: its connection is closed, and no more."""


for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):  # Commands would ignore what this does.
    signal.signal(number, signal.SIG_DFL)
server = Server(("127.0.0.1", 0), Connection)
print("http://%s:%d" % server.server_address, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.buffer.read()
LOCK.acquire()  # Nothing is made any more.
while ROOMS:
    destroy(next(iter(ROOMS)))
