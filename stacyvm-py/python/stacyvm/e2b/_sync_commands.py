# pyright: reportPrivateUsage=false
"""Commands and terminals, in threads. Made from `_async_commands.py` by scripts/python-sync.py."""

from __future__ import annotations

import builtins
import signal
from posixpath import join, normpath
from typing import Literal, cast, overload

from .._sync import Sandbox as Machine
from .._call import waited
from .._errors import NotFoundError
from .._native import CommandInfo
from ._sync_feed import Feed
from ._errors import NotFoundException, told
from ._exits import gathered
from ._handles import CommandHandle
from ._types import (
    CommandResult,
    OutputHandler,
    ProcessInfo,
    PtySize,
    Stderr,
    Stdout,
    Username,
)

ALL = 1 << 40
"""All output is kept, as E2B keeps it."""
LOOK = "if [ -x /bin/bash ]; then echo /bin/bash; else echo /bin/sh; fi; cd && pwd || echo /"
OPEN = "; chmod go+rx . 2>/dev/null || true"
"""E2B's `root` may enter the home of `user`. Here `root` has no rights over others."""


class Inside:
    """What the image of a sandbox has: the shell and the homes of its users."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._known: dict[str | None, tuple[str, str]] = {}

    @staticmethod
    def user(user: Username | None) -> str | None:
        """E2B's user `user` is the default one of every sandbox here."""
        return None if user == "user" else user

    def places(self, user: str | None) -> tuple[str, str]:
        """The login shell and the home of a user."""
        user = self.user(user)
        known = self._known.get(user)
        if known is None:
            if user is not None:
                self.places(None)
            look = LOOK + OPEN if user is None else LOOK
            result = self.machine.commands.run(
                ["/bin/sh", "-c", look], user=user, check=True, timeout=60
            )
            shell, home = result.stdout.splitlines()[:2]
            known = self._known[user] = shell, home
        return known

    def path(self, path: str, user: str | None) -> str:
        """An absolute path: others begin in the user's home."""
        if path.startswith("/"):
            return path
        _, home = self.places(user)
        if path == "~" or path.startswith("~/"):
            path = path[2:]
        return normpath(join(home, path))

    def cwd(self, cwd: str | None, user: str | None) -> str:
        """The directory of a command."""
        return self.path(cwd or "~", user)

    def envs(self, envs: dict[str, str] | None) -> dict[str, str]:
        """The variables of a command."""
        return {"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": self.machine.id, **(envs or {})}

    def running(self, pid: int) -> CommandInfo | None:
        """The command whose first process has this number."""
        for command in self.machine.commands.list():
            if command.pid == pid and command.exit is None:
                return command
        return None

    def feed(self, pid: int) -> Feed:
        """The output of the command whose first process has this number."""
        command = self.running(pid)
        if command is None:
            raise NotFoundException(f"no command runs whose pid is {pid}")
        return Feed.following(self.machine._native, command.id, command.tty)

    def kill(self, pid: int) -> bool:
        """Kills a command and its children. False if there is none."""
        command = self.running(pid)
        if command is None:
            return False
        try:
            self.machine.commands.send_signal(command.id, signal.SIGKILL, scope="tree")
        except NotFoundError:
            return False
        return True


