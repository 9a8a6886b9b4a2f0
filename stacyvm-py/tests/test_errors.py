"""Errors: classes, builtins, facts."""

from __future__ import annotations

import builtins
import errno
import pickle

import pytest

import stacyvm
from stacyvm import Engine, Sandbox, StacyError


def test_a_bad_value_names_its_field_and_the_remedy(mock: Engine) -> None:
    with pytest.raises(stacyvm.InvalidArgumentError) as caught:
        mock.create(image="scratch", memory_mib=1)
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.code == "invalid_argument"
    assert error.context["field"] == "memory_mib"
    assert error.context["remedy"]
    assert not error.retryable and error.retry_after is None


def test_an_error_of_the_system_has_its_number_and_path(mock: Engine) -> None:
    sandbox = mock.create(image="scratch")
    with pytest.raises(FileNotFoundError) as missing:
        sandbox.files.read("/nonesuch")
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, "/nonesuch")
    assert "[Errno" not in str(missing.value)
    sandbox.files.make_dir("/workspace/d")
    with pytest.raises(IsADirectoryError) as directory:
        sandbox.files.read("/workspace/d")
    assert pickle.loads(pickle.dumps(directory.value)).errno == errno.EISDIR
    with pytest.raises(FileNotFoundError) as command:
        sandbox.exec(["nonesuch"])
    assert (command.value.errno, command.value.filename) == (errno.ENOENT, None)


def test_an_unknown_option_is_refused_by_name(mock: Engine) -> None:
    with pytest.raises(stacyvm.InvalidArgumentError, match="memory"):
        mock.create(memory=512)  # type: ignore[call-arg]  # pyright: ignore


def test_an_option_of_another_type_is_refused_by_name(mock: Engine) -> None:
    with pytest.raises(stacyvm.InvalidArgumentError) as caught:
        mock.create(image="scratch", env={"TOKEN": 5})  # type: ignore[dict-item]  # pyright: ignore
    assert "env.TOKEN" in str(caught.value)


def test_a_secret_that_cannot_be_read_is_not_told(mock: Engine) -> None:
    with pytest.raises(StacyError) as caught:
        mock.create(image="scratch", env={"TOKEN": "hunter2\0"})
    assert "hunter2" not in repr(caught.value) + str(caught.value.context)


@pytest.mark.parametrize(
    "options",
    [
        {"secrets": {"TOKEN": "hunter2"}},
        {"secrets": {"TOKEN": {"env": {"hunter2": 1}}}},
        {"secrets": "hunter2, expected `hunter2`"},
        {"env": "hunter2"},
        {"env": {"TOKEN": ["hunter2"]}},
        {"env": {"TOKEN": 2718281}},
        {"timeout": "hunter2"},
    ],
)
def test_an_option_that_cannot_be_read_is_not_told(mock: Engine, options: dict[str, object]) -> None:
    with pytest.raises(stacyvm.InvalidArgumentError) as caught:
        mock.create(image="scratch", **options)  # type: ignore[arg-type]  # pyright: ignore
    told = repr(caught.value) + str(caught.value.context)
    assert "hunter2" not in told and "2718281" not in told
    assert next(iter(options)) in told and "expected" in told


def test_what_a_background_command_does_not_heed_is_refused(mock: Engine) -> None:
    commands = mock.create(image="scratch").commands
    for more in ({"on_stdout": print}, {"on_stderr": print}, {"check": True}):
        with pytest.raises(TypeError, match="background"):
            commands.run("true", background=True, **more)  # pyright: ignore
    with pytest.raises(TypeError, match="background"):
        commands.run("cat", stdin=True)  # type: ignore[call-overload]  # pyright: ignore


def test_permission_bits_that_there_are_not_are_refused(mock: Engine) -> None:
    files = mock.create(image="scratch").files
    with pytest.raises(stacyvm.InvalidArgumentError, match="mode"):
        files.write("/a", "x", mode=0o10000)
    assert not files.exists("/a")


def test_two_sources_are_one_too_many(mock: Engine) -> None:
    with pytest.raises(stacyvm.InvalidArgumentError, match="image"):
        mock.create(image="scratch", snapshot="x")


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(mock: Engine, timeout: float) -> None:
    with pytest.raises(stacyvm.InvalidArgumentError) as caught:
        mock.create(image="scratch", timeout=timeout)
    assert "timeout" in str(caught.value)


def test_builtins_where_they_are_true(mock: Engine) -> None:
    sandbox = mock.create(image="scratch")
    with pytest.raises(FileNotFoundError):
        sandbox.files.read("/none")
    with pytest.raises(FileNotFoundError):
        sandbox.exec(["no-such-command"])
    with pytest.raises(IsADirectoryError):
        sandbox.files.read("/")
    assert issubclass(stacyvm.TimeoutError, builtins.TimeoutError)
    assert issubclass(stacyvm.UnavailableError, ConnectionError)
    assert issubclass(stacyvm.PermissionDeniedError, PermissionError)


def test_a_sandbox_that_is_not_there_is_no_missing_file(mock: Engine) -> None:
    with pytest.raises(stacyvm.NotFoundError) as caught:
        mock.connect("no-such-sandbox")
    assert not isinstance(caught.value, FileNotFoundError)


def test_an_ended_sandbox_says_so() -> None:
    sandbox = Sandbox.create()
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    with pytest.raises(stacyvm.SandboxGoneError):
        sandbox.exec(["true"])


def test_errors_survive_pickling(mock: Engine) -> None:
    with pytest.raises(StacyError) as caught:
        mock.connect("no-such-sandbox")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value)
    assert str(again) == str(caught.value)
    assert (again.code, again.context) == (caught.value.code, caught.value.context)


def test_an_unknown_provider_is_named_with_those_there_are() -> None:
    with pytest.raises(StacyError, match="oci"):
        Sandbox.create(provider="nope")


def test_a_failed_command_carries_its_result(mock: Engine) -> None:
    sandbox = mock.create(image="scratch")
    with pytest.raises(stacyvm.CommandFailedError) as caught:
        sandbox.exec(["false"], check=True)
    assert caught.value.result.exit_code == 1
    assert caught.value.code == "command_failed"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.result.exit_code) == (str(caught.value), 1)
    assert repr(again.result) == repr(caught.value.result)


def test_the_text_of_a_failed_command_moves_no_terminal() -> None:
    with Sandbox.create() as sandbox, pytest.raises(stacyvm.CommandFailedError) as caught:
        sandbox.commands.run("printf '\\033[2J\\007' >&2; exit 1", check=True)
    assert "\x1b" not in str(caught.value) and "\\x1b[2J" in str(caught.value)
    assert caught.value.result.stderr == "\x1b[2J\x07"
