"""Zero-shot models behind a real server: each call names its own classes."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image as Pictures

import checkpoints
import opsin
from opsin.v1 import BatchDetectRequest, DetectOptions, DetectRequest, Image
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


@pytest.mark.parametrize("make", [checkpoints.owlv2, checkpoints.grounding_dino])
async def test_a_zero_shot_detector_looks_for_what_each_call_names_in_regions_too(
    make: Callable[[], Path],
) -> None:
    async with serving(f"find={make()}") as server:
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


async def test_what_is_seen_in_a_region_lies_as_it_would_in_a_picture_of_its_own() -> None:
    wide = Pictures.fromarray(np.random.default_rng(4).integers(0, 256, (60, 200, 3), np.uint8))
    async with serving(f"find={checkpoints.owlv2()}") as server:
        looked = request("find", wide, candidate_labels=["cat"], min_score=0.0, iou_threshold=1.0)
        looked.options.regions.add(x_min=0.0, y_min=0.0, x_max=0.5, y_max=1.0)
        region = await server.inference.Detect(looked)
        alone = await server.inference.Detect(
            request("find", wide.crop((0, 0, 100, 60)), candidate_labels=["cat"], min_score=0.0)
        )

    assert len(region.detections) == len(alone.detections) > 0
    for one, other in zip(region.detections, alone.detections, strict=True):
        assert one.box.x_max == pytest.approx(other.box.x_max / 2, abs=1e-4)
        assert one.box.y_max == pytest.approx(other.box.y_max, abs=1e-4)


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


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (checkpoints.clip, "options.candidate_labels[1]"),
        (checkpoints.owlv2, "options.candidate_labels[1]"),
        (checkpoints.grounding_dino, "options.candidate_labels"),
    ],
)
async def test_a_label_that_is_too_long_is_the_labels_fault_and_not_the_pictures(
    make: Callable[[], Path], field: str
) -> None:
    labels = ["cat", "long " * 20]
    good, bad = (
        request("m", PHOTOS[0], candidate_labels=["cat"]),
        request("m", PHOTOS[0], candidate_labels=labels),
    )
    cut = request("m", PHOTOS[0], candidate_labels=labels, truncate_text=True)
    # CLIP's own template is too long for the alphabet of the tiny one.
    spec = f"m={make()},template={{}}" if make is checkpoints.clip else f"m={make()}"
    async with serving(spec) as server, opsin.AsyncClient(server.target) as client:
        with pytest.raises(opsin.InvalidInput) as refused:
            await client.detect(PHOTOS[0], model="m", candidate_labels=labels)
        batch = await server.inference.BatchDetect(BatchDetectRequest(requests=[good, bad, cut]))

    assert refused.value.reason == "TEXT_TOO_LONG"
    assert [one.field for one in refused.value.violations] == [field]
    assert "requests[1]." + field in str(batch.outcomes[1].error.details)
    assert [one.WhichOneof("outcome") for one in batch.outcomes] == ["response", "error", "response"]
    assert batch.outcomes[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize("make", [checkpoints.clip, checkpoints.siglip2_naflex, checkpoints.owlv2])
async def test_a_picture_with_labels_counts_against_the_budget_of_pixels_while_it_waits(
    make: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"m={make()}" if make is checkpoints.owlv2 else f"m={make()},template={{}}"
    async with serving(spec) as server:
        held: list[int] = []
        submit = server.app.scheduler.submit

        def noting(*args: Any, **more: Any) -> Any:
            held.append(server.app._budget.used)
            return submit(*args, **more)

        monkeypatch.setattr(server.app.scheduler, "submit", noting)
        await server.inference.Detect(request("m", PHOTOS[0], candidate_labels=["cat"]))

        assert held
        assert min(held) >= 3000
        assert server.app._budget.used == 0
