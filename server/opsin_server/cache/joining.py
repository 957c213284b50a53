"""Joining: identical inputs that are in flight are computed once, and all who wait get the answer.

A *flight* is one computation with those who wait for it. It is a task of its own, so none of them carries it:
one that leaves (cancelled, or its deadline passed) only changes the terms that the work is done on, and the
last to leave ends it. The rules:

- Everyone is answered once: with the answer, with a failure of the input or of the server, or with a failure
  of one's own. A refusal that is about one caller (its deadline, its quota, its place in the queue) is told
  to that one; then the work is begun for the next, and none was lost, since a refusal comes before the work.
- The terms are those of `Party`: flow and priority of the most urgent, the latest deadline.
- A flight that was answered or given up is joined by nobody.

Knows nothing of pictures, answers and gRPC.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from opsin_server.cache.party import Party
from opsin_server.calls import Caller
from opsin_server.errors import Failure, Reason
from opsin_server.stopwatch import Stopwatch

__all__ = ["OWN", "Flight", "Joining", "Run", "Waiter"]

A = TypeVar("A")
Run = Callable[[Caller, Stopwatch], Awaitable[A]]
"""Computes the answer for a caller, on its watch."""

_LATE = frozenset({Reason.DEADLINE_PASSED, Reason.DEADLINE_UNMEETABLE})
OWN = _LATE | {Reason.QUEUE_FULL, Reason.QUOTA_EXCEEDED, Reason.MEMORY_LIMIT}
"""Failures of the one that the work was begun for, and of nobody else."""


class Waiter(Generic[A]):
    """One who waits. joined: clock seconds; computed: whether the work was begun for this one."""

    __slots__ = ("caller", "computed", "future", "joined", "timer", "watch")

    def __init__(self, caller: Caller, watch: Stopwatch, future: asyncio.Future[A], joined: float) -> None:
        self.caller = caller
        self.watch = watch
        self.future = future
        self.joined = joined
        self.computed = False
        self.timer: asyncio.TimerHandle | None = None


class Flight(Generic[A]):
    """One computation under way. Make it through `Joining.lead`."""

    __slots__ = ("_closed", "_loop", "_on_close", "_payer", "_run", "_task", "_waiters", "party", "source")

    def __init__(self, source: object, run: Run[A], on_close: Callable[["Flight[A]"], None]) -> None:
        self.source = source
        self.party = Party(Caller())
        self._run = run
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[Waiter[A], None] = {}  # in the order in which they came
        self._payer: Waiter[A] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def open(self) -> bool:
        """Whether one may still join."""
        return not self._closed

    def join(self, caller: Caller, watch: Stopwatch) -> Waiter[A]:
        """One more waits; `wait` gives the answer. Raises Failure DEADLINE_PASSED."""
        now = time.monotonic()
        if self._waiters and caller.deadline <= now:
            raise _passed()
        waiter: Waiter[A] = Waiter(caller, watch, self._loop.create_future(), now)
        self._waiters[waiter] = None
        if self._payer is None:
            self._payer = waiter
            self.party = Party(caller)
            self._task = self._loop.create_task(self._fly())
            self._task.add_done_callback(self._ended)
            return waiter
        if len(self._waiters) == 2:
            self._watch_deadlines(self._waiters)  # the work's own deadline was enough for one alone
        else:
            self._watch_deadlines((waiter,))
        if caller.priority < self._payer.caller.priority:
            self._payer = waiter
        self.party.become(self._payer.caller, max(self.party.deadline, caller.deadline))
        return waiter

    async def wait(self, waiter: Waiter[A]) -> A:
        """The answer, or the failure; whoever is cancelled here leaves."""
        try:
            return await waiter.future
        finally:
            self._leave(waiter)
            if waiter.future.done() and not waiter.future.cancelled():
                waiter.future.exception()  # it was told, or its waiter was cancelled in the same moment

    # -- coming and going --------------------------------------------------------------------------------

    def _leave(self, waiter: Waiter[A]) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None
        if waiter not in self._waiters:
            return
        del self._waiters[waiter]
        if not self._waiters:
            self._close()
            if self._task is not None:
                self._task.cancel()
        elif waiter is self._payer or waiter.caller.deadline >= self.party.deadline:
            self._payer = min(self._waiters, key=lambda w: w.caller.priority)
            self.party.become(self._payer.caller, max(w.caller.deadline for w in self._waiters))

    def _watch_deadlines(self, waiters: Iterable[Waiter[A]]) -> None:
        """Each keeps its own deadline, whatever the work is allowed to take for the others."""
        now = time.monotonic()
        for waiter in waiters:
            if waiter.timer is None and waiter.caller.deadline < float("inf"):
                left = max(0.0, waiter.caller.deadline - now)
                waiter.timer = self._loop.call_later(left, self._tell, waiter, _passed())

    def _tell(self, waiter: Waiter[A], failure: Failure) -> None:
        if not waiter.future.done():
            waiter.future.set_exception(failure)
        self._leave(waiter)

    # -- the work ----------------------------------------------------------------------------------------

    async def _fly(self) -> None:
        while (beginner := self._payer) is not None and self._waiters:
            self.party.restart()
            beginner.computed = True
            try:
                answer = await self._run(self.party, beginner.watch)
            except Failure as failure:
                if failure.reason not in OWN:
                    self._settle_failed(failure)
                    return
                for refused in self._refused(failure, beginner):
                    self._tell(refused, replace(failure))
                beginner.computed = False
            except Exception as error:
                self._settle_failed(error)
                return
            else:
                self._settle(answer)
                return

    def _refused(self, failure: Failure, beginner: Waiter[A]) -> list[Waiter[A]]:
        """Whose own failure it is: too late for a deadline is too late for every earlier one."""
        if failure.reason in _LATE:
            return [w for w in self._waiters if w.caller.deadline <= self.party.tried]
        blamed = beginner if beginner in self._waiters else self._payer
        return [blamed] if blamed is not None else []

    def _settle(self, answer: A) -> None:
        self._close()
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_result(answer)

    def _settle_failed(self, error: Exception) -> None:
        self._close()
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_exception(replace(error) if isinstance(error, Failure) else error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """However it ended, nobody is left waiting."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._settle_failed(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        elif self._waiters:
            self._settle_failed(RuntimeError("the work was cancelled while somebody waited for it"))

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._on_close(self)


class Joining(Generic[A]):
    """All flights of a server, by what they look at."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, list[Flight[A]]] = {}

    def __len__(self) -> int:
        return sum(len(flights) for flights in self._flights.values())

    def alike(self, mark: Hashable) -> tuple[Flight[A], ...]:
        """Flights whose input may be the same: it has the same mark."""
        flights = self._flights.get(mark)
        return tuple(flights) if flights else ()

    def lead(self, mark: Hashable, source: object, run: Run[A]) -> Flight[A]:
        """A new flight, which begins when the first one joins it."""
        flight = Flight(source, run, lambda flight: self._closed(mark, flight))
        self._flights.setdefault(mark, []).append(flight)
        return flight

    def _closed(self, mark: Hashable, flight: Flight[A]) -> None:
        flights = self._flights[mark]
        flights.remove(flight)
        if not flights:
            del self._flights[mark]


def _passed() -> Failure:
    return Failure(Reason.DEADLINE_PASSED, "the deadline passed before there was an answer")
