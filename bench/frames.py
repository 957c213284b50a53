"""Cameras: StreamDetect as a plain client sees it, with every reply checked against what was sent.

A camera either keeps to the server's window (`max_in_flight`) and sends as fast as it is answered, or pushes
at a fixed rate whatever the server says. Each has a connection of its own, which shares nothing.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from bench.inputs import Kind, image_maker
from bench.load import channel, in_loop
from opsin.v1 import (
    Frame,
    Freshness,
    Image,
    InferenceServiceStub,
    StreamConfig,
    StreamDetectRequest,
    StreamDetectResponse,
)

__all__ = ["Cameras", "Reel", "drive", "drive_all", "hold", "open_stream"]

PATIENCE = 120.0
_END: Any = getattr(grpc.aio, "EOF")  # noqa: B009  which its type stubs have forgotten


@dataclass(frozen=True, slots=True)
class Cameras:
    """streams cameras for some seconds. rate: frames a second each, pushed; None: within the window.

    window: the most unanswered frames, with no rate; 0: as the server says. freshness: as in the contract.
    """

    target: str
    model: str
    kind: Kind
    seconds: float
    streams: int = 1
    rate: float | None = None
    window: int = 0
    freshness: str = "EVERY_FRAME"
    seed: int = 0


@dataclass(slots=True)
class Reel:
    """What became of one camera's frames, in the order of the replies.

    ages: seconds, of results, as the server tells; delays: of results, from capture to the reply in hand.
    """

    sent: int = 0
    sequences: list[int] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def results(self) -> int:
        """Frames that were looked at."""
        return len(self.delays)

    @property
    def astray(self) -> int:
        """Frames that were not answered exactly once at their turn; they were numbered 1, 2, 3, ..."""
        right = sum(got == at for at, got in enumerate(self.sequences, 1))
        return max(self.sent, len(self.sequences)) - right


def drive(cameras: Cameras) -> list[Reel]:
    """Run them all at once; blocks until every frame is answered or its stream is broken."""
    return drive_all((cameras,))


def drive_all(parts: Sequence[Cameras]) -> list[Reel]:
    """The same for cameras of several kinds; their reels in the same order."""
    reels: list[Reel] = in_loop(_all(parts))
    return reels


def hold(cameras: Cameras) -> int:
    """Open so many streams, send nothing, and close them after `seconds`; how many were accepted."""
    accepted: int = in_loop(_hold(cameras))
    return accepted


async def open_stream(connection: grpc.aio.Channel, config: StreamConfig) -> tuple[Any, StreamDetectResponse]:
    """A stream and its `ready`. Raises AioRpcError when it is refused."""
    stub: Any = InferenceServiceStub(connection)
    call = stub.StreamDetect(timeout=None)
    await call.write(StreamDetectRequest(config=config))
    ready = await call.read()
    if ready is _END:
        raise RuntimeError(f"the stream was refused: {await call.code()} {await call.details()}")
    return call, ready


async def _all(parts: Sequence[Cameras]) -> list[Reel]:
    # Nobody films before all are there.
    start = asyncio.Barrier(sum(cameras.streams for cameras in parts))
    films = (_Camera(cameras, number, start).film() for cameras in parts for number in range(cameras.streams))
    return list(await asyncio.gather(*films))


async def _hold(cameras: Cameras) -> int:
    async with channel(cameras.target) as connection:
        calls = [(await open_stream(connection, _config(cameras)))[0] for _ in range(cameras.streams)]
        await asyncio.sleep(cameras.seconds)
        for call in calls:
            await call.done_writing()
        return len(calls)


def _config(cameras: Cameras) -> StreamConfig:
    mode: Any = f"FRESHNESS_MODE_{cameras.freshness}"
    return StreamConfig(model=cameras.model, freshness=Freshness(mode=mode))


class _Camera:
    """One stream: a task that sends, and one that reads."""

    def __init__(self, cameras: Cameras, number: int, start: asyncio.Barrier) -> None:
        self._cameras = cameras
        self._make: Callable[[int], Image] = image_maker(cameras.kind, cameras.seed * 1000 + number)
        self._start = start
        self._reel = Reel()
        self._captured: dict[int, float] = {}
        self._window = 1
        self._answered = asyncio.Event()

    async def film(self) -> Reel:
        async with channel(self._cameras.target) as connection:
            call, ready = await open_stream(connection, _config(self._cameras))
            self._window = self._cameras.window or ready.max_in_flight
            await self._start.wait()
            begun = time.monotonic()
            sending = asyncio.create_task(self._send(call, begun))
            try:
                async with asyncio.timeout(self._cameras.seconds + PATIENCE):
                    while (reply := await call.read()) is not _END:
                        self._note(reply)
                    await sending
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                self._reel.error = repr(error)[:300]
                sending.cancel()
            self._reel.seconds = time.monotonic() - begun
        return self._reel

    async def _send(self, call: Any, begun: float) -> None:
        end, due = begun + self._cameras.seconds, begun
        while time.monotonic() < end:
            if self._cameras.rate is None:
                await self._place()
            else:
                due += 1 / self._cameras.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._frame(call)
        await call.done_writing()

    async def _frame(self, call: Any) -> None:
        number = self._reel.sent + 1
        frame = Frame(sequence=number, image=self._make(number))
        captured = time.time()
        frame.capture_time.FromNanoseconds(int(captured * 1e9))
        self._captured[number] = captured
        self._reel.sent = number
        await call.write(StreamDetectRequest(frame=frame))

    async def _place(self) -> None:
        while self._reel.sent - len(self._reel.sequences) >= self._window:
            self._answered.clear()
            await self._answered.wait()

    def _note(self, reply: StreamDetectResponse) -> None:
        self._window = self._cameras.window or max(1, reply.max_in_flight)
        match reply.WhichOneof("kind"):
            case "result":
                said = reply.result
                captured = self._captured.get(said.sequence, 0.0)
                self._reel.delays.append(time.time() - captured)
                self._reel.ages.append(said.age.seconds + said.age.nanos / 1e9)
                self._reel.sequences.append(said.sequence)
            case "dropped":
                reason = str(reply.dropped.reason)
                self._reel.dropped[reason] = self._reel.dropped.get(reason, 0) + 1
                self._reel.sequences.append(reply.dropped.sequence)
            case "failed":
                self._reel.failed += 1
                self._reel.sequences.append(reply.failed.sequence)
            case other:
                self._reel.error = f"unexpected {other}"
        self._answered.set()
