"""In which order rounds are run, so that a machine that gets slower meanwhile is fair to everybody. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from opsin.bench.intervals import Interval, median_of

__all__ = ["Turn", "ratio_of", "turns"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One run. point: which load. round: from 0. side: 0 for the server, 1 for the one it is paired with."""

    point: int
    round: int
    side: int = 0


def turns(points: int, rounds: int, *, paired: bool, seed: int = 1) -> list[Turn]:
    """Every load once in each round; of a pair both servers one after the other.

    Which of the two is first is drawn, in blocks of two rounds that have each order once: neither is first
    more often by more than one round.
    """
    order = _firsts(rounds, seed) if paired else [(0,)] * rounds
    return [
        Turn(point, number, side)
        for number in range(rounds)
        for point in range(points)
        for side in order[number]
    ]


def _firsts(rounds: int, seed: int) -> list[tuple[int, ...]]:
    chance = random.Random(seed)  # noqa: S311
    order: list[tuple[int, ...]] = []
    while len(order) < rounds:
        block = [(0, 1), (1, 0)]
        chance.shuffle(block)
        order += block
    return order[:rounds]


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """The median of ours over theirs, each round with its own; None where there is nothing to divide by."""
    pairs = [our / their for our, their in zip(ours, theirs, strict=False) if their]
    return median_of(pairs) if pairs else None
