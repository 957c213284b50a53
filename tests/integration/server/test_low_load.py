"""Nobody is turned away while there is room: few callers, each with one call at a time, are never refused."""

import asyncio
from collections import Counter

import grpc
import pytest

from opsin.v1 import DetectRequest, Image, RawImage
from serving import Serving, serving

CALLS = 60


async def closed_loop(server: Serving, caller: int, ends: Counter[str]) -> None:
    """One call after another, each begun as soon as the one before was answered; no two are alike."""
    for number in range(CALLS):
        colour = bytes((caller, number, 7))
        raw = RawImage(data=colour * 64, width=8, height=8)
        try:
            await server.inference.Detect(DetectRequest(image=Image(raw=raw)), timeout=60)
        except grpc.aio.AioRpcError as error:
            ends[f"{error.code().name}: {error.details()}"] += 1
        else:
            ends["answered"] += 1


@pytest.mark.parametrize("model", ["echo", "echo,light=false", "echo,delay_ms=5,max_batch=1"])
@pytest.mark.parametrize("places", [1024, 2], ids=["the default", "a place for each"])
async def test_two_callers_in_a_closed_loop_are_never_refused(model: str, places: int) -> None:
    async with serving(model, limits={"max_queued_tickets": places}) as server:
        ends: Counter[str] = Counter()
        await asyncio.gather(*(closed_loop(server, caller, ends) for caller in range(2)))
    assert ends == {"answered": 2 * CALLS}
