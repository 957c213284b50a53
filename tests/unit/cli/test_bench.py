"""The load tool counts what happened: its loop, its figures, and how work is dealt to processes."""

import asyncio
import io
import json
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from opsin.bench.arrivals import Arrivals
from opsin.bench.figures import Bare, figures_of, percentile
from opsin.bench.job import Job, split
from opsin.bench.load import STAGES, Budget, Recording, Sample, closed_loop
from opsin.bench.messages import Asked
from opsin.bench.notes import notes
from opsin.bench.pairing import Turn
from opsin.bench.payloads import Payload, opener
from opsin.bench.plan import Plan, Point, job_of, processes_for
from opsin.bench.report import tables
from opsin.bench.run import Result, Run


def recording(*samples: Sample, seconds: float = 2.0, cpu: float = 0.5) -> Recording:
    return Recording(list(samples), seconds, cpu)


def job(**changes: object) -> Job:
    values: dict[str, object] = {
        "client": {"target": "x:1"},
        "method": "detect",
        "payload": Payload("raw", size=1000),
        "asked": Asked(),
        "callers": 8,
        "total": 100,
        "duration": None,
        "warmup": 0.0,
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]


async def test_a_closed_loop_makes_exactly_the_calls_it_is_told() -> None:
    numbers: list[int] = []

    async def call(number: int) -> Sample:
        numbers.append(number)
        await asyncio.sleep(0)
        return Sample(0.001)

    done = await closed_loop(call, Budget(total=25), callers=4)
    assert sorted(numbers) == list(range(25))
    assert len(done.samples) == 25


async def test_a_closed_loop_keeps_as_many_calls_in_flight_as_there_are_callers() -> None:
    in_flight, most = 0, 0
    gate = asyncio.Event()

    async def call(number: int) -> Sample:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        if in_flight == 5:
            gate.set()
        await gate.wait()
        in_flight -= 1
        return Sample(0.001)

    await closed_loop(call, Budget(total=20), callers=5)
    assert most == 5


def ticking(*times: float) -> Callable[[], float]:
    moments = iter(times)
    return lambda: next(moments)


def test_a_duration_counts_from_the_first_call() -> None:
    budget = Budget(duration=1.0, clock=ticking(100.0, 100.5, 100.99, 101.0))
    assert [budget.take() for _ in range(4)] == [0, 1, 2, None]


@pytest.mark.parametrize("method", ["stream", "batch"])
def test_the_widest_table_fits_a_terminal_of_80_characters(method: str) -> None:
    sample = Sample(1.2345, age=0.9, stages=tuple(0.1 for _ in STAGES), stream=1)
    recorded = Recording([sample] * 50_000, 4.0, 0.5, streams=int(method == "stream"))
    point = Point(128, Arrivals("constant", 12_500.0))
    plan = Plan(
        {"target": "x:1"}, method, Payload("raw"), Asked(), (point,), duration=4.0, rounds=2, deadline=0.1
    )
    figures = figures_of([recorded], 128, offered=12_500.0, deadline=0.1)
    runs = [Run(Turn(0, number), point, figures, (recorded,)) for number in (0, 1)]
    result = Result(plan, runs, Bare("nanodet", (12_345.6,) * 3, 1, 4, 1))
    console = Console(width=80, file=io.StringIO(), soft_wrap=True)
    for table in tables(result):
        console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in "".join(lines)
    heads = " ".join(lines)
    titles = ["calls/s", "inputs"] if method == "batch" else ["streams", "fairness", "dropped", "worst"]
    assert all(title in heads for title in [*titles, "offered", "time", "failed", "interval", "bare"])
    assert any("1 process of 1 thread at batch 4" in note for note in notes(result))
    assert any("99" not in note and "50.0%" in note for note in notes(result)), "two rounds say little"


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], share: float) -> None:
    ordered = sorted(values)
    chosen = percentile(ordered, share)
    assert sum(value <= chosen for value in ordered) >= share * len(ordered) - 1e-9
    assert sum(value < chosen for value in ordered) < share * len(ordered) + 1e-9


