"""A whole bench: every load in every round, the bare model around each; or the search for a knee."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

from opsin.bench.arrivals import Arrivals
from opsin.bench.bare import run_bare
from opsin.bench.figures import Bare, Figures, figures_of
from opsin.bench.fleet import Progress, run_jobs, split
from opsin.bench.knee import HELD_SHARE, KneeSearch, Step
from opsin.bench.load import FAILED, INTERRUPTED, VANISHED, Recording
from opsin.bench.pairing import Turn, turns
from opsin.bench.payloads import make_pictures
from opsin.bench.plan import Plan, Point, job_of
from opsin.bench.processes import BenchError

__all__ = ["Knee", "Result", "Run", "Say", "find_knee", "measure", "pictures"]

Say = Callable[[str], None]
STEP_SECONDS = 5.0
LONE_SECONDS = 1.0
DEADLINES = 5.0
"""The deadline of a search that was given none, in median latencies of a lone caller."""
LEAST_DEADLINE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run: which load it was, what came of it, and the recording of each process."""

    turn: Turn
    point: Point
    figures: Figures
    recordings: tuple[Recording, ...]


@dataclass(frozen=True, slots=True)
class Knee:
    """A knee that was looked for. steps: in the order they were run, as `runs` are. deadline: seconds.

    rate: the highest that was held; None when none was. limited: the tool gave out first. cut: the search
    ended before the knee was found. Either way it lies at `rate` or above.
    """

    rate: float | None
    limited: bool
    deadline: float
    steps: tuple[Step, ...]
    cut: bool = False

    @property
    def at_least(self) -> bool:
        """Whether it may lie higher."""
        return self.limited or self.cut


@dataclass(slots=True)
class Result:
    """What came of it. ended: why before its time; "" when it was not. failure: the error that ended it."""

    plan: Plan
    runs: list[Run] = field(default_factory=list)
    bare: Bare | None = None
    knee: Knee | None = None
    ended: str = ""
    failure: BenchError | None = None


def measure(plan: Plan, say: Say = lambda _: None) -> Result:
    """Run the plan; `say` is told what is being done. Raises `BenchError`."""
    plan = _as_served(plan)
    result, rounds = Result(plan), list[float]()
    with _kept(result):
        rounds += _bare(plan, say)
        for turn in turns(len(plan.points), plan.rounds, paired=plan.rival is not None, seed=plan.seed):
            run = _run(plan, plan.points[turn.point], turn, _telling(say, _doing(plan, turn)))
            result.runs.append(run)
            if run.figures.ended:
                result.ended = run.figures.ended
                break
            rounds += _bare(plan, say)
    if (bare := plan.bare) and len(rounds) > 1:
        result.bare = Bare(bare.model, tuple(rounds), bare.processes, bare.batch, bare.threads)
    return result


def find_knee(plan: Plan, say: Say = lambda _: None) -> Result:
    """Step the rate of the plan's first load, from its own if it has one, until the knee is found."""
    point, result = plan.points[0], Result(plan)
    lone = _lone(plan, say)
    if not lone.latency:
        result.ended = lone.ended
        return result
    alone = lone.latency.p50 / 1000
    deadline = plan.deadline or max(LEAST_DEADLINE, DEADLINES * alone)
    stepped = replace(plan, deadline=deadline, total=None, duration=plan.duration or STEP_SECONDS)
    arrivals = point.arrivals or Arrivals("poisson", 0.5 / alone, seed=plan.seed)
    search = KneeSearch(arrivals.rate)
    with _kept(result):
        while (rate := search.next()) is not None:
            load = Point(point.callers, replace(arrivals, rate=rate))
            turn = Turn(0, len(result.runs))
            run = _run(stepped, load, turn, _telling(say, f"{rate:.3g} a second"), drain=deadline)
            if run.figures.ended:
                result.ended = run.figures.ended
                break
            result.runs.append(run)
            held = run.figures.good_share >= HELD_SHARE
            search.take(Step(rate, held, run.figures.client_limited))
    cut = bool(result.ended) or search.exhausted
    result.knee = Knee(search.knee, search.limited, deadline, tuple(search.steps), cut)
    return result


