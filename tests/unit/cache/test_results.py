"""Large inputs, which are hashed and compared on the CPU pool: bounded there like everybody's work."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from opsin_detectors.api import Options, Task
from opsin_server.cache.key import QUICK_BYTES, Question
from opsin_server.cache.memory import MemoryCache
from opsin_server.cache.results import Asked, Results
from opsin_server.calls import CacheState, Caller, DetectAnswer, EncodedImage, ModelRef
from opsin_server.errors import Failure, Reason
from opsin_server.media.pool import CpuPool
from opsin_server.stopwatch import Stopwatch

MODEL = ModelRef("m", 1, "cpu")
QUESTION = Question("detect", Task.DETECT, ("m@1",), Options())
LARGE = bytes(QUICK_BYTES + 1)


class Room:
    """Results that keep, over a pool of one thread that a test can hold."""

    def __init__(self, pool: CpuPool) -> None:
        self.pool = pool
        self.results = Results(pool, memory=MemoryCache(1 << 20))
        self.results.served("m@1", b"identity")
        self.computed = 0
        self.gate = threading.Event()

    async def ask(self, data: bytes, flow: str = "") -> CacheState:
        async def compute(caller: Caller, watch: Stopwatch) -> DetectAnswer:
            self.computed += 1
            await asyncio.sleep(0)
            return DetectAnswer(MODEL)

        asked = Asked(QUESTION, EncodedImage(data), MODEL)
        return (await self.results.answer(asked, Caller(flow=flow), Stopwatch(), compute)).cache

    async def hold(self) -> None:
        """Keep the pool's only thread busy until `gate` is set."""
        self.held = asyncio.create_task(self.pool.run(self.gate.wait, 10))
        while not self.pool.stats().busy:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def room(max_queued: int = 100) -> AsyncGenerator[Room]:
    pool = CpuPool(1, max_queued=max_queued)
    place = Room(pool)
    try:
        yield place
    finally:
        place.gate.set()
        await asyncio.to_thread(pool.close)


async def test_a_large_input_is_kept_and_found() -> None:
    async with room() as r:
        assert [await r.ask(LARGE), await r.ask(bytes(LARGE))] == [CacheState.MISS, CacheState.HIT]
        assert r.computed == 1


async def test_where_the_pool_takes_no_more_a_large_input_goes_on_without_the_cache() -> None:
    async with room(max_queued=2) as r:
        await r.ask(LARGE)
        await r.hold()
        waiting = [asyncio.create_task(r.pool.run(int)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await r.ask(bytes(LARGE)) is CacheState.MISS
        assert r.computed == 2
        r.gate.set()
        await asyncio.gather(r.held, *waiting)
        assert await r.ask(bytes(LARGE)) is CacheState.HIT


async def test_a_small_input_is_found_though_the_pool_takes_no_more() -> None:
    async with room(max_queued=0) as r:
        assert [await r.ask(b"small"), await r.ask(b"small")] == [CacheState.MISS, CacheState.HIT]


async def test_hashing_many_large_inputs_of_one_caller_delays_that_one_only() -> None:
    async with room() as r:
        await r.hold()
        flood = [asyncio.create_task(r.ask(n.to_bytes(2, "big") + LARGE, flow="greedy")) for n in range(20)]
        await asyncio.sleep(0)
        order: list[str] = []
        polite = asyncio.create_task(r.pool.run(lambda: order.append("polite"), flow="polite"))
        last = asyncio.create_task(r.pool.run(lambda: order.append("greedy"), flow="greedy"))
        await asyncio.sleep(0)
        r.gate.set()
        await asyncio.gather(r.held, *flood, polite, last)
        assert order == ["polite", "greedy"]
        assert r.computed == 20


async def test_a_pool_that_is_closed_refuses_a_large_input() -> None:
    async with room() as r:
        await asyncio.to_thread(r.pool.close)
        with pytest.raises(Failure) as refused:
            await r.ask(LARGE)
        assert refused.value.reason is Reason.DRAINING
