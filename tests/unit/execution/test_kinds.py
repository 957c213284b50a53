"""Lanes are threads or processes: as told, kept or measured; and what cannot be in processes is told."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from opsin_detectors.api import LoadContext, LoadError
from opsin_detectors.device_memory import DeviceMemory
from opsin_detectors.execution import contest, kinds
from opsin_detectors.execution.apart import ApartProgram
from opsin_detectors.execution.plan import BASELINE

from . import tiny
from .tiny import Tiny, logits

EAGER = LoadContext("tiny", runtime="eager", lanes=2, lane_kind="auto")


class Race:
    """Measures nothing, and says that both take so long."""

    def __init__(self, threads: float, processes: float) -> None:
        self.seconds = threads, processes
        self.runs = 0

    def __call__(self, threads: Any, processes: Any, batches: Any, *_: Any) -> Any:
        self.runs += 1
        assert [len(batch) for batch in batches] == [4, 1]
        return tuple({len(batch): seconds for batch in batches} for seconds in self.seconds)


def never(*_: object) -> Any:
    pytest.fail("nothing is to be measured")  # which is no Exception: nobody catches it


@pytest.fixture(autouse=True)
def modules_that_workers_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """This folder's modules, under the name that they have here."""
    root = Path(tiny.__file__).parents[tiny.__name__.count(".")]
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(kinds, "memory_of", lambda device: DeviceMemory(64 << 30, 64 << 30))


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    before = psutil.Process().children(recursive=True)
    yield
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.slow
def test_processes_that_are_quicker_are_taken_told_and_kept_for_the_next_start(tmp_path: Path) -> None:
    race = Race(1.0, 0.8)
    context = dataclasses.replace(EAGER, cache=tmp_path)
    detector = Tiny(context, raced=race)
    try:
        assert isinstance(detector.program, ApartProgram)
        assert detector.info.lane_kind == "processes"
        threads, processes = detector.info.trials
        assert (threads.lane_kind, threads.verdict) == ("threads", "slower")
        assert (processes.lane_kind, processes.verdict) == ("processes", "chosen: 20% less time than threads")
        plain = Tiny(LoadContext("tiny", runtime="eager"))
        assert np.array_equal(logits(detector), logits(plain))
    finally:
        detector.close()
    again = Tiny(context, raced=never)
    try:
        assert isinstance(again.program, ApartProgram)
        assert again.info.trials == detector.info.trials
    finally:
        again.close()


def test_processes_that_save_too_little_are_not_taken_and_that_is_kept_too(tmp_path: Path) -> None:
    context = dataclasses.replace(EAGER, cache=tmp_path)
    for race in (Race(1.0, 0.97), never):
        detector = Tiny(context, raced=race)
        assert not isinstance(detector.program, ApartProgram)
        assert detector.info.lane_kind == "threads"
        assert [one.verdict for one in detector.info.trials] == ["chosen", "3% less time than threads"]


@pytest.mark.slow
def test_what_was_found_for_other_lanes_is_found_out_anew(tmp_path: Path) -> None:
    context = dataclasses.replace(EAGER, cache=tmp_path)
    for lanes in (2, 3):
        race = Race(1.0, 1.1)
        detector = Tiny(dataclasses.replace(context, lanes=lanes), raced=race)
        assert race.runs == 1
        assert len(detector.info.trials) == 2


@pytest.mark.parametrize(
    "context", [dataclasses.replace(EAGER, lanes=1), dataclasses.replace(EAGER, lane_kind="threads")]
)
def test_one_lane_and_lanes_told_to_be_threads_are_not_measured(context: LoadContext) -> None:
    detector = Tiny(context, raced=never)
    assert detector.info.lane_kind == "threads"
    assert detector.info.trials == ()


def test_processes_that_are_told_are_used_without_measuring() -> None:
    detector = Tiny(dataclasses.replace(EAGER, lane_kind="processes", lanes=1), raced=never)
    try:
        assert detector.info.lane_kind == "processes"
        assert len(detector.program.processes) == 1  # type: ignore[attr-defined]
    finally:
        detector.close()


