#!/usr/bin/env python3
"""A server of the HTTP API that runs commands as processes of the host, and isolates nothing.

It is the provider of `processes/provider.rs` once more, in another language: the API is in `docs/openapi.json`, its
frames in `stacyvm/src/wire/frame.rs`. It prints its URL, and ends when its standard input does, with all that it made.
Whoever can connect runs commands as its user. Linux, Python 3.10 or later, the standard library.
"""
import asyncio, base64, contextlib, errno, glob, http.client, io, json, os, re, shutil, signal, struct
import subprocess, tempfile, types
from urllib.parse import parse_qsl, urlsplit

class Failed(Exception):
    """An error of the API: its kind, and what is said of it."""


class Named(dict):
    """What there is, by id."""
    def __missing__(self, name):
        raise Failed("not_found", f"there is no `{name}`")


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
ROOMS = Named()  # sandboxes


async def attempt(work):
    """What this gives, or an error of the API."""
    try:
        return await work, None
    except Failed as failed:
        kind, message = failed.args
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        kind, message = "invalid_argument", f"not as docs/openapi.json has it ({type(error).__name__})"
    return None, {"kind": kind, "message": message}


def read(data, known):
    """Reads an object of JSON. What is null, false or empty asks for nothing; what is not known is refused."""
    def asked(one):
        return {name: value for name, value in one.items() if value is not False and value not in (None, [], {})}
    return check(json.loads(data, object_hook=asked), known)


def check(value, known):
    for name, one in value.items():
        what = known.get(name, ())
        if isinstance(what, type) and not isinstance(one, what):
            raise Failed("invalid_argument", f"`{name}` is of another type than in docs/openapi.json")
        if not isinstance(what, type) and one not in what:
            raise Failed("unsupported", f"`{name}` is not had here, or not with this value")
    return value


def create(id, spec={}, secrets={}):
    """Makes a sandbox: its directory, its variables, and no command yet."""
    check(spec, SPEC)
    if not re.fullmatch("[a-z][a-z0-9-]{0,62}", id):
        raise Failed("invalid_argument", "`id` is not 1 to 63 of a-z, 0-9 and -, beginning with a letter")
    if id in ROOMS:
        raise Failed("conflict", "the id is taken")
    home = tempfile.mkdtemp(prefix="stacyvm-")
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": home, "USER": "one", **spec.get("env", {}), **secrets}
    ROOMS[id] = types.SimpleNamespace(env={**env, "STACYVM_SANDBOX": id}, home=home, workdir=spec.get("workdir", home),
                                      commands=Named(), seen={"id": id, "state": "running"})
    return ROOMS[id].seen


async def destroy(name):
    """Ends a sandbox with what has its mark in its environment. What cleared that is not found."""
    gone, mark, found = ROOMS.pop(name, None), f"STACYVM_SANDBOX={name}".encode(), True
    for command in gone.commands.values() if gone else ():
        command.kill({"reason": "sandbox_gone"})
    while found:
        found = False
        for path in glob.glob("/proc/[0-9]*/environ"):
            with contextlib.suppress(OSError), open(path, "rb") as environ:  # It is gone, or somebody else's.
                if mark in environ.read().split(b"\0"):
                    os.kill(int(path.split("/")[2]), signal.SIGKILL)
                    found = True
        await asyncio.sleep(0.005 if found else 0)
    if gone:
        shutil.rmtree(gone.home, ignore_errors=True)
    return {}


