"""What is measured: calls and their samples, how many may begin, and the loop of callers that wait.

In a closed loop each caller sends its next call when the last one is answered, so that a slow server is asked
less: what it measures is the server's speed, not what users of a busy one feel (that is `openloop`). Pure but
for the clock and the call it is given: knows neither the client nor the wire.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from operator import attrgetter
from sys import intern
from typing import Any

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "STAGES",
    "VANISHED",
    "Budget",
    "Call",
    "Recording",
    "Sample",
    "closed_loop",
]

STAGES = ("admission", "decode", "prepare", "queue", "infer", "finish", "order")
"""The stages the server times, in the order of `Sample.stages`."""
INTERRUPTED, VANISHED, FAILED = "interrupted", "vanished", "failed"
"""Why a bench ended before its time: somebody pressed Ctrl-C, the server went away, or something else."""
NOBODY = "UNAVAILABLE"
"""The error of a call that reached no server: gRPC's own has no reason, an Opsin server's always has one."""
PAUSE = 0.05
"""Seconds a caller waits after a call that reached nobody, which fails at once: without, it would spin."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One call, or one frame of a stream.

    seconds: until the answer was in hand, from sending it in a closed loop, from the intended time in an
    open one. error: the reason it failed for; "" when it was answered. dropped: the reason a frame was not
    looked at; "" otherwise. batch_size: how many inputs ran together, 0 when the answer was cached or joined.
    stages: milliseconds on the server, see `STAGES`. age: of a frame, in seconds. code: the gRPC code, "" for
    OK. at: when it was sent, or was meant to be, in seconds from the start. lag: seconds that the tool itself
    was late. stream: which one of the process a frame was of, from 1; 0 for a call. inputs: answered by the
    call. refused: the reasons of the inputs of a batch that were not.
    """

    seconds: float
    error: str = ""
    dropped: str = ""
    batch_size: int = 0
    stages: tuple[float, ...] = ()
    age: float | None = None
    code: str = ""
    at: float = 0.0
    lag: float = 0.0
    stream: int = 0
    inputs: int = 1
    refused: tuple[str, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether it got what it asked for."""
        return not self.error and not self.dropped

    @property
    def reached_nobody(self) -> bool:
        """Whether no server took it."""
        return self.error == NOBODY

    @classmethod
    def from_row(cls, row: list[Any]) -> "Sample":
        """From what `to_wire` made of it. Equal texts become one: a long run has millions of samples."""
        seconds, error, dropped, batch, stages, age, code, at, lag, stream, inputs, refused = row
        texts, lists = (intern(error), intern(dropped), intern(code)), (tuple(stages), tuple(refused))
        return cls(
            seconds, texts[0], texts[1], batch, lists[0], age, texts[2], at, lag, stream, inputs, lists[1]
        )


_ROW = attrgetter(*Sample.__dataclass_fields__)

Call = Callable[[int], Awaitable[Sample]]
"""Makes the call of that number. Never raises for what a server can do; leaves `at` and `lag` to the loop."""


@dataclass(slots=True)
class Recording:
    """What one process measured in one run.

    seconds: of wall time, up to the last answer. cpu_seconds: of the process. machine: the share of all cores
    of the machine that was busy, None where that cannot be told. begun: wall-clock time at the start. unsent:
    calls that were due, and not sent because too many were under way. unfinished: calls cut off at the end.
    ended: why before its time; "" when it was not. streams: how many there were.
    """

    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    machine: float | None = None
    begun: float = 0.0
    unsent: int = 0
    unfinished: int = 0
    ended: str = ""
    streams: int = 0

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready, a row a sample."""
        told: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**told, "samples": [_ROW(sample) for sample in self.samples]}

    @classmethod
    def from_wire(cls, told: dict[str, Any]) -> "Recording":
        """The inverse of `to_wire`, whose rows it uses up: both at once are too much of a long run."""
        samples = told["samples"]
        for place, row in enumerate(samples):
            samples[place] = Sample.from_row(row)
        return cls(**told)


class Budget:
    """How many calls may still begin: `total` of them, or those that fit in `duration` seconds."""

    def __init__(
        self,
        *,
        total: int | None = None,
        duration: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """At most one of the two is given; without, there is no end but `stop`.

        The time starts at the first `take`.
        """
        assert total is None or duration is None
        self._total = total
        self._duration = duration
        self._clock = clock
        self._end: float | None = None
        self.begun = 0
        self.stopped = False

    def stop(self) -> None:
        """No more calls are to begin."""
        self.stopped = True

    def take(self) -> int | None:
        """The number of the next call, from 0; None when there is to be none."""
        if self.stopped:
            return None
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


async def closed_loop(
    call: Call, budget: Budget, callers: int, recording: Recording | None = None
) -> Recording:
    """Run `callers` callers until the budget is spent; calls that have begun are waited for and counted.

    recording: where samples go as they come, so that they are there when this is cancelled.
    """
    recording = Recording() if recording is None else recording
    started, cpu = time.perf_counter(), time.process_time()
    under_way = 0

    async def caller() -> None:
        nonlocal under_way
        while (number := budget.take()) is not None:
            at = time.perf_counter() - started
            under_way += 1
            sample = await call(number)
            under_way -= 1
            recording.samples.append(replace(sample, at=at))
            recording.seconds = time.perf_counter() - started
            if sample.reached_nobody:
                await asyncio.sleep(PAUSE)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
    finally:
        # Up to the last answer, unless there was none: what a call that is cut off waited for counts nothing.
        recording.seconds = recording.seconds or time.perf_counter() - started
        recording.unfinished += under_way
        recording.cpu_seconds = time.process_time() - cpu
    return recording
