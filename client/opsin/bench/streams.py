"""Streams as a bench drives them: so many cameras, each a StreamDetect call, every reply accounted for.

A camera either keeps to the server's window (`max_in_flight`) and sends as fast as it is answered, or takes
its frames at given times whatever the server says, as a real one does; what the network does not take then
waits, and its latency counts the wait. A stream that the server ends is opened again; frames it left
unanswered are errors. Nothing is resumed or dropped here, so that what is told is the server's.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from opsin import v1 as pb
from opsin._parse import drop_reason
from opsin._status import error_from_status
from opsin.bench.calls import MALFORMED, Connections, failed, of_one
from opsin.bench.load import PAUSE, Budget, Recording, Sample
from opsin.bench.messages import PATHS, Asked, Maker, frame_message, opening
from opsin.bench.openloop import until

__all__ = ["Camera", "film"]

_END: Any = getattr(grpc.aio, "EOF")  # noqa: B009  which its type stubs have forgotten
GONE_AWAY, TOO_LATE = "GO_AWAY", "DEADLINE_EXCEEDED"
"""The errors of a frame that the server ended the stream before, and that it left for too long."""


@dataclass(frozen=True, slots=True)
class Camera:
    """One stream.

    number: of the stream in its process, from 1. offsets: when frames are taken, in seconds from the start;
    None: as the window lets them.
    """

    number: int
    offsets: Iterator[float] | None


async def film(
    connections: Connections,
    make: Maker,
    asked: Asked,
    cameras: Sequence[Camera],
    recording: Recording,
    *,
    budget: Budget,
    note: Callable[[Sample], None],
    span: float = 0.0,
    drain: float | None = None,
) -> Recording:
    """Run all cameras at once, until the budget or their offsets are spent and all frames are answered.

    note: is told of every sample. drain: seconds after `span` from which on no answer is waited for.
    """
    begin, cpu = time.perf_counter(), time.process_time()
    ways = connections.streams(PATHS["stream"])
    recording.streams = len(cameras)

    def keep(sample: Sample) -> None:
        recording.samples.append(sample)
        recording.seconds = time.perf_counter() - begin
        note(sample)

    films = [
        _Film(
            connections,
            ways[camera.number % len(ways)],
            camera,
            make=make,
            asked=asked,
            budget=budget,
            keep=keep,
            begin=begin,
        )
        for camera in cameras
    ]
    try:
        async with asyncio.timeout(None if drain is None else span + drain):
            await asyncio.gather(*(one.run() for one in films))
    except TimeoutError:
        pass
    finally:
        elapsed = time.perf_counter() - begin
        recording.seconds = max(recording.seconds, min(span, elapsed))
        recording.unfinished += sum(one.unanswered for one in films)
        recording.cpu_seconds = time.process_time() - cpu
    return recording


class _Sent(NamedTuple):
    """A frame under way: when it was due and how late the tool was with it, and when it was sent."""

    due: float
    lag: float
    moment: float


class _Film:
    """One camera under way: a task that sends, one that watches the time, and the reading of replies."""

    def __init__(
        self,
        connections: Connections,
        way: Any,
        camera: Camera,
        *,
        make: Maker,
        asked: Asked,
        budget: Budget,
        keep: Callable[[Sample], None],
        begin: float,
    ) -> None:
        self._connections = connections
        self._way = way
        self._make = make
        self._asked = asked
        self._camera = camera
        self._budget = budget
        self._keep = keep
        self._begin = begin
        self._waiting: dict[int, _Sent] = {}
        self._late = self._heard = False
        self._sequence = 0
        self._window = 1
        self._ahead: float | None = None
        self._answered = asyncio.Event()
        self._over = False

    @property
    def unanswered(self) -> int:
        """Frames sent without a reply so far."""
        return len(self._waiting)

    async def run(self) -> None:
        """Stream after stream, until there is nothing more to send."""
        while not self._over:
            await self._stream()
            if not self._over:
                await asyncio.sleep(PAUSE)

    async def _stream(self) -> None:
        why = Sample(0.0, error=GONE_AWAY, code="UNAVAILABLE")
        call = self._way(metadata=self._connections.sent["metadata"], timeout=None)
        sending: asyncio.Task[None] | None = None
        self._late = self._heard = False
        watching = asyncio.create_task(self._watch(call))
        try:
            await call.write(opening(self._asked))
            while (reply := await call.read()) is not _END:
                self._heard = True
                sending = sending or asyncio.create_task(self._send(call))
                self._note(pb.StreamDetectResponse.FromString(reply))
        except grpc.aio.AioRpcError as error:
            why = failed(self._connections.error(error), 0.0)
        except asyncio.InvalidStateError:  # the call ended while it was written to
            why = failed(self._connections.error(await _ended(call)), 0.0)
        except DecodeError:
            why = Sample(0.0, error=MALFORMED, code="INTERNAL")
        except asyncio.CancelledError:
            if not self._late:
                raise
            why = Sample(0.0, error=TOO_LATE, code=TOO_LATE)
        finally:
            call.cancel()
            watching.cancel()
            if sending is not None:
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
        if sending is None:
            self._miss(why)
        self._lose(why)

    async def _watch(self, call: Any) -> None:
        """End a stream whose server leaves the opening, or a frame, for longer than a call may take."""
        limit, opened = self._connections.sent["timeout"], time.perf_counter()
        while limit is not None:
            now = time.perf_counter()
            oldest = next((one.moment for one in self._waiting.values()), now)
            since = oldest if self._heard else opened
            if now - since >= limit:
                self._late = True
                call.cancel()
                return
            await asyncio.sleep(since + limit - now)

    def _lose(self, why: Sample) -> None:
        """The stream is over: whatever it left unanswered failed."""
        now = time.perf_counter()
        for one in self._waiting.values():
            self._keep(self._placed(replace(why, seconds=now - one.due), one.due, one.lag))
        self._waiting.clear()
        self._over = self._over or self._budget.stopped

    def _miss(self, why: Sample) -> None:
        """There was no stream: what was due by now failed too; at least one frame without offsets."""
        now = time.perf_counter()
        if self._camera.offsets is None:
            self._over = self._budget.take() is None
            if not self._over:
                self._keep(self._placed(why, now, 0.0))
            return
        while (offset := self._upcoming()) is not None and self._begin + offset <= now:
            self._ahead = None
            due = self._begin + offset
            self._keep(self._placed(replace(why, seconds=now - due), due, 0.0))
        self._over = offset is None

    async def _send(self, call: Any) -> None:
        try:
            while (taken := await self._next()) is not None:
                number, due, lag = taken
                message = frame_message(self._sequence + 1, self._make(number))
                self._sequence += 1
                self._waiting[self._sequence] = _Sent(due, lag, time.perf_counter())
                await call.write(message)
            self._over = True
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader of the call learns why
        except Exception:
            call.cancel()  # or else its reader would wait for ever
            raise

    async def _next(self) -> tuple[int, float, float] | None:
        """Number of the next frame, when it is taken, and how late the tool is with it; None: no more."""
        if self._camera.offsets is None:
            while len(self._waiting) >= self._window:
                self._answered.clear()
                await self._answered.wait()
            number = self._budget.take()
            return None if number is None else (number, time.perf_counter(), 0.0)
        free = time.perf_counter()
        offset = self._upcoming()
        if offset is None:
            return None
        due = self._begin + offset
        await until(due)
        number, self._ahead = self._budget.take(), None
        # A frame that was due while the one before was being written is late by the server's doing.
        return None if number is None else (number, due, time.perf_counter() - max(due, free))

    def _upcoming(self) -> float | None:
        """When the next frame is due; it stays the next one until `_ahead` is cleared."""
        if self._ahead is None and self._camera.offsets is not None:
            self._ahead = next(self._camera.offsets, None)
        return self._ahead

    def _note(self, reply: pb.StreamDetectResponse) -> None:
        self._window = max(1, reply.max_in_flight)
        now = time.perf_counter()
        match reply.WhichOneof("kind"):
            case "result":
                body: Any = reply.result
                age = body.age.seconds + body.age.nanos / 1e9
                sample = of_one(body.response.timings, 0.0, age)
            case "dropped":
                body = reply.dropped
                age = body.age.seconds + body.age.nanos / 1e9
                sample = Sample(0.0, dropped=str(drop_reason(body.reason)), age=age)
            case "failed":
                body = reply.failed
                sample = failed(error_from_status(body.error), 0.0)
            case _:
                return
        found = self._waiting.pop(body.sequence, None)
        if found is not None:
            self._keep(self._placed(replace(sample, seconds=now - found.due), found.due, found.lag))
        self._answered.set()

    def _placed(self, sample: Sample, due: float, lag: float) -> Sample:
        return replace(sample, at=due - self._begin, lag=lag, stream=self._camera.number)


async def _ended(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        await call.details(),
        "",
    )
