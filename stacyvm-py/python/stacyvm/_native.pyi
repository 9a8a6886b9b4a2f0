"""
What the Python half is made of.
"""

from _typeshed import SupportsGetItem
from datetime import datetime
from os import PathLike
from socket import socket
from stacyvm._call import Call
from typing import Any, SupportsFloat, SupportsIndex, final

__all__ = ["CodeContext", "CodeError", "CodeOutput", "CodeResult", "CommandInfo", "CommandResult", "Connection", "Creating", "Endpoint", "Engine", "EntryInfo", "Event", "Execution", "ExitInfo", "Files", "LeftOut", "Listener", "Logs", "Pending", "Pool", "PoolStats", "Process", "ProcessInfo", "PullInfo", "Reader", "RunningCode", "Sandbox", "SandboxInfo", "SandboxMetrics", "SnapshotInfo", "Watch", "WatchEvent", "Writer", "after_fork", "before_fork", "create_options", "end", "error_codes", "pack", "packed_classes", "unpack"]

@final
class CodeContext:
    """
    An interpreter with its own state.
    """
    def __repr__(self, /) -> str: ...
    @property
    def cwd(self, /) -> str | None:
        """
        The directory in which it began.
        """
    @property
    def id(self, /) -> str: ...
    @property
    def language(self, /) -> str: ...

@final
class CodeError:
    """
    What code raised.
    """
    def __repr__(self, /) -> str: ...
    @property
    def name(self, /) -> str:
        """
        The name of its class.
        """
    @property
    def traceback(self, /) -> str:
        """
        Where it was raised, as the interpreter shows it.
        """
    @property
    def value(self, /) -> str:
        """
        Its text.
        """

@final
class CodeOutput:
    """
    What happened while code ran: one of the four.
    """
    @property
    def error(self, /) -> CodeError | None: ...
    @property
    def result(self, /) -> CodeResult | None: ...
    @property
    def stderr(self, /) -> str | None: ...
    @property
    def stdout(self, /) -> str | None: ...

@final
class CodeResult:
    """
    A value that code showed, in the forms that it has.
    """
    def __repr__(self, /) -> str: ...
    @property
    def data(self, /) -> dict[str, str]:
        """
        All forms by media type: text as it is, bytes in base64.
        """
    @property
    def html(self, /) -> str | None:
        """
        As HTML.
        """
    @property
    def is_main_result(self, /) -> bool:
        """
        Whether it is the value of the code's last expression.
        """
    @property
    def javascript(self, /) -> str | None:
        """
        As JavaScript.
        """
    @property
    def jpeg(self, /) -> str | None:
        """
        As JPEG, in base64.
        """
    @property
    def json(self, /) -> str | None:
        """
        As JSON text.
        """
    @property
    def latex(self, /) -> str | None:
        """
        As LaTeX.
        """
    @property
    def markdown(self, /) -> str | None:
        """
        As Markdown.
        """
    @property
    def pdf(self, /) -> str | None:
        """
        As PDF, in base64.
        """
    @property
    def png(self, /) -> str | None:
        """
        As PNG, in base64.
        """
    @property
    def svg(self, /) -> str | None:
        """
        As SVG.
        """
    @property
    def text(self, /) -> str | None:
        """
        As plain text.
        """

@final
class CommandInfo:
    """
    A command, as it is listed.
    """
    @property
    def argv(self, /) -> list[str]: ...
    @property
    def background(self, /) -> bool: ...
    @property
    def exit(self, /) -> ExitInfo | None:
        """
        How its first process ended, once it has.
        """
    @property
    def id(self, /) -> str: ...
    @property
    def pid(self, /) -> int | None: ...
    @property
    def processes(self, /) -> int:
        """
        Its processes that run now.
        """
    @property
    def started(self, /) -> datetime | None: ...
    @property
    def tty(self, /) -> bool: ...

