"""Everybody who is not answered yet: the tickets that wait, those that run, and the futures behind them.

Guards two promises: every future is answered exactly once, also one that was cancelled a moment before; and
what left the queues is in no queue any more. It also ends, on time, tickets whose deadline passes while every
lane is busy. It decides nothing else, and knows no lanes.
"""

import asyncio
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from opsin_server.errors import Failure
from opsin_server.scheduling import failures
from opsin_server.scheduling.batch import Batch, Done, Entry
from opsin_server.scheduling.observer import EndOfTicket, Observer
from opsin_server.scheduling.policy import Dead
from opsin_server.scheduling.queues import Queues
from opsin_server.scheduling.ticket import Priority, Ticket

__all__ = ["Pending"]

_TOGETHER = 0.002
"""Seconds after a deadline at which it is acted upon, so that those that lie close together are one sweep."""


class Pending:
    """The entries of one scheduler, on its event loop's thread. queues: those that wait, to read."""

    def __init__(self, observer: Observer, clock: Callable[[], float]) -> None:
        self.queues = Queues()
        self._observer = observer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Entry] = {}
        """In the queues."""
        self._for_idle: dict[int, Entry] = {}
        """In no queue: what nobody waits for, in order of arrival."""
        self._open: dict[asyncio.Future[Done], Entry] = {}
        """Not answered, wherever they are."""
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = math.inf

    def add(self, entry: Entry) -> None:
        """One more waits. Its model must have terms."""
        ticket = entry.ticket
        self.queues.add(ticket)
        self._waiting[ticket.id] = entry
        self._watch(entry)

    def add_for_idle(self, entry: Entry) -> None:
        """One more that counts nowhere as work that waits; `next_for_idle` gives it."""
        self._for_idle[entry.ticket.id] = entry
        self._watch(entry)

    def amend(self, future: asyncio.Future[Done], *, flow: str, priority: Priority, deadline: float) -> bool:
        """Let it wait on other terms; False when it waits no more."""
        entry = self._open.get(future)
        if entry is None or entry.ticket.id not in self._waiting:
            return False
        ticket = replace(entry.ticket, flow=flow, priority=priority, deadline=deadline)
        self.queues.move(entry.ticket, ticket)
        self._waiting[ticket.id] = self._open[future] = replace(entry, ticket=ticket)
        self._expire_by(deadline)
        return True

    def take(self, tickets: tuple[Ticket, ...]) -> list[Entry]:
        """Take tickets out of the queues to run; without those that are withdrawn when they hear of it."""
        entries = []
        for ticket in tickets:
            entry = self._withdraw(ticket)
            if entry.on_start is not None:
                entry.on_start()
            if not entry.future.done():
                entries.append(entry)
        return entries

    def next_for_idle(self) -> Entry | None:
        """Take out the first of those that nobody waits for, when nothing is in the queues."""
        while self._for_idle and not len(self.queues):
            entry = self._for_idle.pop(next(iter(self._for_idle)))
            if entry.ticket.deadline <= self._clock():
                self.end(entry, "expired", failures.passed())
                continue
            if entry.on_start is not None:
                entry.on_start()
            if not entry.future.done():
                return entry
        return None

    def alive(self, batch: Batch) -> tuple[Entry, ...]:
        """Those of a batch that somebody still waits for, and whose deadline has not passed."""
        now = self._clock()
        for entry in batch.entries:
            if entry.ticket.deadline <= now:
                self.end(entry, "expired", failures.passed())
        return tuple(e for e in batch.entries if not e.future.done())

    def end(self, entry: Entry, end: EndOfTicket, result: Done | Failure) -> None:
        """Answer an entry that left the queues, unless nobody waits for it any more."""
        if not entry.future.done():
            self._observer.ticket_ended(entry.ticket.model, end)
            entry.answer(result)

    def bury(self, dead: Dead) -> None:
        """Answer a ticket that waits and is not to run."""
        self.end(self._withdraw(dead.ticket), dead.why, failures.of_dead(dead))

    def drop_model(self, key: str) -> None:
        """Answer all who wait for a model that is not there any more."""
        for entry in [e for e in self._for_idle.values() if e.ticket.model == key]:
            self.end(self._for_idle.pop(entry.ticket.id), "failed", failures.not_loaded(key))
        for ticket in [t for t in self.queues if t.model == key]:
            self.end(self._withdraw(ticket), "failed", failures.not_loaded(key))

    def fail_all(self, failure: Failure) -> None:
        """Nobody will be answered any more: tell everyone."""
        for ticket in tuple(self.queues):
            self._withdraw(ticket)
        self._for_idle.clear()
        for entry in tuple(self._open.values()):
            self.end(entry, "lost", failure)

    def close(self) -> None:
        """No timer fires any more."""
        if self._expiry is not None:
            self._expiry.cancel()

    def _watch(self, entry: Entry) -> None:
        self._open[entry.future] = entry
        entry.future.add_done_callback(self._left)
        self._expire_by(entry.ticket.deadline)

    def _withdraw(self, ticket: Ticket) -> Entry:
        self.queues.remove(ticket)
        return self._waiting.pop(ticket.id)

    def _left(self, future: asyncio.Future[Done]) -> None:
        """Somebody's future is done: when it was cancelled while waiting, its ticket goes."""
        entry = self._open.pop(future)
        if entry.ticket.id in self._waiting:
            self._withdraw(entry.ticket)
        self._for_idle.pop(entry.ticket.id, None)
        if future.cancelled():
            self._observer.ticket_ended(entry.ticket.model, "cancelled")

    # -- deadlines ---------------------------------------------------------------------------------------

    def _expire_by(self, deadline: float) -> None:
        """Wake up when the earliest deadline passes, even if every lane is busy until long after."""
        if deadline == math.inf or (self._expiry is not None and deadline >= self._expiry_at):
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry_at = deadline
        self._expiry = self._loop.call_later(max(0.0, deadline - self._clock()) + _TOGETHER, self._expire)

    def _expire(self) -> None:
        now = self._clock()
        self._expiry = None
        for ticket in [t for t in self.queues if t.deadline <= now]:
            self.bury(Dead(ticket, "expired"))
        for entry in [e for e in self._for_idle.values() if e.ticket.deadline <= now]:
            self.end(self._for_idle.pop(entry.ticket.id), "expired", failures.passed())
        self._expire_by(min(self._deadlines(), default=math.inf))

    def _deadlines(self) -> Iterator[float]:
        for_idle = (entry.ticket for entry in self._for_idle.values())
        return (ticket.deadline for ticket in itertools.chain(self.queues, for_idle))
