"""How many tickets should run together, and whether to hold them a moment for company. Pure.

Owns the arithmetic of batch sizes; `policy` says what it is for and has the theory. It knows no fairness: it
counts tickets, it does not pick them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from opsin_server.scheduling.arrivals import Arrivals
from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.waiting import Class, Group

__all__ = ["Scene", "Size", "after", "hold_until", "size_of"]

_NEAR = 0.98
"""A batch this close to the best throughput is as good, and the smaller one answers earlier."""
_NEAR_CALM = 0.95
"""The same while everyone who waits can be served in time at that."""
_NEAR_IDLE = 0.8
"""The same while another lane would stand idle: its time costs nothing."""
_WORTH = 0.05
"""Holding must save this share of a run: less than that is not known so exactly."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is around a group when its batch is sized.

    idle: lanes without work, this one included, that no other model will use. part: how many lanes' worth of
    device time the model has. dead: deadlines before it cannot be met by anyone.
    """

    idle: int
    part: float
    dead: float


@dataclass(frozen=True, slots=True)
class Size:
    """A batch size worth running.

    bucket: the size it runs as. take: how many tickets it holds. floor: the earliest deadline it can promise
    to meet. seconds: its expected run time. rate: tickets a second.
    """

    bucket: int
    take: int
    floor: float
    seconds: float
    rate: float


def _sizes(
    classes: Sequence[Class], now: float, terms: ModelTerms, profile: Profile, dead: float
) -> list[Size]:
    """Every bucket that the tickets which it can serve in time would fill."""
    found = []
    for bucket in terms.buckets:
        floor = max(dead, now + after(terms, profile) + profile.upper(bucket))
        count = sum(len(c.due) - c.viable(floor) for c in classes)
        partly = terms.pads or bucket == terms.buckets[0]
        if not count or (count < bucket and not partly):
            break  # a larger bucket takes longer, so it can serve no more tickets than this one
        take = min(bucket, count)
        seconds = profile.seconds(bucket)
        found.append(Size(bucket, take, floor, seconds, take / max(seconds, 1e-9)))
        if count <= bucket:
            break
    return found


def size_of(group: Group, now: float, terms: ModelTerms, profile: Profile, scene: Scene) -> Size | None:
    """The batch size for a group, or None when nobody in it can be served."""
    dead, part, late = scene.dead, scene.part, after(terms, profile)
    ready = list(group.ready())
    first = max(dead, now + late + profile.upper(terms.buckets[0]))
    lead = next((c for c in ready if len(c.due) > c.viable(first)), None)
    if lead is None:
        return _doubtful(ready, terms, profile, dead)
    sizes = _sizes([lead], now, terms, profile, dead)
    earliest = _worth_saving(lead, sizes, now + late, part)
    if len(ready) > 1:
        sizes = _sizes(ready, now, terms, profile, dead)
    return _smallest_good(
        lead, [s for s in sizes if s.floor <= earliest] or sizes[:1], now + late, profile, scene
    )


def _doubtful(ready: Sequence[Class], terms: ModelTerms, profile: Profile, dead: float) -> Size | None:
    """Nobody is sure to make it; those who still might go together in the smallest batch there is."""
    bucket = terms.buckets[0]
    count = sum(len(c.due) - c.viable(dead) for c in ready)
    seconds = profile.seconds(bucket)
    take = min(bucket, count)
    return Size(bucket, take, dead, seconds, take / max(seconds, 1e-9)) if count else None


def _worth_saving(lead: Class, sizes: list[Size], now: float, part: float) -> float:
    """The earliest deadline that this batch should meet.

    now: what has to be kept free after a run is added to it.

    Normally the very first. But a ticket that leaves time for a small batch only may cost more goodput than
    it is worth: it is passed over when taking it first would make others miss, and the larger batch serves
    more tickets a second. It stays in the queue, and runs if the device frees up in time.
    """
    best = max(sizes, key=lambda s: s.rate)
    pace = best.seconds / part
    for size in sizes:
        begin = lead.viable(size.floor)
        rivals = [s for s in sizes if s.rate > size.rate and lead.viable(s.floor) == begin]
        if rivals:
            continue
        if size is best or _rest_in_time(lead, begin + size.take, now + size.seconds, pace, best):
            return lead.due[begin][0]
    return lead.due[lead.viable(best.floor)][0]


def _rest_in_time(lead: Class, at: int, free: float, pace: float, best: Size) -> bool:
    """Whether all from place `at` on meet their deadlines, in order of deadline, in batches of the best size.

    The first ticket of each batch has the earliest deadline in it; batch k ends at free + k * pace.
    """
    due = lead.due
    while at < len(due):
        free += pace
        if due[at][0] < free:
            return False
        if due[at][0] == math.inf:
            return True
        at += best.take
    return True


def _smallest_good(lead: Class, sizes: list[Size], now: float, profile: Profile, scene: Scene) -> Size:
    """The smallest size whose throughput is as good as the best.

    What is good enough depends: nearly nothing may be lost when somebody would miss a deadline for it, a
    little for latency's sake when nobody does, and more when other lanes, now idle, get a part.
    """
    best = max(sizes, key=lambda s: s.rate)
    share = math.inf if scene.idle <= 1 else -(-max(s.take for s in sizes) // scene.idle)
    for size in sizes:
        good = _worth_of(size, best, profile)
        if size is best or good >= _NEAR or (size.take >= share and size.rate >= _NEAR_IDLE * best.rate):
            return size
        following = lead.viable(size.floor) + size.take
        if good >= _NEAR_CALM and _rest_in_time(
            lead, following, now + size.seconds, size.seconds / scene.part, size
        ):
            return size
    return best


def _worth_of(size: Size, best: Size, profile: Profile) -> float:
    """Throughput over the best's, if the tickets of the best batch ran in batches of this size instead."""
    runs, rest = divmod(best.take, size.take)
    seconds = runs * size.seconds + (profile.seconds(rest) if rest else 0.0)
    return best.seconds / max(seconds, 1e-9)


