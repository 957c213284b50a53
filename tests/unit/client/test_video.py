"""Videos become upright frames with their times."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import opsin

av = pytest.importorskip("av")


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    def make(frames: int = 6, rotation: int = 0) -> Path:
        path = tmp_path / "film.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
            if rotation:
                stream.set_display_rotation(rotation)
            for _ in range(frames):
                pixels = np.zeros((32, 64, 3), np.uint8)
                pixels[:, :32] = (220, 30, 30)  # the left half is red
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return path

    return make


def test_a_video_gives_every_frame_with_its_time(film: Callable[..., Path]) -> None:
    with opsin.Video(film()) as video:
        assert (video.width, video.height, video.fps, video.frame_count) == (64, 32, 5.0, 6)
        assert video.duration == pytest.approx(1.2)
        assert not video.live
        frames = list(video)
    assert [frame.time for frame in frames] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert frames[0].input.shape == (32, 64, 3)
    assert frames[0].input[16, 10, 0] > 150
    assert frames[0].input[16, 50, 0] < 80


def test_a_video_held_sideways_comes_upright(film: Callable[..., Path]) -> None:
    with opsin.Video(film(rotation=90)) as video:
        assert (video.width, video.height) == (32, 64)
        picture = next(iter(video)).input
    assert picture.shape == (64, 32, 3)
    # Turned counter-clockwise, the left half lies at the bottom.
    assert picture[60, 16, 0] > 150 > picture[4, 16, 0]


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(opsin.InvalidInput, match="cannot open"):
        opsin.Video(tmp_path / "noise.mp4")
    with pytest.raises(opsin.InvalidInput, match="no file"):
        opsin.Video(tmp_path / "missing.mp4")


def test_without_pyav_the_pip_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(opsin.MissingExtra, match=r"pip install 'opsin\[video\]'"):
        opsin.Video("film.mp4")
