"""Hugging Face detectors behind a real server answer as the stock processor and model do."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as Pictures

import checkpoints
from opsin.v1 import DetectOptions, DetectRequest, DetectResponse, Image
from serving import serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# Our resizing differs from the processor's by a level in places; the random weights make that up to so much.
TOLERANCE = 0.02
MOST = 12
"""The stock processor of RT-DETR answers no more than there are queries, here 12, whatever one asks for."""
SIZES = [(192, 128), (100, 240), (192, 128), (500, 100), (192, 128)]


def photo(width: int, height: int, seed: int) -> Pictures.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Pictures.fromarray(small).resize((width, height), Pictures.Resampling.BICUBIC)


PHOTOS = [photo(*size, seed) for seed, size in enumerate(SIZES)]


def request(model: str, picture: Pictures.Image, **options: Any) -> DetectRequest:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return DetectRequest(model=model, image=Image(encoded=out.getvalue()), options=DetectOptions(**options))


def stock(folder: Path, picture: Pictures.Image) -> list[tuple[str, float, list[float]]]:
    """Label, score and corners of every query, cut at the edges."""
    auto: Any = transformers.AutoImageProcessor
    processor = auto.from_pretrained(folder)
    model: Any = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
    with torch.inference_mode():
        raw = model(**processor(images=picture, return_tensors="pt"))
    [found] = processor.post_process_object_detection(raw, threshold=0.0, target_sizes=[(1, 1)])
    rows = zip(found["labels"], found["scores"], found["boxes"].clamp(0, 1), strict=True)
    return [(model.config.id2label[int(label)], float(score), box.tolist()) for label, score, box in rows]


def matches(reply: DetectResponse, theirs: list[tuple[str, float, list[float]]]) -> None:
    """Every detection is one of theirs, and the best of theirs is among them."""
    assert reply.detections
    for one in reply.detections:
        box = [one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max]
        assert any(
            label == one.label
            and abs(score - one.score) <= TOLERANCE
            and np.abs(np.subtract(box, corners)).max() <= TOLERANCE
            for label, score, corners in theirs
        ), one
    assert reply.detections[0].score == pytest.approx(max(score for _, score, _ in theirs), abs=TOLERANCE)


@pytest.mark.parametrize("kind", [checkpoints.detr, checkpoints.yolos, checkpoints.rt_detr])
async def test_calls_at_once_with_many_sizes_and_options_are_answered_as_stock(kind: Any) -> None:
    folder = kind()
    async with serving(f"things={folder}") as server:
        replies = await asyncio.gather(
            *(
                server.inference.Detect(
                    request("things", one, min_score=0.01 * (row + 1), max_detections=MOST - row)
                )
                for row, one in enumerate(PHOTOS * 2)
            )
        )

    for row, (reply, one) in enumerate(zip(replies, PHOTOS * 2, strict=True)):
        assert len(reply.detections) <= MOST - row
        assert (reply.image.width, reply.image.height) == one.size
        matches(reply, stock(folder, one))
