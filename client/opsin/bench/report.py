"""Figures as tables for people and as lines for machines."""

from collections.abc import Iterator, Sequence
from typing import Any

from opsin.bench.columns import Column, columns_of, stream_columns
from opsin.bench.intervals import Interval, percent
from opsin.bench.run import Result, Run
from opsin.bench.summary import pairs, runs_of, summaries

__all__ = ["knee_run", "lines", "load_of", "tables"]

BARS = 16


def lines(result: Result) -> Iterator[dict[str, Any]]:
    """One JSON-ready line a run; then the loads over their rounds, pairs, the knee, the bare model."""
    for place, run in enumerate(result.runs):
        bare = result.bare
        known = bare is not None and place + 1 < len(bare.rounds)
        share = {"share_of_bare": bare.share(place, run.figures)} if bare and known else {}
        server = {"server": result.plan.client_of(run.turn.side)["target"]} if result.plan.rival else {}
        yield {"kind": "run", "round": run.turn.round, **server, **run.figures.to_dict(), **share}
    if result.plan.rounds > 1:
        for summary in summaries(result):
            yield {"kind": "summary", **summary.to_dict()}
    for pair in pairs(result):
        yield {"kind": "pair", **pair.to_dict()}
    yield from _knee_line(result)
    yield from _bare_line(result)


def _knee_line(result: Result) -> Iterator[dict[str, Any]]:
    if knee := result.knee:
        yield {
            "kind": "knee",
            "rate": knee.rate,
            "at_least": knee.at_least,
            "deadline": knee.deadline,
            "steps": [
                {"rate": step.rate, "held": step.held, "client_limited": step.limited} for step in knee.steps
            ],
        }


def _bare_line(result: Result) -> Iterator[dict[str, Any]]:
    if bare := result.bare:
        yield {
            "kind": "bare",
            "model": bare.model,
            "rate": bare.rate,
            "rounds": list(bare.rounds),
            "noisy": bare.noisy,
            "processes": bare.processes,
            "batch": bare.batch,
            "threads": bare.threads,
        }


def tables(result: Result) -> Iterator[Any]:
    """A table of the loads, and one of the ratios of a pair; of a search, the steps with bars."""
    if result.knee is not None:
        yield _knee_table(result)
        return
    yield _loads(result, columns_of(result))
    if columns := stream_columns(result):
        yield _loads(result, columns)
    if result.plan.rival is not None:
        yield _pairs(result)


def knee_run(result: Result) -> Run | None:
    """The run at the knee: a rate may have been tried twice, and the last try is believed."""
    knee = result.knee and result.knee.rate
    return next((run for run in reversed(result.runs) if knee and run.figures.offered == knee), None)


def load_of(run: Run) -> str:
    """What a load is called: `8 callers`, `100 a second`."""
    what = "stream" if run.figures.streams else "caller"
    callers = f"{run.figures.callers} {what}{'s' if run.figures.callers != 1 else ''}"
    if run.figures.offered is None:
        return callers
    rate = f"{run.figures.offered:.4g} a second" if run.figures.offered_rate else "all at once"
    return f"{callers}, {rate}" if run.figures.callers else rate


def _table(titles: list[str], *, tight: bool = False) -> Any:
    from rich import box
    from rich.table import Table

    # Titles of two lines and little space: the columns have to fit a terminal of 80 characters.
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0 if tight else 1, 0, 0))
    for title in titles:
        drawn.add_column(title, justify="right" if title else "left", no_wrap=True)
    return drawn


def _loads(result: Result, columns: Sequence[Column]) -> Any:
    titles = [column.title for column in columns]
    drawn = _table(titles, tight=len(titles) > 9)
    for point in range(len(result.plan.points)):
        for side in (0, 1):
            if runs := runs_of(result, point, side):
                drawn.add_row(*(column.cell(runs) for column in columns))
    return drawn


def _pairs(result: Result) -> Any:
    drawn = _table(
        ["A over B", "calls/s\nratio", "interval", "p50\nratio", "interval", "p99\nratio", "interval"]
    )
    for pair in pairs(result):
        cells = [load_of(runs_of(result, pair.point)[0])]
        for ratio in (pair.rate, pair.p50, pair.p99):
            cells += [f"{ratio.median:.2f}", _interval(ratio)] if ratio else ["-", "-"]
        drawn.add_row(*cells)
    return drawn


def _interval(interval: Interval) -> str:
    return f"{interval.low:.2f}–{interval.high:.2f}" if interval.rounds > 1 else "-"


def _knee_table(result: Result) -> Any:
    assert result.knee
    drawn = _table(
        ["offered\n/s", "answered\n/s", "in\ntime", "", "p50\nms", "p99\nms", "sent late\np99 ms", ""]
    )
    for run in sorted(result.runs, key=lambda run: run.figures.offered or 0.0):
        figures = run.figures
        bar = "█" * round(figures.good_share * BARS)
        latency = figures.latency
        mark = "knee" if run is knee_run(result) else ""
        drawn.add_row(
            f"{figures.offered:.1f}",
            f"{figures.rate:.1f}",
            percent(figures.good_share),
            f"{bar:<{BARS}}",
            f"{latency.p50:.1f}" if latency else "-",
            f"{latency.p99:.1f}" if latency else "-",
            f"{figures.limits.lag_p99:.1f}" if figures.limits.lag_p99 is not None else "-",
            mark,
        )
    return drawn
