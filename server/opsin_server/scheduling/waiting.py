"""Where waiting tickets stand: the order that the policy reads them in.

Owns indexes, no decisions: tickets of one model and shape form a group, a group has a class per priority, a
class has a line per flow. Classes and lines are sorted by deadline, so that "how many could still make it"
and "who is next" are one bisection each; lines also know who came first. It does not know clocks, device
time or batches.

Adding and removing cost O(log n) comparisons and one shift within an array of pointers (a kilobyte or two at
the default limit of 1 024 tickets, which is less than the bisection).
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator

from opsin_server.scheduling.shares import Share
from opsin_server.scheduling.ticket import Priority, Ticket

__all__ = ["Class", "Group", "Line"]

Due = list[tuple[float, int, Ticket]]
"""Tickets by (deadline, id). The id is unique, so tickets themselves are never compared."""


def _take(due: Due, ticket: Ticket) -> None:
    del due[bisect_left(due, (ticket.deadline, ticket.id))]


class Line:
    """The waiting tickets of one flow, of one priority, model and shape. Never empty while it exists."""

    __slots__ = ("arrivals", "due", "flow", "share")

    def __init__(self, flow: str, share: Share) -> None:
        self.flow = flow
        self.share = share
        self.due: Due = []
        self.arrivals: OrderedDict[int, Ticket] = OrderedDict()

    @property
    def oldest(self) -> Ticket:
        """Who came first."""
        return next(iter(self.arrivals.values()))

    def viable(self, floor: float) -> int:
        """Where in `due` the deadlines of at least `floor` begin."""
        return bisect_left(self.due, (floor,))


class Class:
    """The waiting tickets of one priority, model and shape."""

    __slots__ = ("due", "lines")

    def __init__(self) -> None:
        self.due: Due = []
        self.lines: dict[str, Line] = {}

    def viable(self, floor: float) -> int:
        """Where in `due` the deadlines of at least `floor` begin."""
        return bisect_left(self.due, (floor,))

    def add(self, ticket: Ticket, share: Share) -> None:
        """Put a ticket in its flow's line."""
        line = self.lines.get(ticket.flow)
        if line is None:
            line = self.lines[ticket.flow] = Line(ticket.flow, share)
        entry = (ticket.deadline, ticket.id, ticket)
        insort(line.due, entry)
        insort(self.due, entry)
        line.arrivals[ticket.id] = ticket
        if ticket.arrived < line.oldest.arrived:  # it came from another line, or changed its deadline
            line.arrivals.move_to_end(ticket.id, last=False)

    def remove(self, ticket: Ticket) -> None:
        """Take a waiting ticket out, and its line with it when it was the last."""
        line = self.lines[ticket.flow]
        del line.arrivals[ticket.id]
        _take(line.due, ticket)
        _take(self.due, ticket)
        if not line.due:
            del self.lines[ticket.flow]


class Group:
    """The waiting tickets of one model that may share a batch, by priority."""

    __slots__ = ("classes", "shape")

    def __init__(self, shape: Hashable) -> None:
        self.shape = shape
        self.classes = tuple(Class() for _ in Priority)

    def __len__(self) -> int:
        return sum(len(c.due) for c in self.classes)

    def ready(self) -> Iterator[Class]:
        """The classes that have tickets, most urgent first."""
        return (c for c in self.classes if c.due)
