"""A model that is told to go on with others: `then` in the settings of a model, by one line or by file."""

import asyncio
import io
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image as Pictures

import checkpoints
import opsin
from opsin.v1 import (
    BatchDetectRequest,
    DetectOptions,
    DetectRequest,
    Image,
    LoadModelRequest,
    UnloadModelRequest,
)
from opsin_server.app import App
from opsin_server.config import Settings
from serving import serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CODE = '''
import time

from opsin_detectors.api import *


class Halves(Detector):
    """Finds a car on the left half and a plate in the right one."""

    def __init__(self, context):
        self.info = ModelInfo(tasks=frozenset({Task.DETECT}), classes=("car", "plate"))

    def prepare(self, source, task, options):
        return Prepared(None)

    def infer(self, batch):
        return batch

    def finish(self, outputs, items):
        car = Detection(Box(0.0, 0.0, 0.5, 1.0), "car", 0.8)
        plate = Detection(Box(0.5, 0.25, 0.75, 0.75), "plate", 0.9, 1)
        return [Output([car, plate]) for item in items]


class Reader(Detector):
    """Reads the size of its picture."""

    def __init__(self, context):
        self.sizes = sizes
        self.task = Task(context.settings.get("task", "read_text"))
        self.info = ModelInfo(tasks=frozenset({self.task}), max_batch=8)

    def prepare(self, source, task, options):
        return Prepared((source.width, source.height))

    def infer(self, batch):
        sizes.append(len(batch))
        time.sleep(0.02)  # whatever the size: batches pay
        return batch

    def finish(self, outputs, items):
        return [self.answer(*output) for output in outputs]

    def answer(self, width, height):
        if self.task is Task.READ_TEXT:
            return Output([Detection(Box(0, 0, 1, 1), "text", 1.0, text=f"{width}x{height}")])
        wide = width / (width + height)
        return Output(labels=[Label("wide", wide), Label("tall", 1 - wide, 1)])


sizes = []
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, kind in (("halves", "Halves"), ("reader", "Reader")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "detector.toml").write_text(f'name = "{name}"\nclass = "code:{kind}"\n')
        (tmp_path / name / "code.py").write_text(CODE)
    return tmp_path


def request(model: str, width: int = 80, height: int = 40, **options: Any) -> DetectRequest:
    out = io.BytesIO()
    Pictures.new("RGB", (width, height)).save(out, "PNG")
    return DetectRequest(model=model, image=Image(encoded=out.getvalue()), options=DetectOptions(**options))


async def test_what_one_model_finds_the_next_one_reads_and_callers_share_its_batches(folder: Path) -> None:
    async with serving("plates=halves,then=reader", detectors={"dirs": [folder]}) as server:
        sizes = server.app.registry.route("reader", "detect").detector.sizes
        sizes.clear()
        detect = server.inference.Detect
        # Equal pictures would be looked at once for all.
        asked = [detect(request("plates", skip_cache=True)) for _ in range(12)]
        more = [detect(request("reader", 9, 7, skip_cache=True)) for _ in range(4)]
        replies = await asyncio.gather(*asked, *more)

    for reply in replies[:12]:
        plate, car = reply.detections
        assert (plate.label, plate.text) == ("plate", "20x20")
        assert (car.label, car.text) == ("car", "40x40")
        assert reply.model.name == "plates"
    assert [reply.detections[0].text for reply in replies[12:]] == ["9x7"] * 4
    assert sum(sizes) == 12 * 2 + 4  # crops and callers' own pictures are tickets of one model
    assert max(sizes) > 2  # more than one call's crops in a batch


async def test_the_crop_grows_by_the_margin_and_only_boxes_of_the_classes_are_looked_at(folder: Path) -> None:
    spec = "plates=halves,then=reader+shape,then_margin=0.25,then_classes=plate"
    shape = "shape=reader,task=classify_image"
    async with serving(spec, shape, detectors={"dirs": [folder]}) as server:
        reply = await server.inference.Detect(request("plates"))

    plate, car = reply.detections
    assert plate.text == "30x30"
    assert [(one.name, [label.name for label in one.labels]) for one in plate.attributes] == [
        ("shape", ["wide", "tall"])
    ]
    assert (car.text, list(car.attributes)) == ("", [])


async def test_boxes_get_vectors_unless_the_call_names_whose_it_wants() -> None:
    async with serving("boxes=echo,then=look", f"look={checkpoints.vit()}", "other=echo") as server:
        told = await server.inference.Detect(request("boxes"))
        own = await server.inference.Detect(request("boxes", embed_detections=True, embed_model="other"))

    assert told.detections[0].embedding.dimensions == 32
    assert own.detections[0].embedding.dimensions == 8


async def test_vectors_of_wider_crops_are_not_given_to_whom_asked_for_the_box(folder: Path) -> None:
    """The same models look at the same picture, at more of it."""
    look = f"look={checkpoints.vit()}"
    boxes = "boxes=halves,then=look,then_margin=0.5"
    out = io.BytesIO()
    Pictures.linear_gradient("L").convert("RGB").save(out, "PNG")
    told = DetectRequest(model="boxes", image=Image(encoded=out.getvalue()))
    asked = DetectRequest(model="boxes", image=told.image)
    asked.options.MergeFrom(DetectOptions(embed_detections=True, embed_model="look"))
    async with serving(boxes, look, detectors={"dirs": [folder]}, cache={"memory_bytes": 1 << 20}) as server:
        answers = [await server.inference.Detect(one) for one in (told, asked, told)]

    first, second, third = (bytes(one.detections[0].embedding.packed) for one in answers)
    assert first == third
    assert first != second


async def test_a_stream_and_a_batch_go_on_with_the_next_model_as_well(folder: Path) -> None:
    async with (
        serving("plates=halves,then=reader", detectors={"dirs": [folder]}) as server,
        opsin.AsyncClient(server.target) as client,
    ):
        batch = await server.inference.BatchDetect(BatchDetectRequest(requests=[request("plates")] * 2))
        frames = [np.zeros((40, 80, 3), np.uint8)] * 3
        async with client.stream(frames, model="plates", reconnect=0) as session:
            texts = [
                one.result.detections[0].text async for one in session if isinstance(one, opsin.FrameResult)
            ]

    assert [one.response.detections[0].text for one in batch.outcomes] == ["20x20"] * 2
    assert texts == ["20x20"] * 3


async def test_a_model_that_is_unloaded_fails_the_calls_that_go_on_to_it_by_name(folder: Path) -> None:
    async with serving("plates=halves,then=reader", detectors={"dirs": [folder]}) as server:
        await server.models.UnloadModel(UnloadModelRequest(name="reader"))
        while any(version.name == "reader" for version in server.app.registry):
            await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.inference.Detect(request("plates"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert "“plates” finds goes on to “reader”" in (raised.value.details() or "")

        await server.models.LoadModel(LoadModelRequest(name="reader", wait=True))
        assert (await server.inference.Detect(request("plates"))).detections[0].text == "20x20"


async def test_it_can_be_loaded_while_the_server_runs(folder: Path) -> None:
    async with serving("reader", "halves", detectors={"dirs": [folder]}) as server:
        load = server.models.LoadModel
        await load(LoadModelRequest(name="late", source="halves", settings={"then": "reader"}, wait=True))
        assert (await server.inference.Detect(request("late"))).detections[0].text == "20x20"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await load(LoadModelRequest(name="bad", source="halves", settings={"then": "nobody"}, wait=True))

    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "then=nobody" in (raised.value.details() or "")


@pytest.mark.parametrize(
    ("models", "why"),
    [
        (
            ["a=halves,then=echo2", "echo2=halves"],
            "about a box is said READ_TEXT, CLASSIFY_IMAGE, EMBED_IMAGE",
        ),
        (["a=reader,then=halves"], "needs a model that finds boxes"),
        (["a=halves,then=reader,then_classes=plat"], "no class “plat”; the nearest is “plate”"),
        (["a=halves,then=reader@2"], "no version or label “2”"),
    ],
)
async def test_what_cannot_follow_fails_the_load_and_says_why(
    folder: Path, models: list[str], why: str
) -> None:
    app = App(Settings(model=models, server={"port": 0}, detectors={"dirs": [folder]}, drain={"delay": 0.0}))
    await app.start()
    try:
        [failed] = await app.load()
    finally:
        await app.stop()

    assert failed.failure is not None
    assert failed.name == "a"
    assert why in failed.failure.message


async def test_real_models_follow_each_other_and_the_second_need_not_be_asked_for() -> None:
    picture = (Path(__file__).parents[2] / "data" / "images" / "astronaut.png").read_bytes()

    async with serving("people=nanodet,then=nsfw,then_classes=person") as server:
        reply = await server.inference.Detect(DetectRequest(model="people", image=Image(encoded=picture)))
        alone = await server.inference.Detect(DetectRequest(model="nsfw", image=Image(encoded=picture)))

    person = next(one for one in reply.detections if one.label == "person")
    [told] = person.attributes
    assert told.name == "nsfw"
    assert told.labels[0].name == alone.labels[0].name == "neutral"
    assert sum(one.score for one in told.labels) == pytest.approx(1.0, abs=1e-3)
