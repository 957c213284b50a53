"""What a stream may be sent in bad faith or by mistake: the contract's answer, and nothing left behind.

Video packets of each codec as a bad network and a bad encoder deliver them; then all of it over and over,
with everything counted that could pile up.
"""

import asyncio
import gc
import random
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import grpc
import psutil
import pytest
import simplejpeg

from integration.streams.talking import Talk, ended, latest, picture, sequence, talking, word
from opsin.v1 import Codec, Image, RawImage, StreamConfig, StreamDetectRequest
from opsin_server import calls
from opsin_server.media import video
from opsin_server.rpc.live_stream import LiveStream
from opsin_server.rpc.stream_work import Work
from opsin_server.streams.session import StreamSession
from serving import Serving, serving
from unit.media.test_video import clip, encode, scene

NOISE = random.Random(5).randbytes(100_000)
CHAINED = {Codec.CODEC_H264: video.Codec.H264, Codec.CODEC_HEVC: video.Codec.HEVC}
UNDECODABLE = "IMAGE_UNDECODABLE"

Attack = Callable[[Talk], Awaitable[None]]


def outcomes(replies: list[Any]) -> list[str]:
    """Of every frame, in order; the numbers are right."""
    assert [sequence(r) for r in replies] == list(range(1, len(replies) + 1))
    return [word(r) for r in replies]


async def film(stream: Talk, codec: Any, packets: list[bytes], **config: Any) -> list[str]:
    await stream.config(codec=codec, **config)
    for number, packet in enumerate(packets, 1):
        await stream.frame(number, packet=packet)
    return outcomes(await stream.rest())