def test_with_processes_told_and_the_runtime_open_the_ways_of_torch_are_measured() -> None:
    tried: list[str] = []

    def timed(runs: Mapping[Any, Any], sizes: Any) -> Any:
        tried.extend(plan.runtime for plan in runs)
        return {plan: {1: 1.0} for plan in runs}

    detector = Tiny(dataclasses.replace(EAGER, runtime="auto", lane_kind="processes"), timed=timed)
    detector.close()
    assert set(tried) == {"eager", "channels_last"}
    assert (detector.info.runtime, detector.info.lane_kind) == (BASELINE.runtime, "processes")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"runtime": "openvino"}, "runtime openvino runs in threads"),
        ({"runtime": "onnxruntime"}, "runtime onnxruntime runs in threads"),
        ({"dtype": "int8", "runtime": "auto"}, "runtime openvino runs in threads"),
        ({"device": "cuda"}, "on cuda lanes only issue work"),
    ],
)
def test_processes_that_cannot_be_are_refused_with_the_reason(changes: Any, why: str) -> None:
    with pytest.raises(LoadError, match=f"lane_kind processes of model “tiny” cannot be: {why}"):
        Tiny(dataclasses.replace(EAGER, lane_kind="processes", **changes))


def test_a_kind_of_lanes_that_is_none_is_refused() -> None:
    with pytest.raises(LoadError, match="lane_kind of model “tiny” has to be one of auto, threads, "):
        Tiny(dataclasses.replace(EAGER, lane_kind="fibres"))


def test_a_network_that_cannot_be_given_away_runs_in_threads_and_says_why(monkeypatch: Any) -> None:
    monkeypatch.setattr(tiny, "planes", lambda batch: {"x": batch.permute(0, 3, 1, 2).float() / 255})
    detector = Tiny(EAGER, raced=never)
    assert detector.info.lane_kind == "threads"
    (refused,) = detector.info.trials
    assert refused.lane_kind == "processes"
    assert "cannot be given to another process" in refused.verdict
    with pytest.raises(LoadError, match="model “tiny”: the network cannot be given to another process"):
        Tiny(dataclasses.replace(EAGER, lane_kind="processes"))


def test_where_memory_is_short_no_process_is_tried(monkeypatch: Any) -> None:
    monkeypatch.setattr(kinds, "memory_of", lambda device: DeviceMemory(1 << 30, 1 << 30))
    detector = Tiny(EAGER, raced=never)
    assert detector.info.lane_kind == "threads"
    assert "memory" in detector.info.trials[0].verdict


@pytest.mark.slow
def test_processes_that_memory_was_short_for_once_are_measured_at_the_next_start(
    monkeypatch: Any, tmp_path: Path
) -> None:
    kept = dataclasses.replace(EAGER, cache=tmp_path)
    with monkeypatch.context() as short:
        short.setattr(kinds, "memory_of", lambda device: DeviceMemory(1 << 30, 1 << 30))
        Tiny(kept, raced=never)
    race = Race(0.8, 1.0)
    Tiny(kept, raced=race)
    Tiny(kept, raced=never)
    assert race.runs == 1


def test_lanes_that_fail_while_they_are_measured_stay_threads_and_leave_no_process() -> None:
    def raises(*_: object) -> Any:
        raise ZeroDivisionError("it ended")

    detector = Tiny(EAGER, raced=raises)
    assert detector.info.lane_kind == "threads"
    assert "it cannot be run: ZeroDivisionError: it ended" in detector.info.trials[-1].verdict


def test_measuring_that_is_interrupted_leaves_no_process() -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tiny(EAGER, raced=interrupted)


def test_both_kinds_run_the_same_batches_as_many_at_once_as_there_are_lanes() -> None:
    together = threading.Barrier(3, timeout=60)  # broken unless all three lanes come
    ran: list[tuple[str, int]] = []

    def way(name: str) -> Any:
        def run(batch: Any) -> None:
            together.wait()
            ran.append((name, len(batch)))

        return run

    ticks = iter(range(1000))
    batches = [torch.zeros((size, 2, 2, 3), dtype=torch.uint8) for size in (4, 1)]
    threads, processes = contest.race(
        way("threads"), way("processes"), batches, 3, 1, clock=lambda: next(ticks)
    )
    assert list(threads) == list(processes) == [4, 1]
    for size in (4, 1):
        assert ran.count(("threads", size)) == ran.count(("processes", size)) > 0
