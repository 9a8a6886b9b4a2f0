"""Event loops."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

import stacyvm
from stacyvm import AsyncEngine, AsyncSandbox, StacyError
from stacyvm import _async  # pyright: ignore[reportPrivateUsage]


def test_the_same_things_can_be_awaited() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create(metadata={"of": "loops"}) as sandbox:
            assert (await sandbox.commands.run("echo hello")).stdout == "hello\n"
            await sandbox.files.write("/workspace/a", "text")
            assert await sandbox.files.read("/workspace/a") == "text"
            stream = await sandbox.files.read("/workspace/a", format="stream")
            assert b"".join([piece async for piece in stream]) == b"text"
            assert [e.name for e in await sandbox.files.list("/workspace")] == ["a"]
            handle = await sandbox.commands.run("echo a; echo b >&2", background=True)
            chunks = [chunk async for chunk in handle]
            assert "".join(c.stdout or "" for c in chunks) == "a\n"
            assert "".join(c.stderr or "" for c in chunks) == "b\n"
            assert (await handle.wait()).ok
            listed = [info.id async for info in AsyncSandbox.list(metadata={"of": "loops"})]
            assert listed == [sandbox.id]
            with pytest.raises(FileNotFoundError):
                await sandbox.files.read("/none")
        assert not [info async for info in AsyncSandbox.list(metadata={"of": "loops"})]

    asyncio.run(main())


def test_a_watch_is_stopped_beside_whoever_waits_for_it() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create() as sandbox:
            watch = await sandbox.files.watch_dir("/workspace")

            async def rest() -> list[stacyvm.WatchEvent]:
                return [event async for event in watch]

            waits = asyncio.create_task(rest())
            await asyncio.sleep(0.2)
            await watch.stop()
            assert await asyncio.wait_for(waits, 20) == []

    asyncio.run(main())


def test_many_run_at_once() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create() as sandbox:
            runs = [sandbox.commands.run(f"sleep 0.2; echo {n}") for n in range(16)]
            results = await asyncio.gather(*runs)
            assert [r.stdout for r in results] == [f"{n}\n" for n in range(16)]

    asyncio.run(main())


def test_a_cancelled_task_kills_the_whole_tree() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create() as sandbox:
            line = "setsid sleep 4713 & sleep 4714"
            task = asyncio.create_task(sandbox.commands.run(line))
            await until_runs(sandbox, {"sleep 4713", "sleep 4714"})
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until_runs(sandbox, set())

    asyncio.run(main())


def test_a_command_is_killed_though_somebody_keeps_what_ended_its_wait() -> None:
    async def main() -> None:
        kept: list[BaseException] = []

        def refuses(text: str) -> None:
            raise ValueError(text)

        async with await AsyncSandbox.create() as sandbox:
            line = "echo; exec sleep 4715"
            try:
                await asyncio.wait_for(sandbox.commands.run(line, on_stdout=print), 0.5)
            except asyncio.TimeoutError as error:
                kept.append(error)
            try:
                await sandbox.commands.run(line, on_stdout=refuses)
            except ValueError as error:
                kept.append(error)
            assert len(kept) == 2
            await until_runs(sandbox, set())

    asyncio.run(main())


def test_callbacks_that_are_to_be_awaited_are() -> None:
    async def main() -> None:
        said: list[str] = []

        async def say(text: str) -> None:
            await asyncio.sleep(0)
            said.append(text)

        async with await AsyncSandbox.create() as sandbox:
            await sandbox.commands.run("echo a; echo b >&2", on_stdout=say, on_stderr=say)
            await sandbox.run_code("print('c')", on_stdout=say)
        assert sorted("".join(said).split()) == ["a", "b", "c"]

    asyncio.run(main())


@pytest.mark.parametrize("late", [True, False])
def test_a_create_that_is_cancelled_leaves_no_sandbox(late: bool) -> None:
    labels = {"of": f"cancelled {late}"}

    async def main() -> None:
        cancelled = 0
        for wait in range(10):
            task = asyncio.ensure_future(AsyncSandbox.create(metadata=labels))
            await asyncio.sleep(0 if late else wait / 400)
            if late:
                # It is made while the loop looks elsewhere.
                time.sleep(0.3)
            task.cancel()
            try:
                # It may have been faster.
                await (await task).kill()
            except asyncio.CancelledError:
                cancelled += 1
        assert cancelled
        for _ in range(200):
            if not [info async for info in AsyncSandbox.list(metadata=labels)]:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("a sandbox is left")

    asyncio.run(main())


def test_a_write_that_is_cancelled_at_its_end_writes_nothing_later() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create() as sandbox:
            path = "/workspace/kept"
            for _ in range(30):
                writing = asyncio.create_task(sandbox.files.write(path, [b"old" * 100_000] * 10))
                await asyncio.sleep(random.random() * 0.01)
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                await sandbox.files.write(path, "newer")
                await asyncio.sleep(0.05)
                assert await sandbox.files.read(path) == "newer"

    asyncio.run(main())


def test_a_callback_that_tells_of_a_pull_is_awaited(async_mock: AsyncEngine) -> None:
    class Pulling:
        def __init__(self) -> None:
            self.steps = [("a quarter", None), (None, "made")]

        def watched_create(self, _: str) -> asyncio.Future[object]:
            return done(self)

        def next_event(self) -> asyncio.Future[object]:
            return done(self.steps.pop(0))

    def done(value: object) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        future.set_result(SimpleNamespace(take=lambda: value))
        return future

    told: list[object] = []

    async def on_pull(progress: object) -> None:
        await asyncio.sleep(0)
        told.append(progress)

    async def main() -> None:
        made = await _async._created(cast(Any, Pulling()), {}, on_pull)  # pyright: ignore[reportPrivateUsage]
        assert made == cast(Any, "made")

    asyncio.run(main())
    assert told == ["a quarter"]


def test_an_engine_that_is_closed_while_it_opens_stays_closed() -> None:
    async def main() -> None:
        engine = AsyncEngine()
        making = asyncio.create_task(engine.create())
        await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(StacyError):
            await making

    asyncio.run(main())


def test_a_start_that_is_cancelled_leaves_no_command() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create() as sandbox:
            for _ in range(5):
                starting = asyncio.create_task(
                    sandbox.commands.run(["sleep", "4719"], background=True)
                )
                await asyncio.sleep(0)
                time.sleep(0.1)  # It has started, and nobody was told.
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
            for _ in range(100):
                if not [one for one in await sandbox.processes() if one.argv[:1] == ["sleep"]]:
                    return
                await asyncio.sleep(0.05)
            raise AssertionError("a command goes on that nobody knows")

    asyncio.run(main())


def test_a_block_that_is_cancelled_twice_ends_its_sandbox() -> None:
    labels = {"of": "twice"}

    async def main() -> None:
        async def block() -> None:
            async with await AsyncSandbox.create(metadata=labels):
                began.set()
                await asyncio.sleep(60)

        began = asyncio.Event()
        task = asyncio.ensure_future(block())
        await began.wait()
        task.cancel()
        for _ in range(2):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(200):
            if not [info async for info in AsyncSandbox.list(metadata=labels)]:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the sandbox is left")

    asyncio.run(main())


def test_a_timeout_of_asyncio_kills_the_command() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create() as sandbox:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sandbox.commands.run("sleep 4715"), 0.3)
            await until_runs(sandbox, set())

    asyncio.run(main())


def test_a_cancelled_create_makes_nothing() -> None:
    async def main() -> None:
        for wait in (0.0, 0.001, 0.01):
            task = asyncio.create_task(AsyncSandbox.create(metadata={"of": "cancelled"}))
            await asyncio.sleep(wait)
            task.cancel()
            try:
                await (await task).kill()
            except asyncio.CancelledError:
                pass
        left: list[stacyvm.SandboxInfo] = []
        for _ in range(100):
            left = [info async for info in AsyncSandbox.list(metadata={"of": "cancelled"})]
            if not left:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"left: {left}")

    asyncio.run(main())


def test_the_loop_goes_on_while_a_call_waits(async_mock: AsyncEngine) -> None:
    async def main() -> None:
        sandbox = await async_mock.create(image="scratch")
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        turning = asyncio.create_task(turn())
        await sandbox.exec(["sleep", "0.3"])
        turning.cancel()
        assert turns > 5

    asyncio.run(main())


def test_loops_come_and_go(async_mock: AsyncEngine) -> None:
    sandbox = asyncio.run(async_mock.create(image="scratch"))
    for _ in range(3):
        assert asyncio.run(sandbox.exec(["echo", "x"])).stdout == "x\n"
    assert asyncio.run(sandbox.kill()) is True


def test_errors_come_through(async_mock: AsyncEngine) -> None:
    async def main() -> None:
        with pytest.raises(stacyvm.NotFoundError):
            await async_mock.connect("no-such-sandbox")
        with pytest.raises(stacyvm.InvalidArgumentError):
            await async_mock.create(image="")

    asyncio.run(main())


async def until_runs(sandbox: AsyncSandbox, wanted: set[str]) -> None:
    running: set[str] = set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        running = {" ".join(p.argv) for p in await sandbox.processes()}
        if {r for r in running if r.startswith("sleep")} == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"runs: {running}, expected {wanted}")


async def test_tar_streams_and_pieces_come_from_the_loop() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"by ", b"and ", b"by"):
            await asyncio.sleep(0)
            yield piece

    async with await AsyncSandbox.create() as one, await AsyncSandbox.create() as other:
        await one.files.write("/workspace/tree/a", pieces())
        await other.files.import_tar("/workspace", await one.files.export_tar("/workspace/tree"))
        assert await other.files.read("/workspace/tree/a") == "by and by"
        # A task that is cancelled in the middle leaves no file.
        began = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            archive = await one.files.export_tar("/workspace/tree")
            async for piece in archive:
                yield piece[:600]
                began.set()
                await asyncio.sleep(3600)

        importing = asyncio.ensure_future(other.files.import_tar("/workspace/half", endless()))
        await began.wait()
        importing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await importing
        assert not await other.files.exists("/workspace/half/tree/a")
        archive = await one.files.export_tar("/workspace/tree")
        await archive.close()
        with pytest.raises(stacyvm.ConflictError, match="closed"):
            [piece async for piece in archive]
        # What has to be waited for holds nobody up: a stream of asyncio, a pipe.
        child = await asyncio.create_subprocess_shell(
            "printf 'from a '; sleep 0.2; printf child", stdout=asyncio.subprocess.PIPE
        )
        await one.files.write("/workspace/a", cast("Any", child.stdout))
        assert await one.files.read("/workspace/a") == "from a child"
        await child.wait()
        readable, writable = os.pipe()
        with os.fdopen(readable, "rb") as pipe:
            writing = asyncio.ensure_future(one.files.write("/workspace/b", pipe))
            await asyncio.sleep(0.05)
            assert not writing.done()
            os.write(writable, b"from a pipe")
            os.close(writable)
            await writing
        assert await one.files.read("/workspace/b") == "from a pipe"
        # An archive that nobody can take is let go of.
        await one.files.write("/workspace/big", b"x" * (32 << 20))
        archive = await one.files.export_tar("/workspace")
        with pytest.raises(stacyvm.NotDirectoryError):
            await one.files.import_tar("/workspace/a", archive)
        with pytest.raises(stacyvm.ConflictError, match="closed"):
            [piece async for piece in archive]
