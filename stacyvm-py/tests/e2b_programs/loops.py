"""The same in an event loop."""

from __future__ import annotations

from . import Program

PROGRAMS = {
    "async-readme": Program("sdk-reference", '''
import asyncio
from stacyvm.e2b import AsyncSandbox

async def main():
    # Create sandbox
    sandbox = await AsyncSandbox.create()
    print(await sandbox.is_running()) # Returns True

    await sandbox.kill()
    print(await sandbox.is_running()) # Returns False

asyncio.run(main())
''', r"^True\nFalse\n$"),
    "async-commands": Program("sdk-reference", '''
import asyncio
from stacyvm.e2b import AsyncSandbox, CommandExitException

async def main():
    async with await AsyncSandbox.create() as sandbox:
        async def show(data):
            await asyncio.sleep(0)
            print("out", data)

        result = await sandbox.commands.run("echo hello; sleep 0.1; echo world", on_stdout=show)
        print(result)
        command = await sandbox.commands.run("echo failed >&2; exit 2", background=True)
        try:
            await command.wait()
        except CommandExitException as error:
            print(error.exit_code, command.exit_code, command.stderr, command.error)

asyncio.run(main())
''', r"^out hello\n\nout world\n\nCommandResult\(.*exit_code=0, error=None\)\n2 2 failed\n exit status 2\n$"),
    "async-stdin": Program("sdk-reference", '''
import asyncio
from stacyvm.e2b import AsyncSandbox

async def main():
    sandbox = await AsyncSandbox.create()
    ev = asyncio.Event()

    def handle_event(stdout: str):
        ev.set()

    cmd = await sandbox.commands.run("cat", background=True, stdin=True, on_stdout=handle_event)
    await sandbox.commands.send_stdin(cmd.pid, "Hello, World!")
    await ev.wait()
    print(cmd.stdout, await cmd.kill(), await cmd.kill())

asyncio.run(main())
''', r"^Hello, World! True False\n$"),
    "async-pty": Program("sdk-reference", '''
import asyncio
from stacyvm.e2b import AsyncSandbox, PtySize

async def main():
    sandbox = await AsyncSandbox.create()
    output = []

    def append_data(data: list, x: bytes):
        data.append(x.decode("utf-8"))

    terminal = await sandbox.pty.create(
        PtySize(rows=24, cols=80), on_data=lambda x: append_data(output, x), envs={"ABC": "123"}
    )

    await sandbox.pty.send_stdin(terminal.pid, b"echo $ABC\\n")
    await sandbox.pty.send_stdin(terminal.pid, b"exit\\n")

    await terminal.wait()
    print(terminal.exit_code, "123" in "".join(output))

asyncio.run(main())
''', r"^0 True\n$"),
    "async-watch": Program("filesystem/watch", '''
import asyncio
from stacyvm.e2b import AsyncSandbox, FilesystemEventType

async def main():
    sandbox = await AsyncSandbox.create()
    dirname = '/home/user'
    written, ended = asyncio.Event(), []

    # Start watching directory for changes
    async def on_event(event):
        if event.type == FilesystemEventType.WRITE:
            print(f"wrote to file {event.name}", event.entry.size)
            written.set()

    handle = await sandbox.files.watch_dir(dirname, on_event, on_exit=ended.append, include_entry=True)

    # Trigger file write event
    await sandbox.files.write(f"{dirname}/my-file", "hello")
    await asyncio.wait_for(written.wait(), 10)
    await handle.stop()
    print(ended)

asyncio.run(main())
''', r"^wrote to file my-file 5\n\[None\]\n$"),
    "async-files": Program("sdk-reference", '''
import asyncio
from stacyvm.e2b import AsyncSandbox

async def main():
    sandbox = await AsyncSandbox.create()

    async def chunks():
        yield b"one "
        yield b"two"

    await sandbox.files.write("chunks.txt", chunks())
    async with await sandbox.files.read("chunks.txt", format="stream") as stream:
        async for chunk in stream:
            print(chunk)
    print([entry.name for entry in await sandbox.files.list(".") if entry.name[0] != "."])

asyncio.run(main())
''', r"^b'one two'\n\['chunks.txt'\]\n$"),
    "async-list": Program("sandbox/list", '''
import asyncio
from stacyvm.e2b import AsyncSandbox

async def main():
    sandbox = await AsyncSandbox.create()
    paginator = AsyncSandbox.list()

    while paginator.has_next:
        sandboxes = await paginator.next_items()
        print([item.sandbox_id == sandbox.sandbox_id for item in sandboxes])
    same = await AsyncSandbox.connect(sandbox.sandbox_id)
    print((await same.get_info()).state, await AsyncSandbox.kill(sandbox.sandbox_id))

asyncio.run(main())
''', r"^\[True\]\nrunning True\n$"),
}
