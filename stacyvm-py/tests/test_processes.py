"""Forks, signals, ends of the interpreter."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest

import stacyvm
from stacyvm import Engine, InvalidArgumentError, Sandbox

Program = Callable[..., "subprocess.CompletedProcess[str]"]


def in_child(work: Callable[[], None]) -> int:
    """Does the work in a forked child, and gives its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_has_an_engine_of_its_own(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("echo before").ok

    def work() -> None:
        assert sandbox.commands.run("echo inside").stdout == "inside\n"
        with Sandbox.create() as other:
            assert other.commands.run("echo other").stdout == "other\n"

    assert in_child(work) == 0
    assert sandbox.commands.run("echo after").stdout == "after\n"


def test_a_fork_while_another_thread_waits(sandbox: Sandbox) -> None:
    waits = threading.Thread(target=lambda: sandbox.commands.run("sleep 1"))
    waits.start()
    time.sleep(0.2)
    for _ in range(4):
        assert in_child(lambda: assert_runs(sandbox)) == 0
    waits.join()
    assert_runs(sandbox)


def assert_runs(sandbox: Sandbox) -> None:
    assert sandbox.exec(["echo", "x"]).stdout == "x\n"


def test_what_a_child_inherits_and_drops_is_not_ended(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sleep 4716", background=True)
    inherited = [sandbox, handle]

    def work() -> None:
        with pytest.raises(stacyvm.ConflictError, match="fork"):
            handle.wait()
        inherited.clear()

    assert in_child(work) == 0
    assert sandbox.is_running()
    handle.kill()
    assert handle.wait().exit.signal == signal.SIGKILL


def in_pool(sandbox_id: str) -> str:
    return Sandbox.connect(sandbox_id).commands.run("echo pool").stdout


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(sandbox: Sandbox, method: str) -> None:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(in_pool, [sandbox.id] * 4)) == ["pool\n"] * 4


def test_threads_share_a_sandbox(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(16) as pool:
        runs = [pool.submit(sandbox.exec, ["echo", str(n)]) for n in range(64)]
        assert [run.result().stdout for run in runs] == [f"{n}\n" for n in range(64)]


def test_the_interpreter_is_free_while_a_call_waits(mock: Engine) -> None:
    sandbox = mock.create(image="scratch")
    turns = 0
    done = threading.Event()

    def turn() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.01)

    turning = threading.Thread(target=turn)
    turning.start()
    sandbox.exec(["sleep", "0.3"])
    done.set()
    turning.join()
    assert turns > 5


def test_ctrl_c_in_a_create_leaves_no_sandbox() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupted = 0
    try:
        for _ in range(30):
            # A create takes longer.
            soon = threading.Timer(0.001, lambda: os.kill(os.getpid(), signal.SIGINT))
            try:
                soon.start()
                with Sandbox.create(metadata={"of": "ctrl-c"}):
                    time.sleep(5)
            except KeyboardInterrupt:
                interrupted += 1
            soon.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupted == 30
    assert [info.id for info in Sandbox.list(metadata={"of": "ctrl-c"})] == []


def test_a_handler_of_a_signal_may_call_us(sandbox: Sandbox) -> None:
    said: list[str] = []

    def handler(number: int, frame: object) -> None:
        said.append(sandbox.exec(["echo", "from the handler"]).stdout)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert sandbox.commands.run("sleep 1; echo done").stdout == "done\n"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert said == ["from the handler\n"]


def test_ctrl_c_ends_the_wait_and_the_command(sandbox: Sandbox) -> None:
    # Whoever ran this may have had it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            sandbox.commands.run("setsid sleep 4717 & sleep 4718", timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 30
    for _ in range(200):
        if not [p for p in sandbox.processes() if p.argv[:1] == ["sleep"]]:
            return
        time.sleep(0.05)
    raise AssertionError([p.argv for p in sandbox.processes()])


ATTACHED = """
import os, sys
from stacyvm import Sandbox
sandbox = Sandbox.create(lifetime="attached", metadata={"of": sys.argv[1]})
sandbox.commands.run("sleep 4719", background=True)
print(sandbox.id, flush=True)
"""


def living(of: str) -> list[str]:
    return [info.id for info in Sandbox.list(metadata={"of": of}) if info.phase == "running"]


def until_none(of: str) -> None:
    for _ in range(200):
        if not living(of):
            return
        time.sleep(0.05)
    raise AssertionError(living(of))


def test_an_attached_sandbox_ends_with_the_interpreter(python: Program) -> None:
    done = python(ATTACHED, "ends")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    until_none("ends")


def test_an_attached_sandbox_ends_with_a_killed_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(ATTACHED + "sandbox.commands.run('sleep 4720')\n")
    child = subprocess.Popen([sys.executable, str(program), "killed"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert living("killed")
    child.kill()
    child.wait()
    until_none("killed")


def test_an_attached_sandbox_does_not_outlive_its_process_by_a_forked_child(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        ATTACHED + "child = os.fork()\nos.write(1, b'%d\\n' % child)\nimport time; time.sleep(60)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, str(program), "forked"], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    owner.stdout.readline()
    child = max(int(owner.stdout.readline()) for _ in range(2))
    try:
        assert living("forked")
        owner.kill()
        owner.wait()
        os.kill(child, 0)
        until_none("forked")
    finally:
        os.kill(child, signal.SIGKILL)


BLOCK = """
import os, sys, time
from stacyvm import Sandbox
with Sandbox.create(metadata={"of": "block"}) as sandbox:
    child = os.fork()
    if child:
        print(sandbox.get_info().lifetime, child, flush=True)
    time.sleep(60)
"""


def test_a_killed_process_ends_the_sandbox_of_its_block_whatever_it_forked(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(BLOCK)
    owner = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    lifetime, child = owner.stdout.readline().split()
    try:
        assert lifetime == "attached" and living("block")
        owner.kill()
        owner.wait()
        os.kill(int(child), 0)
        until_none("block")
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_sandbox_is_made_its_process_s_and_nobody_s() -> None:
    sandbox = Sandbox.create()
    try:
        for lifetime in ("attached", "detached", "attached"):
            sandbox.set_lifetime(lifetime)
            assert sandbox.get_info().lifetime == lifetime
        with pytest.raises(InvalidArgumentError, match="attached or detached"):
            sandbox.set_lifetime("endless")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    finally:
        sandbox.kill()


def test_an_interpreter_ends_beside_what_is_under_way(python: Program) -> None:
    done = python(
        """
import asyncio, threading, time
from stacyvm import AsyncSandbox, Sandbox
sandbox = Sandbox.create(lifetime="attached", metadata={"of": "under way"})
threading.Thread(target=lambda: sandbox.commands.run("sleep 300"), daemon=True).start()
handle = sandbox.commands.run("yes", background=True)
next(iter(handle))
async def main():
    task = asyncio.ensure_future((await AsyncSandbox.connect(sandbox.id)).commands.run("sleep 300"))
    await asyncio.sleep(0.3)
asyncio.run(main())
""",
        timeout=30,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    until_none("under way")


def test_a_block_that_fails_ends_its_sandbox() -> None:
    with pytest.raises(KeyError):
        with Sandbox.create(metadata={"of": "blocks"}):
            raise KeyError
    assert living("blocks") == []


def test_a_thousand_sandboxes_leave_the_process_as_it_was(mock: Engine) -> None:
    def once() -> None:
        sandbox = mock.create(image="scratch")
        sandbox.exec(["echo", "x"])
        sandbox.kill()

    for _ in range(200):
        once()
    files, kib = len(os.listdir("/proc/self/fd")), resident_kib()
    for _ in range(1000):
        once()
    assert len(os.listdir("/proc/self/fd")) == files
    # Records of ended sandboxes are kept in memory by the mock's store.
    assert resident_kib() - kib < 16 * 1024


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def test_programs_of_event_loops_end_by_themselves(python: Program) -> None:
    program = """
import asyncio, sys
from stacyvm import AsyncSandbox, StacyError
async def main():
    tasks = [asyncio.ensure_future(AsyncSandbox.connect(f"none-{n}")) for n in range(20)]
    await asyncio.sleep(float(sys.argv[1]))
    sys.exit(0)
asyncio.run(main())
"""
    for n in range(12):
        done = python(program, str(n / 2000))
        assert done.returncode == 0 and "Fatal" not in done.stderr, (done.returncode, done.stderr)


def test_a_sandbox_is_killed_while_the_interpreter_ends(python: Program) -> None:
    done = python(
        """
import atexit
made = []
atexit.register(lambda: print(made[0].kill()))
import stacyvm
made.append(stacyvm.Sandbox.create())
"""
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_what_is_told_comes_back_from_another_process(sandbox: Sandbox) -> None:
    sandbox.files.write(b"/tmp/no\xfftext", "x")
    sandbox.files.set_modified_time(b"/tmp/no\xfftext", datetime(1969, 12, 31, 23, 59, 59, 5, tzinfo=timezone.utc))
    handle = sandbox.commands.run("sleep 60", background=True)
    watch = sandbox.files.watch_dir("/tmp")
    sandbox.files.write("/tmp/new", "x")
    code = sandbox.run_code("1 + 1")
    failed = sandbox.run_code("1 / 0")
    result = sandbox.commands.run("echo out; exit 3")
    told: list[object] = [
        sandbox.files.get_info(b"/tmp/no\xfftext"), sandbox.get_info(), sandbox.metrics(), result, result.exit,
        sandbox.commands.list()[0], next(iter(watch)), code, code.results[0], failed.error,
        sandbox.processes()[0], sandbox.create_code_context(), sandbox.files.upload("/etc/hostname", "/tmp/hostname"),
    ]
    handle.kill()
    for one in told:
        for again in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
            assert type(again) is type(one)
            assert public(again) == public(one)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (there,) = pool.map(entry_of, [sandbox.id])
    assert public(there) == public(told[0])


def public(told: object) -> dict[str, object]:
    """What it tells, all the way down."""
    names = [name for name in dir(told) if not name.startswith("_")]
    values = {name: getattr(told, name) for name in names}
    return {name: public(value) if type(value).__module__ == "stacyvm" else repr(value)
            for name, value in values.items() if not callable(value)}


def entry_of(id: str) -> stacyvm.EntryInfo:
    """In another process."""
    return Sandbox.connect(id).files.get_info(b"/tmp/no\xfftext")
