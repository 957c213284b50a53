"""Wall time of one input, stage by stage. Knows the stages' names and the clock, nothing of what they do."""

import time
from collections.abc import Sequence

from opsin_server.calls import Timings
from opsin_server.scheduling.batch import Done

__all__ = ["Stopwatch"]


class Stopwatch:
    """Wall time of one input by stage. Each stage ends where the next begins, waits for threads included."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._times = Timings()

    def admitted(self) -> None:
        """Admission ended."""
        now = time.monotonic()
        self._times.admission = now - self._last
        self._last = now

    def ready(self, decoded: float, prepared: float) -> None:
        """The picture was decoded at `decoded`, and the input ready at `prepared`."""
        self._times.decode = decoded - self._last
        self._times.prepare = prepared - decoded
        self._last = prepared

    def ran(self, done: Sequence[Done]) -> None:
        """All tickets are answered; the slowest one counts."""
        slowest = max(done, key=lambda d: d.finished)
        now = time.monotonic()
        self._times.queue = max(0.0, slowest.started - self._last)
        self._times.infer = slowest.inferred - slowest.started
        self._times.finish = now - slowest.inferred
        self._times.batch_size = slowest.batch_size
        self._last = now

    def add(self, stage: Timings) -> None:
        """A second stage ran after this one: its parts are added."""
        for name in ("decode", "prepare", "queue", "infer", "finish"):
            setattr(self._times, name, getattr(self._times, name) + getattr(stage, name))

    def stop(self) -> Timings:
        """The finished times."""
        self._times.total = time.monotonic() - self._begun
        return self._times
