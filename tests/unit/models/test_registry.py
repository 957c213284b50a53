"""The lives of models: what fails, and what is then left of it."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from opsin_detectors.api import LoadContext, LoadError
from opsin_detectors.echo.detector import Echo
from opsin_server.config import ModelSettings
from opsin_server.errors import Failure, Reason
from opsin_server.models.directory import Version
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.loading import Loader
from opsin_server.models.registry import Registry
from opsin_server.models.status import ModelState
from opsin_server.scheduling.scheduler import Scheduler, SchedulerOptions


class Hungry(Echo):
    """Has memory for so many inputs at a time."""

    room = 4

    def infer(self, batch: Sequence[Any]) -> Any:
        if len(batch) > self.room:
            raise RuntimeError("CUDA out of memory.")
        return super().infer(batch)


class Full(Hungry):
    room = 0


class Text(Echo):
    """Takes its second task's batches only up to two."""

    def infer(self, batch: Sequence[Any]) -> Any:
        if len(batch) > 2 and batch[0][1].vector is not None:
            raise RuntimeError("CUDA out of memory.")
        return super().infer(batch)


class ByHand(Loader):
    """Loads what its test names, without any files."""

    kinds: dict[str, Any]

    def load(self, version: Version) -> LoadedModel:
        kind = self.kinds[version.name]
        if isinstance(kind, Exception):
            raise kind
        context = LoadContext(name=version.name, source="", settings={}, device="cpu", dtype="auto")
        return LoadedModel(version.name, version.number, kind(context))


@pytest.fixture
async def registry() -> AsyncGenerator[Registry]:
    scheduler = Scheduler(SchedulerOptions())
    loader = ByHand({}, scheduler)
    loader.kinds = {}
    registry = Registry(loader, scheduler)
    yield registry
    await scheduler.close()
    await registry.close()


async def loaded(registry: Registry, name: str, kind: Any, version: int = 1) -> Version:
    assert isinstance(registry._loader, ByHand)
    registry._loader.kinds[name] = kind
    entry = registry.declare(ModelSettings(name=name, version=version))
    await registry.load(entry)
    return entry


async def test_a_model_serves_at_the_sizes_there_is_memory_for(registry: Registry) -> None:
    version = await loaded(registry, "m", Hungry)
    assert version.state is ModelState.SERVING
    assert registry._scheduler.terms("m@1").buckets == (1, 2, 3, 4)


async def test_the_log_tells_how_long_a_model_took_to_load_and_to_become_warm(registry: Registry) -> None:
    with capture_logs() as told:
        version = await loaded(registry, "m", Echo)
        await loaded(registry, "broken", LoadError("no such file"))
    (ready,) = (line for line in told if line["event"] == "model_ready")
    assert ready["model"] == "m@1"
    assert min(ready["loading_s"], ready["warming_s"]) >= 0
    assert ready["loading_s"] + ready["warming_s"] <= version.load_seconds + 0.01  # each is rounded


async def test_the_task_that_needs_most_memory_decides(registry: Registry) -> None:
    version = await loaded(registry, "m", Text)
    assert version.state is ModelState.SERVING
    assert registry._scheduler.terms("m@1").buckets == (1, 2)


@pytest.mark.parametrize("kind", [Full, MemoryError(), RuntimeError("CUDA out of memory.")])
async def test_a_model_there_is_no_memory_for_says_so(registry: Registry, kind: Any) -> None:
    version = await loaded(registry, "m", kind)
    assert version.state is ModelState.FAILED
    assert version.failure is not None
    assert version.failure.reason is Reason.DEVICE_MEMORY


async def test_a_detector_that_wraps_its_want_of_memory_says_so_too(registry: Registry) -> None:
    error = LoadError("the weights do not load")
    error.__cause__ = MemoryError()
    version = await loaded(registry, "m", error)
    assert version.failure is not None
    assert version.failure.reason is Reason.DEVICE_MEMORY
    assert (await loaded(registry, "n", LoadError("no such file"))).failure.reason is Reason.MODEL_LOAD_FAILED


async def test_a_failed_model_keeps_no_weights(registry: Registry) -> None:
    made: list[weakref.ref[Full]] = []

    def make(context: LoadContext) -> Full:
        detector = Full(context)
        made.append(weakref.ref(detector))
        return detector

    version = await loaded(registry, "m", make)
    assert version.loaded is None
    async with asyncio.timeout(30):
        while made[0]() is not None:  # until the threads that had it in hand are back at their queues
            gc.collect()
            await asyncio.sleep(0.001)


async def test_a_failed_model_is_nobodys_default(registry: Registry) -> None:
    await loaded(registry, "broken", Full)
    with pytest.raises(Failure) as refused:
        registry.default("embed")
    assert refused.value.reason is Reason.MODEL_NOT_FOUND
    await loaded(registry, "sound", Echo)
    assert registry.default("embed") == registry.default("detect") == "sound"


async def test_a_model_that_still_loads_may_become_the_default(registry: Registry) -> None:
    registry.declare(ModelSettings(name="coming"))
    assert registry.default("embed") == "coming"
    with pytest.raises(Failure) as refused:
        registry.route("", "embed")
    assert refused.value.reason is Reason.MODEL_NOT_READY


async def test_the_traffic_of_a_version_that_goes_is_left_to_the_one_that_stays(registry: Registry) -> None:
    first = await loaded(registry, "m", Echo, version=1)
    second = await loaded(registry, "m", Echo, version=2)
    first.weight, second.weight = 0, 1
    registry.retire(second)
    assert (first.weight, second.weight) == (1, 0)
    assert (await loaded(registry, "m", Echo, version=3)).weight == 0
    assert registry.route("m", "detect") is first.loaded
