"""Batches that run ahead of all queues: warm-ups, the probes of new lanes, and parts of a batch that failed.

Owns their line. Who is served from the queues is the policy's business.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from opsin_detectors.api import Item, Prepared
from opsin_server.errors import Failure
from opsin_server.scheduling.batch import Batch, Entry, Runner, WarmUp
from opsin_server.scheduling.pending import Pending
from opsin_server.scheduling.ticket import Ticket

__all__ = ["Bypass"]


class Bypass:
    """The line of one scheduler."""

    def __init__(self, pending: Pending, ids: "itertools.count[int]", clock: Callable[[], float]) -> None:
        self._pending = pending
        self._ids = ids
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._line: deque[Batch] = deque()
        self._alone: set[WarmUp] = set()
        """Not concluded, wherever they are."""

    def __bool__(self) -> bool:
        """Whether any batch waits here."""
        return bool(self._line)

    def append(self, batch: Batch) -> None:
        """Run it after those that are here."""
        self._line.append(batch)

    def put_first(self, batches: Sequence[Batch]) -> None:
        """Run these before those that are here, in this order."""
        self._line.extendleft(reversed(batches))

    def next(self, device: str = "", devices: Collection[str] = ()) -> Batch | None:
        """Take out the first one for a lane of `device`, with those left out who no longer wait.

        devices: those that have lanes. A batch that is for none of them goes anywhere.
        """
        for batch in tuple(self._line):
            if not _fits(batch, device, devices):
                continue
            self._line.remove(batch)
            batch.entries = self._pending.alive(batch)
            if batch.entries:
                return batch
        return None

    def alone(self, model: str, runner: Runner, pairs: Iterable[tuple[Prepared, Item]]) -> WarmUp:
        """A batch that nobody asked for: it is not in the line yet."""
        entries = []
        for prepared, item in pairs:
            ticket = Ticket(next(self._ids), model, "warm-up", self._clock(), shape=prepared.shape)
            entries.append(Entry(ticket, prepared, item, self._loop.create_future()))
        batch = WarmUp(model, runner, entries, self._loop.create_future())
        self._alone.add(batch)
        batch.done.add_done_callback(lambda _: self._alone.discard(batch))
        return batch

    def fail_all(self, failure: Failure) -> None:
        """Nothing runs any more. Entries of failed batches are answered by whoever holds their futures."""
        self._line.clear()
        for batch in tuple(self._alone):
            batch.conclude(failure, 0.0)


def _fits(batch: Batch, device: str, devices: Collection[str]) -> bool:
    if len(devices) < 2:
        return True
    return batch.avoid != device and (batch.device in ("", device) or batch.device not in devices)
