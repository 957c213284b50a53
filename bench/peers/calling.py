"""Closed-loop callers in a process of their own: jobs on standard input, what came of them on the other.

Knows neither HTTP nor gRPC: `http_caller` and `grpc_caller` bring a connection and the way to send a file.
Runs in any environment that has Python and uvloop.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from bench.numbering import numbered

__all__ = ["Heard", "Job", "Send", "serve"]

Send = Callable[[bytes], Awaitable[dict[str, Any]]]
"""A file to its answer, in the form of `answers`; raises when there is none."""
Connect = Callable[["Job"], AbstractAsyncContextManager[Send]]


@dataclass(frozen=True, slots=True)
class Job:
    """Who is asked, and how. seconds: 0 asks once for each picture and keeps the answers.

    form: the picture travels as a field of an HTML form, not as the request's body.
    """

    target: str
    model: str
    paths: tuple[str, ...]
    callers: int = 1
    seconds: float = 0.0
    warmup: float = 0.0
    seed: int = 0
    form: bool = False

    def to_line(self) -> str:
        """As it crosses to the other process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> "Job":
        """The inverse."""
        told = json.loads(line)
        return cls(**{**told, "paths": tuple(told["paths"])})


@dataclass(slots=True)
class Heard:
    """milliseconds: of every answered call. cpu_seconds: of the callers' process. errors: by kind."""

    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second, up to the last one."""
        return len(self.milliseconds) / self.seconds if self.seconds else 0.0

    def to_line(self) -> str:
        """As it crosses to the other process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> "Heard":
        """The inverse."""
        return cls(**json.loads(line))


def serve(connect: Connect) -> None:
    """Do what standard input says until it ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            job = Job.from_line(line)
            files = [Path(path).read_bytes() for path in job.paths]
            print(runner.run(_do(job, files, connect)).to_line(), flush=True)


async def _do(job: Job, files: list[bytes], connect: Connect) -> Heard:
    async with connect(job) as send:
        if not job.seconds:
            return Heard(answers=[await send(data) for data in files])
        if job.warmup:
            await _loop(job, files, send, job.warmup, 1 << 48)
        return await _loop(job, files, send, job.seconds, job.seed << 32)


async def _loop(job: Job, files: list[bytes], send: Send, seconds: float, number: int) -> Heard:
    """So many callers, each sending when its last call was answered; calls that have begun are waited for."""
    heard, started, cpu = Heard(), time.perf_counter(), time.process_time()

    async def caller() -> None:
        nonlocal number
        while (begun := time.perf_counter()) < started + seconds:
            number += 1
            try:
                await send(numbered(files[number % len(files)], number))
            except Exception as error:
                kind = type(error).__name__
                heard.errors[kind] = heard.errors.get(kind, 0) + 1
                await asyncio.sleep(0.01)
            else:
                heard.milliseconds.append((time.perf_counter() - begun) * 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(job.callers):
            group.create_task(caller())
    heard.seconds, heard.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return heard
