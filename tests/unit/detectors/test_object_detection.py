"""Hugging Face object detectors answer as the stock processor and model do, whatever shares their batch."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import checkpoints
from opsin_detectors.api import (
    Box,
    Detection,
    Detector,
    ImageInput,
    InputError,
    Item,
    LoadError,
    Options,
    Output,
    Task,
    TextInput,
)
from opsin_detectors.transformers.varied_pictures import VariedPictures, choose, fitted

from .batches import answered, open_, photo

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

KINDS: dict[str, Callable[[], Path]] = {
    "detr": checkpoints.detr,
    "conditional_detr": checkpoints.conditional_detr,
    "deformable_detr": checkpoints.deformable_detr,
    "yolos": checkpoints.yolos,
    "rt_detr": checkpoints.rt_detr,
}
FIXED = {"rt_detr"}
# Our resizing differs from the processor's by a level in places; the random weights make that up to so much.
SCORE, BOX = 0.02, 0.02


PHOTOS = [photo(192, 128), photo(192, 128, 2), photo(100, 240, 3), photo(500, 100, 4), photo(192, 128, 5)]


def answer(detector: Detector, given: list[tuple[ImageInput, Options]]) -> list[Output]:
    """All in as few batches as their shapes allow, answered in the order given."""
    return answered(detector, given, Task.DETECT)


def stock(folder: Path, source: ImageInput, threshold: float, dtype: str = "float32") -> list[Detection]:
    """What the checkpoint's own processor and model find, boxes as fractions and cut at the edges."""
    auto: Any = transformers.AutoImageProcessor
    processor = auto.from_pretrained(folder)
    model: Any = transformers.AutoModelForObjectDetection.from_pretrained(folder)
    model.eval().to(getattr(torch, dtype))
    given = processor(images=Image.fromarray(source.pixels), return_tensors="pt").to(model.dtype)
    with torch.inference_mode():
        raw = model(**given)
    raw.logits, raw.pred_boxes = raw.logits.float(), raw.pred_boxes.float()
    [found] = processor.post_process_object_detection(raw, threshold=threshold, target_sizes=[(1, 1)])
    return [
        Detection(Box(*box.clamp(0, 1).tolist()), model.config.id2label[int(label)], float(score), int(label))
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True)
    ]


