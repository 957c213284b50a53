"""A job carried out on its connections: a first call, a warm-up, and the measured run. Knows no processes."""

import time
from collections.abc import Awaitable, Iterator
from typing import Any

import opsin
from opsin._channel import DEFAULT_MAX_MESSAGE_BYTES, Link
from opsin.bench.calls import Connections, unary_call
from opsin.bench.job import Job
from opsin.bench.load import VANISHED, Budget, Call, Recording, Sample, closed_loop
from opsin.bench.messages import Maker, request_maker
from opsin.bench.openloop import open_loop
from opsin.bench.payloads import opener
from opsin.bench.presence import Presence
from opsin.bench.streams import Camera, film

__all__ = ["Run", "link_of"]

WARM_NUMBERS = 1 << 32
"""The warm-up and the first call send none of the inputs that the run sends."""
WARM_CALLERS = 64


def link_of(client: dict[str, Any]) -> Link:
    """The way to the server, from the keyword arguments of `opsin.AsyncClient`."""
    rest = {
        "timeout": 30.0,
        "tls": False,
        "token": None,
        "metadata": (),
        "max_message_bytes": DEFAULT_MAX_MESSAGE_BYTES,
        "user_agent": "opsin-bench",
    }
    return Link(**{**rest, **client})


class Run:
    """One job. `recording` fills as it goes; `stop` lets no more calls begin."""

    def __init__(self, job: Job, connections: Connections) -> None:
        self._job = job
        self._connections = connections
        self._make = opener(job.payload, job.seed)
        self._presence = Presence()
        closed = job.arrivals is None
        self._budget = Budget(total=job.total if closed else None, duration=job.duration if closed else None)
        self.recording = Recording()

    def stop(self, why: str) -> None:
        """End the run before its time; calls under way go on."""
        self.recording.ended = self.recording.ended or why
        self._budget.stop()

    async def probe(self) -> None:
        """One call, whose error is an error of the bench and not a figure. Raises `opsin.OpsinError`."""
        job, source = self._job, self._make(2 * WARM_NUMBERS)
        async with opsin.AsyncClient(**job.client) as client:
            match job.method:
                case "embed":
                    await client.embed(source, model=job.asked.model, skip_cache=job.asked.skip_cache)
                case "stream":
                    await _probe_stream(client, source, job.asked.model)
                case _:
                    await client.detect(source, model=job.asked.model, skip_cache=job.asked.skip_cache)

    async def warm(self) -> None:
        """Calls that are not counted: a closed loop, whatever the run is."""
        job = self._job
        if not job.warmup:
            return
        budget, callers = Budget(duration=job.warmup), min(job.callers or 8, WARM_CALLERS)
        if job.method == "stream":
            cameras = [Camera(number, None) for number in range(1, callers + 1)]
            await self._film(cameras, self._warm_input, Recording(), budget)
        else:
            await closed_loop(self._call(self._warm_input), budget, callers)

    def measure(self) -> Awaitable[Recording]:
        """The run itself."""
        job = self._job
        if job.method == "stream":
            streams = job.callers or 1
            cameras = [Camera(number + 1, self._offsets(number)) for number in range(streams)]
            return self._film(
                cameras, self._make, self.recording, self._budget, span=job.span, drain=job.drain
            )
        call = self._watched(self._call(self._make))
        if job.arrivals is None:
            return closed_loop(call, self._budget, job.callers or 1, self.recording)
        return open_loop(
            call,
            job.arrivals.offsets(total=job.total, duration=job.duration),
            self.recording,
            budget=self._budget,
            callers=job.callers,
            span=job.span,
            drain=job.drain,
        )

    def _warm_input(self, number: int) -> Any:
        return self._make(number + WARM_NUMBERS)

    def _call(self, make: Maker) -> Call:
        job = self._job
        return unary_call(self._connections, job.method, request_maker(job.method, make, job.asked))

    def _film(
        self, cameras: list[Camera], make: Maker, recording: Recording, budget: Budget, **more: Any
    ) -> Awaitable[Recording]:
        return film(
            self._connections,
            make,
            self._job.asked,
            cameras,
            recording,
            budget=budget,
            note=self._note,
            **more,
        )

    def _offsets(self, stream: int) -> Iterator[float] | None:
        job = self._job
        arrivals, total = job.camera(stream)
        return arrivals.offsets(total=total, duration=job.duration) if arrivals else None

    def _watched(self, call: Call) -> Call:
        async def watched(number: int) -> Sample:
            sample = await call(number)
            self._note(sample)
            return sample

        return watched

    def _note(self, sample: Sample) -> None:
        if self._presence.note(sample, time.perf_counter()):
            self.stop(VANISHED)


async def _probe_stream(client: "opsin.AsyncClient", source: Any, model: str) -> None:
    async with client.stream([opsin.Frame(source)], model=model) as session:
        async for event in session:
            if isinstance(event, opsin.FrameFailed):
                raise event.error
