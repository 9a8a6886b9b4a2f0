"""What commands wrote, read again."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

import pytest

import stacyvm
from stacyvm import AsyncSandbox, LogEntry, Sandbox

from test_processes import in_child


def texts(entries: list[LogEntry]) -> tuple[str, str]:
    return "".join(e.stdout or "" for e in entries), "".join(e.stderr or "" for e in entries)


def test_the_output_of_a_background_command_is_read_again(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("echo out; echo err >&2; exit 3", background=True)
    handle.wait()
    for which in (handle.id, None):
        entries = list(sandbox.logs(which))
        assert {entry.command for entry in entries} == {handle.id}
        assert texts(entries) == ("out\n", "err\n")
        last = entries[-1].exit
        assert last is not None and last.exit_code == 3
    later = datetime.now(timezone.utc) + timedelta(seconds=60)
    assert texts(list(sandbox.logs(handle.id, since=later))) == ("", "")
    before = later - timedelta(seconds=120)
    assert texts(list(sandbox.logs(handle.id, since=before))) == ("out\n", "err\n")


def test_what_comes_is_followed_and_no_character_is_cut(sandbox: Sandbox) -> None:
    line = "printf '\\303'; read x; printf '\\244\\n'; printf '\\342\\202'"
    handle = sandbox.commands.run(line, background=True, stdin=True)
    other = sandbox.commands.run("echo other; sleep 4721", background=True)
    seen: list[LogEntry] = []
    assert list(sandbox.logs(handle.id)) == [LogEntry(handle.id, stdout="\ufffd")]
    reading = sandbox.logs(handle.id, follow=True)
    handle.send_stdin("go on\n")
    seen = list(reading)
    assert texts(seen)[0] == "\u00e4\n\ufffd"
    assert seen[-1].exit is not None and {e.command for e in seen} == {handle.id}
    # Of one that runs there is no end unless it is followed.
    assert [e.exit for e in sandbox.logs(other.id)] == [None]


def test_logs_of_no_command_are_not_found(sandbox: Sandbox) -> None:
    with pytest.raises(stacyvm.NotFoundError, match="nonesuch"):
        list(sandbox.logs("nonesuch"))


def test_a_forked_child_opens_its_own_logs(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("echo first; sleep 4722", background=True)
    reading = iter(sandbox.logs(handle.id, follow=True))
    assert next(reading).stdout == "first\n"

    def work() -> None:
        with pytest.raises(stacyvm.ConflictError, match="fork"):
            next(reading)
        assert texts(list(sandbox.logs(handle.id)))[0] == "first\n"

    assert in_child(work) == 0
    handle.kill()
    last = list(reading)[-1].exit
    assert last is not None and last.signal == 9


def test_all_commands_are_followed_until_the_sandbox_ends() -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.create()
        seen: list[LogEntry] = []

        async def follow() -> None:
            async for entry in sandbox.logs(follow=True):
                seen.append(entry)

        following = asyncio.create_task(follow())
        await sandbox.commands.run("echo one")
        while texts(seen)[0] != "one\n":
            await asyncio.sleep(0.05)
        # The second one starts while it is followed.
        await sandbox.commands.run("echo two")
        while texts(seen)[0] != "one\ntwo\n":
            await asyncio.sleep(0.05)
        cancelled = asyncio.create_task(follow())
        await asyncio.sleep(0.2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await sandbox.kill()
        await asyncio.wait_for(following, 20)

    asyncio.run(asyncio.wait_for(main(), 60))
