"""A server with several devices, which are stand-ins on one CPU: every model is on each of them."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import opsin_server.app
from opsin.v1 import (
    DetectRequest,
    GetModelRequest,
    GetServerInfoRequest,
    Image,
    LoadModelRequest,
    ModelState,
    UnloadModelRequest,
)
from opsin_server.models import memory
from opsin_server.models.memory import DeviceMemory
from serving import Serving, serving
from unit.media.pictures import encode, photo

DEVICES = ("cpu/0", "cpu/1")
PICTURES = [encode(photo(40 + n, 30), "PNG") for n in range(8)]
CODE = '''
import builtins
from opsin_detectors.api import *
import numpy as np

class Numbered(Detector):
    """Answers with which of those loaded it was that ran."""

    def __init__(self, context):
        Numbered.hub = builtins.numbered_hub
        self.number = Numbered.hub.loaded(self)
        self.info = ModelInfo(
            tasks=frozenset({Task.CLASSIFY_IMAGE}), classes=("0", "1"), input=InputSpec(8, 8), max_batch=2,
            device=context.device, memory_bytes=1000,
        )

    def prepare(self, source, task, options):
        return Prepared(np.resize(source.pixels, (8, 8, 3)))

    def infer(self, batch):
        Numbered.hub.ran(self.number)
        return [self.number] * len(batch)

    def finish(self, outputs, items):
        assert set(outputs) == {self.number}  # what ran on a device is finished by who ran it
        return [Output(labels=[Label(str(one), 1.0, one)]) for one in outputs]

    def close(self):
        Numbered.hub.closed.add(self.number)
'''


class Hub:
    """What the detectors of a test have in common."""

    def __init__(self) -> None:
        self.count = 0
        self.broken: set[int] = set()
        self.closed: set[int] = set()
        self.meet: threading.Barrier | None = None
        self.met: set[int] = set()

    def loaded(self, detector: Any) -> int:
        number, self.count = self.count % 2, self.count + 1
        return number

    def ran(self, number: int) -> None:
        if self.meet is not None and number not in self.met:
            self.met.add(number)
            with contextlib.suppress(threading.BrokenBarrierError):
                self.meet.wait(20)
        if number in self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    one = Hub()
    monkeypatch.setattr("builtins.numbered_hub", one, raising=False)
    monkeypatch.setattr(opsin_server.app, "pick_device", lambda wanted: "+".join(DEVICES))
    yield one
    if one.meet is not None:
        one.meet.abort()


@contextlib.asynccontextmanager
async def numbered(tmp_path: Path, *models: str, **sections: Any) -> AsyncGenerator[Serving]:
    folder = tmp_path / "numbered"
    folder.mkdir(exist_ok=True)
    (folder / "detector.toml").write_text('name = "numbered"\nclass = "code:Numbered"\n')
    (folder / "code.py").write_text(CODE)
    detectors = {"dirs": [tmp_path]}
    async with serving(*(models or ("numbered",)), detectors=detectors, **sections) as server:
        yield server


async def ask(server: Serving, data: bytes, model: str = "numbered") -> Any:
    return await server.inference.Detect(DetectRequest(model=model, image=Image(encoded=data)))


async def which(server: Serving) -> list[str]:
    """Who answered eight pictures that came at once."""
    return [reply.labels[0].name for reply in await asyncio.gather(*(ask(server, one) for one in PICTURES))]


async def test_both_devices_run_batches_at_the_same_time(tmp_path: Path, hub: Hub) -> None:
    async with numbered(tmp_path) as server:
        hub.meet = threading.Barrier(2)  # the first batch of each goes on only when the other has one as well
        replies = await asyncio.gather(*(ask(server, one) for one in PICTURES))
        assert not hub.meet.broken
        assert {reply.labels[0].name for reply in replies} == {"0", "1"}
        assert {reply.model.device for reply in replies} == {"cpu/0+cpu/1"}


async def test_the_model_service_and_the_metrics_tell_of_each_device(tmp_path: Path, hub: Hub) -> None:
    async with numbered(tmp_path, scheduler={"lanes": 2}) as server:
        await which(server)
        info = await server.models.GetServerInfo(GetServerInfoRequest())
        assert [(device.name, device.lanes) for device in info.devices] == [("cpu/0", 2), ("cpu/1", 2)]
        model = (await server.models.GetModel(GetModelRequest(name="numbered"))).model
        assert model.device == "cpu/0+cpu/1"
        assert model.memory_bytes >= 2000
        assert list(model.buckets) == [1, 2]
        shares = [
            sample.labels["device"]
            for metric in server.app.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "opsin_device_busy_share"
        ]
        assert shares == ["cpu/0", "cpu/1"]


async def test_a_device_that_breaks_costs_no_answer_and_is_seen_to_be_gone(tmp_path: Path, hub: Hub) -> None:
    async with numbered(tmp_path) as server:
        hub.broken = {0}
        for _ in range(20):
            assert set(await which(server)) == {"1"}
            info = await server.models.GetServerInfo(GetServerInfoRequest())
            if info.devices[0].lanes == 0:
                break
        assert [(device.name, device.lanes) for device in info.devices] == [("cpu/0", 0), ("cpu/1", 1)]
        assert server.app.scheduler.healthy
        hub.broken = set()
        # What is loaded from now on is loaded where it can run.
        hub.count = 1
        await server.models.LoadModel(LoadModelRequest(name="late", source="numbered", wait=True))
        assert hub.count == 2
        assert (await ask(server, PICTURES[0], "late")).labels[0].name == "1"


async def test_unloading_closes_it_on_every_device(tmp_path: Path, hub: Hub) -> None:
    async with numbered(tmp_path, "numbered", "echo") as server:
        await which(server)
        await server.models.UnloadModel(UnloadModelRequest(name="numbered", version=1))
        while server.app.lifecycle._draining or len(hub.closed) < 2:
            await asyncio.sleep(0.01)
        assert hub.closed == {0, 1}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(server, PICTURES[0])
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_model_that_one_device_has_no_memory_for_is_not_loaded(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(2000))
    asked: list[str] = []

    def second_is_full(place: str) -> DeviceMemory:
        asked.append(place)
        return DeviceMemory(10_000, 10_000 if len(asked) == 1 else 10)

    async with numbered(tmp_path) as server:
        monkeypatch.setattr(memory, "memory_of", second_is_full)
        source = str(tmp_path / "weights.bin")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.models.LoadModel(LoadModelRequest(name="big", source=source, detector="numbered"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "cpu/1 has 0 MB free" in str(caught.value.details())
        assert asked == ["cpu", "cpu"]


async def test_what_cannot_be_loaded_on_one_device_is_closed_on_the_others(tmp_path: Path, hub: Hub) -> None:
    async with numbered(tmp_path, "echo") as server:
        loaded = hub.loaded

        def second_fails(detector: Any) -> int:
            if hub.count == 1:
                raise RuntimeError("CUDA error: out of memory")
            return loaded(detector)

        hub.loaded = second_fails  # type: ignore[method-assign]
        await server.models.LoadModel(LoadModelRequest(name="late", source="numbered"))
        while server.app.lifecycle._loading:
            await asyncio.sleep(0.01)
        model = (await server.models.GetModel(GetModelRequest(name="late"))).model
        assert model.state == ModelState.MODEL_STATE_FAILED
        assert hub.closed == {0}


async def test_built_in_models_answer_alike_on_either_device(hub: Hub) -> None:
    async with serving("nanodet=nanodet,max_batch=1", "faces=face-emotion,max_batch=1") as server:
        data = encode(photo(320, 240), "PNG")
        for model in ("nanodet", "faces"):
            loaded = server.app.registry.route(model, "detect")
            assert [tuple(one.replicas) for one in loaded.whole] == [DEVICES] * len(loaded.whole)
            replies = await asyncio.gather(*(ask(server, data + bytes(n), model) for n in range(6)))
            assert len({tuple(map(str, reply.detections)) for reply in replies}) == 1
