"""Pictures that a device decodes, end to end, with a stand-in for a GPU's decoder: callers notice nothing."""

import asyncio
import io
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image as Pictures

import device_codec
from opsin.v1 import (
    BatchDetectRequest,
    Box,
    DetectOptions,
    DetectRequest,
    Frame,
    GetModelRequest,
    Image,
    ReuseSimilar,
    StreamConfig,
    StreamDetectRequest,
)
from opsin_server.app import App
from opsin_server.config import Settings
from serving import Serving, serving

PHOTOS = Path(__file__).parents[2] / "data" / "images"
DEVICE = {"decode": "device"}
BROKEN = grpc.StatusCode.INVALID_ARGUMENT


def picture(name: str = "coffee.png") -> Pictures.Image:
    return Pictures.open(PHOTOS / name).convert("RGB")


def encode(one: Pictures.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    one.save(out, kind, **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    block = Pictures.Exif()
    block[0x0112] = orientation
    return encode(picture(), exif=block)


JPEG = encode(picture())
LEFT_TO_THE_CPU = {
    "png": encode(picture(), "PNG"),
    "webp": encode(picture(), "WEBP", quality=90),
    "progressive": encode(picture(), progressive=True),
    "cmyk": encode(picture().convert("CMYK")),
    "grey": encode(picture().convert("L")),
}
DAMAGED = {
    "half": JPEG[: len(JPEG) // 2],
    "ended early": JPEG[: len(JPEG) // 2].rstrip(b"\xff") + b"\xff\xd9",
    "gap": JPEG[: len(JPEG) // 2] + bytes(400) + JPEG[len(JPEG) // 2 + 400 :],
    "nothing": b"\xff\xd8\xff\xe0",
    "no picture": b"hello",
}


def small(model: str) -> str:
    """Warmed up for small batches only."""
    return f"{model}={model},max_batch=4"


def request(data: bytes, model: str = "nanodet", **options: Any) -> DetectRequest:
    return DetectRequest(model=model, image=Image(encoded=data), options=DetectOptions(**options))


async def answer(server: Serving, data: bytes, model: str = "nanodet", **options: Any) -> Any:
    return await server.inference.Detect(request(data, model, **options))


def boxes(reply: Any) -> list[tuple[str, list[float]]]:
    return [
        (d.label, [d.score, d.box.x_min, d.box.y_min, d.box.x_max, d.box.y_max]) for d in reply.detections
    ]


def same_boxes(one: Any, other: Any, within: float, least: float = 0.25) -> None:
    """Whatever either is surer of than `least` the other found too, at the same place."""
    assert one.image == other.image
    ours, theirs = boxes(one), boxes(other)
    assert any(numbers[0] > least for _, numbers in ours)
    for some, others in ((ours, theirs), (theirs, ours)):
        for label, numbers in some:
            alike = [figures for known, figures in others if known == label]
            found = any(np.allclose(numbers, figures, atol=within) for figures in alike)
            assert found or numbers[0] <= least, (label, numbers, alike)


def same_labels(ours: Any, theirs: Any, within: float) -> None:
    left, right = ({label.name: label.score for label in labels} for labels in (ours, theirs))
    assert left.keys() == right.keys() != set()
    assert all(abs(left[name] - right[name]) < within for name in left)


async def both(
    monkeypatch: pytest.MonkeyPatch, requests: list[DetectRequest], *models: str
) -> list[tuple[Any, Any]]:
    """Answers without and with the device's decoder, to which every file is offered."""
    async with serving(*map(small, models)) as server:
        usual = [await server.inference.Detect(one) for one in requests]
    asked = device_codec.install(monkeypatch)
    async with serving(*map(small, models), detectors=DEVICE) as server:
        asked.clear()
        there = [await server.inference.Detect(one) for one in requests]
    assert asked == [one.image.encoded for one in requests]
    return list(zip(usual, there, strict=True))


async def test_nanodet_and_nsfw_answer_the_same_upright_sideways_and_in_regions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    region = Box(x_min=0.0, y_min=0.0, x_max=0.9, y_max=1.0)
    shown = [JPEG, encode(picture("astronaut.png"), quality=60), *map(turned, (3, 6, 7))]
    found = [request(data, min_score=0.2) for data in shown] + [
        request(JPEG, regions=[region], min_score=0.2)
    ]
    judged = [request(data, "nsfw") for data in (JPEG, encode(picture("chelsea.png")))]
    answers = await both(monkeypatch, found + judged, "nanodet", "nsfw")
    for usual, there in answers[: len(found)]:
        same_boxes(usual, there, 0.02)
    for usual, there in answers[len(found) :]:
        same_labels(usual.labels, there.labels, 0.02)
        assert usual.flagged == there.flagged


async def test_a_second_stage_looks_at_crops_of_what_the_device_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    face = request(encode(picture("astronaut.png")), "face-emotion")
    ((usual, there),) = await both(monkeypatch, [face], "face-emotion")
    same_boxes(usual, there, 0.02)
    moods = [reply.detections[0].attributes[0].labels for reply in (usual, there)]
    same_labels(*moods, 0.05)


async def test_rare_kinds_and_other_formats_are_answered_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(small("nanodet")) as server:
        usual = {kind: await answer(server, data, min_score=0.2) for kind, data in LEFT_TO_THE_CPU.items()}
    asked = device_codec.install(monkeypatch)
    async with serving(small("nanodet"), detectors=DEVICE) as server:
        asked.clear()
        for kind, data in LEFT_TO_THE_CPU.items():
            assert boxes(await answer(server, data, min_score=0.2)) == boxes(usual[kind]), kind
    assert not asked


async def test_damaged_files_are_refused_with_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refusals(server: Serving) -> list[Any]:
        reply = await server.inference.BatchDetect(
            BatchDetectRequest(requests=[request(data) for data in DAMAGED.values()])
        )
        return [outcome.error for outcome in reply.outcomes]

    async with serving(small("nanodet")) as server:
        usual = await refusals(server)
    device_codec.install(monkeypatch)
    async with serving(small("nanodet"), detectors=DEVICE) as server:
        there = await refusals(server)
    assert [(e.code, e.message) for e in there] == [(e.code, e.message) for e in usual]
    assert {error.code for error in usual} == {BROKEN.value[0]}


async def test_pictures_from_both_decoders_are_answered_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    device_codec.install(monkeypatch)
    async with serving(small("nanodet"), detectors=DEVICE, scheduler={"lanes": 1}) as server:
        # Not the same bytes, or they would be answered as one.
        data = [encode(picture(), quality=q) for q in (90, 91, 92, 93)]
        data += [encode(picture(), "PNG", compress_level=level) for level in (1, 2, 3, 4)]
        alone = [boxes(await answer(server, one, max_detections=2)) for one in data]
        data, alone = data[::2] + data[1::2], alone[::2] + alone[1::2]
        replies = await asyncio.gather(*(answer(server, one, max_detections=2) for one in data))
        for reply, expected in zip(replies, alone, strict=True):
            for (label, numbers), (known, figures) in zip(boxes(reply), expected, strict=True):
                assert label == known
                assert np.allclose(numbers, figures, atol=1e-3)
        assert server.app._budget.used == 0


async def test_frames_of_a_stream_are_decoded_there_too_and_likeness_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = device_codec.install(monkeypatch)
    async with serving(small("nanodet"), detectors=DEVICE) as server:
        asked.clear()
        told = await server.models.GetModel(GetModelRequest(name="nanodet"))
        assert told.model.decoder == device_codec.NAME
        reuse = ReuseSimilar()
        reuse.max_hold.FromSeconds(60)
        stream = server.inference.StreamDetect(timeout=60)
        config = StreamConfig(stream_id="cam", model="nanodet", reuse_similar=reuse)
        await stream.write(StreamDetectRequest(config=config))
        await stream.read()
        outcomes = []
        for sequence in (1, 2):
            frame = Frame(sequence=sequence, image=Image(encoded=JPEG))
            await stream.write(StreamDetectRequest(frame=frame))
            outcomes.append((await stream.read()).result)
        await stream.done_writing()
        first, second = outcomes
        assert boxes(first.response) == boxes(second.response) != []
        assert second.reused_from == 1
    assert len(asked) == 2


CODE = """
from opsin_detectors.api import *
import numpy as np

class Plain(Detector):
    def __init__(self, context):
        tasks = frozenset({Task.CLASSIFY_IMAGE})
        self.info = ModelInfo(tasks=tasks, classes=("array",), input=InputSpec(8, 8))

    def prepare(self, source, task, options):
        assert isinstance(source.pixels, np.ndarray)
        return Prepared(np.resize(source.pixels, (8, 8, 3)))

    def infer(self, batch):
        return batch

    def finish(self, outputs, items):
        return [Output(labels=[Label("array", 1.0)]) for _ in items]
"""


async def test_a_plug_in_that_does_not_ask_for_tensors_never_sees_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "detector.toml").write_text('name = "plain"\nclass = "code:Plain"\n')
    (tmp_path / "plain" / "code.py").write_text(CODE)
    asked = device_codec.install(monkeypatch)
    settings = {**DEVICE, "dirs": [tmp_path]}
    async with serving("plain", "faces=face-emotion,max_batch=1,then=plain", detectors=settings) as server:
        asked.clear()
        assert len((await answer(server, JPEG, "plain")).labels) == 1
        assert not asked
        # What the device decoded for the first model is brought home for the second.
        found = (await answer(server, encode(picture("astronaut.png")), "faces")).detections
        assert [a.labels for a in found[0].attributes if a.name == "plain"] != []
        assert len(asked) == 1


async def test_a_model_that_cannot_be_served_as_told_is_not_served() -> None:
    app = App(Settings(model=("nanodet",), server={"port": 0}, drain={"delay": 0.0}, detectors=DEVICE))
    await app.start()
    try:
        (failed,) = await app.load()
        assert failed.failure is not None
        assert "pictures cannot be decoded on cpu" in failed.failure.message
    finally:
        await app.stop()
