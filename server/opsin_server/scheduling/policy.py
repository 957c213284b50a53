"""Which tickets run next. FIFO batching for the moment, in its final shape: a pure function."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import Queues
from opsin_server.scheduling.ticket import Ticket

__all__ = ["Dead", "LaneView", "Plan", "Run", "Sleep", "Wait", "plan"]


@dataclass(frozen=True, slots=True)
class LaneView:
    """The free lane that asks: its index, how many lanes there are, and how many of them are idle."""

    index: int = 0
    lanes: int = 1
    idle: int = 1


@dataclass(frozen=True, slots=True)
class Dead:
    """A ticket that must be answered without running: its deadline passed, or certainly will."""

    ticket: Ticket
    why: Literal["expired", "unmeetable"]


@dataclass(frozen=True, slots=True)
class Run:
    """Run these tickets, of one model and one shape, as one batch."""

    model: str
    tickets: tuple[Ticket, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing yet: ask again at `until` (clock seconds), or when something changes."""

    until: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing to do until something changes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. The dead are answered first; neither they nor those that run are in the queues after."""

    action: Run | Wait | Sleep
    dead: tuple[Dead, ...] = ()


def plan(queues: Queues, now: float, profiles: Mapping[str, Profile], lane: LaneView) -> Plan:
    """The next step for a free lane. Reads, never changes."""
    dead = tuple(Dead(t, "expired") for t in queues if t.deadline <= now)
    gone = {d.ticket.id for d in dead}
    first = next((t for t in queues if t.id not in gone), None)
    if first is None:
        return Plan(Sleep(), dead)
    most = queues.terms[first.model].buckets[-1]
    batch = [
        t for t in queues if t.id not in gone and t.model == first.model and t.shape == first.shape
    ]
    return Plan(Run(first.model, tuple(batch[:most])), dead)
