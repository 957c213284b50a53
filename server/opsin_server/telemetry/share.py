"""How much of the device's time is spent working, over the last seconds.

Fed with the lane-seconds of every batch when it ends; remembers one sum per second for ten seconds. Pure: the
clock is passed in.
"""

from collections import deque

__all__ = ["WINDOW", "BusyShare"]

WINDOW = 10.0
"""Seconds that a share looks back."""


class BusyShare:
    """Share of lane time used, 0..1, in all, by device and by model.

    lanes: of each device. devices: how many there are.
    """

    def __init__(self, lanes: int, now: float, devices: int = 1) -> None:
        self._lanes = lanes
        self._devices = devices
        self._since = now
        self._ran: deque[tuple[float, tuple[str, str], float]] = deque()
        self._models: dict[str, float] = {}
        self._places: dict[str, float] = {}

    def add(self, model: str, seconds: float, now: float, device: str = "") -> None:
        """A batch of `model` ended at `now` after `seconds` on its lane."""
        second, where = float(int(now)), (model, device)
        if self._ran and self._ran[-1][0] == second and self._ran[-1][1] == where:
            _, _, sum_ = self._ran.pop()
            self._ran.append((second, where, sum_ + seconds))
        else:
            self._ran.append((second, where, seconds))
        self._models[model] = self._models.get(model, 0.0) + seconds
        self._places[device] = self._places.get(device, 0.0) + seconds
        self._forget(now)

    def device(self, now: float, device: str = "") -> float:
        """Share of the time of a device's lanes. Without a name: of all lanes."""
        self._forget(now)
        if device:
            return self._share(self._places.get(device, 0.0), now, self._lanes)
        return self._share(sum(self._places.values()), now, self._lanes * self._devices)

    def model(self, model: str, now: float) -> float:
        """One model's share of all lanes' time."""
        self._forget(now)
        return self._share(self._models.get(model, 0.0), now, self._lanes * self._devices)

    def _share(self, seconds: float, now: float, lanes: int) -> float:
        span = min(WINDOW, now - self._since) * lanes
        return min(1.0, seconds / span) if span > 0 else 0.0

    def _forget(self, now: float) -> None:
        while self._ran and self._ran[0][0] < now - WINDOW:
            _, (model, device), seconds = self._ran.popleft()
            _take(self._models, model, seconds)
            _take(self._places, device, seconds)


def _take(sums: dict[str, float], name: str, seconds: float) -> None:
    left = sums.pop(name, 0.0) - seconds
    if left > 1e-9:  # models that are gone leave nothing behind
        sums[name] = left
