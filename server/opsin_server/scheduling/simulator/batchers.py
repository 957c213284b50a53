"""The contenders: our policy and its rivals, behind one seam.

A batcher owns the waiting tickets and is asked for a plan whenever a lane is free. The rivals are written
from their documentation, each given the best of what it offers: several models share the device without
conflict, and any batch size runs at its own cost, while ours keeps to its buckets.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from opsin_server.scheduling.policy import Dead, LaneView, Plan, Run, Sleep, Wait, plan
from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelTerms, Queues
from opsin_server.scheduling.ticket import Ticket

__all__ = ["Batcher", "Ours", "Window", "no_batching", "pull"]


class Batcher(Protocol):
    """What is compared."""

    name: str

    def add(self, ticket: Ticket) -> bool:
        """A ticket came; False refuses it."""
        ...

    def plan(self, now: float, lane: LaneView) -> Plan:
        """What a free lane should do. The dead, and those that run, are no longer waiting afterwards."""
        ...

    def finished(self, model: str, tickets: tuple[Ticket, ...], now: float, seconds: float) -> None:
        """A batch left its lane."""
        ...


class Ours:
    """The policy of this server with its queues and profiles, unchanged."""

    name = "ours"

    def __init__(
        self, terms: Mapping[str, ModelTerms], profiles: Mapping[str, Profile], *, limit: int = 1024
    ) -> None:
        self.queues = Queues()
        self.queues.terms.update(terms)
        self.profiles = profiles
        self.limit = limit

    def add(self, ticket: Ticket) -> bool:
        """Refuses beyond the limit."""
        if len(self.queues) >= self.limit:
            return False
        self.queues.add(ticket)
        return True

    def plan(self, now: float, lane: LaneView) -> Plan:
        """The policy's plan, taken out of the queues as the scheduler does."""
        made = plan(self.queues, now, self.profiles, lane)
        for dead in made.dead:
            self.queues.remove(dead.ticket)
        match made.action:
            case Run(model, tickets):
                for ticket in tickets:
                    self.queues.remove(ticket)
                self.queues.started(model, tickets, now)
        return made

    def finished(self, model: str, tickets: tuple[Ticket, ...], now: float, seconds: float) -> None:
        """Charges the accounts and teaches the profile."""
        self.queues.finished(model, tickets, now, seconds)
        terms, size = self.queues.terms[model], len(tickets)
        if terms.pads:
            size = next(b for b in terms.buckets if b >= size)
        self.profiles[model].observe(size, seconds)


@dataclass(slots=True)
class Window:
    """Fixed windows, first come first served: a batch goes when full, or when its oldest has waited `delay`.

    TensorFlow Serving calls them max_batch_size and batch_timeout_micros, Triton max_batch_size and
    max_queue_delay_microseconds.
    late: "run" runs tickets whose deadline has passed (TensorFlow Serving; Triton without a queue policy),
        "drop" drops them when a batch is formed (Triton's timeout action REJECT).
    limit: most tickets waiting per model (max_enqueued_batches, max_queue_size); the next are refused.
    """

    size: int
    delay: float
    late: Literal["run", "drop"] = "run"
    limit: float = math.inf
    name: str = ""
    _queues: dict[str, deque[Ticket]] | None = None

    def __post_init__(self) -> None:
        self._queues = {}
        if not self.name:
            bound = "" if self.limit == math.inf else f", at most {self.limit:g} waiting"
            self.name = f"window {self.size} / {self.delay * 1e3:g} ms, late {self.late}{bound}"

    def add(self, ticket: Ticket) -> bool:
        """Refuses beyond the limit."""
        assert self._queues is not None
        queue = self._queues.setdefault(ticket.model, deque())
        if len(queue) >= self.limit:
            return False
        queue.append(ticket)
        return True

    def plan(self, now: float, lane: LaneView) -> Plan:
        """The ready model whose oldest ticket came first."""
        assert self._queues is not None
        dead: list[Dead] = []
        until, chosen = math.inf, None
        for queue in self._queues.values():
            while self.late == "drop" and queue and queue[0].deadline <= now:
                dead.append(Dead(queue.popleft(), "expired"))
            if not queue:
                continue
            ready = queue[0].arrived + self.delay
            if len(queue) < self.size and ready > now:
                until = min(until, ready)
            elif chosen is None or queue[0].arrived < chosen[0].arrived:
                chosen = queue
        if chosen is None:
            return Plan(Sleep() if until == math.inf else Wait(until), tuple(dead))
        return Plan(self._form(chosen, now, dead), tuple(dead))

    def _form(self, queue: deque[Ticket], now: float, dead: list[Dead]) -> Run:
        batch: list[Ticket] = []
        while queue and len(batch) < self.size:
            ticket = queue.popleft()
            if self.late == "drop" and ticket.deadline <= now:
                dead.append(Dead(ticket, "expired"))
            else:
                batch.append(ticket)
        return Run(batch[0].model, tuple(batch))

    def finished(self, model: str, tickets: tuple[Ticket, ...], now: float, seconds: float) -> None:
        """It learns nothing."""


def no_batching() -> Window:
    """One at a time, in order."""
    return Window(1, 0.0, name="no batching")


def pull(size: int) -> Window:
    """What text-embeddings-inference does: whatever waits when the device is free, without those who left."""
    return Window(size, 0.0, late="drop", limit=512, name=f"pull {size}")
