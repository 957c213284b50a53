"""A whole bench: one run for each number of callers, the bare model before and after."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opsin.bench.figures import Bare, Figures, figures_of
from opsin.bench.fleet import BenchError, run_bare, run_jobs, split
from opsin.bench.payloads import Payload, make_pictures
from opsin.bench.worker import Job

__all__ = ["BarePlan", "Plan", "Result", "measure", "pictures"]


@dataclass(frozen=True, slots=True)
class BarePlan:
    """What the server is compared with. seconds: of each of the two rounds."""

    model: str
    processes: int
    batch: int
    seconds: float


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
    before = _bare(plan, say)
    result = Result()
    for callers in plan.callers:
        say(f"{callers} callers")
        result.runs.append(figures_of(run_jobs(split(_job(plan, callers), plan.processes)), callers))
    if plan.bare and before is not None:
        after = _bare(plan, say)
        assert after is not None
        result.bare = Bare(plan.bare.model, before, after, plan.bare.processes, plan.bare.batch)
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


def _bare(plan: Plan, say: Callable[[str], None]) -> float | None:
    if plan.bare is None:
        return None
    if plan.payload.kind != "files":
        raise BenchError(
            "the bare model is run on pictures; give some, or a --size in pixels such as 640x480."
        )
    say("the bare model")
    bare = plan.bare
    return run_bare(
        bare.model, plan.payload.paths, seconds=bare.seconds, processes=bare.processes, batch=bare.batch
    )
