"""What one call of the bench is: through `opsin.AsyncClient`, timed; its outcome is always a `Sample`."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from opsin.bench.load import STAGES, Budget, Recording, Sample

if TYPE_CHECKING:
    from opsin import AsyncClient, Timings

__all__ = ["Maker", "stream_frames", "unary_call"]

Maker = Callable[[int], Any]


def unary_call(
    client: "AsyncClient", method: str, make: Maker, options: dict[str, Any]
) -> Callable[[int], Awaitable[Sample]]:
    """A call of `detect` or `embed`, ready for the closed loop."""
    import opsin

    ask = client.embed if method == "embed" else client.detect

    async def call(number: int) -> Sample:
        source = make(number)
        started = time.perf_counter()
        try:
            answer = await ask(source, **options)
        except opsin.OpsinError as error:
            return Sample(time.perf_counter() - started, error=error.reason or error.code.name)
        return _sample(time.perf_counter() - started, answer.timings)

    return call


async def stream_frames(
    client: "AsyncClient", make: Maker, budget: Budget, options: dict[str, Any]
) -> Recording:
    """One stream, its frames sent as fast as the server takes them, until the budget is spent."""
    import opsin

    async def frames() -> AsyncIterator[Any]:
        while (number := budget.take()) is not None:
            yield opsin.Frame(make(number), capture_time=time.time())

    recording = Recording()
    started = time.perf_counter()
    try:
        async with client.stream(frames(), rate="max", **options) as session:
            async for event in session:
                recording.samples.append(_event(event))
    except opsin.OpsinError as error:
        recording.samples.append(Sample(time.perf_counter() - started, error=error.reason or error.code.name))
    return recording


def _event(event: Any) -> Sample:
    import opsin

    seconds = max(0.0, time.time() - event.capture_time) if getattr(event, "capture_time", None) else 0.0
    match event:
        case opsin.FrameResult():
            return _sample(seconds, event.result.timings, event.age)
        case opsin.FrameDropped():
            return Sample(seconds, dropped=str(event.reason), age=event.age)
        case _:
            return Sample(seconds, error=event.error.reason or event.error.code.name)


def _sample(seconds: float, timings: "Timings", age: float | None = None) -> Sample:
    stages = tuple(getattr(timings, f"{stage}_ms") for stage in STAGES)
    return Sample(seconds, batch_size=timings.batch_size, stages=stages, age=age)
