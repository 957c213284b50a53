"""Which tickets run next: the whole of the scheduling policy, as a pure function.

`plan` is given the queues, the time, what is known of run times, and the lane that is free; it answers what
to do. It reads no clock, changes nothing and remembers nothing, so the same function drives the server and
the simulator, and every rule below is a property that tests can check on random queues.

The rules, in the order in which they are applied
--------------------------------------------------

**1. The dead go first.** A ticket whose deadline has passed, or which would miss it even if it ran this
moment, alone, as fast as the profile has known it, is answered at once and never runs. "Certain" leans on the
profile's lower bound, and on that only while it is fresh: when tickets have come for seconds and none was
run, the bound is doubted (it halves every ten seconds), so that a model which once was slow gets another
chance to show that it is not. Everything below looks only at tickets that are alive.

**2. Which model.** Models share the device by weight, in device seconds (start-time fair queueing, `shares`):
the one furthest behind is entitled to run. Entitlement is not exact to the microsecond: all models within one
batch time of the one furthest behind are equals, and among equals the better moment decides. That is, first
the one whose turn costs the others least (tickets that could be served now but no longer after it); then the
one with more urgent work; then the one whose batch is better filled, since an ill-filled batch that can wait
will be better filled later. The lag between two models with work is bounded by that batch time plus one more,
so shares converge to the weights.

**3. Which tickets.** Only tickets of one shape run together; the shape that holds the most deserving ticket
is it. Interactive before streams before bulk. Within a class the flow that has had least device time goes
first (max-min fairness), seat by seat; flows within a quarter batch of one another are equals, and the
earliest deadline among them decides. Within a flow the earliest deadline goes first. Two exceptions keep
everyone moving:

- a flow of streams or bulk that was served nothing for `patience` seconds is owed one place, whatever is
  ahead of it; all such places together are at most a quarter of what runs;
- within a flow, a ticket that has waited out `patience` goes first when the flow has its turn.

So, while its model runs n tickets a second, the oldest ticket of one of F flows that wait below interactive
is served within patience + 4 (F + 1) / n seconds and a batch, and one behind q others of its own flow within
q + 1 times that.

**4. How many.** Among warmed sizes, the one with the most tickets a second that still meets the earliest
deadline in the batch; the smallest of those that are equally good (within 2 %), because it answers earlier.
When other lanes are idle, a batch leaves them their part unless that costs a fifth of the throughput or more.

What about a ticket whose deadline leaves time for a tiny batch only? Under light load it is served, the
others can wait. Under overload it is poison: every such ticket makes a batch of one or two where sixteen
could have been answered, the device falls behind, and more tickets become like it (Nexus calls the remedy
early drop). The test is whether the rest of its class could still meet all deadlines after it. If they could,
it is served first. If not, it is passed over in favour of the size with the best goodput. It stays in the
queue and may yet run.

**5. Whether to hold.** A device that waits while there is work gains nothing in the long run: batches grow by
themselves while it is busy. There is one exception, the start of a flock: a batch is answered, its callers
ask again within a millisecond, and whoever runs the first of them alone makes the others wait a whole run. So
a batch is held only when the arrivals expected in that time repay it, both in device time and in the sum of
latencies; never longer than `max_hold` after the oldest ticket came, never when it puts a deadline at risk,
never when other models could run, never once arrivals have fallen silent, and never for a single caller (see
`arrivals`).

What could be better: device time of models on several lanes is assumed to add up, which is optimistic on CPUs
that share memory bandwidth (the profile learns it, with delay). Arrivals are predicted per model, not per
flow. Goodput counts every ticket as one; a price per ticket would need one line in `sizing`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelQueue, ModelTerms, Queues
from opsin_server.scheduling.seating import seat
from opsin_server.scheduling.sizing import Size, best_rate, hold_until, size_of
from opsin_server.scheduling.ticket import Ticket
from opsin_server.scheduling.waiting import Group

__all__ = ["Dead", "LaneView", "Plan", "Run", "Sleep", "Wait", "plan"]

_DOUBT = 10.0
"""Seconds without a run after which a lower bound counts for half."""


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
    """What to do now. The dead are answered first; neither they nor those that run wait any more."""

    action: Run | Wait | Sleep
    dead: tuple[Dead, ...] = ()


@dataclass(frozen=True, slots=True)
class _Option:
    """What a model would run now."""

    model: str
    queue: ModelQueue
    terms: ModelTerms
    profile: Profile
    group: Group
    size: Size

    @property
    def urgency(self) -> int:
        """The most urgent class with work: 0 is interactive."""
        return next(i for i, c in enumerate(self.group.classes) if c.due)

    @property
    def filled(self) -> float:
        """Its throughput as a share of the model's best."""
        return self.size.rate / best_rate(self.terms, self.profile)

    def lost_after(self, seconds: float) -> float:
        """Device seconds' worth of tickets that this batch would lack if it ran `seconds` later."""
        floor = self.size.floor + seconds
        left = sum(len(c.due) - c.viable(floor) for c in self.group.ready())
        return max(0, self.size.take - left) * self.size.seconds / self.size.bucket


