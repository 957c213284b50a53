"""The CPU pool: threads that decode, prepare and finish, so that the event loop never does.

Owns its threads, a bounded queue that is fair to its callers, and the way back to the waiting coroutine.
Knows nothing of pictures. Unlike `loop.run_in_executor` it refuses work beyond a bound, drops a job whose
waiter left before it began, takes turns between callers, lets urgent jobs past the others, and counts. It is
cheaper, too: about 0.7 of that time for a job on its own, 0.35 with 32 in flight (28 against 40 us, 5 against
14; two cores, uvloop). Handing results over several at a time gained nothing on top.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar, TypeVarTuple

from opsin_server.errors import Failure, Reason

__all__ = ["CpuPool", "PoolStats", "usable_cores"]

_PATIENCE = 3
"""Jobs that may go before a patient one."""

Result = TypeVar("Result")
Args = TypeVarTuple("Args")


def usable_cores() -> int:
    """Cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool at one moment, and since its start.

    queued, busy: jobs waiting, and running. finished: ran to their end, well or badly. skipped: never ran, as
    their waiter had left. refused: found the queue full.
    """

    workers: int
    queued: int
    busy: int
    finished: int
    skipped: int
    refused: int


class _Job:
    """One call on its way."""

    __slots__ = ("args", "flow", "future", "loop", "patient", "work")

    def __init__(
        self,
        work: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        flow: str,
        patient: bool,
    ) -> None:
        self.flow = flow
        self.patient = patient
        self.work = work
        self.args = args
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def answer(self, outcome: Any, failed: bool) -> None:
        """Hand the outcome over to the loop's thread; nobody may be there any more."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(_settle, self.future, outcome, failed)


class _Turns:
    """Waiting jobs, one of each flow in turn; of a flow in order of arrival."""

    __slots__ = ("_flows", "size")

    def __init__(self) -> None:
        # Ordered dicts, because a waiter that leaves takes its job out of the middle.
        self._flows: OrderedDict[str, OrderedDict[_Job, None]] = OrderedDict()
        self.size = 0

    def add(self, job: _Job) -> None:
        self._flows.setdefault(job.flow, OrderedDict())[job] = None
        self.size += 1

    def pop(self) -> _Job:
        """The next; there must be one."""
        flow, jobs = next(iter(self._flows.items()))
        job = jobs.popitem(last=False)[0]
        self.size -= 1
        if jobs:
            self._flows.move_to_end(flow)
        else:
            del self._flows[flow]
        return job

    def discard(self, job: _Job) -> bool:
        """Take a job out; False when it does not wait here."""
        jobs = self._flows.get(job.flow)
        if jobs is None or job not in jobs:
            return False
        del jobs[job]
        self.size -= 1
        if not jobs:
            del self._flows[job.flow]
        return True

    def clear(self) -> list[_Job]:
        """Take all of them out."""
        gone = [job for jobs in self._flows.values() for job in jobs]
        self._flows.clear()
        self.size = 0
        return gone


def _settle(future: asyncio.Future[Any], outcome: Any, failed: bool) -> None:
    if future.done():  # the waiter left
        return
    if failed:
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _call(work: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, bool]:
    """(result, False) or (exception, True)."""
    try:
        return work(*args), False
    except StopIteration as error:  # a future cannot carry it
        return RuntimeError(f"the job raised {error!r}"), True
    except Exception as error:
        return error, True
    except BaseException as error:  # SystemExit and the like would take the loop down with it
        return RuntimeError(f"the job raised {error!r}"), True


