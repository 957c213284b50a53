"""Pictures of simulations, by matplotlib (the `plots` extra), which is imported only when one is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsin_server.scheduling.simulator.grid import Outcome
from opsin_server.scheduling.simulator.result import Result

__all__ = ["PlotsMissingError", "draw_gains", "draw_results", "draw_sweep"]

_COLOURS = ("#0b6e99", "#d9730d", "#6b8e23", "#8e4585", "#777777", "#b03a2e")


class PlotsMissingError(RuntimeError):
    """matplotlib is not installed; the message says how to get it."""


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotsMissingError("drawing needs matplotlib: pip install 'opsin[plots]'") from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.25)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=80)


def draw_results(results: Sequence[Result], path: Path) -> None:
    """Bars: goodput, p99 and use of the device of each contender, in one run each.

    Raises PlotsMissingError without matplotlib.
    """
    figure, axes = _figure(1, 3, (11, 3.2))
    names = [r.policy for r in results]
    panels = (
        ("answers in time, a second", [r.goodput for r in results]),
        ("p99 of the answers, ms", [1e3 * r.total.quantile(0.99) for r in results]),
        ("share of lane time spent in vain", [r.vain_share for r in results]),
    )
    for ax, (title, values) in zip(axes[0], panels, strict=True):
        ax.bar(range(len(names)), values, color=[_COLOURS[i % 6] for i in range(len(names))])
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
        ax.set_title(title, fontsize=9)
    _save(figure, path)


def draw_sweep(curves: Mapping[str, Mapping[float, Result]], path: Path) -> None:
    """Lines over the offered load: share answered in time, and p99. curves: contender -> load -> result."""
    figure, axes = _figure(1, 2, (9, 3.4))
    for colour, (name, points) in zip(_COLOURS, curves.items(), strict=False):
        loads = sorted(points)
        shares = [points[x].total.good / max(1, points[x].total.asked) for x in loads]
        useful = [x * share for x, share in zip(loads, shares, strict=True)]
        axes[0][0].plot(loads, useful, color=colour, marker="o", ms=3, label=name)
        p99 = [1e3 * points[x].total.quantile(0.99) for x in loads]
        axes[0][1].plot(loads, p99, color=colour, marker="o", ms=3)
    axes[0][0].plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--")
    axes[0][0].set_title("goodput, as a share of what the device can do", fontsize=9)
    axes[0][1].set_title("p99 of the answers, ms", fontsize=9)
    axes[0][1].set_yscale("log")
    for ax in axes[0]:
        ax.set_xlabel("offered load", fontsize=8)
    axes[0][0].legend(fontsize=7, frameon=False)
    _save(figure, path)


def draw_gains(outcomes: Sequence[Outcome], path: Path) -> None:
    """Every cell of a grid as a point: our answers in time over each kind of rival's best, sorted."""
    figure, axes = _figure(1, 1, (8, 3.4))
    ax = axes[0][0]
    for colour, kind in zip(_COLOURS, outcomes[0].rivals, strict=False):
        gains = sorted(o.gain(kind) for o in outcomes)
        ax.plot([i / len(gains) for i in range(1, len(gains) + 1)], gains, color=colour, label=kind)
    ax.axhline(1.0, color="#444444", lw=1)
    ax.set_yscale("log")
    ax.set_yticks([0.9, 1, 1.3, 2, 5, 10, 20], ["0.9", "1", "1.3", "2", "5", "10", "20"])
    ax.set_ylim(0.85, 25)
    ax.minorticks_off()
    ax.set_xlabel("share of the situations", fontsize=8)
    ax.set_title("our answers in time, over those of each rival at its best for the situation", fontsize=9)
    ax.legend(fontsize=7, frameon=False)
    _save(figure, path)
