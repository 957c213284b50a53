"""The waiting tickets, and what the policy must know of each model and flow.

Owns the tickets that wait, the accounts of device time that fairness goes by, and the estimate of arrivals.
It is told what happens (`add`, `remove`, `started`, `finished`), with the time; it has no clock, does no I/O
and decides nothing. The policy reads it.
"""

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from opsin_server.scheduling.arrivals import Arrivals
from opsin_server.scheduling.shares import Clock, Share
from opsin_server.scheduling.ticket import Priority, Ticket
from opsin_server.scheduling.waiting import Group

__all__ = ["ModelQueue", "ModelTerms", "Queues"]

_REMEMBERED = 256
"""How many flows that went away, ahead of the clock, a model remembers.

Forgetting one forgives it a batch.
"""

_SHAPES = 256
"""Shapes of which it is known since when none was run; of the others it counts as just now."""

_OWED = 2.0
"""How many runs of one ticket a flow that left unserved is owed at most when it comes back."""


@dataclass(frozen=True, slots=True)
class ModelTerms:
    """How a model may be run.

    buckets: warmed batch sizes, ascending.
    weight: its fair share of the device, against the other models'.
    pads: a batch smaller than a bucket runs as that bucket (and is observed in the profile under its size).
        Otherwise only batches of exactly a bucket's size run, unless fewer wait than the smallest holds.
    flow_cap: most tickets of one flow in a batch while another flow waits; 0 lets the policy choose.
    max_hold: seconds that a ticket may be held back for a better batch; 0 never holds.
    patience: seconds after which a flow of streams or bulk work that was served nothing is owed a place.
    after: seconds kept free before every deadline for the way to the caller, on top of
        what the profile has learnt of it.
    """

    buckets: tuple[int, ...]
    weight: float = 1.0
    pads: bool = False
    flow_cap: int = 0
    max_hold: float = 0.02
    patience: float = 0.5
    after: float = 0.0


class ModelQueue:
    """Everything that is known of one model's work.

    groups: waiting tickets by shape. share: the model's account among models. flows: accounts of its flows.
    clocks: virtual time by priority, as flows share with those of their own class only. One for all would
        follow whoever is urgent and runs often; whoever comes back starts no earlier than the clock, so the
        others, all behind it, would be made equal each time, and what they had had forgotten.
    owed: how many places flows that waited too long may take now; see `policy`.
    unserved: by shape, the arrival of the first ticket since a batch of it last started, if one came.
    """

    __slots__ = (
        "_full",
        "arrivals",
        "clocks",
        "cost",
        "flows",
        "groups",
        "owed",
        "running",
        "share",
        "unserved",
    )

    def __init__(self) -> None:
        self.groups: dict[Hashable, Group] = {}
        self.share = Share()
        self.flows: dict[tuple[Priority, str], Share] = {}
        self.clocks = tuple(Clock() for _ in Priority)
        self.arrivals = Arrivals()
        self.owed = 1.0
        self.cost = 0.0
        self._full = 2 * _REMEMBERED
        self.unserved: dict[Hashable, float] = {}
        # ticket -> (charged for it, when it started, its shape)
        self.running: dict[int, tuple[float, float, Hashable]] = {}

    def add(self, ticket: Ticket) -> None:
        key = (ticket.priority, ticket.flow)
        flow = self.flows.get(key)
        if flow is None:
            self._forget()
            flow = self.flows[key] = Share()
        self.clocks[ticket.priority].joins(flow, ticket.arrived)
        group = self.groups.get(ticket.shape)
        if group is None:
            group = self.groups[ticket.shape] = Group(ticket.shape)
        group.classes[ticket.priority].add(ticket, flow)
        if self.unserved.setdefault(ticket.shape, ticket.arrived) > ticket.arrived:
            self.unserved[ticket.shape] = ticket.arrived
        if len(self.unserved) > _SHAPES:
            del self.unserved[next(iter(self.unserved))]

    def remove(self, ticket: Ticket) -> None:
        flow = self.flows[ticket.priority, ticket.flow]
        self.clocks[ticket.priority].leaves(flow, _OWED * self.cost)
        group = self.groups[ticket.shape]
        group.classes[ticket.priority].remove(ticket)
        if not any(c.due for c in group.classes):
            del self.groups[ticket.shape]

    def started(self, tickets: tuple[Ticket, ...], now: float, patience: float, most_owed: float) -> None:
        starts: dict[Priority, float] = {}
        for ticket in tickets:
            flow = self.flows[ticket.priority, ticket.flow]
            starts[ticket.priority] = min(flow.virtual, starts.get(ticket.priority, math.inf))
            if ticket.priority and now - flow.since >= patience:
                self.owed -= 1.0
            flow.since = now
            self.clocks[ticket.priority].runs(flow)
            flow.virtual += self.cost
            self.running[ticket.id] = (self.cost, now, ticket.shape)
        for priority, start in starts.items():
            self.clocks[priority].serves(start)
        self.owed = min(max(self.owed, 0.0) + len(tickets) / 4, most_owed)
        self.unserved.pop(tickets[0].shape, None)

    def running_since(self) -> Iterator[tuple[float, Hashable]]:
        """Of each ticket that runs, when it began, and its shape: equal for those of one batch."""
        return ((began, shape) for _, began, shape in self.running.values())

    def finished(self, tickets: tuple[Ticket, ...], seconds: float) -> float:
        """Settle the accounts; returns what the model as a whole is still to be charged, in seconds."""
        each = seconds / len(tickets)
        self.cost = each if not self.cost else self.cost + 0.2 * (each - self.cost)
        due = 0.0
        for ticket in tickets:
            held = self.running.pop(ticket.id, None)
            charged = 0.0 if held is None else held[0]
            due += each - charged
            flow = self.flows.get((ticket.priority, ticket.flow))
            if flow is not None:  # it may have been forgotten while a half of a failed batch ran
                flow.running -= held is not None
                flow.virtual += each - charged
        return due

    def _forget(self) -> None:
        """Drop accounts that no longer matter: the memory of flows that went must not grow for ever."""
        if len(self.flows) < self._full:
            return
        gone = [k for k, f in self.flows.items() if f.idle and f.virtual <= self.clocks[k[0]].now]
        for key in gone:
            del self.flows[key]
        away = [k for k, f in self.flows.items() if f.idle]
        for key in away[: max(0, len(away) - _REMEMBERED)]:
            del self.flows[key]
        self._full = _REMEMBERED + 2 * len(self.flows)  # so that the sweep costs each newcomer O(1)


