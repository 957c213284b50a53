"""StreamDetect: a task that reads, a task that answers each frame, and one that writes in order.

Owns the stream's protocol on the wire: config first and once, increasing sequences, exactly one reply a
frame, in order, and a window that stops the reading when it is full (EVERY_FRAME). Frames become ordinary
calls.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from opsin.v1.stream_pb2 import (
    Frame,
    FrameResult,
    GoAway,
    GoAwayReason,
    StreamConfig,
    StreamDetectRequest,
    StreamDetectResponse,
    StreamReady,
)
from opsin_server.calls import Caller, DetectAnswer, DetectCall, DetectOptions
from opsin_server.config import LimitSettings, StreamSettings
from opsin_server.errors import Failure, Reason
from opsin_server.rpc.convert import detect_options, image_source
from opsin_server.rpc.edge import CallContext
from opsin_server.rpc.errors import as_failure, status_of
from opsin_server.rpc.replies import fill_detect, microseconds, model_ref
from opsin_server.rpc.seam import Catalog, Pipeline
from opsin_server.rpc.stream_age import Ages
from opsin_server.rpc.stream_config import StreamTerms, terms, updated_options
from opsin_server.scheduling.ticket import Priority
from opsin_server.telemetry.metrics import Metrics

__all__ = ["StreamService"]

Send = Callable[[Message], Awaitable[None]]
Requests = AsyncIterator[StreamDetectRequest]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a frame. arrived, ready: monotonic seconds; excess: see `Ages`."""

    frame: Frame
    answer: DetectAnswer | Failure
    arrived: float
    ready: float
    excess: float


class StreamService:
    """StreamDetect as a behaviour for `Edge`."""

    def __init__(
        self,
        pipeline: Pipeline,
        catalog: Catalog,
        limits: LimitSettings,
        settings: StreamSettings,
        metrics: Metrics,
    ) -> None:
        self.pipeline = pipeline
        self.limits = limits
        self.window = settings.max_in_flight
        self.metrics = metrics
        self._catalog = catalog
        self._open = 0
        self._live: set[_Stream] = set()
        self._draining = False

    @property
    def live(self) -> int:
        """Streams open now."""
        return self._open

    def drain(self) -> None:
        """Send every stream away: it answers what it accepted, says go-away, and ends OK."""
        self._draining = True
        for stream in tuple(self._live):
            stream.leave()

    async def stream_detect(self, requests: Requests, send: Send, context: CallContext) -> None:
        """Serve one stream to its end."""
        if self._draining:
            raise Failure(Reason.DRAINING, "This server is shutting down.", retry_after=1.0)
        if self._open >= self.limits.max_streams:
            limit = str(self.limits.max_streams)
            message = f"This server has as many streams as it takes: {limit}."
            raise Failure(Reason.STREAM_LIMIT, message, metadata={"limit": limit})
        self._open += 1
        try:
            agreed = terms(await _config(requests), self._catalog, self.limits)
            ready = StreamReady(stream_id=agreed.stream_id, model=model_ref(agreed.model))
            await send(StreamDetectResponse(max_in_flight=self.window, ready=ready))
            await self._run(_Stream(self, agreed, context), requests, send)
        finally:
            self._open -= 1

    async def _run(self, stream: "_Stream", requests: Requests, send: Send) -> None:
        self._live.add(stream)
        if self._draining:
            stream.leave()
        try:
            await stream.run(requests, send)
        finally:
            self._live.discard(stream)


