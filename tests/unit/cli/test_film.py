"""What stands in the corner of a saved video's frames."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import opsin
from opsin.cli.film import Film, _note

FOUND = opsin.DetectResult((), (), None, 64, 48, opsin.ModelRef("m", 1), opsin.Timings())


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (opsin.FrameResult(17, FOUND, age=0.0312), "17  31 ms"),
        (opsin.FrameResult(17, FOUND), "17"),
        (opsin.FrameResult(18, FOUND, age=0.02, reused_from=17), "18  as 17"),
        (opsin.FrameDropped(19, opsin.DropReason.SUPERSEDED, age=0.1), "19  superseded, shows 17"),
        (opsin.FrameDropped(20, opsin.DropReason.TOO_OLD), "20  too old, shows 17"),
        (opsin.FrameFailed(21, opsin.InvalidInput("no picture")), "21  failed, shows 17"),
    ],
)
def test_a_frame_says_its_number_and_its_age_or_what_became_of_it(reply: opsin.FrameReply, said: str) -> None:
    assert _note(reply, shown=17) == said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
@pytest.mark.parametrize("frames", [1, 40])
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path: Path, frames: int) -> None:
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    film = Film(tmp_path / "full.mp4")
    noise = np.random.default_rng(0).integers(0, 255, (360, 480, 3), dtype=np.uint8)

    def write() -> None:
        for _ in range(frames):
            film.write(Image.fromarray(noise), 10)
        film.close()

    with pytest.raises(OSError, match="No space left"):  # of one frame nothing is written before the end
        write()
    film.close()
    assert film.written == 0


def test_the_smallest_picture_is_a_film_too(tmp_path: Path) -> None:
    film = Film(tmp_path / "tiny.mp4")
    for _ in range(2):
        film.write(Image.new("RGB", (1, 1)), 10)
    film.close()
    with av.open(str(tmp_path / "tiny.mp4")) as video:
        assert [(frame.width, frame.height) for frame in video.decode(video=0)] == [(2, 2)] * 2