class Queues:
    """Every ticket that waits."""

    def __init__(self) -> None:
        self.terms: dict[str, ModelTerms] = {}
        self.size = 0
        self.models: dict[str, ModelQueue] = {}
        self._tickets: dict[int, Ticket] = {}
        self._clock = Clock()

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """In order of arrival."""
        return iter(self._tickets.values())

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket.id in self._tickets

    def waiting(self, model: str) -> int:
        """How many tickets wait for a model."""
        queue = self.models.get(model)
        return queue.share.waiting if queue else 0

    def oldest(self, model: str) -> float | None:
        """When the ticket that has waited longest for a model arrived; None when none waits."""
        queue = self.models.get(model)
        if queue is None or not queue.share.waiting:
            return None
        lines = (line for g in queue.groups.values() for c in g.classes for line in c.lines.values())
        return min(line.oldest.arrived for line in lines)

    def add(self, ticket: Ticket) -> None:
        """Append a ticket of a known model. Raises KeyError for a model without terms."""
        if ticket.model not in self.terms:
            raise KeyError(ticket.model)
        if ticket.id in self._tickets:
            raise ValueError(f"ticket {ticket.id} waits already")
        model = self.models.get(ticket.model)
        if model is None:
            for gone in [k for k, m in self.models.items() if k not in self.terms and m.share.idle]:
                del self.models[gone]
            model = self.models[ticket.model] = ModelQueue()
        model.arrivals.arrived(ticket.arrived)
        self._clock.joins(model.share, ticket.arrived)
        model.add(ticket)
        self._tickets[ticket.id] = ticket
        self.size += ticket.size

    def remove(self, ticket: Ticket) -> None:
        """Take a waiting ticket out. Raises KeyError when it does not wait."""
        del self._tickets[ticket.id]
        self.size -= ticket.size
        model = self.models[ticket.model]
        model.share.waiting -= 1
        model.remove(ticket)
        if ticket.model not in self.terms and model.share.idle:
            del self.models[ticket.model]

    def move(self, ticket: Ticket, changed: Ticket) -> None:
        """A waiting ticket goes on with another flow, priority or deadline.

        Raises KeyError when it does not wait.
        """
        if ticket.id not in self._tickets:
            raise KeyError(ticket.id)
        model = self.models[ticket.model]
        model.remove(ticket)
        model.add(changed)
        self._tickets[ticket.id] = changed

    def started(self, model: str, tickets: tuple[Ticket, ...], now: float) -> None:
        """The tickets were removed and run as one batch from `now`."""
        queue, terms = self.models[model], self.terms[model]
        self._clock.serves(queue.share.virtual)
        queue.share.running += len(tickets)
        queue.share.virtual += queue.cost * len(tickets) / terms.weight
        queue.share.since = now
        queue.started(tickets, now, terms.patience, max(1.0, terms.buckets[-1] / 4))

    def finished(self, model: str, tickets: tuple[Ticket, ...], now: float, seconds: float) -> None:
        """The batch left its lane at `now`, having held it for `seconds`: charge it.

        Also for a batch that failed or was lost, and again for each part that is run again: all of it was
        device time. Parts are charged to those in them.
        """
        queue, terms = self.models.get(model), self.terms.get(model)
        if queue is None or not tickets:
            return
        queue.arrivals.answered(len(tickets), now)
        queue.share.running -= sum(t.id in queue.running for t in tickets)
        queue.share.virtual += queue.finished(tickets, seconds) / (terms.weight if terms else 1.0)
        if terms is None and queue.share.idle:
            del self.models[model]
