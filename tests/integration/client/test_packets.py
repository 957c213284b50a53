"""A video's own packets, from the file to the answers, by both clients against the real server."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opsin
from serving import serving

av = pytest.importorskip("av")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """24 frames of H.264 with a key frame each 6."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=24, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.gop_size = 6
        for number in range(24):
            pixels = np.zeros((64, 96, 3), np.uint8)
            pixels[:, 4 * number : 4 * number + 4] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("codec", ["h264", "auto"])
async def test_a_video_s_packets_are_answered_like_its_pictures(clip: Path, codec: Any) -> None:
    async with serving("echo") as server, opsin.AsyncClient(server.target) as client:
        replies = [reply async for reply in client.stream(clip, codec=codec, track=True)]
        pictures = [reply async for reply in client.stream(clip)]
    assert [r.sequence for r in replies] == [r.sequence for r in pictures] == list(range(1, 25))
    for reply in replies:
        assert isinstance(reply, opsin.FrameResult)
        assert isinstance(reply.input, opsin.Packet)
        assert (reply.result.width, reply.result.height) == (96, 64)
        assert reply.result.detections[0].track_id == 1


async def test_after_a_damaged_packet_the_rest_is_passed_over_up_to_the_next_key_frame(clip: Path) -> None:
    from opsin._packets import PacketVideo

    frames = list(PacketVideo(clip))
    broken = frames[3].input.data
    frames[3] = opsin.Frame(opsin.Packet(broken[: len(broken) // 2] + b"\x55" * 200))

    def use(target: str) -> list[str]:
        with opsin.Client(target) as client:
            replies = list(client.stream(frames, codec="h264", window=1))
        assert [r.sequence for r in replies] == list(range(1, 25))
        return [str(getattr(r, "reason", type(r).__name__)) for r in replies]

    async with serving("echo") as server:
        outcomes = await asyncio.to_thread(use, server.target)
    assert outcomes[:3] == ["FrameResult"] * 3
    assert outcomes[6:] == ["FrameResult"] * 18
    # What the decoder makes of the damage shows with it or with the next packet; then nothing more is sent.
    assert "FrameFailed" in outcomes[3:5]
    assert outcomes[5] == "skipped"


async def test_a_picture_stream_that_is_given_a_packet_says_what_to_do() -> None:
    async with serving("echo") as server, opsin.AsyncClient(server.target) as client:
        replies = [r async for r in client.stream([opsin.Packet(b"x", key_frame=True)])]
    assert isinstance(replies[0], opsin.FrameFailed)
    assert "codec" in str(replies[0].error)
