"""The processes of callers, and the bare model beside them.

Several processes, because one Python process of callers is slower than a good server. They start their run
together, after all have warmed up. The bare model is run by the server package, which this one may not
import: it is reached as a program, `python -m opsin_server.bare`, that answers in JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from opsin.bench.load import Recording
from opsin.bench.worker import Job

__all__ = ["BarePlan", "BenchError", "run_bare", "run_jobs", "split"]


class BenchError(Exception):
    """The run cannot be measured; the message says why. unreachable: because no server answers."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


def split(job: Job, processes: int) -> list[Job]:
    """The job dealt to so many processes, as evenly as callers and calls go; none without a caller."""
    processes = min(processes, job.callers, job.total or job.callers)
    return [
        replace(
            job,
            callers=_part(job.callers, processes, at),
            total=None if job.total is None else _part(job.total, processes, at),
            seed=job.seed + at,
        )
        for at in range(processes)
    ]


def _part(whole: int, parts: int, at: int) -> int:
    return whole // parts + (at < whole % parts)


def run_jobs(jobs: Sequence[Job]) -> list[Recording]:
    """Run each job in a process of its own, all at once. Raises `BenchError`."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(job)) for job in jobs]
        for worker in workers:
            worker.hear()
        for worker in workers:
            worker.go()
        return [Recording.from_wire(worker.hear()) for worker in workers]


class _Worker:
    """One process of callers; leaving the context ends it."""

    def __init__(self, job: Job) -> None:
        self._process = _start(["opsin.bench.worker"], stdin=subprocess.PIPE)
        self._tell(job.to_line())

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate()

    def go(self) -> None:
        """Begin the measured run."""
        self._tell("go\n")

    def hear(self) -> dict[str, Any]:
        """The next line it prints."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"a process of callers ended by itself with code {self._process.wait()}.")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise BenchError(told["error"], unreachable=told["unreachable"])
        return told

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line)
        self._process.stdin.flush()


@dataclass(frozen=True, slots=True)
class BarePlan:
    """What the server is compared with. seconds: of each round. threads: of each process."""

    model: str
    processes: int
    batch: int
    seconds: float
    threads: int = 1

    def to_arguments(self) -> list[str]:
        """As `opsin_server.bare` takes it."""
        options = asdict(self)
        return [f"--{name}={value}" for name, value in options.items()]


def run_bare(plan: BarePlan, paths: Sequence[str]) -> float:
    """Inputs a second that the model answers without a server, on this machine. Raises `BenchError`."""
    process = _start(["opsin_server.bare", *plan.to_arguments(), *paths], stdin=subprocess.DEVNULL)
    try:
        answer, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode != 0:
        raise BenchError(
            "the bare model could not be run. It needs the server and the model on this machine: "
            "pip install 'opsin[server,torch]', and --model as 'opsin serve' takes it."
        )
    rate: float = json.loads(answer)["rate"]
    return rate


def _start(module: Sequence[str], *, stdin: int) -> "subprocess.Popen[str]":
    # The path that this process finds its modules by, which need not be the one a fresh Python would have.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", *module], stdin=stdin, stdout=subprocess.PIPE, text=True, env=environment
    )
