"""The program of the README runs, and has ten lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_program_of_the_readme_runs(python: Callable[..., CompletedProcess[str]]) -> None:
    found = re.search(r"```python\n(.+?)```", README.read_text(), re.DOTALL)
    assert found is not None
    program = found[1]
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    done = python(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "45\n 0\n"


def test_the_server_of_the_readme_answers(python: Callable[..., CompletedProcess[str]]) -> None:
    programs = re.findall(r"```python\n(.+?)```", README.read_text(), re.DOTALL)
    done = python("from stacyvm import Sandbox\n" + programs[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("HTTP/1.0 200 OK")
