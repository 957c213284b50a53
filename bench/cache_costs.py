"""What a call pays for the cache: on a miss, on a hit, and for joining alone, with 100 kB of picture.

Measured twice. Inside: `Results.answer` on an event loop with a computation that does nothing, less that
computation alone; this is all the code that a miss runs through, hashing included. Outside: what it adds to
the CPU time that a server spends on a call, beside a server without a cache, each input new.
"""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.figures import Figure, at_most, between
from bench.inputs import Kind
from bench.load import Load, drive, in_loop
from bench.scale import Scale
from bench.server import Server
from bench.watch import span
from opsin_detectors.api import Options, Task
from opsin_server.cache.key import Question
from opsin_server.cache.memory import MemoryCache
from opsin_server.cache.results import Asked, Results
from opsin_server.calls import Caller, DetectAnswer, EncodedImage, ModelRef
from opsin_server.media.pool import CpuPool
from opsin_server.stopwatch import Stopwatch

__all__ = ["measure"]

SIZE = 100_000
MISS_MS, HIT_MS = 0.2, 0.2
CALLS, POOL = 2000, 64
REF = ModelRef("model", 1, "cpu")
QUESTION = Question("detect", Task.DETECT, ("model@1",), Options())
KEEPING = {"CACHE__MEMORY_BYTES": str(64 << 20)}
LIGHT = "echo=echo,light=false"


def measure(scale: Scale) -> list[Figure]:
    """About two minutes."""
    return [*_inside(scale), *_outside(scale)]


def _inside(scale: Scale) -> list[Figure]:
    scale.say(f"the cache's own code, {SIZE} bytes")
    rows: dict[str, list[float]] = {"joining alone": [], "a miss": [], "a hit": []}
    bare: list[float] = []
    for _ in range(scale.rounds):
        bare.append(in_loop(_alone(scale.count(CALLS))))
        rows["joining alone"].append(in_loop(_timed(scale.count(CALLS), keep=False)))
        rows["a miss"].append(in_loop(_timed(scale.count(CALLS), keep=True)))
        rows["a hit"].append(in_loop(_timed(scale.count(CALLS), keep=True, repeat=True)))
    targets = {"joining alone": MISS_MS, "a miss": MISS_MS, "a hit": HIT_MS}
    return [
        Figure(
            f"{what} costs, {SIZE // 1000} kB, all of the cache's code",
            [(one - two) * 1000 for one, two in zip(seconds, bare, strict=True)],
            "ms",
            at_most(targets[what]),
            {"computation_alone_ms": [one * 1000 for one in bare]},
        )
        for what, seconds in rows.items()
    ]


async def _compute(caller: Caller, watch: Stopwatch) -> DetectAnswer:
    del caller
    await asyncio.sleep(0)  # as every real one it does not end where it began
    return DetectAnswer(REF, timings=watch.stop())


async def _alone(count: int) -> float:
    """Seconds a call of the computation and its clock alone."""
    begun = time.perf_counter()
    for _ in range(count):
        await _compute(Caller(), Stopwatch())
    return (time.perf_counter() - begun) / count


async def _timed(count: int, *, keep: bool, repeat: bool = False) -> float:
    """Seconds a call through `Results`, one after the other."""
    pool = CpuPool(1)
    results = Results(pool, memory=MemoryCache(64 << 20) if keep else None)
    results.served("model@1", b"i" * 16)
    noise = [os.urandom(SIZE) for _ in range(POOL)]
    taken = 0.0
    try:
        for number in range(-POOL, count):
            data = noise[number % POOL] if repeat else number.to_bytes(8, "big", signed=True) + noise[0][8:]
            asked = Asked(QUESTION, EncodedImage(data), REF)
            begun = time.perf_counter()
            await results.answer(asked, Caller(), Stopwatch(), _compute)
            if number >= 0:
                taken += time.perf_counter() - begun
    finally:
        pool.close()
    return taken / count


def _outside(scale: Scale) -> list[Figure]:
    scale.say("servers with and without")
    seconds = scale.seconds(5)
    off: list[float] = []
    miss: list[float] = []
    with (
        Server(LIGHT, settings=KEEPING) as keeping,
        Server(LIGHT, settings={"CACHE__JOIN": "false"}) as plain,
    ):
        cost: Callable[..., float] = partial(_cpu_ms, seconds=seconds)
        for number in range(scale.rounds):
            off.append(cost(plain, seed=number))
            miss.append(cost(keeping, seed=number))
        off.append(cost(plain, seed=scale.rounds))
    added: list[Any] = [one - two for one, two in zip(miss, between(off), strict=True)]
    told = {"with_ms": miss, "without_ms": off}
    what = f"server CPU that joining and keeping add to a call of {SIZE // 1000} kB, each new"
    return [Figure(what, added, "ms", at_most(MISS_MS), told)]


def _cpu_ms(server: Server, *, seconds: float, seed: int) -> float:
    load = Load(server.target, "echo", Kind(size=SIZE), seconds, callers=4, warmup=0.3, seed=seed)
    with span(server) as taken:
        answered = sum(sample.answered for sample in drive(load).samples)
    ran = taken.over.total("opsin_batch_size_sum", model="echo")
    return taken.over.cpu * 1000 / max(answered, ran)
