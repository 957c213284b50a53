"""Where frames come from, when they are due, and what is no source."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opsin
from opsin import Frame
from opsin._options import StreamAsk
from opsin._sources import Pace, as_frame, open_source, ready

JPEG = b"\xff\xd8\xff\xe0 and so on"


def names(source: Any) -> list[str]:
    frames: Any = open_source(source, StreamAsk()).frames
    return [Path(frame).name for frame in frames]


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    assert names(tmp_path) == ["a.PNG", "b.jpg"]


def test_a_picture_is_told_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "picture.mp4").write_bytes(JPEG)
    assert names(str(tmp_path / "picture.mp4")) == ["picture.mp4"]


def test_anything_iterable_gives_frames_and_waits_to_be_asked() -> None:
    source = open_source([b"a", Frame(b"b", capture_time=1.0)], StreamAsk())
    frames: Any = source.frames
    assert [as_frame(item) for item in frames] == [Frame(b"a"), Frame(b"b", capture_time=1.0)]
    assert not source.live
    assert open_source([b"a"], StreamAsk(rate=5.0)).live
    assert open_source([b"a"], StreamAsk(rate="realtime")).live
    assert not open_source([b"a"], StreamAsk(rate="max")).live


def test_an_async_iterable_is_a_source_too() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield b"a"

    assert hasattr(open_source(frames(), StreamAsk()).frames, "__anext__")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no/such/video.mp4", "no file"),
        ("x" * 5000, "cannot look at"),
        (b"bytes", "bytes"),
        (opsin.Text("a"), "Text"),
        (True, "bool"),
        (3.5, "float"),
        (np.zeros((4, 4, 3), np.uint8), "single picture"),
    ],
)
def test_what_is_no_source_is_told(source: object, says: str) -> None:
    with pytest.raises(opsin.InvalidInput, match=says):
        open_source(source, StreamAsk())


def test_an_empty_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(opsin.InvalidInput, match="no pictures"):
        open_source(tmp_path, StreamAsk())


def pace(*, live: bool = False, **settings: Any) -> Pace:
    return Pace(StreamAsk.of(**settings), live=live, start=100.0, wall=5000.0)


def test_frames_are_due_by_the_sources_clock_at_a_rate_or_at_once() -> None:
    frames = [Frame(b"", time=at) for at in (0.0, 0.5, 2.0)]
    assert [round(pace(rate="realtime").due(frame), 3) for frame in frames] == [100.0, 100.5, 102.0]
    by_rate = pace(rate=4.0)
    assert [by_rate.due(frame) for frame in frames] == [100.0, 100.25, 100.5]
    by_answers = pace()
    assert [by_answers.due(frame) for frame in frames] == [100.0] * 3


def test_capture_time_is_told_where_it_means_something() -> None:
    frame = Frame(b"", time=2.0)
    assert pace(live=True).capture_time(frame, 5001.0) == 5001.0
    assert pace().capture_time(frame, 5001.0) is None
    assert pace(track=True).capture_time(frame, 5001.0) == 5002.0
    assert pace(freshness="target_fps=2").capture_time(frame, 5001.0) == 5002.0
    assert pace(track=True, freshness="max_age=1").capture_time(frame, 5001.0) is None
    assert pace(live=True).capture_time(Frame(b"", capture_time=7.0), 5001.0) == 7.0


def test_a_frame_that_cannot_travel_carries_its_error() -> None:
    taken = ready(Frame(opsin.Text("a")), 1.0, limit=1000, quality=90)
    assert isinstance(taken.error, opsin.InvalidInput)
    taken = ready(Frame("no/such/file"), 1.0, limit=1000, quality=90)
    assert isinstance(taken.error, opsin.InvalidInput)
    assert taken.source == "no/such/file"
    encoded = ready(Frame(np.zeros((8, 8, 3), np.uint8)), 1.0, limit=1000, quality=90)
    assert isinstance(encoded.loaded, bytes)
    raw = ready(Frame(np.zeros((8, 8, 3), np.uint8)), 1.0, limit=100_000, quality=None)
    assert isinstance(raw.loaded, opsin.RawFrame)
