"""Many streams on one device: whatever each sends, and how fast, those with work get the same."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from integration.streams.talking import Talk, latest, picture, talking, word
from serving import serving

STREAMS = 32
SIDES = (16, 48, 160, 320)
ENOUGH = 20
"""Results of each: what one more or less is, is five in a hundred."""


async def _film(talk: Talk, ahead: int, side: int, stop: asyncio.Event) -> None:
    """Keeps so many frames unanswered: several times its share, and the more of them the higher its rate."""
    frame = picture(1, side, side)
    for number in range(1, ahead + 1):
        await talk.frame(number, frame)
    while not stop.is_set():
        await talk.read()
        number += 1
        await talk.frame(number, frame)
    await talk.rest()


@pytest.mark.slow
async def test_thirty_two_streams_of_different_rates_and_sizes_get_equal_shares() -> None:
    device = "slow=echo,delay_ms=10,delay_item_ms=5,max_batch=4"
    async with serving(device, scheduler={"lanes": 1}) as server, AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(talking(server)) for _ in range(STREAMS)]
        for number, talk in enumerate(talks):
            await talk.config(freshness=latest(), stream_id=f"camera-{number}")
        stop = asyncio.Event()
        films = [
            asyncio.create_task(_film(talk, (2, 4, 8)[n % 3], SIDES[n % 4], stop))
            for n, talk in enumerate(talks)
        ]
        async with asyncio.timeout(120):
            while sum(_results(talk) for talk in talks) < STREAMS * ENOUGH:
                await asyncio.sleep(0.05)
        got = [_results(talk) for talk in talks]
        sent = [len(talk.replies) for talk in talks]
        stop.set()
        await asyncio.gather(*films)
    mean = sum(got) / STREAMS
    assert max(sent) > 1.5 * min(sent) > 3 * mean
    # The first batches may find few streams, and one result is under way: two beside the tenth.
    assert max(abs(one - mean) for one in got) <= 0.1 * mean + 2, got
    print(f"results of {STREAMS} streams: {min(got)} to {max(got)}, of {min(sent)} to {max(sent)} frames")


def _results(talk: Talk) -> int:
    return sum(word(reply) == "result" for reply in talk.replies)
