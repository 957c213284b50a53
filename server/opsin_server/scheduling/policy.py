"""Which tickets run next: the whole of the scheduling policy, as a pure function.

`plan` is given the queues, the time, what is known of run times, and the lane that is free; it answers what
to do. It reads no clock, changes nothing and remembers nothing, so the same function drives the server and
the simulator, and every rule below is a property that tests can check on random queues.

The rules, in the order in which they are applied
--------------------------------------------------

**1. The dead go first.** A ticket whose deadline has passed, or which would miss it even if it ran this
moment, alone, as fast as the profile has known its shape, is answered at once and never runs. "Certain" leans
on the profile's lower bound, and on that only while it is fresh: when tickets of a shape have come for
seconds and none was run, the bound is doubted (it halves every ten seconds), so that what once was slow gets
another chance to show that it is not. Everything below looks only at tickets that are alive.

**2. Which model.** Models share the device by weight, in device seconds (start-time fair queueing, `shares`):
the one furthest behind is entitled to run. Entitlement is not exact to the microsecond: all models within one
batch time of the one furthest behind are equals, and among equals the better moment decides. That is, first
the one whose turn costs the others least (tickets that could be served now but no longer after it); then the
one with more urgent work; then the one whose batch is better filled, since an ill-filled batch that can wait
will be better filled later.

Entitlement to run is not an order to run at once. A model with two tickets of its thirty-two could claim half
the device for batches that hardly do anything, while the other model's full batches wait. So an ill-filled
batch lets a better filled one go first while that costs it no deadline, for a few run times at most, and
keeps its claim: it falls behind in virtual time and catches up with full batches. A model with standing work
has full batches, so this moves no share between saturated models. The lag between two models with work is
bounded, by nine batch times, so shares converge to the weights.

**3. Which tickets.** Only tickets of one shape run together; the shape that holds the most deserving ticket
is it. Interactive before streams before bulk. Within a class the flow that has had least device time goes
first (max-min fairness), seat by seat; flows within a quarter batch of one another are equals, and the
earliest deadline among them decides. Within a flow the earliest deadline goes first. While others wait, a
greedy flow does not fill the batch to the brim: that would make their run several times longer (`seating`
has the cap). Two exceptions keep everyone moving:

- a flow of streams or bulk that was served nothing for `patience` seconds is owed one place, whatever is
  ahead of it; all such places together are at most a quarter of what runs;
- within a flow, a ticket that has waited out `patience` goes first when the flow has its turn.

So, while its model runs n tickets a second, the oldest ticket of one of F flows that wait below interactive
is served within patience + 4 (F + 1) / n seconds and a batch, and one behind q others of its own flow within
q + 1 times that.

**4. How many.** Among warmed sizes, the one with the most tickets a second that still meets the earliest
deadline in the batch; the smallest of those that are about equally good, because it answers earlier (within
2 %, or 5 % when everyone who waits can be served in time at that pace). When other lanes are idle, a batch
leaves them their part unless that costs a fifth of the throughput or more.

What about a ticket whose deadline leaves time for a tiny batch only? Under light load it is served, the
others can wait. Under overload it is poison: every such ticket makes a batch of one or two where sixteen
could have been answered, the device falls behind, and more tickets become like it (Nexus calls the remedy
early drop). The test is whether the rest of its class could still meet all deadlines after it. If they could,
it is served first. If not, it is passed over in favour of the size with the best goodput. It stays in the
queue and may yet run.

**5. Whether to hold.** A device that waits while there is work gains nothing in the long run: batches grow by
themselves while it is busy. There is one exception, callers who ask again as soon as they are answered. They
come back in flocks, a moment after a batch ends, and a device that never waits splits them in two: it starts
with those who waited during the last run, the others are back just too late, and from then on the halves take
turns, each waiting for the other's run. Thirty-two callers run as sixteen and sixteen for ever. So a batch is
held when those expected back (see `arrivals`) repay it in device time; never longer than `max_hold`, never
when it puts a deadline at risk, never while other models are in use (their runs are wait enough) or another
lane stands idle, never once everyone who was expected is here, and so never for a single caller.

What could be better: device time of models on several lanes is assumed to add up, which is optimistic on CPUs
that share memory bandwidth (the profile learns it, with delay). Returns are predicted per model, not per
flow. Goodput counts every ticket as one; a price per ticket would need one line in `sizing`. A batch is sized
by the deadlines of its own shape, so under overload long inputs may make short ones of their model late.
"""

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelQueue, ModelTerms, Queues
from opsin_server.scheduling.seating import seat
from opsin_server.scheduling.sizing import Scene, Size, hold_until, size_of
from opsin_server.scheduling.ticket import Ticket
from opsin_server.scheduling.waiting import Group

