"""A batch: entries that run together, and how the guilty one is found when they fail together.

The rule of isolation: a batch that raises, or answers the wrong number, says nothing about any one of its
inputs. It is split in halves which run again, until the failure is alone in a batch of one; n inputs with
one culprit cost at most 2 log2(n) extra runs. Running out of device memory is no input's fault at all: the
batch is split the same way, and the size is remembered as too large.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from opsin_detectors.api import Item, Output, Prepared
from opsin_server.errors import Failure
from opsin_server.scheduling.lanes import Lane
from opsin_server.scheduling.ticket import Ticket

__all__ = ["Batch", "Done", "Entry", "Runner", "WarmUp", "WrongLengthError", "out_of_memory"]


class WrongLengthError(RuntimeError):
    """A detector answered a batch with more or fewer outputs than it had inputs."""


class Runner(Protocol):
    """What runs a model's batches.

    light: a batch takes less than the hop to another thread would, so it may run on the owner's own.
    everywhere: each of several devices has the model, so a batch runs on its lane's own. Else it runs on the
        one device that has it, whichever lane it is given to.
    """

    @property
    def light(self) -> bool: ...

    @property
    def everywhere(self) -> bool: ...

    def launch(self, prepared: Sequence[Prepared], local: dict[str, object]) -> Any:
        """Start one batch. local: what the runner keeps on this lane from one batch to the next."""
        ...

    def collect(self, launched: Any, local: dict[str, object]) -> Any:
        """Wait for what `launch` started; its outputs, on the host."""
        ...

    def finish(self, outputs: Any, items: Sequence[Item]) -> list[Output | Failure]:
        """One answer per item, in order. Raises WrongLengthError when the detector gave more or fewer."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """An answered ticket: when its batch started, left the device and was finished, in clock seconds."""

    output: Output
    started: float
    inferred: float
    finished: float
    batch_size: int


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A ticket with what it stands for: the input, and the future that somebody waits on.

    on_start: called before it leaves the queue to run; cancelling the future there still keeps it from
        running.
    """

    ticket: Ticket
    prepared: Prepared
    item: Item
    future: asyncio.Future[Done]
    on_start: Callable[[], None] | None = None

    def answer(self, result: "Done | Failure") -> None:
        """Tell the waiter, unless nobody waits any more."""
        if self.future.done():
            return
        if isinstance(result, Failure):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Batch:
    """Entries of one model that run together; a lane's job.

    again: the batch is a half of one that failed. charged: somebody pays for its device time; not where it
    runs only because nothing else would. device: where it runs, or ran; only, before that, where it has to.
    avoid: the device that it failed on, where it gets a second chance on another.
    """

    __slots__ = ("again", "avoid", "charged", "device", "entries", "finished", "inferred", "model", "runner")

    def __init__(
        self,
        model: str,
        runner: Runner,
        entries: Sequence[Entry],
        *,
        again: bool = False,
        charged: bool = True,
    ) -> None:
        self.model = model
        self.runner = runner
        self.entries = tuple(entries)
        self.again = again
        self.charged = charged
        self.device = ""
        self.avoid = ""
        self.inferred = 0.0
        self.finished = 0.0

    def launch(self, lane: Lane) -> object:
        """On the lane: put the inputs on the device and start."""
        self.device = lane.device
        return self.runner.launch([e.prepared for e in self.entries], lane.local)

    def collect(self, lane: Lane, launched: object) -> object:
        """On the lane: wait for the outputs, which go to `finish`."""
        try:
            return self.runner.collect(launched, lane.local)
        finally:
            self.inferred = time.monotonic()

    def finish(self, outputs: Any) -> list[Output | Failure]:
        """Off the lane, on any thread: one answer per entry."""
        try:
            return self.runner.finish(outputs, [e.item for e in self.entries])
        finally:
            self.finished = time.monotonic()

    def halves(self) -> list["Batch"]:
        """The entries that somebody still waits for, as two batches, or as many as they suffice for."""
        alive = [e for e in self.entries if not e.future.done()]
        middle = (len(alive) + 1) // 2
        parts = [alive[:middle], alive[middle:]] if len(self.entries) > 1 else [alive]
        return [Batch(self.model, self.runner, part, again=True) for part in parts if part]

    def elsewhere(self) -> "Batch":
        """The entries that somebody still waits for, for another device than the one it failed on."""
        alive = [e for e in self.entries if not e.future.done()]
        batch = Batch(self.model, self.runner, alive, again=True, charged=self.charged)
        batch.avoid = self.device
        return batch


class WarmUp(Batch):
    """A batch that somebody runs for its time, not for its answers. wide: with all cores."""

    __slots__ = ("done", "wide")

    def __init__(
        self, model: str, runner: Runner, entries: Iterable[Entry], done: asyncio.Future[float]
    ) -> None:
        super().__init__(model, runner, list(entries), charged=False)
        self.done = done
        self.wide = False
        done.add_done_callback(lambda f: f.cancelled() or f.exception())  # nobody needs to ask a probe

    def conclude(self, error: BaseException | None, seconds: float) -> None:
        """Answer whoever waits for the time."""
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(seconds)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device (or the host) ran out of memory. torch.OutOfMemoryError is a RuntimeError by name."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
