# pyright: reportPrivateUsage=false
"""Files, in threads. Made from `_async_files.py` by scripts/python-sync.py."""

from __future__ import annotations

import builtins
import stat
from collections.abc import Iterable, Sequence
from posixpath import basename, join
from types import TracebackType
from typing import Literal, cast, overload

from .._sync_files import Files as Files
from .._call import waited
from .._errors import NotFoundError, StacyError
from .._native import EntryInfo as Entry
from .._native import Reader as NativeReader
from .._native import WatchEvent
from .._types import Data
from ._sync_commands import Inside
from ._errors import InvalidArgumentException, NotSupportedException, told
from ._handles import WatchHandle
from ._types import (
    EntryInfo,
    FilesystemEvent,
    FilesystemEventType,
    FileType,
    Username,
    WriteData,
    WriteEntry,
    WriteInfo,
)

TYPES = {"file": FileType.FILE, "dir": FileType.DIR, "link": FileType.SYMLINK}
KINDS = {
    "created": FilesystemEventType.CREATE,
    "modified": FilesystemEventType.WRITE,
    "removed": FilesystemEventType.REMOVE,
    "attributes": FilesystemEventType.CHMOD,
}
MARKS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK}


def entry_of(entry: Entry, path: str) -> EntryInfo:
    """A file as E2B describes it."""
    return EntryInfo(
        name=entry.name,
        type=TYPES.get(entry.type),
        path=path,
        size=entry.size,
        mode=entry.mode,
        permissions=stat.filemode(MARKS.get(entry.type, 0) | entry.mode),
        owner=entry.owner or str(entry.uid),
        group=entry.group or str(entry.gid),
        modified_time=entry.modified_time,
        symlink_target=entry.symlink_target,
    )


