"""Videos that come over the network, from a camera by RTSP and from a web server, through the real server."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opsin
from opsin._video import Video
from opsin_server.media.video import Codec
from rtsp import Camera, camera
from serving import serving
from unit.media.test_video import encode, scene

av = pytest.importorskip("av")

FPS = 30
SHOWN = scene(20)


@pytest.fixture(scope="module")
def film() -> Sequence[bytes]:
    """20 frames of H.264, a key frame each 10, larger than an RTP packet."""
    return encode(Codec.H264, SHOWN, gop=10)


@pytest.fixture
def door(film: Sequence[bytes]) -> Iterator[Camera]:
    with camera(film, FPS) as opened:
        yield opened


async def looked_at(source: str, **asked: Any) -> list[Any]:
    """What the real server says of a source."""
    async with serving("echo") as server, opsin.AsyncClient(server.target) as client:
        return [reply async for reply in client.stream(source, **asked)]


def sizes(replies: list[Any]) -> set[tuple[int, int]]:
    assert [type(reply) for reply in replies] == [opsin.FrameResult] * len(replies)
    return {(reply.result.width, reply.result.height) for reply in replies}


@pytest.mark.parametrize("codec", ["image", "auto", "h264"])
async def test_every_frame_of_an_rtsp_camera_is_answered(door: Camera, codec: Any) -> None:
    replies = await looked_at(door.url, codec=codec)
    assert [reply.sequence for reply in replies] == list(range(1, 21))
    assert sizes(replies) == {(160, 96)}
    assert {isinstance(reply.input, opsin.Packet) for reply in replies} == {codec != "image"}
    assert door.asked[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]
    assert all("TCP" in transport for transport in door.transports), "packets lost by UDP smear the picture"


def test_the_frames_of_an_rtsp_camera_are_its_pictures_in_order_and_live(door: Camera) -> None:
    with Video(door.url) as video:
        assert video.live
        frames = list(video)
    assert len(frames) == len(SHOWN)
    for frame, shown in zip(frames, SHOWN, strict=True):
        assert np.abs(frame.input.astype(int) - shown).mean() < 12
    times = [frame.time for frame in frames]
    assert times == sorted(times)


async def test_a_camera_in_latest_answers_or_drops_each_frame_once(door: Camera) -> None:
    replies = await looked_at(door.url, freshness="latest")
    assert [reply.sequence for reply in replies] == list(range(1, 21))
    assert {type(reply) for reply in replies} <= {opsin.FrameResult, opsin.FrameDropped}
    assert isinstance(replies[-1], opsin.FrameResult)


async def test_a_camera_that_is_not_there_is_told_with_its_address() -> None:
    with pytest.raises(opsin.InvalidInput, match=r"rtsp://127\.0\.0\.1:1/door"):
        await looked_at("rtsp://127.0.0.1:1/door")


@pytest.fixture
def site(film: Sequence[bytes], tmp_path: Path) -> Iterator[str]:
    """A web server with film.mp4, its index in front."""
    with (
        av.open(str(tmp_path / "film.mp4"), "w", options={"movflags": "faststart"}) as container,
    ):
        stream: Any = container.add_stream("libx264", rate=FPS, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for pixels in SHOWN:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    handler = partial(Quiet, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder."""

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@pytest.mark.parametrize("codec", ["image", "auto"])
async def test_every_frame_of_a_video_at_an_http_address_is_answered(site: str, codec: Any) -> None:
    replies = await looked_at(f"{site}/film.mp4", codec=codec)
    assert [reply.sequence for reply in replies] == list(range(1, 21))
    assert sizes(replies) == {(160, 96)}


async def test_a_video_that_the_web_server_does_not_have_is_told_with_its_address(site: str) -> None:
    with pytest.raises(opsin.InvalidInput, match=r"/gone\.mp4"):
        await looked_at(f"{site}/gone.mp4")
