"""What a reader of the tables has to know besides: failures, the server's stages, limits, noise."""

import os
from collections.abc import Iterator, Mapping, Sequence

from opsin.bench.limits import MACHINE_BUSY
from opsin.bench.load import INTERRUPTED
from opsin.bench.report import load_of
from opsin.bench.run import Result, Run
from opsin.bench.summary import runs_of, summaries

__all__ = ["notes"]

FEW = 100
"""Answers below which the nearest rank of p99 is the last."""
NOTICED = 0.05
"""Share of a busy machine that the callers take, from which on it is told."""


def notes(result: Result) -> Iterator[str]:
    """Sentences, for people and for logs."""
    if result.plan.rival:
        yield f"A is {result.plan.client['target']}, B is {result.plan.rival['target']}"
    for run in result.runs:
        yield from _of_run(run, _place(result, run))
    if result.knee is None:
        yield from _of_loads(result)
        yield from _of_rounds(result)
    yield from _of_knee(result)
    yield from _of_bare(result)
    if result.ended == INTERRUPTED:
        yield "interrupted: what was measured until then is shown"


def _place(result: Result, run: Run) -> str:
    """Which of the runs, as shortly as can be."""
    server = f"{'AB'[run.turn.side]}, " if result.plan.rival else ""
    number = f"round {run.turn.round + 1}, " if result.plan.rounds > 1 else ""
    return f"{number}{server}{load_of(run)}"


def _of_run(run: Run, load: str) -> Iterator[str]:
    figures = run.figures
    told: Mapping[str, dict[str, int] | None] = {
        "failed": figures.errors,
        "dropped": figures.dropped,
        "inputs refused": figures.refused,
    }
    for what, counts in told.items():
        if counts:
            yield f"{load}: {what}: " + ", ".join(f"{count} {reason}" for reason, count in counts.items())
    if figures.unfinished:
        yield f"{load}: {figures.unfinished} were cut off unanswered at the end"
    for reason in figures.limits.reasons:
        yield f"{load}: the tool may have been the limit: {reason}."


def _of_loads(result: Result) -> Iterator[str]:
    """The server's stages and the tool's lateness, over all rounds of a load."""
    for one in summaries(result):
        runs = runs_of(result, one.point, one.side)
        load = _place(result, runs[0]).partition("round 1, ")[2] or _place(result, runs[0])
        if stages := _mean_stages(runs):
            yield f"{load}: on the server, ms: {_stages(stages)}"
        fewest = min(run.figures.answered for run in runs)
        if 0 < fewest < FEW:
            yield f"{load}: {fewest} answers are few: the p99 of fewer than {FEW} is the slowest one"
        if (callers := _callers_share(runs)) >= NOTICED:
            yield (
                f"{load}: all cores of this machine were busy, {callers:.0%} of them with the callers; "
                "a server here would do more with callers elsewhere"
            )
        lags = [run.figures.limits.lag_p99 for run in runs]
        if (worst := max((lag for lag in lags if lag is not None), default=None)) is not None:
            yield f"{load}: sent at most {worst:.2f} ms late in 99 of 100 cases"


def _callers_share(runs: Sequence[Run]) -> float:
    """Of a machine without an idle core, what the callers took; 0 of one that was not so busy."""
    shares = [
        sum(one.cpu_seconds for one in run.recordings) / run.figures.seconds / (os.cpu_count() or 1)
        for run in runs
        if run.figures.seconds and (run.figures.limits.machine or 0.0) >= MACHINE_BUSY
    ]
    return max(shares, default=0.0)


def _mean_stages(runs: Sequence[Run]) -> dict[str, float]:
    known = [run.figures.stages for run in runs if run.figures.stages]
    return {stage: sum(one[stage] for one in known) / len(known) for stage in known[0]} if known else {}


def _of_rounds(result: Result) -> Iterator[str]:
    for summary in summaries(result):
        if confidence := summary.rate.confidence:
            yield (
                f"medians of {summary.rate.rounds} rounds; their intervals hold the true median with "
                f"{confidence:.1%} confidence (sign test)"
            )
            return


def _of_knee(result: Result) -> Iterator[str]:
    knee = result.knee
    if knee is None:
        return
    rule = f"99 % answered within {knee.deadline * 1000:.1f} ms of when they were due"
    if knee.rate is None:
        yield f"no rate was held{' so far' if knee.cut else ''} ({rule})"
    elif knee.cut:
        yield f"knee: at least {knee.rate:.1f} a second ({rule}); the search was cut short"
    elif knee.limited:
        yield f"knee: at least {knee.rate:.1f} a second ({rule}); beyond it the tool was the limit"
    else:
        yield f"knee: {knee.rate:.1f} a second ({rule})"


def _of_bare(result: Result) -> Iterator[str]:
    if bare := result.bare:
        rounds = ", ".join(f"{rate:.1f}" for rate in bare.rounds)
        yield (
            f"bare {bare.model}: {bare.rate:.1f} a second (rounds: {rounds}) in "
            f"{_some(bare.processes, 'process', 'processes')} of {_some(bare.threads, 'thread', 'threads')} "
            f"at batch {bare.batch}"
        )
        if bare.noisy:
            yield "the rounds of the bare model differ by more than 15 %: the machine was not quiet."


def _some(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _stages(stages: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {value:.2f}" for stage, value in stages.items() if value >= 0.005)