@final
class CommandResult:
    """
    What a command said, and how it ended.
    """
    def __reduce__(self, /) -> tuple[Any, tuple[tuple[bytes, bytes], tuple[int, int], str, float]]: ...
    def __repr__(self, /) -> str: ...
    @staticmethod
    def _restore(streams: tuple[SupportsGetItem[int, SupportsIndex], SupportsGetItem[int, SupportsIndex]], truncated: tuple[SupportsIndex, SupportsIndex], status: str, duration: SupportsFloat | SupportsIndex) -> CommandResult:
        """
        What `pickle` makes it from.
        """
    @property
    def duration(self, /) -> float:
        """
        Seconds from the request to the end.
        """
    @property
    def exit(self, /) -> ExitInfo:
        """
        How it ended.
        """
    @property
    def exit_code(self, /) -> int | None:
        """
        The exit code; `None` for a command that did not exit by itself.
        """
    @property
    def ok(self, /) -> bool:
        """
        Whether it exited with 0.
        """
    @property
    def stderr(self, /) -> str:
        """
        Standard error as text; what is not UTF-8 is replaced.
        """
    @property
    def stderr_bytes(self, /) -> bytes:
        """
        Standard error.
        """
    @property
    def stderr_truncated_bytes(self, /) -> int:
        """
        Bytes of standard error that were read and not kept.
        """
    @property
    def stdout(self, /) -> str:
        """
        Standard output as text; what is not UTF-8 is replaced.
        """
    @property
    def stdout_bytes(self, /) -> bytes:
        """
        Standard output.
        """
    @property
    def stdout_truncated_bytes(self, /) -> int:
        """
        Bytes of standard output that were read and not kept.
        """

@final
class Connection:
    """
    A connection to or from a port inside. It is closed where the last reference goes.
    """
    def close(self, /) -> Call[None]:
        """
        Closes it, also where somebody waits to read or to write.
        """
    def recv(self, /, limit: SupportsIndex) -> Call[bytes]:
        """
        Bytes of the other side, so many at most; none at its end.
        """
    def send(self, /, data: str | bytes | bytearray | memoryview) -> Call[None]:
        """
        Sends all of these bytes; waits while the other side does not read.
        """
    def send_eof(self, /) -> Call[None]:
        """
        Tells the other side that no more comes.
        """
    def socket(self, /) -> Call[socket]:
        """
        A socket of the host in its place.
        """

@final
class Creating:
    """
    A create that tells of its pull.
    """
    def give_up(self, /) -> Call[None]:
        """
        Gives it up, and takes down what was begun.
        """
    def next_event(self, /) -> Call[tuple[PullInfo | None, Sandbox | None]]:
        """
        What happens next: how far the pull is, or the sandbox.
        """

@final
class Endpoint:
    """
    Where others reach a port.
    """
    @property
    def address(self, /) -> str:
        """
        A host with a port, or a URL.
        """
    @property
    def headers(self, /) -> dict[str, str]:
        """
        Headers that a caller must send.
        """
    @property
    def url(self, /) -> str:
        """
        The address as a URL.
        """

@final
class Engine:
    """
    Where sandboxes are made and found. Opened by its first call.
    """
    def __new__(cls, /, *, config: str | PathLike[str] | None = None, state_dir: str | PathLike[str] | None = None) -> Engine: ...
    def close(self, /) -> Call[None]:
        """
        Lets go of the engine's records and ends what it has under way.
        """
    def create(self, /, options: str) -> Call[Sandbox]:
        """
        Makes a sandbox from options in JSON.
        """
    def get(self, /, id: str) -> Call[Sandbox]:
        """
        Finds a sandbox by its id.
        """
    @staticmethod
    def mock() -> Engine:
        """
        An engine of the mock provider alone, with records in memory.
        """
    def page(self, /, metadata: dict[str, str], all: bool, after: str | None, limit: SupportsIndex) -> Call[list[SandboxInfo]]:
        """
        Lists a page of sandboxes in the order of their ids, from after the id on.
        """
    def pool(self, /, options: str, size: SupportsIndex | None, max_age: SupportsFloat | SupportsIndex | None, refill_at_once: SupportsIndex | None) -> Call[Pool]:
        """
        Makes a pool of sandboxes of these options in JSON.
        """
    def providers(self, /) -> Call[str]:
        """
        What each configured provider is, can do and needs, as JSON.
        """
    def watched_create(self, /, options: str) -> Call[Creating]:
        """
        Makes a sandbox as `create` does, step by step.
        """

