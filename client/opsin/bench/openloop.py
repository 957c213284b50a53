"""The open loop: calls are sent when they are due, however slow the server is, as users of a service do.

Latency counts from the time a call was meant to be sent. So when a server stalls for a second, the calls that
were due in that second show it, where a closed loop would not have sent them (coordinated omission). What the
tool itself was late by is kept beside, as `lag`. Pure but for the clock and the call it is given.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace

from opsin.bench.load import Budget, Call, Recording

__all__ = ["MOST_IN_FLIGHT", "open_loop", "until"]

MOST_IN_FLIGHT = 10_000
"""Calls under way in one process, beyond which calls are not sent but counted: memory is not endless."""
_SHORT = 0.0005
"""Seconds below which others are given way to instead of sleeping."""


async def open_loop(
    call: Call,
    offsets: Iterable[float],
    recording: Recording,
    *,
    budget: Budget,
    callers: int | None = None,
    drain: float | None = None,
    span: float = 0.0,
    most: int = MOST_IN_FLIGHT,
) -> Recording:
    """Begin a call at each offset (seconds from now), and wait for all of them.

    budget: numbers the calls, and may be stopped. callers: the most calls under way; one that is due when all
    are busy waits, and its latency counts the wait. None: no such limit. drain: seconds to wait for answers
    after the last call was due; what is under way then is cut off. None: until all are answered. span: the
    seconds the arrivals are spread over, which a rate is to be counted over even when all ends sooner.
    """
    begin, cpu = time.perf_counter(), time.process_time()
    places: AbstractAsyncContextManager[object] = asyncio.Semaphore(callers) if callers else nullcontext()
    under_way: set[asyncio.Task[None]] = set()
    sending: float | None = None

    async def one(number: int, due: float) -> None:
        # The way of a task from its making to here is the tool's, and counts as its lateness.
        lag = time.perf_counter() - due
        async with places:
            sample = await call(number)
        now = time.perf_counter()
        recording.samples.append(replace(sample, seconds=now - due, at=due - begin, lag=lag))
        recording.seconds = now - begin

    try:
        for offset in offsets:
            due = begin + offset
            await until(due)
            number = budget.take()
            if number is None:
                break
            if len(under_way) >= most:
                recording.unsent += 1
                continue
            task = asyncio.create_task(one(number, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if not budget.stopped:
            await until(begin + span)
        sending = time.perf_counter() - begin
        if under_way:
            await asyncio.wait(under_way, timeout=drain)
    finally:
        # The patience with what is under way after an early end is no time in which calls were sent.
        elapsed = time.perf_counter() - begin if sending is None else sending
        recording.seconds = max(recording.seconds, min(span, elapsed))
        recording.unfinished += len(under_way)
        for task in list(under_way):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        recording.cpu_seconds = time.process_time() - cpu
    return recording


async def until(due: float) -> None:
    """Sleep until then, and not a moment less; give way to others once even when it is past.

    Timers tick in milliseconds and wake too early as often as too late: a call sent before it is due would
    seem quicker than it was.
    """
    await asyncio.sleep(0)
    while (wait := due - time.perf_counter()) > 0:  # noqa: ASYNC110  the clock sets no event
        await asyncio.sleep(wait if wait > _SHORT else 0)
