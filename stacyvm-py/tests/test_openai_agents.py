# pyright: reportPrivateUsage=false
"""Sandboxes of the OpenAI Agents SDK, under its runner too."""

from __future__ import annotations

import io
import json
import tarfile
import traceback
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, cast

import pytest
from agents import RunConfig, Runner
from agents.items import ToolCallOutputItem, TResponseOutputItem
from agents.result import RunResult
from agents.sandbox import (
    LocalSnapshotSpec,
    Manifest,
    SandboxAgent,
    SandboxPathGrant,
    SandboxRunConfig,
)
from agents.sandbox.entries import File
from agents.sandbox.errors import (
    ConfigurationError,
    ExecTimeoutError,
    ExecTransportError,
    ExposedPortUnavailableError,
    InvalidManifestPathError,
    PtySessionNotFoundError,
    SandboxError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
    WorkspaceRootNotFoundError,
    WorkspaceStartError,
    WorkspaceWriteTypeError,
)
from agents.sandbox.manifest import Environment
from agents.sandbox.session import SandboxSession, SandboxSessionState
from agents.testing import ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseCustomToolCall

from stacyvm import AsyncSandbox, InvalidArgumentError, UnsupportedError
from stacyvm.openai_agents import (
    StacySandboxClient,
    StacySandboxClientOptions,
    StacySandboxSessionState,
    _session,
)
from stacyvm.openai_agents._process import KEPT

SECRET = "s3cret-of-the-manifest"


@asynccontextmanager
async def session_of(manifest: Manifest | None = None) -> AsyncGenerator[SandboxSession, None]:
    client = StacySandboxClient()
    session = await client.create(manifest=manifest)
    try:
        await session.start()
        yield session
    finally:
        await client.delete(session)


async def sandbox_of(session: SandboxSession) -> AsyncSandbox:
    state = session.state
    assert isinstance(state, StacySandboxSessionState)
    return await AsyncSandbox.connect(state.sandbox_id)


async def read(session: SandboxSession, path: str) -> bytes:
    with await session.read(Path(path)) as file:
        data = file.read()
    assert isinstance(data, bytes)
    return data


async def write(session: SandboxSession, path: str, data: bytes) -> None:
    await session.write(Path(path), io.BytesIO(data))


async def sleeps(session: SandboxSession) -> list[str]:
    processes = await (await sandbox_of(session)).processes()
    return [" ".join(p.argv) for p in processes if p.argv[:1] == ["sleep"]]


def shell(cmd: str, call_id: str, wait: int = 10_000) -> list[TResponseOutputItem]:
    arguments = {"cmd": cmd, "yield_time_ms": wait}
    return [function_call("exec_command", arguments, call_id=call_id)]


def patch(body: str, call_id: str) -> list[TResponseOutputItem]:
    text = f"*** Begin Patch\n{body}*** End Patch\n"
    return [
        ResponseCustomToolCall(
            id=call_id, type="custom_tool_call", name="apply_patch", call_id=call_id, input=text
        )
    ]


def told(result: RunResult) -> list[str]:
    return [str(i.output) for i in result.new_items if isinstance(i, ToolCallOutputItem)]


async def labelled(label: str) -> list[str]:
    return [info.id async for info in AsyncSandbox.list(metadata={"of": label})]


