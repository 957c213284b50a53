"""What is to be measured: loads, rounds, who is compared with whom. Plain data, and the jobs it comes to."""

import os
from dataclasses import dataclass
from math import ceil
from typing import Any

from opsin.bench.arrivals import Arrivals
from opsin.bench.bare import BarePlan
from opsin.bench.job import Job
from opsin.bench.messages import Asked
from opsin.bench.pairing import Turn
from opsin.bench.payloads import Payload

__all__ = ["Plan", "Point", "job_of", "processes_for"]

CALLERS_EACH = 16
RATE_EACH = 500.0
"""What one process does with ease: callers in a closed loop, calls a second in an open one."""
LOCAL = ("127.", "localhost", "[::1]", "unix:")


@dataclass(frozen=True, slots=True)
class Point:
    """One load. callers: calls under way, or streams; None: no limit. arrivals: None for a closed loop."""

    callers: int | None
    arrivals: Arrivals | None = None

    @property
    def offered(self) -> float | None:
        """Calls a second that are to be sent; None in a closed loop."""
        return self.arrivals.rate if self.arrivals else None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    client: the keyword arguments of `opsin.AsyncClient`; rival: the same for the server it is paired with.
    total, duration (seconds): how long a run is, at most one of them; neither is a whole trace. processes: 0
    chooses. rounds: how often each load is run. deadline: seconds within which an answer is good.
    """

    client: dict[str, Any]
    method: str
    payload: Payload
    asked: Asked
    points: tuple[Point, ...]
    total: int | None = None
    duration: float | None = None
    processes: int = 0
    connections: int = 0
    warmup: float = 1.0
    rounds: int = 1
    deadline: float | None = None
    rival: dict[str, Any] | None = None
    bare: BarePlan | None = None
    seed: int = 1
    name: str = ""

    def client_of(self, side: int) -> dict[str, Any]:
        """Of the server (0), or of its rival (1)."""
        return self.rival if side and self.rival is not None else self.client

    def processes_of(self, point: Point) -> int:
        """How many processes of callers run a load."""
        if self.processes:
            return self.processes
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return processes_for(point, cores, local=str(self.client["target"]).startswith(LOCAL))


def processes_for(point: Point, cores: int, *, local: bool) -> int:
    """As many as the load needs; at most a half of the cores when the server is on this machine, too."""
    most = cores // 2 if local else cores
    each = point.offered / RATE_EACH if point.offered else (point.callers or 1) / CALLERS_EACH
    # The rate of a trace whose calls are all due at once is endless.
    return max(1, ceil(min(each, most)))


def job_of(plan: Plan, point: Point, turn: Turn, *, drain: float | None = None) -> Job:
    """The job of one run. Both sides of a round get the same inputs and arrivals; no other run does."""
    number = turn.round + 1
    return Job(
        client=plan.client_of(turn.side),
        method=plan.method,
        payload=plan.payload,
        asked=plan.asked,
        callers=point.callers,
        total=plan.total,
        duration=plan.duration,
        warmup=plan.warmup,
        arrivals=point.arrivals.again(number) if point.arrivals else None,
        connections=plan.connections or plan.processes_of(point),
        seed=1000 * (number * len(plan.points) + turn.point),
        drain=drain,
    )