@final
class EntryInfo:
    """
    A file or directory.
    """
    def __repr__(self, /) -> str: ...
    @property
    def gid(self, /) -> int:
        """
        The number of its group.
        """
    @property
    def group(self, /) -> str | None:
        """
        The name of its group inside.
        """
    @property
    def mode(self, /) -> int:
        """
        Permission bits.
        """
    @property
    def modified_time(self, /) -> datetime:
        """
        When its content changed last.
        """
    @property
    def name(self, /) -> str:
        """
        The last part of the path.
        """
    @property
    def owner(self, /) -> str | None:
        """
        The name of its owner inside.
        """
    @property
    def path(self, /) -> str:
        """
        The path: as it was asked for, and relative to the directory in a listing.
        """
    @property
    def size(self, /) -> int:
        """
        Bytes.
        """
    @property
    def symlink_target(self, /) -> str | None:
        """
        Where a symbolic link points.
        """
    @property
    def type(self, /) -> str:
        """
        `file`, `dir`, `link` or `other`.
        """
    @property
    def uid(self, /) -> int:
        """
        The number of its owner.
        """

@final
class Event:
    """
    What happened: output, a gap in it, or the end.
    """
    @property
    def exit(self, /) -> ExitInfo | None:
        """
        How the command ended.
        """
    @property
    def lost(self, /) -> tuple[int, int] | None:
        """
        Bytes of both streams that nobody read in time.
        """
    @property
    def stderr(self, /) -> bytes | None:
        """
        Bytes of standard error.
        """
    @property
    def stdout(self, /) -> bytes | None:
        """
        Bytes of standard output, or of the terminal.
        """

@final
class Execution:
    """
    What code gave.
    """
    def __repr__(self, /) -> str: ...
    @property
    def error(self, /) -> CodeError | None:
        """
        What it raised.
        """
    @property
    def results(self, /) -> list[CodeResult]:
        """
        The values that were shown; that of the last expression is one of them.
        """
    @property
    def stderr(self, /) -> str:
        """
        What it wrote to standard error.
        """
    @property
    def stdout(self, /) -> str:
        """
        What it wrote to standard output.
        """
    @property
    def text(self, /) -> str | None:
        """
        The value of the last expression as text.
        """
    @property
    def truncated_bytes(self, /) -> int:
        """
        Bytes of both that were read and not kept.
        """

@final
class ExitInfo:
    """
    How a command ended.
    """
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __repr__(self, /) -> str: ...
    def __str__(self, /) -> str: ...
    @property
    def exit_code(self, /) -> int | None:
        """
        The exit code, of a command that exited by itself.
        """
    @property
    def reason(self, /) -> str:
        """
        `code`, `signal`, `timed_out`, `out_of_memory`, `cancelled` or `sandbox_gone`.
        """
    @property
    def signal(self, /) -> int | None:
        """
        The number of the signal that ended it.
        """

