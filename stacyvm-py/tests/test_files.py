"""Files in sandboxes of the embedded provider, and of Docker."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import stacyvm
from stacyvm import Sandbox


@pytest.fixture
def sandbox(any_sandbox: Sandbox) -> Sandbox:
    return any_sandbox


def test_what_is_written_is_read(sandbox: Sandbox) -> None:
    files = sandbox.files
    entry = files.write("/workspace/deep/er/a.txt", "ä\n", mode=0o600)
    assert (entry.type, entry.size, entry.mode) == ("file", 3, 0o600)
    assert files.read("/workspace/deep/er/a.txt") == "ä\n"
    files.append("/workspace/deep/er/a.txt", b"\xff")
    assert files.read("/workspace/deep/er/a.txt", format="bytes") == b"\xc3\xa4\n\xff"
    with pytest.raises(stacyvm.InvalidArgumentError):
        files.read("/workspace/deep/er/a.txt")


def test_large_files_go_piece_by_piece(sandbox: Sandbox) -> None:
    piece = bytes(range(256)) * 4096
    whole = hashlib.sha256(piece * 20).hexdigest()

    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield piece

    assert sandbox.files.write("/workspace/big", pieces()).size == len(piece) * 20
    read = hashlib.sha256()
    for part in sandbox.files.read("/workspace/big", format="stream"):
        read.update(part)
    assert read.hexdigest() == whole
    assert sandbox.commands.run("sha256sum < /workspace/big").stdout.split()[0] == whole
    for data in (io.BytesIO(piece * 20), bytearray(piece * 20), memoryview(piece * 20)):
        sandbox.files.write("/workspace/again", "")
        sandbox.files.write("/workspace/again", data)
        assert sandbox.files.get_info("/workspace/again").size == len(piece) * 20
    assert sandbox.commands.run("sha256sum < /workspace/again").stdout.split()[0] == whole


def test_a_source_that_breaks_leaves_the_old_file(sandbox: Sandbox) -> None:
    sandbox.files.write("/workspace/kept", "old")

    def breaks() -> Iterator[bytes]:
        yield b"new" * 1_000_000
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        sandbox.files.write("/workspace/kept", breaks())
    assert sandbox.files.read("/workspace/kept") == "old"
    assert [entry.name for entry in sandbox.files.list("/workspace")] == ["kept"]


def test_a_write_that_is_refused_says_why(sandbox: Sandbox) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(1000):
            yield b"\0" * 65536

    with pytest.raises(PermissionError):
        sandbox.files.write("/proc/version", pieces())


def test_directories(sandbox: Sandbox) -> None:
    files = sandbox.files
    files.make_dir("/workspace/a/b")
    files.make_dir("/workspace/a/b")
    files.write("/workspace/a/b/c", b"")
    files.symlink("b/c", "/workspace/a/link")
    assert [(e.name, e.type) for e in files.list("/workspace/a")] == [("b", "dir"), ("link", "link")]
    assert [e.path for e in files.list("/workspace", depth=3)] == ["a", "a/b", "a/b/c", "a/link"]
    assert files.get_info("/workspace/a/link").symlink_target == "b/c"
    assert files.get_info("/workspace/a/link", follow=True).type == "file"
    assert [e.path for e in files.glob("/workspace/**/c")] == ["/workspace/a/b/c"]
    files.rename("/workspace/a", "/workspace/z")
    assert files.exists("/workspace/z/b/c") and not files.exists("/workspace/a")
    files.chmod("/workspace/z/b/c", 0o640)
    files.remove("/workspace/z")
    with pytest.raises(FileNotFoundError):
        files.remove("/workspace/z")
    with pytest.raises(stacyvm.InvalidArgumentError):
        files.read("relative")


def test_names_that_are_no_text_come_back_as_they_were(sandbox: Sandbox) -> None:
    sandbox.files.write(b"/workspace/\xff\xfe", "x")
    (entry,) = sandbox.files.list("/workspace")
    assert entry.name == "\udcff\udcfe"
    assert sandbox.files.read("/workspace/" + entry.name) == "x"


def test_rights_are_those_of_the_user(sandbox: Sandbox) -> None:
    root = sandbox.files.with_user("0")
    root.write("/tmp/root-only", "x", mode=0o600)
    with pytest.raises(PermissionError):
        sandbox.files.read("/tmp/root-only")
    root.chown("/tmp/root-only", owner="1000")
    assert sandbox.files.read("/tmp/root-only") == "x"


def test_changes_are_seen(sandbox: Sandbox) -> None:
    watch = sandbox.files.watch_dir("/workspace")
    assert watch.get_new_events() == []
    sandbox.files.write("/workspace/new", "x")
    names = {event.name for event in [next(iter(watch))]}
    assert "new" in names
    deadline = time.monotonic() + 5
    while not watch.get_new_events() and time.monotonic() < deadline:
        sandbox.files.write("/workspace/more", "x")
    # A name is told as in a listing, in bytes too.
    sandbox.files.write(b"/workspace/no\xfftext", "x")
    told: set[str] = set()
    deadline = time.monotonic() + 5
    while "no\udcfftext" not in told and time.monotonic() < deadline:
        told |= {event.name for event in watch.get_new_events()}
    assert "no\udcfftext" in told
    watch.stop()
    assert list(watch) == []


def test_directories_go_up_and_down(sandbox: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a").write_bytes(b"\0\xff" * 1000)
    (source / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (source / "run.sh").chmod(0o755)
    assert not sandbox.files.upload(source, "/workspace/up")
    assert sandbox.commands.run("/workspace/up/run.sh").stdout == "ran\n"
    sandbox.files.download("/workspace/up", tmp_path / "down")
    assert (tmp_path / "down" / "deep" / "a").read_bytes() == b"\0\xff" * 1000
    sandbox.files.download("/workspace/up/run.sh", str(tmp_path / "one"))
    assert (tmp_path / "one").read_text().endswith("ran\n")
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
        left_out = sandbox.files.upload(source, "/workspace/again")
    assert left_out and len(left_out.names) == 1 and left_out.names[0].endswith("socket"), left_out.names
    assert left_out.more == 0


def test_a_tar_stream_goes_out_and_into_another_sandbox(any_sandbox: Sandbox) -> None:
    files = any_sandbox.files
    files.write("/workspace/tree/deep/a", b"\0\xff" * 100_000, mode=0o640)
    files.write(b"/workspace/tree/no\xfftext", "x")
    files.symlink("deep/a", "/workspace/tree/link")
    archive = files.export_tar("/workspace/tree")
    data = b"".join(archive)
    assert not archive.left_out
    assert list(archive) == []
    with tarfile.open(fileobj=io.BytesIO(data)) as told:
        assert {name.rstrip("/") for name in told.getnames()} == {
            "tree", "tree/deep", "tree/deep/a", "tree/link", "tree/no\udcfftext",
        }
    # What one reads another writes; a file object and bytes will do.
    contents = files.export_tar("/workspace/tree", contents=True)
    files.import_tar("/workspace/a", contents)
    files.import_tar("/workspace/b", io.BytesIO(data))
    files.import_tar("/workspace/c", data)
    for place in ("a", "b/tree", "c/tree"):
        assert files.read(f"/workspace/{place}/deep/a", "bytes") == b"\0\xff" * 100_000
        assert files.get_info(f"/workspace/{place}/deep/a").mode == 0o640
        assert files.get_info(f"/workspace/{place}/link").symlink_target == "deep/a"
    through = files.export_tar("/workspace/tree/link", follow=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(through))) as told:
        assert [(member.name, member.isfile()) for member in told] == [("link", True)]


def test_what_cannot_be_unpacked_is_told(sandbox: Sandbox) -> None:
    files = sandbox.files
    with pytest.raises(FileNotFoundError):
        files.export_tar("/workspace/missing").close()
    with pytest.raises(stacyvm.InvalidArgumentError):
        files.import_tar("/workspace/bad", b"no archive at all" * 100)
    with pytest.raises(stacyvm.InvalidArgumentError, match="no text"):
        files.import_tar("/workspace/bad", "no archive")
    with pytest.raises(FileNotFoundError):
        files.import_tar("/workspace/not/there", _archive({"a": b"x"}), parents=False)

    def breaks() -> Iterator[bytes]:
        yield _archive({"a": b"x" * 100_000})[:50_000]
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError, match="the source is gone"):
        files.import_tar("/workspace/half", breaks())
    assert not files.exists("/workspace/half/a")
    # Owners are kept where the user may.
    owned = _archive({"a": b"x"}, uid=1234)
    files.with_user("root").import_tar("/workspace/kept", owned, keep_owner=True)
    assert files.get_info("/workspace/kept/a").uid == 1234
    files.import_tar("/workspace/mine", owned)
    assert files.get_info("/workspace/mine/a").uid != 1234


def _archive(members: dict[str, bytes], uid: int = 0, mtime: float = 0.0) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.mtime = len(data), uid, mtime
            made.addfile(member, io.BytesIO(data))
    return into.getvalue()


def test_any_time_that_a_command_gives_a_file_is_told(sandbox: Sandbox) -> None:
    # By an archive: what is in an image may set no such time.
    for mtime, told in (
        (-1.0, datetime(1969, 12, 31, 23, 59, 59, tzinfo=timezone.utc)),
        (1e9, datetime(2001, 9, 9, 1, 46, 40, tzinfo=timezone.utc)),
        (253_402_300_800.0, datetime.max.replace(tzinfo=timezone.utc)),
    ):
        sandbox.files.import_tar("/tmp", _archive({"old": b"x"}, mtime=mtime))
        seen = sandbox.files.get_info("/tmp/old").modified_time
        stat = sandbox.commands.run("stat -c %Y /tmp/old").stdout
        # Where the disk keeps no such time, its last is told.
        assert seen == (told if float(stat) == mtime else datetime.fromtimestamp(int(stat), timezone.utc)), stat


def test_a_number_that_is_none_is_refused_by_name(sandbox: Sandbox) -> None:
    files = sandbox.files
    files.write("/workspace/f", "x")
    calls: dict[str, Callable[[], object]] = {
        "offset": lambda: files.read("/workspace/f", "bytes", offset=-1),
        "length": lambda: files.read("/workspace/f", "bytes", length=-(2**70)),
        "mode": lambda: files.write("/workspace/f", "y", mode=2**70),
        "depth": lambda: files.list("/workspace", depth=-1),
        "format": lambda: files.read("/workspace/f", "json"),  # type: ignore[call-overload]
        "max_output": lambda: sandbox.commands.run("true", max_output=-1),
        "rows": lambda: sandbox.pty.create(rows=70_000),
        "port": lambda: sandbox.get_host(-1),
    }
    for field, call in calls.items():
        with pytest.raises(stacyvm.InvalidArgumentError) as refused:
            call()
        assert refused.value.context["field"] == field, refused.value
    with pytest.raises(TypeError):
        files.read("/workspace/f", "bytes", offset="1")  # type: ignore[call-overload]
    assert files.read("/workspace/f") == "x"


def test_an_archive_that_is_let_go_of_ends(sandbox: Sandbox) -> None:
    sandbox.files.write("/workspace/big", b"x" * (32 << 20))
    archive = sandbox.files.export_tar("/workspace/big")
    assert next(iter(archive))
    archive.close()
    # It has not ended.
    with pytest.raises(stacyvm.ConflictError, match="closed"):
        list(archive)
    with sandbox.files.export_tar("/workspace/big") as archive:
        assert next(iter(archive))
    with pytest.raises(stacyvm.ConflictError, match="closed"):
        list(archive)


def test_a_file_that_would_not_wait_is_told(sandbox: Sandbox) -> None:
    readable, writable = os.pipe()
    os.write(writable, b"first")
    os.set_blocking(readable, False)
    with os.fdopen(readable, "rb", buffering=0) as file, pytest.raises(BlockingIOError):
        sandbox.files.write("/workspace/half", file)
    os.close(writable)
    assert not sandbox.files.exists("/workspace/half")


def test_copies_within_a_sandbox_do_not_wait_for_each_other(sandbox: Sandbox) -> None:
    files = sandbox.files
    files.write("/workspace/from/a", b"x" * (6 << 20))

    def copied(number: int) -> None:
        files.import_tar(f"/workspace/to-{number}", files.export_tar("/workspace/from"))

    with ThreadPoolExecutor(60) as pool:
        for copy in [pool.submit(copied, number) for number in range(60)]:
            copy.result(timeout=120)
    assert sandbox.commands.run("cat /workspace/to-*/from/a | wc -c").stdout.strip() == str(60 * (6 << 20))


def test_a_part_of_a_file_is_read(sandbox: Sandbox) -> None:
    sandbox.files.write("/workspace/digits", "0123456789" * 1000)
    assert sandbox.files.read("/workspace/digits", "bytes", offset=4, length=3) == b"456"
    assert sandbox.files.read("/workspace/digits", "bytes", offset=9_998) == b"89"
    assert sandbox.files.read("/workspace/digits", "bytes", offset=20_000) == b""
    assert b"".join(sandbox.files.read("/workspace/digits", "stream", offset=9_997, length=2)) == b"78"
    with pytest.raises(stacyvm.InvalidArgumentError, match="bytes"):
        sandbox.files.read("/workspace/digits", offset=1)  # type: ignore[call-overload]


def test_attributes_are_set_of_everything_below(sandbox: Sandbox) -> None:
    files = sandbox.files
    for name in ("a", "deep/b"):
        files.write(f"/workspace/tree/{name}", "x", mode=0o644)
    files.chmod("/workspace/tree", 0o700)
    assert files.get_info("/workspace/tree/deep/b").mode == 0o644
    files.chmod("/workspace/tree", 0o750, recursive=True)
    assert {e.mode for e in files.list("/workspace/tree", depth=3)} == {0o750}
    time = datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2)))
    files.set_modified_time("/workspace/tree/deep/b", time)
    assert files.get_info("/workspace/tree/deep/b").modified_time == time
    assert files.get_info("/workspace/tree/a").modified_time != time
    before_all = datetime(1969, 12, 31, 23, 59, 58, tzinfo=timezone.utc)
    files.set_modified_time("/workspace/tree", before_all, recursive=True)
    assert {e.modified_time for e in files.list("/workspace/tree", depth=3)} == {before_all}
    for bad in (datetime(2001, 2, 3), None, 5.0):
        with pytest.raises(stacyvm.InvalidArgumentError) as refused:
            files.set_modified_time("/workspace/tree", bad)  # type: ignore[arg-type]
        assert refused.value.context["field"] == "time"
    as_root = files.with_user("root")
    as_root.chown("/workspace/tree", "root", "root", recursive=True)
    assert {(e.uid, e.gid) for e in as_root.list("/workspace/tree", depth=3)} == {(0, 0)}
