"""A process of callers: `python -m opsin.bench.worker`, started by `fleet`.

It reads a `Job` as one JSON line from stdin, warms up, prints `{"ready": true}`, waits for a second line so
that all processes begin together, runs, and prints its recording. What makes a run pointless (nobody there,
unknown model, a first input that is refused) is printed as `{"error": ...}` instead.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from opsin.bench.calls import Maker, stream_frames, unary_call
from opsin.bench.load import Budget, Recording, closed_loop
from opsin.bench.payloads import Payload, opener

if TYPE_CHECKING:
    from opsin import AsyncClient

__all__ = ["Job", "main"]


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does. total or duration (seconds) is None; seed tells processes' inputs apart."""

    client: dict[str, Any]
    method: str
    payload: Payload
    options: dict[str, Any]
    callers: int
    total: int | None
    duration: float | None
    warmup: float
    seed: int = 0

    def to_line(self) -> str:
        """One JSON line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Job":
        """The inverse of `to_line`."""
        told = json.loads(line)
        payload = Payload(**told.pop("payload"))
        return cls(payload=payload, **told)


async def work(job: Job, wait_for_go: Callable[[], Awaitable[None]]) -> Recording:
    """Warm up, wait, run. Raises `opsin.OpsinError` for what makes the run pointless."""
    import opsin

    make = opener(job.payload, job.seed)
    async with opsin.AsyncClient(**job.client) as client:
        await _probe(client, job, make)
        if job.warmup:
            await _run(client, job, make, Budget(duration=job.warmup))
        await wait_for_go()
        return await _run(client, job, make, Budget(total=job.total, duration=job.duration))


async def _run(client: "AsyncClient", job: Job, make: Maker, budget: Budget) -> Recording:
    if job.method != "stream":
        return await closed_loop(unary_call(client, job.method, make, job.options), budget, job.callers)
    streams = []

    async def stream(_: int) -> Any:
        streams.append(await stream_frames(client, make, budget, job.options))

    # Each caller is one stream; together they spend one budget.
    recording = await closed_loop(stream, Budget(total=job.callers), job.callers)
    recording.samples = [sample for one in streams for sample in one.samples]
    return recording


async def _probe(client: "AsyncClient", job: Job, make: Maker) -> None:
    """One call, whose error is an error of the bench and not a figure."""
    import opsin

    if job.method == "embed":
        await client.embed(make(0), **job.options)
    elif job.method == "detect":
        await client.detect(make(0), **job.options)
    else:
        async with client.stream([opsin.Frame(make(0))], **job.options) as session:
            async for event in session:
                if isinstance(event, opsin.FrameFailed):
                    raise event.error


async def _wait_for_go() -> None:
    print(json.dumps({"ready": True}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    """Run one job from stdin."""
    import opsin

    job = Job.from_line(sys.stdin.readline())
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            told = runner.run(work(job, _wait_for_go)).to_wire()
    except opsin.OpsinError as error:
        told = {"error": error.message, "unreachable": isinstance(error, opsin.Unreachable)}
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