@final
class Files:
    """
    The files of a sandbox, as one user.
    """
    def append(self, /, path: str | bytes | bytearray | memoryview, data: str | bytes | bytearray | memoryview) -> Call[EntryInfo]:
        """
        Adds to the end of a file.
        """
    def create(self, /, path: str | bytes | bytearray | memoryview, mode: SupportsIndex | None = None) -> Call[Writer]:
        """
        Writes a file piece by piece; it is there when the writer is finished.
        """
    def download(self, /, path: str | bytes | bytearray | memoryview, local: str | PathLike[str]) -> Call[LeftOut]:
        """
        Copies a file or directory of the sandbox to the host; gives what was left out.
        """
    def entries(self, /, path: str | bytes | bytearray | memoryview, depth: SupportsIndex) -> Call[list[EntryInfo]]:
        """
        Lists a directory, so many levels deep.
        """
    def exists(self, /, path: str | bytes | bytearray | memoryview) -> Call[bool]:
        """
        Whether there is something at a path.
        """
    def export_tar(self, /, path: str | bytes | bytearray | memoryview, contents: bool, follow: bool) -> Call[Reader]:
        """
        Sends a path as a tar stream.
        """
    def glob(self, /, pattern: str | bytes | bytearray | memoryview) -> Call[list[EntryInfo]]:
        """
        Finds paths by an absolute shell pattern.
        """
    def import_tar(self, /, path: str | bytes | bytearray | memoryview, parents: bool, keep_owner: bool) -> Call[Writer]:
        """
        Unpacks a tar stream piece by piece; all of it is there when the writer is finished.
        """
    def info(self, /, path: str | bytes | bytearray | memoryview, follow: bool = False) -> Call[EntryInfo]:
        """
        Describes a path; a symbolic link is described itself unless it is to be followed.
        """
    def make_dir(self, /, path: str | bytes | bytearray | memoryview) -> Call[None]:
        """
        Makes a directory and the missing ones above it.
        """
    def open(self, /, path: str | bytes | bytearray | memoryview, offset: SupportsIndex | None = None, length: SupportsIndex | None = None) -> Call[Reader]:
        """
        Reads a file piece by piece.
        """
    def read(self, /, path: str | bytes | bytearray | memoryview, offset: SupportsIndex | None = None, length: SupportsIndex | None = None) -> Call[bytes]:
        """
        Reads a file, or a part of it.
        """
    def read_text(self, /, path: str | bytes | bytearray | memoryview) -> Call[str]:
        """
        Reads a whole file of UTF-8 text.
        """
    def remove(self, /, path: str | bytes | bytearray | memoryview) -> Call[None]:
        """
        Removes a file, or a directory with what is in it.
        """
    def rename(self, /, old: str | bytes | bytearray | memoryview, new: str | bytes | bytearray | memoryview) -> Call[None]:
        """
        Moves a path.
        """
    def set_attributes(self, /, path: str | bytes | bytearray | memoryview, *, recursive: bool, mode: SupportsIndex | None = None, owner: str | None = None, group: str | None = None, modified: datetime | None = None) -> Call[None]:
        """
        Sets permission bits, owner, group and the time of the last change, of everything
        below as well if `recursive`.
        """
    def symlink(self, /, target: str | bytes | bytearray | memoryview, path: str | bytes | bytearray | memoryview) -> Call[None]:
        """
        Makes a symbolic link.
        """
    def upload(self, /, local: str | PathLike[str], path: str | bytes | bytearray | memoryview) -> Call[LeftOut]:
        """
        Copies a file or directory of the host into the sandbox; gives what was left out.
        """
    def watch(self, /, path: str | bytes | bytearray | memoryview, recursive: bool = False) -> Call[Watch]:
        """
        Reports changes of a path.
        """
    def write(self, /, path: str | bytes | bytearray | memoryview, data: str | bytes | bytearray | memoryview, mode: SupportsIndex | None = None) -> Call[EntryInfo]:
        """
        Writes a file in one step.
        """

@final
class LeftOut:
    """
    Sockets and devices that a copy or an archive does not hold.
    """
    def __bool__(self, /) -> bool: ...
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __repr__(self, /) -> str: ...
    @property
    def more(self, /) -> int:
        """
        How many there were beside those named.
        """
    @property
    def names(self, /) -> list[str]:
        """
        Their names. They come from inside: escape them before they are shown.
        """

@final
class Listener:
    """
    A port inside that is listened on. It is closed where the last reference goes.
    """
    def accept(self, /) -> Call[Connection | None]:
        """
        The next connection that a program inside makes; `None` once it is closed.
        """
    def close(self, /) -> Call[None]:
        """
        Closes the port, also where somebody waits for a connection.
        """
    @property
    def port(self, /) -> int:
        """
        The port.
        """

@final
class Logs:
    """
    Output as it is read again.
    """
    def next_event(self, /) -> Call[tuple[str, Event] | None]:
        """
        A command's id, and what is next of its output; `None` at the end.
        """

@final
class Pending:
    """
    A call that has not begun. `wait()` or `await` begins it, once.
    """
    def __await__(self, /) -> Any:
        """
        The result, in an event loop, to be taken. Cancelling the task gives the call up.
        """
    def wait(self, /) -> Any:
        """
        Waits for the result. Ctrl-C gives the call up.
        """

@final
class Pool:
    """
    Sandboxes that wait to be claimed. They are ended where the last reference goes.
    """
    def claim(self, /, options: str, files: SupportsGetItem[int, tuple[str | bytes | bytearray | memoryview, str | bytes | bytearray | memoryview]]) -> Call[Sandbox]:
        """
        Gives a sandbox away, by options in JSON, with these files in it.
        """
    def drain(self, /) -> Call[None]:
        """
        Ends all that wait.
        """
    def filled(self, /) -> Call[None]:
        """
        Waits until as many wait as may.
        """
    @property
    def name(self, /) -> str:
        """
        Its random name.
        """
    def stats(self, /) -> Call[PoolStats]:
        """
        What it has and did.
        """

