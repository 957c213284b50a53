"""The columns of the tables: which there are in a bench, and what a cell says of several rounds.

A line has 80 characters, so that what streams have to tell besides is a table of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from opsin.bench.figures import Figures
from opsin.bench.intervals import median_of, percent
from opsin.bench.run import Result, Run
from opsin.bench.streamfigures import StreamFigures

__all__ = ["Column", "columns_of", "stream_columns"]


@dataclass(frozen=True, slots=True)
class Column:
    """A title, and the text of a cell from the runs of one load at one server."""

    title: str
    cell: Callable[[Sequence[Run]], str]


def columns_of(result: Result) -> list[Column]:
    """What this bench has something to say about, from left to right."""
    plan = result.plan
    figures = [run.figures for run in result.runs]
    streams = plan.method == "stream"
    chosen = _who(result)
    if any(one.offered is not None for one in figures):
        chosen.append(_number("offered\n/s", lambda one: one.offered_rate))
    chosen.append(_number("frames/s" if streams else "calls/s", lambda one: one.rate))
    if plan.rounds > 1:
        chosen.append(Column("interval", _interval))
    if plan.method == "batch":
        chosen.append(_number("inputs\n/s", lambda one: one.input_rate))
    if plan.deadline is not None:
        chosen.append(Column("in\ntime", lambda runs: percent(_median(runs, _good) or 0.0)))
    # Intervals need the room.
    chosen += [_latency(name) for name in (("p50", "p90", "p99") if plan.rounds == 1 else ("p50", "p99"))]
    chosen.append(Column("mean\nbatch", lambda runs: _text(_median(runs, _batch), 2)))
    chosen.append(Column("failed", lambda runs: str(sum(sum(r.figures.errors.values()) for r in runs))))
    if result.bare:
        chosen.append(Column("of\nbare", lambda runs: _share(result, runs)))
    return chosen


def stream_columns(result: Result) -> list[Column]:
    """What is told of streams besides; nothing for calls."""
    if not any(run.figures.streams for run in result.runs):
        return []
    return [
        *_who(result),
        _number("age\np50 ms", lambda one: one.age_p50),
        _number("age\np99 ms", lambda one: one.age_p99),
        Column("dropped", lambda runs: str(sum(sum(r.figures.dropped.values()) for r in runs))),
        _of_streams("fairness\n(Jain)", lambda one: one.fairness, 3),
        _of_streams("jitter\nms", lambda one: one.jitter),
        _of_streams("worst\nms", lambda one: one.jitter_worst),
        _of_streams("slowest\nfps", lambda one: min(each.rate for each in one.each)),
        _of_streams("quickest\nfps", lambda one: max(each.rate for each in one.each)),
    ]


def _who(result: Result) -> list[Column]:
    """Which server, where there are two; how many callers, where that is known."""
    plan, chosen = result.plan, []
    if plan.rival:
        # Targets are long; a note says who is who.
        chosen.append(Column("server", lambda runs: "AB"[runs[0].turn.side]))
    if any(run.figures.callers for run in result.runs):
        title = "streams" if plan.method == "stream" else "callers"
        chosen.append(Column(title, lambda runs: str(runs[0].figures.callers or "-")))
    return chosen


def _of_streams(title: str, of: Callable[[StreamFigures], float], digits: int = 1) -> Column:
    def cell(runs: Sequence[Run]) -> str:
        return _text(_median(runs, lambda one: of(one.streams) if one.streams else None), digits)

    return Column(title, cell)


def _number(title: str, of: Callable[[Figures], float | None]) -> Column:
    return Column(title, lambda runs: _text(_median(runs, of)))


def _latency(name: str) -> Column:
    return _number(f"{name}\nms", lambda one: getattr(one.latency, name) if one.latency else None)


def _median(runs: Sequence[Run], of: Callable[[Figures], float | None]) -> float | None:
    known = [value for run in runs if (value := of(run.figures)) is not None]
    return median(known) if known else None


def _interval(runs: Sequence[Run]) -> str:
    rates = median_of([run.figures.rate for run in runs])
    return f"{_text(rates.low)}–{_text(rates.high)}"


def _share(result: Result, runs: Sequence[Run]) -> str:
    assert result.bare
    known = len(result.bare.rounds) - 1
    shares = [
        result.bare.share(place, run.figures)
        for place, run in enumerate(result.runs[:known])
        if any(run is one for one in runs)
    ]
    return f"{median(shares):.0%}" if shares else "-"


def _good(figures: Figures) -> float | None:
    return figures.good_share


def _batch(figures: Figures) -> float | None:
    return figures.mean_batch_size


def _text(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    # Nobody needs a tenth of a thousand.
    return f"{value:.0f}" if value >= 1000 else f"{value:.{digits}f}"
