"""From rounds to figures: ours over each peer and over the best of them, rates and delays beside. Pure.

A ratio is taken within a round, in which both sides had their turn within seconds of each other.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.figures import Figure, Target, at_least, at_most
from bench.peers.contest import Side

__all__ = ["figures", "percentile", "standings"]

BY_DEFAULT = {1: 1.5}
"""Times the answers of each peer, at so many callers; 1.8 at any other number."""
MANY = 1.8
FLASK = {10: {"opsin": 2.0, "opsin-int8": 4.0}}
"""Times the answers of one picture at a time."""


def figures(
    what: str, callers: int, sides: Mapping[str, Side], ours: Sequence[str], held: Sequence[str]
) -> list[Figure]:
    """Rows for each of ours. held: those of ours that are held to the peers' number type."""
    peers = [name for name in sides if name not in ours]
    batching = [name for name in peers if name != "flask"]
    rows = []
    for mine in (name for name in ours if name in sides):
        start = f"{what}, {callers} callers: {mine} over"
        if batching:
            best = max(batching, key=lambda name: _rate(sides[name]))
            target = at_least(1.0 if mine in held else BY_DEFAULT.get(callers, MANY))
            rows.append(_ratio(f"{start} the best peer ({best})", sides[mine], sides[best], target))
            rows.append(
                _tail(f"{start} the best peer’s p99", sides[mine], [sides[name] for name in batching])
            )
        rows += [_ratio(f"{start} {name}", sides[mine], sides[name]) for name in batching]
        if "flask" in sides:
            wanted = FLASK.get(callers, {}).get(mine)
            flask_target = at_least(wanted) if wanted else None
            rows.append(_ratio(f"{start} flask", sides[mine], sides["flask"], flask_target))
    return rows


def standings(callers: int, sides: Mapping[str, Side]) -> str:
    """A Markdown table of what everybody did."""
    rows = [
        "| callers | server | answers a second (least – greatest round) | p50 | p99 | CPU a call | errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, side in sides.items():
        told = summary(side)
        rate, p50, p99, cost = (median(told[key]) for key in ("rates", "p50_ms", "p99_ms", "cpu_ms"))
        spread = f"{min(told['rates']):.1f} – {max(told['rates']):.1f}"
        rows.append(
            f"| {callers} | {name} | {rate:.1f} ({spread}) | {p50:.1f} ms | {p99:.1f} ms | {cost:.1f} ms "
            f"| {told['errors']} |"
        )
    return "\n".join(rows)


def summary(side: Side) -> dict[str, Any]:
    """JSON-ready: a number a round. client_cpu: share of a core that the callers used."""
    heard = side.rounds
    return {
        "rates": [one.rate for one in heard],
        "p50_ms": [percentile(one.milliseconds, 0.5) for one in heard],
        "p99_ms": [percentile(one.milliseconds, 0.99) for one in heard],
        "cpu_ms": list(side.cpu_ms),
        "client_cpu": [one.cpu_seconds / one.seconds if one.seconds else 0.0 for one in heard],
        "errors": sum(sum(one.errors.values()) for one in heard),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; infinity when there is none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)] if ordered else float("inf")


def _rate(side: Side) -> float:
    return median(one.rate for one in side.rounds)


def _ratio(what: str, mine: Side, other: Side, target: Target | None = None) -> Figure:
    rounds = [
        one.rate / two.rate if two.rate else float("inf")
        for one, two in zip(mine.rounds, other.rounds, strict=True)
    ]
    return Figure(what, rounds, "", target)


def _tail(what: str, mine: Side, others: Sequence[Side]) -> Figure:
    """Our p99 over the lowest p99 of any of them, round by round."""
    best = min(others, key=lambda side: median(summary(side)["p99_ms"]))
    rounds = [one / two for one, two in zip(summary(mine)["p99_ms"], summary(best)["p99_ms"], strict=True)]
    return Figure(what, rounds, "", at_most(1.0))