@final
class PoolStats:
    """
    What a pool has and did.
    """
    def __repr__(self, /) -> str: ...
    @property
    def cold(self, /) -> int:
        """
        Claims that found none and made one.
        """
    @property
    def drained(self, /) -> bool:
        """
        Whether the pool was drained, or is.
        """
    @property
    def failed(self, /) -> int:
        """
        How often making one ahead failed.
        """
    @property
    def last_error(self, /) -> str | None:
        """
        Why the last attempt to make one ahead failed.
        """
    @property
    def made(self, /) -> int:
        """
        Sandboxes that were made ahead.
        """
    @property
    def making(self, /) -> int:
        """
        How many are being made.
        """
    @property
    def ready(self, /) -> int:
        """
        How many wait.
        """
    @property
    def replaced(self, /) -> int:
        """
        Those of them that were ended unclaimed.
        """
    @property
    def size(self, /) -> int:
        """
        How many may wait.
        """
    @property
    def warm(self, /) -> int:
        """
        Claims that got one that waited.
        """

@final
class Process:
    """
    A command that was started. Where the last reference is dropped before its end, a
    foreground command is killed and a background command goes on.
    """
    def close_stdin(self, /) -> Call[None]:
        """
        Closes standard input.
        """
    def give_up(self, /) -> None:
        """
        Kills its whole tree in the background, unless its end was read: what it left
        then goes on.
        """
    @property
    def id(self, /) -> str:
        """
        The command's id.
        """
    def kill(self, /) -> Call[None]:
        """
        Kills the whole tree. One that has ended is success.
        """
    def next_event(self, /) -> Call[Event | None]:
        """
        What happens next; `None` after the end.
        """
    @property
    def pid(self, /) -> int | None:
        """
        The number of its first process inside.
        """
    def resize(self, /, rows: SupportsIndex, columns: SupportsIndex) -> Call[None]:
        """
        Sets the size of the terminal.
        """
    def result(self, /) -> CommandResult | None:
        """
        What it said and how it ended, once its end was read.
        """
    def signal(self, /, signal: SupportsIndex, scope: str) -> Call[None]:
        """
        Sends a signal to `process`, `group` or `tree`.
        """
    def wait_for_end(self, /) -> Call[CommandResult]:
        """
        Waits for the end. What was read before is part of the result.
        """
    def write_stdin(self, /, data: str | bytes | bytearray | memoryview) -> Call[None]:
        """
        Writes to standard input.
        """

@final
class ProcessInfo:
    """
    A process inside.
    """
    @property
    def argv(self, /) -> list[str]: ...
    @property
    def command(self, /) -> str | None:
        """
        The command that it belongs to.
        """
    @property
    def cpu_us(self, /) -> int:
        """
        Processor time in microseconds.
        """
    @property
    def parent(self, /) -> int: ...
    @property
    def pid(self, /) -> int: ...
    @property
    def resident_bytes(self, /) -> int: ...
    @property
    def state(self, /) -> str: ...
    @property
    def uid(self, /) -> int: ...

@final
class PullInfo:
    """
    How far the pull of an image is.
    """
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __repr__(self, /) -> str: ...
    @property
    def done(self, /) -> int:
        """
        Bytes that came.
        """
    @property
    def total(self, /) -> int:
        """
        Bytes of all that was begun so far; it grows meanwhile.
        """

@final
class Reader:
    """
    A file or an archive that is read piece by piece.
    """
    def close(self, /) -> Call[None]:
        """
        Lets go of it, also where somebody waits for its next piece.
        """
    def left_out(self, /) -> LeftOut:
        """
        What the archive does not hold, as far as it is known.
        """
    def next(self, /) -> Call[bytes | None]:
        """
        The next piece; `None` after the last. What was closed, or broke off, has no end.
        """

@final
class RunningCode:
    """
    Code that runs. Given up or dropped before its end it ends the interpreter.
    """
    def execution(self, /) -> Call[Execution]:
        """
        What it gave so far.
        """
    def give_up(self, /) -> None:
        """
        Ends the interpreter, and the call that waits for what happens next, in the
        background.
        """
    def next_event(self, /) -> Call[CodeOutput | None]:
        """
        What happens next; `None` after the end.
        """

