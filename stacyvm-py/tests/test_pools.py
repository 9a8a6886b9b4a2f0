"""Sandboxes that are made ahead."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

import stacyvm
from stacyvm import AsyncEngine, Engine, Sandbox

from test_processes import in_child


def test_one_that_waits_is_claimed_with_what_the_claim_brings(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    with Engine() as engine, engine.pool(size=2, env={"A": "pool", "B": "pool"}) as pool:
        pool.filled()
        stats = pool.stats()
        assert (stats.size, stats.ready, stats.warm, stats.drained) == (2, 2, 0, False)
        sandbox = pool.claim(
            env={"A": "claim"},
            secrets={"S": {"file": str(secret)}},
            metadata={"of": "claims"},
            files={"/workspace/in/a.txt": "text\n", b"/workspace/in/b.txt": b"bytes\n"},
            timeout=300,
            lifetime="attached",
        )
        told = sandbox.commands.run("echo $A $B $S; cat in/a.txt in/b.txt").stdout
        assert told == "claim pool hunter2\ntext\nbytes\n"
        info = sandbox.get_info()
        assert info.metadata == {"of": "claims"} and info.lifetime == "attached"
        assert info.ends is not None and (info.ends - info.created).total_seconds() < 600
        assert pool.stats().warm == 1
        assert [i.id for i in engine.list(metadata={"stacyvm.pool": pool.name})]
    assert pool.stats().ready == 0 and pool.stats().drained
    with pytest.raises(stacyvm.ConflictError):
        pool.claim()
    # What was claimed goes on.
    again = Sandbox.connect(sandbox.id)
    assert again.commands.run("echo on").stdout == "on\n"
    assert again.kill()


def test_what_waits_ends_when_nobody_holds_the_pool() -> None:
    with Engine() as engine:
        pool = engine.pool(size=1)
        pool.filled()
        name = pool.name
        assert [i.id for i in engine.list(metadata={"stacyvm.pool": name})]
        del pool
        gc.collect()
        for _ in range(200):
            if not list(engine.list(metadata={"stacyvm.pool": name})):
                return
            asyncio.run(asyncio.sleep(0.05))
        raise AssertionError("it waits still")


def test_a_pool_refuses_what_only_one_sandbox_has(mock: Engine) -> None:
    for options, field in (
        ({"id": "one"}, "id"),
        ({"idempotency_key": "k"}, "idempotency_key"),
        ({"secrets": {"A": {"env": "HOME"}}}, "secrets"),
        ({"size": 0}, "size"),
        ({"size": 1, "refill_at_once": 2}, "refill_at_once"),
        ({"max_age": 0.5}, "max_age"),
        ({"max_age": -1.0}, "max_age"),
        ({"pull": "always", "image": "host"}, "pull"),
    ):
        with pytest.raises(stacyvm.InvalidArgumentError) as told:
            mock.pool(**{"image": "scratch", **options})  # type: ignore[arg-type]
        assert told.value.context["field"] == field
    with mock.pool(image="scratch", size=1) as pool:
        with pytest.raises(stacyvm.InvalidArgumentError, match="seconds, not below zero"):
            pool.claim(timeout=-1)
        with pytest.raises(stacyvm.InvalidArgumentError):
            pool.claim(files={"relative": ""})


def test_a_pool_belongs_to_its_process(mock: Engine) -> None:
    pool = mock.pool(image="scratch", size=1)
    pool.filled()

    def work() -> None:
        with pytest.raises(stacyvm.ConflictError, match="fork"):
            pool.claim()

    assert in_child(work) == 0
    assert pool.claim().exec(["echo", "x"]).stdout == "x\n"
    pool.drain()


def test_pools_can_be_awaited(async_mock: AsyncEngine) -> None:
    async def main() -> None:
        async with await async_mock.pool(image="scratch", size=3) as pool:
            await pool.filled()
            claims = await asyncio.gather(*(pool.claim() for _ in range(5)))
            assert len({sandbox.id for sandbox in claims}) == 5
            stats = await pool.stats()
            assert stats.warm + stats.cold == 5 and stats.warm >= 3
        assert (await pool.stats()).drained

    asyncio.run(main())


def test_providers_are_told(mock: Engine) -> None:
    (one,) = mock.providers()
    assert one["name"] == "mock" and one["default"] is True
    assert one["capabilities"]["claim"] is True
