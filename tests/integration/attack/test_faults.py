"""Faults of inputs, of clients and of load, made to happen: they hit the guilty call and no other."""

import asyncio
import random
import threading
from collections import Counter
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from integration.attack.told import CYAN, MAGENTA, YELLOW, Told, goes_on, look, pixel, refused, told
from opsin.v1 import BatchDetectRequest, DetectRequest
from serving import serving


async def outcome(call: Any) -> str | Told:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return told(error)
    return "answered"


async def test_poison_and_short_answers_in_a_batch_fail_alone() -> None:
    async with serving("echo,poison=true,short=true,delay_ms=5") as server:
        colours = [bytes((number, 0, 0)) for number in range(40)]
        colours[7] = colours[31] = MAGENTA
        colours[23] = YELLOW
        outcomes = await asyncio.gather(*(outcome(look(server, colour)) for colour in colours))
        reasons = {i: o.reason for i, o in enumerate(outcomes) if isinstance(o, Told)}
        assert reasons == {7: "DETECTOR_FAILED", 23: "DETECTOR_BROKEN", 31: "DETECTOR_FAILED"}
        assert all(o.code == "INTERNAL" for o in outcomes if isinstance(o, Told))
        await goes_on(server)


async def test_poison_in_a_batch_call_is_one_items_error() -> None:
    async with serving("echo,poison=true,short=true") as server:
        colours = (b"\1\1\1", MAGENTA, b"\2\2\2", YELLOW, b"\1\1\1")
        items = [DetectRequest(model="echo", image=pixel(colour)) for colour in colours]
        reply = await server.inference.BatchDetect(BatchDetectRequest(requests=items))
        kinds = [o.WhichOneof("outcome") for o in reply.outcomes]
        assert kinds == ["response", "error", "response", "error", "response"]


async def test_beyond_the_queue_calls_are_told_when_to_come_back_and_the_accepted_are_answered(
    gate: threading.Event,
) -> None:
    limits = {"max_queued_tickets": 64}
    async with serving("slow=echo,delay_ms=20,max_batch=4", limits=limits) as server:
        gate.clear()
        calls = [look(server, bytes((n % 256, n // 256, 0)), "slow") for n in range(400)]
        waiting = [asyncio.create_task(outcome(call)) for call in calls]
        beside = 64 + 4 * server.app.scheduler.lanes  # in the queue, and on the lanes
        async with asyncio.timeout(60):
            while sum(call.done() for call in waiting) < 400 - beside:
                await asyncio.sleep(0.01)
        gate.set()
        outcomes = await asyncio.gather(*waiting)
        refusals = [o for o in outcomes if isinstance(o, Told)]
        assert 64 <= 400 - len(refusals) <= beside
        for refusal in refusals:
            assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
            assert set(refusal.details) == {"ErrorInfo", "RetryInfo", "QuotaFailure"}
            assert int(refusal.trailers["grpc-retry-pushback-ms"]) > 0
            assert refusal.trailers_only
        await goes_on(server, "slow")


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_calls_cancelled_at_any_moment_leave_nothing_behind(seed: int) -> None:
    async with serving("echo", "slow=echo,delay_ms=20,max_batch=8") as server:
        chance = random.Random(seed)
        threads = threading.active_count()

        async def cancel() -> str:
            colour = bytes(chance.randrange(256) for _ in range(3))
            model = chance.choice(["echo", "slow"])
            call: Any = server.inference.Detect(DetectRequest(model=model, image=pixel(colour)))
            await asyncio.sleep(chance.choice([0, 0.001, 0.01, 0.02, 0.04, 0.1]) * chance.random() * 2)
            call.cancel()
            try:
                await call
            except asyncio.CancelledError:
                return "cancelled"
            return "answered"

        ends = Counter(await asyncio.gather(*(cancel() for _ in range(350))))
        assert ends["cancelled"] > 100
        async with asyncio.timeout(30):
            while server.app.scheduler.waiting:
                await asyncio.sleep(0.01)
        await goes_on(server)
        await goes_on(server, "slow")
        assert threading.active_count() <= threads + 2


async def test_a_neighbour_that_leaves_takes_nobody_along() -> None:
    async with serving("slow=echo,delay_ms=20,max_batch=8") as server:
        calls = [
            server.inference.Detect(DetectRequest(model="slow", image=pixel(bytes((n, 0, 0)))))
            for n in range(60)
        ]
        await asyncio.sleep(0.04)
        for call in calls[::3]:
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        left = [end for number, end in enumerate(ends) if number % 3]
        assert not [end for end in left if isinstance(end, BaseException)]


@pytest.mark.parametrize("milliseconds", [1, 10, 30])
async def test_a_deadline_too_short_is_never_answered_late(milliseconds: int) -> None:
    async with serving("slow=echo,delay_ms=50,max_batch=4") as server:
        calls = [
            server.inference.Detect(
                DetectRequest(model="slow", image=pixel(bytes((n, 0, 0)))), timeout=milliseconds / 1000
            )
            for n in range(30)
        ]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        codes = {end.code().name for end in ends if isinstance(end, grpc.aio.AioRpcError)}
        assert len([end for end in ends if isinstance(end, grpc.aio.AioRpcError)]) == 30
        assert codes <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
        await goes_on(server, "slow")


async def test_a_lane_that_hangs_is_told_of_and_replaced() -> None:
    settings = {"stall_timeout": 5.0, "lanes": 1}
    async with serving("echo,hang=true", "other=echo,light=false", scheduler=settings) as server:
        seen: list[int] = []

        async def watch() -> None:
            async for reply in HealthStub(server.channel).Watch(HealthCheckRequest()):
                seen.append(reply.status)  # noqa: PERF401  looked at while it grows

        watching = asyncio.create_task(watch())
        fleet = server.app.scheduler._dispatcher.fleet
        lost = asyncio.create_task(refused(look(server, CYAN)))
        async with asyncio.timeout(60):
            while not fleet.jobs:
                await asyncio.sleep(0.001)
        other = asyncio.create_task(outcome(look(server, model="other")))
        fleet._lanes[0].since -= 60  # it has had that lane for a minute
        assert await other == "answered"
        failure = await lost
        assert (failure.code, failure.reason) == ("UNAVAILABLE", "LANE_LOST")
        assert int(failure.trailers["grpc-retry-pushback-ms"]) < 0
        serving_, not_serving = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
        async with asyncio.timeout(30):
            while seen != [serving_, not_serving, serving_]:
                await asyncio.sleep(0.01)
        await goes_on(server)
        watching.cancel()


async def test_a_server_started_and_stopped_leaves_no_thread_and_no_file() -> None:
    async def round_trip() -> None:
        async with serving("echo") as server:
            await goes_on(server)

    await round_trip()
    files, tasks = psutil.Process().num_fds(), len(asyncio.all_tasks())
    for _ in range(3):
        await round_trip()
    async with asyncio.timeout(30):
        while _ours() or psutil.Process().num_fds() > files + 2 or len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.02)


def _ours() -> list[str]:
    """Names of the server's threads."""
    kinds = ("opsin-cpu", "lane", "load", "finish")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(kinds)]
