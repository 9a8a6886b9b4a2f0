#!/usr/bin/env python3
"""A server of the HTTP API that runs commands as processes of the host, and isolates nothing.

It is the provider of `processes/provider.rs` once more, in another language: the API is in
`docs/openapi.json`, its frames in `stacyvm/src/wire/frame.rs`. It prints its URL, and ends when
its standard input does, with all that it made. Whoever can connect runs commands as its user.
Linux, Python 3.9 or later, the standard library.
"""
import base64, errno, ipaddress, json, os, re, select, shutil, signal, socket, struct, subprocess, sys
import tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CLAIMS = {"exec_stdin": True, "env": True, "image_host": True, "network_full": True}
HEAD, ERROR, STDOUT, STDERR, EXITED = 1, 4, 16, 17, 19
STDIN, CLOSE_STDIN, RESIZE, SIGNAL, CREDIT, DONE = 32, 33, 34, 35, 36, 37
LONGEST, WINDOW, EVENT, LONGEST_BODY = 1 << 20, 256 << 10, 64, 4 << 20  # bytes
PIECE, PIPE = 64 << 10, 1 << 20  # one read; the most that a pipe holds
QUIET, RESISTS, SLOWEST = 0.02, 10, 30  # seconds
STATUS = {"invalid_argument": 400, "command_not_executable": 400, "permission_denied": 403, "not_found": 404,
          "command_not_found": 404, "already_exists": 409, "conflict": 409, "resource_exhausted": 429,
          "internal": 500, "unsupported": 501, "protocol": 502, "timeout": 504, "no_space": 507}
# What a spec may say, where that is not free. The engine keeps labels.
PLAIN = {"source": [{"image": "host"}], "user": [None], "privileges": ["none"], "mounts": [[]], "network": [None, "full"],
         "ports": [[]], "ttl": [None], "idle_timeout": [None], "lifetime": ["detached"], "secrets": [{}],
         "read_only_root": [False], "profile": ["default"], "provider_options": [{}]}
S = "/v1/sandboxes/([^/]+)"
# What is had; the rest of the API is refused.
ROUTES = [("GET", "/v1/provider", "provider"), ("GET", "/v1/probe", "probe"), ("POST", "/v1/pull", "pull"),
          ("GET", "/v1/sandboxes", "list"), ("POST", "/v1/sandboxes", "create"), ("GET", S, "inspect"),
          ("DELETE", S, "destroy"), ("GET", S + "/execs", "list_execs"), ("POST", S + "/execs", "exec"),
          ("POST", S + "/execs/([^/]+)/signal", "signal_exec")]
ROOMS, LOCK = {}, threading.Lock()  # sandboxes by id; of them, and of the processes in them


class Failed(Exception):
    """An error of the API."""
    def __init__(self, kind, message, **facts):
        super().__init__(message)
        self.kind, self.facts = kind, list(facts.items())

    def body(self, operation=""):
        return {"kind": self.kind, "message": str(self), "operation": operation, "context": self.facts, "retry": "never"}


class Broken(Exception):
    """The client did not keep to the frames."""


class Room:
    """A sandbox: what was asked for, its directory, the commands that run."""
    def __init__(self, name, spec, secrets):
        self.id, self.execs, self.workdir = name, {}, spec.get("workdir")
        self.env = {**spec.get("env", {}), **secrets}
        self.home = tempfile.mkdtemp(prefix="stacyvm-")


class Running:
    """A command, its information and its process."""
    def __init__(self, room, body, argv, command):
        self.room, self.name, self.process = room, body["exec"], subprocess.Popen(argv, start_new_session=True, **command)
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        self.info = {"exec": self.name, "argv": [os.fsencode(word).decode("utf-8", "replace") for word in argv],
                     "pid": self.process.pid, "started": {"seconds": seconds, "nanoseconds": nanoseconds}, "processes": 1}
        self.mark = f"STACYVM_EXEC={self.name}"

    def kill(self, group=True):
        """Kills its process group, or its first process. The lock is held."""
        if not self.kill_if_running(group):
            raise Failed("not_found", "the command has ended")

    def kill_if_running(self, group=True):
        """Kills it as above, and tells whether it was there. It is looked at once: it may end at any moment."""
        if self.process.poll() is not None:
            return False
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        return True

    def kill_all(self):
        with LOCK:
            self.kill_if_running()
        kill_marked(self.mark)

    def end(self):
        """How it ended, once it has."""
        with LOCK:
            code, running = self.process.poll(), ROOMS.get(self.room.id) is self.room
            self.room.execs.pop(self.name, None)
        if not running:
            return {"reason": "sandbox_gone"}
        return {"reason": "code", "code": code} if code >= 0 else {"reason": "signal", "signal": -code}