def gap(found: list[Detection]) -> float:
    """A threshold with no score near it, and scores on both sides."""
    scores = sorted(one.score for one in found)
    steps = [(b - a, (a + b) / 2) for a, b in pairwise(scores)]
    return max(steps[len(steps) // 4 :])[1]


def same(ours: Output, theirs: list[Detection], score: float = SCORE, box: float = BOX) -> None:
    """Each of theirs is among ours, and there are no others."""
    left = list(ours.detections)
    assert len(left) == len(theirs)
    for one in theirs:
        twins = [two for two in left if two.label == one.label and near(one, two, score, box)]
        assert twins, f"{one} is not among {left}"
        left.remove(twins[0])


def near(one: Detection, two: Detection, score: float, box: float) -> bool:
    apart = np.abs(np.subtract(corners(one), corners(two))).max()
    return one.class_id == two.class_id and abs(one.score - two.score) <= score and apart <= box


def corners(one: Detection) -> tuple[float, ...]:
    return one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max


@pytest.mark.parametrize("kind", KINDS)
def test_detections_are_the_stock_processors_and_models_in_batches_of_mixed_sizes_and_thresholds(
    kind: str,
) -> None:
    folder = KINDS[kind]()
    everything = [stock(folder, one, 0.0) for one in PHOTOS]
    limits = [gap(found) for found in everything]
    given = [(one, Options(min_score=limit)) for one, limit in zip(PHOTOS, limits, strict=True)]

    together = answer(open_(folder), given)

    for output, source, limit in zip(together, PHOTOS, limits, strict=True):
        theirs = stock(folder, source, limit)
        assert theirs
        same(output, theirs)
        assert [one.score for one in output.detections] == sorted(
            (one.score for one in output.detections), reverse=True
        )


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_does_not_depend_on_its_neighbours(kind: str) -> None:
    detector = open_(KINDS[kind]())
    given = [(one, Options(min_score=0.01 * row)) for row, one in enumerate(PHOTOS)]

    together = answer(detector, given)
    alone = [answer(detector, [pair])[0] for pair in given]

    for one, two in zip(together, alone, strict=True):
        assert one.detections
        same(one, list(two.detections), 1e-4, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(640, 427), (90, 131), (1920, 1080), (301, 77), (97, 401), (1, 1)])
def test_pixels_are_the_stock_processors_without_its_cost(kind: str, size: tuple[int, int]) -> None:
    auto: Any = transformers.AutoImageProcessor
    processor = auto.from_pretrained(KINDS[kind]())
    chosen = choose(processor, torch.device("cpu"), torch.float32)
    source = photo(*size)

    data = chosen.prepare(source.pixels, size).data
    batch: Any = [data] if chosen.spec is None else torch.from_numpy(data)[None]
    ours = chosen.arguments(batch)["pixel_values"].numpy()

    theirs = processor(images=Image.fromarray(source.pixels), return_tensors="np")["pixel_values"]
    assert (chosen.spec is not None) if kind in FIXED else isinstance(chosen, VariedPictures)
    assert data.dtype == np.uint8
    assert ours.shape == theirs.shape
    levels = 255 * 0.229  # of the narrowest channel, in the units of normalised pixels
    assert np.abs(ours - theirs).max() * (255 if kind in FIXED else levels) <= 2.0


def test_padding_to_a_stated_size_is_left_to_the_stock_processor() -> None:
    processor = checkpoints.pictures("Detr", size={"shortest_edge": 64, "longest_edge": 96})
    processor.pad_size = {"height": 96, "width": 96}

    chosen = choose(processor, torch.device("cpu"), torch.float32)
    arguments = chosen.arguments([chosen.prepare(photo(120, 80).pixels).data])

    assert arguments["pixel_values"].shape == (1, 3, 96, 96)
    assert 0 < arguments["pixel_mask"].float().mean() < 1


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((640, 480), (1066, 800)),
        ((480, 640), (800, 1066)),
        ((2000, 500), (1333, 333)),
        ((800, 800), (800, 800)),
    ],
)
def test_a_picture_is_fitted_between_its_shortest_and_its_longest_edge(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert fitted(*size, 800, 1333) == wanted
    assert all(side % 16 == 0 for side in fitted(*size, 800, 1333, multiple=16))


def test_a_picture_that_was_decoded_smaller_is_looked_at_in_the_size_of_the_original() -> None:
    detector = open_(checkpoints.detr())
    whole, half = photo(401, 299), photo(201, 150)

    reduced = ImageInput(half.pixels, 401, 299)

    assert detector.info.decode_size == (96, 96)
    assert (
        detector.prepare(reduced, Task.DETECT, Options()).shape
        == detector.prepare(whole, Task.DETECT, Options()).shape
    )


def test_the_proportions_that_cameras_have_are_warmed() -> None:
    detector = open_(checkpoints.detr())
    shapes = [detector.prepare(one, Task.DETECT, Options()).shape for one in detector.examples(Task.DETECT)]

    assert shapes[0] == (128, 96)
    assert {(96, 128), (160, 90), (90, 160), (96, 96)} <= set(shapes)


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_the_allow_list_works_before_the_number_of_detections_is_cut(kind: str) -> None:
    detector = open_(KINDS[kind]())
    everything = answer(detector, [(PHOTOS[0], Options(min_score=0.0, max_detections=1000))])[0].detections
    rare = everything[-1].label

    options = Options(min_score=0.0, labels=frozenset({rare}), max_detections=2)
    [output] = answer(detector, [(PHOTOS[0], options)])

    assert {one.label for one in output.detections} == {rare}
    assert [one.score for one in output.detections] == [o.score for o in everything if o.label == rare][:2]


def test_no_more_than_asked_for_come_back_where_everything_passes_the_threshold() -> None:
    [output] = answer(open_(checkpoints.rt_detr()), [(PHOTOS[0], Options(min_score=0.0, max_detections=7))])

    everything = answer(
        open_(checkpoints.rt_detr()), [(PHOTOS[0], Options(min_score=0.0, max_detections=60))]
    )
    assert len(output.detections) == 7
    assert output.detections == everything[0].detections[:7]


def test_a_number_that_is_not_finite_fails_its_own_picture_only() -> None:
    detector = open_(checkpoints.detr())
    items = [Item(Task.DETECT, Options(min_score=0.0), None, 192, 128)] * 2
    logits, boxes = detector.infer(
        [detector.prepare(PHOTOS[row], Task.DETECT, Options()).data for row in (0, 1)]
    )
    logits = logits.clone()
    logits[0, 3, 2] = torch.nan

    broken, sound = detector.finish((logits, boxes), items)

    assert any(not np.isfinite(one.score) for one in broken.detections)
    assert sound.detections
    assert all(np.isfinite(one.score) for one in sound.detections)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrower_number_type_answers_as_the_stock_model_of_that_type(kind: str, dtype: str) -> None:
    # Of the size that the model looks at, so that both see the same pixels.
    source = photo(96, 96) if kind in FIXED else photo(144, 96)
    theirs = stock(KINDS[kind](), source, 0.0, dtype)
    limit = gap(theirs)

    detector = open_(KINDS[kind](), dtype)
    [ours] = answer(detector, [(source, Options(min_score=limit))])

    assert detector.info.dtype == dtype
    same(ours, [one for one in theirs if one.score >= limit], 0.02, 0.02)


def test_below_the_models_own_minimum_nothing_is_a_detection_unless_asked_for() -> None:
    assert open_(checkpoints.detr()).info.defaults.min_score == 0.5
    assert open_(checkpoints.detr(), min_score="0.2").info.defaults.min_score == 0.2
    with pytest.raises(LoadError, match="from 0 to 1"):
        open_(checkpoints.detr(), min_score="2")


def test_a_text_is_refused_in_the_callers_words() -> None:
    with pytest.raises(InputError, match="m looks at pictures"):
        open_(checkpoints.detr()).prepare(TextInput("hello"), Task.DETECT, Options())
