"""Callers of Opsin: plain stubs on one connection, which is what a gRPC client has.

python -m bench.peers.grpc_caller
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from bench.load import channel
from bench.peers.calling import Job, Send, serve
from opsin.v1 import DetectRequest, DetectResponse, Image, InferenceServiceStub

__all__ = ["main"]

PATIENCE = 120.0


@asynccontextmanager
async def connect(job: Job) -> AsyncGenerator[Send]:
    """A connection that lasts as long as the job."""
    async with channel(job.target) as opened:
        stub: Any = InferenceServiceStub(opened)

        async def send(data: bytes) -> dict[str, Any]:
            request = DetectRequest(model=job.model, image=Image(encoded=data))
            return _answer(await stub.Detect(request, timeout=PATIENCE))

        yield send


def _answer(reply: DetectResponse) -> dict[str, Any]:
    """In the form of `answers`."""
    if reply.labels:
        return {"labels": [[label.name, label.score] for label in reply.labels]}
    return {
        "boxes": [
            [one.label, one.score, one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max]
            for one in reply.detections
        ]
    }


def main() -> None:
    """Until standard input ends."""
    serve(connect)


if __name__ == "__main__":
    main()
