"""A process of callers: `python -m opsin.bench.worker`, started by `fleet`.

It reads a `Job` as one JSON line from stdin, warms up, prints `{"ready": true}`, and waits for the line
`go TIME` (Unix seconds), so that all processes begin together. While it runs it prints `{"progress": ...}`
now and then; at the end its recording. The line `stop`, or the end of stdin, ends the run early, with what
was measured until then. What makes a run pointless (nobody there, unknown model, a first input that is
refused) is printed as `{"error": ...}` instead.
"""

import asyncio
import gc
import json
import os
import threading
import time
from contextlib import suppress
from typing import Any

from opsin.bench.cpu import busy_share, ticks
from opsin.bench.job import Job
from opsin.bench.load import INTERRUPTED, Recording

__all__ = ["main"]

EVERY = 0.5
"""Seconds between two lines of progress."""
GRACE = 2.0
"""Seconds for the calls under way when a run is stopped."""


class Orders:
    """What the parent says, a line at a time; the end of stdin reads as `stop`.

    A thread reads past Python's own buffer: one that held that buffer's lock at the end of the process would
    crash it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._start: asyncio.Future[float] = self._loop.create_future()
        self.stopped = asyncio.Event()
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    async def go(self) -> None:
        """Wait for the start, a moment that all processes agree on."""
        await asyncio.sleep(await self._start - time.time())

    def _read(self) -> None:
        rest = b""
        with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
            while data := os.read(0, 1024):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._loop.call_soon_threadsafe(self._heed, line.decode())
            self._loop.call_soon_threadsafe(self._heed, "stop")

    def _heed(self, line: str) -> None:
        match line.split():
            case ["go", when] if not self._start.done():
                self._start.set_result(float(when))
            case ["stop"]:
                self.stopped.set()
                if not self._start.done():
                    self._start.set_result(0.0)


async def work(job: Job) -> Recording:
    """Warm up, wait, run. Raises `opsin.OpsinError` for what makes the run pointless."""
    from opsin.bench.calls import Connections
    from opsin.bench.runner import Run, link_of

    orders = Orders()
    async with Connections(link_of(job.client), job.connections) as connections:
        run = Run(job, connections)
        if not await _prepared(run, orders):
            run.stop(INTERRUPTED)
            return run.recording
        # What is alive now stays so. A collection of everything would stop all callers at once.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        _say({"ready": True})
        await orders.go()
        return await _measured(run, orders)


async def _prepared(run: Any, orders: Orders) -> bool:
    """The first call and the warm-up; whether nobody said stop meanwhile, as a parent that dies does."""

    async def prepare() -> None:
        await run.probe()
        await run.warm()

    preparing = asyncio.ensure_future(prepare())
    stopping = asyncio.create_task(orders.stopped.wait())
    await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if preparing.done():
        await preparing
        return True
    preparing.cancel()
    with suppress(asyncio.CancelledError):
        await preparing
    return False


async def _measured(run: Any, orders: Orders) -> Recording:
    """The run, its progress told, ended early when the parent says so."""
    recording: Recording = run.recording
    before, recording.begun = ticks(), time.time()
    running = asyncio.ensure_future(run.measure())
    telling = asyncio.create_task(_tell(recording))
    stopping = asyncio.create_task(orders.stopped.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        run.stop(INTERRUPTED)
        await asyncio.wait({running}, timeout=GRACE)
        running.cancel()
    telling.cancel()
    stopping.cancel()
    with suppress(asyncio.CancelledError):
        await running
    recording.machine = busy_share(before, ticks())
    return recording


async def _tell(recording: Recording) -> None:
    told = answered = failed = 0
    while True:
        await asyncio.sleep(EVERY)
        for sample in recording.samples[told:]:
            answered += sample.answered
            failed += bool(sample.error)
            told += 1
        _say({"progress": {"answered": answered, "failed": failed}})


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    """Run one job from stdin."""
    import opsin

    job = Job.from_line(_first_line())
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            told = runner.run(work(job)).to_wire()
    except opsin.OpsinError as error:
        told = {
            "error": error.message,
            "unreachable": isinstance(error, opsin.Unreachable),
            "code": error.code.name,
            "reason": error.reason or "",
        }
    try:
        _say(told)
    except BrokenPipeError:  # the parent has died; what is left in the buffer is to raise nothing either
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _first_line() -> str:
    """The job. Nothing is said behind it before the answer."""
    data = b""
    while not data.endswith(b"\n") and (more := os.read(0, 1 << 16)):
        data += more
    return data.decode()


if __name__ == "__main__":
    main()
