"""Zero-shot models behind a real server: each call names its own classes."""

import asyncio
import io
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image as Pictures

import checkpoints
from opsin.v1 import DetectOptions, DetectRequest, Image
from serving import serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def photo(width: int, height: int, seed: int) -> Pictures.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Pictures.fromarray(small).resize((width, height), Pictures.Resampling.BICUBIC)


PHOTOS = [photo(96, 64, 1), photo(50, 120, 2), photo(96, 64, 3)]


def request(model: str, picture: Pictures.Image, **options: Any) -> DetectRequest:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return DetectRequest(model=model, image=Image(encoded=out.getvalue()), options=DetectOptions(**options))


async def test_a_zero_shot_detector_looks_for_what_each_call_names_in_regions_too() -> None:
    async with serving(f"find={checkpoints.owlv2()}") as server:
        wanted = [("cat", "dog"), ("red car",), ("dog", "cat", "sun")]
        replies = await asyncio.gather(
            *(
                server.inference.Detect(request("find", one, candidate_labels=labels, min_score=0.0))
                for one, labels in zip(PHOTOS, wanted, strict=True)
            )
        )
        looked = request("find", PHOTOS[0], candidate_labels=["cat"], min_score=0.0)
        looked.options.regions.add(x_min=0.5, y_min=0.5, x_max=1.0, y_max=1.0)
        region = await server.inference.Detect(looked)

    for reply, labels in zip(replies, wanted, strict=True):
        assert reply.detections
        assert all(one.label == labels[one.class_id] for one in reply.detections)
    assert region.detections
    assert all(one.box.x_min >= 0.5 and one.box.y_min >= 0.5 for one in region.detections)


async def test_a_zero_shot_classifier_answers_a_score_for_each_class_named() -> None:
    async with serving(f"tell={checkpoints.clip()},template={{}}") as server:
        wanted = [["cat", "dog"], ["red car"], ["dog", "cat", "sun"]]
        replies = await asyncio.gather(
            *(
                server.inference.Detect(request("tell", one, candidate_labels=labels))
                for one, labels in zip(PHOTOS, wanted, strict=True)
            )
        )

    for reply, labels in zip(replies, wanted, strict=True):
        assert sorted(one.name for one in reply.labels) == sorted(labels)
        assert all(labels[one.class_id] == one.name for one in reply.labels)
        assert [one.score for one in reply.labels] == sorted(
            (one.score for one in reply.labels), reverse=True
        )


async def test_a_zero_shot_call_that_names_nothing_is_refused_by_name() -> None:
    async with serving(f"find={checkpoints.owlvit()}") as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.inference.Detect(request("find", PHOTOS[0]))

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "candidate_labels" in (raised.value.details() or "")