async def test_an_ai_agent_works_in_a_sandbox_and_goes_on_in_another(tmp_path: Path) -> None:
    client = StacySandboxClient()
    manifest = Manifest(
        entries={"sum.py": File(content=b"print(1 + 1)\n")},
        environment=Environment(value={"X": "7"}),
    )

    def agent(*steps: list[TResponseOutputItem]) -> SandboxAgent[None]:
        model = ScriptedModel([*steps, [assistant_message("done")]])
        return SandboxAgent(
            name="coder", instructions="Work.", model=model, default_manifest=manifest
        )

    def config(state: SandboxSessionState | None = None) -> RunConfig:
        options = StacySandboxClientOptions(memory_mib=256, metadata={"of": "agents"})
        sandbox = SandboxRunConfig(
            client=client,
            options=options,
            session_state=state,
            snapshot=LocalSnapshotSpec(base_path=tmp_path),
        )
        return RunConfig(sandbox=sandbox, tracing_disabled=True)

    first = await Runner.run(
        agent(
            shell("pwd; id -un; echo $X; python3 sum.py", "a"),
            patch("*** Update File: sum.py\n@@\n-print(1 + 1)\n+print(40 + 2)\n", "b"),
            patch("*** Add File: new/notes.md\n+one\n", "c"),
            shell("python3 sum.py; cat new/notes.md; exit 3", "d"),
            shell("sleep 60", "e", wait=250),
        ),
        "go",
        run_config=config(),
    )
    assert first.final_output == "done"
    outputs = told(first)
    assert "/workspace\nuser\n7\n2\n" in outputs[0] and "exited with code 0" in outputs[0]
    assert "42\none" in outputs[3] and "exited with code 3" in outputs[3]
    assert "Process running with session ID" in outputs[4]
    assert await labelled("agents") == []

    kept = first.to_state()._sandbox
    assert kept is not None
    payload = json.loads(json.dumps(kept["session_state"]))
    second = await Runner.run(
        agent(shell("cat sum.py new/notes.md", "f")),
        "go on",
        run_config=config(client.deserialize_session_state(payload)),
    )
    assert "print(40 + 2)\none" in told(second)[0]
    assert await labelled("agents") == []


async def test_ends_are_told_as_a_shell_does_and_none_is_made_up() -> None:
    async with session_of(Manifest(root="/workspace/project")) as session:
        done = await session.exec("pwd; echo err >&2; exit 5")
        assert (done.stdout, done.stderr) == (b"/workspace/project\n", b"err\n")
        assert done.exit_code == 5
        assert (await session.exec("printf", "\\377", shell=False)).stdout == b"\xff"
        killed = await session.exec("kill -9 $$")
        assert killed.exit_code == 137 and b"signal 9" in killed.stderr
        assert (await session.exec("no-such-command", shell=False)).exit_code == 127
        assert (await session.exec("/etc/passwd", shell=False)).exit_code == 126
        assert (await session.exec("id", "-un", shell=False, user="root")).stdout == b"root\n"
        with pytest.raises(ExecTransportError, match="no such user"):
            await session.exec("true", user="nobody-of-here")
        with pytest.raises(ExecTimeoutError):
            await session.exec("setsid sleep 4718 & sleep 4719", timeout=0.3)
        with pytest.raises(ExecTimeoutError):
            await session.exec("sleep 4718", timeout=0)
        assert await sleeps(session) == []
        await session.exec("rm -r /workspace/project")
        with pytest.raises(WorkspaceRootNotFoundError):
            await session.exec("true")
        await (await sandbox_of(session)).kill()
        assert not await session.running()
        with pytest.raises(ExecTransportError):
            await session.exec("true")


async def test_the_environment_of_a_manifest_is_told_to_commands_alone() -> None:
    manifest = Manifest(environment=Environment(value={"TOKEN": SECRET}))
    async with session_of(manifest) as session:
        assert (await session.exec("echo $TOKEN")).stdout.decode() == f"{SECRET}\n"
        sandbox = await sandbox_of(session)
        started = await session.pty_exec_start("echo $TOKEN; sleep 60", tty=True, yield_time_s=0.3)
        assert SECRET in started.output.decode()
        assert SECRET not in str([p.argv for p in await sandbox.processes()])
        assert SECRET not in str([c.argv for c in await sandbox.commands.list()])
        info = await sandbox.get_info()
        assert SECRET not in f"{info.metadata} {info.env_names} {info!r}"

        session.state.manifest.environment.value["BAD"] = f"{SECRET}\0"
        errors: list[SandboxError] = []
        for call in (session.exec("true"), session.pty_exec_start("true"), read(session, "x")):
            with pytest.raises(SandboxError) as raised:
                await call
            errors.append(raised.value)
        for error in errors:
            whole = "".join(traceback.format_exception(error))
            assert SECRET not in f"{whole} {error.context} {error!r} {error.cause!r}"
            assert "env.BAD" in str(error.context)


