"""Callers that leave at random moments, and whether all the others get the right answer.

`echo` embeds a text to numbers that are a function of that text alone, and every text is sent once: an answer
that went to the wrong caller is seen.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from bench.figures import Figure, at_least, at_most
from bench.inputs import text_request
from bench.load import channel, in_loop
from bench.scale import Scale
from bench.server import Server
from opsin.v1 import InferenceServiceStub
from opsin_detectors.echo.detector import text_vector

__all__ = ["measure"]

DEVICE = "device=echo,delay_ms=5,delay_item_ms=0.5,max_batch=16"
CALLERS, CONNECTIONS = 64, 4
CANCELLED = 10_000
LEAVERS = 0.5
"""The share of calls that are cancelled."""
LATEST = 0.06
"""Seconds within which they are: some before they are read, some queued, some running, some just answered."""


@dataclass(slots=True)
class _Count:
    cancelled: int = 0
    answered: int = 0
    too_late: int = 0
    """Answered before the cancellation came."""
    wrong: int = 0
    failed: dict[str, int] = field(default_factory=dict)


def measure(scale: Scale) -> list[Figure]:
    """About a minute."""
    wanted = scale.count(CANCELLED)
    with Server(DEVICE) as server:
        count: _Count = in_loop(_run(server.target, wanted))
        time.sleep(0.5)
        counters = server.counters()
    beside = {
        "cancelled": count.cancelled,
        "answered": count.answered,
        "answered_before_cancelled": count.too_late,
        "failed": count.failed,
        "tickets": {
            end: counters.total("opsin_tickets_total", model="device", end=end)
            for end in ("answered", "cancelled", "failed", "expired", "lost")
        },
        "calls_still_in_flight": counters.total("opsin_calls_in_flight"),
        "still_queued": counters.total("opsin_queued"),
    }
    others = count.answered + sum(count.failed.values())
    return [
        Figure(
            f"{count.cancelled} cancellations: share of the others answered",
            [count.answered / max(1, others)],
            "",
            at_least(1.0),
            beside,
        ),
        Figure(
            f"{count.cancelled} cancellations: answers to the wrong caller", [count.wrong], "", at_most(0)
        ),
    ]


async def _run(target: str, wanted: int) -> _Count:
    count, chance = _Count(), random.Random(7)
    channels = [channel(target) for _ in range(CONNECTIONS)]
    stubs: list[Any] = [InferenceServiceStub(one) for one in channels]
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(_caller(stubs[number % CONNECTIONS], number, wanted, count, chance))
    for one in channels:
        await one.close(None)
    return count


async def _caller(stub: Any, number: int, wanted: int, count: _Count, chance: random.Random) -> None:
    turn = 0
    while count.cancelled < wanted:
        text, turn = f"caller {number}, call {turn}", turn + 1
        call = stub.Embed(text_request("device", text), timeout=30)
        leaves = chance.random() < LEAVERS
        if leaves:
            asyncio.get_running_loop().call_later(chance.uniform(0, LATEST), call.cancel)
        try:
            reply = await call
        except asyncio.CancelledError:
            count.cancelled += 1
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            count.failed[code] = count.failed.get(code, 0) + 1
        else:
            count.too_late += leaves
            count.answered += not leaves
            count.wrong += not np.array_equal(np.float32(reply.embedding.values), text_vector(text))
