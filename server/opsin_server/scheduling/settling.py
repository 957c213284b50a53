"""What becomes of a batch that left its lane: it is charged, learnt from, answered, or taken apart.

The rule of isolation is `batch.py`'s: a batch that failed is split until the failure is alone, and one that
had no room on the device is split too, and its size remembered as too large. Where there are several devices
a batch that failed on one runs whole on another first: what succeeds there was not the inputs' fault. Not so
one that was too large for its memory: smaller ones run there, and the device is not to blame. Nor one of a
model that only one device has: another lane would run it there again, and the lane's own device is neither
to blame for it nor to thank. What is to run again goes back to the caller; when it runs is not decided here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from opsin_detectors.api import Output
from opsin_server.errors import Failure
from opsin_server.scheduling import failures
from opsin_server.scheduling.batch import Batch, Done, WarmUp, out_of_memory
from opsin_server.scheduling.observer import Observer
from opsin_server.scheduling.pending import Pending
from opsin_server.scheduling.profile import Profile

__all__ = ["Settler"]

log = structlog.get_logger(__name__)


class Devices(Protocol):
    """What is to be known of where batches run."""

    @property
    def devices(self) -> Collection[str]:
        """Those in use; one where nobody said which."""
        ...

    def fine(self, device: str) -> None:
        """A batch ran well there."""
        ...

    def strike(self, device: str) -> None:
        """A batch failed there, and then did not on another."""
        ...


class _OneDevice:
    devices = ("",)

    def fine(self, device: str) -> None: ...
    def strike(self, device: str) -> None: ...


class Settler:
    """Settles the batches of one scheduler, on its event loop's thread."""

    def __init__(
        self,
        pending: Pending,
        profiles: Mapping[str, Profile],
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._pending = pending
        self._profiles = profiles
        self._observer = observer
        self._clock = clock
        self.devices: Devices = _OneDevice()
        """Where batches run, and may run a second time."""

    def charge(self, batch: Batch, seconds: float) -> None:
        """Charge a batch that held its lane for `seconds` to those in it."""
        tickets = tuple(e.ticket for e in batch.entries)
        self._observer.batch_ran(batch.model, len(tickets), seconds, again=batch.again, device=batch.device)
        if batch.charged:
            self._pending.queues.finished(batch.model, tickets, self._clock(), seconds)

    def waive(self, batch: Batch) -> None:
        """A batch that never began costs those in it nothing."""
        if batch.charged:
            tickets = tuple(e.ticket for e in batch.entries)
            self._pending.queues.finished(batch.model, tickets, self._clock(), 0.0)

    def settle(
        self,
        batch: Batch,
        started: float,
        answers: Sequence[Output | Failure] | None,
        error: BaseException | None,
    ) -> list[Batch]:
        """Answer everyone in a batch that began at `started`, or split it: the parts are to run at once."""
        if isinstance(batch, WarmUp):
            batch.conclude(error, batch.inferred - started)
            return []
        if error is not None or answers is None:
            return self._split(batch, error or RuntimeError("no answers"))
        if batch.runner.everywhere:
            self._thank(batch)
        self._learn(batch, started)
        size = len(batch.entries)
        for entry, answer in zip(batch.entries, answers, strict=True):
            if isinstance(answer, Failure):
                self._pending.end(entry, "failed", answer)
            else:
                done = Done(answer, started, batch.inferred, batch.finished, size)
                self._pending.end(entry, "answered", done)
        return []

    def give_up(self, batch: Batch) -> None:
        """Fail everyone in a batch whose lane is lost: the input may be the cause, so it is not run again."""
        failure = failures.lane_lost(batch.model)
        if isinstance(batch, WarmUp):
            batch.conclude(failure, 0.0)
            return
        for entry in batch.entries:
            self._pending.end(entry, "lost", failure)

    def _thank(self, batch: Batch) -> None:
        """It ran well where it did; so what it failed on before, if anything, was the device's fault."""
        self.devices.fine(batch.device)
        if batch.avoid:
            self.devices.strike(batch.avoid)

    def _learn(self, batch: Batch, started: float) -> None:
        profile = self._profiles.get(batch.model)
        if profile is not None and not batch.again:
            profile.observe(len(batch.entries), batch.inferred - started, batch.entries[0].ticket.shape)
            profile.answered(max(0.0, self._clock() - batch.inferred))

    def _split(self, batch: Batch, error: BaseException) -> list[Batch]:
        too_large = out_of_memory(error) and len(batch.entries) > 1
        if self._elsewhere(batch) and not batch.avoid and not too_large:
            # Whether the inputs or the device are to blame, another device tells.
            log.warning("batch_failed_on_device", model=batch.model, device=batch.device, error=repr(error))
            return [again] if (again := batch.elsewhere()).entries else []
        if too_large:
            self._remember_bound(batch.model, (len(batch.entries) + 1) // 2)  # the larger half will show
        if len(batch.entries) > 1:
            log.warning("batch_failed", model=batch.model, size=len(batch.entries), error=repr(error))
            return batch.halves()
        self._pending.end(batch.entries[0], "failed", failures.of_one(batch.model, error))
        return []

    def _elsewhere(self, batch: Batch) -> bool:
        """Whether another device than the one it ran on can run it."""
        others = any(device != batch.device for device in self.devices.devices)
        return others and batch.runner.everywhere

    def _remember_bound(self, model: str, largest: int) -> None:
        """The device had no memory for more than `largest` at once: drop the buckets above it."""
        all_terms = self._pending.queues.terms
        terms = all_terms.get(model)
        if terms is None:
            return
        buckets = tuple(b for b in terms.buckets if b <= largest) or (largest,)
        if buckets != terms.buckets:
            log.warning("batch_bound_lowered", model=model, largest=buckets[-1])
            all_terms[model] = replace(terms, buckets=buckets)
