"""Drawing: boxes where things are, text that stays inside the picture, on any picture size."""

import io

import numpy as np
import pytest
from PIL import Image

import opsin
from opsin import Attribute, Box, Detection, DetectResult, Label, ModelRef, Timings
from opsin._draw import caption, color_of


def result(
    width: int, height: int, *boxes: Box, source: object = None, flagged: bool | None = None
) -> DetectResult:
    found = tuple(
        Detection(box, box.to_pixels(width, height), "person", 0.9, class_id=at)
        for at, box in enumerate(boxes)
    )
    return DetectResult(found, (), flagged, width, height, ModelRef("m", 1), Timings(), source=source)


GREY = np.full((240, 320, 3), 128, np.uint8)


def test_a_box_is_drawn_where_it_is_in_its_classes_colour() -> None:
    drawn = np.asarray(result(320, 240, Box(0.25, 0.5, 0.75, 0.9), source=GREY).draw())
    assert drawn.shape == GREY.shape
    color = color_of("person", 0)
    assert tuple(drawn[180, 80]) == color  # its left edge
    assert tuple(drawn[215, 160]) == color  # its bottom edge
    assert tuple(drawn[180, 160]) == (128, 128, 128)  # its inside
    assert tuple(drawn[20, 20]) == (128, 128, 128)  # elsewhere


def test_the_source_is_left_as_it_was_and_any_kind_of_picture_will_do() -> None:
    encoded = io.BytesIO()
    Image.fromarray(GREY).save(encoded, "PNG")
    before = GREY.copy()
    raw = opsin.RawFrame(GREY[..., ::-1].tobytes(), 320, 240, opsin.PixelFormat.BGR24)
    for source in (GREY, Image.fromarray(GREY), encoded.getvalue(), io.BytesIO(encoded.getvalue()), raw):
        drawn = result(320, 240, Box(0, 0, 1, 1), source=source).draw()
        assert drawn.size == (320, 240)
        assert drawn.mode == "RGB"
    assert (before == GREY).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (64, 64), (1920, 1080)])
def test_pictures_of_any_size_are_drawn_on(size: tuple[int, int]) -> None:
    corners = (Box(0, 0, 0.1, 0.1), Box(0.9, 0.9, 1, 1), Box(0, 0, 1, 1))
    drawn = result(*size, *corners, source=Image.new("RGB", size), flagged=True).draw()
    assert drawn.size == size


def test_a_picture_of_another_size_than_the_one_looked_at_is_drawn_on_in_proportion() -> None:
    drawn = np.asarray(result(3200, 2400, Box(0.25, 0.5, 0.75, 0.9)).draw(GREY))
    assert tuple(drawn[180, 80]) == color_of("person", 0)


def test_captions_do_not_cover_each_other_where_there_is_room() -> None:
    boxes = (Box(0.2, 0.4, 0.8, 0.9), Box(0.2, 0.4, 0.8, 0.9))
    drawn = np.asarray(result(320, 240, *boxes, source=GREY).draw())
    for class_id in (0, 1):
        share = (drawn == color_of("person", class_id)).all(axis=-1).sum()
        assert share > 300, "a caption's ground"


def test_captions_of_boxes_that_fill_the_picture_stand_below_each_other() -> None:
    drawn = np.asarray(result(320, 240, *[Box(0, 0, 1, 1)] * 4, source=GREY).draw())
    for class_id in range(4):
        assert (drawn == color_of("person", class_id)).all(axis=-1).sum() > 300, "a caption's ground"


def test_a_note_stands_in_the_bottom_left_corner_and_no_caption_on_it() -> None:
    plain = result(320, 240, source=GREY)
    noted = np.asarray(opsin.draw(plain, GREY, note="17  31 ms"))
    changed = np.argwhere((noted != np.asarray(opsin.draw(plain, GREY))).any(axis=2))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert (left, bottom) == (0, noted.shape[0] - 1)
    assert 8 < bottom - top < 40
    assert 30 < right < noted.shape[1] // 2


def test_a_caption_says_all_that_is_known() -> None:
    emotion = Attribute("emotion", (Label("happy", 0.75),))
    detection = Detection(
        Box(0, 0, 1, 1),
        opsin.PixelBox(0, 0, 1, 1),
        "face",
        0.876,
        attributes=(emotion,),
        text="HI",
        track_id=3,
    )
    assert caption(detection) == "#3 face 0.88 · happy 0.75 · “HI”"


def test_with_nothing_to_draw_on_a_picture_is_asked_for() -> None:
    for source in (None, opsin.Uri("http://a/b"), b"no picture"):
        with pytest.raises(opsin.InvalidInput, match="image="):
            result(320, 240, source=source).draw()
    with pytest.raises(opsin.InvalidInput, match="text"):
        result(0, 0).draw()


def test_without_pillow_the_pip_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    monkeypatch.delitem(__import__("sys").modules, "PIL.Image", raising=False)
    with pytest.raises(opsin.MissingExtra, match=r"opsin\[images\]"):
        result(320, 240, source=GREY).draw()