class CpuPool:
    """A fixed number of threads behind a bounded queue.

    workers: threads; 0 = one per usable core, but at least two, so that one long job does not stop the rest.
    max_queued: jobs that may wait. More are refused with QUEUE_FULL, urgent ones excepted.
    retry_after: seconds that a refused caller is told to wait.
    """

    def __init__(self, workers: int = 0, max_queued: int = 1024, retry_after: float = 0.1) -> None:
        self._size = workers or max(2, usable_cores())
        self._max_queued = max_queued
        self._retry_after = retry_after
        # True for each job put in, False to send one worker home. A job that was left leaves its True behind.
        self._permits: SimpleQueue[bool] = SimpleQueue()
        self._lock = threading.Lock()  # guards everything below
        self._urgent, self._normal, self._patient = _Turns(), _Turns(), _Turns()
        self._passed_over = 0
        self._closed = False
        self._busy = self._finished = self._skipped = self._refused = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"opsin-cpu-{number}", daemon=True)
            for number in range(self._size)
        ]
        for thread in self._threads:
            thread.start()

    def stats(self) -> PoolStats:
        """The counters, consistent with each other."""
        with self._lock:
            return PoolStats(
                self._size, self._queued(), self._busy, self._finished, self._skipped, self._refused
            )

    async def run(
        self,
        work: Callable[[*Args], Result],
        *args: *Args,
        urgent: bool = False,
        flow: str = "",
        patient: bool = False,
    ) -> Result:
        """`work(*args)` in a worker thread; its result, or whatever it raised.

        flow: whose job it is. One of each flow in turn, so that whoever has many waiting delays itself only.
        patient: lets the others go first, but for every fourth job. For streams and bulk work.
        urgent: goes before the waiting jobs and is never refused. For work whose number is bounded elsewhere,
            as the end of a batch is by the lanes.

        Raises `Failure`: QUEUE_FULL, and DRAINING after `close`. When the caller is cancelled, a job that has
        not begun never will; one that has runs on, and its outcome is dropped.
        """
        job = _Job(work, args, asyncio.get_running_loop(), flow, patient)
        self._admit(job, urgent)
        try:
            outcome: Result = await job.future
        except asyncio.CancelledError:
            self._abandon(job)
            raise
        return outcome

    def close(self, timeout: float = 5.0) -> None:
        """Refuse new jobs, fail the waiting ones with DRAINING, and wait for the running ones.

        Blocks for up to `timeout` seconds, so it comes last. A thread that is still busy then is left to end
        with the process.
        """
        with self._lock:
            self._closed = True
            waiting = [job for turns in (self._urgent, self._normal, self._patient) for job in turns.clear()]
            self._skipped += len(waiting)
        for job in waiting:
            job.answer(_closed(), failed=True)
        for _ in self._threads:
            self._permits.put(False)
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _queued(self) -> int:
        return self._urgent.size + self._normal.size + self._patient.size

    def _admit(self, job: _Job, urgent: bool) -> None:
        with self._lock:
            if self._closed:
                raise _closed()
            if not urgent and self._normal.size + self._patient.size >= self._max_queued:
                self._refused += 1
                raise self._full()
            (self._urgent if urgent else self._patient if job.patient else self._normal).add(job)
        self._permits.put(True)

    def _full(self) -> Failure:
        limit = str(self._max_queued)
        message = f"{limit} inputs wait for a processor core already; no more may."
        return Failure(Reason.QUEUE_FULL, message, metadata={"limit": limit}, retry_after=self._retry_after)

    def _abandon(self, job: _Job) -> None:
        with self._lock:
            for turns in (self._urgent, self._normal, self._patient):
                self._skipped += turns.discard(job)

    def _next(self) -> _Job | None:
        with self._lock:
            turns = self._turn()
            if not turns.size:
                return None
            self._busy += 1
            return turns.pop()

    def _turn(self) -> _Turns:
        """Whose turn it is: the urgent, then the others before the patient, who come fourth at the latest."""
        if self._urgent.size:
            return self._urgent
        if self._normal.size and (not self._patient.size or self._passed_over < _PATIENCE):
            self._passed_over += bool(self._patient.size)
            return self._normal
        self._passed_over = 0
        return self._patient

    def _work(self) -> None:
        while self._permits.get():
            job = self._next()
            if job is None:
                continue
            outcome, failed = _call(job.work, job.args)
            with self._lock:
                self._busy -= 1
                self._finished += 1
            job.answer(outcome, failed)
            del job, outcome  # an idle worker must not hold a picture


def _closed() -> Failure:
    return Failure(Reason.DRAINING, "The server is shutting down.", retry_after=1.0)