def kill_marked(mark):
    """Kills what has this mark in its environment, until nothing has. What cleared it is not found."""
    until, found = time.monotonic() + RESISTS, True
    while found:
        found = False
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as environ:
                    if mark.encode() in environ.read().split(b"\0"):
                        os.kill(int(pid), signal.SIGKILL)
                        found = True
            except OSError:
                pass  # It is gone, or somebody else's.
        if found and time.monotonic() > until:
            raise Failed("timeout", f"processes did not end within {RESISTS} s of their kill")
        time.sleep(0.005 if found else 0)


def destroy(name):
    with LOCK:  # No command starts in it from here on, and its directory goes last.
        room = ROOMS.pop(name, None)
        for running in room.execs.values() if room else ():
            running.kill_if_running()
    kill_marked(f"STACYVM_SANDBOX={name}")
    if room:
        shutil.rmtree(room.home, ignore_errors=True)


def invalid(field, expected, message=None):
    # No value is quoted: it may be a secret.
    return Failed("invalid_argument", message or f"invalid {field}, expected {expected}; see docs/openapi.json",
                  field=field, expected=expected)


def once(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise invalid("body", "each field once")
    return dict(pairs)


def strict(value, field, required, optional=None):
    """An object with these fields and no others. An optional one that is null is left out."""
    known = {**required, **(optional or {})}
    if not isinstance(value, dict):
        raise invalid(field, "an object")
    for name in value:
        if name not in known:
            raise invalid(name, "a field of this request", f"unknown field `{name}`")
    value = {name: one for name, one in value.items() if one is not None or name in required}
    for name, kind in known.items():
        given = type(value[name]) if name in value else None
        if given not in (kind, None) and kind is not object or given is None and name in required:
            raise invalid(name, kind.__name__)
    return value


def read_json(data, required, optional=None):
    def none(_):
        raise ValueError
    try:
        value = json.loads(data, object_pairs_hook=once, parse_constant=none)
        json.dumps(value, ensure_ascii=False).encode()  # Half of a surrogate pair is no text.
    except (ValueError, RecursionError):
        raise invalid("body", "JSON") from None
    return strict(value, "body", required, optional)


def plain_id(name, field):
    if not re.fullmatch("[a-z][a-z0-9-]{0,62}", name):
        raise invalid(field, "1 to 63 characters of a-z, 0-9 and -, beginning with a letter")
    return name


def raw(value, field):
    """Bytes: a string, or base64 where they are no text."""
    try:
        if isinstance(value, str):
            data = value.encode()
        else:
            data = base64.b64decode(strict(value, field, {"base64": str})["base64"], validate=True)
    except ValueError:
        raise invalid(field, "standard base64 with padding") from None
    if b"\0" in data:
        raise invalid(field, "no NUL byte")
    return data


def check_env(pairs):
    for pair in pairs:
        plain = type(pair) in (list, tuple) and len(pair) == 2 and all(type(part) is str and "\0" not in part for part in pair)
        if not plain or not pair[0] or "=" in pair[0]:
            raise invalid("env", "pairs of a name without = and a value, both without NUL")


def check_workdir(path):
    if path is not None and (not path.startswith("/") or "\0" in path or len(path.encode()) > 4095):
        raise invalid("workdir", "an absolute path of at most 4095 bytes without NUL")


def check_spec(spec, open_files_preferred=False):
    spec = strict(spec, "spec", {}, {**dict.fromkeys(PLAIN, object), "env": dict, "workdir": str, "labels": dict, "resources": dict})
    for name, plain in PLAIN.items():
        if name in spec and spec[name] not in plain:
            raise Failed("unsupported", f"`{name}` can only be {json.dumps(plain[0])} here", field=name)
    limits = dict.fromkeys(("memory_mib", "cpus", "pids", "open_files", "disk_mib"), object)
    for name in strict(spec.get("resources", {}), "resources", {}, limits):
        if name != "open_files" or not open_files_preferred:
            raise Failed("unsupported", f"`{name}` is not limited here", field=name)
    check_env(spec.get("env", {}).items())
    check_workdir(spec.get("workdir"))
    return spec


def signal_of(body):
    if body["scope"] not in ("process", "group", "tree"):
        raise invalid("scope", "process, group or tree")
    if body["signal"] != signal.SIGKILL:
        raise Failed("unsupported", "SIGKILL alone is sent here")
    return body["scope"] != "process"


class Session:
    """A command that is followed on its connection: one loop, which waits for both."""
    def __init__(self, running, body, connection):
        self.running, self.connection, self.inbox, self.asked = running, connection, bytearray(), body.get("stdin")
        process = running.process
        self.pipes = {process.stdout.fileno(): [STDOUT, PIPE], process.stderr.fileno(): [STDERR, PIPE]}
        self.stdin = process.stdin
        if self.stdin:
            os.set_blocking(self.stdin.fileno(), False)
        self.credit, self.input, self.status, self.cut, self.told = 0, None, None, None, False
        self.deadline = time.monotonic() + body["timeout_us"] / 1e6 if "timeout_us" in body else None

    def send(self, kind, payload):
        self.connection.sendall(struct.pack(">IB", len(payload), kind) + payload)

    def tell(self, kind, payload):
        self.credit -= EVENT + (len(payload) if kind in (STDOUT, STDERR) else 0)
        self.send(kind, payload)

    def answer(self, number, error=None):
        self.send(DONE, struct.pack(">I", number) + (json.dumps(error.body()).encode() if error else b""))

    def run(self):
        pidfd = os.pidfd_open(self.running.process.pid)
        try:
            self.send(HEAD, json.dumps(self.running.info).encode())
            while self.step(pidfd):
                pass
        finally:
            # The end of the connection is the end of a command of the foreground.
            if self.status is None:
                self.running.kill_all()
                select.select([pidfd], [], [], RESISTS)
                self.running.process.poll() is not None and self.running.end()
            os.close(pidfd)
            for pipe in (self.running.process.stdout, self.running.process.stderr):
                pipe.close()
            self.close_stdin()

    def step(self, pidfd):
        """Waits for something to happen and deals with it; whether the client is still there."""
        # Nothing is taken from a command that nobody reads.
        may_tell, poll = self.credit > 0 and not self.told, select.poll()
        poll.register(self.connection, select.POLLIN)
        if self.status is None:
            poll.register(pidfd, select.POLLIN)
        for pipe in self.pipes if may_tell else ():
            poll.register(pipe, select.POLLIN)
        if self.input:
            poll.register(self.stdin, select.POLLOUT)
        wait = None if self.deadline is None else max(0, self.deadline - time.monotonic())
        if self.status and may_tell:
            # What the command left behind may hold the pipes for ever.
            wait = QUIET if self.pipes else 0
        ready = dict(poll.poll(None if wait is None else min(wait, 3600) * 1000))
        for pipe in [pipe for pipe in self.pipes if pipe in ready and self.credit > 0]:
            self.take(pipe)
        if self.status and may_tell and self.credit > 0 and not (self.pipes and ready):
            self.told = True
            self.tell(EXITED, json.dumps(self.status).encode())
        if pidfd in ready:
            status, self.deadline = self.running.end(), None
            self.status = self.cut if self.cut and status["reason"] != "sandbox_gone" else status
            self.write(ended=True)
        elif self.deadline is not None and time.monotonic() >= self.deadline:
            self.pass_deadline()
        elif self.input and self.stdin.fileno() in ready:
            self.write()
        return self.connection.fileno() not in ready or self.listen()

    def take(self, pipe):
        data, left = os.read(pipe, PIECE), self.pipes[pipe]
        left[1] -= len(data) if self.status else 0
        if not data or left[1] <= 0:
            del self.pipes[pipe]
        if data and self.credit > 0:
            self.tell(left[0], data)

    def pass_deadline(self):
        if self.cut is None:
            self.cut, self.deadline = {"reason": "timed_out", "sandbox_ended": False}, time.monotonic() + RESISTS
            self.running.kill_all()
        else:
            self.deadline, self.told = None, True
            error = Failed("timeout", f"the command did not end within {RESISTS} s of its kill")
            self.send(ERROR, json.dumps(error.body()).encode())

    def listen(self):
        data = self.connection.recv(PIECE)
        self.inbox += data
        while len(self.inbox) >= 5:
            length, kind = struct.unpack_from(">IB", self.inbox)
            if length > LONGEST or kind not in (STDIN, CLOSE_STDIN, RESIZE, SIGNAL, CREDIT) or length < 4:
                raise Broken
            if len(self.inbox) < 5 + length:
                break
            number, = struct.unpack_from(">I", self.inbox, 5)
            payload = bytes(self.inbox[9:5 + length])
            del self.inbox[:5 + length]
            self.call(kind, number, payload)
        return bool(data)

    def call(self, kind, number, payload):
        if kind == CREDIT:
            self.credit += number
            if payload or self.credit > WINDOW:
                raise Broken
            return
        if kind in (STDIN, CLOSE_STDIN) and self.input:
            raise Broken  # Input before the answer to the last one.
        try:
            if kind == STDIN:
                if not self.asked:
                    raise invalid("stdin", "true when the command is started")
                self.input = (number, payload)
                return self.write(ended=self.status is not None)
            if kind == CLOSE_STDIN:
                self.close_stdin()
            elif kind == RESIZE:
                raise Failed("unsupported", "the command has no terminal")
            else:
                group = signal_of(read_json(payload, {"signal": int, "scope": str}))
                with LOCK:
                    self.running.kill(group)
            self.answer(number)
        except Failed as error:
            self.answer(number, error)

    def write(self, ended=False):
        """Writes what the command takes of the input that waits."""
        if self.input is None:
            return
        number, data = self.input
        try:
            if ended or self.stdin is None:
                raise BrokenPipeError
            data = data[os.write(self.stdin.fileno(), data) if data else 0:]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.input = None
            return self.answer(number, Failed("conflict", "standard input is closed"))
        self.input = (number, data) if data else None
        if not data:
            self.answer(number)

    def close_stdin(self):
        if self.stdin:
            self.stdin.close()
        self.stdin = None


class Handler(BaseHTTPRequestHandler):
    protocol_version, timeout, disable_nagle_algorithm = "HTTP/1.1", SLOWEST, True

    def log_message(self, *_):
        pass

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        for header in (("content-type", "application/json"), ("cache-control", "no-store"), ("content-length", str(len(data)))):
            self.send_header(*header)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def serve(self):
        url, operation, self.unread = urlsplit(self.path), "", True
        try:
            self.guard()
            found = [(name, fits) for method, path, name in ROUTES
                     if method == self.command and (fits := re.fullmatch(path, url.path))]
            if not found:
                raise Failed("unsupported", "this is not had here; see docs/openapi.json for all that there can be")
            [(operation, fits)] = found
            self.query = url.query
            names = [plain_id(name, field) for name, field in zip(fits.groups(), ("sandbox", "exec"))]
            value = getattr(self, "serve_" + operation)(*names)
            if value is not None:
                self.read_body()
                self.reply(200, value)
        except Failed as error:
            self.close_connection |= self.unread
            self.reply(STATUS[error.kind], error.body(operation))
            if self.close_connection:
                self.drain()

    do_GET = do_POST = do_PUT = do_DELETE = serve

    def guard(self):
        """Refuses what comes from a browser, or was sent to another name than a loopback one."""
        for name in ("origin", "sec-fetch-site"):
            if name in self.headers:
                raise Failed("permission_denied", "browsers are not served", field=name)
        try:
            host = urlsplit("//" + self.headers.get("host", "")).hostname or ""
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback or len(self.headers.get_all("host")) != 1:
            raise Failed("permission_denied", "expected one `localhost` or loopback address", field="host")

    def drain(self):
        """A connection that is closed with bytes in it loses the answer that is on its way."""
        self.connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + 10
        while time.monotonic() < until and self.rfile.read1(PIECE):
            pass

    def read_body(self):
        if not self.unread:
            return b""
        length = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not re.fullmatch("[0-9]{1,7}", length) or int(length) > LONGEST_BODY:
            raise invalid("body", f"`content-length` of at most {LONGEST_BODY}")
        data = self.rfile.read(int(length))
        self.unread = False
        if len(data) < int(length):
            raise Failed("protocol", "the other side sent a body that broke off")
        return data

    def body(self, required, optional=None):
        if self.headers.get_content_type() != "application/json":
            raise invalid("content-type", "application/json")
        return read_json(self.read_body(), required, optional)

    def room(self, name):
        """The sandbox. The lock is held."""
        if name not in ROOMS:
            raise Failed("not_found", "no such sandbox", sandbox=name)
        return ROOMS[name]

    def serve_provider(self):
        return {"info": {"name": "processes", "runtime": "host", "versions": {}}, "capabilities": CLAIMS}

    def serve_probe(self):
        return {"usable": True, "findings": []}

    def serve_pull(self):
        body = self.body({"source": dict, "when": str})
        if body["when"] not in ("missing", "never", "always"):
            raise invalid("when", "missing, never or always")
        check_spec({"source": body["source"]})
        return {}

    def serve_list(self):
        after, limit = "", 1000
        for pair in filter(None, self.query.split("&")):
            name, _, value = pair.partition("=")
            if name == "after":
                after = plain_id(value, "after")
            elif name == "limit" and re.fullmatch("[0-9]{1,4}", value) and 1 <= int(value) <= 1000:
                limit = int(value)
            else:
                raise invalid("query", "after=ID or limit=N of 1 to 1000")
        with LOCK:
            names = sorted(name for name in ROOMS if name > after)
        return {"sandboxes": [{"id": name, "state": "running"} for name in names[:limit]]}

    def serve_create(self):
        body = self.body({"id": str, "spec": dict}, {"secrets": dict, "open_files_preferred": bool, "owner": str})
        name, secrets = plain_id(body["id"], "id"), body.get("secrets", {})
        spec = check_spec(body["spec"], body.get("open_files_preferred"))
        check_env(secrets.items())
        if "owner" in body:
            raise Failed("unsupported", "sandboxes have no owner here", field="owner")
        with LOCK:
            if name in ROOMS:
                raise Failed("conflict", "the id is taken", sandbox=name)
            try:
                ROOMS[name] = Room(name, spec, secrets)
            except OSError as error:
                raise Failed("no_space", f"no directory: {error.strerror}") from error
        return {"id": name, "state": "running"}

    def serve_inspect(self, name):
        with LOCK:
            return {"id": self.room(name).id, "state": "running"}

    def serve_destroy(self, name):
        destroy(name)
        return {}

    def serve_list_execs(self, name):
        with LOCK:
            return {"execs": [running.info for running in self.room(name).execs.values()]}

    def serve_signal_exec(self, name, command):
        group = signal_of(self.body({"signal": int, "scope": str}))
        with LOCK:
            running = self.room(name).execs.get(command)
            if running is None:
                raise Failed("not_found", "no such command", exec=command)
            running.kill(group)
        return {}

    def serve_exec(self, name):
        words = [word.strip().lower() for word in self.headers.get("connection", "").split(",")]
        if "upgrade" not in words or self.headers.get("upgrade", "").lower() != "stacyvm-exec/1":
            raise invalid("upgrade", "stacyvm-exec/1, and `connection: upgrade`")
        body = self.body({"exec": str, "argv": list}, {"env": list, "workdir": str, "user": str, "stdin": bool,
                                                       "tty": dict, "timeout_us": int, "background": bool})
        plain_id(body["exec"], "exec")
        argv = [raw(word, f"argv[{index}]") for index, word in enumerate(body["argv"])]
        if not argv or not argv[0]:
            raise invalid("argv", "a command and its arguments")
        check_env(body.get("env", []))
        check_workdir(body.get("workdir"))
        if body.get("timeout_us", 1) <= 0:
            raise invalid("timeout_us", "more than zero")
        if body.get("background") or "tty" in body or "user" in body:
            raise Failed("unsupported", "background, tty and user are not had")
        running = self.start(name, body, argv)
        session = Session(running, body, self.connection)
        self.close_connection = True
        try:
            self.send_response(101)
            self.send_header("connection", "upgrade")
            self.send_header("upgrade", "stacyvm-exec/1")
            self.end_headers()
            # What came already lies in the buffer of the reader.
            self.connection.setblocking(False)
            session.inbox += self.rfile.read1(PIECE) or b""
            self.connection.settimeout(SLOWEST)
        finally:
            session.run()

    def start(self, name, body, argv):
        with LOCK:
            room = self.room(name)
            if body["exec"] in room.execs:
                raise Failed("already_exists", "the id is taken", exec=body["exec"])
            workdir = body.get("workdir") or room.workdir or room.home
            if not os.path.isdir(workdir):
                raise Failed("not_found", "no such directory", path=workdir)
            env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": room.home, "USER": "one", **room.env,
                   **dict(body.get("env", [])), "STACYVM_SANDBOX": name, "STACYVM_EXEC": body["exec"]}
            stdin = subprocess.PIPE if body.get("stdin") else subprocess.DEVNULL
            try:
                running = Running(room, body, argv, dict(cwd=workdir, env=env, stdin=stdin, stdout=subprocess.PIPE,
                                                         stderr=subprocess.PIPE, bufsize=0))
            except (FileNotFoundError, NotADirectoryError) as error:
                raise Failed("command_not_found", "the command did not start: not found") from error
            except OSError as error:
                fault = error.errno in (errno.EACCES, errno.EISDIR, errno.ENOEXEC, errno.ENAMETOOLONG)
                rest = "invalid_argument" if error.errno == errno.E2BIG else "resource_exhausted"
                kind = "command_not_executable" if fault else rest
                raise Failed(kind, f"the command did not start: {error.strerror}") from error
            room.execs[running.name] = running
            return running


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (OSError, Broken)):
            super().handle_error(request, client_address)


def main():
    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        while sys.stdin.buffer.read(PIECE):
            pass
    except KeyboardInterrupt:
        pass
    server.shutdown()
    for name in list(ROOMS):
        destroy(name)


if __name__ == "__main__":
    main()
