"""Programs written for E2B run over stacyvm after their import was changed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from e2b_programs import Program, inside, loops, sandboxes

import stacyvm
from stacyvm import e2b
from stacyvm.e2b import Sandbox
from stacyvm.e2b import _handles  # pyright: ignore[reportPrivateUsage]

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {**sandboxes.PROGRAMS, **inside.PROGRAMS, **loops.PROGRAMS}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    paginator = Sandbox.list()
    while paginator.has_next:
        for info in paginator.next_items():
            Sandbox.kill(info.sandbox_id)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the local files that the programs speak of."""
    for name, text in {
        "path/to/local/file": "local content\n",
        "local/dir/file1.txt": "File 1 contents...\n",
        "local/dir/file2.txt": "File 2 contents...\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_documented_program_runs(name: str, here: Path) -> None:
    program: Program = PROGRAMS[name]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(program.code, name, "exec"), {"__name__": "__main__"})
    assert re.search(program.prints, said.getvalue(), re.DOTALL), said.getvalue()


def test_the_migration_page_names_each_program() -> None:
    page = (ROOT / "docs/migrate-from-e2b.md").read_text()
    named = re.findall(r"\| runs: `([\w-]+)` \|", page)
    assert sorted(named) == sorted(PROGRAMS)
    assert len(named) >= 25


def test_the_half_that_blocks_is_what_the_script_makes() -> None:
    script = ROOT / "scripts/python-sync.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_public_is_there_and_has_words() -> None:
    for name in e2b.__all__:
        assert hasattr(e2b, name)
        value = getattr(e2b, name)
        if inspect.isclass(value) and value.__module__.startswith("stacyvm"):
            assert value.__doc__, name
            for method, body in vars(value).items():
                if inspect.isroutine(body) and not method.startswith("_"):
                    assert inspect.getdoc(body), f"{name}.{method} has no words"


def test_errors_are_both_of_e2b_and_of_stacyvm() -> None:
    sandbox = Sandbox.create()
    with pytest.raises(e2b.FileNotFoundException) as caught:
        sandbox.files.read("nothing.txt")
    error = caught.value
    assert isinstance(error, (e2b.NotFoundException, e2b.SandboxException))
    assert isinstance(error, stacyvm.PathNotFoundError)
    assert isinstance(error, FileNotFoundError)
    assert type(error.__cause__) is stacyvm.PathNotFoundError
    assert error.context["path"] == "/home/user/nothing.txt"
    with pytest.raises(e2b.InvalidArgumentException):
        sandbox.files.read("/home")
    with pytest.raises(e2b.InvalidArgumentException):
        sandbox.files.watch_dir("/etc/passwd")
    sandbox.kill()
    with pytest.raises(e2b.SandboxNotRunningException):
        sandbox.files.read("/etc/passwd")
    with pytest.raises(e2b.SandboxNotRunningException):
        sandbox.commands.run("true")
    for call in (sandbox.get_info, sandbox.pause, lambda: sandbox.set_timeout(9)):
        with pytest.raises(e2b.SandboxNotFoundException):
            call()
    for sandbox_id in (sandbox.sandbox_id, "s" * 20, "no id"):
        with pytest.raises(e2b.SandboxNotFoundException):
            Sandbox.connect(sandbox_id)


def test_a_killed_command_is_told_as_e2b_tells_it() -> None:
    sandbox = Sandbox.create()
    command = sandbox.commands.run("echo before; sleep 60", background=True)
    assert next(iter(command)) == ("before\n", None, None)
    assert command.kill()
    with pytest.raises(e2b.CommandExitException) as caught:
        command.wait()
    error = caught.value
    assert (error.exit_code, error.error, error.stdout) == (-1, "signal: killed", "before\n")
    assert str(error).startswith("Command exited with code -1")


def test_handles_of_one_command_each_see_all_of_it() -> None:
    sandbox = Sandbox.create()
    command = sandbox.commands.run("cat", background=True, stdin=True)
    other = sandbox.commands.connect(command.pid)
    other.send_stdin("héllo")
    other.close_stdin()
    assert other.wait().stdout == command.wait().stdout == "héllo"


def test_a_task_that_is_cancelled_takes_its_command_along() -> None:
    async def main() -> None:
        async with await e2b.AsyncSandbox.create() as sandbox:
            run = sandbox.commands.run
            for begun in (
                run("sleep 60"),
                run("sleep 60", on_stdout=print),
                run("sleep 60", stdin=True),
            ):
                task = asyncio.create_task(begun)
                while not await sandbox.commands.list():
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                deadline = time.monotonic() + 10
                while await sandbox.commands.list():
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_handles_are_read_in_threads_of_their_own() -> None:
    sandbox = Sandbox.create()
    command = sandbox.commands.run("read line; seq 20000", background=True, stdin=True)
    handles = [sandbox.commands.connect(command.pid) for _ in range(4)]
    with ThreadPoolExecutor(5) as pool:
        said = [pool.submit(handle.wait) for handle in (command, *handles)]
        command.send_stdin("go\n")
        assert len({result.result(60).stdout for result in said}) == 1
    assert said[0].result().stdout.endswith("20000\n")


def test_commands_are_told_apart_by_their_pids() -> None:
    sandbox = Sandbox.create()
    first, second, third = (
        sandbox.commands.run("cat", background=True, stdin=True) for _ in range(3)
    )
    assert len({first.pid, second.pid, third.pid}) == 3
    sandbox.commands.send_stdin(second.pid, "for the second")
    sandbox.commands.close_stdin(second.pid)
    assert second.wait().stdout == "for the second"
    assert sandbox.commands.kill(third.pid)
    assert [info.pid for info in sandbox.commands.list()] == [first.pid]


