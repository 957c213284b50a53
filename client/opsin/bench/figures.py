"""From samples to figures. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from opsin.bench.load import STAGES, Recording

__all__ = ["Bare", "Figures", "Latency", "figures_of", "percentile"]

CLIENT_BUSY = 0.9
"""Share of a core from which on a process of callers may be what holds the figures down."""
NOISY = 1.15
"""Quickest over slowest round of the bare model from which on the machine was not quiet."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds over the answered calls."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to.

    rate: answered calls (or frames) a second. errors, dropped: how many by reason. mean_batch_size: over
    the calls that ran, each counting once; None when none ran. stages: mean milliseconds on the server.
    age_p50, age_p99: milliseconds, of frames. client_cpu: the share of a core that the busiest process of
    callers used.
    """

    callers: int
    calls: int
    answered: int
    seconds: float
    rate: float
    latency: Latency | None
    errors: dict[str, int]
    dropped: dict[str, int]
    mean_batch_size: float | None
    stages: dict[str, float]
    age_p50: float | None
    age_p99: float | None
    client_cpu: float

    @property
    def client_limited(self) -> bool:
        """Whether the callers themselves may have been the limit."""
        return self.client_cpu >= CLIENT_BUSY

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "client_limited": self.client_limited}


@dataclass(frozen=True, slots=True)
class Bare:
    """The bare model beside the server's runs: `rounds[i]` and `rounds[i + 1]` lie around run i.

    rounds: inputs a second. processes, batch, threads: how it was run.
    """

    model: str
    rounds: tuple[float, ...]
    processes: int
    batch: int
    threads: int

    @property
    def rate(self) -> float:
        """The mean of the rounds."""
        return sum(self.rounds) / len(self.rounds)

    @property
    def noisy(self) -> bool:
        """Whether the rounds, which ought to be equal, are so far apart that shares of them mean little."""
        return max(self.rounds) > NOISY * min(self.rounds)

    def share(self, run: int, figures: Figures) -> float:
        """The server's rate in that run over the bare model's around it, so that a drift is fair to both."""
        around = (self.rounds[run] + self.rounds[run + 1]) / 2
        return figures.rate / around if around else 0.0


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ascending values that `share` (0..1) of them do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figures_of(recordings: Sequence[Recording], callers: int) -> Figures:
    """Figures over the recordings of all processes of one run; they ran at the same time."""
    samples = [sample for recording in recordings for sample in recording.samples]
    good = [sample for sample in samples if sample.answered]
    seconds = max((recording.seconds for recording in recordings), default=0.0)
    ages = sorted(sample.age * 1000 for sample in good if sample.age is not None)
    return Figures(
        callers=callers,
        calls=len(samples),
        answered=len(good),
        seconds=seconds,
        rate=len(good) / seconds if seconds else 0.0,
        latency=_latency([sample.seconds * 1000 for sample in good]),
        errors=dict(Counter(sample.error for sample in samples if sample.error).most_common()),
        dropped=dict(Counter(sample.dropped for sample in samples if sample.dropped).most_common()),
        mean_batch_size=_mean(sample.batch_size for sample in good if sample.batch_size),
        stages=_stages([sample.stages for sample in good if sample.stages]),
        age_p50=percentile(ages, 0.5) if ages else None,
        age_p99=percentile(ages, 0.99) if ages else None,
        client_cpu=max((one.cpu_seconds / one.seconds for one in recordings if one.seconds), default=0.0),
    )


def _latency(milliseconds: list[float]) -> Latency | None:
    if not milliseconds:
        return None
    ordered = sorted(milliseconds)
    p50, p90, p99 = (percentile(ordered, share) for share in (0.5, 0.9, 0.99))
    return Latency(sum(ordered) / len(ordered), p50, p90, p99, ordered[-1])


def _stages(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    if not rows:
        return {}
    return {stage: sum(row[at] for row in rows) / len(rows) for at, stage in enumerate(STAGES)}


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None