def test_only_answered_calls_count_as_speed_and_latency() -> None:
    figures = figures_of(
        [
            recording(
                Sample(0.010), Sample(0.030), Sample(9.0, error="QUEUE_FULL"), Sample(9.0, dropped="rate")
            )
        ],
        2,
    )
    assert (figures.calls, figures.answered, figures.rate) == (4, 2, 1.0)
    assert figures.latency is not None
    assert (figures.latency.p50, figures.latency.max) == (pytest.approx(10.0), pytest.approx(30.0))
    assert (figures.errors, figures.dropped) == ({"QUEUE_FULL": 1}, {"rate": 1})


def test_cached_answers_do_not_count_in_the_mean_batch_size() -> None:
    figures = figures_of(
        [recording(Sample(1, batch_size=4), Sample(1, batch_size=2), Sample(1, batch_size=0))], 1
    )
    assert figures.mean_batch_size == 3.0


def test_processes_that_ran_at_the_same_time_add_up() -> None:
    both = [recording(Sample(0.1), Sample(0.1), seconds=1.0), recording(Sample(0.3), seconds=2.0, cpu=1.9)]
    figures = figures_of(both, 2)
    assert (figures.rate, figures.client_limited) == (1.5, True)


def test_a_run_without_an_answer_has_no_latency_instead_of_a_zero() -> None:
    figures = figures_of([recording(Sample(1.0, error="UNAVAILABLE"))], 1)
    assert (figures.latency, figures.mean_batch_size, figures.rate) == (None, None, 0.0)


def test_stages_are_means_in_milliseconds_by_name() -> None:
    stages = tuple(float(at) for at in range(len(STAGES)))
    figures = figures_of(
        [recording(Sample(1, stages=stages), Sample(1, stages=tuple(2 * s for s in stages)))], 1
    )
    assert figures.stages["prepare"] == pytest.approx(3.0)


def test_each_run_is_compared_with_the_rounds_of_the_bare_model_around_it() -> None:
    figures = figures_of([recording(*[Sample(0.1)] * 30, seconds=1.0)], 8)
    bare = Bare("m", (50.0, 70.0, 30.0), processes=2, batch=4, threads=1)
    assert [bare.share(run, figures) for run in (0, 1)] == [30 / 60, 30 / 50]


@pytest.mark.parametrize(
    ("rounds", "noisy"), [((50.0, 55.0), False), ((50.0, 60.0), True), ((9.0, 0.0), True)]
)
def test_rounds_that_are_far_apart_say_that_the_machine_was_not_quiet(
    rounds: tuple[float, ...], noisy: bool
) -> None:
    assert Bare("m", rounds, processes=2, batch=4, threads=1).noisy is noisy


def noted(*recordings: Recording) -> str:
    plan = Plan({"target": "x:1"}, "detect", Payload("raw"), Asked(), (Point(4),), total=9)
    figures = figures_of(recordings, 4)
    return " ".join(notes(Result(plan, [Run(Turn(0, 0), Point(4), figures, recordings)])))


@pytest.mark.parametrize(("answers", "few"), [(99, True), (100, False)])
def test_a_p99_of_few_answers_is_called_the_slowest(answers: int, few: bool) -> None:
    assert ("99 answers are few" in noted(recording(*[Sample(0.1)] * answers))) is few


@pytest.mark.parametrize(("machine", "told"), [(1.0, True), (0.6, False), (None, False)])
def test_callers_that_take_cores_from_a_server_beside_them_say_so(machine: float | None, told: bool) -> None:
    done = Recording([Sample(0.1)], 1.0, cpu_seconds=0.5 * (os.cpu_count() or 1), machine=machine)
    assert ("50% of them with the callers" in noted(done)) is told


def test_a_recording_survives_the_way_between_processes() -> None:
    before = recording(Sample(0.1, batch_size=3, stages=(1.0, 2.0), age=0.5), Sample(0.2, error="X"))
    assert Recording.from_wire(json.loads(json.dumps(before.to_wire()))) == before


