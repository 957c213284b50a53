"""Lanes: the threads that run batches on a device, one batch at a time each.

A lane owns one thread and nothing else. It is given a `Job` only when it is free, runs it, and reports from
its own thread; it never decides what runs next and never touches a queue, an event loop or a future. What a
job does on the device is the job's business.

A thread cannot be killed. A lane whose job never returns is *abandoned*: its report, should it ever come,
is ignored, and its thread ends after the job does. A job that raises is an answer (`Report.error`); only
something that is no `Exception` (SystemExit, a broken interpreter) kills the thread, and that too is
reported, with `Report.died` set, so that the owner can replace the lane.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

__all__ = ["Job", "Lane", "Report"]


class Job(Protocol):
    """Something to run on a lane's thread."""

    def run(self, lane: "Lane") -> object:
        """Do the work and return its outputs; called on the lane's thread."""
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


class Lane:
    """One worker thread of a device.

    report: called on the lane's thread after each job; must be quick and thread-safe.
    threads: torch threads that one job may use on a CPU; ignored when torch is not loaded.
    """

    def __init__(self, index: int, report: Callable[[Report], None], *, threads: int = 1) -> None:
        self.index = index
        self.threads = threads
        self.job: Job | None = None
        """What runs now. Set and cleared by the owner, on the owner's thread."""
        self.since = time.monotonic()
        """When the current job was given, or the last one was reported."""
        self.busy_seconds = 0.0
        self._report = report
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._abandoned = False
        self._width = 0
        self._thread = threading.Thread(target=self._main, name=f"lane-{index}", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """True when a job may be given."""
        return self.job is None

    def give(self, job: Job) -> None:
        """Run `job` next. The lane must be idle."""
        if self.job is not None:
            raise RuntimeError(f"lane {self.index} is busy")
        self.job = job
        self.since = time.monotonic()
        self._inbox.put(job)

    def run_here(self, job: Job) -> Report:
        """Run `job` on the calling thread, in this lane's place. The lane must be idle, and stays so."""
        started = time.monotonic()
        outputs: object = None
        error: Exception | None = None
        try:
            outputs = job.run(self)
        except Exception as caught:  # a job's failure is an answer, whatever it is
            error = caught
        report = Report(self, job, started, time.monotonic(), outputs=outputs, error=error)
        self.busy_seconds += report.ended - started
        return report

    def release(self, report: Report) -> None:
        """Take note, on the owner's thread, that the job was reported: the lane is idle again."""
        self.job = None
        self.since = time.monotonic()
        self.busy_seconds += report.ended - report.started

    def stalled(self, now: float, timeout: float) -> bool:
        """Whether the current job has run for longer than `timeout` seconds."""
        return self.job is not None and now - self.since > timeout

    def abandon(self) -> None:
        """Give the lane up: nothing more is reported, and its thread ends when its job does, if ever."""
        self._abandoned = True
        self._inbox.put(None)

    def close(self) -> None:
        """Let the thread end after the current job."""
        self._inbox.put(None)

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end; True when it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _main(self) -> None:
        while (job := self._inbox.get()) is not None:
            started = time.monotonic()
            try:
                self._set_width()
                outputs = job.run(self)
            except Exception as error:  # a job's failure is an answer, whatever it is
                self._tell(Report(self, job, started, time.monotonic(), error=error))
            except BaseException as error:
                self._tell(Report(self, job, started, time.monotonic(), error=error, died=True))
                return
            else:
                self._tell(Report(self, job, started, time.monotonic(), outputs=outputs))
                outputs = None  # do not hold a batch's outputs while waiting for the next
            job = None

    def _tell(self, report: Report) -> None:
        if not self._abandoned:
            self._report(report)

    def _set_width(self) -> None:
        """Torch's thread count belongs to the calling thread; torch may be loaded after the lane began."""
        if self._width != self.threads and (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(self.threads)
            self._width = self.threads