async def test_files_of_the_workspace_are_read_and_written_and_no_others() -> None:
    async with session_of() as session:
        await write(session, "a/b.sh", b"#!/bin/sh\necho hi\n")
        await session.exec("chmod 755 a/b.sh; ln -s /etc/passwd out; ln -s a/b.sh in")
        await write(session, "in", b"#!/bin/sh\necho ho\n")
        assert (await session.exec("./a/b.sh")).stdout == b"ho\n"
        assert await read(session, "/workspace/in") == b"#!/bin/sh\necho ho\n"
        assert await session.read_bounded(Path("a/b.sh"), max_bytes=5) == b"#!/bi"
        assert sorted(e.path for e in await session.ls("a")) == ["/workspace/a/b.sh"]
        for path in ("out", "/etc/passwd", "../etc/passwd"):
            with pytest.raises(InvalidManifestPathError):
                await read(session, path)
            with pytest.raises(InvalidManifestPathError):
                await write(session, path, b"")
        for missing in (session.read(Path("c")), session.read_bounded(Path("c"), max_bytes=1)):
            with pytest.raises(WorkspaceReadNotFoundError):
                await missing
        with pytest.raises(WorkspaceArchiveReadError):
            await read(session, "a")
        with pytest.raises(WorkspaceArchiveWriteError):
            await write(session, "a", b"")
        with pytest.raises(WorkspaceWriteTypeError):
            await session.write(Path("d"), io.StringIO("text"))

        await session.write(Path("of-root"), io.BytesIO(b"x"), user="root")
        done = await session.exec("stat -c %U of-root a/b.sh; chmod 600 of-root", user="root")
        assert done.stdout == b"root\nuser\n"
        with pytest.raises(WorkspaceArchiveReadError):
            await read(session, "of-root")
        with await session.read(Path("of-root"), user="root") as file:
            assert file.read() == b"x"


async def test_a_workspace_is_restored_as_it_was(tmp_path: Path) -> None:
    client = StacySandboxClient()
    manifest = Manifest(
        entries={"f*": File(content=b"again", ephemeral=True), "fa": File(content=b"kept")}
    )
    options = StacySandboxClientOptions(metadata={"of": "snapshots"})
    session = await client.create(
        manifest=manifest, snapshot=LocalSnapshotSpec(base_path=tmp_path), options=options
    )
    async with session:
        done = await session.exec(
            "mkdir -m 777 bin; echo 'echo ran' > bin/run; chmod 751 bin/run; ln bin/run bin/same;"
            "ln -s /usr/bin/env bin/env; ln -s run bin/link; printf x > 'f*'; touch -- '-odd name'"
        )
        assert done.ok(), done.stderr
    assert await labelled("snapshots") == []
    assert not await session.running()
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as tar:
        assert "./f*" not in tar.getnames() and "./fa" in tar.getnames()

    state = client.deserialize_session_state(client.serialize_session_state(session.state))
    again = await client.resume(state)
    async with again:
        assert (await sandbox_of(again)).id != (await sandbox_of(session)).id
        done = await again.exec("stat -c '%a %F %N' bin bin/run bin/same bin/env bin/link -- '-odd name'")
        assert done.stdout.decode().splitlines() == [
            "777 directory 'bin'",
            "751 regular file 'bin/run'",
            "751 regular file 'bin/same'",
            "777 symbolic link 'bin/env' -> '/usr/bin/env'",
            "777 symbolic link 'bin/link' -> 'run'",
            "644 regular empty file '-odd name'",
        ]
        assert (await read(again, "fa"), await read(again, "f*")) == (b"kept", b"again")
        assert (await again.exec("ls /tmp/stacyvm-*")).exit_code != 0
    assert await labelled("snapshots") == []
    await client.delete(again)