@final
class Sandbox:
    """
    A sandbox.
    """
    def attach(self, /, command: str, *, stdin: bool = False, replay: bool = True) -> Call[Process]:
        """
        Follows a background command by its id: kept output first, then what comes.
        """
    def begin_scope(self, /) -> Call[None]:
        """
        Begins a block at whose end it is killed.
        """
    def capabilities(self, /) -> Call[str]:
        """
        What its provider can do, as JSON.
        """
    def code_context(self, /, language: str, cwd: str | None = None) -> Call[CodeContext]:
        """
        Makes an interpreter apart from the others.
        """
    def code_contexts(self, /) -> Call[list[CodeContext]]:
        """
        The interpreters.
        """
    def commands(self, /) -> Call[list[CommandInfo]]:
        """
        Lists commands.
        """
    def dial(self, /, port: SupportsIndex) -> Call[Connection]:
        """
        Connects to a port inside.
        """
    def endpoint(self, /, port: SupportsIndex) -> Call[Endpoint]:
        """
        Where others reach a port.
        """
    def extend(self, /, by: SupportsFloat | SupportsIndex) -> Call[datetime | None]:
        """
        Moves the end of its life later by so many seconds.
        """
    def files(self, /, user: str | None = None) -> Files:
        """
        Its files, as this user or the sandbox's own.
        """
    @property
    def id(self, /) -> str:
        """
        Its id.
        """
    def info(self, /) -> Call[SandboxInfo]:
        """
        What is known of it.
        """
    def kill(self, /) -> Call[bool]:
        """
        Ends it, and returns when nothing of it is left. Once begun it goes on to the end,
        also where it is given up.
        """
    def listen(self, /, port: SupportsIndex) -> Call[Listener]:
        """
        Listens on a port inside; 0 chooses one.
        """
    def logs(self, /, command: str | None, follow: bool, since: datetime | None) -> Call[Logs]:
        """
        Reads what is kept of the output of a command, or of all.
        """
    def metrics(self, /) -> Call[SandboxMetrics]:
        """
        What it uses.
        """
    def pause(self, /) -> Call[None]:
        """
        Stops every process.
        """
    def processes(self, /) -> Call[list[ProcessInfo]]:
        """
        Lists the processes inside.
        """
    def remove_code_context(self, /, context: str) -> Call[None]:
        """
        Ends an interpreter.
        """
    def resume(self, /) -> Call[None]:
        """
        Lets the processes go on.
        """
    def run(self, /, command: str | bytes | bytearray | memoryview | SupportsGetItem[int, str | bytes | bytearray | memoryview], *, env: dict[str, str] | None = None, cwd: str | None = None, user: str | None = None, stdin: str | bytes | bytearray | memoryview | None = None, timeout: SupportsFloat | SupportsIndex | None = None, max_output: SupportsIndex | None = None) -> Call[CommandResult]:
        """
        Runs a command to its end and gathers its output.
        """
    def run_code(self, /, code: str, language: str | None = None, context: str | None = None, timeout: SupportsFloat | SupportsIndex | None = None) -> Call[Execution]:
        """
        Runs code in an interpreter and gathers what it gives.
        """
    def set_lifetime(self, /, lifetime: str) -> Call[None]:
        """
        Has it end with this process (`attached`), or with none (`detached`).
        """
    def set_ttl(self, /, timeout: SupportsFloat | SupportsIndex | None) -> Call[datetime | None]:
        """
        Sets the end of its life to so many seconds from now; `None` removes it.
        """
    def signal(self, /, command: str, signal: SupportsIndex, scope: str) -> Call[None]:
        """
        Sends a signal to a command by its id; to `process`, `group` or `tree`.
        """
    def snapshot(self, /) -> Call[SnapshotInfo]:
        """
        Saves it.
        """
    def start(self, /, command: str | bytes | bytearray | memoryview | SupportsGetItem[int, str | bytes | bytearray | memoryview], *, env: dict[str, str] | None = None, cwd: str | None = None, user: str | None = None, stdin: bool = False, input: str | bytes | bytearray | memoryview | None = None, timeout: SupportsFloat | SupportsIndex | None = None, background: bool = False, size: tuple[SupportsIndex, SupportsIndex] | None = None, max_output: SupportsIndex | None = None) -> Call[Process]:
        """
        Starts a command. With `size` it has a terminal of so many rows and columns.
        """
    def start_code(self, /, code: str, language: str | None = None, context: str | None = None, timeout: SupportsFloat | SupportsIndex | None = None) -> Call[RunningCode]:
        """
        Starts code in an interpreter.
        """

