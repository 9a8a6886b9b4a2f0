"""Programs that fork: a web server with workers, and a test runner."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from stacyvm import Sandbox

APPLICATION = """
import threading
from stacyvm import Sandbox

# Made before the workers are forked, and in use while they are.
shared = Sandbox.create(lifetime="attached", metadata={"of": "gunicorn"})
shared.commands.run("echo before")
threading.Thread(target=lambda: shared.commands.run("sleep 2"), daemon=True).start()

def application(environ, start_response):
    with Sandbox.create(metadata={"of": "gunicorn"}) as own:
        said = shared.run_code("6 * 7").text + " " + own.commands.run("echo own").stdout
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said.encode()]
"""

TESTS = """
import pytest
from stacyvm import Sandbox

@pytest.mark.parametrize("n", range(6))
def test_one(n):
    with Sandbox.create(metadata={"of": "xdist"}) as sandbox:
        assert sandbox.commands.run(f"echo {n}").stdout == f"{n}\\n"
"""


class Unix(http.client.HTTPConnection):
    """A connection to a server at a path."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self.path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def ask(path: Path) -> bytes:
    connection = Unix(path)
    connection.request("GET", "/")
    answer = connection.getresponse().read()
    connection.close()
    return answer


def living(of: str) -> list[str]:
    return [info.id for info in Sandbox.list(metadata={"of": of}) if info.phase == "running"]


def test_workers_of_gunicorn(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(APPLICATION)
    bound = tmp_path / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2"]
        + ["--bind", f"unix:{bound}", "--chdir", str(tmp_path), "web:application"],
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while not bound.exists():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        assert [ask(bound) for _ in range(8)] == [b"42 own\n"] * 8
        assert len(living("gunicorn")) == 1
    finally:
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=60)
    assert server.returncode == 0, said
    deadline = time.monotonic() + 10
    while living("gunicorn"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_of_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_them.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout + done.stderr
    assert living("xdist") == []
