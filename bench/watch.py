"""What a server does while others load it: counters and CPU time over the middle of a run.

The beginning and the end of a run, when callers come and go, are no part of what is asked.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from bench.load import beside
from bench.server import Counters, Server

__all__ = ["LEAD", "Span", "span", "wait_for", "watched"]

L = TypeVar("L")
T = TypeVar("T")

LEAD = 1.5
"""Seconds under load before anything counts."""
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Span:
    """What happened between two moments. seconds: wall time between them; cpu: the server's."""

    before: Counters
    after: Counters
    seconds: float
    cpu: float

    def total(self, name: str, **labels: str) -> float:
        """How much a counter grew."""
        return self.after.total(name, **labels) - self.before.total(name, **labels)

    def mean_batch(self, model: str) -> float:
        """Inputs a batch."""
        batches = self.total("opsin_batch_size_count", model=model)
        return self.total("opsin_batch_size_sum", model=model) / batches if batches else 0.0

    def batch_seconds(self, model: str) -> float:
        """How long a batch of the model held its lane, on average."""
        batches = self.total("opsin_batch_seconds_count", model=model)
        return self.total("opsin_batch_seconds_sum", model=model) / batches if batches else 0.0

    def busy(self, lanes: int) -> float:
        """Share of the lanes' time spent running batches, by the batches that ended in this span."""
        return self.total("opsin_batch_seconds_sum") / (lanes * self.seconds)


class span:  # noqa: N801  used as `with span(server) as taken`
    """From here to the end of the block; `taken.over` has it afterwards."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.over: Span

    def __enter__(self) -> "span":
        self._before, self._cpu, self._at = _now(self._server)
        return self

    def __exit__(self, *_: object) -> None:
        after, cpu, at = _now(self._server)
        self.over = Span(self._before, after, at - self._at, cpu - self._cpu)


def _now(server: Server) -> tuple[Counters, float, float]:
    return server.counters(), server.cpu_seconds(), time.monotonic()


def watched(
    server: Server, drive_it: Callable[[L], T], loads: Sequence[L], seconds: float, models: Sequence[str]
) -> tuple[Span, list[T]]:
    """Run the loads, each in a process of its own, and watch the server for `seconds` in their middle.

    The loads have to go on for `seconds` + 2 x `LEAD` and some time for processes to start.
    """
    before = server.counters()
    with ExitStack() as stack:
        running = [stack.enter_context(beside(drive_it, load)) for load in loads]
        wait_for(lambda: _begun(server, before, models, running), "the load to begin")
        time.sleep(LEAD)
        with span(server) as taken:
            time.sleep(seconds)
        return taken.over, [one.result() for one in running]


def _begun(server: Server, before: Counters, models: Sequence[str], running: Sequence[Future[T]]) -> bool:
    for one in running:
        if one.done() and (error := one.exception()) is not None:
            raise error
    now = server.counters()
    return all(_ran(now, before, model) for model in models)


def _ran(now: Counters, before: Counters, model: str) -> bool:
    name = "opsin_batch_size_count"
    return now.total(name, model=model) > before.total(name, model=model)


def wait_for(holds: Callable[[], bool], what: str) -> None:
    """Ask until it holds. Raises TimeoutError."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.05)
