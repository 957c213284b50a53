"""Pictures of a bench as SVG, by matplotlib (the `plots` extra), which is imported only when one is drawn."""

import io
import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from statistics import median
from typing import Any

from opsin.bench.load import STAGES, Sample
from opsin.bench.report import load_of
from opsin.bench.run import Result, Run
from opsin.bench.summary import runs_of

__all__ = ["PlotsMissingError", "Series", "check_plots", "plots", "series_of"]

COLOURS = (
    *("#0b6e99", "#d9730d", "#6b8e23", "#8e4585", "#3b8f7e", "#777777", "#c9a227", "#2f4b7c"),
    *("#a63d57", "#5aa9e6", "#b5651d", "#4d4d4d", "#9acd32", "#c77dff", "#008080", "#e07a5f"),
)
"""As many as a search has steps: of more than eight, five that are drawn together are told apart."""
FAILED = "#c0392b"
DROPPED = "#d9a441"
MOST_SERIES = 5
"""Lines in one plot; more are a tangle."""
MOST_DOTS = 4000
BINS = 60
ENOUGH = 25
"""Answers in a bin of time, so that a line shows the server and not chance."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Segoe UI", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": "#4a5560",
    "xtick.color": "#4a5560",
    "ytick.color": "#4a5560",
    "legend.frameon": False,
}


class PlotsMissingError(RuntimeError):
    """matplotlib is not installed; the message says how to get it."""


class Series:
    """One load at one server, all rounds together. latencies: milliseconds, of answered calls, ascending."""

    def __init__(self, name: str, runs: Sequence[Run], colour: str) -> None:
        self.name = name
        self.runs = runs
        self.colour = colour
        self.samples = [sample for run in runs for one in run.recordings for sample in one.samples]
        self.latencies = sorted(sample.seconds * 1000 for sample in self.samples if sample.answered)


def check_plots() -> None:
    """Raises PlotsMissingError."""
    if find_spec("matplotlib") is None:
        raise PlotsMissingError("a report with plots needs matplotlib: pip install 'opsin[plots]'")


def series_of(result: Result) -> list[Series]:
    """What is drawn: each load, at each server; of a search, its steps by rate."""
    if result.knee is not None:
        last_tries = {run.figures.offered or 0.0: run for run in result.runs}
        groups = [[last_tries[rate]] for rate in sorted(last_tries)]
    else:
        pairs = ((point, side) for point in range(len(result.plan.points)) for side in (0, 1))
        groups = [runs for point, side in pairs if (runs := runs_of(result, point, side))]
    return [
        Series(_name(result, runs[0]), runs, COLOURS[at % len(COLOURS)]) for at, runs in enumerate(groups)
    ]


def plots(result: Result) -> Iterator[tuple[str, str]]:
    """Each picture that this bench has something for: a caption, and the SVG element."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        for caption, draw in _drawings(result):
            yield caption, _svg(draw)


def _drawings(result: Result) -> Iterator[tuple[str, Any]]:
    every = series_of(result)
    shown = [one for one in _spread(every) if one.latencies]
    if len({run.point for run in result.runs}) > 1:
        yield "Answers and latency by load", lambda figure: _by_load(figure, result)
    if shown:
        yield "Latency by percentile", lambda figure: _curve(figure.subplots(), shown)
        yield "Distribution of latencies", lambda figure: _histogram(figure.subplots(), shown)
    yield "Throughput over time", lambda figure: _throughput(figure.subplots(), _spread(every))
    yield "Latency over time", lambda figure: _dots(figure.subplots(), _spread(every), result)
    if any(run.figures.stages for run in result.runs):
        yield "Where the time goes on the server", lambda figure: _stages(figure.subplots(), _spread(every))
    if any(run.figures.streams for run in result.runs):
        yield "Frames of each stream", lambda figure: _streams(figure.subplots(), result.runs[-1])
    if result.plan.rival is not None or result.plan.rounds > 1:
        yield "Rounds", lambda figure: _rounds(figure.subplots(), every)


def _spread(series: list[Series]) -> list[Series]:
    """At most so many as can be told apart, evenly chosen, the first and the last among them."""
    if len(series) <= MOST_SERIES:
        return series
    step = (len(series) - 1) / (MOST_SERIES - 1)
    return [series[round(step * at)] for at in range(MOST_SERIES)]


