"""A comparison over many situations: ours against each kind of rival at its best, wins and losses alike.

A situation ("cell") is a load, a burstiness and a range of deadlines, for two models of different shape that
share the lanes. In every cell each rival is tuned by trying all its settings on the very requests it is
judged by, which no operator can do. All contenders see the same requests.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.simulator.batchers import Batcher, Ours, Window, no_batching, pull
from opsin_server.scheduling.simulator.engine import Cost, learnt, simulate
from opsin_server.scheduling.simulator.result import Result
from opsin_server.scheduling.simulator.traces import Open, Source, bursty, poisson

__all__ = ["MODELS", "RIVALS", "Cell", "Outcome", "compare", "grid", "ours", "summary"]

BUCKETS = (1, 2, 4, 8, 16, 32)

MODELS: Mapping[str, Cost] = {"small": Cost(0.004, 0.00025), "large": Cost(0.010, 0.001)}
"""Two models as accelerators have them: most of a run is its fixed cost, until the batch is large."""

_SIZES = (4, 8, 16, 32)
_DELAYS = (0.0, 0.002, 0.01)

_BOUNDED: tuple[tuple[Literal["run", "drop"], float], ...] = (("run", 32), ("run", 64), ("drop", 64))

RIVALS: Mapping[str, Callable[[], Iterable[Batcher]]] = {
    "window": lambda: (Window(s, d) for s in _SIZES for d in _DELAYS),
    "window + expiry": lambda: (Window(s, d, "drop") for s in _SIZES for d in _DELAYS),
    "window + bound": lambda: (
        Window(s, d, late, bound) for s in _SIZES for d in _DELAYS for late, bound in _BOUNDED
    ),
    "pull": lambda: (pull(s) for s in _SIZES),
    "no batching": lambda: (no_batching(),),
}
"""Each kind of rival, with every setting that it is tuned over."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One situation.

    load: offered work over what the lanes could do in the largest batches, shared evenly by the models.
    peak: rate in a burst over the mean rate; 1 is Poisson. Bursts last ten batch times on average.
    within: range of the deadlines, in batch times of the model (run times of its largest batch).
    """

    load: float
    peak: float
    within: tuple[float, float]
    models: Mapping[str, Cost] = field(default_factory=lambda: MODELS)
    lanes: int = 1
    flows: int = 4
    seed: int = 1

    def trace(self) -> Open:
        """Its requests."""
        return Open([self._source(name, cost) for name, cost in self.models.items()], self.seed)

    def _source(self, name: str, cost: Cost) -> Source:
        batch = cost.seconds(BUCKETS[-1])
        rate = self.load * self.lanes * BUCKETS[-1] / batch / len(self.models)
        gaps = poisson(rate) if self.peak <= 1 else bursty(rate, peak=self.peak, length=10 * batch)
        flows = tuple(f"{name}-{i}" for i in range(self.flows))
        return Source(name, gaps, flows, (self.within[0] * batch, self.within[1] * batch))

    def run(self, batcher: Batcher, requests: int) -> Result:
        """One contender in this situation."""
        return simulate(self.trace(), batcher, self.models, lanes=self.lanes, requests=requests)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cell showed. rivals: the best of each kind."""

    cell: Cell
    ours: Result
    rivals: dict[str, Result]

    def gain(self, rival: str) -> float:
        """Our answers in time over the rival's; both were asked the same."""
        return self.ours.total.good / max(1, self.rivals[rival].total.good)


def ours(models: Mapping[str, Cost], **terms: float) -> Ours:
    """Our policy, warmed up for these models."""
    known = {name: learnt(cost, BUCKETS) for name, cost in models.items()}
    return Ours({name: ModelTerms(BUCKETS, **terms) for name in models}, known)  # type: ignore[arg-type]


def grid(
    loads: Sequence[float] = (0.5, 0.8, 1.0, 1.3, 2.0),
    peaks: Sequence[float] = (2.0, 4.0, 8.0),
    withins: Sequence[tuple[float, float]] = ((3, 3), (5, 5), (10, 10), (3, 10)),
    *,
    lanes: int = 1,
    seed: int = 1,
) -> list[Cell]:
    """Every combination."""
    return [Cell(load, p, w, lanes=lanes, seed=seed) for load in loads for p in peaks for w in withins]


def compare(
    cells: Iterable[Cell], *, requests: int = 6000, rivals: Sequence[str] = tuple(RIVALS)
) -> Iterator[Outcome]:
    """Cell by cell, as they are done."""
    for cell in cells:
        best = {
            kind: max((cell.run(b, requests) for b in RIVALS[kind]()), key=lambda r: r.total.good)
            for kind in rivals
        }
        yield Outcome(cell, cell.run(ours(cell.models), requests), best)


def summary(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Median, worst and best gain over each kind of rival, and over the best of all in each cell."""
    kinds = list(outcomes[0].rivals) if outcomes else []
    gains = {kind: [o.gain(kind) for o in outcomes] for kind in kinds}
    if kinds:
        gains["best of all"] = [min(o.gain(k) for k in kinds) for o in outcomes]
    return {
        kind: {"median": statistics.median(g), "worst": min(g), "best": max(g), "lost": _lost(g)}
        for kind, g in gains.items()
    }


def _lost(gains: Sequence[float]) -> float:
    """Share of the cells in which ours was behind by more than 2 %."""
    return sum(g < 0.98 for g in gains) / len(gains) if gains else math.nan
