"""A shared cache in trouble: a real Redis killed, revived, stopped and continued while inputs that nobody has
seen before come in at a steady rate. In the same seconds a server without a cache gets the same load.

Every look-up is a miss, so what a call takes beyond the other server's is what Redis costs it. A phase of
trouble is judged as a whole, and by its first second, in which the breaker has to find out.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

from bench.figures import Figure, at_least, at_most
from bench.inputs import Kind
from bench.load import Load, beside
from bench.redis import OwnRedis
from bench.scale import Scale
from bench.server import Server
from bench.traffic import Seen, call_all
from bench.watch import wait_for
from opsin.bench.figures import percentile

__all__ = ["measure"]

DEVICE = "device=echo,delay_ms=5,light=false,labels=stable"
RATE = 60.0
"""Calls a second: a quarter of what two lanes of 5 ms can do, so that queues tell nothing."""
PHASE = 8.0
LEAD = 3.0
SETTLE = 0.5
ADDED_P99_MS = 15.0
"""A look-up ends after 10 ms, whatever Redis does; the rest is for timers."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What was done to Redis when. at: clock seconds."""

    name: str
    at: float


def measure(scale: Scale) -> list[Figure]:
    """About a minute a round."""
    rounds = [_round(scale, number) for number in range(min(scale.rounds, 3))]
    figures = []
    for name in ("well", "killed", "revived", "stalled", "continued"):
        figures += _of_phase(name, [(shared, alone, phases) for shared, alone, phases, _ in rounds])
    failed = [float(sum(bool(call.error) for call in shared)) for shared, _, _, _ in rounds]
    wrote = [counts for _, _, _, counts in rounds]
    return [
        Figure("Redis killed, revived, stalled, continued: failed calls", failed, "", at_most(0),
               {"calls": [len(shared) for shared, _, _, _ in rounds]}),
        Figure("answers written after each recovery, least", [min(w) for w in wrote], "", at_least(1)),
        *figures,
    ]  # fmt: skip


Outcome = tuple[list[Seen], list[Seen], list[Phase], list[float]]


def _round(scale: Scale, number: int) -> Outcome:
    phase = 3.0 if scale.quick else PHASE
    seconds = LEAD + 5 * (phase + SETTLE) + 4
    scale.say(f"round {number + 1}, {seconds:.0f} s")
    with (
        OwnRedis() as redis,
        Server(DEVICE, settings={"CACHE__REDIS": redis.url}) as shared,
        ExitStack() as on,
    ):
        alone = on.enter_context(Server(DEVICE))
        loads = [
            Load(
                server.target, "device", Kind(size=20_000), seconds, rate=RATE, deadline=5.0, seed=number + 1
            )
            for server in (shared, alone)
        ]
        running = [on.enter_context(beside(call_all, load)) for load in loads]
        phases, wrote = _trouble(redis, shared, phase, running)
        told = [one.result() for one in running]
    return told[0], told[1], phases, wrote


def _trouble(
    redis: OwnRedis, server: Server, seconds: float, running: Sequence[Future[list[Seen]]]
) -> tuple[list[Phase], list[float]]:
    phases: list[Phase] = []
    wrote: list[float] = []

    def written() -> float:
        return server.counters().total("opsin_cache_redis_writes_total")

    def phase(name: str, act: Callable[[], None] | None = None) -> None:
        before = written()
        time.sleep(SETTLE)  # a scrape costs the server some milliseconds, which are not Redis's
        phases.append(Phase(name, time.monotonic()))
        if act is not None:
            act()
        time.sleep(seconds)
        if name not in ("killed", "stalled"):
            wait_for(lambda: written() > before, "answers to be kept again")
            wrote.append(written() - before)

    wait_for(lambda: written() > 0 or any(one.done() for one in running), "the load to begin")
    time.sleep(LEAD)
    phase("well")
    phase("killed", redis.kill)
    phase("revived", redis.start)
    phase("stalled", redis.stall)
    phase("continued", redis.go_on)
    phases.append(Phase("end", time.monotonic()))
    return phases, wrote


def _of_phase(name: str, rounds: Sequence[tuple[list[Seen], list[Seen], list[Phase]]]) -> list[Figure]:
    added, first, both = [], [], []
    for shared, alone, phases in rounds:
        begin, end = next((a.at, b.at) for a, b in pairwise(phases) if a.name == name)
        one, two = _p99(shared, begin, end), _p99(alone, begin, end)
        added.append(one - two)
        both.append((round(one, 2), round(two, 2)))
        first.append(
            max(_milliseconds(shared, begin, begin + 1.0)) - max(_milliseconds(alone, begin, begin + 1.0))
        )
    beside = {"p99_ms_with_and_without_redis": both, "first_second_greatest_ms_more": first}
    return [Figure(f"Redis {name}: added to the p99", added, "ms", at_most(ADDED_P99_MS), beside)]


def _milliseconds(calls: Sequence[Seen], begin: float, end: float) -> list[float]:
    return sorted((c.done - c.sent) * 1000 for c in calls if not c.error and begin <= c.sent < end) or [0.0]


def _p99(calls: Sequence[Seen], begin: float, end: float) -> float:
    return percentile(_milliseconds(calls, begin, end), 0.99)
