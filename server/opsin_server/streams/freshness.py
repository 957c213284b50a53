"""What a stream does with frames that it cannot keep up with, and how old a frame is.

Pure arithmetic on times that are passed in: `arrival` is seconds on the server's monotonic clock,
`captured` is nanoseconds on the client's clock, which need not agree with it. Knows no frames, only their
times.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from opsin_server.errors import Failure, Reason

__all__ = ["AgeClock", "DropReason", "Freshness", "FreshnessMode", "Sampler"]

NANO = 1e-9


class FreshnessMode(StrEnum):
    """The rule for frames that the server cannot keep up with."""

    EVERY_FRAME = "EVERY_FRAME"
    LATEST = "LATEST"
    MAX_AGE = "MAX_AGE"
    TARGET_FPS = "TARGET_FPS"


class DropReason(StrEnum):
    """Why a frame was not looked at."""

    SUPERSEDED = "SUPERSEDED"
    TOO_OLD = "TOO_OLD"
    RATE = "RATE"
    OVERLOAD = "OVERLOAD"
    NO_PICTURE = "NO_PICTURE"


@dataclass(frozen=True, slots=True)
class Freshness:
    """A mode with the value that it needs: `max_age` in seconds, `target_fps` in frames a second; 0 is
    unset.
    """

    mode: FreshnessMode = FreshnessMode.EVERY_FRAME
    max_age: float = 0.0
    target_fps: float = 0.0

    def check(self) -> None:
        """Raise `Failure` OPTION_INVALID when the value that the mode needs is missing, NaN, zero or
        negative.
        """
        match self.mode:
            case FreshnessMode.MAX_AGE if not self.max_age > 0:
                raise _invalid("max_age", self.max_age, "MAX_AGE needs a duration above 0")
            case FreshnessMode.TARGET_FPS if not self.target_fps > 0:
                raise _invalid("target_fps", self.target_fps, "TARGET_FPS needs a rate above 0")


def _invalid(name: str, value: float, why: str) -> Failure:
    return Failure(
        Reason.OPTION_INVALID,
        f"freshness.{name} is {value:g}; {why}.",
        f"freshness.{name}",
        {"value": f"{value:g}"},
    )


class Sampler:
    """Chooses `fps` frames a second, the first one and then evenly; rates above a million keep every frame.

    The first frame sets a grid of one point each `1 / fps` seconds, and each point takes the frame nearest
    to it. The grid never moves, so the choice does not drift; nearest rather than next, because a camera
    that already runs at `fps` has frames a little early as often as late, and none of them may be lost to
    that. Which frame is nearest is known in time by expecting the next one after a gap like the last.
    """

    __slots__ = ("_anchor", "_arrival", "_index", "_period", "_time")

    def __init__(self, fps: float) -> None:
        self._period = 1.0 / fps if fps < 1e6 else 0.0
        self._anchor: float | None = None
        self._index = 0  # of the next grid point without a frame
        self._time = self._arrival = 0.0

    def keeps(self, arrival: float, captured: int | None) -> bool:
        """Whether to look at this frame; asked once for each frame, in order."""
        time = self._when(arrival, captured)
        gap, self._time, self._arrival = time - self._time, time, arrival
        if self._period == 0.0:
            return True
        # A client's clock that was put back must not stop the stream until it has caught up: a new grid.
        if self._anchor is None or gap < -self._period:
            self._anchor, self._index = time, 1
            return True
        slack = min(max(gap, 0.0), self._period) / 2
        passed = time - self._anchor
        if passed + slack < self._index * self._period - 1e-6:
            return False
        self._index = max(self._index, math.floor(passed / self._period + 0.5)) + 1
        return True

    def _when(self, arrival: float, captured: int | None) -> float:
        """Capture time; for a frame without, the last frame's and the time that went by since it arrived."""
        if captured is not None:
            return captured * NANO
        return arrival if self._anchor is None else self._time + (arrival - self._arrival)


class AgeClock:
    """How much longer each frame travelled than the quickest of the last minute.

    `arrival - captured` is travel time plus the unknown difference of two clocks; the smallest one seen
    stands for no travel at all, and a minute is short enough for clocks that drift apart. Kept as one
    minimum a second, so that a minute takes 61 numbers at any frame rate.
    """

    __slots__ = ("_quickest",)

    def __init__(self) -> None:
        self._quickest: deque[tuple[int, float]] = deque()  # (second, smallest travel in it), smallest first

    def arrived(self, arrival: float, captured: int | None) -> float:
        """Seconds, at least 0, by which this frame is older than its time since arrival. 0 without
        `captured`.
        """
        if captured is None:
            return 0.0
        travel = arrival - captured * NANO
        second = math.floor(arrival)
        line = self._quickest
        while line and line[0][0] < second - 60:
            line.popleft()
        # What is both older and slower can never be the minimum again.
        while line and line[-1][1] >= travel:
            line.pop()
        if not line or line[-1][0] != second:
            line.append((second, travel))
        return travel - line[0][1]
