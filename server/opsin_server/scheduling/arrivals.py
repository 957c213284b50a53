"""Who will be back in a moment: what holding a batch rests on.

Owns one estimate per model, fed with the times of arrivals and answers; it has no clock and decides nothing.

Callers who wait for an answer before they ask again come in flocks: a batch is answered, and within a few
milliseconds its callers are back. What is learnt of them: the share of the answered who come back before the
next answer, and how long after it they come (mean and mean deviation; if they think for exponential times,
nine in ten are back by the mean and two deviations, 99 in a hundred by five).

Arrivals that do not wait for answers can look alike for a while. What gives them away is that there are too
many: of a flock no more come back than were answered. So arrivals beyond that number are counted, and when
they are more than one in twenty, nobody is expected.
"""

import math

__all__ = ["Arrivals"]

_RATE = 1 / 16
_RATE_BACK = 1 / 4
_RATE_BEYOND = 1 / 32
_FLOCK = 0.5
"""Share of the answered who must have come back lately for any to be expected."""
_BEYOND = 0.05
"""Share of arrivals that may be strangers to the last batches."""


class Arrivals:
    """The comings and goings of one model's tickets.

    answered_at: when a batch was last answered.
    """

    __slots__ = (
        "_answered",
        "_away",
        "_back",
        "_beyond",
        "_delay",
        "_samples",
        "_share",
        "_spread",
        "answered_at",
    )

    def __init__(self) -> None:
        self.answered_at = -math.inf
        self._answered = 0  # tickets in the last batch
        self._back = 0  # arrivals since
        self._away = 0  # answered and not back
        self._share = 0.0
        self._beyond = 0.2
        self._delay = 0.0
        self._spread = 0.0
        self._samples = 0

    def arrived(self, at: float) -> None:
        """A ticket came."""
        self._back += 1
        self._beyond += _RATE_BEYOND * ((self._away == 0) - self._beyond)
        if self._away == 0:
            return
        self._away -= 1
        delay = max(0.0, at - self.answered_at)
        self._samples += 1
        rate = max(_RATE, 1 / self._samples)
        self._spread += rate * (abs(delay - self._delay) - self._spread)
        self._delay += rate * (delay - self._delay)

    def answered(self, count: int, at: float) -> None:
        """A batch of `count` was answered."""
        if self._answered:
            returned = min(1.0, self._back / self._answered)
            self._share += _RATE_BACK * (returned - self._share)
        if at > self.back_by:
            self._away = 0  # who is not back by now is not coming
        self._away += count
        self._answered, self._back, self.answered_at = count, 0, at

    @property
    def mostly_by(self) -> float:
        """When most of those who were answered last should be back."""
        return self.answered_at + self._delay + 2 * self._spread

    @property
    def back_by(self) -> float:
        """When those who were answered last should be back; who is not, is not coming."""
        return self.answered_at + self._delay + 5 * self._spread

    def expected(self, now: float) -> int:
        """How many are expected to arrive by `back_by`."""
        if now >= self.back_by or self._share < _FLOCK or self._beyond > _BEYOND:
            return 0
        gone = math.floor((1 - self._share) * self._answered)
        return max(0, self._away - gone)
