"""Connections to and from ports inside."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Iterator

import pytest

import stacyvm
from stacyvm import AsyncEngine, AsyncSandbox, Sandbox

from test_processes import in_child

SERVE = "python3 -m http.server --bind 127.0.0.1 --directory /workspace 8000"
ECHO = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
        self.request.sendall(b"END")
socketserver.ThreadingTCPServer(("127.0.0.1", 7000), Echo).serve_forever()
"""


def until_listened_on(sandbox: Sandbox, port: int) -> None:
    """Waits until a program has begun, which may take longer than `dial` tries."""
    for _ in range(100):
        try:
            return sandbox.dial(port).close()
        except stacyvm.NotFoundError:
            time.sleep(0.1)


@pytest.fixture
def echo(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A sandbox in which port 7000 says what it hears."""
    sandbox.commands.run(["python3", "-c", ECHO], background=True)
    until_listened_on(sandbox, 7000)
    yield sandbox


def test_a_server_inside_is_dialled(sandbox: Sandbox) -> None:
    sandbox.files.write("/workspace/a.txt", "told by the server\n")
    sandbox.commands.run(SERVE, background=True)
    until_listened_on(sandbox, 8000)
    with sandbox.dial(8000) as connection:
        connection.send("GET /a.txt HTTP/1.0\r\n\r\n")
        answer = b"".join(connection)
    assert answer.startswith(b"HTTP/1.0 200") and answer.endswith(b"told by the server\n")
    # What others make of sockets works over one of them.
    client = http.client.HTTPConnection("inside")
    client.sock = sandbox.dial(8000).socket()
    client.request("GET", "/a.txt")
    assert client.getresponse().read() == b"told by the server\n"
    client.close()


def test_an_end_is_told_and_the_other_side_may_go_on(echo: Sandbox) -> None:
    with echo.dial(7000) as connection:
        connection.send(b"one")
        assert connection.recv() == b"one"
        connection.send_eof()
        assert b"".join(connection) == b"END"
        with pytest.raises(stacyvm.ConflictError):
            connection.send(b"two")


def test_one_sends_while_another_receives_and_neither_is_kept_in_memory(echo: Sandbox) -> None:
    connection, size = echo.dial(7000), 8 << 20

    def sends() -> None:
        connection.send(b"x" * size)
        connection.send_eof()

    sending = threading.Thread(target=sends)
    sending.start()
    came = sum(map(len, connection))
    sending.join()
    assert came == size + len(b"END")
    connection.close()


def test_a_close_ends_whoever_waits(echo: Sandbox) -> None:
    connection = echo.dial(7000)
    ended: list[str] = []

    def waits() -> None:
        with pytest.raises(stacyvm.ConflictError, match="closed"):
            connection.recv()
        ended.append("conflict")

    waiting = threading.Thread(target=waits)
    waiting.start()
    time.sleep(0.2)
    connection.close()
    waiting.join(20)
    assert ended == ["conflict"]
    connection.close()


def test_errors_of_ports_have_their_classes(sandbox: Sandbox) -> None:
    with pytest.raises(stacyvm.NotFoundError) as told:
        sandbox.dial(9)
    assert told.value.context["port"] == "9"
    for port in (70_000, -1, 0):
        with pytest.raises(stacyvm.InvalidArgumentError) as wrong:
            sandbox.dial(port)
        assert wrong.value.context["field"] == "port"
    with sandbox.listen() as listener:
        with pytest.raises(stacyvm.AlreadyExistsError) as taken:
            sandbox.listen(listener.port)
        assert taken.value.context["port"] == str(listener.port)
        with sandbox.dial(listener.port) as connection:
            with pytest.raises(stacyvm.InvalidArgumentError):
                connection.recv(0)


def test_the_end_of_a_sandbox_is_told_to_whoever_receives() -> None:
    with Sandbox.create() as sandbox:
        listener = sandbox.listen()
        connection = sandbox.dial(listener.port)
        threading.Timer(0.3, sandbox.kill).start()
        with pytest.raises(stacyvm.StacyError) as told:
            connection.recv()
        assert told.value.code in {"sandbox_gone", "unavailable"}


CALL = """
import socket
with socket.create_connection(("127.0.0.1", {port})) as calls:
    calls.sendall(b"from inside")
    calls.shutdown(socket.SHUT_WR)
    print(calls.recv(100).decode())
"""


def test_a_command_reaches_a_port_that_the_host_listens_on(sandbox: Sandbox) -> None:
    with sandbox.listen() as listener:
        calls = sandbox.commands.run(["python3", "-c", CALL.format(port=listener.port)], background=True)
        connection = listener.accept()
        assert connection is not None
        assert b"".join(connection) == b"from inside"
        connection.send(b"from the host")
        connection.close()
        assert calls.wait().stdout == "from the host\n"
    refused = sandbox.commands.run(["python3", "-c", CALL.format(port=listener.port)])
    assert "ConnectionRefusedError" in refused.stderr
    assert listener.accept() is None


def test_a_forked_child_opens_its_own(echo: Sandbox) -> None:
    connection, listener = echo.dial(7000), echo.listen()

    def work() -> None:
        with pytest.raises(stacyvm.ConflictError, match="fork"):
            connection.recv()
        with pytest.raises(stacyvm.ConflictError, match="fork"):
            listener.accept()
        connection.close()
        listener.close()
        with echo.dial(7000) as own:
            own.send(b"child")
            assert own.recv() == b"child"

    assert in_child(work) == 0
    connection.send(b"parent")
    assert connection.recv() == b"parent"
    with echo.dial(listener.port):
        assert listener.accept() is not None


def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create() as sandbox:
            await sandbox.commands.run(["python3", "-c", ECHO], background=True)
            await asyncio.to_thread(until_listened_on, Sandbox.connect(sandbox.id), 7000)
            async with await sandbox.dial(7000) as connection:
                for _ in range(3):
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(connection.recv(), 0.05)
                await connection.send("kept")
                assert await connection.recv() == b"kept"
            reader, writer = await asyncio.open_connection(
                sock=await (await sandbox.dial(7000)).socket()
            )
            writer.write(b"streams")
            writer.write_eof()
            assert await reader.read() == b"streamsEND"
            writer.close()

    asyncio.run(main())


def test_listeners_can_be_awaited(async_mock: AsyncEngine) -> None:
    async def main() -> None:
        sandbox = await async_mock.create(image="scratch")
        async with await sandbox.listen(81) as listener:
            ours = await sandbox.dial(81)
            async for theirs in listener:
                await theirs.send("hello")
                await theirs.close()
                break
            assert [piece async for piece in ours] == [b"hello"]
            waits = asyncio.create_task(listener.accept())
            await asyncio.sleep(0.1)
        assert await asyncio.wait_for(waits, 20) is None

    asyncio.run(main())
