"""Code in interpreters, on the embedded provider."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest

import stacyvm
from stacyvm import AsyncSandbox, Sandbox


def test_state_is_kept(sandbox: Sandbox) -> None:
    assert sandbox.run_code("x = 20; x + 1").text == "21"
    done = sandbox.run_code("print(x)")
    assert (done.stdout, done.text, done.error, done.results) == ("20\n", None, None, [])
    assert sandbox.run_code("print('no end of line', end='')").stdout == "no end of line"


def test_what_is_raised_is_told(sandbox: Sandbox) -> None:
    error = sandbox.run_code("1 / 0").error
    assert error is not None
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert "1 / 0" in error.traceback


def test_rich_results(sandbox: Sandbox) -> None:
    code = "class P:\n  def _repr_png_(self): return b'png'\ndisplay(P())\n[1, {'a': None}]"
    picture, value = sandbox.run_code(code).results
    assert picture.png is not None and base64.b64decode(picture.png) == b"png"
    assert (value.json, value.is_main_result) == ('[1, {"a": null}]', True)


def test_contexts(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context(cwd="/tmp")
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == "'/tmp'"
    assert [c.id for c in sandbox.list_code_contexts()] == [context.id]
    sandbox.remove_code_context(context)
    with pytest.raises(stacyvm.NotFoundError):
        sandbox.run_code("1", context=context)
    with pytest.raises(stacyvm.UnsupportedError):
        sandbox.run_code("1", language="cobol")


def test_callbacks_come_while_it_runs(sandbox: Sandbox) -> None:
    out: list[str] = []
    results: list[str | None] = []
    errors: list[str] = []
    done = sandbox.run_code(
        "import sys\nprint('a')\nprint('b', file=sys.stderr)\ndisplay(5)\nraise KeyError('k')",
        on_stdout=out.append,
        on_stderr=lambda text: out.append("! " + text),
        on_result=lambda result: results.append(result.text),
        on_error=lambda error: errors.append(error.name),
    )
    assert sorted(out) == ["! b\n", "a\n"]
    assert (results, errors) == (["5"], ["KeyError"])
    assert (done.stdout, done.stderr) == ("a\n", "b\n")


def test_a_timeout_keeps_the_state(sandbox: Sandbox) -> None:
    with pytest.raises(TimeoutError):
        sandbox.run_code("x = 7\nimport time; time.sleep(60)", timeout=0.3)
    assert sandbox.run_code("x").text == "7"


def test_a_second_call_is_fast(sandbox: Sandbox) -> None:
    # What is fast is measured by the benchmark; here no second interpreter may start.
    sandbox.run_code("import os")
    first = sandbox.run_code("os.getpid()").text
    assert sandbox.run_code("os.getpid()").text == first


def test_a_cancelled_task_ends_the_code() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create() as sandbox:
            code = "import subprocess; subprocess.run(['sleep', '4722'])"
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sandbox.run_code(code), 0.5)
            deadline = time.monotonic() + 10
            while any("4722" in p.argv for p in await sandbox.processes()):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert (await sandbox.run_code("1 + 1")).text == "2"

    asyncio.run(main())


def test_a_dropped_object_ends_its_interpreters(sandbox: Sandbox) -> None:
    other = Sandbox.connect(sandbox.id)
    other.run_code("1")
    pty = other.pty.create(["sleep", "4723"])
    names = [p.argv[0] for p in sandbox.processes()]
    assert sorted(names) == ["python3", "sleep"]
    del other, pty
    deadline = time.monotonic() + 10
    while sandbox.processes():
        assert time.monotonic() < deadline, sandbox.processes()
        time.sleep(0.05)
