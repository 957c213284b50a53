"""What a model's run time is, as a function of batch size, learnt from its own runs.

Owns the estimate, nothing else: it has no clock, and does not know who runs the batches or what follows from
the figures.

Each batch size has a mean and a spread (mean absolute deviation), both exponentially weighted. An observation
counts only as far as `_CLIP` spreads from the mean, so one stall (a page fault storm, a neighbour's burst)
moves the mean by a few percent at most, whatever it lasted. A lasting change is still learnt: every clipped
observation widens the spread, which widens the clip, by a factor of about 1.3 an observation; doubling takes
some twenty runs.

What is read is remembered until something new is known. Of a batch size seen often one run tells little, so
there the news is let in every few runs: a small model asks for these figures more often than it runs.

It also learns how long answers take from the end of a run to the wire (`after`), which a promise to be in
time has to count in.

Sizes never run are interpolated. The means are first made monotone (a larger batch cannot take less time than
a smaller one; where they say so it is noise, and the neighbours are pooled: isotonic regression by pool
adjacent violators), then joined by straight lines.

Inputs of a model may have shapes (texts by length, pictures by their proportions), of which one takes twenty
times as long as another. So beside the whole, which is all that is known before an input is prepared, each
shape has what its own batches have shown (`of`); of sizes it was not run at it is taken to go as the whole
does.
"""

import math
from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["Profile"]

_RATE = 0.1
"""Weight of a new observation, once there are ten; before that the plain average."""
_CLIP = 4.0
_LEAST_SPREAD = 0.05
"""Share of the mean below which the clip never falls: clocks and caches are never steadier than that."""
_TICK = 1e-7
"""Seconds below which it never falls either: of a run that was over within one tick of a coarse clock, no
share is more than nothing."""
_FIRST_SPREAD = 0.1
"""Share of the mean taken for the spread when there is one observation."""
_OFTEN = 64
"""Runs of a size after which it counts as seen often,"""
_EVERY = 8
"""and its runs change what is read at every so many."""
_SHAPES = 64
"""So many are told apart; the one that was not run for longest is forgotten."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is read of one batch size, in seconds."""

    seconds: float
    spread: float
    lower: float
    upper: float


_NOTHING = _Facts(0.0, 0.0, 0.0, 0.0)


class _Cell:
    """What one batch size has shown."""

    __slots__ = ("count", "mean", "spread")

    def __init__(self, seconds: float) -> None:
        self.count = 1
        self.mean = seconds
        self.spread = _FIRST_SPREAD * seconds

    def observe(self, seconds: float) -> None:
        reach = _CLIP * max(self.spread, _LEAST_SPREAD * self.mean, _TICK)
        step = min(max(seconds - self.mean, -reach), reach)
        self.count += 1
        rate = max(_RATE, 1 / self.count)
        self.mean += rate * step
        self.spread += rate * (abs(step) - self.spread)


