"""What a reader of the tables has to know besides: failures, the server's stages, limits, noise."""

from collections.abc import Iterator, Mapping

from opsin.bench.intervals import Interval
from opsin.bench.load import INTERRUPTED
from opsin.bench.report import load_of
from opsin.bench.run import Result, Run
from opsin.bench.summary import summaries

__all__ = ["notes"]


def notes(result: Result) -> Iterator[str]:
    """Sentences, for people and for logs."""
    several = result.plan.rounds > 1
    for run in result.runs:
        for note in _of_run(run):
            yield f"round {run.turn.round + 1}, {note}" if several else note
    if several:
        yield from _of_rounds(result)
    yield from _of_knee(result)
    yield from _of_bare(result)
    if result.ended == INTERRUPTED:
        yield "interrupted: what was measured until then is shown"


def _of_run(run: Run) -> Iterator[str]:
    figures, load = run.figures, load_of(run)
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
    if figures.stages:
        yield f"{load}: on the server, ms: {_stages(figures.stages)}"
    if figures.limits.lag_p99 is not None:
        limits = figures.limits
        yield f"{load}: sent late by p50 {limits.lag_p50:.2f} ms, p99 {limits.lag_p99:.2f} ms"
    for reason in figures.limits.reasons:
        yield f"{load}: the tool may have been the limit: {reason}."


def _of_rounds(result: Result) -> Iterator[str]:
    for summary in summaries(result):
        confidence = _confidence(summary.rate)
        if confidence:
            yield f"medians of {summary.rate.rounds} rounds; intervals of the median {confidence} (sign test)"
            return


def _confidence(interval: Interval) -> str:
    return f"at {interval.confidence:.1%} confidence" if interval.confidence else ""


def _of_knee(result: Result) -> Iterator[str]:
    knee = result.knee
    if knee is None:
        return
    rule = f"99 % answered within {knee.deadline * 1000:.1f} ms of when they were due"
    if knee.rate is None:
        yield f"no rate was held ({rule})"
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
