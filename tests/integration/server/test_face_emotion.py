"""Faces and their emotions, as a client gets them: one call, two models, one answer."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from opsin.v1 import (
    DetectOptions,
    DetectRequest,
    Frame,
    Image,
    ListModelsRequest,
    StreamConfig,
    StreamDetectRequest,
)
from opsin_server.errors import Failure, Reason
from serving import Serving, serving

PICTURES = Path(__file__).parents[2] / "data" / "images"
ASTRONAUT = (PICTURES / "astronaut.png").read_bytes()
EMOTIONS = {"neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised"}
STAGES = ("admission", "decode", "prepare", "queue", "infer", "finish", "order")


def request(picture: bytes = ASTRONAUT, **options: Any) -> DetectRequest:
    return DetectRequest(model="face-emotion", image=Image(encoded=picture), options=DetectOptions(**options))


def expect_the_astronaut(reply: Any) -> None:
    [face] = reply.detections
    assert face.label == "face"
    assert face.score == pytest.approx(0.973, abs=0.003)
    box = face.box
    found = [512 * edge for edge in (box.x_min, box.y_min, box.x_max, box.y_max)]
    assert found == pytest.approx([164, 75, 279, 186], abs=1)
    [emotion] = face.attributes
    assert emotion.name == "emotion"
    scores = [label.score for label in emotion.labels]
    assert {label.name for label in emotion.labels} == EMOTIONS
    assert emotion.labels[0].name == "happy"
    assert scores[0] == pytest.approx(1.0, abs=0.001)
    assert scores == sorted(scores, reverse=True)


def buckets(server: Serving, key: str) -> tuple[int, ...]:
    return tuple(server.app.scheduler.terms(key).buckets)


async def test_a_face_comes_with_all_seven_emotions_and_the_stages_add_up() -> None:
    async with serving("face-emotion") as server:
        reply = await server.inference.Detect(request())
        expect_the_astronaut(reply)
        spent = [getattr(reply.timings, f"{name}_us") for name in STAGES]
        assert sum(spent) <= reply.timings.total_us
        alone = [await server.inference.Detect(request(min_score=0.99)) for _ in range(2)]
        assert not any(one.detections for one in alone)
        for name in ("coffee.png", "chelsea.png"):
            assert not (await server.inference.Detect(request((PICTURES / name).read_bytes()))).detections


async def test_the_second_stage_is_warm_and_belongs_to_the_first() -> None:
    async with serving("face-emotion") as server:
        assert buckets(server, "face-emotion/emotion@1")[0] == 1
        listed = (await server.models.ListModels(ListModelsRequest())).models
        assert [model.name for model in listed] == ["face-emotion"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.inference.Detect(
                DetectRequest(model="face-emotion/emotion", image=Image(encoded=ASTRONAUT))
            )
        assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


async def test_emotions_and_vectors_are_had_in_one_call() -> None:
    async with serving("face-emotion", "vectors=echo") as server:
        reply = await server.inference.Detect(request(embed_detections=True, embed_model="vectors"))
        expect_the_astronaut(reply)
        assert reply.detections[0].embedding.dimensions == 8


async def test_regions_are_found_in_and_told_in_whole_image_coordinates() -> None:
    async with serving("face-emotion") as server:
        region = {"x_min": 0.1, "y_min": 0.0, "x_max": 0.8, "y_max": 0.6}
        [face] = (await server.inference.Detect(request(regions=[region]))).detections
        assert face.box.x_min * 512 == pytest.approx(164, abs=12)
        assert face.box.y_max * 512 == pytest.approx(186, abs=12)
        assert face.attributes[0].labels[0].name == "happy"


async def test_frames_of_a_stream_have_emotions_too() -> None:
    async with serving("face-emotion") as server:
        call = server.inference.StreamDetect()
        await call.write(StreamDetectRequest(config=StreamConfig(model="face-emotion")))
        for sequence in (1, 2):
            await call.write(
                StreamDetectRequest(frame=Frame(sequence=sequence, image=Image(encoded=ASTRONAUT)))
            )
        await call.done_writing()
        replies = [reply async for reply in call]
        results = [reply.result for reply in replies if reply.HasField("result")]
        assert [one.sequence for one in results] == [1, 2]
        for one in results:
            expect_the_astronaut(one.response)


async def test_a_full_second_stage_refuses_and_leaves_no_pixels_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving("face-emotion") as server:
        gate = server.app.pipeline._gate
        admit = gate.admit

        def full(model: str, *others: Any) -> Any:
            if model == "face-emotion/emotion@1":
                raise Failure(Reason.QUEUE_FULL, "Full.", retry_after=0.25)
            return admit(model, *others)

        monkeypatch.setattr(gate, "admit", full)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.inference.Detect(request())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.app._budget.used == 0
