"""How old a frame is, without a common clock.

The age of a frame is the time since it fully arrived, plus how much longer it travelled than the quickest
frame of its stream in the last minute. Travel times are differences between two clocks that need not agree,
so only their differences mean anything; and as clocks drift, an old minimum must be forgotten. Pure: times
are passed in.
"""

from collections import deque

__all__ = ["Ages"]

MEMORY = 60.0
"""Seconds that a travel time is remembered."""
STEP = 1.0
"""Travel times are kept as one minimum a second: at most 61 numbers, whatever the frame rate."""


class Ages:
    """The travel times of one stream."""

    def __init__(self) -> None:
        self._minima: deque[tuple[float, float]] = deque()

    def excess(self, captured: float, arrived: float, now: float) -> float:
        """Take in one frame; how much longer than the quickest it travelled, in seconds, 0 or above.

        captured: by the client's clock. arrived: by the server's wall clock. now: by one that never jumps.
        """
        travel = arrived - captured
        second = now // STEP
        if self._minima and self._minima[-1][0] == second:
            travel_least = min(travel, self._minima.pop()[1])
        else:
            travel_least = travel
        self._minima.append((second, travel_least))
        while self._minima[0][0] * STEP < now - MEMORY:
            self._minima.popleft()
        return travel - min(least for _, least in self._minima)
