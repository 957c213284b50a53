"""The door: whether a call may come in at all, decided before a byte of its picture is decoded.

Owns the count of inputs that were let in and do not wait in a queue yet (they are being decoded). Everything
else it reads from the scheduler. A refusal says when trying again makes sense.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from opsin_server.calls import Caller
from opsin_server.errors import Failure, Reason
from opsin_server.scheduling.scheduler import Scheduler

__all__ = ["Gate", "GateLimits", "Place"]


@dataclass(frozen=True, slots=True)
class GateLimits:
    """queued: inputs that may wait, decoding included."""

    queued: int = 1024


class Place:
    """Room for some inputs, held from admission until they are in a queue."""

    __slots__ = ("_gate", "_left")

    def __init__(self, gate: "Gate", items: int) -> None:
        self._gate = gate
        self._left = items
        gate.coming += items

    def take(self) -> None:
        """One of them is in the queue now."""
        if self._left:
            self._left -= 1
            self._gate.coming -= 1

    def free(self) -> None:
        """Give back what was not taken."""
        self._gate.coming -= self._left
        self._left = 0


class Gate:
    """Admission for one scheduler."""

    def __init__(self, limits: GateLimits, scheduler: Scheduler) -> None:
        self.limits = limits
        self.coming = 0
        """Inputs admitted and not yet in a queue."""
        self._scheduler = scheduler

    @contextmanager
    def admit(self, model: str, items: int, caller: Caller) -> Generator[Place]:
        """Let `items` inputs for a model in.

        Raises Failure: QUEUE_FULL, DEADLINE_UNMEETABLE, DEADLINE_PASSED.
        """
        waiting = self.coming + self._scheduler.waiting
        if waiting + items > self.limits.queued:
            raise Failure(
                Reason.QUEUE_FULL,
                f"{waiting} inputs wait and the queue holds {self.limits.queued}",
                metadata={"limit": str(self.limits.queued), "waiting": str(waiting)},
                retry_after=self._scheduler.backlog_seconds(),
            )
        self._scheduler.check_deadline(model, caller.deadline)
        place = Place(self, items)
        try:
            yield place
        finally:
            place.free()
