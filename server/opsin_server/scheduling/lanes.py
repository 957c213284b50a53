"""Lanes: the threads that run batches on a device, one batch at a time each.

A lane is given a `Job` when it has room, runs it, and reports from its own thread; it never decides what
runs next and never touches a queue, an event loop or a future. What a job does on the device is its business.

A CPU lane has room for one job and one thread, which launches and collects it. A GPU computes by itself, so
there a lane has room for two (`depth=2`) and two threads: the first launches a job (copies it in, issues its
work) while the device still computes the one before; the second waits for the device, collects and reports.
Jobs are reported in the order in which they were given.

A thread cannot be killed. A lane whose job never returns is *abandoned*: its report, should it ever come,
is ignored, and its threads end after the job does. A job that raises is an answer (`Report.error`); only
something that is no `Exception` (SystemExit, a broken interpreter) kills the thread, and that too is
reported, with `Report.died` set, so that the owner can replace the lane.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

__all__ = ["DEVICE", "Job", "Lane", "Report"]

DEVICE = "device"
"""Where `Lane.local` tells jobs which device they are on; not there where all lanes are on one."""


class Job(Protocol):
    """Something to run on a lane."""

    def launch(self, lane: "Lane") -> object:
        """Start the work; called on the lane's launching thread."""
        ...

    def collect(self, lane: "Lane", launched: object) -> object:
        """Wait for what `launch` started and return its outputs; called on the lane's collecting thread."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a job. started and ended are seconds on the monotonic clock."""

    lane: "Lane"
    job: Job
    started: float
    ended: float
    outputs: object = None
    error: BaseException | None = None
    died: bool = False


@dataclass(frozen=True, slots=True)
class _Flying:
    """A job between its launch and its collection."""

    job: Job
    started: float
    launched: object = None
    error: BaseException | None = None


class Lane:
    """One worker of a device.

    report: called on a thread of the lane after each job; must be quick and thread-safe.
    threads: torch threads that one job may use on a CPU; ignored when torch is not loaded.
    depth: jobs that it has room for, 1 or 2.
    device: what it runs jobs on, where there are several.
    """

    def __init__(
        self,
        index: int,
        report: Callable[[Report], None],
        *,
        threads: int = 1,
        depth: int = 1,
        device: str = "",
    ) -> None:
        self.index = index
        self.device = device
        self.threads = threads
        self.depth = depth
        self.jobs: deque[Job] = deque()
        """What was given and not yet reported, oldest first. Kept by the owner, on the owner's thread."""
        self.since = time.monotonic()
        """When the oldest of them became the oldest."""
        self.local: dict[str, object] = {DEVICE: device} if device else {}
        """What jobs keep on this lane from one to the next: streams, buffers. For the lane's threads."""
        self._report = report
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._flying: SimpleQueue[_Flying | None] = SimpleQueue()
        self._last_end = 0.0
        self._abandoned = False
        self._width = 0
        self._wanted = threads
        mains = [self._launch_all, self._collect_all] if depth > 1 else [self._run_all]
        self._workers = [
            threading.Thread(target=main, name=f"lane-{index}-{n}", daemon=True)
            for n, main in enumerate(mains)
        ]
        for thread in self._workers:
            thread.start()

    @property
    def idle(self) -> bool:
        """True when it has nothing to do."""
        return not self.jobs

    @property
    def room(self) -> bool:
        """True when a job may be given."""
        return len(self.jobs) < self.depth

    def give(self, job: Job, *, threads: int = 0) -> None:
        """Run `job` next, with `threads` torch threads; 0: its own number. The lane must have room."""
        if not self.room:
            raise RuntimeError(f"lane {self.index} is busy")
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs.append(job)
        self._wanted = threads or self.threads  # with room for two, a job may get the width of the next
        self._inbox.put(job)

    def run_here(self, job: Job) -> tuple[float, object, BaseException | None]:
        """Run `job` on the calling thread, in this lane's place. The lane must be idle, and stays so.

        When it began, in clock seconds, its outputs, and what it raised.
        """
        started = time.monotonic()
        try:
            return started, job.collect(self, job.launch(self)), None
        except BaseException as error:  # a job's failure is an answer, whatever it is
            return started, None, error

    def release(self, report: Report) -> None:
        """Take note, on the owner's thread, that a job was reported."""
        self.jobs.remove(report.job)
        self.since = time.monotonic()

    def stalled(self, now: float, timeout: float) -> bool:
        """Whether the oldest job has run for longer than `timeout` seconds."""
        return bool(self.jobs) and now - self.since > timeout

    def abandon(self) -> None:
        """Give the lane up: nothing more is reported, and its threads end when its job does, if ever."""
        self._abandoned = True
        self._inbox.put(None)

    def close(self) -> None:
        """Let the threads end after what was given."""
        self._inbox.put(None)

    def join(self, timeout: float) -> bool:
        """Wait for the threads to end; True when they did."""
        ends = time.monotonic() + timeout
        for thread in self._workers:
            thread.join(max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in self._workers)

    # -- on the lane's threads ---------------------------------------------------------------------------

    def _run_all(self) -> None:
        while (job := self._inbox.get()) is not None:
            if self._tell(self._collected(self._launched(job))):
                return
            job = None  # do not hold a batch while waiting for the next

    def _launch_all(self) -> None:
        while (job := self._inbox.get()) is not None:
            self._flying.put(self._launched(job))
            job = None
        self._flying.put(None)

    def _collect_all(self) -> None:
        while (flying := self._flying.get()) is not None:
            if self._tell(self._collected(flying)):
                return
            flying = None

    def _launched(self, job: Job) -> _Flying:
        started = time.monotonic()
        try:
            self._set_width()
            return _Flying(job, started, job.launch(self))
        except BaseException as error:  # a job's failure is an answer, whatever it is
            return _Flying(job, started, error=error)

    def _collected(self, flying: _Flying) -> Report:
        """The device works on one job at a time: one begins when it was launched, or the last one ended."""
        outputs, error = None, flying.error
        if error is None:
            try:
                outputs = flying.job.collect(self, flying.launched)
            except BaseException as caught:
                error = caught
        started = max(flying.started, self._last_end)
        self._last_end = ended = time.monotonic()
        died = error is not None and not isinstance(error, Exception)
        return Report(self, flying.job, started, ended, outputs, error, died)

    def _tell(self, report: Report) -> bool:
        """Report, unless the lane was given up. True when its thread has to end."""
        if not self._abandoned:
            self._report(report)
        return report.died

    def _set_width(self) -> None:
        """Torch's thread count belongs to the calling thread; torch may be loaded after the lane began."""
        wanted = self._wanted
        if self._width != wanted and (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(wanted)
            self._width = wanted
