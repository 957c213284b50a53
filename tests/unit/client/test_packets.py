"""A video's packets, taken as they are: which can be, and in which form they come."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opsin
from opsin._options import StreamAsk
from opsin._packets import NotAsPacketsError, PacketVideo
from opsin._sources import open_source

av = pytest.importorskip("av")

Make = Callable[..., Path]


@pytest.fixture
def film(tmp_path: Path) -> Make:
    def make(
        name: str = "film.mp4", encoder: str = "libx264", *, rotation: int = 0, bframes: int = 0
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(encoder, rate=10)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
            stream.codec_context.max_b_frames = bframes
            if encoder != "mjpeg":
                params = "keyint=4:min-keyint=4:scenecut=0" + (
                    f":bframes={bframes}:b-adapt=0" if bframes else ""
                )
                tune = {} if bframes else {"tune": "zerolatency"}
                quiet = ":log-level=none" if encoder == "libx265" else ""
                stream.options = {**tune, f"{encoder[3:]}-params": params + quiet}
            if rotation:
                stream.set_display_rotation(rotation)
            for number in range(8):
                pixels = np.full((48, 64, 3), 20 * number, np.uint8)
                pixels[:, 8 * number : 8 * number + 8] = 250
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return path

    return make


@pytest.mark.parametrize(
    ("name", "encoder", "codec"),
    [
        ("film.mp4", "libx264", "h264"),
        ("film.ts", "libx264", "h264"),
        ("film.mkv", "libx264", "h264"),
        ("film.mp4", "libx265", "hevc"),
        ("film.avi", "mjpeg", "mjpeg"),
    ],
)
def test_each_packet_is_one_picture_that_begins_anew_at_key_frames(
    film: Make, name: str, encoder: str, codec: str
) -> None:
    video = PacketVideo(film(name, encoder))
    assert (video.codec, video.fps, video.live) == (codec, 10.0, False)
    frames = list(video)
    assert [frame.time for frame in frames] == pytest.approx([n / 10 for n in range(8)], abs=0.002)
    packets = [frame.input for frame in frames]
    assert [p.key_frame for p in packets] == (
        [True] * 8 if codec == "mjpeg" else [True, False, False, False] * 2
    )
    # A decoder that knows nothing of the file can begin at the second key frame.
    context: Any = av.CodecContext.create(codec, "r")
    context.thread_count = 1
    pictures = [f for p in packets[4:] for f in context.decode(av.Packet(p.data))] + context.decode(None)
    assert len(pictures) == 4


def test_b_frames_and_turned_pictures_are_refused_with_what_to_do(film: Make) -> None:
    with pytest.raises(NotAsPacketsError, match=r"B-frames.*-bf 0"):
        PacketVideo(film(bframes=2))
    with pytest.raises(NotAsPacketsError, match="turned"):
        PacketVideo(film("turned.mp4", rotation=90))
    with pytest.raises(NotAsPacketsError, match="mpeg4"):
        PacketVideo(film("old.mp4", "mpeg4"))
    with pytest.raises(NotAsPacketsError, match="h264, not hevc"):
        PacketVideo(film("wrong.mp4"), "hevc")
    with pytest.raises(opsin.InvalidInput, match="no file"):
        PacketVideo("missing.mp4")


def test_auto_takes_packets_where_it_can_and_pictures_elsewhere(film: Make) -> None:
    def opened(path: Path, codec: str) -> tuple[str, str]:
        source = open_source(path, StreamAsk.of(codec=codec))
        frames: Any = source.frames
        kind = type(next(frames).input).__name__
        source.close()
        return source.codec, kind

    good, bad = film(), film("b.mp4", bframes=2)
    assert opened(good, "auto") == ("h264", "Packet")
    assert opened(bad, "auto") == ("image", "ndarray")
    assert opened(good, "image") == ("image", "ndarray")
    with pytest.raises(opsin.InvalidInput, match="B-frames"):
        opened(bad, "h264")


def test_an_iterable_gives_packets_of_the_codec_that_was_named() -> None:
    packets = [opsin.Packet(b"x", key_frame=True)]
    assert open_source(packets, StreamAsk.of(codec="h264")).codec == "h264"
    assert open_source(packets, StreamAsk.of(codec="auto")).codec == "image"


def test_an_unknown_codec_is_told() -> None:
    with pytest.raises(opsin.InvalidInput, match="h264"):
        StreamAsk.of(codec="vp9")
