"""Who asks for what, and when: arrival traces on a virtual clock.

A trace gives requests in order of time, and may answer an answer with another request (closed loop). It knows
nothing of servers. All randomness comes from a seed, so that rivals are given the same requests.
"""

import heapq
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from opsin_server.scheduling.ticket import Priority, Ticket

__all__ = [
    "Closed",
    "Gaps",
    "Open",
    "Recorded",
    "Request",
    "Source",
    "Trace",
    "bursty",
    "diurnal",
    "poisson",
]


@dataclass(frozen=True, slots=True)
class Request:
    """One input. at: seconds since the start. within: seconds in which the answer is wanted."""

    at: float
    model: str
    flow: str
    within: float = math.inf
    priority: Priority = Priority.INTERACTIVE


class Trace(Protocol):
    """What a simulation is fed with."""

    def arrivals(self) -> Iterator[Request]:
        """Requests that come by themselves, in order of time. May be endless."""
        ...

    def answered(self, ticket: Ticket, now: float) -> Request | None:
        """What the caller of an answered (or refused) request asks next; not before `now`."""
        ...


Gaps = Callable[[random.Random], Iterator[float]]
"""An arrival process: seconds between arrivals, without end."""


def poisson(rate: float) -> Gaps:
    """Independent arrivals, `rate` a second on average."""

    def gaps(rng: random.Random) -> Iterator[float]:
        while True:
            yield rng.expovariate(rate)

    return gaps


def bursty(rate: float, *, peak: float, length: float) -> Gaps:
    """A two-state Markov-modulated Poisson process, `rate` a second on average.

    Half of all arrivals come in bursts of `length` seconds on average, at `peak` times the mean rate; the
    rest evenly in between. peak must exceed 1.
    """
    share = 1 / (2 * peak)
    states = ((peak * rate, length), (0.5 * rate / (1 - share), length * (1 - share) / share))

    def gaps(rng: random.Random) -> Iterator[float]:
        state, gap = 1, 0.0
        ends = rng.expovariate(1 / states[state][1])
        while True:
            step = rng.expovariate(states[state][0])
            if step < ends:
                ends -= step
                yield gap + step
                gap = 0.0
            else:  # the exponential has no memory: start anew in the next state
                gap += ends
                state = 1 - state
                ends = rng.expovariate(1 / states[state][1])

    return gaps


def diurnal(rate: float, *, period: float, depth: float = 0.8) -> Gaps:
    """Poisson with a rate that swings by a sine: rate * (1 + depth * sin). depth 0..1."""
    most = rate * (1 + depth)

    def gaps(rng: random.Random) -> Iterator[float]:
        now = last = 0.0
        while True:  # thinning (Lewis and Shedler)
            now += rng.expovariate(most)
            if rng.random() * most <= rate * (1 + depth * math.sin(2 * math.pi * now / period)):
                yield now - last
                last = now

    return gaps


@dataclass(frozen=True, slots=True)
class Source:
    """Requests for one model. Flows are drawn from `flows`, deadlines from `within` (a range), evenly."""

    model: str
    gaps: Gaps
    flows: Sequence[str] = ("f0",)
    within: tuple[float, float] = (math.inf, math.inf)
    priority: Priority = Priority.INTERACTIVE

    def requests(self, rng: random.Random) -> Iterator[Request]:
        """Without end."""
        low, high = self.within
        flows, count, priority, model = self.flows, len(self.flows), self.priority, self.model
        now = 0.0
        for gap in self.gaps(rng):
            now += gap
            within = low if low == high else low + (high - low) * rng.random()
            flow = flows[int(rng.random() * count)] if count > 1 else flows[0]
            yield Request(now, model, flow, within, priority)


@dataclass(frozen=True, slots=True)
class Open:
    """Callers who come whatever the server does."""

    sources: Sequence[Source]
    seed: int = 1

    def arrivals(self) -> Iterator[Request]:
        """All sources, merged."""
        seeds = (random.Random(self.seed * 7919 + i) for i in range(len(self.sources)))  # noqa: S311
        runs = [source.requests(rng) for source, rng in zip(self.sources, seeds, strict=True)]
        return runs[0] if len(runs) == 1 else heapq.merge(*runs, key=lambda r: r.at)

    def answered(self, ticket: Ticket, now: float) -> None:
        """Nobody waits for an answer before asking again."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Callers who ask again when they are answered. Each keeps `in_flight` requests going.

    think: mean seconds between an answer and the next request (network and client), exponential.
    """

    callers: Sequence[Request]
    in_flight: Sequence[int] | None = None
    think: float = 0.0005
    seed: int = 1
    _rng: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rng", random.Random(self.seed))  # noqa: S311

    def arrivals(self) -> Iterator[Request]:
        """The first request of each."""
        counts = self.in_flight or [1] * len(self.callers)
        first = [c for c, count in zip(self.callers, counts, strict=True) for _ in range(count)]
        return iter(sorted(first, key=lambda r: r.at))

    def answered(self, ticket: Ticket, now: float) -> Request:
        """The caller thinks, then asks again."""
        at = now + (self._rng.expovariate(1 / self.think) if self.think else 0.0)
        return Request(at, ticket.model, ticket.flow, ticket.deadline - ticket.arrived, ticket.priority)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Requests that were seen elsewhere. Must be in order of time."""

    requests: Iterable[Request]

    @classmethod
    def read(cls, path: Path) -> "Recorded":
        """One JSON object a line: at (seconds), model, and optionally flow, within (seconds), priority.

        Priorities are named interactive, stream and bulk. Raises ValueError that names the line.
        """
        found = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                try:
                    found.append(_request(json.loads(line)))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{path}, line {number}: {error!r}") from error
        return cls(sorted(found, key=lambda r: r.at))

    def arrivals(self) -> Iterator[Request]:
        """As recorded."""
        return iter(self.requests)

    def answered(self, ticket: Ticket, now: float) -> None:
        """What was asked is fixed."""


def _request(row: dict[str, object]) -> Request:
    at, told = float(str(row["at"])), row.get("within")
    within = math.inf if told is None else float(str(told))
    if not math.isfinite(at) or math.isnan(within):
        raise ValueError("a time that is no number")
    return Request(
        at,
        str(row["model"]),
        str(row.get("flow", "f0")),
        within,
        Priority[str(row.get("priority", "interactive")).upper()],
    )
