"""Programs of E2B's pages about its interpreter, with E2B's names."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from stacyvm import e2b
from stacyvm.e2b import AsyncSandbox, Sandbox


def test_hello_world() -> None:
    with Sandbox.create() as sbx:
        execution = sbx.run_code("print('hello world')")
        assert execution.logs.stdout == ["hello world\n"]
        assert execution.text is None and execution.error is None


def test_state_is_shared_by_calls() -> None:
    with Sandbox.create() as sandbox:
        sandbox.run_code("x = 1")
        assert sandbox.run_code("x+=1; x").text == "2"


def test_output_is_streamed() -> None:
    code = """
import time
import sys

print("This goes first to stdout")
time.sleep(0.1)
print("This goes later to stderr", file=sys.stderr)
time.sleep(0.1)
print("This goes last")
"""
    lines: list[str] = []
    with Sandbox.create() as sandbox:
        execution = sandbox.run_code(
            code,
            on_error=lambda error: print("error:", error),
            on_stdout=lambda data: lines.append(f"stdout: {data}"),
            on_stderr=lambda data: lines.append(f"stderr: {data}"),
        )
    assert lines == [
        "stdout: This goes first to stdout\n",
        "stderr: This goes later to stderr\n",
        "stdout: This goes last\n",
    ]
    assert execution.logs.stderr == ["This goes later to stderr\n"]


def test_results_are_streamed() -> None:
    shown: list[e2b.Result] = []
    code = "class P:\n  def _repr_png_(self): return b'png'\ndisplay(P())\n{'a': 1}"
    with Sandbox.create() as sandbox:
        execution = sandbox.run_code(code, on_result=shown.append)
    assert [list(result.formats()) for result in shown] == [["text", "png"], ["text", "json"]]
    assert base64.b64decode(execution.results[0].png or "") == b"png"
    assert execution.results[1].json == {"a": 1} and execution.results[1]["text"] == "{'a': 1}"


def test_an_error_is_a_result() -> None:
    with Sandbox.create() as sandbox:
        error = sandbox.run_code("raise ValueError('no')").error
    assert error is not None
    assert (error.name, error.value) == ("ValueError", "no")
    assert json.loads(error.to_json())["traceback"].startswith("Traceback")


def test_contexts() -> None:
    with Sandbox.create() as sandbox:
        context = sandbox.create_code_context(cwd="/tmp", language="python")
        sandbox.run_code("x = 1", context=context)
        assert sandbox.run_code("x", context=context).text == "1"
        assert sandbox.run_code("x").error is not None
        assert context.id in [known.id for known in sandbox.list_code_contexts()]
        sandbox.remove_code_context(context)
        with pytest.raises(e2b.NotFoundException):
            sandbox.run_code("x", context=context)


def test_what_is_late_and_what_is_not_offered() -> None:
    with Sandbox.create() as sandbox:
        with pytest.raises(e2b.TimeoutException):
            sandbox.run_code("import time; time.sleep(60)", timeout=0.3)
        with pytest.raises(e2b.NotSupportedException, match="environ"):
            sandbox.run_code("1", envs={"A": "b"})
        with pytest.raises(e2b.SandboxException, match="javascript"):
            sandbox.run_code("1", language="javascript")


def test_it_can_be_awaited() -> None:
    async def main() -> None:
        async with await AsyncSandbox.create() as sandbox:
            assert (await sandbox.run_code("1 + 1")).text == "2"

    asyncio.run(main())
