"""A batch that runs alone gets all cores; with company, or somebody left waiting, its lane's share."""

import asyncio
import sys
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from opsin_detectors.api import Item, Label, Options, Output, Prepared, Task
from opsin_server.errors import Failure
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.scheduler import Scheduler, SchedulerOptions
from opsin_server.scheduling.width import pays, threads_for

ITEM = Item(Task.CLASSIFY_TEXT, Options(), None, 0, 0)
CORES = 8


def test_only_a_batch_without_company_is_wide() -> None:
    assert threads_for(wide=CORES, others=0, waiting=0) == CORES
    assert threads_for(wide=CORES, others=1, waiting=0) == 0
    assert threads_for(wide=CORES, others=0, waiting=1) == 0


def test_a_model_is_run_wide_only_where_that_is_clearly_quicker() -> None:
    assert pays(1.0, 0.6)
    assert not pays(1.0, 0.95)
    assert not pays(1.0, 1.4)


class Model:
    """Notes how many threads each batch was run with. A test can hold its batches at a gate."""

    light = False
    everywhere = False

    def __init__(self, width: threading.local) -> None:
        self.width = width
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.widths: list[int] = []

    def launch(self, prepared: Sequence[Prepared], local: dict[str, object]) -> list[Any]:
        self.widths.append(self.width.threads)
        self.started.release()
        assert self.gate.wait(10)
        return [one.data for one in prepared]

    def collect(self, launched: list[Any], local: dict[str, object]) -> list[Any]:
        return launched

    def finish(self, outputs: list[Any], items: Sequence[Item]) -> list[Output | Failure]:
        return [Output(labels=(Label(str(one), 1.0),)) for one in outputs]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    width = threading.local()
    told = SimpleNamespace(set_num_threads=lambda threads: setattr(width, "threads", threads))
    monkeypatch.setitem(sys.modules, "torch", told)
    return Model(width)


def scheduler_of(model: Model, *, wide: int = CORES) -> Scheduler:
    options = SchedulerOptions(lanes=2, threads_per_lane=1, wide_threads=wide)
    scheduler = Scheduler(options)
    scheduler.add_model("m@1", model, ModelTerms((1,)))
    return scheduler


async def test_one_caller_gets_all_cores_and_two_get_a_lane_each(model: Model) -> None:
    scheduler = scheduler_of(model)
    scheduler.widen("m@1")
    await scheduler.submit("m@1", Prepared("a"), ITEM, flow="a")
    model.gate.clear()
    first = scheduler.submit("m@1", Prepared("b"), ITEM, flow="a")
    assert await asyncio.to_thread(model.started.acquire, True, 10)
    assert await asyncio.to_thread(model.started.acquire, True, 10)
    second = scheduler.submit("m@1", Prepared("c"), ITEM, flow="b")
    assert await asyncio.to_thread(model.started.acquire, True, 10)
    model.gate.set()
    await asyncio.gather(first, second)
    assert model.widths == [CORES, CORES, 1]
    await scheduler.close()


async def test_who_come_together_do_not_take_each_others_cores(model: Model) -> None:
    scheduler = scheduler_of(model)
    scheduler.widen("m@1")
    futures = [scheduler.submit("m@1", Prepared(at), ITEM, flow=str(at)) for at in range(4)]
    await asyncio.gather(*futures)
    assert model.widths[:2] == [1, 1]
    await scheduler.close()


async def test_a_model_that_is_no_quicker_wide_stays_narrow(model: Model) -> None:
    scheduler = scheduler_of(model)
    await scheduler.submit("m@1", Prepared("a"), ITEM, flow="a")
    assert model.widths == [1]
    await scheduler.close()


async def test_a_warm_up_runs_at_the_width_it_asks_for(model: Model) -> None:
    scheduler = scheduler_of(model)
    assert scheduler.can_widen
    for wide in (False, True, False):
        await scheduler.run_alone("m@1", model, [(Prepared("w"), ITEM)], wide=wide)
    assert model.widths == [1, CORES, 1]
    await scheduler.close()


async def test_where_the_width_is_told_it_never_changes(model: Model) -> None:
    scheduler = scheduler_of(model, wide=0)
    assert not scheduler.can_widen
    scheduler.widen("m@1")
    await scheduler.submit("m@1", Prepared("a"), ITEM, flow="a")
    assert model.widths == [1]
    await scheduler.close()


async def test_a_model_that_is_loaded_anew_under_its_name_is_measured_for_itself(model: Model) -> None:
    scheduler = scheduler_of(model)
    scheduler.widen("m@1")
    scheduler.remove_model("m@1")
    scheduler.add_model("m@1", model, ModelTerms((1,)))
    await scheduler.submit("m@1", Prepared("a"), ITEM, flow="a")
    assert model.widths == [1]
    await scheduler.close()
