"""A bench that ends before its time keeps what it measured, and says how far it came."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from opsin.bench import run as bench_run
from opsin.bench.bare import BarePlan
from opsin.bench.fleet import _recordings
from opsin.bench.load import FAILED, INTERRUPTED, VANISHED, Budget, Recording, Sample, closed_loop
from opsin.bench.messages import Asked
from opsin.bench.notes import notes
from opsin.bench.openloop import open_loop
from opsin.bench.payloads import Payload
from opsin.bench.plan import Plan, Point
from opsin.bench.processes import BenchError
from opsin.bench.run import find_knee, measure
from opsin.bench.summary import pairs, summaries
from opsin.bench.worker import _prepared

PLAN = Plan({"target": "here:1"}, "detect", Payload("raw", size=100), Asked(), (Point(2),), total=4)
GOOD = Recording([Sample(0.01, at=at / 10) for at in range(4)], 1.0)


def told_in_turn(monkeypatch: pytest.MonkeyPatch, *outcomes: Recording | BaseException) -> None:
    """Let the runs of a bench come out so, one after the other."""
    coming: Iterator[Recording | BaseException] = iter(outcomes)

    def run_jobs(*_: Any) -> list[Recording]:
        outcome = next(coming)
        if isinstance(outcome, BaseException):
            raise outcome
        return [outcome]

    monkeypatch.setattr(bench_run, "run_jobs", run_jobs)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (KeyboardInterrupt(), INTERRUPTED),
        (BenchError("nobody", unreachable=True), VANISHED),
        (BenchError("a process of callers ended by itself"), FAILED),
    ],
)
def test_rounds_that_were_measured_outlive_what_ends_the_bench_between_two(
    end: BaseException, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_in_turn(monkeypatch, GOOD, GOOD, end)
    result = measure(replace(PLAN, rounds=5))
    assert (len(result.runs), result.ended) == (2, why)


@pytest.mark.parametrize("end", [KeyboardInterrupt(), BenchError("nobody", unreachable=True)])
def test_what_ends_a_bench_before_anything_was_measured_is_told_as_ever(
    end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_in_turn(monkeypatch, end)
    with pytest.raises(type(end)):
        measure(replace(PLAN, rounds=5))


def test_ctrl_c_while_the_bare_model_runs_keeps_the_runs_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told_in_turn(monkeypatch, GOOD)
    bare = iter([10.0])

    def run_bare(*_: Any) -> float:
        rate = next(bare, None)
        if rate is None:
            raise KeyboardInterrupt
        return rate

    monkeypatch.setattr(bench_run, "run_bare", run_bare)
    monkeypatch.setattr(bench_run, "_as_served", lambda plan: plan)
    plan = replace(PLAN, payload=Payload("files"), bare=BarePlan("nanodet", 1, 1, 1.0))
    result = measure(plan)
    assert (len(result.runs), result.ended, result.bare) == (1, INTERRUPTED, None)


def test_a_round_that_was_cut_short_counts_in_no_median(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Recording(GOOD.samples[:1], 0.1, ended=INTERRUPTED)
    told_in_turn(monkeypatch, GOOD, GOOD, cut)
    result = measure(replace(PLAN, rounds=5))
    assert len(result.runs) == 3
    assert [summary.rate.rounds for summary in summaries(result)] == [2]


def test_the_only_run_counts_even_when_it_was_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    told_in_turn(monkeypatch, replace(GOOD, ended=INTERRUPTED))
    assert [summary.rate.median for summary in summaries(measure(PLAN))] == [4.0]


def test_a_search_whose_lone_caller_gets_no_answer_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Recording([Sample(0.001, error="BATCH_TOO_LARGE", code="INVALID_ARGUMENT")], 1.0)
    told_in_turn(monkeypatch, refused)
    with pytest.raises(BenchError, match="BATCH_TOO_LARGE") as told:
        find_knee(PLAN)
    assert told.value.code == "INVALID_ARGUMENT"


def test_a_search_that_was_cut_short_calls_its_knee_a_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told_in_turn(monkeypatch, GOOD, GOOD, KeyboardInterrupt())
    result = find_knee(replace(PLAN, deadline=1.0))
    assert result.knee
    assert result.knee.rate == 50.0, "half of what a lone caller gets"
    assert result.knee.at_least
    assert any("at least 50.0 a second" in note and "cut short" in note for note in notes(result))


async def test_calls_that_a_closed_loop_cuts_off_are_counted_and_their_wait_is_not_time_measured() -> None:
    recording, stuck = Recording(), asyncio.Event()

    async def call(number: int) -> Sample:
        if number >= 10:
            if number == 12:
                stuck.set()
            await asyncio.Event().wait()
        return Sample(0.0)

    begun = time.perf_counter()
    running = asyncio.create_task(closed_loop(call, Budget(), 3, recording))
    await stuck.wait()
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (len(recording.samples), recording.unfinished) == (10, 3)
    assert recording.seconds <= time.perf_counter() - begun - 0.25, "up to the last answer"


async def test_the_patience_after_a_stop_is_no_time_that_an_open_loop_measured() -> None:
    recording, budget = Recording(), Budget()

    async def call(number: int) -> Sample:
        if number == 5:
            budget.stop()
            await asyncio.Event().wait()
        return Sample(0.0)

    offsets, begun = (0.001 * at for at in range(10**6)), time.perf_counter()
    await open_loop(call, offsets, recording, budget=budget, span=1e6, drain=0.5)
    assert recording.unfinished == 1
    assert recording.seconds <= time.perf_counter() - begun - 0.45


class Talker:
    """A process of callers that says so many things, and then its recording."""

    def __init__(self, *said: tuple[int, int]) -> None:
        self._said = list(said)
        self.progress = (0, 0)
        self.finished = False
        self.recording = Recording().to_wire()

    def listen(self, *, wait: bool) -> None:
        if self._said:
            self.progress = self._said.pop(0)
        elif wait:
            self.finished = True


def test_progress_is_that_of_all_processes() -> None:
    seen: list[tuple[int, int]] = []
    workers: Any = [Talker((3, 0)), Talker((4, 1))]
    _recordings(workers, lambda _, answered, failed: seen.append((answered, failed)))
    assert seen[0] == (7, 1)


def test_a_server_that_answers_nothing_in_a_round_is_not_endlessly_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = Recording([Sample(0.001, error="QUEUE_FULL", code="RESOURCE_EXHAUSTED")], 1.0)
    told_in_turn(monkeypatch, refused, GOOD)
    plan = replace(PLAN, rival={"target": "there:2"}, seed=1)
    result = measure(plan)
    swapped = result.runs[0].turn.side == 1
    (pair,) = pairs(result)
    assert pair.p50 is None
    assert pair.rate is None if swapped else pair.rate and pair.rate.median == 0.0


class Preparing:
    """A run whose first call is answered, or never."""

    def __init__(self, *, answered: bool) -> None:
        self._answered = answered
        self.cancelled = False

    async def probe(self) -> None:
        try:
            await (asyncio.sleep(0) if self._answered else asyncio.Event().wait())
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def warm(self) -> None:
        pass


async def test_a_process_of_callers_whose_parent_has_died_waits_for_no_first_call() -> None:
    orders: Any = SimpleNamespace(stopped=asyncio.Event())
    orders.stopped.set()
    hanging = Preparing(answered=False)
    assert not await asyncio.wait_for(_prepared(hanging, orders), 30)
    assert hanging.cancelled
    orders.stopped.clear()
    assert await asyncio.wait_for(_prepared(Preparing(answered=True), orders), 30)
