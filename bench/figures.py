"""From rounds to figures: medians, targets, shares, tables. Pure.

A figure is measured in several rounds. It is shown as the median with the least and the greatest round; a
target is met when the median reaches it, and met "within the spread" when only the best round does. A target
of 0 at the most is of what must never happen: every round has to meet it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Literal

__all__ = ["Figure", "Target", "at_least", "at_most", "between", "slope", "table", "turns"]

HEADER = "| figure | target | measured: median (least – greatest round) | met |\n|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a figure ought to lie, both ends included."""

    sign: Literal[">=", "<="]
    value: float

    def holds(self, measured: float) -> bool:
        """Whether a value reaches it."""
        return measured >= self.value if self.sign == ">=" else measured <= self.value

    def best(self, rounds: Sequence[float]) -> float:
        """The round that is the closest to it, or the furthest beyond."""
        return max(rounds) if self.sign == ">=" else min(rounds)


def at_least(value: float) -> Target:
    """A target that more is better for."""
    return Target(">=", value)


def at_most(value: float) -> Target:
    """A target that less is better for."""
    return Target("<=", value)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. rounds: the value in each round, in `unit`. target: None where there is nothing to reach.

    beside: what a reader needs to judge it by, such as batch sizes and rates, JSON-ready.
    """

    what: str
    rounds: Sequence[float]
    unit: str = ""
    target: Target | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.rounds)

    @property
    def verdict(self) -> str:
        """Whether the target is met: yes, within the spread, no; "" without a target.

        What must never happen must not in any round.
        """
        if self.target is None:
            return ""
        if self.target == NEVER:
            return "yes" if all(map(self.target.holds, self.rounds)) else "no"
        if self.target.holds(self.value):
            return "yes"
        return "within the spread" if self.target.holds(self.target.best(self.rounds)) else "no"

    def to_row(self) -> str:
        """As a row of a Markdown table."""
        target = f"{self.target.sign} {_number(self.target.value)}{self._unit}" if self.target else "-"
        spread = (
            f" ({_number(min(self.rounds))} – {_number(max(self.rounds))})" if len(self.rounds) > 1 else ""
        )
        return (
            f"| {self.what} | {target} | {_number(self.value)}{self._unit}{spread} | {self.verdict or '-'} |"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "figure": self.what,
            "unit": self.unit,
            "target": f"{self.target.sign} {self.target.value:g}" if self.target else None,
            "median": self.value,
            "rounds": list(self.rounds),
            "met": self.verdict or None,
            "beside": dict(self.beside),
        }

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


NEVER = at_most(0)


def table(figures: Sequence[Figure]) -> str:
    """All of them as a Markdown table."""
    return "\n".join([HEADER, *(figure.to_row() for figure in figures)])


def turns(runs: Sequence[float], around: Sequence[float]) -> list[float]:
    """Each run over the mean of the two yardsticks measured just before and just after it.

    `around` has one more than `runs`: yardstick, run, yardstick, run, yardstick. A machine that gets slower
    while all this goes on is then fair to both.
    """
    if len(around) != len(runs) + 1:
        raise ValueError(f"{len(runs)} runs need {len(runs) + 1} yardsticks, not {len(around)}")
    return [run / yardstick for run, yardstick in zip(runs, between(around), strict=True)]


def between(around: Sequence[float]) -> list[float]:
    """The mean of each two neighbours."""
    return [(one + two) / 2 for one, two in pairwise(around)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The rise for each unit of the first number, by least squares; 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    middle = sum(x for x, _ in points) / len(points)
    level = sum(y for _, y in points) / len(points)
    spread = sum((x - middle) ** 2 for x, _ in points)
    return sum((x - middle) * (y - level) for x, y in points) / spread if spread else 0.0


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else f"{value:.3g}"
