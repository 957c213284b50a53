"""nanodet finds what the original finds, each item by its own options, and answers for itself alone."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opsin_detectors.api import (
    Box,
    Detection,
    Detector,
    InputError,
    Item,
    LoadContext,
    LoadError,
    Options,
    Output,
    Task,
    TextInput,
)
from opsin_detectors.finder import find, load
from opsin_detectors.nanodet.boxes import MOST_CANDIDATES, candidates, keep, points
from opsin_detectors.testing import check, differences, image, run, stack

from .conftest import Picture

Recorded = Callable[[str], dict[str, Any]]
PICTURES = ("astronaut.png", "coffee.png", "chelsea.png")
DEFAULTS = Options(min_score=0.35)


def iou(one: Box, two: Box) -> float:
    width = max(0.0, min(one.x_max, two.x_max) - max(one.x_min, two.x_min))
    height = max(0.0, min(one.y_max, two.y_max) - max(one.y_min, two.y_min))
    areas = [(box.x_max - box.x_min) * (box.y_max - box.y_min) for box in (one, two)]
    return width * height / (sum(areas) - width * height)


def best_first(output: Output) -> list[Detection]:
    return sorted(output.detections, key=lambda one: -one.score)


def raw(nanodet: Detector, picture: Picture, *names: str) -> torch.Tensor:
    prepared = [nanodet.prepare(picture(name), Task.DETECT, DEFAULTS) for name in names]
    outputs: torch.Tensor = nanodet.infer(stack(nanodet, prepared))
    return outputs


def finish(nanodet: Detector, outputs: torch.Tensor, *options: Options) -> list[Output]:
    return list(nanodet.finish(outputs, [Item(Task.DETECT, one, None, 640, 480) for one in options]))


def test_it_keeps_the_rules_of_a_detector(nanodet: Detector) -> None:
    check(nanodet)


def test_the_astronaut_is_a_person_in_the_right_place(nanodet: Detector, picture: Picture) -> None:
    [output] = run(nanodet, [picture("astronaut.png")], Task.DETECT)

    best = best_first(output)[0]
    assert best.label == "person"
    assert best.score >= 0.6
    assert iou(best.box, Box(15 / 512, 14 / 512, 364 / 512, 507 / 512)) >= 0.9


def test_detections_are_the_recorded_ones(nanodet: Detector, picture: Picture, recorded: Recorded) -> None:
    wanted = recorded("nanodet")
    outputs = run(nanodet, [picture(name) for name in PICTURES], Task.DETECT)

    for name, output in zip(PICTURES, outputs, strict=True):
        ours, theirs = best_first(output), wanted[name]["detections"]
        assert [one.label for one in ours] == [one["label"] for one in theirs]
        for mine, other in zip(ours, theirs, strict=True):
            # Resizing may differ by a level here and there; the mathematics by nothing to speak of.
            assert mine.score == pytest.approx(other["score"], abs=0.005)
            assert iou(mine.box, Box(*other["box"])) > 0.98


def test_raw_candidates_are_the_recorded_ones(
    nanodet: Detector, picture: Picture, recorded: Recorded
) -> None:
    outputs = raw(nanodet, picture, *PICTURES)
    wanted = recorded("nanodet")

    for row, name in zip(outputs, PICTURES, strict=True):
        for one in wanted[name]["candidates"]:
            score = float(row[one["point"], one["class"]].sigmoid())
            assert score == pytest.approx(one["score"], abs=0.005)


def test_every_item_has_its_own_threshold(nanodet: Detector, picture: Picture) -> None:
    outputs = raw(nanodet, picture, *["chelsea.png"] * 3)

    low, middle, high = finish(nanodet, outputs, *(Options(min_score=s) for s in (0.1, 0.4, 0.99)))

    assert len(low.detections) > len(middle.detections) == 2
    assert not high.detections
    assert all(one.score >= 0.1 for one in low.detections)


def test_the_allow_list_works_before_the_limit(nanodet: Detector, picture: Picture) -> None:
    options = replace(DEFAULTS, labels=frozenset({"dog", "no such class"}), max_detections=1)

    [output] = finish(nanodet, raw(nanodet, picture, "chelsea.png"), options)

    assert [one.label for one in output.detections] == ["dog"]


def test_the_allow_list_works_before_the_bound_on_candidates(nanodet: Detector, picture: Picture) -> None:
    outputs = raw(nanodet, picture, "chelsea.png", "chelsea.png")
    rare = Options(min_score=0.0, iou_threshold=1.0, labels=frozenset({"parking meter"}))

    few, everything = finish(nanodet, outputs, rare, replace(rare, labels=frozenset()))

    assert [one.label for one in few.detections] == ["parking meter"] * 100
    assert "parking meter" not in {one.label for one in everything.detections}
    assert not finish(nanodet, outputs[:1], replace(rare, labels=frozenset({"no such class"})))[0].detections


def test_max_detections_keeps_the_best(nanodet: Detector, picture: Picture) -> None:
    outputs = raw(nanodet, picture, "chelsea.png")
    [all_of_them] = finish(nanodet, outputs, DEFAULTS)
    [two] = finish(nanodet, outputs, replace(DEFAULTS, max_detections=2))

    assert best_first(two) == best_first(all_of_them)[:2]


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_overlap_threshold_is_obeyed(nanodet: Detector, picture: Picture, threshold: float) -> None:
    [output] = finish(nanodet, raw(nanodet, picture, "astronaut.png"), Options(0.35, iou_threshold=threshold))

    if threshold == 0.0:
        boxes = [one.box for one in output.detections if one.label == "person"]
        assert all(iou(a, b) == 0.0 for a in boxes for b in boxes if a is not b)
    else:
        assert len(output.detections) == 12  # nothing suppressed: as many as recorded before suppression


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_the_ends_of_the_score_range_are_answered(nanodet: Detector, picture: Picture, least: float) -> None:
    [output] = finish(nanodet, raw(nanodet, picture, "coffee.png"), Options(min_score=least))

    assert len(output.detections) == (100 if least == 0.0 else 0)


def test_a_score_that_is_the_threshold_is_not_below_it() -> None:
    outputs = torch.full((1, 3549, 124), -20.0)
    outputs[0, :200, 0] = torch.linspace(-12.0, 18.0, 200)
    for score in candidates(outputs, points("cpu"), [1e-6]).score:
        assert candidates(outputs, points("cpu"), [float(score)]).score.min() == score


def test_equal_scores_without_number_are_bounded_too() -> None:
    outputs = torch.full((2, 3549, 124), -1.0)  # a picture of one colour has thousands of them
    outputs[:, 7, 3] = 1.0

    found = candidates(outputs, points("cpu"), [0.0, 0.2])

    assert np.bincount(found.image).tolist() == [MOST_CANDIDATES] * 2
    assert found.label[0] == found.label[MOST_CANDIDATES] == 3  # the best are among those kept


def test_a_threshold_of_zero_is_bounded_and_leaves_its_neighbours_alone(
    nanodet: Detector, picture: Picture
) -> None:
    outputs = raw(nanodet, picture, "coffee.png", "chelsea.png")
    found = candidates(outputs, points("cpu"), [0.0, 0.35])

    assert (found.image == 0).sum() == MOST_CANDIDATES
    assert (found.image == 1).sum() == 19  # as recorded
    assert (np.diff(found.score[found.image == 0]) <= 0).all()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_fails_its_own_item_and_no_other(
    nanodet: Detector, picture: Picture, wrong: float
) -> None:
    outputs = raw(nanodet, picture, "astronaut.png", "astronaut.png").clone()
    outputs[0, 100, 90] = wrong

    broken, sound = finish(nanodet, outputs, DEFAULTS, DEFAULTS)

    assert any(not math.isfinite(one.score) for one in broken.detections)
    assert [one.label for one in sound.detections] == ["person"]


def test_answers_keep_their_order_in_a_mixed_batch(nanodet: Detector, picture: Picture) -> None:
    names = [*PICTURES, *reversed(PICTURES)]
    outputs = run(nanodet, [picture(name) for name in names], Task.DETECT)

    for first, last in zip(outputs, reversed(outputs), strict=True):
        assert not differences(first, last, 1e-3)


def test_a_text_is_refused_in_the_callers_words(nanodet: Detector) -> None:
    with pytest.raises(InputError, match="looks at pictures"):
        nanodet.prepare(TextInput("hello"), Task.DETECT, DEFAULTS)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.03), ("float16", 0.01)])
def test_a_narrower_type_is_honoured_and_finds_the_same(
    picture: Picture, dtype: str, tolerance: float
) -> None:
    narrow = load(find()["nanodet"], LoadContext("nanodet", dtype=dtype))
    [output] = run(narrow, [picture("astronaut.png")], Task.DETECT)

    assert narrow.info.dtype == dtype
    assert best_first(output)[0].score == pytest.approx(0.734, abs=tolerance)


def test_the_input_it_states_is_what_it_prepares(nanodet: Detector) -> None:
    pixels = np.zeros((100, 50, 3), np.uint8)
    prepared = nanodet.prepare(image(pixels), Task.DETECT, DEFAULTS).data

    assert prepared.shape == (416, 416, 3)
    assert prepared.flags.c_contiguous
    assert nanodet.info.decode_size == (416, 416)
    assert nanodet.info.memory_bytes > 10e6


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (LoadContext("n", source="/nowhere.safetensors"), "is not a file"),
        (LoadContext("n", source=__file__), "does not hold the weights"),
        (LoadContext("n", settings={"size": "640"}), "no setting “size”"),
        (LoadContext("n", dtype="int4"), "dtype of model “n” has to be one of"),
        (LoadContext("n", device="warp:1"), "device “warp:1” of model “n” cannot be used"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_sentence(context: LoadContext, said: str) -> None:
    with pytest.raises(LoadError) as raised:
        load(find()["nanodet"], context)

    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def slow_keep(label: list[int], box: list[list[float]], threshold: float) -> list[int]:
    """Suppression as it is told in a textbook."""
    kept: list[int] = []
    for index, corners in enumerate(box):
        rivals = [other for other in kept if label[other] == label[index]]
        if all(iou(Box(*box[other]), Box(*corners)) <= threshold for other in rivals):
            kept.append(index)
    return kept


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 40), threshold=st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_suppression_is_the_textbooks(seed: int, count: int, threshold: float) -> None:
    noise = np.random.default_rng(seed)
    low = noise.uniform(0, 0.6, (count, 2))
    box = np.concatenate([low, low + noise.uniform(0.05, 0.4, (count, 2))], 1).astype(np.float32)
    label = noise.integers(0, 3, count)

    assert keep(label, box, threshold).tolist() == slow_keep(label.tolist(), box.tolist(), threshold)


def test_the_packaged_weights_are_small_enough_to_ship() -> None:
    assert Path(find()["nanodet"].source).stat().st_size < 8_000_000
