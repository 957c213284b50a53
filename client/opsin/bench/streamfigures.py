"""What a run of streams came to, stream by stream. Pure.

Jitter is how much the delay changes from one answered frame to the next (the packet delay variation of RFC
3393, as RFC 3550 has it without its smoothing): the mean of the absolute differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from opsin.bench.intervals import jain
from opsin.bench.load import Recording, Sample

__all__ = ["OneStream", "StreamFigures", "jitter", "stream_figures"]


@dataclass(frozen=True, slots=True)
class OneStream:
    """One stream. answered, dropped, failed: frames. rate: answered a second. jitter: milliseconds."""

    answered: int
    dropped: int
    failed: int
    rate: float
    jitter: float


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """All streams of a run. fairness: Jain's index of their answered frames, 1 when all got the same.

    jitter: milliseconds, the median stream's; jitter_worst: the worst one's.
    """

    fairness: float
    jitter: float
    jitter_worst: float
    each: tuple[OneStream, ...]


def stream_figures(recordings: Sequence[Recording]) -> StreamFigures | None:
    """Figures over the streams of all processes; None for a run without frames."""
    seconds = max((recording.seconds for recording in recordings), default=0.0)
    each = tuple(_one(samples, seconds) for one in recordings for samples in _by_stream(one))
    if not each:
        return None
    jitters = sorted(stream.jitter for stream in each)
    fairness = jain([stream.answered for stream in each])
    return StreamFigures(fairness, jitters[len(jitters) // 2], jitters[-1], each)


def jitter(delays: Sequence[float]) -> float:
    """The mean absolute difference of neighbours; 0 for fewer than two."""
    steps = [abs(later - earlier) for earlier, later in pairwise(delays)]
    return sum(steps) / len(steps) if steps else 0.0


def _by_stream(recording: Recording) -> list[list[Sample]]:
    """The samples of each stream; one that was never answered has its place too."""
    streams: list[list[Sample]] = [[] for _ in range(recording.streams)]
    for sample in recording.samples:
        if 0 < sample.stream <= recording.streams:
            streams[sample.stream - 1].append(sample)
    return streams


def _one(samples: Sequence[Sample], seconds: float) -> OneStream:
    good = [sample for sample in samples if sample.answered]
    return OneStream(
        answered=len(good),
        dropped=sum(bool(sample.dropped) for sample in samples),
        failed=sum(bool(sample.error) for sample in samples),
        rate=len(good) / seconds if seconds else 0.0,
        jitter=jitter([sample.seconds * 1000 for sample in sorted(good, key=lambda one: one.at)]),
    )