def test_a_job_survives_the_way_between_processes() -> None:
    before = job(payload=Payload("files", ("a.jpg", "b.jpg")))
    after = Job.from_line(before.to_line())
    assert (list(after.payload.paths), after.callers, after.client) == (
        ["a.jpg", "b.jpg"],
        8,
        {"target": "x:1"},
    )


@given(st.integers(1, 64), st.integers(1, 500), st.integers(1, 8))
def test_dealing_a_job_loses_no_caller_and_no_call(callers: int, total: int, processes: int) -> None:
    parts = split(job(callers=callers, total=total), processes)
    assert sum(part.callers for part in parts) == callers
    assert sum(part.total or 0 for part in parts) == total
    assert all(part.callers and part.total for part in parts)
    assert len({part.seed for part in parts}) == len(parts)


@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 8))
def test_every_stream_sends_at_the_same_rate_whatever_process_it_is_in(
    streams: int, total: int, processes: int
) -> None:
    """Unequal shares would pass for an unfair server."""
    whole = Arrivals("constant", 100.0)
    parts = split(job(method="stream", callers=streams, total=total, arrivals=whole), processes)
    cameras = [part.camera(stream) for part in parts for stream in range(part.callers or 0)]
    assert {arrivals and arrivals.rate for arrivals, _ in cameras} == {100.0 / streams}
    sent = sorted(at for arrivals, count in cameras if arrivals for at in arrivals.offsets(total=count))
    assert sent == pytest.approx(list(whole.offsets(total=total)))
    assert all(part.span == total / 100.0 for part in parts)


def test_a_trace_that_ends_before_the_time_given_is_spread_over_its_own() -> None:
    """Or else three calls in a second would come out as three in ten."""
    trace = Arrivals.of_trace([0.0, 0.5, 1.0])
    assert job(total=None, duration=10.0, arrivals=trace).span == 1.0
    assert job(total=None, duration=0.7, arrivals=trace).span == 0.5
    assert job(total=2, arrivals=trace).span == 0.5


def test_no_two_runs_of_a_bench_send_the_same_inputs_but_the_two_of_a_pair() -> None:
    client = {"target": "x:1"}
    plan = Plan(client, "detect", Payload("raw"), Asked(), (Point(1), Point(8)), total=9, rounds=3)
    turns = [Turn(point, number) for point in (0, 1) for number in range(3)]
    seeds = {job_of(plan, plan.points[turn.point], turn).seed for turn in turns}
    assert len(seeds) == len(turns)
    ours, theirs = (job_of(plan, plan.points[0], Turn(0, 1, side)) for side in (0, 1))
    assert ours.seed == theirs.seed


@pytest.mark.parametrize("count", [3, 10, 50, 99])
def test_lateness_is_not_better_than_it_was_because_there_are_few_calls(count: int) -> None:
    samples = [Sample(0.1, lag=0.0) for _ in range(count - 1)] + [Sample(0.1, lag=0.5)]
    limits = figures_of([recording(*samples)], 1, offered=50.0).limits
    assert limits.lag_p99 == 500.0, "as any p99: of fewer than a hundred the largest"
    assert limits.reasons


def test_calls_that_are_all_due_at_once_have_no_rate_in_what_is_written() -> None:
    point = Point(None, Arrivals.of_trace([5.0, 5.0]))
    assert processes_for(point, 8, local=False) == 8
    figures = figures_of([recording(Sample(0.1))], 0, offered=point.offered)
    assert figures.to_dict()["offered"] is None
    assert "Infinity" not in json.dumps(figures.to_dict())
    assert figures.limits.lag_p99 == 0.0, "an open loop all the same"


@pytest.mark.parametrize("kind", ["raw", "text"])
def test_made_up_inputs_are_distinct_within_a_process_and_between_processes(kind: str) -> None:
    payload = Payload(kind, size=1000)  # type: ignore[arg-type]
    made = [opener(payload, seed)(number) for seed in (0, 1) for number in range(50)]
    contents = [one.text if kind == "text" else one.data for one in made]
    assert len(set(contents)) == 100
    assert all(900 <= len(content) <= 1000 for content in contents)
