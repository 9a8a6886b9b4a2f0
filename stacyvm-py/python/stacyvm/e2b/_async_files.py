# pyright: reportPrivateUsage=false
"""Files, in an event loop. `_sync_files.py` is made from this file by scripts/python-sync.py."""

from __future__ import annotations

import builtins
import stat
from collections.abc import AsyncIterable, Sequence
from posixpath import basename, join
from types import TracebackType
from typing import Literal, cast, overload

from .._async_files import AsyncFiles as Files
from .._call import awaited
from .._errors import NotFoundError, StacyError
from .._native import EntryInfo as Entry
from .._native import Reader as NativeReader
from .._native import WatchEvent
from .._types import Data
from ._async_commands import AsyncInside
from ._errors import InvalidArgumentException, NotSupportedException, told
from ._handles import AsyncWatchHandle
from ._types import (
    EntryInfo,
    FilesystemEvent,
    FilesystemEventType,
    FileType,
    OutputHandler,  # async only
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


class AsyncFileStreamReader:
    """A file that is read piece by piece."""

    def __init__(self, native: NativeReader) -> None:
        self._native: NativeReader | None = native

    def __aiter__(self) -> AsyncFileStreamReader:
        return self

    async def __anext__(self) -> bytes:
        if self._native is None:
            raise StopAsyncIteration
        with told():
            piece = await awaited(self._native.next())
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Reads no more."""
        self._native = None

    async def __aenter__(self) -> AsyncFileStreamReader:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncFilesystem:
    """The files of a sandbox. Paths that do not begin with `/` begin in the user's home."""

    def __init__(self, inside: AsyncInside) -> None:
        self._inside = inside

    def _as(self, user: Username | None) -> Files:
        files, name = self._inside.machine.files, self._inside.user(user)
        return files if name is None else files.with_user(name)

    @overload
    async def read(
        self, path: str, format: Literal["text"] = "text", user: Username | None = None,
        request_timeout: float | None = None, gzip: bool = False,
    ) -> str: ...

    @overload
    async def read(
        self, path: str, format: Literal["bytes"], user: Username | None = None,
        request_timeout: float | None = None, gzip: bool = False,
    ) -> bytearray: ...

    @overload
    async def read(
        self, path: str, format: Literal["stream"], user: Username | None = None,
        request_timeout: float | None = None, gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> AsyncFileStreamReader: ...

    async def read(
        self, path: str, format: Literal["text", "bytes", "stream"] = "text",
        user: Username | None = None, request_timeout: float | None = None, gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> str | bytearray | AsyncFileStreamReader:
        """Reads a file: text, where what is no UTF-8 is replaced, bytes, or piece by piece."""
        with told():
            where, files = await self._inside.path(path, user), self._as(user)
            if format == "stream":
                return AsyncFileStreamReader(await awaited(files._native.open(where)))
            data = await files.read(where, "bytes")
            return bytearray(data) if format == "bytes" else data.decode("utf-8", "replace")

    async def write(
        self,
        path: str,
        data: WriteData | AsyncIterable[bytes],
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
        if hasattr(data, "__aiter__"):  # async only
            pieces = cast("AsyncIterable[bytes]", data)  # async only
            given = [piece async for piece in pieces]  # async only
        with told():
            where = await self._inside.path(path, user)
            await self._as(user).write(where, given)
            return WriteInfo(basename(where), FileType.FILE, where)

    async def write_files(
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
            await self.write(file["path"], file["data"], user, metadata=metadata)
            for file in files
        ]

    async def list(
        self, path: str, depth: int | None = 1, user: Username | None = None,
        request_timeout: float | None = None,
    ) -> builtins.list[EntryInfo]:
        """Lists a directory, so many levels deep."""
        if depth is not None and depth < 1:
            raise InvalidArgumentException("depth should be at least 1")
        with told():
            where = await self._inside.path(path, user)
            entries = await self._as(user).list(where, depth or 1)
            return [
                entry_of(entry, join(where, entry.path))
                for entry in entries
                if entry.type in TYPES
            ]

    async def exists(
        self, path: str, user: Username | None = None, request_timeout: float | None = None
    ) -> bool:
        """Whether there is something at a path."""
        with told():
            return await self._as(user).exists(await self._inside.path(path, user))

    async def get_info(
        self, path: str, user: Username | None = None, request_timeout: float | None = None
    ) -> EntryInfo:
        """Describes a path."""
        with told():
            where = await self._inside.path(path, user)
            return entry_of(await self._as(user).get_info(where), where)

    async def remove(
        self, path: str, user: Username | None = None, request_timeout: float | None = None
    ) -> None:
        """Removes a file, or a directory with what is in it. One that is not there is
        success."""
        try:
            with told():
                await self._as(user).remove(await self._inside.path(path, user))
        except FileNotFoundError:
            pass

    async def rename(
        self, old_path: str, new_path: str, user: Username | None = None,
        request_timeout: float | None = None,
    ) -> EntryInfo:
        """Moves a path."""
        with told():
            old = await self._inside.path(old_path, user)
            new = await self._inside.path(new_path, user)
            await self._as(user).rename(old, new)
        return await self.get_info(new, user)

    async def make_dir(
        self, path: str, user: Username | None = None, request_timeout: float | None = None
    ) -> bool:
        """Makes a directory and the missing ones above it. False if it was there."""
        with told():
            where, files = await self._inside.path(path, user), self._as(user)
            if await files.exists(where) and (await files.get_info(where, follow=True)).type == "dir":
                return False
            await files.make_dir(where)
            return True

    async def watch_dir(
        self,
        path: str,
        on_event: OutputHandler[FilesystemEvent],  # async only
        on_exit: OutputHandler[Exception | None] | None = None,  # async only
        user: Username | None = None,
        request_timeout: float | None = None,
        timeout: float | None = 60,  # async only
        recursive: bool = False,
        include_entry: bool = False,
        allow_network_mounts: bool = False,
    ) -> AsyncWatchHandle:
        """Watches a directory for changes."""
        with told():
            where, files = await self._inside.path(path, user), self._as(user)
            if (await files.get_info(where, follow=True)).type != "dir":
                raise InvalidArgumentException(f"{where} is not a directory")
            native = await awaited(files._native.watch(where, recursive))

        async def changes(event: WatchEvent) -> builtins.list[FilesystemEvent]:
            return await changes_of(files, where, event, include_entry)

        return AsyncWatchHandle(native, changes, on_event, on_exit, timeout)  # async only
        # sync only: return WatchHandle(native, changes)


async def changes_of(
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
            entry = entry_of(await files.get_info(path), path)
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
