"""A user's own detector states stages; the server crops, batches and merges for it."""

import asyncio
import io
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image as Pictures

from opsin.v1 import DetectRequest, Image
from serving import serving

CODE = '''
import time

from opsin_detectors.api import *


class Size(Detector):
    """Says how large its picture is."""

    def __init__(self, task):
        self.sizes = []
        self.info = ModelInfo(tasks=frozenset({task}))

    def prepare(self, source, task, options):
        if source.width == 13:
            raise InputError("thirteen pixels are bad luck")
        return Prepared((source.width, source.height, task))

    def infer(self, batch):
        self.sizes.append(len(batch))
        time.sleep(0.02)  # whatever the size: batches pay
        return batch

    def finish(self, outputs, items):
        return [self.answer(*output) for output in outputs]

    def answer(self, width, height, task):
        if task is Task.READ_TEXT:
            return Output([Detection(Box(0, 0, 1, 1), "text", 1.0, text=f"{width}x{height}")])
        wide = width / (width + height)
        return Output(labels=[Label("wide", wide), Label("tall", 1 - wide, 1)])

    def close(self):
        print("closed", flush=True)


class Plates(Size):
    """Finds a car on the left half and a plate on the right."""

    def __init__(self, context):
        self.sizes = []
        self.info = ModelInfo(
            tasks=frozenset({Task.DETECT}),
            classes=("car", "plate"),
            stages=(
                Stage(
                    "number",
                    Size(Task.READ_TEXT),
                    Task.READ_TEXT,
                    margin=0.25,
                    classes=frozenset({"plate"}),
                ),
                Stage("shape", Size(Task.CLASSIFY_IMAGE)),
            ),
        )

    def answer(self, width, height, task):
        return Output([
            Detection(Box(0.0, 0.0, 0.5, 1.0), "car", 0.8),
            Detection(Box(0.5, 0.25, 0.75, 0.75), "plate", 0.9, 1),
        ])
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plates").mkdir()
    (tmp_path / "plates" / "detector.toml").write_text('name = "plates"\nclass = "code:Plates"\n')
    (tmp_path / "plates" / "code.py").write_text(CODE)
    return tmp_path


def request(width: int, height: int) -> DetectRequest:
    out = io.BytesIO()
    Pictures.new("RGB", (width, height)).save(out, "PNG")
    return DetectRequest(model="plates", image=Image(encoded=out.getvalue()))


async def test_each_stage_looks_at_its_own_boxes_and_says_what_it_saw(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving("plates", detectors={"dirs": [folder]}) as server:
        replies = await asyncio.gather(*(server.inference.Detect(request(80, 40)) for _ in range(5)))
        for reply in replies:
            plate, car = reply.detections
            assert (plate.label, plate.text) == ("plate", "30x30")  # 20 x 20, grown by a quarter on each side
            assert (car.label, car.text) == ("car", "")
            shapes: list[Any] = [one.attributes[0] for one in (plate, car)]
            assert [one.name for one in shapes] == ["shape", "shape"]
            assert [one.labels[0].score for one in shapes] == pytest.approx([0.5, 0.5])
    assert capfd.readouterr().out.count("closed") == 3


async def test_a_crop_that_a_stage_cannot_use_fails_the_call_and_only_that(folder: Path) -> None:
    async with serving("plates", detectors={"dirs": [folder]}) as server:
        bad, good = await asyncio.gather(
            server.inference.Detect(request(26, 10)),
            server.inference.Detect(request(80, 40)),
            return_exceptions=True,
        )
        assert isinstance(bad, grpc.aio.AioRpcError)
        assert "bad luck" in (bad.details() or "")
        assert len(good.detections) == 2
        assert server.app._budget.used == 0


async def test_crops_of_different_callers_share_batches(folder: Path) -> None:
    async with serving("plates", detectors={"dirs": [folder]}, scheduler={"lanes": 1}) as server:
        number = server.app.registry.route("plates", "detect").stages[0][1].detector
        number.sizes.clear()  # of warming up

        # Each call has one plate, so a batch of two has two callers.
        await asyncio.gather(*(server.inference.Detect(request(80 + index, 40)) for index in range(12)))

        assert sum(number.sizes) == 12
        assert max(number.sizes) > 1
