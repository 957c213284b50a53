"""Streams and calls on one device: frames share batches, calls keep their latency, and both can be seen."""

import asyncio
import statistics
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from integration.attack.told import look, pixel
from integration.streams.talking import Talk, talking
from opsin.v1 import DetectRequest
from opsin.v1.model_service_pb2 import GetModelRequest
from serving import Serving, serving

STREAMS, FRAMES = 6, 12


async def _push(talk: Talk, stop: asyncio.Event) -> None:
    """Keep eight frames unanswered until told to stop, and read all the rest."""
    for number in range(1, 9):
        await talk.frame(number)
    while not stop.is_set():
        await talk.read()
        number += 1
        await talk.frame(number)
    await talk.rest()


@asynccontextmanager
async def _saturated(server: Serving, model: str) -> AsyncGenerator[list[Talk]]:
    """Streams with more frames than the device can do."""
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(talking(server)) for _ in range(STREAMS)]
        for talk in talks:
            await talk.config(model=model)
        pushing = [asyncio.create_task(_push(talk, stop)) for talk in talks]
        try:
            async with asyncio.timeout(20):
                while server.app.scheduler.waiting < 2 * STREAMS:
                    await asyncio.sleep(0.005)
            yield talks
        finally:
            stop.set()
            await asyncio.gather(*pushing)


def _timings(talks: list[Talk]) -> list[Any]:
    return [
        reply.result.response.timings
        for talk in talks
        for reply in talk.replies
        if reply.WhichOneof("kind") == "result"
    ]


async def _one_by_one(talk: Talk) -> None:
    await talk.config()
    for number in range(1, FRAMES + 1):
        await talk.frame(number)
        await talk.read()


async def test_frames_of_different_streams_share_batches() -> None:
    """Each stream has one frame under way, so two in a batch are of two streams."""
    async with (
        serving("slow=echo,delay_ms=30,max_batch=8", scheduler={"lanes": 1}) as server,
        AsyncExitStack() as stack,
    ):
        talks = [await stack.enter_async_context(talking(server)) for _ in range(STREAMS)]
        await asyncio.gather(*(_one_by_one(talk) for talk in talks))
    sizes = [timings.batch_size for timings in _timings(talks)]
    assert len(sizes) == STREAMS * FRAMES
    assert max(sizes) >= STREAMS // 2
    assert statistics.mean(sizes) > 1.5


async def test_calls_are_served_ahead_of_the_frames_that_wait() -> None:
    """A call waits for the batch that runs and goes with the next; frames wait for those before them."""
    async with serving("slow=echo,delay_ms=25,max_batch=2", scheduler={"lanes": 1}) as server:
        async with _saturated(server, "slow") as talks:
            calls = [(await look(server, bytes((n, 1, 1)), "slow")).timings for n in range(12)]
        frames = _timings(talks)
    waited = statistics.median(timings.queue_us for timings in calls)
    assert waited < 0.4 * statistics.median(timings.queue_us for timings in frames)


async def test_a_call_with_a_deadline_is_let_in_and_answered_beside_video() -> None:
    slow = "slow=echo,delay_ms=25,max_batch=2"
    async with serving(slow, scheduler={"lanes": 1}) as server, _saturated(server, "slow"):
        for number in range(5):
            request = DetectRequest(model="slow", image=pixel(bytes((number, 2, 2))))
            await server.inference.Detect(request, timeout=30)


async def test_what_waits_and_what_is_busy_can_be_seen_while_it_is_so() -> None:
    async with serving("slow=echo,delay_ms=60,max_batch=1", scheduler={"lanes": 1}) as server:
        calls = [asyncio.ensure_future(look(server, bytes((n, 3, 3)), "slow")) for n in range(100)]
        value = server.app.metrics.registry.get_sample_value
        detect, labels = {"method": "Detect"}, {"model": "slow", "version": "1"}

        def came() -> float:
            answered = value("opsin_calls_total", {**detect, "code": "OK", "reason": ""}) or 0
            return answered + (value("opsin_calls_in_flight", detect) or 0)

        async with asyncio.timeout(60):
            while came() < len(calls) or (await _seen(server)).oldest_wait_us < 50_000:
                await asyncio.sleep(0.005)
        model = await _seen(server)
        assert 1 <= model.queued < 100
        assert 0 < model.busy_share <= 1
        assert [(one.batch_size, one.median_us >= 60_000) for one in model.profile] == [(1, True)]
        assert 1 <= (value("opsin_queued", labels) or 0) < 100
        assert (value("opsin_oldest_wait_seconds", labels) or 0) > 0.05
        assert 0 < (value("opsin_device_busy_share", {"device": "cpu"}) or 0) <= 1
        assert (value("opsin_profile_seconds", {**labels, "batch_size": "1"}) or 0) >= 0.06
        for call in calls:
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        left = sum(isinstance(end, asyncio.CancelledError) for end in ends)
        assert left
        async with asyncio.timeout(60):
            while server.app.scheduler.waiting:
                await asyncio.sleep(0.005)
        cancelled = value("opsin_tickets_total", {"model": "slow@1", "end": "cancelled"}) or 0
        assert cancelled >= left - 2, "one was on the lane, and the answer to another on its way"
        assert (await _seen(server)).queued == 0


async def _seen(server: Serving) -> Any:
    return (await server.models.GetModel(GetModelRequest(name="slow"))).model
