"""The closed loop: so many callers, each sending its next call when the last one is answered.

Pure but for the clock and the call it is given: knows neither the client nor the wire.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["STAGES", "Budget", "Recording", "Sample", "closed_loop"]

STAGES = ("admission", "decode", "prepare", "queue", "infer", "finish", "order")
"""The stages the server times, in the order of `Sample.stages`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One call, or one frame of a stream.

    seconds: from sending to the answer in hand. error: the reason it failed for; "" when it was answered.
    dropped: the reason a frame was not looked at; "" otherwise. batch_size: how many inputs ran together, 0
    when the answer was cached or joined. stages: milliseconds on the server, see `STAGES`. age: of a frame,
    in seconds.
    """

    seconds: float
    error: str = ""
    dropped: str = ""
    batch_size: int = 0
    stages: tuple[float, ...] = ()
    age: float | None = None

    @property
    def answered(self) -> bool:
        """Whether it got what it asked for."""
        return not self.error and not self.dropped


@dataclass(slots=True)
class Recording:
    """The samples of one run, the wall seconds it took, and the CPU seconds of the calling process."""

    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready, a row a sample."""
        rows = [(s.seconds, s.error, s.dropped, s.batch_size, s.stages, s.age) for s in self.samples]
        return {"rows": rows, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds}

    @classmethod
    def from_wire(cls, told: dict[str, Any]) -> "Recording":
        """The inverse of `to_wire`."""
        samples = [
            Sample(seconds, error, dropped, batch, tuple(stages), age)
            for seconds, error, dropped, batch, stages, age in told["rows"]
        ]
        return cls(samples, told["seconds"], told["cpu_seconds"])


class Budget:
    """How many calls may still begin: `total` of them, or those that fit in `duration` seconds."""

    def __init__(
        self,
        *,
        total: int | None = None,
        duration: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """One of the two is given. The time starts at the first `take`."""
        assert (total is None) != (duration is None)
        self._total = total
        self._duration = duration
        self._clock = clock
        self._end: float | None = None
        self.begun = 0

    def take(self) -> int | None:
        """The number of the next call, from 0; None when there is to be none."""
        if self._duration is not None:
            now = self._clock()
            if self._end is None:
                self._end = now + self._duration
            if now >= self._end:
                return None
        elif self._total is not None and self.begun >= self._total:
            return None
        self.begun += 1
        return self.begun - 1


async def closed_loop(call: Callable[[int], Awaitable[Sample]], budget: Budget, callers: int) -> Recording:
    """Run `callers` callers until the budget is spent; calls that have begun are waited for and counted."""
    recording = Recording()

    async def caller() -> None:
        while (number := budget.take()) is not None:
            recording.samples.append(await call(number))

    started, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    recording.seconds = time.perf_counter() - started
    recording.cpu_seconds = time.process_time() - cpu
    return recording
