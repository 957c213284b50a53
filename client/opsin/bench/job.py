"""What one process of callers is told to do, and how a job is dealt to several. Plain data."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from opsin.bench.arrivals import Arrivals
from opsin.bench.messages import Asked
from opsin.bench.payloads import Payload

__all__ = ["Job", "split"]


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does.

    client: keyword arguments of `opsin.AsyncClient`. method: detect, embed, batch or stream. callers: calls
    under way, or streams; None: no limit, in an open loop. arrivals: None for a closed loop. total, duration
    (seconds): at most one, or none for a whole trace. seed tells processes' inputs apart. drain: seconds to
    wait for answers after the last call was due; None: for all of them. process, processes: which of how many
    it is. all_streams: of all processes. Where streams send at a rate, total and arrivals are those of all of
    them, and each takes its own part.
    """

    client: dict[str, Any]
    method: str
    payload: Payload
    asked: Asked
    callers: int | None
    total: int | None
    duration: float | None
    warmup: float
    arrivals: Arrivals | None = None
    connections: int = 1
    seed: int = 0
    drain: float | None = None
    process: int = 0
    processes: int = 1
    all_streams: int = 0

    def to_line(self) -> str:
        """One JSON line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Job":
        """The inverse of `to_line`."""
        told = json.loads(line)
        payload, asked, arrivals = (told.pop(name) for name in ("payload", "asked", "arrivals"))
        return cls(
            payload=Payload(**{**payload, "paths": tuple(payload["paths"])}),
            asked=Asked(**asked),
            arrivals=Arrivals.from_dict(arrivals) if arrivals else None,
            **told,
        )

    @property
    def span(self) -> float:
        """The seconds that the arrivals are spread over; 0 for a closed loop."""
        if self.arrivals is None:
            return 0.0
        if self.arrivals.kind == "trace":
            times = list(self.arrivals.offsets(total=self.total, duration=self.duration))
            return times[-1] if times else 0.0
        if self.duration is not None:
            return self.duration
        return (self.total or 0) / self.arrivals.rate

    def camera(self, stream: int) -> "tuple[Arrivals | None, int | None]":
        """When the stream of that number (from 0, in this process) takes its frames, and how many.

        Streams are dealt to processes in turn, and all of them get the same share, however many of them a
        process has: unequal shares would pass for an unfair server.
        """
        at, streams = self.process + stream * self.processes, max(1, self.all_streams)
        total = None if self.total is None else _part(self.total, streams, at)
        return self.arrivals and self.arrivals.part(at, streams), total


def split(job: Job, processes: int) -> list[Job]:
    """The job dealt to so many processes, as evenly as callers and calls go; none without either."""
    processes = max(1, min(processes, job.callers or processes, job.total or processes))
    paced = job.method == "stream" and job.arrivals is not None
    return [
        replace(
            job,
            callers=None if job.callers is None else _part(job.callers, processes, at),
            total=job.total if paced or job.total is None else _part(job.total, processes, at),
            arrivals=job.arrivals if paced or job.arrivals is None else job.arrivals.part(at, processes),
            connections=max(1, _part(job.connections, processes, at)),
            seed=job.seed + at,
            process=at,
            processes=processes,
            all_streams=job.callers or 1,
        )
        for at in range(processes)
    ]


def _part(whole: int, parts: int, at: int) -> int:
    return whole // parts + (at < whole % parts)
