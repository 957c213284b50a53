"""How many frames of a stream may be unanswered: a rule on plain numbers, asked a few times a second.

Two things bound it. All streams that are in use together may fill half of the queues; streams that are open
and say nothing take no part of that. And a frame should not wait longer than the device needs to have the
next batches at hand: what waits beyond that fills no batch better, and only makes answers older. Where more
waits, windows come down at once, in proportion; where less does, they grow by one at a time, as nobody knows
how much more the sources would send. Knows no streams, no clock and no device.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["LEAST", "Backlog", "Load", "next_window"]

LEAST = 2
"""One frame runs while the next one waits; with fewer, each frame pays for the network's way and back."""
NEARLY = 1.1
"""Seconds an input, over the least, that count as the best speed."""
AT_HAND = 2.0
"""Batches that may wait for each lane, in batch times: the next one, and one that is gathering."""


@dataclass(frozen=True, slots=True)
class Load:
    """One model's work. queued: inputs that wait. profile: (batch size, seconds), what is known of it."""

    queued: int
    profile: tuple[tuple[int, float], ...] = ()

    @property
    def each(self) -> float:
        """Seconds an input at the best batch size; 0 where nothing is known."""
        return min((seconds / size for size, seconds in self.profile if size), default=0.0)

    @property
    def size(self) -> int:
        """The smallest batch that runs at nearly the best speed; 0 where nothing is known."""
        near = NEARLY * self.each
        return min((size for size, seconds in self.profile if size and seconds <= near * size), default=0)

    @property
    def batch(self) -> float:
        """Seconds of the smallest batch that runs at nearly the best speed."""
        near = NEARLY * self.each
        return min(
            (seconds for size, seconds in self.profile if size and seconds <= near * size), default=0.0
        )


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a frame at the end of the queues would wait, and how long a batch takes; seconds."""

    waits: float = 0.0
    batch: float = 0.0

    @classmethod
    def of(cls, loads: Iterable[Load], lanes: int) -> "Backlog":
        """Of all models that share `lanes` lanes."""
        busy = [load for load in loads if load.queued]
        waits = sum(load.queued * load.each for load in busy) / max(1, lanes)
        return cls(waits, max((load.batch for load in busy), default=0.0))


def next_window(window: int, *, most: int, places: int, streams: int, backlog: Backlog) -> int:
    """The window from now on, after `window`.

    most: as it is set. places: tickets that the queues hold. streams: those in use.
    """
    ceiling = max(1, min(most, places // (2 * max(1, streams))))
    enough = AT_HAND * backlog.batch
    if backlog.batch and backlog.waits > enough:
        lowered = math.floor(window * enough / backlog.waits)
        return min(ceiling, max(min(LEAST, window), lowered, window // 2))
    return min(ceiling, window + 1)
