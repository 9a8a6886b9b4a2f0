"""The files of a sandbox, in threads. Made from `_async_files.py` by scripts/python-sync.py."""

from __future__ import annotations

import builtins
import errno
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Literal, cast, overload

from ._call import waited
from ._errors import invalid
from ._native import EntryInfo, LeftOut, WatchEvent
from ._native import Reader as NativeReader
from ._native import Sandbox as NativeSandbox
from ._native import Watch as NativeWatch
from ._native import Writer as NativeWriter

if TYPE_CHECKING:
    from os import PathLike

    from ._types import Data, Path

PIECE = 1 << 20
"""Bytes of a file object that are sent at once."""


class Files:
    """The files of a sandbox, with the rights of its default user or of another one."""

    def __init__(self, native: NativeSandbox, user: str | None = None) -> None:
        self._sandbox = native
        self._native = native.files(user)

    def with_user(self, user: str) -> Files:
        """The same files with the rights of this user."""
        return Files(self._sandbox, user)

    @overload
    def read(self, path: Path, format: Literal["text"] = "text") -> str: ...

    @overload
    def read(
        self, path: Path, format: Literal["bytes"], *, offset: int = 0, length: int | None = None
    ) -> bytes: ...

    @overload
    def read(
        self, path: Path, format: Literal["stream"], *, offset: int = 0, length: int | None = None
    ) -> Iterator[bytes]: ...

    def read(
        self,
        path: Path,
        format: Literal["text", "bytes", "stream"] = "text",
        *,
        offset: int = 0,
        length: int | None = None,
    ) -> str | bytes | Iterator[bytes]:
        """Reads a file: UTF-8 text, bytes, or bytes piece by piece. Of bytes a part can be
        had: from `offset` on, `length` of them at most."""
        if format not in ("text", "bytes", "stream"):
            raise invalid("format", "text, bytes or stream", "ask for one of them")
        if format == "bytes":
            return waited(self._native.read(path, offset, length))
        if format == "stream":
            return _pieces(waited(self._native.open(path, offset, length)))
        if offset != 0 or length is not None:
            raise invalid(
                "offset" if offset != 0 else "length",
                "none for a text, as a part could begin within a character",
                "read it with the format `bytes` or `stream`",
            )
        return waited(self._native.read_text(path))

    def write(
        self, path: Path, data: Data | Iterable[bytes], *, mode: int | None = None
    ) -> EntryInfo:
        """Writes a file in one step, and the directories above it where they are missing:
        readers see the old file or the new one. `data` is text, bytes, a file object, or
        anything that gives bytes piece by piece."""
        if isinstance(data, (str, bytes)):
            return waited(self._native.write(path, data, mode))
        written = _written(waited(self._native.create(path, mode)), data)
        return cast("EntryInfo", written)

    def append(self, path: Path, data: str | bytes) -> EntryInfo:
        """Adds to the end of a file, or makes it."""
        return waited(self._native.append(path, data))

    def list(self, path: Path, depth: int = 1) -> builtins.list[EntryInfo]:
        """Lists a directory in the order of names, so many levels deep."""
        return waited(self._native.entries(path, depth))

    def glob(self, pattern: Path) -> builtins.list[EntryInfo]:
        """Finds paths by an absolute shell pattern (`*`, `?`, `[..]`, `**`)."""
        return waited(self._native.glob(pattern))

    def exists(self, path: Path) -> bool:
        """Whether there is something at a path."""
        return waited(self._native.exists(path))

    def get_info(self, path: Path, *, follow: bool = False) -> EntryInfo:
        """Describes a path; a symbolic link itself unless it is to be followed."""
        return waited(self._native.info(path, follow))

    def make_dir(self, path: Path) -> None:
        """Makes a directory and the missing ones above it. One that is there is success."""
        waited(self._native.make_dir(path))

    def rename(self, old_path: Path, new_path: Path) -> None:
        """Moves a path and replaces a file there."""
        waited(self._native.rename(old_path, new_path))

    def remove(self, path: Path) -> None:
        """Removes a file, or a directory with what is in it."""
        waited(self._native.remove(path))

    def chmod(self, path: Path, mode: int, *, recursive: bool = False) -> None:
        """Sets permission bits, of everything below as well if `recursive`."""
        waited(self._native.set_attributes(path, mode=mode, recursive=recursive))

    def chown(
        self,
        path: Path,
        owner: str | None = None,
        group: str | None = None,
        *,
        recursive: bool = False,
    ) -> None:
        """Sets owner and group, by name or number, of everything below as well if
        `recursive`."""
        change = self._native.set_attributes(path, owner=owner, group=group, recursive=recursive)
        waited(change)

    def set_modified_time(
        self, path: Path, time: datetime, *, recursive: bool = False
    ) -> None:
        """Sets when a path was last changed, of everything below as well if `recursive`. `time`
        has a time zone. A symbolic link is followed; one that is met below is itself meant."""
        if not isinstance(time, datetime) or time.utcoffset() is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise invalid("time", "a datetime with a time zone", "make it with `tz=timezone.utc`")
        change = self._native.set_attributes(path, modified=time, recursive=recursive)
        waited(change)

    def symlink(self, target: Path, path: Path) -> None:
        """Makes a symbolic link at `path` that says `target`."""
        waited(self._native.symlink(target, path))

    def watch_dir(self, path: Path, *, recursive: bool = False) -> WatchHandle:
        """Reports changes of a directory. Every change after the return is seen."""
        return WatchHandle(waited(self._native.watch(path, recursive)))

    def upload(self, local: str | PathLike[str], path: Path) -> LeftOut:
        """Copies a file or directory of the host into the sandbox, as `docker cp` does.
        Gives the sockets and devices that are left out, by their names in the directory."""
        return waited(self._native.upload(local, path))

    def download(self, path: Path, local: str | PathLike[str]) -> LeftOut:
        """Copies a file or directory of the sandbox to the host. Gives what is left out, as
        `upload` does."""
        return waited(self._native.download(path, local))

    def export_tar(
        self, path: Path, *, contents: bool = False, follow: bool = False
    ) -> Archive:
        """Sends a file or directory as a tar stream: under its own name, or only what is in
        the directory if `contents`. A symbolic link given as `path` is followed if `follow`."""
        return Archive(waited(self._native.export_tar(path, contents, follow)))

    def import_tar(
        self,
        path: Path,
        data: Data | Iterable[bytes],
        *,
        parents: bool = True,
        keep_owner: bool = False,
    ) -> None:
        """Unpacks a tar stream below a directory, which is made if it is missing and `parents`
        is true. Its files belong to the user, or to whom the archive names if `keep_owner`,
        which only root may have. Set-id bits are not kept. `data` is bytes, a file object, what
        `export_tar` gives, or anything that gives bytes piece by piece. Where it fails, the files
        that were unpacked by then stay, each of them whole."""
        if isinstance(data, str):
            raise invalid("data", "bytes, or what gives bytes", "an archive is no text")
        _written(waited(self._native.import_tar(path, parents, keep_owner)), data)


