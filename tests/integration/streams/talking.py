"""A client that does exactly as the test says: one call of StreamDetect, written and read by hand."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from opsin._ending import Ending
from opsin.v1 import (
    DropReason,
    Frame,
    Freshness,
    FreshnessMode,
    Image,
    InferenceServiceStub,
    RawImage,
    StreamConfig,
    StreamDetectRequest,
    StreamDetectResponse,
    StreamUpdate,
)
from serving import Serving


def picture(value: int = 128, width: int = 64, height: int = 48) -> Image:
    return Image(raw=RawImage(data=bytes([value]) * (width * height * 3), width=width, height=height))


def latest() -> Freshness:
    return Freshness(mode=FreshnessMode.FRESHNESS_MODE_LATEST)


class Talk:
    """One stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._ending = Ending(call)
        # Not call.read(), which forgets what has arrived as soon as the call's end has.
        self._arriving = aiter(call)
        self.replies: list[StreamDetectResponse] = []

    async def config(self, **fields: Any) -> StreamDetectResponse:
        await self._write(StreamDetectRequest(config=StreamConfig(**fields)))
        return await self.read()

    async def frame(self, sequence: int, image: Image | None = None, **fields: Any) -> None:
        if "packet" not in fields:
            fields["image"] = image or picture()
        if "captured" in fields:
            stamp = fields.pop("captured")
            fields["capture_time"] = {"seconds": stamp // 10**9, "nanos": stamp % 10**9}
        await self._write(StreamDetectRequest(frame=Frame(sequence=sequence, **fields)))

    async def update(self, **fields: Any) -> None:
        await self._write(StreamDetectRequest(update=StreamUpdate(**fields)))

    async def read(self) -> Any:
        """The next reply, or None at the end. Raises what the call ended with."""
        try:
            reply = await asyncio.wait_for(anext(self._arriving, None), 20)
        except grpc.aio.AioRpcError as error:
            if (told := await self._ending.of(error)) is None:
                return None
            raise told from None
        if reply is None:
            return None
        self.replies.append(reply)
        return reply

    async def rest(self) -> list[StreamDetectResponse]:
        """Half-close, and read to the end: the replies to frames, go-away included."""
        await self.call.done_writing()
        while await self.read() is not None:
            pass
        return [r for r in self.replies if r.WhichOneof("kind") != "ready"]

    async def _write(self, request: StreamDetectRequest) -> None:
        """Send, unless the server has ended the call already: what it said is there to be read."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.write(request)


@asynccontextmanager
async def talking(server: Serving) -> AsyncGenerator[Talk]:
    call = server.inference.StreamDetect(timeout=60)
    try:
        yield Talk(call)
    finally:
        call.cancel()


@asynccontextmanager
async def small_window(server: Serving) -> AsyncGenerator[Talk]:
    """A client whose transport does not make more room for replies that nobody reads."""
    async with grpc.aio.insecure_channel(server.target, options=[("grpc.http2.bdp_probe", 0)]) as channel:
        call = InferenceServiceStub(channel).StreamDetect(timeout=60)
        try:
            yield Talk(call)
        finally:
            call.cancel()


def word(reply: StreamDetectResponse) -> str:
    """What became of a frame."""
    match reply.WhichOneof("kind"):
        case "result":
            return "reused" if reply.result.reused_from else "result"
        case "dropped":
            return DropReason.Name(reply.dropped.reason).removeprefix("DROP_REASON_")
        case "failed":
            return reason(reply.failed.error)
        case kind:
            return str(kind)


def sequence(reply: StreamDetectResponse) -> int:
    kind = reply.WhichOneof("kind")
    return int(getattr(reply, kind).sequence) if kind in ("result", "dropped", "failed") else 0


def reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


def ended(error: grpc.aio.AioRpcError) -> str:
    """The reason that a call ended with."""
    trailers = dict(error.trailing_metadata() or ())
    return reason(status_pb2.Status.FromString(trailers["grpc-status-details-bin"]))
