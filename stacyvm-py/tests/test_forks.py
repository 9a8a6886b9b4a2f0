"""What a fork leaves of the records."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from stacyvm import Engine, Sandbox

Program = Callable[..., "subprocess.CompletedProcess[str]"]

THIRD = """
def third():
    import subprocess, sys
    code = "from stacyvm import Engine\\nwith Engine() as e: print(*(i.id for i in e.list()))"
    return subprocess.check_output([sys.executable, "-c", code], text=True).split()
"""


def test_a_child_whose_parent_is_gone_writes_what_others_see(python: Program) -> None:
    # The process between is gone when its child begins, as when a program becomes a daemon.
    done = python(
        THIRD
        + """
import os, time
from stacyvm import Sandbox
Sandbox.create().kill()
told, tells = os.pipe()
if os.fork() == 0:
    Sandbox.create().kill()
    if os.fork():
        os._exit(0)
    time.sleep(0.5)
    first = Sandbox.create(id="fork-a")
    seen = [third()]
    second = Sandbox.create(id="fork-b")
    seen.append(third())
    first.kill()
    second.kill()
    os.write(tells, repr(seen).encode())
    os._exit(0)
os.close(tells)
print(os.read(told, 1000).decode())
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[['fork-a'], ['fork-a', 'fork-b']]"


def test_a_fork_beside_threads_that_write_has_records(tmp_path: Path) -> None:
    with Engine(state_dir=tmp_path) as engine:
        sandbox = engine.create()
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                sandbox.set_timeout(600)

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        sandbox.set_timeout(500)
                        code = 0 if [info.id for info in engine.list()] == [sandbox.id] else 2
                    finally:
                        os._exit(code)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert sandbox.kill()


def test_a_fork_that_asks_nobody_is_told_so(python: Program) -> None:
    done = python(
        """
import ctypes, os, sys
from stacyvm import ConflictError, Engine
engine = Engine()
list(engine.list())
child = ctypes.PyDLL(None).fork()  # as a program in C does, that knows nothing of Python's hooks
if child == 0:
    try:
        list(engine.list())
    except ConflictError as error:
        assert "spawn" in error.context["remedy"], error.context
        os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
list(engine.list())
"""
    )
    assert done.returncode == 0, done.stderr


def test_a_process_goes_on_after_its_forks() -> None:
    with Sandbox.create() as sandbox:
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            sandbox.set_timeout(300)
            assert sandbox.id in {info.id for info in Sandbox.list()}



def test_a_socket_ends_with_its_sandbox_though_a_child_has_a_copy(sandbox: Sandbox) -> None:
    listener = sandbox.listen()
    socket = sandbox.dial(listener.port).socket()
    child = os.fork()
    if child == 0:
        socket.close()
        signal.pause()
    try:
        socket.settimeout(30)
        sandbox.kill()
        assert socket.recv(1) == b""
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
