"""Where the knee is: the highest rate that a server holds. Pure: told how each step went, says the next rate.

A rate is held when at least 99 % of the calls that were due in the step were answered within the deadline,
counted from when they were due. (So p99 is below the deadline too, with failures as endless latencies.) The
rate doubles from the start until it is not held, then the gap is halved (geometrically) until its ends are
within the precision. A step that fails is run once more before it is believed: a busy moment of the machine
is not a knee.
"""

from dataclasses import dataclass, field
from math import sqrt

__all__ = ["HELD_SHARE", "PRECISION", "KneeSearch", "Step"]

HELD_SHARE = 0.99
PRECISION = 0.05
MOST_STEPS = 40
_LOWEST = 1 / 1024
"""Of the start, below which no rate is tried."""


@dataclass(frozen=True, slots=True)
class Step:
    """A rate that was tried. limited: the tool itself could not keep it up."""

    rate: float
    held: bool
    limited: bool = False


@dataclass(slots=True)
class KneeSearch:
    """The search. start: the first rate, above 0. precision: of the knee, as a share of it."""

    start: float
    precision: float = PRECISION
    steps: list[Step] = field(default_factory=list)
    _again: bool = False
    _done: bool = False

    @property
    def knee(self) -> float | None:
        """The highest rate that was held below the lowest that was not; None when none was."""
        failed = self._lowest_failed
        held = [step.rate for step in self.steps if step.held and (failed is None or step.rate < failed)]
        return max(held, default=None)

    @property
    def limited(self) -> bool:
        """Whether the tool gave out before the server: the knee is at least what was found."""
        return self._done

    @property
    def exhausted(self) -> bool:
        """Whether so many steps were tried without an end that no more are."""
        return len(self.steps) >= MOST_STEPS

    def next(self) -> float | None:
        """The rate to try; None when the knee is found, or cannot be."""
        if self._done or self.exhausted:
            return None
        if not self.steps:
            return self.start
        if self._again:
            return self.steps[-1].rate
        held, failed = self.knee, self._lowest_failed
        if failed is None:
            return self.steps[-1].rate * 2
        if held is None:
            return failed / 2 if failed / 2 >= self.start * _LOWEST else None
        return sqrt(held * failed) if failed / held > 1 + self.precision else None

    def take(self, step: Step) -> None:
        """How the step that `next` asked for went."""
        # A try that failed while the tool kept up is the server's, whatever befell the tool in the other.
        limited = self._again and step.limited and self.steps[-1].limited
        self.steps.append(step)
        self._done = limited and not step.held
        self._again = not step.held and not self._again

    @property
    def _lowest_failed(self) -> float | None:
        """A rate fails when its last try does."""
        last = {step.rate: step.held for step in self.steps}
        return min((rate for rate, held in last.items() if not held), default=None)
