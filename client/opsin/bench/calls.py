"""What one call of the bench is: bytes out, bytes in, timed; its outcome is always a `Sample`.

Nothing is retried, so that what the server says is what is counted. The calls are dealt in turn to so many
connections.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from opsin import v1 as pb
from opsin._channel import Link
from opsin._errors import OpsinError
from opsin._status import error_from_call, error_from_status
from opsin.bench.load import STAGES, Call, Sample
from opsin.bench.messages import PATHS

__all__ = ["MALFORMED", "Connections", "failed", "of_one", "reading", "unary_call"]

MALFORMED = "MALFORMED_REPLY"
"""The error of an answer that is not the message it should be."""


class Connections:
    """So many connections to one server, for the loop they are entered in."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number
        self._channels: list[Any] = []

    async def __aenter__(self) -> Self:
        self._channels = [
            self._link.channel(grpc.aio, fresh=True, retries=False) for _ in range(self._number)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            await channel.close()

    def unary(self, path: str) -> list[Any]:
        """The method on each connection, bytes in and out."""
        return [channel.unary_unary(path, None, None) for channel in self._channels]

    def streams(self, path: str) -> list[Any]:
        """The same for a method with streams both ways."""
        return [channel.stream_stream(path, None, None) for channel in self._channels]

    def error(self, call: Any) -> OpsinError:
        """What a failed call says."""
        return error_from_call(call, target=self._link.target, timeout=self._link.timeout)

    @property
    def sent(self) -> dict[str, Any]:
        """What every call is made with."""
        return {"metadata": self._link.call_metadata, "timeout": self._link.deadline(None)}


def unary_call(connections: Connections, method: str, request: Callable[[int], bytes]) -> Call:
    """A call of one of the unary methods, ready for a loop."""
    ways, sent, read = connections.unary(PATHS[method]), connections.sent, reading(method)

    async def call(number: int) -> Sample:
        message = request(number)
        started = time.perf_counter()
        try:
            reply = await ways[number % len(ways)](message, **sent)
        except grpc.aio.AioRpcError as error:
            return failed(connections.error(error), time.perf_counter() - started)
        took = time.perf_counter() - started
        try:
            return read(reply, took)
        except DecodeError:
            return Sample(took, error=MALFORMED, code="INTERNAL")

    return call


def failed(error: OpsinError, seconds: float) -> Sample:
    """The sample of a call, or frame, that failed."""
    return Sample(seconds, error=error.reason or error.code.name, code=error.code.name)


def reading(method: str) -> Callable[[bytes, float], Sample]:
    """How the answers of a method become samples. The function raises DecodeError for what is no answer."""
    match method:
        case "embed":
            return lambda reply, seconds: of_one(pb.EmbedResponse.FromString(reply).timings, seconds)
        case "batch":
            return lambda reply, seconds: _of_batch(
                pb.BatchDetectResponse.FromString(reply).outcomes, seconds
            )
        case _:
            return lambda reply, seconds: of_one(pb.DetectResponse.FromString(reply).timings, seconds)


def of_one(timings: Any, seconds: float, age: float | None = None) -> Sample:
    """The sample of an answered input. timings: the message."""
    return Sample(seconds, batch_size=timings.batch_size, stages=_stages(timings), age=age)


def _of_batch(outcomes: Sequence[Any], seconds: float) -> Sample:
    """A batch is answered when one of its inputs is; its stages are the means over those."""
    good = [one.response.timings for one in outcomes if one.HasField("response")]
    errors = [error_from_status(one.error) for one in outcomes if not one.HasField("response")]
    refused = tuple(error.reason or error.code.name for error in errors)
    if not good:
        first = failed(errors[0], seconds) if errors else Sample(seconds, error=MALFORMED, code="INTERNAL")
        return replace(first, inputs=0, refused=refused)
    sizes = [timings.batch_size for timings in good if timings.batch_size]
    stages = tuple(sum(column) / len(good) for column in zip(*map(_stages, good), strict=True))
    batch_size = round(sum(sizes) / len(sizes)) if sizes else 0
    return Sample(seconds, batch_size=batch_size, stages=stages, inputs=len(good), refused=refused)


def _stages(timings: Any) -> tuple[float, ...]:
    return tuple(getattr(timings, f"{stage}_us") / 1000 for stage in STAGES)
