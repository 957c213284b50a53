"""What doing nothing twice brings: repeats with answers kept and not, a burst of one input, and the costs.

Repeats follow Zipf's law, as pictures that people pass on do: the one of rank r comes 1 / r as often as the
first. The same sequence goes to a server that keeps answers and to one that does not, in turns. Who finds or
joins half of its answers cannot get more than twice as many; a little less is natural, since callers that
joined one computation leave fewer different inputs to make batches of.
"""

import asyncio
import random
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from bench import cache_costs
from bench.figures import Figure, at_least, at_most, turns
from bench.inputs import Kind, pictures, request_maker
from bench.load import PATIENCE, channel, in_loop
from bench.scale import Scale
from bench.server import Server
from bench.watch import span
from opsin.bench.load import Budget, Recording, Sample, closed_loop
from opsin.v1 import CacheStatus, DetectRequest, InferenceServiceStub

__all__ = ["measure", "zipf"]

KEEPING = {"CACHE__MEMORY_BYTES": str(64 << 20)}
PICTURES, CALLERS, SECONDS = 2000, 8, 8.0
BURST, BURSTS = 64, 20
DEVICE = "device=echo,delay_ms=100,max_batch=8"


def zipf(count: int, seed: int) -> Callable[[], int]:
    """Draws numbers below `count`, number r in proportion to 1 / (r + 1)."""
    chance, sums = random.Random(seed), list(accumulate(1 / rank for rank in range(1, count + 1)))
    numbers = range(count)
    return lambda: chance.choices(numbers, cum_weights=sums)[0]


def measure(scale: Scale) -> list[Figure]:
    """About three minutes."""
    with pictures() as paths:
        figures = _repeats(Kind(paths), scale)
    return [*figures, _burst(scale), *cache_costs.measure(scale)]


def _repeats(kind: Kind, scale: Scale) -> list[Figure]:
    scale.say(f"{PICTURES} pictures, repeated after Zipf, {CALLERS} callers")
    seconds = scale.seconds(SECONDS)
    on: list[float] = []
    off: list[float] = []
    hits: list[float] = []
    with Server("nanodet", settings=KEEPING) as keeping, Server("nanodet") as plain:
        for number in range(scale.rounds):
            off.append(_drive(plain, "nanodet", kind, seconds, number)[0])
            # Its memory is as good as empty: another seed makes every picture another file.
            rate, share = _drive(keeping, "nanodet", kind, seconds, number)
            on.append(rate)
            hits.append(share)
        off.append(_drive(plain, "nanodet", kind, seconds, scale.rounds)[0])
    told = {"rates_with": on, "rates_without": off, "pictures": PICTURES, "callers": CALLERS}
    gains = turns(on, off)
    reached = [gain * (1 - share) for gain, share in zip(gains, hits, strict=True)]
    what = "repeats after Zipf, nanodet, from an empty cache"
    return [
        Figure(f"{what}: answers a second, kept over not kept", gains, "", None, told),
        Figure(f"{what}: share of calls that hit or joined", hits),
        Figure(f"{what}: gain over what that share allows", reached, "", at_least(0.8)),
    ]


def _drive(server: Server, model: str, kind: Kind, seconds: float, seed: int) -> tuple[float, float]:
    """Answers a second, and the share of them that were not computed."""
    recording, found = in_loop(_calls(server.target, model, kind, seconds, seed))
    assert all(sample.answered for sample in recording.samples)
    count = len(recording.samples)
    return count / recording.seconds, found / count


async def _calls(target: str, model: str, kind: Kind, seconds: float, seed: int) -> tuple[Recording, int]:
    make, draw, found = request_maker(kind, model, seed), zipf(PICTURES, seed), 0
    async with channel(target) as opened:
        stub: Any = InferenceServiceStub(opened)

        async def call(number: int) -> Sample:
            nonlocal found
            del number
            begun = time.perf_counter()
            reply = await stub.Detect(make(draw()), timeout=PATIENCE)
            found += reply.cache != CacheStatus.CACHE_STATUS_MISS
            return Sample(time.perf_counter() - begun)

        return await closed_loop(call, Budget(duration=seconds), CALLERS), found


def _burst(scale: Scale) -> Figure:
    scale.say(f"bursts of {BURST} identical calls")
    ran: list[float] = []
    with Server(DEVICE) as server:
        for number in range(2 if scale.quick else BURSTS):
            request = request_maker(Kind(size=100_000), "device", number)(number)
            with span(server) as taken:
                in_loop(_at_once(server.target, request))
            ran.append(taken.over.total("opsin_batch_size_sum", model="device"))
    what = f"{BURST} identical calls in flight: inputs that were run"
    # The worst one: a median would forgive half of them.
    return Figure(what, [max(ran)], "", at_most(1), {"bursts": len(ran), "inputs_run": ran})


async def _at_once(target: str, request: DetectRequest) -> None:
    async with channel(target) as opened:
        stub: Any = InferenceServiceStub(opened)
        await asyncio.gather(*(stub.Detect(request, timeout=PATIENCE) for _ in range(BURST)))