@contextmanager
def _kept(result: Result) -> Iterator[None]:
    """What was measured outlives what ends the bench between two runs; nothing measured, nothing kept."""
    try:
        yield
    except KeyboardInterrupt:
        if not result.runs:
            raise
        result.ended = INTERRUPTED
    except BenchError as failure:
        if not result.runs:
            raise
        result.ended = VANISHED if failure.unreachable else FAILED
        result.failure = failure


@contextmanager
def pictures(width: int, height: int) -> Iterator[tuple[str, ...]]:
    """Made-up pictures, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="opsin-bench-") as folder:
        yield make_pictures(Path(folder), width, height)


def _lone(plan: Plan, say: Say) -> Figures:
    """A caller that is alone: nobody is quicker. Raises `BenchError` when it is not answered at all."""
    method = "detect" if plan.method == "stream" else plan.method
    alone = replace(plan, method=method, total=None, duration=LONE_SECONDS)
    run = _run(alone, Point(1), Turn(0, -1), _telling(say, "one caller alone"))
    first = next((sample for one in run.recordings for sample in one.samples), None)
    if first is not None and not run.figures.latency and not run.figures.ended:
        reasons = ", ".join(run.figures.errors)
        raise BenchError(
            f"a lone caller got no answer ({reasons}); there is no knee to look for.",
            code=first.code,
            reason=first.error,
        )
    return run.figures


def _run(plan: Plan, point: Point, turn: Turn, progress: Progress, *, drain: float | None = None) -> Run:
    job = job_of(plan, point, turn, drain=drain)
    recordings = tuple(run_jobs(split(job, plan.processes_of(point)), progress))
    figures = figures_of(recordings, point.callers or 0, offered=point.offered, deadline=plan.deadline)
    return Run(turn, point, figures, recordings)


def _doing(plan: Plan, turn: Turn) -> str:
    point = plan.points[turn.point]
    each = "frames" if plan.method == "stream" else "calls"
    what = f"{point.callers} {'streams' if plan.method == 'stream' else 'callers'}" if point.callers else ""
    if point.offered:
        rate = f"{point.offered:.6g} {each} a second" if isfinite(point.offered) else f"all {each} at once"
        what = f"{what}, {rate}" if what else rate
    sides = f" at {plan.client_of(turn.side)['target']}" if plan.rival else ""
    rounds = f"round {turn.round + 1} of {plan.rounds}: " if plan.rounds > 1 else ""
    return rounds + what + sides


def _telling(say: Say, what: str) -> Progress:
    say(what)

    def progress(seconds: float, calls: int, failed: int) -> None:
        failures = f", {failed} failed" if failed else ""
        say(f"{what}: {seconds:.0f} s, {calls} answered{failures}")

    return progress


def _as_served(plan: Plan) -> Plan:
    """The bare model runs as the server says that it runs its own: the same runtime and number type."""
    if plan.bare is None:
        return plan
    # They bring gRPC, which the help of a command has no use for.
    from opsin._client import Client
    from opsin._errors import OpsinError, Unreachable

    try:
        with Client(**plan.client) as client:
            served = client.model(plan.asked.model)
    except OpsinError as error:
        raise BenchError(
            error.message,
            unreachable=isinstance(error, Unreachable),
            target=str(plan.client["target"]),
            code=error.code.name,
            reason=error.reason or "",
        ) from None
    return replace(plan, bare=replace(plan.bare, runtime=served.runtime, dtype=served.dtype))


def _bare(plan: Plan, say: Say) -> list[float]:
    """One round of the bare model; none where it was not asked for."""
    if plan.bare is None:
        return []
    if plan.payload.kind != "files":
        raise BenchError(
            "the bare model is run on pictures; give some, or a --size in pixels such as 640x480."
        )
    say("the bare model")
    return [run_bare(plan.bare, plan.payload.paths)]
