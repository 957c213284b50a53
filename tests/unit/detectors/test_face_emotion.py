"""face-emotion finds the faces that the original finds, and scores emotions as the original does."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from opsin_detectors.api import (
    Box,
    Detector,
    InputError,
    Item,
    LoadContext,
    LoadError,
    Options,
    Task,
    TextInput,
)
from opsin_detectors.finder import find, load
from opsin_detectors.testing import check, differences, image, run, stack

from .conftest import Picture

Recorded = Callable[[str], dict[str, Any]]
PICTURES = ("astronaut.png", "coffee.png", "chelsea.png")


@pytest.fixture(scope="module")
def faces() -> Detector:
    return load(find()["face-emotion"], LoadContext("face-emotion"))


@pytest.fixture(scope="module")
def emotions(faces: Detector) -> Detector:
    return faces.info.stages[0].detector


def corners(box: Box) -> list[float]:
    return [box.x_min, box.y_min, box.x_max, box.y_max]


def test_both_stages_keep_the_rules_of_a_detector(faces: Detector, emotions: Detector) -> None:
    check(faces)
    check(emotions)


def test_faces_are_the_recorded_ones(faces: Detector, picture: Picture, recorded: Recorded) -> None:
    wanted = recorded("face-emotion")
    outputs = run(faces, [picture(name) for name in PICTURES], Task.DETECT)

    assert [len(output.detections) for output in outputs] == [1, 0, 0]
    for name, output in zip(PICTURES, outputs, strict=True):
        for ours, theirs in zip(output.detections, wanted[name]["faces"], strict=True):
            assert ours.label == "face"
            assert ours.score == pytest.approx(theirs["score"], abs=0.002)
            assert corners(ours.box) == pytest.approx(theirs["box"], abs=0.001)


def test_raw_candidates_are_the_recorded_ones(faces: Detector, picture: Picture, recorded: Recorded) -> None:
    prepared = [faces.prepare(picture(name), Task.DETECT, faces.info.defaults) for name in PICTURES]
    outputs = faces.infer(stack(faces, prepared))

    for row, ready, name in zip(outputs, prepared, PICTURES, strict=True):
        shares = np.array([ready.state.width, ready.state.height] * 2)
        for one in recorded("face-emotion")[name]["candidates"]:
            # Resizing may differ by a level here and there.
            assert float(row[one["index"], 4].sigmoid()) == pytest.approx(one["score"], abs=0.003)
            assert row[one["index"], :4].numpy() / shares == pytest.approx(one["box"], abs=0.003)


def test_emotions_are_the_recorded_ones(emotions: Detector, picture: Picture, recorded: Recorded) -> None:
    outputs = run(emotions, [picture(name) for name in PICTURES], Task.CLASSIFY_IMAGE)

    for name, output in zip(PICTURES, outputs, strict=True):
        wanted = recorded("face-emotion")[name]["emotion_of_the_whole_picture"]
        assert {one.name: one.score for one in output.labels} == pytest.approx(wanted, abs=0.01)


def test_the_emotions_are_all_seven_and_add_up(emotions: Detector) -> None:
    [output] = run(emotions, [image(np.zeros((9, 7, 3), np.uint8))], Task.CLASSIFY_IMAGE)

    assert tuple(one.name for one in output.labels) == emotions.info.classes
    assert len(output.labels) == 7
    assert sum(one.score for one in output.labels) == pytest.approx(1.0, abs=1e-5)


def test_every_item_has_its_own_options(faces: Detector, picture: Picture) -> None:
    names = ["astronaut.png"] * 3
    prepared = [faces.prepare(picture(name), Task.DETECT, faces.info.defaults) for name in names]
    options = (Options(0.02, iou_threshold=1.0), Options(0.02, max_detections=1), Options(0.99))
    items = [Item(Task.DETECT, o, p.state, 512, 512) for o, p in zip(options, prepared, strict=True)]

    many, one, none = faces.finish(faces.infer(stack(faces, prepared)), items)

    assert len(many.detections) > 3
    assert [round(d.score, 2) for d in one.detections] == [0.97]
    assert not none.detections


def test_a_wide_picture_and_a_tall_one_give_boxes_of_their_own_shape(
    faces: Detector, picture: Picture
) -> None:
    pixels = picture("astronaut.png").pixels[:320]
    wide = np.concatenate([pixels, np.zeros_like(pixels)], 1)
    tall = np.concatenate([pixels, np.zeros_like(pixels), np.zeros_like(pixels)], 0)

    left, top = run(faces, [image(wide), image(tall)], Task.DETECT)

    for output, columns, rows in ((left, 1024, 320), (top, 512, 960)):
        box = output.detections[0].box
        found = np.array(corners(box)) * [columns, rows, columns, rows]
        assert found == pytest.approx([164, 75, 279, 186], abs=14)


def test_a_number_that_is_none_fails_its_own_item_and_no_other(faces: Detector, picture: Picture) -> None:
    prepared = [faces.prepare(picture("astronaut.png"), Task.DETECT, faces.info.defaults)] * 2
    outputs = faces.infer(stack(faces, prepared)).clone()
    outputs[0, 3, 2] = math.nan
    items = [Item(Task.DETECT, faces.info.defaults, p.state, 512, 512) for p in prepared]

    broken, sound = faces.finish(outputs, items)

    assert math.isnan(broken.detections[0].score)
    assert len(sound.detections) == 1


@pytest.mark.parametrize(("dtype", "apart"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_a_narrower_type_finds_the_same(picture: Picture, dtype: str, apart: float) -> None:
    narrow = load(find()["face-emotion"], LoadContext("f", dtype=dtype))
    [output] = run(narrow, [picture("astronaut.png")], Task.DETECT)

    assert narrow.info.dtype == narrow.info.stages[0].detector.info.dtype == dtype
    assert output.detections[0].score == pytest.approx(0.973, abs=apart)
    assert corners(output.detections[0].box) == pytest.approx([0.320, 0.147, 0.544, 0.363], abs=0.02)


def test_the_batch_does_not_change_an_answer(faces: Detector, picture: Picture) -> None:
    inputs = [picture(name) for name in (*PICTURES, *PICTURES)]
    together = run(faces, inputs, Task.DETECT)
    assert not differences(together[0], run(faces, inputs[:1], Task.DETECT)[0], 1e-3)
    assert not differences(together[0], together[3], 1e-4)


def test_a_text_is_refused_in_the_callers_words(faces: Detector, emotions: Detector) -> None:
    for detector in (faces, emotions):
        with pytest.raises(InputError, match="looks at pictures"):
            detector.prepare(TextInput("hello"), Task.DETECT, faces.info.defaults)


@pytest.mark.parametrize("missing", ["tiny_face.safetensors", "face_expression.safetensors"])
def test_missing_or_wrong_weights_are_said_in_a_sentence(tmp_path: Any, missing: str) -> None:
    for file in find()["face-emotion"].folder.glob("weights/*"):  # type: ignore[union-attr]
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / missing).unlink()
    with pytest.raises(LoadError, match=f"{missing} is not a file"):
        load(find()["face-emotion"], LoadContext("f", source=str(tmp_path)))
    (tmp_path / missing).write_bytes(b"no weights")
    with pytest.raises(LoadError, match="does not hold the weights") as raised:
        load(find()["face-emotion"], LoadContext("f", source=str(tmp_path)))
    assert "\n" not in str(raised.value)


def test_the_memory_counts_both_networks(faces: Detector, emotions: Detector) -> None:
    assert faces.info.memory_bytes > emotions.info.memory_bytes > 1_000_000
    assert torch.is_inference_mode_enabled() is False