def _name(result: Result, run: Run) -> str:
    server = f"{result.plan.client_of(run.turn.side)['target']}, " if result.plan.rival else ""
    return server + load_of(run)


def _svg(draw: Any) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    draw(figure)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#dfe3e8", linewidth=0.8)
        ax.set_axisbelow(True)
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _curve(ax: Any, series: Sequence[Series]) -> None:
    """The tail, drawn out: each step to the right is another nine."""
    for one in series:
        count = len(one.latencies)
        places = sorted({*range(0, count, max(1, count // 400)), *range(max(0, count - 200), count)})
        xs = [-math.log10(1 - place / count) for place in places]
        ax.plot(xs, [one.latencies[place] for place in places], color=one.colour, label=one.name)
    nines = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999]
    longest = max(len(one.latencies) for one in series)
    shown = [share for share in nines if share == 0 or 1 / (1 - share) <= longest * 1.001]
    ax.set_xticks([-math.log10(1 - share) for share in shown], [f"{share * 100:g} %" for share in shown])
    _log_if_wide(ax, [value for one in series for value in (one.latencies[0], one.latencies[-1])])
    ax.set_ylabel("ms")
    _legend_above(ax)


def _histogram(ax: Any, series: Sequence[Series]) -> None:
    low = min(one.latencies[0] for one in series)
    high = max(one.latencies[-1] for one in series)
    wide = low > 0 and high / low > 20
    bins = [
        low * (high / low) ** (at / BINS) if wide else low + (high - low) * at / BINS
        for at in range(BINS + 1)
    ]
    if high <= low:
        bins = [low - 0.5, low + 0.5]
    for one in series:
        weights = [100 / len(one.latencies)] * len(one.latencies)
        ax.hist(
            one.latencies, bins, weights=weights, color=one.colour, alpha=0.55 if len(series) > 1 else 0.9,
            label=one.name,
        )  # fmt: skip
    if wide:
        ax.set_xscale("log")
        _plain_ticks(ax.xaxis)
    ax.set_xlabel("ms")
    ax.set_ylabel("% of the answered")
    if len(series) > 1:
        _legend_above(ax)


def _throughput(ax: Any, series: Sequence[Series]) -> None:
    """Answers by the moment they came, in each round's own time, all rounds of a load averaged."""
    for one in series:
        span = max(run.figures.seconds for run in one.runs)
        bins = max(4, min(BINS, len(one.samples) // (ENOUGH * len(one.runs))))
        width = max(span / bins, 1e-9)
        xs = [width * (at + 0.5) for at in range(bins)]
        answered = _binned(one.samples, width, bins, lambda sample: sample.answered)
        failed = _binned(one.samples, width, bins, lambda sample: bool(sample.error))
        scale = 1 / (width * len(one.runs))
        ax.plot(xs, [count * scale for count in answered], color=one.colour, label=one.name)
        if any(failed):
            ax.plot(xs, [count * scale for count in failed], color=FAILED, lw=1, ls=":")
        if (offered := one.runs[0].figures.offered_rate) and len(series) == 1:
            ax.axhline(offered, color="#9aa3ad", ls="--", lw=1, label="offered")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("s")
    ax.set_ylabel("answers a second")
    _legend_above(ax)


def _binned(samples: Sequence[Sample], width: float, bins: int, wanted: Any) -> list[int]:
    counts = [0] * bins
    for sample in samples:
        if wanted(sample):
            counts[min(bins - 1, int((sample.at + sample.seconds) / width))] += 1
    return counts


def _dots(ax: Any, series: Sequence[Series], result: Result) -> None:
    for one in series:
        step = max(1, len(one.samples) * len(series) // MOST_DOTS)
        good = [sample for sample in one.samples if sample.answered][::step]
        xs, ys = [sample.at for sample in good], [sample.seconds * 1000 for sample in good]
        ax.plot(xs, ys, "o", ms=2.6, alpha=0.55, color=one.colour, label=one.name, mew=0)
    deadline = result.knee.deadline if result.knee else result.plan.deadline
    if deadline:
        ax.axhline(deadline * 1000, color=FAILED, lw=1, ls="--", label="deadline")
    _log_if_wide(ax, [value for one in series for value in one.latencies[:1] + one.latencies[-1:]])
    ax.set_xlabel("s, when it was due" if result.runs[0].figures.offered else "s, when it was sent")
    ax.set_ylabel("ms")
    _legend_above(ax)


def _by_load(figure: Any, result: Result) -> None:
    """Goodput and p99 side by side, over what was offered or how many callers there were."""
    left, right = figure.subplots(1, 2)
    open_loop = result.runs[0].figures.offered is not None
    every = series_of(result)
    for side, colour in ((0, COLOURS[0]), (1, COLOURS[1])):
        chosen = [one for one in every if one.runs[0].turn.side == side]
        if not chosen:
            continue
        xs = [one.runs[0].figures.offered or one.runs[0].figures.callers for one in chosen]
        goodput = [median(run.figures.goodput for run in one.runs) for one in chosen]
        p99 = [_p99(one) for one in chosen]
        left.plot(xs, goodput, "o-", color=colour, ms=4, label=str(result.plan.client_of(side)["target"]))
        right.plot(xs, p99, "o-", color=colour, ms=4)
    if open_loop:
        most = max(run.figures.offered or 0.0 for run in result.runs)
        left.plot([0, most], [0, most], color="#9aa3ad", ls="--", lw=1)
    if result.knee and result.knee.rate:
        for ax in (left, right):
            ax.axvline(result.knee.rate, color=FAILED, lw=1, ls="--")
        left.annotate(
            f"knee {result.knee.rate:.0f}/s", (result.knee.rate, 0), xytext=(4, 6),
            textcoords="offset points", color=FAILED,
        )  # fmt: skip
        right.axhline(result.knee.deadline * 1000, color="#9aa3ad", lw=1, ls="--")
    left.set_ylabel("good answers a second")
    right.set_ylabel("p99, ms")
    right.set_yscale("log")
    _plain_ticks(right.yaxis)
    for ax in (left, right):
        ax.set_xlabel("offered a second" if open_loop else "callers")
    if result.plan.rival:
        left.legend(fontsize=9)


def _p99(one: Series) -> float:
    """As the tables have it: the median of the rounds."""
    known = [run.figures.latency.p99 for run in one.runs if run.figures.latency]
    return median(known) if known else math.nan


def _stages(ax: Any, series: Sequence[Series]) -> None:
    shown = [one for one in series if any(run.figures.stages for run in one.runs)]
    ys = range(len(shown))
    left = [0.0] * len(shown)
    for stage, colour in zip(STAGES, COLOURS, strict=False):
        widths = [
            sum(run.figures.stages.get(stage, 0.0) for run in one.runs) / len(one.runs) for one in shown
        ]
        if max(widths, default=0.0) >= 0.005:
            ax.barh(ys, widths, left=left, color=colour, label=stage, height=0.6)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    ax.set_yticks(ys, [one.name for one in shown])
    ax.set_xlabel("mean ms")
    ax.set_ylim(max(len(shown), 3) - 0.5, -0.5)
    _legend_above(ax)


def _streams(ax: Any, run: Run) -> None:
    assert run.figures.streams
    each = run.figures.streams.each
    xs = range(1, len(each) + 1)
    answered = [one.answered for one in each]
    dropped = [one.dropped for one in each]
    base = [one + other for one, other in zip(answered, dropped, strict=True)]
    ax.bar(xs, answered, color=COLOURS[0], label="answered")
    ax.bar(xs, dropped, bottom=answered, color=DROPPED, label="dropped")
    ax.bar(xs, [one.failed for one in each], bottom=base, color=FAILED, label="failed")
    ax.set_xlabel("stream")
    ax.set_ylabel("frames")
    ax.xaxis.get_major_locator().set_params(integer=True)
    _legend_above(ax)


def _rounds(ax: Any, series: Sequence[Series]) -> None:
    for one in series:
        xs = [run.turn.round + 1 for run in one.runs]
        ax.plot(xs, [run.figures.rate for run in one.runs], "o-", ms=5, color=one.colour, label=one.name)
    ax.set_ylim(0, 1.08 * max(run.figures.rate for one in series for run in one.runs) or 1)
    ax.set_xlabel("round")
    ax.set_ylabel("answers a second")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize=9)


def _legend_above(ax: Any) -> None:
    ax.legend(
        fontsize=9, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2, markerscale=2
    )


def _log_if_wide(ax: Any, values: Sequence[float]) -> None:
    if values and min(values) > 0 and max(values) / min(values) > 20:
        ax.set_yscale("log")
        _plain_ticks(ax.yaxis)
    else:
        ax.set_ylim(bottom=0)


def _plain_ticks(axis: Any) -> None:
    """10 and 100 instead of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