def test_a_command_whose_handle_is_gone_is_found_by_its_pid() -> None:
    sandbox = Sandbox.create()
    pid = sandbox.commands.run("cat", background=True, stdin=True).pid
    sandbox.commands.send_stdin(pid, "one ")
    handle = sandbox.commands.connect(pid)
    sandbox.commands.send_stdin(pid, "two")
    sandbox.commands.close_stdin(pid)
    assert handle.wait().stdout.endswith("two")


def test_what_is_not_offered_says_what_to_use() -> None:
    sandbox = Sandbox.create()
    calls: dict[str, Callable[[], object]] = {
        "publishes ports": lambda: sandbox.get_host(3000),
        "files.read": lambda: sandbox.download_url("demo.txt"),
        "files.write": lambda: sandbox.upload_url("demo.txt"),
        "git ...": lambda: sandbox.git,
        "make another one": lambda: sandbox.fork(),
        "allow_out": lambda: Sandbox.create(network={"deny_out": ["8.8.8.8"]}),
        "pause": lambda: Sandbox.create(
            lifecycle=cast("e2b.SandboxLifecycle", {"on_timeout": "pause"})
        ),
        "commands.run": lambda: Sandbox.create(mcp={"duckduckgo": {}}),
        "network_full": lambda: Sandbox.create(allow_internet_access=True),
        "image=": lambda: Sandbox.create("my-template"),
        "snapshot_disk": sandbox.create_snapshot,
        "metadata of files": lambda: sandbox.files.write("a", "b", metadata={"k": "v"}),
    }
    for words, call in calls.items():
        with pytest.raises(e2b.NotSupportedException, match=re.escape(words)):
            call()
    with pytest.raises(ImportError, match="image="):
        exec("from stacyvm.e2b import Template")
    with pytest.raises(TypeError, match="Sandbox.create"):
        Sandbox()
    with pytest.raises(TypeError, match="tiemout"):
        Sandbox.create(tiemout=3)  # type: ignore[call-arg]
    Sandbox.create(api_key="e2b_0", request_timeout=30, domain="e2b.app").kill(request_timeout=3)


def test_an_image_without_the_user_and_without_bash() -> None:
    busybox = Path("/usr/bin/busybox")
    if not busybox.exists() or subprocess.run(["ldd", busybox], capture_output=True).returncode == 0:
        pytest.skip("not run: needs a static busybox")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for directory in ("bin", "etc", "tmp", "proc", "dev", "sys"):
            (root / directory).mkdir()
        shutil.copy(busybox, root / "bin/busybox")
        for tool in ("sh", "id", "chmod"):
            (root / "bin" / tool).symlink_to("busybox")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        with Sandbox.create(image=str(root)) as sandbox:
            result = sandbox.commands.run("id -u; pwd; echo $0", user="user")
            assert result.stdout.split() == ["1000", "/home/user", "/bin/sh"]
            sandbox.files.write("a.txt", "x", user="user")
            assert sandbox.files.get_info("a.txt").owner == "1000"


def test_output_that_is_not_utf8_is_replaced_where_it_is_broken() -> None:
    sandbox = Sandbox.create()
    line = "printf '" + "a" * 8191 + "\\xe2'"
    assert sandbox.commands.run(line).stdout == "a" * 8191 + "\ufffd"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sandbox.commands.run(line, background=True).wait().stdout == "a" * 8191 + "\ufffd"
    sandbox.commands.run("printf '\\xe2' > broken")
    assert sandbox.files.read("broken") == "\ufffd"


def test_lost_output_is_told() -> None:
    said = _handles._Said(False, True)  # pyright: ignore[reportPrivateUsage]
    event = SimpleNamespace(lost=(3, 4), stdout=b"rest", stderr=None, exit=None)
    with pytest.warns(RuntimeWarning, match="7 bytes of output"):
        assert list(said.event(cast(Any, event))) == [("rest", None, None)]


def test_times_and_pages_that_make_no_sense_are_refused() -> None:
    sandbox = Sandbox.create()
    for limit in (-1, 0):
        with pytest.raises(e2b.InvalidArgumentException, match="limit"):
            Sandbox.list(limit=limit).next_items()
    with pytest.raises(e2b.InvalidArgumentException, match="next_token"):
        Sandbox.list(next_token="zzz").next_items()
    with pytest.raises(e2b.InvalidArgumentException, match="timeout"):
        sandbox.set_timeout(-1)
    assert sandbox.is_running()
    sandbox.set_timeout(0)
    assert not sandbox.is_running()


def test_ports_pauses_and_snapshots_of_a_docker_engine(docker_image: str) -> None:
    sandbox = Sandbox.create(
        provider="docker", image=docker_image, allow_internet_access=True, ports=[{"guest": 3000}]
    )
    with sandbox:
        sandbox.files.write("index.html", "from inside")
        sandbox.commands.run("busybox httpd -f -p 3000", background=True, timeout=0)
        assert re.fullmatch(r"127\.0\.0\.1:\d+", sandbox.get_host(3000))
        line = "until wget -qO- http://127.0.0.1:3000/index.html; do sleep 0.05; done"
        assert sandbox.commands.run(line).stdout == "from inside"
        assert sandbox.pause()
        assert sandbox.get_info().end_at == datetime.max.replace(tzinfo=timezone.utc)
        assert sandbox.connect(timeout=60).is_running()
        snapshot = sandbox.create_snapshot()
        with Sandbox.create(snapshot.snapshot_id, provider="docker") as another:
            assert another.files.read("index.html") == "from inside"