@final
class SandboxInfo:
    """
    A sandbox, as it is listed.
    """
    def __repr__(self, /) -> str: ...
    @property
    def cpus(self, /) -> float | None: ...
    @property
    def created(self, /) -> datetime: ...
    @property
    def cwd(self, /) -> str | None: ...
    @property
    def disk_mib(self, /) -> int | None: ...
    @property
    def effective(self, /) -> dict[str, tuple[str, str]]:
        """
        What is in force, by the name of the need: its level and value.
        """
    @property
    def ended(self, /) -> datetime | None: ...
    @property
    def ends(self, /) -> datetime | None:
        """
        When it will be ended.
        """
    @property
    def env_names(self, /) -> list[str]: ...
    @property
    def failure(self, /) -> str | None:
        """
        Why it failed.
        """
    @property
    def id(self, /) -> str: ...
    @property
    def lifetime(self, /) -> str: ...
    @property
    def memory_mib(self, /) -> int | None: ...
    @property
    def metadata(self, /) -> dict[str, str]: ...
    @property
    def open_files(self, /) -> int | None: ...
    @property
    def phase(self, /) -> str:
        """
        Where it stands in its life: `running`, `paused`, `ended`, ...
        """
    @property
    def pids(self, /) -> int | None: ...
    @property
    def profile(self, /) -> str: ...
    @property
    def provider(self, /) -> str: ...
    @property
    def runtime(self, /) -> str: ...
    @property
    def source(self, /) -> str:
        """
        What its root file system was made from.
        """
    @property
    def tenant(self, /) -> str: ...
    @property
    def unreachable(self, /) -> str | None:
        """
        Why its provider could not be asked.
        """
    @property
    def user(self, /) -> str | None: ...

@final
class SandboxMetrics:
    """
    What a sandbox uses; `None` where its provider does not see it.
    """
    @property
    def cpu_us(self, /) -> int | None:
        """
        Processor time in microseconds.
        """
    @property
    def disk_bytes(self, /) -> int | None: ...
    @property
    def memory_bytes(self, /) -> int | None: ...
    @property
    def memory_peak_bytes(self, /) -> int | None: ...
    @property
    def oom_kills(self, /) -> int | None: ...
    @property
    def processes(self, /) -> int | None: ...

@final
class SnapshotInfo:
    """
    A snapshot of a sandbox.
    """
    @property
    def id(self, /) -> str: ...
    @property
    def memory(self, /) -> bool:
        """
        Whether the memory was saved too.
        """
    @property
    def size_bytes(self, /) -> int | None: ...

@final
class Watch:
    """
    What a watch reports.
    """
    def next(self, /) -> Call[WatchEvent | None]:
        """
        The next change; `None` after the end of the watch.
        """
    def stop(self, /) -> Call[None]:
        """
        Ends it, also where somebody waits for its next change.
        """
    def take(self, /) -> Call[list[WatchEvent]]:
        """
        The changes that are there now.
        """

@final
class WatchEvent:
    """
    A change of a file that is watched.
    """
    @property
    def name(self, /) -> str:
        """
        Where, relative to what is watched.
        """
    @property
    def type(self, /) -> str:
        """
        `created`, `modified`, `removed`, `attributes` or `overflow`.
        """

@final
class Writer:
    """
    A file or an archive that is written piece by piece. One that is dropped leaves the
    old file.
    """
    def abandon(self, /) -> Call[None]:
        """
        Leaves the old file.
        """
    def finish(self, /) -> Call[EntryInfo | None]:
        """
        Has done what is done with all of it, and describes the file that it made.
        """
    def write(self, /, data: str | bytes | bytearray | memoryview) -> Call[bool]:
        """
        Writes a piece; waits while the sandbox is behind. False once it takes no more,
        which `finish` explains.
        """

def after_fork() -> None:
    """
    After `os.fork`, in the parent and in the child.
    """

def before_fork() -> None:
    """
    Before `os.fork`: closes what a child must not inherit.
    """

def create_options() -> list[str]:
    """
    The names of all keywords of `Sandbox.create`.
    """

def end() -> None:
    """
    Lets no thread of ours enter any more, and waits for those within. Called by `atexit`.
    """

def error_codes() -> list[str]:
    """
    Every code that an error of the library may have.
    """

def pack(told: Any) -> tuple[str, str]:
    """
    The name of the class of an object, and what it is made from.
    """

def packed_classes() -> list[type]:
    """
    The classes whose objects can be packed.
    """

def unpack(name: str, told: str) -> Any:
    """
    Makes the object of a class again.
    """
