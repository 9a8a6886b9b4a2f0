"""LangChain's own standard tests of sandboxes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_tests.integration_tests import SandboxIntegrationTests

from stacyvm import Sandbox
from stacyvm.langchain import StacySandbox


class TestStacySandbox(SandboxIntegrationTests):
    """All of them, on the embedded provider."""

    @pytest.fixture(scope="class")
    def sandbox(self) -> Iterator[StacySandbox]:
        # Some of them call `python`, which Debian has as `python3` alone.
        path = "/home/user/bin:/usr/local/bin:/usr/bin:/bin"
        with Sandbox.create(env={"PATH": path}) as sandbox:
            sandbox.commands.run("mkdir ~/bin; ln -s $(command -v python3) ~/bin/python", check=True)
            yield StacySandbox(sandbox)


def test_a_command_that_is_late_has_no_exit_code() -> None:
    with Sandbox.create() as sandbox:
        done = StacySandbox(sandbox).execute("echo begun; sleep 60", timeout=1)
        assert done.exit_code is None
        assert done.output.startswith("begun\n") and "timed out" in done.output


def test_both_streams_come_in_their_order() -> None:
    with Sandbox.create() as sandbox:
        done = StacySandbox(sandbox).execute("echo a; echo b >&2; echo c; exit 3")
        assert (done.output, done.exit_code) == ("a\nb\nc\n", 3)
