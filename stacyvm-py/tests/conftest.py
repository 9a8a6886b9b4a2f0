"""Engines of their own for the tests: nothing of the user's is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stacyvm import AsyncEngine, Engine, Sandbox


IMAGE = "stacyvm-test/busybox"
if host := os.environ.get("STACYVM_TEST_DOCKER_HOST"):
    os.environ["DOCKER_HOST"] = host


@pytest.fixture(scope="session")
def docker_image() -> str:
    """An image of a Docker engine; without one the test is not run."""
    known = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True)
    if known.returncode != 0:
        pytest.skip(f"not run: needs a Docker engine with {IMAGE}: scripts/docker-host.sh start")
    return IMAGE


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state directory of the default engine, of this process and of its children."""
    path = tmp_path_factory.mktemp("state")
    before = os.environ.get("STACYVM_STATE_DIR")
    os.environ["STACYVM_STATE_DIR"] = str(path)
    yield path
    # Of tests that failed, and of those that do not end what they make.
    for info in list(Sandbox.list()):
        Sandbox.connect(info.id).kill()
    if before is None:
        del os.environ["STACYVM_STATE_DIR"]
    else:
        os.environ["STACYVM_STATE_DIR"] = before


@pytest.fixture
def mock() -> Engine:
    return Engine.mock()


@pytest.fixture
def async_mock() -> AsyncEngine:
    return AsyncEngine.mock()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox of the embedded provider."""
    with Sandbox.create() as sandbox:
        yield sandbox


@pytest.fixture(params=["embedded", "docker"])
def any_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox of each provider of this host."""
    if request.param == "embedded":
        sandbox = Sandbox.create()
    else:
        sandbox = Sandbox.create(image=request.getfixturevalue("docker_image"), provider="docker")
    with sandbox:
        yield sandbox


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program in a Python of its own."""

    def run(program: str, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "program.py"
        file.write_text(program)
        return subprocess.run(
            [sys.executable, str(file), *args], capture_output=True, text=True, timeout=timeout
        )

    return run
