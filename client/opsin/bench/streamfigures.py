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

    @property
    def due(self) -> int:
        """Frames that came to an end, whichever."""
        return self.answered + self.dropped + self.failed


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """All streams of a run. fairness: Jain's index, 1 when all got the same.

    It is of their answered frames where each sends as many as it is let, and of the answered part of its own
    frames where it sends at a rate: chance, or a camera that is quicker, is no unfair server.
    jitter: milliseconds, the median stream's; jitter_worst: the worst one's.
    """

    fairness: float
    jitter: float
    jitter_worst: float
    each: tuple[OneStream, ...]


def stream_figures(recordings: Sequence[Recording], *, paced: bool = False) -> StreamFigures | None:
    """Figures over the streams of all processes; None for a run without frames. paced: sent at a rate."""
    seconds = max((recording.seconds for recording in recordings), default=0.0)
    each = tuple(_one(samples, seconds) for one in recordings for samples in _by_stream(one))
    if not each:
        return None
    jitters = sorted(stream.jitter for stream in each if stream.answered > 1) or [0.0]
    # All frames are accounted for unless some were cut off: then a stream without any had none of its own.
    silent = paced and not any(recording.unfinished for recording in recordings)
    fairness = jain([_share(one, paced) for one in each if one.due or not silent])
    return StreamFigures(fairness, jitters[len(jitters) // 2], jitters[-1], each)


def _share(stream: OneStream, paced: bool) -> float:
    return stream.answered / max(1, stream.due) if paced else stream.answered


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