class Command:
    """A command of the foreground, which is followed on the connection that asked for it."""
    def __init__(self, room, exec, argv, env=(), workdir=None, timeout_us=1 << 50):
        if exec in room.commands:
            raise Failed("already_exists", "the id is taken")
        argv = [word.encode() if isinstance(word, str) else base64.b64decode(word["base64"]) for word in argv]
        self.info = {"exec": exec, "argv": [word.decode(errors="replace") for word in argv]}
        workdir, env, seconds = workdir or room.workdir, {**room.env, **dict(env)}, timeout_us / 1e6
        if not os.path.isdir(workdir):
            raise Failed("not_found", "no such directory")
        try:
            self.process = subprocess.Popen(argv, cwd=workdir, env=env, bufsize=0, start_new_session=True,
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            kind = NOT_STARTED.get(error.errno, "resource_exhausted")
            raise Failed(kind, f"the command did not start: {error.strerror}") from error
        self.info["pid"], self.pidfd = self.process.pid, os.pidfd_open(self.process.pid)
        self.credit, self.credited, self.told, self.loop = 0, asyncio.Event(), None, asyncio.get_running_loop()
        self.deadline = self.loop.call_later(seconds, self.kill, {"reason": "timed_out", "sandbox_ended": False})
        self.commands, room.commands[exec] = room.commands, self

    def kill(self, told=None):
        """Kills its first process, and has its end told as this; whether it had not ended."""
        if runs := self.process.poll() is None:
            self.told = told or self.told
            self.process.kill()
        return runs

    async def signal(self, data):
        if read(data, {"signal": [signal.SIGKILL], "scope": str})["signal"] and not self.kill():
            raise Failed("not_found", "the command has ended")
        return {}

    async def follow(self, reader, writer):
        """Serves the connection, whose end is the command's."""
        self.writer, teller = writer, asyncio.create_task(self.tell())
        try:
            await self.listen(reader)
        finally:
            self.kill()
            self.deadline.cancel()
            self.give(LONGEST_BODY)  # Nobody reads, and so nobody waits.
            await asyncio.wait([teller])
            del self.commands[self.info["exec"]]
            with self.process:  # It closes the pipes.
                os.close(self.pidfd)

    def send(self, kind, payload):
        self.writer.write(struct.pack(">IB", len(payload), kind) + payload)

    def give(self, credit):
        self.credit += credit
        (self.credited.set if self.credit > 0 else self.credited.clear)()

    async def tell(self):
        """Sends what it writes, and how it ended. Nothing is taken from it while nobody reads."""
        self.send(HEAD, json.dumps(self.info).encode())
        pipes, ended = {self.process.stdout: STDOUT, self.process.stderr: STDERR}, False
        while not ended:
            event = asyncio.Event()
            for one in (self.pidfd, *pipes):
                self.loop.add_reader(one, event.set)
            await event.wait()
            for one in (self.pidfd, *pipes):
                self.loop.remove_reader(one)
            ended = self.process.poll() is not None
            # At its end the pipes hold what it wrote. What others write there may go on for ever.
            for pipe, kind in list(pipes.items()):
                await self.credited.wait()
                os.set_blocking(pipe.fileno(), False)
                data = pipe.read(LONGEST)
                if data:
                    self.give(-EVENT - len(data))
                    self.send(kind, data)
                elif data is not None:
                    del pipes[pipe]
        await self.credited.wait()
        code = self.process.returncode
        status = {"reason": "code", "code": code} if code >= 0 else {"reason": "signal", "signal": -code}
        self.send(EXITED, json.dumps(self.told or status).encode())

    async def listen(self, reader):
        """Does what the client asks for, until it goes or does not keep to the frames."""
        while True:
            length, kind = struct.unpack(">IB", await reader.readexactly(5))
            if length > LONGEST:
                return
            number, payload = await reader.readexactly(4), await reader.readexactly(length - 4)
            if kind == CREDIT:
                self.give(int.from_bytes(number, "big"))
            else:  # Nothing but a signal reads as one, and nothing else is had.
                _, error = await attempt(self.signal(payload))
                self.send(DONE, number + (json.dumps(error).encode() if error else b""))


async def answer(host, method, url, headers, data):
    if headers.get_all("host") != [host] or "origin" in headers or "sec-fetch-site" in headers:
        raise Failed("permission_denied", f"browsers are not served, and `host` is {host}")
    match method, *url.path.split("/")[1:]:
        case "GET", "v1", "provider":
            return {"info": {"name": "processes", "runtime": "host", "versions": {}}, "capabilities": CLAIMS}
        case "GET", "v1", "probe":
            return {"usable": True, "findings": []}
        case "POST", "v1", "pull":
            return read(data, {"source": SPEC["source"], "when": str}) and {}
        case "GET", "v1", "sandboxes":
            query = dict(parse_qsl(url.query))
            names = sorted(name for name in ROOMS if name > query.get("after", ""))[:int(query.get("limit", 1000))]
            return {"sandboxes": [ROOMS[name].seen for name in names]}
        case "POST", "v1", "sandboxes":
            return create(**read(data, {"id": str, "spec": dict, "secrets": dict}))
        case "GET", "v1", "sandboxes", name:
            return ROOMS[name].seen
        case "DELETE", "v1", "sandboxes", name:
            return await destroy(name)
        case "GET", "v1", "sandboxes", name, "execs":
            return {"execs": [one.info for one in ROOMS[name].commands.values() if one.process.poll() is None]}
        case "POST", "v1", "sandboxes", name, "execs" if headers.get("upgrade") == "stacyvm-exec/1":
            return Command(ROOMS[name], **read(data, EXEC))
        case "POST", "v1", "sandboxes", name, "execs", command, "signal":
            return await ROOMS[name].commands[command].signal(data)
    raise Failed("unsupported", "this is not had here; see docs/openapi.json for all that there can be")


async def serve(reader, writer):
    """Serves a connection, until the client is gone or what it sent is no request."""
    gone = (OSError, EOFError, ValueError, asyncio.LimitOverrunError, asyncio.CancelledError)
    with contextlib.suppress(*gone), contextlib.closing(writer):
        while True:
            line, _, head = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
            method, target, _ = line.decode("latin-1").split(" ")
            headers = http.client.parse_headers(io.BytesIO(head))
            length, host = int(headers.get("content-length", 0)), "%s:%d" % writer.get_extra_info("sockname")
            if length > LONGEST_BODY or "transfer-encoding" in headers:
                return
            data = await reader.readexactly(length)
            value, error = await attempt(answer(host, method, urlsplit(target), headers, data))
            if isinstance(value, Command):
                writer.write(b"HTTP/1.1 101 \r\nconnection: upgrade\r\nupgrade: stacyvm-exec/1\r\n\r\n")
                return await value.follow(reader, writer)
            body, status = json.dumps(error or value).encode(), 400 if error else 200  # The client goes by its kind.
            head = f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("http://%s:%d" % server.sockets[0].getsockname(), flush=True)
    try:
        await asyncio.to_thread(open(0, "rb", 0).read)
    finally:
        while ROOMS:
            await destroy(next(iter(ROOMS)))


asyncio.run(main())
