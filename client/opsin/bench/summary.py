"""Rounds put together: medians with their intervals, and ratios of two servers. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from opsin.bench.figures import Figures
from opsin.bench.intervals import Interval, median_of
from opsin.bench.pairing import ratio_of
from opsin.bench.run import Result, Run

__all__ = ["Pair", "Summary", "pairs", "runs_of", "summaries"]


@dataclass(frozen=True, slots=True)
class Summary:
    """One load at one server over all its rounds. rate and goodput: a second; p50, p99: milliseconds.

    p50 and p99 are None when no call was answered; share_of_bare when the bare model was not run.
    """

    point: int
    side: int
    rate: Interval
    goodput: Interval
    p50: Interval | None
    p99: Interval | None
    share_of_bare: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Pair:
    """One load at both servers: ours over theirs, each round with its own. Above 1 is more, or slower."""

    point: int
    rate: Interval | None
    p50: Interval | None
    p99: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def runs_of(result: Result, point: int, side: int = 0) -> list[Run]:
    """The runs of one load at one server by round; one that was cut short only if there is no other."""
    return [run for _, run in _placed(result, point, side)]


def _placed(result: Result, point: int, side: int) -> list[tuple[int, Run]]:
    """The same with their places among all runs."""
    found = [
        (place, run)
        for place, run in enumerate(result.runs)
        if (run.turn.point, run.turn.side) == (point, side)
    ]
    # A round that lasted a moment says less than one that went through, and would count as much.
    return [(place, run) for place, run in found if not run.figures.ended] or found


def summaries(result: Result) -> list[Summary]:
    """Each load at each server that was run."""
    found = [
        _summary(result, point, side)
        for point in range(len(result.plan.points))
        for side in (0, 1)
        if runs_of(result, point, side)
    ]
    return found if result.knee is None else []


def pairs(result: Result) -> list[Pair]:
    """Each load that both servers were run with."""
    if result.plan.rival is None:
        return []
    return [_pair(result, point) for point in range(len(result.plan.points)) if runs_of(result, point, 1)]


def _summary(result: Result, point: int, side: int) -> Summary:
    runs = runs_of(result, point, side)
    figures = [run.figures for run in runs]
    return Summary(
        point,
        side,
        median_of([one.rate for one in figures]),
        median_of([one.goodput for one in figures]),
        _latencies(figures, lambda one: one.latency.p50 if one.latency else None),
        _latencies(figures, lambda one: one.latency.p99 if one.latency else None),
        _shares(result, point, side),
    )


def _latencies(figures: Sequence[Figures], of: Callable[[Figures], float | None]) -> Interval | None:
    known = [value for one in figures if (value := of(one)) is not None]
    return median_of(known) if known else None


def _shares(result: Result, point: int, side: int) -> Interval | None:
    bare = result.bare
    if bare is None:
        return None
    shares = [
        bare.share(place, run.figures)
        for place, run in _placed(result, point, side)
        if place + 1 < len(bare.rounds)
    ]
    return median_of(shares) if shares else None


def _pair(result: Result, point: int) -> Pair:
    # A round that was cut short may lack one of the two, and one in which nobody was answered has no latency.
    both = [
        (ours, theirs)
        for ours in runs_of(result, point, 0)
        for theirs in runs_of(result, point, 1)
        if ours.turn.round == theirs.turn.round
    ]

    def ratio(of: Callable[[Figures], float | None]) -> Interval | None:
        pairs = [(of(ours.figures), of(theirs.figures)) for ours, theirs in both]
        known = [(our, their) for our, their in pairs if our is not None and their is not None]
        return ratio_of([our for our, _ in known], [their for _, their in known])

    return Pair(
        point,
        ratio(lambda one: one.rate),
        ratio(lambda one: one.latency.p50 if one.latency else None),
        ratio(lambda one: one.latency.p99 if one.latency else None),
    )