async def test_a_session_whose_process_went_is_found_again() -> None:
    client = StacySandboxClient()
    session = await client.create(manifest=Manifest(entries={"m": File(content=b"made")}))
    await session.start()
    await write(session, "a", b"1")
    state = client.deserialize_session_state(client.serialize_session_state(session.state))
    await (await sandbox_of(session)).pause()
    again = await client.resume(state)
    async with again:
        assert (await sandbox_of(again)).id == (await sandbox_of(session)).id
        assert await read(again, "a") == b"1"
    assert not await session.running()
    first = await sandbox_of(session)
    async with await client.resume(state) as third:
        assert (await sandbox_of(third)).id != first.id
        assert await read(third, "m") == b"made"
        with pytest.raises(WorkspaceReadNotFoundError):
            await read(third, "a")


async def test_files_that_change_meanwhile_are_archived_as_they_were_read() -> None:
    path = "/workspace/tools:/usr/bin:/bin"
    async with session_of(Manifest(environment=Environment(value={"PATH": path}))) as session:
        # What GNU's tar does then: 1 for files that differ, 2 for what it cannot read.
        await write(session, "code", b"1")
        tool = b"#!/bin/sh\n/usr/bin/tar \"$@\" || exit\nexit $(cat /workspace/code)\n"
        await write(session, "tools/tar", tool)
        await session.exec("chmod +x tools/tar")
        archive = await session.persist_workspace()
        with tarfile.open(fileobj=cast("IO[bytes]", archive)) as tar, archive:
            assert "./code" in tar.getnames()
        await write(session, "code", b"2")
        with pytest.raises(WorkspaceArchiveReadError):
            await session.persist_workspace()


async def test_an_archive_that_leads_out_is_refused() -> None:
    async with session_of() as session:
        await write(session, "a", b"1")
        for name, kind, target in (
            ("../x", tarfile.REGTYPE, ""),
            ("/tmp/x", tarfile.REGTYPE, ""),
            ("b", tarfile.LNKTYPE, "/etc/passwd"),
            ("b", tarfile.CHRTYPE, ""),
        ):
            data = io.BytesIO()
            with tarfile.open(fileobj=data, mode="w") as tar:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, target
                tar.addfile(member)
            data.seek(0)
            with pytest.raises(WorkspaceArchiveWriteError):
                await session.hydrate_workspace(data)
        with pytest.raises(WorkspaceArchiveWriteError):
            await session.hydrate_workspace(io.BytesIO(b"no archive"))
        assert (await session.exec("ls -A . /tmp")).stdout.split() == [
            b".:", b"a", b"/tmp:", b"openai-agents"
        ]


async def test_an_archive_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session, "ARCHIVE_MAX", 1 << 20)
    async with session_of() as session:
        (await session.persist_workspace()).close()
        await session.exec("truncate -s 2M a")
        with pytest.raises(WorkspaceArchiveReadError) as raised:
            await session.persist_workspace()
        assert raised.value.context["reason"] == "too_large"