class Commands:
    """The commands of a sandbox."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside

    def list(self, request_timeout: float | None = None) -> builtins.list[ProcessInfo]:
        """Lists the commands and terminals that run."""
        with told():
            return [
                ProcessInfo(
                    command.pid, None, command.argv[0], command.argv[1:], {}, None
                )
                for command in self._inside.machine.commands.list()
                if command.exit is None and command.pid is not None and command.argv
            ]

    def kill(self, pid: int, request_timeout: float | None = None) -> bool:
        """Kills a command by its pid. False if none runs."""
        with told():
            return self._inside.kill(pid)

    def send_stdin(
        self, pid: int, data: str | bytes, request_timeout: float | None = None
    ) -> None:
        """Writes to the standard input of a command."""
        with told():
            feed = self._inside.feed(pid)
            waited(feed.native.write_stdin(data))

    def close_stdin(self, pid: int, request_timeout: float | None = None) -> None:
        """Closes the standard input of a command."""
        with told():
            feed = self._inside.feed(pid)
            waited(feed.native.close_stdin())

    @overload
    def run(
        self,
        cmd: str,
        background: Literal[False] | None = None,
        envs: dict[str, str] | None = None,
        user: Username | None = None,
        cwd: str | None = None,
        on_stdout: OutputHandler[Stdout] | None = None,
        on_stderr: OutputHandler[Stderr] | None = None,
        stdin: bool | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: bool = True,
    ) -> CommandResult: ...

    @overload
    def run(
        self,
        cmd: str,
        background: Literal[True],
        envs: dict[str, str] | None = None,
        user: Username | None = None,
        cwd: str | None = None,
        on_stdout: OutputHandler[Stdout] | None = None,
        on_stderr: OutputHandler[Stderr] | None = None,
        stdin: bool | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: bool = True,
    ) -> CommandHandle: ...

    def run(
        self,
        cmd: str,
        background: bool | None = None,
        envs: dict[str, str] | None = None,
        user: Username | None = None,
        cwd: str | None = None,
        on_stdout: OutputHandler[Stdout] | None = None,
        on_stderr: OutputHandler[Stderr] | None = None,
        stdin: bool | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: bool = True,
    ) -> CommandResult | CommandHandle:
        """Runs a line in a login shell, `bash` where it is there, in the user's home.

        Raises `CommandExitException` where it does not exit with 0, and
        `TimeoutException` where it was ended at its `timeout`, in the background too;
        0 and `None` are endless.
        """
        with told():
            shell, _ = self._inside.places(user)
            argv = cast("builtins.list[str | bytes]", [shell, "-l", "-c", cmd])
            directory = self._inside.cwd(cwd, user)
            machine = self._inside.machine
            if not (background or stdin or on_stdout or on_stderr):
                result = machine.commands.run(
                    argv,
                    env=self._inside.envs(envs),
                    user=self._inside.user(user),
                    cwd=directory,
                    timeout=timeout or None,
                    max_output=ALL,
                )
                return gathered(result)
            native = waited(
                machine._native.start(
                    argv,
                    env=self._inside.envs(envs),
                    user=self._inside.user(user),
                    cwd=directory,
                    timeout=timeout or None,
                    stdin=bool(stdin),
                    background=bool(background),
                )
            )
            feed = Feed(machine._native, native, tty=False)
            handle = CommandHandle(feed, retain_output)
            if background:
                return handle
            try:
                return handle.wait(on_stdout=on_stdout, on_stderr=on_stderr)
            except BaseException as error:
                if not isinstance(error, Exception):
                    handle.kill()
                raise

    def connect(
        self,
        pid: int,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: bool = True,
    ) -> CommandHandle:
        """Follows a command by its pid: what this process did not read yet, and what
        comes. `timeout` is taken and means nothing: the command keeps its own."""
        with told():
            feed = self._inside.feed(pid)
            return CommandHandle(feed, retain_output)


class Pty:
    """The terminals of a sandbox."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside

    def create(
        self,
        size: PtySize,
        user: Username | None = None,
        cwd: str | None = None,
        envs: dict[str, str] | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
    ) -> CommandHandle:
        """Starts a login shell on a terminal."""
        variables = {
            "TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **(envs or {})
        }
        with told():
            shell, _ = self._inside.places(user)
            machine = self._inside.machine
            native = waited(
                machine._native.start(
                    cast("builtins.list[str | bytes]", [shell, "-i", "-l"]),
                    env=self._inside.envs(variables),
                    user=self._inside.user(user),
                    cwd=self._inside.cwd(cwd, user),
                    timeout=timeout or None,
                    stdin=True,
                    background=True,
                    size=(size.rows, size.cols),
                )
            )
            feed = Feed(machine._native, native, tty=True)
            return CommandHandle(feed)

    def connect(
        self,
        pid: int,
        timeout: float | None = 60,
        request_timeout: float | None = None,
    ) -> CommandHandle:
        """Follows a terminal by its pid, as `commands.connect` does a command."""
        with told():
            feed = self._inside.feed(pid)
            return CommandHandle(feed)

    def send_stdin(
        self, pid: int, data: bytes, request_timeout: float | None = None
    ) -> None:
        """Types."""
        with told():
            feed = self._inside.feed(pid)
            waited(feed.native.write_stdin(data))

    def resize(
        self, pid: int, size: PtySize, request_timeout: float | None = None
    ) -> None:
        """Sets the size of a terminal."""
        with told():
            feed = self._inside.feed(pid)
            waited(feed.native.resize(size.rows, size.cols))

    def kill(self, pid: int, request_timeout: float | None = None) -> bool:
        """Kills the shell of a terminal and its children. False if none runs."""
        with told():
            return self._inside.kill(pid)
