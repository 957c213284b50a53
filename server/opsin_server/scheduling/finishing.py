"""`finish` off the lanes: the threads that turn a device's outputs into answers, where a lane should not.

Owns the threads, and knows what is with them and since when, so that what piles up there is bounded and a
thread that hangs is noticed. With no threads it says so, and `finish` runs on the lane.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from opsin_detectors.api import Output
from opsin_server.errors import Failure
from opsin_server.scheduling.batch import Batch

__all__ = ["Answers", "Finisher", "finish"]

Answers = tuple[list[Output | Failure] | None, BaseException | None]
"""What `finish` gave, or what it raised."""


def finish(batch: Batch, outputs: object) -> Answers:
    """`finish`, with its exception as a value: what it raises is an answer too."""
    try:
        return batch.finish(outputs), None
    except Exception as error:
        return None, error


class Finisher:
    """Threads for one scheduler.

    lanes: how many lanes feed it. report: called on a thread of it with the batch, when it began, and what
    came of it.
    """

    def __init__(self, threads: int, lanes: int, report: Callable[[Batch, float, Answers], None]) -> None:
        self._threads = threads
        self._most = lanes + 2 * threads
        self._report = report
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="finish") if threads else None
        self._held: dict[Batch, float] = {}
        self._begun: set[Batch] = set()
        """On a thread, as far as the owner has heard."""
        self._given_up: set[Batch] = set()
        """Not heard of since."""

    def __bool__(self) -> bool:
        """Whether there are any threads."""
        return self._pool is not None

    @property
    def crowded(self) -> bool:
        """Whether it does not keep up: then lanes are given nothing more."""
        return len(self._held) > self._most

    @property
    def all_stuck(self) -> bool:
        """Whether every thread has a batch that was given up. One that comes back with it is sound again."""
        return len(self._given_up & self._begun) >= self._threads

    def finish(self, batch: Batch, outputs: object, started: float) -> None:
        """Finish a batch some time soon; from any thread."""
        assert self._pool is not None
        self._pool.submit(self._finish, batch, outputs, started)

    def holds(self, batch: Batch, now: float) -> None:
        """Take note, on the owner's thread, that a batch is here since `now`."""
        self._held[batch] = now

    def release(self, batch: Batch) -> bool:
        """It is finished. False when it took too long, and everyone in it was told."""
        self._begun.discard(batch)
        self._given_up.discard(batch)
        return self._held.pop(batch, None) is not None

    def give_up_late(self, before: float) -> list[Batch]:
        """Those that are here since before that; a thread that has one counts as stuck."""
        late = [batch for batch, since in self._held.items() if since < before]
        for batch in late:
            del self._held[batch]
        self._given_up.update(late)
        return late

    def clear(self) -> None:
        """What still comes of anything here is void."""
        self._held.clear()

    def close(self) -> None:
        """Let the threads end after what they do now."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _finish(self, batch: Batch, outputs: object, started: float) -> None:
        self._begun.add(batch)
        self._report(batch, started, finish(batch, outputs))