class FileStreamReader:
    """A file that is read piece by piece."""

    def __init__(self, native: NativeReader) -> None:
        self._native: NativeReader | None = native

    def __iter__(self) -> FileStreamReader:
        return self

    def __next__(self) -> bytes:
        if self._native is None:
            raise StopIteration
        with told():
            piece = waited(self._native.next())
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Reads no more."""
        self._native = None

    def __enter__(self) -> FileStreamReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Filesystem:
    """The files of a sandbox. Paths that do not begin with `/` begin in the user's home."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside

    def _as(self, user: Username | None) -> Files:
        files, name = self._inside.machine.files, self._inside.user(user)
        return files if name is None else files.with_user(name)

    @overload
    def read(
        self, path: str, format: Literal["text"] = "text", user: Username | None = None,
        request_timeout: float | None = None, gzip: bool = False,
    ) -> str: ...

    @overload
    def read(
        self, path: str, format: Literal["bytes"], user: Username | None = None,
        request_timeout: float | None = None, gzip: bool = False,
    ) -> bytearray: ...

    @overload
    def read(
        self, path: str, format: Literal["stream"], user: Username | None = None,
        request_timeout: float | None = None, gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> FileStreamReader: ...

    def read(
        self, path: str, format: Literal["text", "bytes", "stream"] = "text",
        user: Username | None = None, request_timeout: float | None = None, gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> str | bytearray | FileStreamReader:
        """Reads a file: text, where what is no UTF-8 is replaced, bytes, or piece by piece."""
        with told():
            where, files = self._inside.path(path, user), self._as(user)
            if format == "stream":
                return FileStreamReader(waited(files._native.open(where)))
            data = files.read(where, "bytes")
            return bytearray(data) if format == "bytes" else data.decode("utf-8", "replace")

    def write(
        self,
        path: str,
        data: WriteData | Iterable[bytes],
        user: Username | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        use_octet_stream: bool | None = None,
        metadata: dict[str, str] | None = None,
    ) -> WriteInfo:
        """Writes a file, and makes the directories above it."""
        if metadata:
            raise NotSupportedException(
                "metadata of files is not kept; write it to a file beside, or use labels "
                "of the sandbox: `Sandbox.create(metadata=...)`"
            )
        given = cast("Data", data)
        with told():
            where = self._inside.path(path, user)
            self._as(user).write(where, given)
            return WriteInfo(basename(where), FileType.FILE, where)

    def write_files(
        self,
        files: Sequence[WriteEntry],
        user: Username | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        use_octet_stream: bool | None = None,
        metadata: dict[str, str] | None = None,
    ) -> builtins.list[WriteInfo]:
        """Writes files, one after the other."""
        return [
            self.write(file["path"], file["data"], user, metadata=metadata)
            for file in files
        ]

    def list(
        self, path: str, depth: int | None = 1, user: Username | None = None,
        request_timeout: float | None = None,
    ) -> builtins.list[EntryInfo]:
        """Lists a directory, so many levels deep."""
        if depth is not None and depth < 1:
            raise InvalidArgumentException("depth should be at least 1")
        with told():
            where = self._inside.path(path, user)
            entries = self._as(user).list(where, depth or 1)
            return [
                entry_of(entry, join(where, entry.path))
                for entry in entries
                if entry.type in TYPES
            ]

    def exists(
        self, path: str, user: Username | None = None, request_timeout: float | None = None
    ) -> bool:
        """Whether there is something at a path."""
        with told():
            return self._as(user).exists(self._inside.path(path, user))

    def get_info(
        self, path: str, user: Username | None = None, request_timeout: float | None = None
    ) -> EntryInfo:
        """Describes a path."""
        with told():
            where = self._inside.path(path, user)
            return entry_of(self._as(user).get_info(where), where)

    def remove(
        self, path: str, user: Username | None = None, request_timeout: float | None = None
    ) -> None:
        """Removes a file, or a directory with what is in it. One that is not there is
        success."""
        try:
            with told():
                self._as(user).remove(self._inside.path(path, user))
        except FileNotFoundError:
            pass

    def rename(
        self, old_path: str, new_path: str, user: Username | None = None,
        request_timeout: float | None = None,
    ) -> EntryInfo:
        """Moves a path."""
        with told():
            old = self._inside.path(old_path, user)
            new = self._inside.path(new_path, user)
            self._as(user).rename(old, new)
        return self.get_info(new, user)

    def make_dir(
        self, path: str, user: Username | None = None, request_timeout: float | None = None
    ) -> bool:
        """Makes a directory and the missing ones above it. False if it was there."""
        with told():
            where, files = self._inside.path(path, user), self._as(user)
            if files.exists(where) and (files.get_info(where, follow=True)).type == "dir":
                return False
            files.make_dir(where)
            return True

    def watch_dir(
        self,
        path: str,
        user: Username | None = None,
        request_timeout: float | None = None,
        recursive: bool = False,
        include_entry: bool = False,
        allow_network_mounts: bool = False,
    ) -> WatchHandle:
        """Watches a directory for changes."""
        with told():
            where, files = self._inside.path(path, user), self._as(user)
            if (files.get_info(where, follow=True)).type != "dir":
                raise InvalidArgumentException(f"{where} is not a directory")
            native = waited(files._native.watch(where, recursive))

        def changes(event: WatchEvent) -> builtins.list[FilesystemEvent]:
            return changes_of(files, where, event, include_entry)

        return WatchHandle(native, changes)


def changes_of(
    files: Files, directory: str, event: WatchEvent, include: bool
) -> list[FilesystemEvent]:
    """A change as E2B tells it. A file that was put in place with its content is
    created here in one step; E2B tells of the writing too."""
    kind = KINDS.get(event.type)
    if kind is None:
        return []
    path, entry = join(directory, event.name), None
    if kind is FilesystemEventType.CREATE or (include and kind is not FilesystemEventType.REMOVE):
        try:
            entry = entry_of(files.get_info(path), path)
        except NotFoundError:
            pass
        except StacyError:
            if include:
                raise
    told_of = entry if include else None
    changes = [FilesystemEvent(event.name, kind, told_of)]
    written = entry is not None and entry.type is FileType.FILE and entry.size > 0
    if kind is FilesystemEventType.CREATE and written:
        changes.append(FilesystemEvent(event.name, FilesystemEventType.WRITE, told_of))
    return changes