def after(terms: ModelTerms, profile: Profile) -> float:
    """Seconds to keep free between the end of a run and a deadline."""
    return terms.after + profile.after


def hold_until(
    group: Group, size: Size, now: float, *, terms: ModelTerms, profile: Profile, arrivals: Arrivals
) -> float | None:
    """Until when to wait for a better batch than `size`; None when running it now is better.

    Running n now and the m who are about to come by themselves next takes s(n) + s(m) of the device; waiting
    t for them takes t + s(n + m). Since these callers ask again only when they are answered, less device time
    for all of them is less latency for all of them.
    """
    expected = arrivals.expected(now)
    if not expected:
        return None
    oldest = min(line.oldest.arrived for c in group.ready() for line in c.lines.values())
    latest = max(oldest, arrivals.answered_at) + terms.max_hold
    until = min(arrivals.back_by, latest)
    if until <= now or arrivals.mostly_by > latest:
        return None
    together = _fits(len(group) + expected, terms)
    if together <= size.bucket:
        return None
    saved = size.seconds + profile.seconds(together - size.take) - profile.seconds(together)
    saved -= max(arrivals.mostly_by - now, (until - now) / 2)
    first = (c.due[c.viable(size.floor)][0] for c in group.ready() if len(c.due) > c.viable(size.floor))
    in_time = until + after(terms, profile) + profile.upper(together) <= min(first, default=math.inf)
    return until if in_time and saved > _WORTH * size.seconds else None


def _fits(count: int, terms: ModelTerms) -> int:
    """The bucket that `count` tickets would run in."""
    if terms.pads:
        return next((b for b in terms.buckets if b >= count), terms.buckets[-1])
    return max((b for b in terms.buckets if b <= count), default=terms.buckets[0])
