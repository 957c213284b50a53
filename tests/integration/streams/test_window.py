"""The window that streams are told, by what waits; and the memory that their decoders may fill."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from integration.streams.talking import Talk, talking, word
from opsin.v1 import Codec
from opsin_server.media import video
from opsin_server.rpc.stream import LOOK
from serving import Serving, serving
from unit.media.test_video import encode, scene


async def window_of(talk: Talk, sequence: int) -> int:
    await talk.frame(sequence)
    return int((await talk.read()).max_in_flight)


async def filled(talk: Talk, until: asyncio.Event) -> None:
    """A client that keeps 16 frames unanswered, whatever it is told."""
    for sequence in range(1, 17):
        await talk.frame(sequence)
    while not until.is_set():
        await talk.read()
        sequence += 1
        await talk.frame(sequence)
    await talk.rest()


def told_to(talks: list[Talk]) -> list[int]:
    """The windows that these clients have been told so far."""
    return [reply.max_in_flight for talk in talks for reply in talk.replies]


async def open_all(server: Serving, stack: AsyncExitStack, count: int) -> list[Talk]:
    talks = [await stack.enter_async_context(talking(server)) for _ in range(count)]
    for talk in talks:
        await talk.config()
    return talks


async def test_streams_that_say_nothing_take_nothing_of_the_others_windows() -> None:
    small = {"max_queued_tickets": 64, "max_streams": 128}
    async with serving("echo", limits=small) as server, AsyncExitStack() as stack:
        first, *_ = await open_all(server, stack, 40)
        for sequence in range(1, 5):
            window = await window_of(first, sequence)
            await asyncio.sleep(LOOK)
        assert window == 8


async def test_a_backlog_lowers_windows_and_they_come_back_when_it_is_gone() -> None:
    slow: Any = "echo,delay_item_ms=20,max_batch=4"
    async with (
        serving(f"slow={slow}", scheduler={"lanes": 1}, streams={"max_in_flight": 16}) as server,
        AsyncExitStack() as stack,
    ):
        talks = await open_all(server, stack, 3)
        enough = asyncio.Event()
        busy = [asyncio.create_task(filled(talk, enough)) for talk in talks]
        async with asyncio.timeout(60):
            while min(told_to(talks)) > 4:
                await asyncio.sleep(LOOK)
        enough.set()
        await asyncio.gather(*busy)
        told = told_to(talks)
        assert max(told) == 16
        (after,) = await open_all(server, stack, 1)
        async with asyncio.timeout(60):
            sequence = 1
            while await window_of(after, sequence) <= 2 * min(told):
                await asyncio.sleep(LOOK)
                sequence += 1


async def test_a_stream_s_decoder_waits_for_memory_and_every_frame_is_answered_in_the_end() -> None:
    packets = encode(video.Codec.H264, scene(12))
    height, width = scene(1)[0].shape[:2]
    # Room for two pictures as the decoder puts them out, and for one in RGB.
    room = 2 * width * height * 3
    async with serving("echo") as server, talking(server) as stream:
        await stream.config(codec=Codec.CODEC_H264)
        budget = server.app._budget
        budget.capacity = room  # less than can be set
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, budget.held)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        for number, packet in enumerate(packets, 1):
            await stream.frame(number, packet=packet)
        replies = await stream.rest()
        watching.cancel()
        assert [word(r) for r in replies] == ["result"] * len(packets)
        assert 0 < most <= room
        assert (budget.used, budget.held) == (0, 0)
