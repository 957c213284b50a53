"""From samples to figures. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from opsin.bench.intervals import percentile
from opsin.bench.limits import Limits, limits_of
from opsin.bench.load import STAGES, Recording, Sample
from opsin.bench.streamfigures import StreamFigures, stream_figures

__all__ = ["Bare", "Figures", "Latency", "figures_of", "percentile"]

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
    min: float = 0.0
    p95: float = 0.0
    p999: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to.

    callers: calls under way, or streams; 0 for no limit. calls: that ended, or were due and not sent. rate:
    answered calls (or frames) a second. errors, dropped: how many by reason. mean_batch_size: over the calls
    that ran, each counting once; None when none ran. stages: mean milliseconds on the server. age_p50,
    age_p99: milliseconds, of frames. offered: calls a second that were to be sent, None in a closed loop and
    endless for a trace of one moment.
    good: calls answered within the deadline (seconds; None: any answer is good). inputs: answered, more than
    calls in batches; refused: inputs of answered batches that were not, by reason. unfinished: calls cut off
    at the end. limits: whether the tool itself was the limit. ended: why before its time, "" when it was not.
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
    limits: Limits
    offered: float | None = None
    deadline: float | None = None
    good: int = 0
    inputs: int = 0
    refused: dict[str, int] | None = None
    unfinished: int = 0
    streams: StreamFigures | None = None
    ended: str = ""

    @property
    def client_cpu(self) -> float:
        """The share of a core that the busiest process of callers used."""
        return self.limits.cpu

    @property
    def client_limited(self) -> bool:
        """Whether the callers themselves may have been the limit."""
        return bool(self.limits.reasons)

    @property
    def goodput(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds if self.seconds else 0.0

    @property
    def good_share(self) -> float:
        """Of all calls that were due, those answered well; what never ended counts too."""
        due = self.calls + self.unfinished
        return self.good / due if due else 0.0

    @property
    def offered_rate(self) -> float | None:
        """What was offered, where that is a rate: not in a closed loop, nor where all was due at once."""
        return self.offered if self.offered is not None and math.isfinite(self.offered) else None

    @property
    def input_rate(self) -> float:
        """Answered inputs a second."""
        return self.inputs / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        derived = {
            "goodput": self.goodput,
            "good_share": self.good_share,
            "input_rate": self.input_rate,
            "client_cpu": self.client_cpu,
            "client_limited": self.client_limited,
        }
        return {**asdict(self), **derived, "offered": self.offered_rate}


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
        return figures.input_rate / around if around else 0.0


def figures_of(
    recordings: Sequence[Recording],
    callers: int,
    *,
    offered: float | None = None,
    deadline: float | None = None,
) -> Figures:
    """Figures over the recordings of all processes of one run; they ran at the same time."""
    samples = [sample for recording in recordings for sample in recording.samples]
    good = [sample for sample in samples if sample.answered]
    seconds = max((recording.seconds for recording in recordings), default=0.0)
    ages = sorted(sample.age * 1000 for sample in good if sample.age is not None)
    unsent = sum(recording.unsent for recording in recordings)
    latency = _latency([sample.seconds * 1000 for sample in good])
    return Figures(
        callers=callers,
        calls=len(samples) + unsent,
        answered=len(good),
        seconds=seconds,
        rate=len(good) / seconds if seconds else 0.0,
        latency=latency,
        errors=_errors(samples, unsent),
        dropped=dict(Counter(sample.dropped for sample in samples if sample.dropped).most_common()),
        mean_batch_size=_mean(sample.batch_size for sample in good if sample.batch_size),
        stages=_stages([sample.stages for sample in good if sample.stages]),
        age_p50=percentile(ages, 0.5) if ages else None,
        age_p99=percentile(ages, 0.99) if ages else None,
        limits=limits_of(recordings, _scale(deadline, latency), open_loop=offered is not None),
        offered=offered,
        deadline=deadline,
        good=sum(deadline is None or sample.seconds <= deadline for sample in good),
        inputs=sum(sample.inputs for sample in good),
        refused=dict(Counter(reason for sample in good for reason in sample.refused).most_common()),
        unfinished=sum(recording.unfinished for recording in recordings),
        streams=stream_figures(recordings, paced=offered is not None),
        ended=next((recording.ended for recording in recordings if recording.ended), ""),
    )


NOT_SENT = "NOT_SENT"
"""The error of calls that were due when too many were under way in the tool."""


def _errors(samples: Sequence[Sample], unsent: int) -> dict[str, int]:
    errors = Counter(sample.error for sample in samples if sample.error)
    if unsent:
        errors[NOT_SENT] += unsent
    return dict(errors.most_common())


def _scale(deadline: float | None, latency: Latency | None) -> float:
    """What being late is measured by, in milliseconds."""
    if deadline is not None:
        return deadline * 1000
    return latency.p50 if latency else 0.0


def _latency(milliseconds: list[float]) -> Latency | None:
    if not milliseconds:
        return None
    ordered = sorted(milliseconds)
    ranks = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
    found = {name: percentile(ordered, share) for name, share in ranks.items()}
    return Latency(mean=sum(ordered) / len(ordered), max=ordered[-1], min=ordered[0], **found)


def _stages(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    if not rows:
        return {}
    return {stage: sum(row[at] for row in rows) / len(rows) for at, stage in enumerate(STAGES)}


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None
