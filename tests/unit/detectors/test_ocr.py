"""ocr reads what is written in a picture, line by line, where it stands."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from opsin_detectors.api import (
    Detector,
    ImageInput,
    InputError,
    LoadContext,
    LoadError,
    Options,
    Output,
    Task,
    TextInput,
)
from opsin_detectors.finder import find, load
from opsin_detectors.testing import image, run

LINES = (("Launch at seven", 30, 20), ("Gate 42 B", 60, 90), ("Bring a coat", 180, 160))
WIDTH, HEIGHT = 480, 220


@pytest.fixture(scope="module")
def ocr() -> Detector:
    return load(find()["ocr"], LoadContext("ocr"))


def page(*lines: tuple[str, int, int], turned: int = 0) -> ImageInput:
    """Black on white, in the font that comes with Pillow."""
    paper = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(paper)
    for text, left, top in lines:
        pen.text((left, top), text, "black", ImageFont.load_default(size=32))
    return image(np.array(paper.rotate(turned)))


def texts(output: Output) -> list[str]:
    return [one.text for one in output.detections]


def test_lines_are_read_in_order_and_stand_where_they_were_written(ocr: Detector) -> None:
    [output] = run(ocr, [page(*LINES)], Task.READ_TEXT)

    assert texts(output) == [text for text, _, _ in LINES]
    for one, (_, left, top) in zip(output.detections, LINES, strict=True):
        assert one.label == "text"
        assert 0.9 <= one.score <= 1.0
        assert one.box.x_min * WIDTH == pytest.approx(left, abs=12)
        assert one.box.y_min * HEIGHT == pytest.approx(top + 4, abs=12)
        assert one.box.y_max * HEIGHT == pytest.approx(top + 40, abs=14)


def test_an_answer_does_not_depend_on_its_neighbours(ocr: Detector) -> None:
    first, second, empty = page(LINES[0]), page(LINES[1]), page()

    together = run(ocr, [first, empty, second], Task.READ_TEXT)

    assert [texts(one) for one in together] == [[LINES[0][0]], [], [LINES[1][0]]]
    assert run(ocr, [second], Task.READ_TEXT)[0].detections == together[2].detections


def test_a_line_on_its_head_is_read_unless_told_otherwise(ocr: Detector) -> None:
    upside_down = page(LINES[0], turned=180)
    upright = load(find()["ocr"], LoadContext("ocr", settings={"angle": "off"}))

    assert texts(run(ocr, [upside_down], Task.READ_TEXT)[0]) == [LINES[0][0]]
    assert texts(run(upright, [upside_down], Task.READ_TEXT)[0]) != [LINES[0][0]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (3, 16384)])
def test_a_sliver_is_answered_with_nothing(ocr: Detector, shape: tuple[int, int]) -> None:
    sliver = image(np.full((*shape, 3), 255, np.uint8))
    [output] = run(ocr, [sliver], Task.READ_TEXT)

    assert not output.detections
    rows, columns = ocr.prepare(sliver, Task.READ_TEXT, Options()).data.shape[:2]
    assert min(rows, columns) * 4 >= max(rows, columns)  # what it costs is bounded


def test_the_threshold_is_each_callers_own(ocr: Detector) -> None:
    [nothing] = run(ocr, [page(*LINES)], Task.READ_TEXT, Options(min_score=1.0))
    [everything] = run(ocr, [page(*LINES)], Task.READ_TEXT, Options(min_score=0.0))

    assert len(nothing.detections) < len(everything.detections) == 3


def test_a_lanes_width_is_its_engines_and_no_two_lanes_share_one(
    ocr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    lent: list[int] = []
    both = threading.Barrier(2)

    class Engine:
        def __call__(self, pixels: Any) -> Any:
            both.wait(10)
            lent.append(id(self))
            both.wait(10)
            return None

    def make(width: int) -> Engine:
        made.append(width)
        return Engine()

    engines = type(ocr._engines)(make)
    monkeypatch.setattr(ocr, "_engines", engines)

    def lane() -> None:
        torch.set_num_threads(3)
        ocr.infer([page().pixels])

    for _ in range(2):  # the second time nothing is made
        threads = [threading.Thread(target=lane) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(lent[-2:])) == 2
    assert made == [3, 3]


def test_a_text_is_refused_in_the_callers_words(ocr: Detector) -> None:
    with pytest.raises(InputError, match="looks at pictures"):
        ocr.prepare(TextInput("hello"), Task.READ_TEXT, Options())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cuda"}, "ocr runs on the CPU"),
        ({"dtype": "bfloat16"}, "computes in float32"),
        ({"settings": {"max_side": "3"}}, "setting “max_side” of model “o” has to be"),
        ({"settings": {"language": "de"}}, "no setting “language”"),
    ],
)
def test_what_cannot_be_is_told_while_loading(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(LoadError, match=said):
        load(find()["ocr"], LoadContext("o", **changes))