def _pieces(reader: NativeReader) -> Iterator[bytes]:
    while True:
        piece = waited(reader.next())
        if piece is None:
            return
        yield piece


def _pieces_of(data: object) -> Iterator[bytes]:
    if isinstance(data, (bytes, bytearray, memoryview)):
        yield bytes(cast("bytearray", data))
        return
    read = getattr(data, "read", None)
    if read is not None:
        while True:
            piece = read(PIECE)
            if piece is None:
                raise BlockingIOError(errno.EAGAIN, "the file has nothing yet, and would not wait")
            if not piece:
                return
            yield piece
    elif isinstance(data, Iterable):
        for piece in cast("Iterable[bytes]", data):
            yield piece
    else:
        for piece in cast("Iterable[bytes]", data):
            yield piece


def _written(writer: NativeWriter, data: object) -> EntryInfo | None:
    try:
        for piece in _pieces_of(data):
            if not waited(writer.write(piece)):
                break
    except BaseException:
        waited(writer.abandon())
        raise
    finally:
        # The rest of it is for nobody, and it has a place in its sandbox.
        if isinstance(data, Archive):
            data.close()
    return waited(writer.finish())


class Archive:
    """A file or directory of a sandbox as a tar stream. Iterating gives its bytes, once.

    What is not read to its end is closed, best by a block: each sandbox sends 40 at once.
    """

    def __init__(self, native: NativeReader) -> None:
        self._native = native

    def __iter__(self) -> Iterator[bytes]:
        return _pieces(self._native)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def left_out(self) -> LeftOut:
        """Sockets and devices that it does not hold, by their names in it: all of them once it
        was read to its end."""
        return self._native.left_out()

    def close(self) -> None:
        """Lets go of the rest. Whoever reads on is told that it is closed."""
        waited(self._native.close())


class WatchHandle:
    """A watch on a directory. Iterating gives changes as they come."""

    def __init__(self, native: NativeWatch) -> None:
        self._native = native

    def __iter__(self) -> Iterator[WatchEvent]:
        while True:
            event = waited(self._native.next())
            if event is None:
                return
            yield event

    def get_new_events(self) -> builtins.list[WatchEvent]:
        """The changes that came since the last call."""
        return waited(self._native.take())

    def stop(self) -> None:
        """Ends the watch."""
        waited(self._native.stop())