async def test_processes_go_on_between_calls() -> None:
    async with session_of() as session:
        started = await session.pty_exec_start(
            "stty -echo; while read line; do echo got:$line; done; exit 4",
            tty=True,
            yield_time_s=0.25,
        )
        number = started.process_id
        assert number is not None and started.exit_code is None
        typed = await session.pty_write_stdin(session_id=number, chars="hey\n")
        assert typed.output == b"got:hey\r\n" and typed.process_id == number
        ended = await session.pty_write_stdin(session_id=number, chars="\x04", yield_time_s=20)
        assert (ended.process_id, ended.exit_code) == (None, 4)
        with pytest.raises(PtySessionNotFoundError):
            await session.pty_write_stdin(session_id=number, chars="")

        shown = await session.pty_exec_start("tty; echo err >&2; kill $$", yield_time_s=20)
        assert shown.output.startswith(b"not a tty\nerr\n") and b"signal 15" in shown.output
        assert (shown.process_id, shown.exit_code) == (None, 143)

        line = "stty -echo; yes | head -c 3000000 | tr '\\n' y; read x; echo later$x; sleep 4720"
        loud = await session.pty_exec_start(line, tty=True, yield_time_s=5)
        assert loud.process_id is not None
        assert KEPT <= len(loud.output) < KEPT + 100
        assert f"[{3_000_000 - KEPT} bytes of output were not kept]".encode() in loud.output
        later = await session.pty_write_stdin(session_id=loud.process_id, chars="x\n")
        assert later.output == b"laterx\r\n"
        quiet = await session.pty_exec_start("sleep 4723", yield_time_s=0.3)
        assert quiet.process_id is not None
        with pytest.raises(RuntimeError, match="stdin is not available for this process"):
            await session.pty_write_stdin(session_id=quiet.process_id, chars="x")
        await session.pty_exec_start("setsid sleep 4721 & sleep 4722", tty=True, yield_time_s=0.3)
        assert len(await sleeps(session)) == 4
        await session.pty_terminate_all()
        assert await sleeps(session) == []


async def test_what_a_provider_does_not_have_is_refused_before_anything_is_made() -> None:
    client = StacySandboxClient()
    ports = StacySandboxClientOptions(exposed_ports=(8080,))
    with pytest.raises(WorkspaceStartError, match="publish_ports") as refused:
        await client.create(options=ports)
    assert isinstance(refused.value.cause, UnsupportedError)
    unknown = StacySandboxClientOptions.model_validate({"type": "stacyvm", "memory": 1})
    with pytest.raises(WorkspaceStartError, match="memory") as refused:
        await client.create(options=unknown)
    assert isinstance(refused.value.cause, InvalidArgumentError)
    grant = SandboxPathGrant(path="/data", host_path="/srv")
    with pytest.raises(ConfigurationError, match="mounts"):
        await client.create(manifest=Manifest(extra_path_grants=(grant,)))
    async with session_of() as session:
        with pytest.raises(ExposedPortUnavailableError, match="not configured"):
            await session.resolve_exposed_port(8080)
        session.state.exposed_ports = (8080,)
        with pytest.raises(ExposedPortUnavailableError) as unavailable:
            await session.resolve_exposed_port(8080)
        assert isinstance(unavailable.value.cause, UnsupportedError)
    session = await client.create(manifest=Manifest(root="/no-place"))
    with pytest.raises(WorkspaceStartError, match="read-only"):
        await session.start()
    await client.delete(session)
    await client.delete(session)


async def test_ports_and_snapshots_of_a_docker_engine(docker_image: str, tmp_path: Path) -> None:
    client = StacySandboxClient()
    options = StacySandboxClientOptions(
        provider="docker", image=docker_image, network="full", exposed_ports=(3000,)
    )
    snapshot = LocalSnapshotSpec(base_path=tmp_path)
    session = await client.create(snapshot=snapshot, options=options)
    async with session:
        at = await session.resolve_exposed_port(3000)
        assert at.url_for("http") == f"{await (await sandbox_of(session)).get_url(3000)}/"
        assert at.host == "127.0.0.1" and not at.tls
        assert (await session.exec("echo x > a; chmod 750 a; ln -s a b")).ok()
    async with await client.resume(session.state) as again:
        done = await again.exec("stat -c %a a; readlink b; cat b")
        assert done.stdout == b"750\na\nx\n"


def test_options_survive_json() -> None:
    options = StacySandboxClientOptions(exposed_ports=(80,), image="host", memory_mib=64)
    read_back = StacySandboxClientOptions.parse(json.loads(options.model_dump_json()))
    assert read_back == options
    assert read_back.model_extra == {"image": "host", "memory_mib": 64}
