"""What `opsin simulate` does: options to simulations, results to tables, JSON and pictures.

Owns the meaning of the options and how results are told; everything told comes from the library around it.
"""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import typer

from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.simulator import draw
from opsin_server.scheduling.simulator.batchers import Batcher, Ours, Window, no_batching, pull
from opsin_server.scheduling.simulator.engine import Cost, learnt, simulate
from opsin_server.scheduling.simulator.grid import Outcome, compare, grid, summary
from opsin_server.scheduling.simulator.result import Result
from opsin_server.scheduling.simulator.traces import (
    Closed,
    Gaps,
    Open,
    Recorded,
    Request,
    Source,
    Trace,
    bursty,
    diurnal,
    poisson,
)

__all__ = ["Kind", "Options", "compare_all", "run"]


class Kind(StrEnum):
    """Kinds of trace that need no file."""

    POISSON = "poisson"
    BURSTY = "bursty"
    DIURNAL = "diurnal"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command, as they were typed. within: seconds; 0 is five batch times."""

    trace: str
    models: tuple[str, ...]
    rate: float
    load: float
    peak: float
    callers: int
    flows: int
    within: float
    devices: int
    buckets: str
    policies: tuple[str, ...]
    requests: int
    seed: int


def run(options: Options, *, as_json: bool, plot: Path | None) -> None:
    """Each policy on the same trace. Raises typer.BadParameter for an option that makes no sense."""
    models = [_model(text) for text in options.models]
    sizes = _buckets(options.buckets)
    costs = {name: cost for name, cost, _ in models}
    terms = {name: ModelTerms(sizes, weight) for name, _, weight in models}
    results = []
    for text in options.policies:
        ours = Ours(terms, {name: learnt(cost, sizes) for name, cost in costs.items()})
        results.append(
            simulate(
                _trace(options, costs, sizes[-1]),
                _batcher(text, ours),
                costs,
                lanes=options.devices,
                requests=options.requests,
                seed=options.seed,
            )
        )
    _show(results, as_json=as_json)
    if plot is not None:
        _drawn(lambda: draw.draw_results(results, plot))


def compare_all(devices: int, seed: int, requests: int, *, as_json: bool, plot: Path | None) -> None:
    """The whole grid, rivals tuned in each cell."""
    outcomes = list(compare(grid(lanes=devices, seed=seed), requests=min(requests, 20_000)))
    _show_grid(outcomes, as_json=as_json)
    if plot is not None:
        _drawn(lambda: draw.draw_gains(outcomes, plot))


def _model(text: str) -> tuple[str, Cost, float]:
    """NAME:FIXED_MS:EACH_MS[:WEIGHT]."""
    try:
        name, fixed, each, *rest = text.split(":")
        weight = float(rest[0]) if rest else 1.0
        cost = Cost(float(fixed) / 1e3, float(each) / 1e3)
    except (ValueError, IndexError):
        raise typer.BadParameter(
            f"“{text}”: write NAME:FIXED_MS:EACH_MS or NAME:FIXED_MS:EACH_MS:WEIGHT"
        ) from None
    told = (cost.fixed, cost.each, weight)
    if not name or not all(0 <= one < math.inf for one in told) or not (weight and cost.seconds(1)):
        raise typer.BadParameter(f"“{text}”: times and weight must be positive")
    return name, cost, weight


def _batcher(text: str, ours: Ours) -> Batcher:
    """ours, none, pull:SIZE, window:SIZE:DELAY_MS[:drop]."""
    match text.split(":"):
        case ["ours"]:
            return ours
        case ["none"]:
            return no_batching()
        case ["pull"]:
            return pull(32)
        case ["pull", size] if size.isdecimal() and int(size):
            return pull(int(size))
        case ["window"]:
            return Window(32, 0.01)
        case ["window", size, delay, *late] if size.isdecimal() and int(size) and late in ([], ["drop"]):
            with suppress(ValueError):
                if 0 <= float(delay) < math.inf:
                    return Window(int(size), float(delay) / 1e3, "drop" if late else "run")
    raise typer.BadParameter(f"“{text}”: write ours, none, pull:SIZE or window:SIZE:DELAY_MS[:drop]")


def _buckets(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        sizes = ()
    if not sizes or sizes[0] < 1:
        raise typer.BadParameter(f"“{text}”: write sizes of at least 1, as in 1,2,4,8")
    return sizes


def _trace(options: Options, costs: dict[str, Cost], largest: int) -> Trace:
    """The trace that the options describe."""
    if options.trace not in list(Kind):
        return _recorded(Path(options.trace), costs)
    if options.trace == Kind.CLOSED:
        within = options.within or math.inf
        asked = [
            Request(0.0, name, f"{name}-{i % options.flows}", within)
            for name in costs
            for i in range(options.callers)
        ]
        return Closed(asked, seed=options.seed)
    sources = []
    for name, cost in costs.items():
        batch = cost.seconds(largest)
        rate = options.rate or options.load * options.devices * largest / batch / len(costs)
        wanted = options.within or 5 * batch
        names = tuple(f"{name}-{i}" for i in range(options.flows))
        gaps = _gaps(Kind(options.trace), rate, options.peak, batch)
        sources.append(Source(name, gaps, names, (wanted, wanted)))
    return Open(sources, options.seed)


def _gaps(kind: Kind, rate: float, peak: float, batch: float) -> Gaps:
    match kind:
        case Kind.BURSTY:
            return bursty(rate, peak=peak, length=10 * batch)
        case Kind.DIURNAL:
            return diurnal(rate, period=500 * batch)
        case _:
            return poisson(rate)


def _recorded(path: Path, costs: dict[str, Cost]) -> Recorded:
    try:
        found = Recorded.read(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read the trace: {error}") from error
    unknown = {r.model for r in found.requests} - set(costs)
    if unknown:
        raise typer.BadParameter(f"the trace asks for models without --model: {', '.join(sorted(unknown))}")
    return found


def _drawn(work: Callable[[], None]) -> None:
    try:
        work()
    except draw.PlotsMissingError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def _show(results: Sequence[Result], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([r.row() for r in results], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="On a virtual clock")
    for name in ("policy", "goodput/s", "in time", "p50 ms", "p99 ms", "batch", "device use", "in vain"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for r in results:
        total = r.total
        table.add_row(
            r.policy,
            f"{r.goodput:.0f}",
            f"{total.good / max(1, total.asked):.1%}",
            f"{1e3 * total.quantile(0.5):.1f}",
            f"{1e3 * total.quantile(0.99):.1f}",
            f"{r.mean_batch:.1f}",
            f"{r.use:.0%}",
            f"{r.vain_share:.1%}",
        )
    console = Console()
    console.print(table)
    for r in results[:1]:
        shares = ", ".join(f"{flow} {r.share(flow):.1%}" for flow in sorted(r.flows)[:16])
        console.print(f"Device time by flow, {r.policy}: {shares}")


def _show_grid(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    totals = summary(outcomes)
    if as_json:
        cells = [
            {
                **{
                    k: v
                    for k, v in asdict(o.cell).items()
                    if k in ("load", "peak", "within", "lanes", "seed")
                },
                "ours": o.ours.row(),
                "gain": {kind: round(o.gain(kind), 4) for kind in o.rivals},
                "rivals": {kind: r.row() for kind, r in o.rivals.items()},
            }
            for o in outcomes
        ]
        typer.echo(json.dumps({"summary": totals, "cells": cells}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="Our answers in time over each rival's best")
    for name in ("load", "peak", "deadline", "in time", *outcomes[0].rivals):
        table.add_column(name, justify="right")
    for o in outcomes:
        share = o.ours.total.good / max(1, o.ours.total.asked)
        low, high = o.cell.within
        gains = (f"[red]{g:.2f}[/]" if (g := o.gain(k)) < 0.98 else f"{g:.2f}" for k in o.rivals)
        table.add_row(f"{o.cell.load:g}", f"{o.cell.peak:g}", f"{low:g}-{high:g}", f"{share:.1%}", *gains)
    console.print(table)
    for kind, figures in totals.items():
        console.print(
            f"{kind}: median {figures['median']:.2f}, worst {figures['worst']:.2f}, "
            f"best {figures['best']:.1f}, behind in {figures['lost']:.0%}"
        )