__all__ = ["Dead", "LaneView", "Plan", "Run", "Sleep", "Wait", "at_once", "plan", "unopposed"]

_DOUBT = 10.0
"""Seconds without a run after which a lower bound counts for half."""
_RECENT = 1.0
"""Seconds after its last answer in which a model counts as in use."""
_BETTER_FILLED = 1.1
"""A batch yields to one that is filled this much better, as a share of what each could be."""
_FULL = 0.5
"""And this full itself: where nothing is crowded, whose turn it is goes first."""
_YIELD_RUNS = 3.0
"""It yields for this many run times of its own largest batch,"""
_YIELD_SLACK = 0.8
"""or this share of the time it was given; never longer than `patience`."""
_YIELD_LAG = 8.0
"""And no more once it is this many batch times behind in device time."""


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


_NOTHING = Plan(Sleep())


@dataclass(frozen=True, slots=True)
class _Option:
    """What a model would run now. profile: of the group's shape."""

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
        return self.size.take / max(self.size.seconds, 1e-9) / self.profile.best_rate(self.terms.buckets)

    @property
    def oldest(self) -> Ticket:
        """Who has waited longest."""
        lines = (line for c in self.group.ready() for line in c.lines.values())
        return min((line.oldest for line in lines), key=lambda t: t.arrived)

    def may_yield(self, now: float, seconds: float) -> bool:
        """Whether this batch can let another of so many seconds go first, and be better filled afterwards."""
        oldest = self.oldest
        bound = _YIELD_RUNS * self.profile.seconds(self.terms.buckets[-1])
        if oldest.deadline < math.inf:
            bound = max(bound, _YIELD_SLACK * (oldest.deadline - oldest.arrived))
        waits = now + seconds - oldest.arrived
        return waits <= min(bound, self.terms.patience) and not self.lost_after(seconds)

    def lost_after(self, seconds: float) -> float:
        """Device seconds' worth of tickets that this batch would lack if it ran `seconds` later."""
        floor = self.size.floor + seconds
        left = sum(len(c.due) - c.viable(floor) for c in self.group.ready())
        return max(0, self.size.take - left) * self.size.seconds / self.size.bucket


def plan(queues: Queues, now: float, profiles: Mapping[str, Profile], lane: LaneView) -> Plan:
    """The next step for a free lane. Reads, never changes."""
    if not len(queues):
        return _NOTHING
    dead: list[Dead] = []
    options: list[_Option] = []
    work = [(key, queue) for key, queue in queues.models.items() if queue.share.waiting]
    weights = sum(queues.terms[key].weight for key, _ in work)
    for key, queue in work:
        terms, profile = queues.terms[key], profiles[key]
        floors = {
            shape: _alive_from(terms, profile.of(shape), now, now - queue.unserved.get(shape, math.inf))
            for shape in queue.groups
        }
        dead.extend(_dead(queue, floors, now))
        idle, part = lane.idle - len(work) + 1, lane.lanes * terms.weight / weights
        scenes = {shape: Scene(idle, part, floor) for shape, floor in floors.items()}
        option = _option(key, queue, terms, profile, now, scenes=scenes)
        if option is not None:
            options.append(option)
    alone = lane.idle <= 1 and sum(_in_use(queue, now) for queue in queues.models.values()) <= 1
    return Plan(_choose(options, now, alone=alone), tuple(dead))


