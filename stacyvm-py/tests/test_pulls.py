"""Pulls are told while one waits, from a registry on loopback."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import stacyvm
from stacyvm import AsyncSandbox, Sandbox

SIZE = 4 << 20


def digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


class Registry(ThreadingHTTPServer):
    """One image of one layer, whose second half is sent once it may be."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.goes_on = threading.Event()
        self.image = f"127.0.0.1:{self.server_port}/app:1"
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            member = tarfile.TarInfo("data")
            member.size = SIZE
            tar.addfile(member, io.BytesIO(os.urandom(SIZE)))
        layer = gzip.compress(packed.getvalue(), 1)
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        config = json.dumps({
            "os": "linux", "architecture": architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(packed.getvalue())]},
        }).encode()
        kind = "application/vnd.oci.image"
        self.manifest = json.dumps({
            "schemaVersion": 2, "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": f"{kind}.layer.v1.tar+gzip", "digest": digest(layer), "size": len(layer)}],
        }).encode()
        self.blobs = {digest(blob): blob for blob in (config, layer)}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        registry = self.server
        assert isinstance(registry, Registry)
        blob = registry.blobs.get(self.path.rsplit("/", 1)[-1])
        kind = "application/octet-stream"
        if "/manifests/" in self.path:
            blob, kind = registry.manifest, "application/vnd.oci.image.manifest.v1+json"
        body = b"{}" if blob is None else blob
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body[: SIZE // 2])
            if len(body) > SIZE // 2:
                registry.goes_on.wait(60)
                self.wfile.write(body[SIZE // 2 :])
        except OSError:
            pass

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.goes_on.set()
        server.shutdown()


def test_a_pull_is_told_where_the_call_waits(registry: Registry) -> None:
    told: list[stacyvm.PullInfo] = []
    waits = threading.get_ident()

    def tell(progress: stacyvm.PullInfo) -> None:
        assert threading.get_ident() == waits
        told.append(progress)
        # What came is told before the rest has come.
        registry.goes_on.set()

    with Sandbox.create(image=registry.image, on_pull=tell) as sandbox:
        assert sandbox.get_info().source == registry.image
    done = [progress.done for progress in told]
    assert done == sorted(done) and SIZE < done[-1] <= told[-1].total
    # It is here now, and nothing is told of it.
    told.clear()
    Sandbox.create(image=registry.image, on_pull=told.append, pull="missing").kill()
    assert told == []


def test_a_callback_that_raises_gives_the_create_up(registry: Registry) -> None:
    def raises(progress: stacyvm.PullInfo) -> None:
        raise KeyError(progress.done)

    with pytest.raises(KeyError) as kept:
        Sandbox.create(image=registry.image, on_pull=raises, metadata={"of": "pulls"})
    assert kept.value.args
    assert not list(Sandbox.list(metadata={"of": "pulls"}, all=True))


def test_errors_come_through_a_create_that_tells() -> None:
    with pytest.raises(stacyvm.InvalidArgumentError, match="no-such-option"):
        Sandbox.create(on_pull=print, **{"no-such-option": 1})  # type: ignore[arg-type]
    with pytest.raises(stacyvm.NotFoundError):
        Sandbox.create(image="127.0.0.1:1/none:1", pull="never", on_pull=print)


def test_a_create_that_tells_can_be_awaited_and_cancelled(registry: Registry) -> None:
    async def main() -> None:
        first: asyncio.Future[stacyvm.PullInfo] = asyncio.get_running_loop().create_future()

        def tell(progress: stacyvm.PullInfo) -> None:
            if not first.done():
                first.set_result(progress)

        create = AsyncSandbox.create(image=registry.image, on_pull=tell, metadata={"of": "pulls"})
        task = asyncio.create_task(create)
        await asyncio.wait_for(first, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        registry.goes_on.set()
        assert not [info async for info in AsyncSandbox.list(metadata={"of": "pulls"}, all=True)]
        sandbox = await AsyncSandbox.create(image=registry.image, on_pull=tell)
        assert await sandbox.kill()

    asyncio.run(main())