def plan(queues: Queues, now: float, profiles: Mapping[str, Profile], lane: LaneView) -> Plan:
    """The next step for a free lane. Reads, never changes."""
    dead: list[Dead] = []
    options: list[_Option] = []
    work = [(key, queue) for key, queue in queues.models.items() if queue.share.waiting]
    weights = sum(queues.terms[key].weight for key, _ in work)
    for key, queue in work:
        terms, profile = queues.terms[key], profiles[key]
        floor = _alive_from(queue, terms, profile, now)
        dead.extend(_dead(queue, floor, now))
        option = _option(
            key,
            queue,
            terms,
            profile,
            now,
            floor=floor,
            idle=lane.idle - len(work) + 1,
            part=lane.lanes * terms.weight / weights,
        )
        if option is not None:
            options.append(option)
    return Plan(_choose(options, now, lane), tuple(dead))


def _alive_from(queue: ModelQueue, terms: ModelTerms, profile: Profile, now: float) -> float:
    """Deadlines before this moment cannot be met."""
    least = profile.lower(terms.buckets[0] if terms.pads else 1)
    unproved = max(0.0, now - queue.unserved_since)
    return max(now + least * float(0.5 ** (unproved / _DOUBT)), math.nextafter(now, math.inf))


def _dead(queue: ModelQueue, floor: float, now: float) -> Iterator[Dead]:
    """Rule 1. The dead are a prefix of each class."""
    for group in queue.groups.values():
        for waiting in group.ready():
            for deadline, _, ticket in waiting.due:
                if deadline <= now:
                    yield Dead(ticket, "expired")
                elif deadline < floor:
                    yield Dead(ticket, "unmeetable")
                else:
                    break


def _option(
    model: str,
    queue: ModelQueue,
    terms: ModelTerms,
    profile: Profile,
    now: float,
    *,
    floor: float,
    idle: int,
    part: float,
) -> _Option | None:
    """The batch that a model would run: the most deserving shape that has anyone to serve."""
    groups = list(queue.groups.values())
    if len(groups) > 1:
        groups.sort(key=lambda g: _deserves(queue, g, terms.patience, now))
    for group in groups:
        size = size_of(group, now, terms, profile, idle=idle, part=part, dead=floor)
        if size is not None:
            return _Option(model, queue, terms, profile, group, size)
    return None


def _deserves(
    queue: ModelQueue, group: Group, patience: float, now: float
) -> tuple[float, int, float, float, int]:
    """Rule 3 for shapes: owed a place, then class, then the flow furthest behind, then the deadline."""
    owed = 0.0
    if queue.owed >= 1:
        late = (line.share.since for c in group.classes[1:] for line in c.lines.values())
        since = min(late, default=now)
        owed = since - now if now - since >= patience else 0.0
    return owed, *min(
        (i, line.share.virtual, *line.due[0][:2])
        for i, c in enumerate(group.classes)
        for line in c.lines.values()
    )


def _choose(options: list[_Option], now: float, lane: LaneView) -> Run | Wait | Sleep:
    """Rules 2 and 5: the first model, in order of merit, that need not wait for company."""
    until: float | None = None
    for option in _by_merit(options):
        held = None
        if lane.idle <= 1:
            held = hold_until(
                option.group,
                option.size,
                now,
                terms=option.terms,
                profile=option.profile,
                arrivals=option.queue.arrivals,
            )
        if held is None or held <= now:
            tickets = seat(option.queue, option.group, option.size, option.terms, now)
            return Run(option.model, tickets)
        until = held if until is None else min(until, held)
    return Sleep() if until is None else Wait(until)


def _by_merit(options: list[_Option]) -> list[_Option]:
    """Entitled models before others; among them by what their turn costs the others, urgency and filling."""
    if len(options) < 2:
        return options
    behind = min(o.queue.share.virtual for o in options)
    about = max(o.size.seconds / o.terms.weight for o in options)

    def merit(option: _Option) -> tuple[bool, float, int, float, float]:
        virtual = option.queue.share.virtual
        if virtual - behind > about:
            return True, virtual, 0, 0.0, 0.0
        costs = sum(o.lost_after(option.size.seconds) for o in options if o is not option)
        return False, costs, option.urgency, -option.filled, virtual

    return sorted(options, key=merit)