def at_once(
    queues: Queues,
    now: float,
    profiles: Mapping[str, Profile],
    *,
    model: str,
    deadline: float = math.inf,
    shape: Hashable = (),
) -> bool:
    """Whether a ticket that comes now, to a free lane, runs alone at once: `plan` says so of it, too.

    For light models, whose batch takes less time than a plan. Where nobody waits, only rules 1 and 5 have
    anything to say of a single ticket; where these are not plainly for it, the answer is no, and `plan` is to
    be asked.
    """
    terms, queue = queues.terms[model], queues.models.get(model)
    if terms.max_hold and queue is not None and queue.arrivals.expected(now):
        return False
    return unopposed(queues, now, profiles, model=model, deadline=deadline, shape=shape)


def unopposed(
    queues: Queues,
    now: float,
    profiles: Mapping[str, Profile],
    *,
    model: str,
    deadline: float,
    shape: Hashable = (),
) -> bool:
    """Whether nobody is ahead of a ticket that comes now, to a free lane, and it can be in time.

    It may still be held for company, which never puts a deadline at risk. shape: () while it is not known.
    """
    if len(queues):
        return False
    known = profiles[model].of(shape)
    return deadline == math.inf or deadline >= _alive_from(queues.terms[model], known, now)


def _in_use(queue: ModelQueue, now: float) -> bool:
    """Whether a model has work, or had a moment ago."""
    return bool(queue.share.waiting) or queue.arrivals.answered_at > now - _RECENT


def _alive_from(terms: ModelTerms, profile: Profile, now: float, unproved: float = 0.0) -> float:
    """Deadlines before this moment cannot be met. unproved: seconds for which tickets came and none ran."""
    least = profile.lower(terms.buckets[0] if terms.pads else 1)
    if unproved > 0.0:
        least *= float(0.5 ** (unproved / _DOUBT))
    return max(now + least, math.nextafter(now, math.inf))


def _dead(queue: ModelQueue, floors: Mapping[Hashable, float], now: float) -> Iterator[Dead]:
    """Rule 1. The dead are a prefix of each class."""
    for shape, group in queue.groups.items():
        floor = floors[shape]
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
    scenes: Mapping[Hashable, Scene],
) -> _Option | None:
    """The batch that a model would run: the most deserving shape that has anyone to serve."""
    groups = list(queue.groups.values())
    if len(groups) > 1:
        groups.sort(key=lambda g: _deserves(queue, g, terms.patience, now))
    for group in groups:
        known = profile.of(group.shape)
        size = size_of(group, now, terms, known, scenes[group.shape])
        if size is not None:
            return _Option(model, queue, terms, known, group, size)
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


def _choose(options: list[_Option], now: float, *, alone: bool) -> Run | Wait | Sleep:
    """Rules 2 and 5: the model with the most merit, unless it should wait for company."""
    if not options:
        return Sleep()
    best = _most_deserving(options, now)
    if alone:
        until = hold_until(
            best.group,
            best.size,
            now,
            terms=best.terms,
            profile=best.profile,
            arrivals=best.queue.arrivals,
        )
        if until is not None:
            return Wait(until)
    return Run(best.model, seat(best.queue, best.group, best.size, best.terms, now, profile=best.profile))


def _most_deserving(options: list[_Option], now: float) -> _Option:
    """The entitled before others; among them by what their turn costs the others, urgency and filling."""
    if len(options) < 2:
        return options[0]
    behind = min(o.queue.share.virtual for o in options)
    about = max(o.size.seconds / o.terms.weight for o in options)

    def merit(option: _Option) -> tuple[bool, float, int, float, float]:
        virtual = option.queue.share.virtual
        if virtual - behind > about:
            return True, virtual, 0, 0.0, 0.0
        costs = sum(o.lost_after(option.size.seconds) for o in options if o is not option)
        return False, costs, option.urgency, -option.filled, virtual

    first = min(options, key=merit)
    best = max(options, key=lambda o: o.filled)
    ahead = best.queue.share.virtual - first.queue.share.virtual
    if (
        best.filled > max(_FULL, _BETTER_FILLED * first.filled)
        and ahead <= _YIELD_LAG * about
        and first.may_yield(now, best.size.seconds)
    ):
        return best
    return first
