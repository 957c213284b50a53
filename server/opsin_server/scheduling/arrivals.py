"""When the next ticket may come: what holding a batch back rests on.

Owns one estimate per model, fed with arrival times; it has no clock and decides nothing.

The gap between arrivals is averaged on a logarithmic scale, because arrivals come in flocks: a batch is
answered, its callers ask again within a millisecond, then nobody for a batch time. The plain mean of such
gaps describes neither; the geometric mean describes the flock. For Poisson arrivals it is the mean times
exp(-0.577), which is put right.

Two signs say that nobody comes. Silence: four gaps without an arrival (2 % likely if they still came). And
solitude: the last arrivals each found nothing waiting and nothing running, which is what one caller who waits
for each answer looks like. Such a caller is never kept waiting for company.
"""

import math

__all__ = ["Arrivals"]

_RATE = 1 / 16
_POISSON = math.exp(0.5772)
_LEAST_GAP = 1e-7
_SILENCE = 4.0


class Arrivals:
    """The arrival process of one model, as far as it can be told from the last dozen or so arrivals."""

    __slots__ = ("_count", "_log_gap", "alone", "last")

    def __init__(self) -> None:
        self.last = -math.inf
        self.alone = 0
        self._log_gap = 0.0
        self._count = 0

    def arrived(self, at: float, *, found_nobody: bool) -> None:
        """A ticket came at `at`, when nothing of its model waited or ran (found_nobody) or something did."""
        self.alone = self.alone + 1 if found_nobody else 0
        if self.last > -math.inf:
            self._count += 1
            gap = math.log(max(at - self.last, _LEAST_GAP))
            self._log_gap += max(_RATE, 1 / self._count) * (gap - self._log_gap)
        self.last = max(self.last, at)

    @property
    def gap(self) -> float:
        """Expected seconds between arrivals while they come; infinite when it cannot be told."""
        if self._count < 2 or self.alone >= 2:
            return math.inf
        return _POISSON * math.exp(self._log_gap)

    @property
    def silent_from(self) -> float:
        """The time after which, with no further arrival, nobody is expected any more."""
        return self.last + _SILENCE * self.gap
