"""Callers of unary calls: closed loop (so many in flight) or open loop (so many a second, come what may).

Plain stubs on a channel of their own, which retry nothing, so that what the server says is what is counted.
The loop and the samples are those of `opsin bench`. `beside` runs a load in another process.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

import grpc
import uvloop

from bench.inputs import Kind, request_maker
from opsin.bench.load import STAGES, Budget, Recording, Sample, closed_loop
from opsin.v1 import DetectResponse, InferenceServiceStub, Timings

__all__ = ["Load", "beside", "channel", "drive", "in_loop", "open_loop", "stages"]

L = TypeVar("L")
T = TypeVar("T")
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """Who calls whom, how. rate: calls a second (open loop); None: `callers` in flight (closed loop).

    deadline: seconds each call may take, None for a minute. seed: sets the inputs of two loads apart.
    """

    target: str
    model: str
    kind: Kind
    seconds: float
    callers: int = 1
    rate: float | None = None
    deadline: float | None = None
    warmup: float = 0.5
    seed: int = 0


def channel(target: str) -> grpc.aio.Channel:
    """A connection that nobody shares. A coroutine's loop must be running."""
    return grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.max_receive_message_length", 32 << 20),
            ("grpc.max_send_message_length", 32 << 20),
        ],
    )


def in_loop(coroutine: Any) -> Any:
    """Run a coroutine on a fast event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def drive(load: Load) -> Recording:
    """Warm up, then run the load; blocks until every call has ended."""
    recording: Recording = in_loop(_drive(load))
    return recording


@contextmanager
def beside(drive_it: Callable[[L], T], load: L) -> "Iterator[Future[T]]":
    """A load in a process of its own, begun; `drive_it(load)` gives the future's result."""
    # A fresh interpreter: gRPC does not survive a fork.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool.submit(drive_it, load)


async def _drive(load: Load) -> Recording:
    make = request_maker(load.kind, load.model, load.seed)
    async with channel(load.target) as opened:
        stub: Any = InferenceServiceStub(opened)

        async def call(number: int) -> Sample:
            return await _call(stub, make(number), load.deadline or PATIENCE)

        if load.rate is not None:
            return await open_loop(call, load.rate, load.seconds, load.seed)
        if load.warmup:
            await closed_loop(_shifted(call), Budget(duration=load.warmup), load.callers)
        return await closed_loop(call, Budget(duration=load.seconds), load.callers)


def _shifted(call: Callable[[int], Awaitable[Sample]]) -> Callable[[int], Awaitable[Sample]]:
    """The warm-up sends none of the inputs that the run sends."""
    return lambda number: call(number + (1 << 32))


async def _call(stub: Any, request: Any, deadline: float) -> Sample:
    started = time.perf_counter()
    try:
        reply: DetectResponse = await stub.Detect(request, timeout=deadline)
    except grpc.aio.AioRpcError as error:
        return Sample(time.perf_counter() - started, error=error.code().name)
    return Sample(time.perf_counter() - started, "", "", reply.timings.batch_size, stages(reply.timings))


def stages(timings: Timings) -> tuple[float, ...]:
    """Milliseconds, in the order of `STAGES`."""
    return tuple(getattr(timings, f"{stage}_us") / 1000 for stage in STAGES)


async def open_loop(
    call: Callable[[int], Awaitable[Sample]], rate: float, seconds: float, seed: int = 0
) -> Recording:
    """Begin calls at random moments (Poisson), `rate` a second, and wait for all of them to end.

    A caller that is late itself begins what is due at once, so the rate holds on the whole.
    """
    recording, chance = Recording(), random.Random(seed)
    started, cpu = time.perf_counter(), time.process_time()

    async def one(number: int) -> None:
        sample = await call(number)
        recording.samples.append(sample)
        if sample.answered:
            recording.seconds = time.perf_counter() - started

    async with asyncio.TaskGroup() as group:
        due, number = started, 0
        while (due := due + chance.expovariate(rate)) < started + seconds:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            group.create_task(one(number))
            number += 1
    # The server works on after the last call has begun: a rate counts the time up to the last answer.
    recording.seconds = max(seconds, recording.seconds)
    recording.cpu_seconds = time.process_time() - cpu
    return recording
