"""A whole bench: one run for each number of callers, and the bare model before, between and after."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opsin.bench.figures import Bare, Figures, figures_of
from opsin.bench.fleet import BarePlan, BenchError, run_bare, run_jobs, split
from opsin.bench.payloads import Payload, make_pictures
from opsin.bench.worker import Job

__all__ = ["BarePlan", "Plan", "Result", "measure", "pictures"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    client: the keyword arguments of `opsin.AsyncClient`. duration (seconds), when set, stands in for total.
    """

    client: dict[str, Any]
    method: str
    payload: Payload
    callers: tuple[int, ...]
    model: str = ""
    total: int | None = None
    duration: float | None = None
    processes: int = 1
    warmup: float = 1.0
    skip_cache: bool = True
    bare: BarePlan | None = None


@dataclass(slots=True)
class Result:
    """What came of it."""

    runs: list[Figures] = field(default_factory=list)
    bare: Bare | None = None


def measure(plan: Plan, say: Callable[[str], None] = lambda _: None) -> Result:
    """Run the plan; `say` is told what is being done. Raises `BenchError`."""
    result = Result()
    rounds = _bare(plan, say)
    for callers in plan.callers:
        say(f"{callers} caller{'s' if callers != 1 else ''}")
        result.runs.append(figures_of(run_jobs(split(_job(plan, callers), plan.processes)), callers))
        rounds += _bare(plan, say)
    if bare := plan.bare:
        result.bare = Bare(bare.model, tuple(rounds), bare.processes, bare.batch, bare.threads)
    return result


@contextmanager
def pictures(width: int, height: int) -> Iterator[tuple[str, ...]]:
    """Made-up pictures, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="opsin-bench-") as folder:
        yield make_pictures(Path(folder), width, height)


def _job(plan: Plan, callers: int) -> Job:
    options: dict[str, Any] = {"model": plan.model}
    if plan.method != "stream":
        options["skip_cache"] = plan.skip_cache
    return Job(
        client=plan.client,
        method=plan.method,
        payload=plan.payload,
        options=options,
        callers=callers,
        total=None if plan.duration else plan.total,
        duration=plan.duration,
        warmup=plan.warmup,
    )


def _bare(plan: Plan, say: Callable[[str], None]) -> list[float]:
    """One round of the bare model; none where it was not asked for."""
    if plan.bare is None:
        return []
    if plan.payload.kind != "files":
        raise BenchError(
            "the bare model is run on pictures; give some, or a --size in pixels such as 640x480."
        )
    say("the bare model")
    return [run_bare(plan.bare, plan.payload.paths)]
