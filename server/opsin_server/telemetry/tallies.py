"""Counters and histograms for what happens with every input, cheap enough for that.

The library's own take a lock for each number and look labels up at each use: one to two microseconds, several
times an input. These are for one thread, the event loop's, and take a tenth of it; scrapes, from any thread,
may find an event counted in one series and not yet in the next. In the text of a scrape nothing tells them
from the library's.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client import metrics as library
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

__all__ = ["Histograms", "Tallies"]

Values = tuple[str, ...]
"""Of labels, in the order of their names."""


class Tallies:
    """A counter for each set of label values. name: without the `_total` of the scrape."""

    def __init__(self, name: str, about: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._about, self._labels = name, about, tuple(labels)
        self._counts: dict[Values, int] = {}
        self._since: dict[Values, float] = {}
        registry.register(self)

    def begin(self, *values: str) -> None:
        """Tell of a series before anything is in it."""
        self._since.setdefault(values, time.time())
        self._counts.setdefault(values, 0)

    def add(self, *values: str) -> None:
        """Once more."""
        try:
            self._counts[values] += 1
        except KeyError:
            self._since[values] = time.time()
            self._counts[values] = 1

    def forget(self, **labels: str) -> None:
        """Drop every series with these labels."""
        for values in _those(self._labels, labels, self._counts):
            del self._counts[values], self._since[values]

    def describe(self) -> Iterator[Metric]:
        """The name, so that nobody else takes it."""
        yield CounterMetricFamily(self._name, self._about, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        """For a scrape."""
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for values, count in tuple(self._counts.items()):
            family.add_metric(values, count, created=self._since.get(values) if _tells_created() else None)
        yield family


class _Spread:
    """One series of a histogram."""

    __slots__ = ("counts", "since", "sum")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.sum = 0.0
        self.since = time.time()


class Histograms:
    """A histogram for each set of label values. bounds: upper ones, ascending, without infinity."""

    def __init__(
        self,
        name: str,
        about: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._about, self._labels = name, about, tuple(labels)
        self._bounds = tuple(bounds)
        self._told = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._spreads: dict[Values, _Spread] = {}
        registry.register(self)

    def begin(self, *values: str) -> "_Spread":
        """Tell of a series before anything is in it."""
        return self._spreads.setdefault(values, _Spread(len(self._bounds)))

    def observe(self, value: float, *values: str) -> None:
        """One more value."""
        spread = self._spreads.get(values) or self.begin(*values)
        spread.counts[bisect_left(self._bounds, value)] += 1
        spread.sum += value

    def forget(self, **labels: str) -> None:
        """Drop every series with these labels."""
        for values in _those(self._labels, labels, self._spreads):
            del self._spreads[values]

    def describe(self) -> Iterator[Metric]:
        """The name, so that nobody else takes it."""
        yield HistogramMetricFamily(self._name, self._about, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        """For a scrape."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for values, spread in tuple(self._spreads.items()):
            buckets = list(zip(self._told, accumulate(spread.counts), strict=True))
            family.add_metric(values, buckets, spread.sum)
            if not _tells_created():
                continue
            labels = dict(zip(self._labels, values, strict=True))
            family.add_sample(f"{self._name}_created", labels, spread.since)
        yield family


def _tells_created() -> bool:
    """Whether series say since when they count; PROMETHEUS_DISABLE_CREATED_SERIES turns it off."""
    return bool(getattr(library, "_use_created", True))


def _those(names: Values, wanted: dict[str, str], all_values: Iterable[Values]) -> list[Values]:
    """The label values that agree with `wanted`."""
    places = [(names.index(name), value) for name, value in wanted.items()]
    return [values for values in all_values if all(values[at] == value for at, value in places)]
