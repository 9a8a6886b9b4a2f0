# pyright: reportPrivateUsage=false
"""Sandboxes, in threads. Made from `_async.py` by scripts/python-sync.py."""

from __future__ import annotations

import builtins
import codecs
import json
import signal as signals
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ._sync_files import Files
from ._sync_ports import Connection, Listener
from ._call import asked_as_json, waited, call_back_now
from ._chunk import Chunk, LogEntry
from ._default import default_engine
from ._errors import CommandFailedError, escaped
from ._native import (
    CodeContext,
    CodeError,
    CodeResult,
    CommandInfo,
    CommandResult,
    Endpoint,
    Execution,
    ExitInfo,
    PoolStats,
    ProcessInfo,
    SandboxInfo,
    SandboxMetrics,
    SnapshotInfo,
)
from ._native import Engine as NativeEngine
from ._native import Pool as NativePool
from ._native import Process as NativeProcess
from ._native import Sandbox as NativeSandbox

if TYPE_CHECKING:
    from datetime import datetime
    from os import PathLike

    from typing_extensions import Self, Unpack

    from ._types import Command, CreateOptions, HowToRun, OnOutput, OnPull, Path, PoolOptions

PAGE = 256
"""Sandboxes that are asked for at once."""


class Engine:
    """Where sandboxes are made and found: settings, records, providers.

    It is opened by its first call. Without arguments it has the settings that the
    command line has. In a forked child it opens itself again.
    """

    def __init__(
        self,
        *,
        config: str | PathLike[str] | None = None,
        state_dir: str | PathLike[str] | None = None,
    ) -> None:
        self._native = NativeEngine(config=config, state_dir=state_dir)

    @classmethod
    def mock(cls) -> Self:
        """An engine of the mock provider alone, which executes nothing: for tests of
        your own program. Its records are in memory; a forked child has none of them."""
        engine = cls.__new__(cls)
        engine._native = NativeEngine.mock()
        return engine

    def create(
        self, *, on_pull: OnPull | None = None, **options: Unpack[CreateOptions]
    ) -> Sandbox:
        """Makes a sandbox and returns when a command can run in it. `on_pull` is told
        how far the pull of its image is; what it raises gives the sandbox up."""
        return Sandbox._of(_created(self._native, options, on_pull))

    def connect(self, sandbox_id: str) -> Sandbox:
        """Finds a sandbox by its id. Its end stays where it is."""
        return Sandbox._of(waited(self._native.get(sandbox_id)))

    def list(
        self, *, metadata: dict[str, str] | None = None, all: bool = False
    ) -> Iterator[SandboxInfo]:
        """Lists sandboxes in the order of their ids, those that ended too if `all`."""
        after: str | None = None
        while True:
            page = waited(self._native.page(metadata or {}, all, after, PAGE))
            for info in page:
                yield info
            if len(page) < PAGE:
                return
            after = page[-1].id

    def pool(
        self,
        *,
        size: int | None = None,
        max_age: float | None = None,
        refill_at_once: int | None = None,
        **options: Unpack[PoolOptions],
    ) -> Pool:
        """Makes a pool of sandboxes, which are made ahead and wait to be claimed: `size`
        of them at most (4), each for `max_age` seconds at most (600), made
        `refill_at_once` at a time (1). It does not wait until the pool is full."""
        asked = asked_as_json(options)
        return Pool(
            waited(self._native.pool(asked, size, max_age, refill_at_once))
        )

    def providers(self) -> builtins.list[dict[str, Any]]:
        """What each configured provider is, can do on this host, and needs."""
        told = json.loads(waited(self._native.providers()))
        return cast("list[dict[str, Any]]", told)

    def close(self) -> None:
        """Lets go of its records and ends what it has under way. Sandboxes go on."""
        waited(self._native.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _created(
    engine: NativeEngine, options: CreateOptions, on_pull: OnPull | None
) -> NativeSandbox:
    asked = asked_as_json(options)
    if on_pull is None:
        return waited(engine.create(asked))
    creating = waited(engine.watched_create(asked))
    try:
        while True:
            pulling, made = waited(creating.next_event())
            if made is not None:
                return made
            if pulling is not None:
                call_back_now(on_pull, pulling)
    except BaseException:
        waited(creating.give_up())
        raise


class Pool:
    """Sandboxes of the same options that are made ahead, from `engine.pool()`.

    It belongs to its process. With its block, or when nobody holds it any more, all
    that wait are ended; those that were claimed go on.
    """

    def __init__(self, native: NativePool) -> None:
        self._native = native

    @property
    def name(self) -> str:
        """Its random name: the label `stacyvm.pool` of those that nobody has claimed."""
        return self._native.name

    def claim(
        self,
        *,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        metadata: Mapping[str, str] | None = None,
        files: Mapping[Path, str | bytes] | None = None,
        timeout: float | None = None,
        lifetime: Literal["attached", "detached"] | None = None,
    ) -> Sandbox:
        """Gives a sandbox away, with what the claim brings; where none waits, one is made.

        `timeout` are the seconds that it lives from now on. `files` are written before.
        """
        options = {
            "env": env, "secrets": secrets, "metadata": metadata,
            "timeout": timeout, "lifetime": lifetime,
        }
        asked = asked_as_json(options)
        given = list((files or {}).items())
        return Sandbox._of(waited(self._native.claim(asked, given)))

    def stats(self) -> PoolStats:
        """What it has and did."""
        return waited(self._native.stats())

    def filled(self) -> None:
        """Waits until as many wait as may."""
        waited(self._native.filled())

    def drain(self) -> None:
        """Ends all that wait, and returns when nothing of them is left."""
        waited(self._native.drain())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drain()


class Sandbox:
    """A disposable machine.

    `with Sandbox.create() as sandbox:` ends it with the block, and with
    this process where its provider can; otherwise it lives until its `timeout`, and other
    processes find it by its id.
    """

    _native: NativeSandbox

    commands: Commands
    """Its commands."""
    files: Files
    """Its files."""
    pty: Pty
    """Its terminals."""

    def __init__(self) -> None:
        raise TypeError("use Sandbox.create() or Sandbox.connect(id)")

    @classmethod
    def _of(cls, native: NativeSandbox) -> Self:
        sandbox = cls.__new__(cls)
        sandbox._native = native
        sandbox.commands = Commands(native)
        sandbox.files = Files(native)
        sandbox.pty = Pty(native)
        return sandbox

    @classmethod
    def create(
        cls, *, on_pull: OnPull | None = None, **options: Unpack[CreateOptions]
    ) -> Self:
        """Makes a sandbox and returns when a command can run in it. `on_pull` is told
        how far the pull of its image is; what it raises gives the sandbox up."""
        return cls._of(_created(default_engine(), options, on_pull))

    @classmethod
    def connect(cls, sandbox_id: str) -> Self:
        """Finds a sandbox by its id. Its end stays where it is."""
        return cls._of(waited(default_engine().get(sandbox_id)))

    @staticmethod
    def list(
        *, metadata: dict[str, str] | None = None, all: bool = False
    ) -> Iterator[SandboxInfo]:
        """Lists sandboxes in the order of their ids, those that ended too if `all`."""
        for info in _engine_of_default().list(metadata=metadata, all=all):
            yield info

    @property
    def id(self) -> str:
        """Its id."""
        return self._native.id

    @property
    def sandbox_id(self) -> str:
        """Its id."""
        return self._native.id

    def exec(
        self, argv: builtins.list[str | bytes] | builtins.list[str], *, stdin: str | bytes | None = None,
        check: bool = False, max_output: int | None = None, **how: Unpack[HowToRun],
    ) -> CommandResult:
        """Runs a command without a shell and gathers its output."""
        return self.commands.run(
            cast("list[str | bytes]", argv), stdin=stdin, check=check, max_output=max_output, **how
        )

    def run_code(
        self,
        code: str,
        language: str | None = None,
        *,
        context: CodeContext | str | None = None,
        timeout: float | None = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        on_result: Callable[[CodeResult], object] | None = None,
        on_error: Callable[[CodeError], object] | None = None,
    ) -> Execution:
        """Runs code in an interpreter (Python) that keeps its state between calls.

        What the code raises is told by `error`. `timeout` interrupts it after so many
        seconds, with its state kept. The interpreter is this object's: another process,
        or another object of the same sandbox, has one of its own.
        """
        within = context.id if isinstance(context, CodeContext) else context
        callbacks = (on_stdout, on_stderr, on_result, on_error)
        if all(callback is None for callback in callbacks):
            return waited(self._native.run_code(code, language, within, timeout))
        running = waited(self._native.start_code(code, language, within, timeout))
        try:
            while (event := waited(running.next_event())) is not None:
                call_back_now(on_stdout, event.stdout)
                call_back_now(on_stderr, event.stderr)
                call_back_now(on_result, event.result)
                call_back_now(on_error, event.error)
        except BaseException:
            # Nobody reads it any more, though who caught this may hold it.
            running.give_up()
            raise
        return waited(running.execution())

    def create_code_context(
        self, language: str = "python", *, cwd: str | None = None
    ) -> CodeContext:
        """Makes an interpreter apart from the others, which begins in `cwd`."""
        return waited(self._native.code_context(language, cwd))

    def list_code_contexts(self) -> builtins.list[CodeContext]:
        """The interpreters of this object."""
        return waited(self._native.code_contexts())

    def remove_code_context(self, context: CodeContext | str) -> None:
        """Ends an interpreter. One that is not there is success."""
        within = context.id if isinstance(context, CodeContext) else context
        waited(self._native.remove_code_context(within))

    def get_info(self) -> SandboxInfo:
        """What is known of it."""
        return waited(self._native.info())

    def is_running(self) -> bool:
        """Whether commands can run in it now."""
        return (waited(self._native.info())).phase == "running"

    def get_host(self, port: int) -> str:
        """The host and port, or the URL, at which others reach a port of it."""
        return (self.get_endpoint(port)).address

    def get_url(self, port: int) -> str:
        """The URL at which others reach a port of it."""
        return (self.get_endpoint(port)).url

    def get_endpoint(self, port: int) -> Endpoint:
        """Where others reach a port of it, and with which headers."""
        return waited(self._native.endpoint(port))

    def dial(self, port: int) -> Connection:
        """Connects to a TCP port inside, without any network of the sandbox."""
        return Connection(waited(self._native.dial(port)))

    def listen(self, port: int = 0) -> Listener:
        """Listens on a TCP port inside; 0 chooses one. Programs inside connect to it: 128
        wait at most to be accepted, more are closed."""
        return Listener(waited(self._native.listen(port)))

    def logs(
        self,
        command_id: str | None = None,
        *,
        follow: bool = False,
        since: datetime | None = None,
    ) -> Iterator[LogEntry]:
        """Reads what is kept of the output of a command, or of all. With `follow` it goes
        on with what comes until the command, or the sandbox, ends. `since` is a time with
        its zone."""
        native = waited(self._native.logs(command_id, follow, since))
        texts: dict[str, tuple[codecs.IncrementalDecoder, codecs.IncrementalDecoder]] = {}
        decoder = codecs.getincrementaldecoder("utf-8")
        while (told := waited(native.next_event())) is not None:
            command, event = told
            stdout, stderr = texts.setdefault(command, (decoder("replace"), decoder("replace")))
            if event.stdout is not None and (text := stdout.decode(event.stdout)):
                yield LogEntry(command, stdout=text)
            if event.stderr is not None and (text := stderr.decode(event.stderr)):
                yield LogEntry(command, stderr=text)
            if event.lost is not None:
                yield LogEntry(command, lost=event.lost)
            if event.exit is not None:
                del texts[command]
                for entry in _rest(command, stdout, stderr):
                    yield entry
                yield LogEntry(command, exit=event.exit)
        for command, (stdout, stderr) in texts.items():
            for entry in _rest(command, stdout, stderr):
                yield entry

    def set_timeout(self, timeout: float | None) -> None:
        """Sets its end to so many seconds from now; `None` removes it."""
        waited(self._native.set_ttl(timeout))

    def extend(self, seconds: float) -> None:
        """Moves its end later."""
        waited(self._native.extend(seconds))

    def metrics(self) -> SandboxMetrics:
        """What it uses."""
        return waited(self._native.metrics())

    def processes(self) -> builtins.list[ProcessInfo]:
        """Lists the processes inside."""
        return waited(self._native.processes())

    def capabilities(self) -> dict[str, Any]:
        """What its provider can do here."""
        return cast("dict[str, Any]", json.loads(waited(self._native.capabilities())))

    def set_lifetime(self, lifetime: Literal["attached", "detached"]) -> None:
        """Has it end with this process, whatever ends that, or with none: then at its
        `timeout`. It ends with the last process that asked for `attached`."""
        waited(self._native.set_lifetime(lifetime))

    def pause(self) -> None:
        """Stops every process."""
        waited(self._native.pause())

    def resume(self) -> None:
        """Lets the processes go on."""
        waited(self._native.resume())

    def snapshot(self) -> SnapshotInfo:
        """Saves it; `create(snapshot=...)` makes sandboxes from that."""
        return waited(self._native.snapshot())

    def kill(self) -> bool:
        """Ends it, and returns when nothing of it is left. False if it had ended."""
        return waited(self._native.kill())

    def __enter__(self) -> Self:
        try:
            waited(self._native.begin_scope())
        except BaseException:
            # The block does not begin, so that nothing else would end it.
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"Sandbox({self._native.id!r})"


def _engine_of_default() -> Engine:
    engine = Engine.__new__(Engine)
    engine._native = default_engine()
    return engine


def _rest(
    command: str, stdout: codecs.IncrementalDecoder, stderr: codecs.IncrementalDecoder
) -> Iterable[LogEntry]:
    if text := stdout.decode(b"", True):
        yield LogEntry(command, stdout=text)
    if text := stderr.decode(b"", True):
        yield LogEntry(command, stderr=text)


class Commands:
    """The commands of a sandbox."""

    def __init__(self, native: NativeSandbox) -> None:
        self._native = native

    @overload
    def run(
        self,
        cmd: Command,
        *,
        background: Literal[False] = False,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        stdin: str | bytes | None = None,
        check: bool = False,
        max_output: int | None = None,
        **how: Unpack[HowToRun],
    ) -> CommandResult: ...

    @overload
    def run(
        self,
        cmd: Command,
        *,
        background: Literal[True],
        stdin: bool | str | bytes | None = None,
        max_output: int | None = None,
        **how: Unpack[HowToRun],
    ) -> CommandHandle: ...

    def run(
        self,
        cmd: Command,
        *,
        background: bool = False,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        stdin: bool | str | bytes | None = None,
        check: bool = False,
        max_output: int | None = None,
        **how: Unpack[HowToRun],
    ) -> CommandResult | CommandHandle:
        """Runs a command: text for the shell inside, or a list of arguments without one.

        A non-zero exit is a result unless `check`. `timeout` kills the whole tree after
        so many seconds. With `background` it returns once the command has started, which
        then outlives this process; `stdin=True` keeps its input open.
        """
        given = None if isinstance(stdin, bool) else stdin
        if not background and stdin is True:
            raise TypeError("stdin=True keeps input open for send_stdin: it needs background=True")
        if background:
            if on_stdout is not None or on_stderr is not None or check:
                raise TypeError(
                    "a command in the background takes no on_stdout, on_stderr and check: "
                    "give them to the wait() of its handle"
                )
            process = waited(
                self._native.start(
                    cmd, background=True, stdin=stdin is True, input=given,
                    max_output=max_output, **how
                )
            )
            return CommandHandle(process)
        if on_stdout is None and on_stderr is None:
            result = waited(
                self._native.run(cmd, stdin=given, max_output=max_output, **how)
            )
            return _checked(result, check)
        process = waited(self._native.start(cmd, input=given, max_output=max_output, **how))
        try:
            handle = CommandHandle(process)
            result = handle.wait(on_stdout=on_stdout, on_stderr=on_stderr)
        except BaseException:
            # Nobody reads it any more, though who caught this may hold it.
            process.give_up()
            raise
        return _checked(result, check)

    def connect(self, command_id: str, *, stdin: bool = False) -> CommandHandle:
        """Follows a background command: kept output first, then what comes."""
        return CommandHandle(waited(self._native.attach(command_id, stdin=stdin)))

    def list(self) -> builtins.list[CommandInfo]:
        """Lists commands: those that run, those with survivors, those remembered."""
        return waited(self._native.commands())

    def send_signal(
        self,
        command_id: str,
        signal: int,
        *,
        scope: Literal["process", "group", "tree"] = "process",
    ) -> None:
        """Sends a signal to a command."""
        waited(self._native.signal(command_id, int(signal), scope))

    def kill(self, command_id: str) -> None:
        """Kills the whole tree of a command."""
        waited(self._native.signal(command_id, int(signals.SIGKILL), "tree"))


class CommandHandle:
    """A command that was started. Iterating gives its output as it comes."""

    def __init__(self, native: NativeProcess) -> None:
        self._native = native
        decoder = codecs.getincrementaldecoder("utf-8")
        self._stdout = decoder("replace")
        self._stderr = decoder("replace")

    @property
    def id(self) -> str:
        """Its id, by which `commands.connect` finds it."""
        return self._native.id

    @property
    def pid(self) -> int | None:
        """The number of its first process inside."""
        return self._native.pid

    @property
    def exit(self) -> ExitInfo | None:
        """How it ended, once its end was read."""
        result = self._native.result()
        return None if result is None else result.exit

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            event = waited(self._native.next_event())
            if event is None or event.exit is not None:
                break
            out, err = event.stdout, event.stderr
            text = self._stdout.decode(out) if out is not None else None
            other = self._stderr.decode(err) if err is not None else None
            if text or other:
                yield Chunk(text or None, other or None)
        rest, others = self._stdout.decode(b"", True), self._stderr.decode(b"", True)
        if rest:
            yield Chunk(rest, None)
        if others:
            yield Chunk(None, others)

    def wait(
        self,
        *,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Waits for its end. What was read before is part of the result."""
        if on_stdout is not None or on_stderr is not None:
            for chunk in self:
                call_back_now(on_stdout, chunk.stdout)
                call_back_now(on_stderr, chunk.stderr)
        return _checked(waited(self._native.wait_for_end()), check)

    def send_stdin(self, data: str | bytes) -> None:
        """Writes to its standard input; waits while it does not read."""
        waited(self._native.write_stdin(data))

    def close_stdin(self) -> None:
        """Closes its standard input."""
        waited(self._native.close_stdin())

    def send_signal(
        self, signal: int, *, scope: Literal["process", "group", "tree"] = "process"
    ) -> None:
        """Sends it a signal."""
        waited(self._native.signal(int(signal), scope))

    def kill(self) -> None:
        """Kills its whole tree. One that has ended is success."""
        waited(self._native.kill())


def _checked(result: CommandResult, check: bool) -> CommandResult:
    if check and not result.ok:
        error = escaped(result.stderr.strip()[-2000:])
        told = f"the command failed: {result.exit}" + (f": {error}" if error else "")
        raise CommandFailedError(told, result)
    return result


class Pty:
    """Terminals in a sandbox."""

    def __init__(self, native: NativeSandbox) -> None:
        self._native = native

    def create(
        self,
        cmd: Command = ("/bin/sh",),
        *,
        rows: int = 24,
        cols: int = 80,
        **how: Unpack[HowToRun],
    ) -> PtyHandle:
        """Starts a command on a terminal of this size."""
        native = waited(
            self._native.start(cmd, stdin=True, size=(rows, cols), **how)
        )
        return PtyHandle(native)


class PtyHandle:
    """A command on a terminal. Iterating gives what the terminal shows, in bytes."""

    def __init__(self, native: NativeProcess) -> None:
        self._native = native

    @property
    def id(self) -> str:
        """The command's id."""
        return self._native.id

    @property
    def pid(self) -> int | None:
        """The number of its first process inside."""
        return self._native.pid

    def __iter__(self) -> Iterator[bytes]:
        while True:
            event = waited(self._native.next_event())
            if event is None or event.exit is not None:
                return
            if event.stdout is not None:
                yield event.stdout

    def send_input(self, data: str | bytes) -> None:
        """Types."""
        waited(self._native.write_stdin(data))

    def resize(self, rows: int, cols: int) -> None:
        """Sets the size of the terminal."""
        waited(self._native.resize(rows, cols))

    def wait(self) -> CommandResult:
        """Waits for its end."""
        return waited(self._native.wait_for_end())

    def kill(self) -> None:
        """Kills its whole tree."""
        waited(self._native.kill())
