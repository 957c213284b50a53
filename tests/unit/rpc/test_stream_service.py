"""When streams are sent away for their age."""

import asyncio
from typing import Any

from opsin_server.config import LimitSettings, StreamSettings
from opsin_server.rpc.stream import JITTER, StreamService
from opsin_server.streams.events import GoAwayReason
from opsin_server.telemetry.metrics import Metrics


class Stream:
    def __init__(self) -> None:
        self.left: list[GoAwayReason] = []

    def leave(self, reason: GoAwayReason) -> None:
        self.left.append(reason)


def service(max_duration: float) -> Any:
    rooms: dict[str, Any] = dict.fromkeys(("pipeline", "catalog", "pool", "budget"))
    settings = StreamSettings(max_duration=max_duration)
    return StreamService(limits=LimitSettings(), settings=settings, metrics=Metrics(), **rooms)


async def test_streams_that_began_together_are_not_sent_away_together() -> None:
    loop, streams = asyncio.get_running_loop(), service(1000.0)
    begun = loop.time()
    timers = [streams._end_in_time(Stream()) for _ in range(200)]
    passed = loop.time() - begun
    ages = [timer.when() - begun for timer in timers]
    for timer in timers:
        timer.cancel()
    assert 1000 * (1 - JITTER) <= min(ages) < 950
    assert 1050 < max(ages) <= 1000 * (1 + JITTER) + passed


async def test_a_stream_that_is_old_enough_is_told_why_it_goes() -> None:
    stream = Stream()
    service(0.01)._end_in_time(stream)
    async with asyncio.timeout(10):
        while not stream.left:
            await asyncio.sleep(0.005)
    assert stream.left == [GoAwayReason.MAX_STREAM_AGE]


async def test_without_a_longest_duration_none_is_sent_away() -> None:
    assert service(0)._end_in_time(Stream()) is None
