"""The door: whether a call may come in at all, decided before a byte of its picture is decoded.

Owns the count of inputs that were let in and do not wait in a queue yet (they are being decoded), and the
words of each refusal. What a newcomer would have to wait, and when there will be room, is the scheduler's
estimate. A refusal says when trying again makes sense, or that it never does.

Frames of a stream pass the limits on waiting work: a stream has a window of its own, and what does not fit
there is dropped or left unread by the stream's rules, not refused.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from opsin_server.calls import Caller
from opsin_server.errors import Failure, Reason
from opsin_server.scheduling.admit import Estimate
from opsin_server.scheduling.scheduler import Scheduler
from opsin_server.scheduling.ticket import Priority

__all__ = ["Gate", "GateLimits", "Place"]

LEAST_RETRY = 0.01
"""Seconds; a pushback below it would only have clients spin."""
OPEN_TO_ALL = 0.75
"""Share of the places that go to whoever comes; the rest is kept for flows that hold less than their part."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """queued: inputs that may wait, decoding included. backlog: seconds of work that may wait."""

    queued: int = 1024
    backlog: float = math.inf


class Place:
    """Room for some inputs of a flow, held from admission until they are answered."""

    __slots__ = ("_flow", "_gate", "_items", "_left")

    def __init__(self, gate: "Gate", items: int, flow: str) -> None:
        self._gate = gate
        self._left = self._items = items
        self._flow = flow
        gate.coming += items
        gate.held[flow] = gate.held.get(flow, 0) + items

    def move(self, flow: str) -> None:
        """Another flow waits for them now."""
        held = self._gate.held
        if flow == self._flow or not self._items:
            return
        if held[self._flow] > self._items:
            held[self._flow] -= self._items
        else:
            del held[self._flow]
        held[flow] = held.get(flow, 0) + self._items
        self._flow = flow

    def take(self) -> None:
        """One of them is in the queue now."""
        if self._left:
            self._left -= 1
            self._gate.coming -= 1

    def free(self) -> None:
        """The inputs are answered, or given up."""
        self._gate.coming -= self._left
        held = self._gate.held.get(self._flow, 0) - self._items
        if held > 0:
            self._gate.held[self._flow] = held
        else:
            self._gate.held.pop(self._flow, None)
        self._left = self._items = 0

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *error: object) -> None:
        self.free()


class Gate:
    """Admission for one scheduler."""

    def __init__(
        self, limits: GateLimits, scheduler: Scheduler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.coming = 0
        """Inputs admitted and not yet in a queue."""
        self.held: dict[str, int] = {}
        """Inputs admitted and not yet answered, by flow."""
        self._scheduler = scheduler
        self._clock = clock

    def admit(self, model: str, items: int, caller: Caller) -> Place:
        """Let `items` inputs for a model in; the place is to be freed in the end.

        Raises Failure: QUEUE_FULL, DEADLINE_UNMEETABLE, DEADLINE_PASSED.
        """
        if caller.priority is not Priority.STREAM:
            self._check_room(model, items, caller.flow)
        if caller.deadline < math.inf:
            self._check_deadline(model, caller)
        return Place(self, items, caller.flow)

    def _check_room(self, model: str, items: int, flow: str) -> None:
        waiting = self.coming + self._scheduler.waiting
        if waiting + items > self.limits.queued:
            raise self._full(
                f"{waiting} inputs wait and the queue holds {self.limits.queued}",
                {"limit": str(self.limits.queued), "waiting": str(waiting)},
                self._scheduler.seconds_to_room(model, waiting + items - self.limits.queued),
                never=items > self.limits.queued,
            )
        if waiting + items > OPEN_TO_ALL * self.limits.queued:
            self._check_part(model, items, flow)
        if waiting and self.limits.backlog < math.inf:
            seconds = self._scheduler.backlog_seconds()
            if seconds > self.limits.backlog:
                raise self._full(
                    f"{seconds:.1f} seconds of work wait and the limit is {self.limits.backlog:g}",
                    {"limit": f"{self.limits.backlog:g}", "waiting": f"{seconds:.3f}"},
                    seconds - self.limits.backlog,
                )

    def _check_part(self, model: str, items: int, flow: str) -> None:
        """The last places are for flows below their part, so that a greedy one refuses only itself."""
        mine = self.held.get(flow, 0)
        part = self.limits.queued // (len(self.held) + (flow not in self.held))
        if mine + items > part:
            raise self._full(
                f"this caller has {mine} inputs here, most of {self.limits.queued} places are taken, and of "
                f"{len(self.held)} callers each has a part of {part}",
                {"limit": str(part), "waiting": str(mine)},
                self._scheduler.seconds_to_room(model, mine + items - part),
                never=items > self.limits.queued,
            )

    def _full(
        self, message: str, metadata: dict[str, str], retry_after: float, *, never: bool = False
    ) -> Failure:
        return Failure(
            Reason.QUEUE_FULL,
            message,
            metadata=metadata,
            retry_after=None if never else max(LEAST_RETRY, retry_after),
            never_retry=never,
        )

    def _check_deadline(self, model: str, caller: Caller) -> None:
        left = caller.deadline - self._clock()
        if left <= 0:
            raise Failure(Reason.DEADLINE_PASSED, "the deadline had passed when the call arrived")
        if self._scheduler.unopposed(model, caller.deadline):
            return
        expected = self._scheduler.estimate(model, caller.flow, caller.priority, caller.deadline)
        if expected is not None and not expected.feasible:
            raise _unmeetable(left, expected)


def _unmeetable(left: float, expected: Estimate) -> Failure:
    """The time it would have taken, and when to come back: never, if even an idle server is too slow."""
    seconds = expected.total if expected.feasible_idle else expected.least
    where = "behind the work that waits" if expected.feasible_idle else "even on an idle server"
    return Failure(
        Reason.DEADLINE_UNMEETABLE,
        f"the deadline leaves {left * 1000:.0f} ms; an answer would take {seconds * 1000:.0f} ms {where}",
        metadata={"left_ms": f"{left * 1000:.0f}", "needed_ms": f"{seconds * 1000:.0f}"},
        retry_after=max(LEAST_RETRY, expected.retry_after or 0.0) if expected.feasible_idle else None,
        never_retry=not expected.feasible_idle,
    )
