"""Commands in sandboxes of the embedded provider, and of Docker."""

from __future__ import annotations

import signal
import time

import pytest

import stacyvm
from stacyvm import Sandbox


@pytest.fixture
def sandbox(any_sandbox: Sandbox) -> Sandbox:
    return any_sandbox


def test_a_line_runs_in_the_shell_and_a_list_without_one(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("echo $((6 * 7))").stdout == "42\n"
    assert sandbox.commands.run(["echo", "$((6 * 7))"]).stdout == "$((6 * 7))\n"
    assert sandbox.exec(["printf", "%s", "a b"]).stdout == "a b"


def test_an_end_is_told_as_it_was(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code, result.ok) == ("out\n", "err\n", 3, False)
    result = sandbox.commands.run("kill -TERM $$")
    assert result.exit_code is None
    assert result.exit.signal == signal.SIGTERM
    result = sandbox.commands.run("sleep 60", timeout=0.2)
    assert (result.exit_code, result.exit.reason) == (None, "timed_out")


def test_bytes_are_kept_and_counted(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("head -c 1000000 /dev/zero", max_output=1000)
    assert result.stdout_bytes == b"\0" * 1000
    assert result.stdout_truncated_bytes == 999_000
    assert sandbox.commands.run([b"printf", b"\\377"]).stdout_bytes == b"\xff"


def test_arguments_need_not_be_text(sandbox: Sandbox) -> None:
    assert sandbox.commands.run([b"printf", b"%s", b"\xff\xfe"]).stdout_bytes == b"\xff\xfe"


def test_how_it_runs(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("pwd; id -u; echo $X", cwd="/tmp", user="0", env={"X": "y"})
    assert result.stdout == "/tmp\n0\ny\n"


def test_input_is_given_or_none(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("cat", stdin="text").stdout == "text"
    assert sandbox.commands.run("wc -c", stdin=b"\0" * 300_000).stdout.strip() == "300000"
    assert sandbox.commands.run("cat").stdout == ""


def test_output_comes_while_it_runs_and_no_character_is_cut(sandbox: Sandbox) -> None:
    came: list[tuple[float, str]] = []
    result = sandbox.commands.run(
        r"printf '\303'; sleep 0.3; printf '\244\n'; sleep 0.3; echo end; echo err >&2",
        on_stdout=lambda text: came.append((time.monotonic(), text)),
        on_stderr=lambda text: came.append((time.monotonic(), "! " + text)),
    )
    text = "".join(text for _, text in came if not text.startswith("!"))
    assert text == "ä\nend\n"
    assert [text for _, text in came if text.startswith("!")] == ["! err\n"]
    assert came[-1][0] - came[0][0] > 0.1
    assert result.stdout == "ä\nend\n"


def test_a_callback_that_raises_ends_the_command(sandbox: Sandbox) -> None:
    def stop(_: str) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        sandbox.commands.run("echo begun; exec sleep 4711", on_stdout=stop)
    assert_gone(sandbox, "sleep 4711")


def test_a_background_command_is_talked_to(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("while read line; do echo got $line; done", background=True, stdin=True)
    assert handle.pid
    handle.send_stdin("one\n")
    handle.send_stdin(b"two\n")
    handle.close_stdin()
    assert [chunk.stdout for chunk in handle if chunk.stdout] and handle.exit
    assert handle.wait().stdout == "got one\ngot two\n"


def test_a_background_command_is_found_again(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("echo before; exec sleep 300", background=True)
    listed = [command for command in sandbox.commands.list() if command.id == handle.id]
    assert len(listed) == 1 and listed[0].background and listed[0].exit is None
    again = sandbox.commands.connect(handle.id)
    assert next(iter(again)).stdout == "before\n"
    sandbox.commands.kill(handle.id)
    assert again.wait().exit.signal == signal.SIGKILL


def test_a_dropped_background_command_goes_on(sandbox: Sandbox) -> None:
    sandbox.commands.run(["sleep", "4712"], background=True)
    assert "sleep 4712" in processes(sandbox)


def test_signals_reach_a_command(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.1; done", background=True)
    assert next(iter(handle)).stdout == "ready\n"
    handle.send_signal(signal.SIGUSR1)
    result = handle.wait()
    assert (result.stdout, result.exit_code) == ("ready\ncaught\n", 7)
    handle.kill()


def test_a_terminal_shows_and_takes_what_is_typed(sandbox: Sandbox) -> None:
    pty = sandbox.pty.create(["/bin/sh"], rows=30, cols=100, env={"PS1": "> "})
    pty.send_input("stty size\n")
    pty.resize(40, 120)
    pty.send_input("stty size; exit 4\n")
    shown = b"".join(pty).decode()
    assert "30 100" in shown or "40 120" in shown
    assert pty.wait().exit_code == 4


def test_a_wrong_scope_is_refused(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sleep 60", background=True)
    with pytest.raises(ValueError, match="tree"):
        handle.send_signal(15, scope="all")  # type: ignore[arg-type]  # pyright: ignore
    handle.kill()


def test_limits_are_in_force() -> None:
    with Sandbox.create(memory_mib=64, pids=64, env={"A": "b"}, metadata={"of": "tests"}) as sandbox:
        info = sandbox.get_info()
        assert (info.memory_mib, info.pids, info.metadata) == (64, 64, {"of": "tests"})
        eats = "import sys; x = bytearray(200 << 20); print(len(x))"
        assert not sandbox.exec(["python3", "-c", eats]).ok
        assert sandbox.commands.run("echo $A").stdout == "b\n"
        assert [listed.id for listed in Sandbox.list(metadata={"of": "tests"})] == [sandbox.id]
    assert [listed.id for listed in Sandbox.list(metadata={"of": "tests"})] == []


def test_what_lives_is_found_by_its_id(sandbox: Sandbox) -> None:
    again = Sandbox.connect(sandbox.id)
    assert again.id == sandbox.id and again.is_running()
    again.set_timeout(600)
    again.extend(60)
    ends = again.get_info().ends
    assert ends is not None
    assert 600 < ends.timestamp() - time.time() < 700
    assert again.metrics().processes is not None
    assert again.capabilities()["pids_limit"]


def test_a_sandbox_stands_still_and_goes_on(sandbox: Sandbox) -> None:
    sandbox.pause()
    assert sandbox.get_info().phase == "paused"
    sandbox.resume()
    assert sandbox.commands.run("echo on").stdout == "on\n"


def test_nobody_makes_one_by_its_class() -> None:
    with pytest.raises(TypeError, match="create"):
        Sandbox()


def test_a_call_is_made_once(sandbox: Sandbox) -> None:
    call = sandbox._native.info()  # pyright: ignore[reportPrivateUsage]
    call.wait()
    with pytest.raises(RuntimeError):
        call.wait()


def processes(sandbox: Sandbox) -> list[str]:
    return [" ".join(process.argv) for process in sandbox.processes()]


def assert_gone(sandbox: Sandbox, command: str) -> None:
    for _ in range(100):
        if command not in processes(sandbox):
            return
        time.sleep(0.05)
    raise AssertionError(f"{command} still runs")


def test_a_kind_of_gone(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sleep 300", background=True)
    sandbox.kill()
    try:
        assert handle.wait().exit.reason == "sandbox_gone"
    except stacyvm.SandboxGoneError:
        pass
