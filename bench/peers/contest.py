"""Rounds that take turns: everybody once, in an order that shifts, everybody else asleep meanwhile."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from bench.peers.answers import EXACT, Tolerance, difference
from bench.peers.calling import Heard
from bench.peers.contestants import Callers, Opsin, Peer, Running
from bench.peers.process import Caller, python_of
from bench.peers.subjects import Table

__all__ = ["Side", "check", "compete", "ring"]

WARMUP = 1.0
_WARM = 1 << 20
"""Sets the pictures of a warm-up apart from those of every round: none is to be sent twice."""


@dataclass(slots=True)
class Side:
    """What one contestant did in each round. cpu_ms: CPU time of all its processes for an answered call."""

    rounds: list[Heard] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


Ring = Mapping[str, Running]


@contextmanager
def ring(
    contestants: Sequence[Opsin | Peer], table: Table, say: Callable[[str], None], *, tuned: bool
) -> Iterator[Ring]:
    """Everybody who can serve the subject, started and asleep."""
    with ExitStack() as stack:
        callers = Callers(
            stack.enter_context(Caller("bench.peers.http_caller", python_of("client"))),
            stack.enter_context(Caller("bench.peers.grpc_caller")),
        )
        running: dict[str, Running] = {}
        for one in contestants:
            if one.serves(table.subject):
                say(f"starting {one.name}: {one.about}")
                try:
                    running[one.name] = stack.enter_context(one.running(table, callers, tuned=tuned))
                except RuntimeError as error:
                    if not one.optional:
                        raise
                    say(f"left out: {str(error).strip().splitlines()[-1]}")
                else:
                    running[one.name].tree.sleep()
        yield running


def check(running: Ring, table: Table, tolerances: Mapping[str, Tolerance]) -> None:
    """Ask everybody the same and compare with an exact one. Raises ValueError on the first disagreement."""
    answers = {name: _asked(one, table) for name, one in running.items()}
    yardstick = next((name for name in answers if tolerances[name] == EXACT), next(iter(answers)))
    for name, found in answers.items():
        tolerance = tolerances[name]
        if not any(len(said) for answer in found for said in answer.values()):
            raise ValueError(f"{name} has no answer to any of {len(found)} pictures: nothing can be compared")
        for path, one, two in zip(table.compared, answers[yardstick], found, strict=True):
            if said := difference(one, two, tolerance):
                raise ValueError(f"{yardstick} and {name} disagree on {path}: {said}")


def _asked(one: Running, table: Table) -> list[dict[str, Any]]:
    with one.tree.awake():
        return one.caller.do(replace(one.job, paths=table.compared)).answers


def compete(running: Ring, callers: int, seconds: float, rounds: int) -> dict[str, Side]:
    """`rounds` rounds of everybody, `callers` at once."""
    sides = {name: Side() for name in running}
    names = list(running)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            _round(running[name], sides[name], callers, seconds, number)
    return sides


def _round(one: Running, side: Side, callers: int, seconds: float, number: int) -> None:
    job = replace(one.job, callers=callers, seconds=seconds, seed=number)
    with one.tree.awake() as tree:
        one.caller.do(replace(job, seconds=WARMUP, seed=number + _WARM))
        before = tree.cpu_seconds()
        heard = one.caller.do(job)
        used = tree.cpu_seconds() - before
    side.rounds.append(heard)
    side.cpu_ms.append(used / max(1, len(heard.milliseconds)) * 1000)
