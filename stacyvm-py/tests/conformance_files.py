"""Files of the conformance suite's server. What the package has no choice for is `unsupported`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conformance_wire import DATA, HEAD, ITEM, Body, Refused, Stream, frame, moment_of, raw, time_of, told, word_of
from stacyvm import EntryInfo, Files, Sandbox

# What the methods of the package do: with missing directories above, in place of what is there, with
# what is below. The most paths of a search are its own.
MAKE_DIR = {"parents": True, "mode": 0o755}
RENAME = {"replace": True}
REMOVE = {"recursive": True, "missing_ok": False}
SET = {"follow": True}
GLOB = {"limit": 100_000}


def of(sandbox: Sandbox, user: str | None) -> Files:
    return sandbox.files if user is None else sandbox.files.with_user(user)


def only(asked: dict[str, Any], had: dict[str, Any]) -> None:
    """Refuses what is asked for in another way than the package does it."""
    for name, value in had.items():
        if asked[name] != value:
            raise Refused("unsupported", f"`{name}` is {value} in this package, and cannot be {asked[name]}")


def entry_of(entry: EntryInfo) -> dict[str, Any]:
    kind, target = entry.type, entry.symlink_target
    return {
        "path": word_of(entry.path), "kind": "directory" if kind == "dir" else kind, "size": entry.size,
        "mode": entry.mode, "uid": entry.uid, "gid": entry.gid, "modified": time_of(entry.modified_time),
        "target": None if target is None else word_of(target), "user": entry.owner, "group": entry.group,
    }


def operate(sandbox: Sandbox, body: dict[str, Any]) -> dict[str, Any] | Stream:
    """A file operation without data."""
    files = of(sandbox, body.get("user"))
    (name, asked), = body["operation"].items()
    match name:
        case "stat":
            return {"entry": entry_of(files.get_info(raw(asked["path"]), follow=asked["follow"]))}
        case "list":
            return entries(files.list(raw(asked["path"]), asked["depth"]))
        case "make_dir":
            only(asked, MAKE_DIR)
            files.make_dir(raw(asked["path"]))
        case "rename":
            only(asked, RENAME)
            files.rename(raw(asked["from"]), raw(asked["to"]))
        case "remove":
            only(asked, REMOVE)
            files.remove(raw(asked["path"]))
        case "set_attributes":
            only(asked, SET)
            set_attributes(files, raw(asked["path"]), asked["attributes"], asked["recursive"])
        case "glob":
            only(asked, GLOB)
            return entries(files.glob(raw(asked["pattern"])))
        case "link":
            files.symlink(raw(asked["target"]), raw(asked["path"]))
        case _:
            raise Refused("unsupported", f"{name} is not had here")
    return {}


def entries(found: list[EntryInfo]) -> Stream:
    return Stream(told(ITEM, entry_of(one)) for one in found)


def set_attributes(files: Files, path: bytes, asked: dict[str, Any], recursive: bool) -> None:
    mode, owner, group, modified = (asked.get(name) for name in ("mode", "owner", "group", "modified"))
    owns = owner is not None or group is not None
    if (owns, mode is not None, modified is not None).count(True) > 1:
        raise Refused("unsupported", "the package sets mode, owner or time, one of them at a time")
    if mode is not None:
        files.chmod(path, mode, recursive=recursive)
    elif modified is not None:
        files.set_modified_time(path, moment_of(modified), recursive=recursive)
    else:
        files.chown(path, owner, group, recursive=recursive)


def read(sandbox: Sandbox, body: dict[str, Any]) -> Stream:
    files, path = of(sandbox, body.get("user")), raw(body["path"])
    native: Any = files._native  # pyright: ignore[reportPrivateUsage]
    reader = native.open(path, body.get("offset", 0), body.get("length")).wait()
    head = entry_of(files.get_info(path, follow=True))

    def frames() -> Iterator[bytes]:
        yield told(HEAD, head)
        while (piece := reader.next().wait()) is not None:
            yield frame(DATA, piece)

    return Stream(frames())


def write(sandbox: Sandbox, body: Body) -> dict[str, Any]:
    asked = body.head()
    files, path, mode = of(sandbox, asked.get("user")), raw(asked["path"]), asked.get("mode")
    match asked["how"], asked["parents"]:
        case "replace", True:
            return entry_of(files.write(path, body.pieces(), mode=mode))
        case "append", True if mode is None:
            return entry_of(files.append(path, b"".join(body.pieces())))
        case how, parents:
            # After all of it: whoever gives it up sees that nothing was done.
            for _ in body.pieces():
                pass
            raise Refused("unsupported", f"the package has no {how} with the mode {mode} and parents {parents}")


def export(sandbox: Sandbox, body: dict[str, Any]) -> Stream:
    files = of(sandbox, body.get("user"))
    choices = {name: body.get(name, False) for name in ("contents", "follow")}
    archive = files.export_tar(raw(body["path"]), **choices)

    def end() -> dict[str, Any]:
        left_out = archive.left_out
        return {"names": [word_of(name) for name in left_out.names], "more": left_out.more}

    return Stream((frame(DATA, piece) for piece in archive), archive.close, end)


def unpack(sandbox: Sandbox, body: Body) -> None:
    asked = body.head()
    choices = {name: asked.get(name, False) for name in ("parents", "keep_owner")}
    of(sandbox, asked.get("user")).import_tar(raw(asked["path"]), body.pieces(), **choices)


def watch(sandbox: Sandbox, body: dict[str, Any]) -> Stream:
    files = of(sandbox, body.get("user"))
    watching = files.watch_dir(raw(body["path"]), recursive=body.get("recursive", False))
    frames = (told(ITEM, {"kind": event.type, "path": word_of(event.name)}) for event in watching)
    return Stream(frames, watching.stop)
