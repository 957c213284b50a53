"""Percentiles, fairness, and how sure a median over rounds is. Pure.

The interval is the sign test's: between two of the ordered rounds, so far out that the median of all rounds
there could be lies between them with the probability told. It assumes only that rounds are independent, not
that they are normal. With fewer than six rounds no such interval reaches 95 %: then it is the least and the
greatest round, and the probability that goes with them (93.8 % for five, 75 % for three).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, comb, floor
from statistics import median
from typing import Any

__all__ = ["WANTED", "Interval", "jain", "median_of", "percent", "percentile"]

WANTED = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with its interval. confidence: that the interval holds the true median; 0 for one round."""

    median: float
    low: float
    high: float
    confidence: float
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def median_of(values: Sequence[float], wanted: float = WANTED) -> Interval:
    """The median, and the narrowest symmetric interval whose confidence is `wanted`, or else the widest."""
    ordered = sorted(values)
    outward = 0
    while outward + 1 < (len(ordered) + 1) // 2 and _confidence(len(ordered), outward + 1) >= wanted:
        outward += 1
    return Interval(
        median(ordered),
        ordered[outward],
        ordered[len(ordered) - 1 - outward],
        _confidence(len(ordered), outward),
        len(ordered),
    )


def _confidence(count: int, left_out: int) -> float:
    """That the median lies within, when so many of the ordered values are left out on either side."""
    outside: float = sum(comb(count, k) for k in range(left_out + 1)) / 2**count
    return max(0.0, 1 - 2 * outside)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ascending values that `share` (0..1) of them do not exceed (nearest rank)."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def percent(share: float) -> str:
    """A share as text, rounded down: 100 % is all of them, and 99 % is enough for what asks for that."""
    return f"{floor(share * 1000 + 1e-9) / 1000:.1%}"


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything. (Jain, Chiu, Hawe, 1984.)"""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