class Profile:
    """Run time by batch size. Warm-up seeds it with `observe`, as every run does later."""

    def __init__(self) -> None:
        self._cells: dict[int, _Cell] = {}
        self._sizes: list[int] = []
        self._curve: list[float] = []
        self._facts: dict[int, _Facts] = {}
        self._rates: dict[tuple[int, ...], float] = {}
        self._roomy: dict[tuple[int, ...], int] = {}
        self._handed: _Cell | None = None
        self._shapes: dict[Hashable, Profile] = {}

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self._cells)

    def of(self, shape: Hashable) -> "Profile":
        """What is known of inputs of one shape; the whole, while none of them was run."""
        return self._shapes.get(shape, self)

    def observe(self, batch: int, seconds: float, shape: Hashable = ()) -> None:
        """A batch of `batch` items (as it ran, padding included) took `seconds` on the lane.

        shape: of its items; () where all of the model's are alike. Raises ValueError for a size below 1 or a
        time that is negative or not finite.
        """
        if batch < 1 or not 0 <= seconds < math.inf:
            raise ValueError(f"a batch of {batch} items in {seconds} s cannot be")
        if shape != ():
            self._shaped(shape).observe(batch, seconds)
        cell = self._cells.get(batch)
        if cell is None:
            self._cells[batch] = _Cell(seconds)
        else:
            cell.observe(seconds)
            if cell.count > _OFTEN and cell.count % _EVERY:
                return
        self._sizes = sorted(self._cells) if cell is None else self._sizes
        self._curve = []
        self._facts = {}
        self._rates = {}
        self._roomy = {}

    def seconds(self, batch: int) -> float:
        """Expected run time of a batch of this size; 0 when nothing is known. Never falls as `batch` grows.

        Below the smallest size seen: that size's time. Above the largest: in proportion.
        """
        return self._of(batch).seconds

    def spread(self, batch: int) -> float:
        """Mean absolute deviation of the run time, in seconds; that of the nearest size seen, to scale."""
        return self._of(batch).spread

    def lower(self, batch: int) -> float:
        """A run time that a batch of this size will hardly beat: what is "certain to miss" rests on this.

        Below the smallest size seen it falls in proportion: nothing says that a small batch is not fast. That
        of the whole holds for the quickest shape.
        """
        return self._of(batch).lower

    def upper(self, batch: int) -> float:
        """A run time that a batch of this size will hardly exceed: promises rest on this."""
        return self._of(batch).upper

    def best_rate(self, buckets: tuple[int, ...]) -> float:
        """The most inputs a second that one lane can do in batches of these sizes."""
        rate = self._rates.get(buckets)
        if rate is None:
            rate = self._rates[buckets] = max(b / max(self.seconds(b), 1e-9) for b in buckets)
        return rate

    def roomy(self, buckets: tuple[int, ...]) -> int:
        """The largest of these sizes that takes no longer than two runs of the smallest."""
        size = self._roomy.get(buckets)
        if size is None:
            short = 2 * self.seconds(buckets[0])
            size = max(b for b in buckets if b == buckets[0] or self.seconds(b) <= short)
            self._roomy[buckets] = size
        return size

    def answered(self, seconds: float) -> None:
        """The answers of a batch were handed out so many seconds after its run had ended."""
        if self._handed is None:
            self._handed = _Cell(seconds)
        else:
            self._handed.observe(seconds)

    @property
    def after(self) -> float:
        """Seconds that answers hardly ever take from the end of the run to the wire; 0 when nothing is known.

        What is seen is the first half: `finish`, and a turn of the event loop. Building and sending the reply
        takes such turns too, so the time counts twice.
        """
        return 0.0 if self._handed is None else 2 * (self._handed.mean + 2 * self._handed.spread)

    def table(self) -> dict[int, float]:
        """Everything learnt: batch size to expected seconds, ascending."""
        return {size: self.seconds(size) for size in self._sizes}

    def _shaped(self, shape: Hashable) -> "Profile":
        """The profile of a shape, now the last one to be forgotten."""
        one = self._shapes.pop(shape, None)
        self._shapes[shape] = one = _OfShape(self) if one is None else one
        if len(self._shapes) > _SHAPES:
            del self._shapes[next(iter(self._shapes))]
        return one

    def _of(self, batch: int) -> _Facts:
        facts = self._facts.get(batch)
        if facts is None:
            facts = self._facts[batch] = self._look(batch) if self._sizes else _NOTHING
        return facts

    def _look(self, batch: int) -> _Facts:
        cell = self._cells[min(self._sizes, key=lambda size: abs(size - batch))]
        seconds = self._read(batch)
        spread = cell.spread * seconds / cell.mean if cell.mean else cell.spread
        least = max(0.0, seconds - 3 * spread) * min(1.0, batch / self._sizes[0])
        least = min([least, *(one.lower(batch) for one in self._shapes.values())])
        return _Facts(seconds, spread, least, seconds + 2 * spread)

    def _read(self, batch: int) -> float:
        sizes = self._sizes
        curve = self._curve = self._curve or _isotonic([self._cells[s] for s in sizes])
        at = bisect_left(sizes, batch)
        if at == len(sizes):
            return curve[-1] * batch / sizes[-1]
        if at == 0 or sizes[at] == batch:
            return curve[at]
        part = (batch - sizes[at - 1]) / (sizes[at] - sizes[at - 1])
        return curve[at - 1] + part * (curve[at] - curve[at - 1])


class _OfShape(Profile):
    """What is known of inputs of one shape."""

    def __init__(self, whole: Profile) -> None:
        super().__init__()
        self._whole = whole

    @property
    def after(self) -> float:
        """As of the whole."""
        return self._whole.after

    def _look(self, batch: int) -> _Facts:
        seen = min(max(batch, self._sizes[0]), self._sizes[-1])
        facts = super()._look(seen)
        if seen == batch:
            return facts
        there = self._whole._read(seen)
        scale = self._whole._read(batch) / there if there else 1.0
        return _Facts(
            facts.seconds * scale,
            facts.spread * scale,
            facts.lower * min(1.0, scale, batch / seen),
            facts.upper * scale,
        )


def _isotonic(cells: list[_Cell]) -> list[float]:
    """The non-decreasing sequence nearest to the means, weighted by how often each was seen."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many sizes it covers
    for cell in cells:
        mean, weight, width = cell.mean, float(min(cell.count, 20)), 1
        while pools and pools[-1][0] > mean:
            before, heavy, wide = pools.pop()
            mean = (before * heavy + mean * weight) / (heavy + weight)
            weight, width = weight + heavy, width + wide
        pools.append((mean, weight, width))
    return [mean for mean, _, width in pools for _ in range(width)]
