"""Which tickets get the places of a batch. Pure.

Owns the order among flows and within one; `policy` has the theory. How many places there are was decided
before.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heapreplace

from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelQueue, ModelTerms
from opsin_server.scheduling.sizing import Size
from opsin_server.scheduling.ticket import Ticket
from opsin_server.scheduling.waiting import Class, Group, Line

__all__ = ["seat"]


_GREEDY = 8.0
"""How many times the others' tickets a greedy flow has, at least."""


class _Batch:
    """A batch being filled."""

    __slots__ = ("cap", "floor", "flows", "ids", "places", "tickets")

    def __init__(self, places: int, floor: float, cap: int) -> None:
        self.places = places
        self.floor = floor
        self.cap = cap
        self.tickets: list[Ticket] = []
        self.ids: set[int] = set()
        self.flows: dict[str, int] = {}

    @property
    def left(self) -> int:
        return self.places - len(self.tickets)

    def take(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)
        self.ids.add(ticket.id)
        self.flows[ticket.flow] = self.flows.get(ticket.flow, 0) + 1

    def full(self, flow: str) -> bool:
        """Whether the flow has all the places it may have."""
        return self.cap > 0 and self.flows.get(flow, 0) >= self.cap


def seat(
    queue: ModelQueue, group: Group, size: Size, terms: ModelTerms, now: float, *, profile: Profile
) -> tuple[Ticket, ...]:
    """`size.take` tickets of the group (fewer when a cap on flows says so), in the order they were chosen."""
    counts = _waiting(group)
    cap = _cap(counts, size, terms, profile)
    places = size.take
    if cap:  # what fits under the cap, so that no seat is given to be taken back
        places = min(places, _whole(sum(min(count, cap) for count in counts.values()), terms))
    batch = _Batch(places, size.floor, cap)
    _seat_owed(queue, group, batch, terms.patience, now)
    for waiting in group.ready():
        if not batch.left:
            break
        _seat_class(waiting, batch, size, terms.patience, now)
    return tuple(batch.tickets[: _whole(len(batch.tickets), terms)])


def _waiting(group: Group) -> dict[str, int]:
    """How many tickets each flow has."""
    counts: dict[str, int] = {}
    for waiting in group.ready():
        for line in waiting.lines.values():
            counts[line.flow] = counts.get(line.flow, 0) + len(line.due)
    return counts


def _cap(counts: dict[str, int], size: Size, terms: ModelTerms, profile: Profile) -> int:
    """Most places for one flow; 0 is no cap.

    A flow with hundreds waiting would fill the batch around somebody's single ticket, who pays for the
    company with a run several times as long. So a greedy flow, one with more tickets than a batch holds and
    many times what the others have on average, gets as many places as make the run no more than twice as
    long, or twice as many as the others have, whichever is more.
    """
    if len(counts) < 2:
        return 0
    roomy = profile.roomy(terms.buckets)
    if terms.flow_cap or size.take <= roomy:
        return terms.flow_cap
    most = max(counts.values())
    others = (sum(counts.values()) - most) / (len(counts) - 1)
    return max(roomy, int(2 * others)) if most > max(terms.buckets[-1], _GREEDY * others) else 0


def _whole(count: int, terms: ModelTerms) -> int:
    """The largest number of tickets up to `count` that may run."""
    if terms.pads or count < terms.buckets[0]:
        return count
    return max(b for b in terms.buckets if b <= count)


def _seat_owed(queue: ModelQueue, group: Group, batch: _Batch, patience: float, now: float) -> None:
    """One place for each flow below interactive that was passed over for too long, as far as owed."""
    places = min(int(queue.owed), max(1, batch.places // 4))
    if places < 1:
        return
    late = [
        line
        for waiting in group.classes[1:]
        for line in waiting.lines.values()
        if now - line.share.since >= patience and line.due[-1][0] >= batch.floor
    ]
    for line in sorted(late, key=lambda line: line.share.since)[:places]:
        batch.take(next(_in_turn(line, batch, patience, now)))


def _seat_class(waiting: Class, batch: _Batch, size: Size, patience: float, now: float) -> None:
    """Places for one class: the flow furthest behind first; among flows about equally far, by deadline.

    "About" is a quarter of the batch: within it fairness has nothing to say and the deadlines decide.
    """
    lines = [line for line in waiting.lines.values() if line.due[-1][0] >= batch.floor]
    if not lines:
        return
    if len(lines) == 1:
        _seat_line(lines[0], batch, patience, now)
        return
    each = size.seconds / size.bucket
    about = max(size.seconds * batch.places / size.take / 4, 1e-9)
    behind = min(line.share.virtual for line in lines)
    heap = []
    for line in lines:
        turn = _in_turn(line, batch, patience, now)
        ticket = next(turn, None)
        if ticket is not None:
            lag = line.share.virtual - behind + batch.flows.get(line.flow, 0) * each
            heap.append((int(lag / about), ticket.deadline, ticket.id, lag, ticket, turn))
    heapify(heap)
    while heap and batch.left:
        _, _, _, lag, ticket, turn = heap[0]
        following = None
        if not batch.full(ticket.flow):
            batch.take(ticket)
            following = next(turn, None)
        if following is None:
            heappop(heap)
        else:
            lag += each
            heapreplace(heap, (int(lag / about), following.deadline, following.id, lag, following, turn))


def _seat_line(line: Line, batch: _Batch, patience: float, now: float) -> None:
    for ticket in _in_turn(line, batch, patience, now):
        if not batch.left or batch.full(line.flow):
            return
        batch.take(ticket)


def _in_turn(line: Line, batch: _Batch, patience: float, now: float) -> Iterator[Ticket]:
    """A flow's tickets that can be served in time, by deadline; first one that waited out of patience."""
    oldest = line.oldest
    if now - oldest.arrived >= patience and oldest.deadline >= batch.floor and oldest.id not in batch.ids:
        yield oldest
    due = line.due
    for at in range(line.viable(batch.floor), len(due)):
        if due[at][1] not in batch.ids:
            yield due[at][2]
