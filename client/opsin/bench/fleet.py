"""The processes of callers together: started, begun at one moment, listened to, and stopped.

Several, because one Python process of callers is slower than a good server. Ctrl-C ends a run early and keeps
what was measured; pressed again, or before the run has begun, it is a KeyboardInterrupt as ever.
"""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from opsin.bench.job import Job, split
from opsin.bench.load import Recording
from opsin.bench.processes import BenchError, start

__all__ = ["Progress", "run_jobs", "split"]

HEAD_START = 0.05
"""Seconds between the word to begin and the beginning: every process has heard it by then."""

Progress = Callable[[float, int, int], None]
"""Told of a run under way: seconds since its start, calls that were answered, calls that failed."""


def run_jobs(jobs: Sequence[Job], progress: Progress = lambda *_: None) -> list[Recording]:
    """Run each job in a process of its own, all at once. Raises `BenchError`."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(job)) for job in jobs]
        for worker in workers:
            worker.hear()
        moment = time.time() + HEAD_START
        for worker in workers:
            worker.tell(f"go {moment}")
        try:
            return _recordings(workers, progress)
        except KeyboardInterrupt:
            for worker in workers:
                worker.tell("stop")
            return _recordings(workers, progress)


def _recordings(workers: "Sequence[_Worker]", progress: Progress) -> list[Recording]:
    """What each of them says at the end; meanwhile, how far they are."""
    begun = time.monotonic()
    while True:
        running = [worker for worker in workers if not worker.finished]
        if not running:
            return [Recording.from_wire(worker.recording) for worker in workers]
        # Each of them says something now and then; one that is in trouble is heard while others run.
        for worker in running:
            worker.listen(wait=worker is running[0])
        answered, failed = (sum(worker.progress[at] for worker in workers) for at in (0, 1))
        progress(time.monotonic() - begun, answered, failed)


class _Worker:
    """One process of callers; leaving the context ends it."""

    def __init__(self, job: Job) -> None:
        self._process = start(["opsin.bench.worker"], stdin=subprocess.PIPE)
        self._target = str(job.client["target"])
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # A thread, so that no process ever waits for its progress to be read.
        threading.Thread(target=self._read, daemon=True).start()
        self.recording: dict[str, Any] = {}
        self.progress = (0, 0)
        self.tell(job.to_line().rstrip())

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        if not self.recording and self._process.poll() is None:
            self._process.terminate()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    @property
    def finished(self) -> bool:
        """Whether its recording has come."""
        return bool(self.recording)

    def hear(self) -> dict[str, Any]:
        """The next thing it says. Raises `BenchError`."""
        line = self._lines.get()
        if not line:
            raise BenchError(f"a process of callers ended by itself with code {self._process.wait()}.")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise BenchError(told.pop("error"), target=self._target, **told)
        return told

    def listen(self, *, wait: bool) -> None:
        """Take all that it has said, or the next thing it says, for progress or for its recording."""
        while not self.finished and (wait or not self._lines.empty()):
            told, wait = self.hear(), False
            if "progress" in told:
                self.progress = (told["progress"]["answered"], told["progress"]["failed"])
            else:
                self.recording = told

    def tell(self, line: str) -> None:
        """Give an order; one that has ended hears nothing."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")