async def refused(stream: Talk) -> str:
    """The reason that the call ends with; nobody is told INTERNAL."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.rest()
    assert caught.value.code() is not grpc.StatusCode.INTERNAL
    return ended(caught.value)


@cache
def parts(codec: Any) -> tuple[bytes, bytes]:
    """The parameter sets of a clip, and its first picture without them."""
    first = clip(CHAINED[codec], gop=5)[0]
    units = [b"\0\0\0\1" + unit for unit in first.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
    kinds = {Codec.CODEC_H264: (7, 8), Codec.CODEC_HEVC: (32, 33, 34)}[codec]

    def kind(unit: bytes) -> int:
        return unit[4] & 31 if codec == Codec.CODEC_H264 else unit[4] >> 1 & 63

    sets = b"".join(unit for unit in units if kind(unit) in kinds)
    return sets, b"".join(unit for unit in units if kind(unit) not in kinds)


@pytest.mark.parametrize("codec", list(CHAINED))
async def test_parameter_sets_alone_and_again_mid_stream_cost_no_picture(codec: Any) -> None:
    packets = list(clip(CHAINED[codec], gop=5))
    sets, first = parts(codec)
    sent = [sets, first, *packets[1:4], sets, packets[4], sets, *packets[5:10]]
    async with serving("echo") as server, talking(server) as stream:
        words = await film(stream, codec, sent)
    alone = {0, 5, 7}
    assert words == ["NO_PICTURE" if at in alone else "result" for at in range(len(sent))]


@pytest.mark.parametrize("codec", list(CHAINED))
async def test_after_a_lost_packet_a_key_frame_is_asked_for_and_mends_the_stream(codec: Any) -> None:
    packets = list(clip(CHAINED[codec], gop=10))
    del packets[4]
    async with serving("echo") as server, talking(server) as stream:
        words = await film(stream, codec, packets)
    assert words == ["result"] * 4 + [UNDECODABLE] * 5 + ["result"] * 10
    asked = [r.failed.key_frame_wanted for r in stream.replies if word(r) == UNDECODABLE]
    assert asked == [True] * 5


@pytest.mark.parametrize("codec", list(CHAINED))
async def test_a_stream_that_is_cut_into_begins_with_the_first_key_frame(codec: Any) -> None:
    async with serving("echo") as server, talking(server) as stream:
        words = await film(stream, codec, list(clip(CHAINED[codec], gop=10))[7:])
    assert words == [UNDECODABLE] * 3 + ["result"] * 10


@pytest.mark.parametrize("codec", list(CHAINED))
async def test_the_resolution_changes_mid_stream_and_replies_say_so(codec: Any) -> None:
    small = list(clip(CHAINED[codec], gop=10))[:10]
    large = encode(CHAINED[codec], scene(5, 320, 240), gop=10)
    async with serving("echo") as server, talking(server) as stream:
        words = await film(stream, codec, small + large + small)
    assert words == ["result"] * 25
    sizes = [(r.result.response.image.width, r.result.response.image.height) for r in stream.replies[1:]]
    assert sizes == [(160, 96)] * 10 + [(320, 240)] * 5 + [(160, 96)] * 10


async def test_motion_jpeg_loses_nothing_but_the_bad_packet() -> None:
    small, large = (simplejpeg.encode_jpeg(scene(1, *size)[0]) for size in ((160, 96), (320, 240)))
    sent = [small, NOISE, large, small[: len(small) // 2], b"\xff\xd8\xff", small]
    async with serving("echo") as server, talking(server) as stream:
        words = await film(stream, Codec.CODEC_MJPEG, sent)
    assert words == ["result", UNDECODABLE, "result", UNDECODABLE, UNDECODABLE, "result"]
    assert not any(r.failed.key_frame_wanted for r in stream.replies)
    sizes = [r.result.response.image.width for r in stream.replies if word(r) == "result"]
    assert sizes == [160, 320, 160]


# What is wrong from the start.


async def noise(stream: Talk) -> None:
    """As packets, and as pictures."""
    await stream.config(codec=Codec.CODEC_H264)
    for number in range(1, 4):
        await stream.frame(number, packet=NOISE)
    await stream.frame(4, Image(encoded=NOISE))
    words = outcomes(await stream.rest())
    assert set(words) <= {UNDECODABLE, "FORMAT_UNSUPPORTED"}, words


async def nothing(stream: Talk) -> None:
    """Frames of no size."""
    await stream.config(freshness=latest())
    empty = (
        Image(),
        Image(encoded=b""),
        Image(raw=RawImage()),
        Image(raw=RawImage(data=b"\0" * 12, width=0, height=2)),
        Image(raw=RawImage(data=b"\0" * 12, width=2, height=0)),
    )
    for number, image in enumerate(empty, 1):
        await stream.frame(number, image)
        await stream.read()
    await stream.frame(6, packet=b"")
    await stream.frame(7)
    words = outcomes(await stream.rest())
    assert words[:3] == ["INPUT_MISSING"] * 3
    assert set(words[3:5]) <= {"INPUT_MISSING", "OPTION_INVALID", UNDECODABLE}, words
    assert words[5] in ("CODEC_UNSUPPORTED", "INPUT_MISSING")
    assert words[6] == "result"


async def frame_first(stream: Talk) -> None:
    await stream.frame(1)
    assert await refused(stream) == "STREAM_PROTOCOL"


async def second_config(stream: Talk) -> None:
    await stream.config()
    await stream.frame(1)
    await stream.call.write(StreamDetectRequest(config=StreamConfig()))
    assert await refused(stream) == "STREAM_PROTOCOL"
    assert [word(r) for r in stream.replies[1:]] == ["result"]


async def back(stream: Talk) -> None:
    await stream.config()
    await stream.frame(5)
    await stream.frame(4)
    assert await refused(stream) == "SEQUENCE_NOT_INCREASING"
    assert [sequence(r) for r in stream.replies[1:]] == [5]


async def unknown_codec(stream: Talk) -> None:
    await stream.call.write(StreamDetectRequest(config=StreamConfig(codec=77)))  # type: ignore[arg-type]
    assert await refused(stream) == "CODEC_UNSUPPORTED"
    assert stream.replies == []


async def unknown_model(stream: Talk) -> None:
    await stream.call.write(StreamDetectRequest(config=StreamConfig(model="eco")))
    assert await refused(stream) == "MODEL_NOT_FOUND"
    assert stream.replies == []


async def gone(stream: Talk) -> None:
    """Leaves in the middle of its frames."""
    await stream.config(codec=Codec.CODEC_HEVC, track=True)
    for number, packet in enumerate(clip(video.Codec.HEVC, gop=5)[:6], 1):
        await stream.frame(number, packet=packet)
    stream.call.cancel()


ATTACKS: tuple[Attack, ...] = (
    noise,
    nothing,
    frame_first,
    second_config,
    back,
    unknown_codec,
    unknown_model,
    gone,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_the_answer_is_the_contracts_and_the_next_stream_is_served(attack: Attack) -> None:
    async with serving("echo") as server:
        async with talking(server) as stream:
            await attack(stream)
        async with talking(server) as stream:
            await stream.config()
            await stream.frame(1, picture())
            assert outcomes(await stream.rest()) == ["result"]


async def left_behind(server: Serving, tasks: int = 1 << 30, files: int = 1 << 30) -> dict[str, int]:
    """What could pile up in this process, once the streams are gone and no more than that is left."""

    def busy() -> bool:
        app = server.app
        pixels = app._budget.used + app._budget.held
        crowded = len(asyncio.all_tasks()) > tasks or psutil.Process().num_fds() > files
        return bool(app.rpc.streams.live or app.scheduler.waiting or pixels or crowded or streams_in_memory())

    async with asyncio.timeout(60):
        while busy():
            await asyncio.sleep(0.05)
    return {
        "tasks": len(asyncio.all_tasks()),
        "files": psutil.Process().num_fds(),
        "bytes": tracemalloc.get_traced_memory()[0],
    }


def streams_in_memory() -> int:
    """Parts of streams that nobody let go of."""
    gc.collect()
    kinds = (LiveStream, StreamSession, Work, video._ChainDecoder)
    return sum(type(thing) in kinds for thing in gc.get_objects())


async def test_pictures_of_a_client_that_left_do_not_wait_for_the_garbage_collector() -> None:
    def pictures() -> int:
        return sum(type(thing) is calls.RawImage for thing in gc.get_objects())

    async with serving("slow=echo,delay_ms=50,max_batch=1") as server:
        gc.collect()
        others = pictures()  # of other tests of this process
        gc.disable()
        try:
            for _ in range(3):
                async with talking(server) as stream:
                    await stream.config()
                    for number in range(1, 6):
                        await stream.frame(number)
                    await stream.read()
            async with asyncio.timeout(60):
                while server.app.rpc.streams.live or server.app.scheduler.waiting or pictures() > others:
                    await asyncio.sleep(0.05)
        finally:
            gc.enable()


@pytest.mark.slow
async def test_attacks_without_end_leave_nothing_behind() -> None:
    async def all_of_them(rounds: int) -> None:
        for attack in ATTACKS * rounds:
            async with talking(server) as stream:
                await attack(stream)

    tracemalloc.start()
    try:
        async with serving("echo") as server:
            await all_of_them(4)  # caches and pools fill
            before = await left_behind(server)
            await all_of_them(16)
            after = await left_behind(server, before["tasks"], before["files"])
    finally:
        tracemalloc.stop()
    print(f"before {before}, after {16 * len(ATTACKS)} bad streams {after}")
    assert after["bytes"] - before["bytes"] < 1_000_000, "the noise alone was 6 MB"
