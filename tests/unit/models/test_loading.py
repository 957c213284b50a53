"""Loading: what is left of a model that came up and then could not be served as told."""

from typing import Any

import pytest

from opsin_detectors.api import LoadError
from opsin_detectors.echo.detector import Echo
from opsin_detectors.finder import find
from opsin_server.config import ModelSettings
from opsin_server.models import loading
from opsin_server.models.directory import Version
from opsin_server.models.loading import Loader
from opsin_server.scheduling.scheduler import Scheduler, SchedulerOptions


async def test_a_model_whose_pictures_cannot_be_decoded_as_told_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[Echo] = []

    def close(echo: Echo) -> None:
        closed.append(echo)

    def cannot(*args: Any, **terms: Any) -> Any:
        raise LoadError("pictures cannot be decoded on cpu")

    monkeypatch.setattr(Echo, "close", close)
    monkeypatch.setattr(loading, "takes_tensors", lambda info: True)
    monkeypatch.setattr(loading, "choose_decoder", cannot)
    scheduler = Scheduler(SchedulerOptions())
    loader = Loader(find(), scheduler)
    with pytest.raises(LoadError, match="cannot be decoded"):
        loader.load(Version(ModelSettings(name="m", source="echo")))
    assert len(closed) == 1
    await scheduler.close()


async def test_whether_a_model_is_quicker_on_all_cores_is_seen_by_one_and_the_same_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = Scheduler(SchedulerOptions(wide_threads=2))
    alone, ran = scheduler.run_alone, []

    async def noted(model: str, runner: Any, pairs: Any, *, wide: bool = False, device: str = "") -> float:
        pairs = list(pairs)
        if len(pairs) == 1:
            ran.append((wide, pairs[0][1].task))
        return await alone(model, runner, pairs, wide=wide, device=device)

    monkeypatch.setattr(scheduler, "run_alone", noted)
    loader = Loader(find(), scheduler)
    version = Version(ModelSettings(name="m", source="echo", settings={"light": "false"}, max_batch=1))
    await loader.warm(version, loader.load(version))
    narrow = [task for wide, task in ran if not wide]
    assert len(set(narrow)) > 1, "it has several tasks"
    assert {task for wide, task in ran if wide} == {narrow[0]}
    await scheduler.close()
