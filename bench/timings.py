"""Whether the stages of a reply add up to its total, within 5 % or 200 microseconds.

A reply that does not hides time from whoever has to find out where it went.
"""

from typing import Any

from bench.figures import Figure, at_least
from bench.inputs import Kind, pictures, request_maker
from bench.load import channel, in_loop, stages
from bench.scale import Scale
from bench.server import Server
from opsin.bench.figures import percentile
from opsin.bench.load import Budget, Sample, closed_loop
from opsin.v1 import InferenceServiceStub, Timings

__all__ = ["gap_us", "measure", "within"]

SHARE, LEAST_US = 0.05, 200.0


def gap_us(timings: Timings) -> float:
    """Microseconds of the total that no stage accounts for; negative when they add up to more."""
    return timings.total_us - sum(stages(timings)) * 1000


def within(timings: Timings) -> bool:
    """Whether they add up."""
    return abs(gap_us(timings)) <= max(SHARE * timings.total_us, LEAST_US)


def measure(scale: Scale) -> list[Figure]:
    """Half a minute for each of the six rows."""
    figures = []
    with pictures() as paths, Server("echo", "nanodet") as server:
        for model, kind in (("echo", Kind()), ("nanodet", Kind(paths))):
            for callers in (1, 8, 32):
                rounds = [
                    in_loop(_replies(server.target, model, kind, callers, scale.seconds(6)))
                    for _ in range(scale.rounds)
                ]
                figures.append(_figure(f"{model}, callers: {callers}", rounds))
    return figures


def _figure(what: str, rounds: list[list[Timings]]) -> Figure:
    held = [sum(within(one) for one in replies) / len(replies) for replies in rounds]
    gaps = sorted(abs(gap_us(one)) for replies in rounds for one in replies)
    beside = {"gap_p50_us": percentile(gaps, 0.5), "gap_p99_us": percentile(gaps, 0.99), "replies": len(gaps)}
    return Figure(f"{what}: replies whose stages add up", held, "", at_least(0.99), beside)


async def _replies(target: str, model: str, kind: Kind, callers: int, seconds: float) -> list[Timings]:
    make, found = request_maker(kind, model), []
    async with channel(target) as opened:
        stub: Any = InferenceServiceStub(opened)

        async def call(number: int) -> Sample:
            found.append((await stub.Detect(make(number), timeout=60)).timings)
            return Sample(0.0)

        await closed_loop(call, Budget(duration=seconds), callers)
    return found
