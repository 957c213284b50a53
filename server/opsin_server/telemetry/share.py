"""How much of the device's time is spent working, over the last seconds.

Fed with the lane-seconds of every batch when it ends; remembers one sum per second for ten seconds. Pure: the
clock is passed in.
"""

from collections import deque

__all__ = ["WINDOW", "BusyShare"]

WINDOW = 10.0
"""Seconds that a share looks back."""


class BusyShare:
    """Share of lane time used, 0..1, in all and by model."""

    def __init__(self, lanes: int, now: float) -> None:
        self._lanes = lanes
        self._since = now
        self._ran: deque[tuple[float, str, float]] = deque()
        self._sums: dict[str, float] = {}

    def add(self, model: str, seconds: float, now: float) -> None:
        """A batch of `model` ended at `now` after `seconds` on its lane."""
        second = float(int(now))
        if self._ran and self._ran[-1][0] == second and self._ran[-1][1] == model:
            _, _, sum_ = self._ran.pop()
            self._ran.append((second, model, sum_ + seconds))
        else:
            self._ran.append((second, model, seconds))
        self._sums[model] = self._sums.get(model, 0.0) + seconds
        self._forget(now)

    def device(self, now: float) -> float:
        """Share of all lanes' time."""
        self._forget(now)
        return self._share(sum(self._sums.values()), now)

    def model(self, model: str, now: float) -> float:
        """One model's share of all lanes' time."""
        self._forget(now)
        return self._share(self._sums.get(model, 0.0), now)

    def _share(self, seconds: float, now: float) -> float:
        span = min(WINDOW, now - self._since) * self._lanes
        return min(1.0, seconds / span) if span > 0 else 0.0

    def _forget(self, now: float) -> None:
        while self._ran and self._ran[0][0] < now - WINDOW:
            _, model, seconds = self._ran.popleft()
            left = self._sums.pop(model, 0.0) - seconds
            if left > 1e-9:  # models that are gone leave nothing behind
                self._sums[model] = left