class _Stream:
    """One live stream, after `ready`."""

    def __init__(self, service: StreamService, agreed: StreamTerms, context: CallContext) -> None:
        self._service = service
        self._model = agreed.model_key
        self._options = agreed.options
        self._caller = Caller(
            flow=f"stream/{agreed.stream_id}", priority=Priority.STREAM, request_id=context.request_id
        )
        self._last = 0
        self._ages = Ages()
        # A place is taken before a frame is read, and given back when its reply is written.
        self._places = asyncio.Semaphore(service.window)
        self._replies: asyncio.Queue[asyncio.Task[_Outcome] | None] = asyncio.Queue()
        self._running: set[asyncio.Task[_Outcome]] = set()
        self._reader: asyncio.Task[Failure | None] | None = None
        self._leaving = False

    def leave(self) -> None:
        """Read no further; what was accepted is answered, and a go-away ends the stream."""
        self._leaving = True
        if self._reader is not None:
            self._reader.cancel()

    async def run(self, requests: Requests, send: Send) -> None:
        """Until the client is done, or has broken the protocol: then after what was accepted is answered."""
        try:
            async with asyncio.TaskGroup() as tasks:
                reader = self._reader = tasks.create_task(self._read(requests))
                tasks.create_task(self._write(send))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # the caller maps one error, not a group
        finally:
            for frame in self._running:
                frame.cancel()
        broken = reader.result()
        if broken is not None:
            raise broken
        if self._leaving:
            go_away = GoAway(reason=GoAwayReason.GO_AWAY_REASON_DRAINING, last_sequence=self._last)
            await send(StreamDetectResponse(max_in_flight=self._service.window, go_away=go_away))

    async def _read(self, requests: Requests) -> Failure | None:
        """Read to the end, or to the first message that breaks the protocol, which is returned."""
        broken = None
        try:
            await self._places.acquire()
            while not self._leaving and (request := await anext(requests, None)) is not None:
                if self._take(request):
                    await self._places.acquire()
        except Failure as failure:
            broken = failure
        except asyncio.CancelledError:
            if not self._leaving:
                raise
        self._replies.put_nowait(None)
        return broken

    async def _write(self, send: Send) -> None:
        """Reply to every frame at its turn."""
        while (running := await self._replies.get()) is not None:
            await send(self._reply(await running))
            self._places.release()

    def _take(self, request: StreamDetectRequest) -> bool:
        """Act on one message; whether it was a frame. Raises `Failure` when it breaks the protocol."""
        match request.WhichOneof("kind"):
            case "frame":
                self._accept(request.frame)
                return True
            case "update":
                self._options = updated_options(request.update, self._options, self._service.limits)
                return False
            case "config":
                raise _protocol("A stream has one config; send an update instead.", "config")
            case _:
                raise _protocol("A message of a stream holds a config, a frame or an update.", "kind")

    def _accept(self, frame: Frame) -> None:
        if frame.sequence <= self._last:
            raise Failure(
                Reason.SEQUENCE_NOT_INCREASING,
                f"Frame {frame.sequence} came after frame {self._last}; sequences start at 1 and increase.",
                field="frame.sequence",
                metadata={"sequence": str(frame.sequence), "last": str(self._last)},
            )
        self._last = frame.sequence
        arrived = time.monotonic()
        running = asyncio.create_task(
            self._answer(frame, self._options, arrived, self._excess(frame, arrived))
        )
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        self._replies.put_nowait(running)

    def _excess(self, frame: Frame, now: float) -> float:
        if not frame.HasField("capture_time"):
            return 0.0
        captured = frame.capture_time.seconds + frame.capture_time.nanos / 1e9
        return self._ages.excess(captured, time.time(), now)

    async def _answer(self, frame: Frame, options: DetectOptions, arrived: float, excess: float) -> _Outcome:
        answer: DetectAnswer | Failure
        try:
            call = _call(frame, self._model, options, self._caller, self._service.limits)
            answer = await self._service.pipeline.detect(call)
        except Exception as error:
            answer = _placed(as_failure(error), frame)
        return _Outcome(frame, answer, arrived, time.monotonic(), excess)

    def _reply(self, outcome: _Outcome) -> StreamDetectResponse:
        reply = StreamDetectResponse(max_in_flight=self._service.window)
        if isinstance(outcome.answer, Failure):
            reason = outcome.answer.reason.value
            self._service.metrics.failed(reason)
            self._service.metrics.frame("failed", reason)
            reply.failed.sequence = outcome.frame.sequence
            reply.failed.error.CopyFrom(status_of(outcome.answer))
        else:
            self._service.metrics.frame("result")
            _fill(reply.result, outcome, outcome.answer, time.monotonic())
        return reply


async def _config(requests: Requests) -> StreamConfig:
    async for request in requests:
        if request.WhichOneof("kind") != "config":
            raise _protocol("The first message of a stream is its config.", "config")
        return request.config
    raise _protocol("The stream ended before its config.", "config")


def _call(
    frame: Frame, model: str, options: DetectOptions, caller: Caller, limits: LimitSettings
) -> DetectCall:
    match frame.WhichOneof("payload"):
        case "image":
            source = image_source(frame.image, "image")
        case "packet":
            message = "The frame has a packet, and the stream's codec is IMAGE: send an image."
            raise Failure(Reason.CODEC_UNSUPPORTED, message, field="packet")
        case _:
            raise Failure(Reason.INPUT_MISSING, "The frame needs an image.", field="payload")
    if frame.HasField("options"):
        options = detect_options(frame.options, limits, "options")
    return DetectCall(model, source, options, caller)


def _placed(failure: Failure, frame: Frame) -> Failure:
    """The failure with its path from the message's root. Options that no frame named are the stream's."""
    if failure.field.startswith("options") and not frame.HasField("options"):
        return failure.within("config")
    return failure.within("frame")


def _fill(result: FrameResult, outcome: _Outcome, answer: DetectAnswer, now: float) -> None:
    """A result whose turn has come at `now`: the times count from the frame's arrival to here."""
    result.sequence = outcome.frame.sequence
    fill_detect(result.response, answer)
    result.response.timings.total_us = microseconds(now - outcome.arrived)
    result.response.timings.order_us = microseconds(now - outcome.ready)
    if outcome.frame.HasField("capture_time"):
        result.capture_time.CopyFrom(outcome.frame.capture_time)
    result.age.FromMicroseconds(round((now - outcome.arrived + outcome.excess) * 1e6))


def _protocol(message: str, field: str) -> Failure:
    return Failure(Reason.STREAM_PROTOCOL, message, field=field)
