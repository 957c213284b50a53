"""A live stream with a pipeline of the test's own: what is answered on the spot, and what follows when."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from opsin.v1 import Frame, Image, StreamDetectRequest, StreamUpdate
from opsin.v1 import Freshness as FreshnessMessage
from opsin.v1 import FreshnessMode as FreshnessModeMessage
from opsin_detectors.api import ModelInfo, Task
from opsin_server.calls import (
    Caller,
    DetectAnswer,
    DetectCall,
    DetectOptions,
    EmbedAnswer,
    EmbedCall,
    ModelRef,
    Watcher,
)
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure, Reason
from opsin_server.rpc.live_stream import LiveStream, StreamRooms, give_turns
from opsin_server.rpc.stream_config import StreamTerms
from opsin_server.scheduling.ticket import Priority
from opsin_server.streams import events as ev
from opsin_server.streams.freshness import Freshness, FreshnessMode
from opsin_server.streams.tokens import TokenSigner
from opsin_server.streams.turns import Turns
from opsin_server.telemetry.metrics import Metrics

REF = ModelRef("finder", 3, "cpu")
INFO = ModelInfo(frozenset({Task.DETECT}))


class Asked:
    """A pipeline that does as it is told, and remembers what it was asked while what else was open."""

    def __init__(self, answer: Callable[[int], Awaitable[None]]) -> None:
        self.begun: list[int] = []
        self._answer = answer

    async def detect(self, call: DetectCall, watcher: Watcher | None = None) -> DetectAnswer:
        self.begun.append(len(self.begun) + 1)
        await self._answer(len(self.begun))
        return DetectAnswer(REF)

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        raise AssertionError(call)


def live(
    pipeline: Asked,
    mode: FreshnessMode = FreshnessMode.EVERY_FRAME,
    window: int = 8,
    *,
    max_age: float = 0.0,
    turns: Turns[LiveStream] | None = None,
) -> LiveStream:
    rest: Any = dict.fromkeys(("pool", "budget"))
    rooms = StreamRooms(
        pipeline=pipeline,
        signer=TokenSigner(b"secret"),
        limits=LimitSettings(),
        metrics=Metrics(),
        **rest,
    )
    terms = StreamTerms("cam", REF, INFO, DetectOptions(), Freshness(mode, max_age))
    return LiveStream(rooms, terms, Caller("stream/cam", Priority.STREAM), window, turns)


def frame(sequence: int) -> StreamDetectRequest:
    return StreamDetectRequest(frame=Frame(sequence=sequence, image=Image(encoded=b"jpeg")))


class Camera:
    """Frames in, each when the test says so; replies out."""

    def __init__(self, *frames: int) -> None:
        self.replies: list[Any] = []
        self.read = 0
        self._frames = frames

    async def requests(self) -> AsyncIterator[StreamDetectRequest]:
        for number in self._frames:
            await asyncio.sleep(0)
            self.read += 1
            yield frame(number)

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        self.replies.append(message)

    @property
    def results(self) -> list[int]:
        return [reply.result.sequence for reply in self.replies if reply.WhichOneof("kind") == "result"]


async def at_once(number: int) -> None:
    """Answered on the spot."""


async def later(number: int) -> None:
    await asyncio.sleep(0)


async def test_what_is_answered_on_the_spot_takes_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    camera, stream = Camera(*range(1, 51)), live(Asked(at_once))
    kept: list[object] = []
    monkeypatch.setattr(stream, "_keep", kept.append)
    async with asyncio.timeout(60):
        await stream.run(camera.requests(), camera.send)
    assert camera.results == list(range(1, 51))
    assert not kept


async def test_frames_on_the_spot_and_frames_that_take_time_are_answered_in_order() -> None:
    async def mixed(number: int) -> None:
        for _ in range(number % 4):
            await asyncio.sleep(0)

    for mode in (FreshnessMode.EVERY_FRAME, FreshnessMode.LATEST):
        camera, stream = Camera(*range(1, 101)), live(Asked(mixed), mode)
        async with asyncio.timeout(60):
            await stream.run(camera.requests(), camera.send)
        sequences = [getattr(r, r.WhichOneof("kind")).sequence for r in camera.replies[1:]]
        assert sequences == list(range(1, 101))


async def test_a_window_of_one_goes_on_when_its_frame_is_answered_on_the_spot() -> None:
    # Reading is paused when the frame is accepted, before it is looked at, and must go on after that.
    for answer in (at_once, later):
        camera, stream = Camera(*range(1, 21)), live(Asked(answer), window=1)
        async with asyncio.timeout(60):
            await stream.run(camera.requests(), camera.send)
        assert camera.results == list(range(1, 21))


async def test_of_frames_that_are_let_in_together_one_begins_at_once_and_the_others_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused: list[int] = []

    async def crowded(number: int) -> None:
        if number <= 4:  # each once
            refused.append(number)
            raise Failure(Reason.MEMORY_LIMIT, "no room", retry_after=0.01)
        seen.append((number, len(turns)))

    seen: list[tuple[int, int]] = []
    turns: list[None] = []
    camera, stream = Camera(1, 2, 3, 4), live(Asked(crowded))
    told = stream.tell

    def tell(event: ev.Event) -> None:
        told(event)
        turns.append(None)

    monkeypatch.setattr(stream, "tell", tell)
    async with asyncio.timeout(60):
        await stream.run(camera.requests(), camera.send)
    assert refused == [1, 2, 3, 4]
    assert camera.results == [1, 2, 3, 4]
    # The four come back with one tick: had they all been looked at there, no event would lie between.
    assert seen[0][1] < seen[1][1]


async def test_a_frame_that_breaks_on_the_spot_fails_and_the_stream_lives_on() -> None:
    async def second(number: int) -> None:
        if number == 2:
            raise Failure(Reason.IMAGE_UNDECODABLE, "no picture", "image")

    camera, stream = Camera(1, 2, 3), live(Asked(second))
    async with asyncio.timeout(60):
        await stream.run(camera.requests(), camera.send)
    assert [reply.WhichOneof("kind") for reply in camera.replies] == ["ready", "result", "failed", "result"]


async def test_a_frame_that_fails_on_the_spot_and_is_too_old_by_then_ends_once_and_the_stream_lives_on() -> (
    None
):
    class Unloaded(Asked):
        async def detect(self, call: DetectCall, watcher: Watcher | None = None) -> DetectAnswer:
            assert watcher is not None
            watcher.ready()  # what the session hears of when the frame has failed
            time.sleep(0.02)
            raise Failure(Reason.MODEL_NOT_READY, "unloaded a moment ago")

    camera, stream = Camera(1, 2, 3), live(Unloaded(at_once), FreshnessMode.MAX_AGE, max_age=0.01)
    async with asyncio.timeout(60):
        await stream.run(camera.requests(), camera.send)
    assert [reply.dropped.sequence for reply in camera.replies[1:]] == [1, 2, 3]


async def test_streams_on_the_spot_take_turns() -> None:
    # A stream is read, and its frame answered, once in a turn of the event loop: none runs away with it.
    cameras = [Camera(*range(1, 41)) for _ in range(3)]
    apart = 0

    async def watch() -> None:
        nonlocal apart
        while any(camera.read < 40 for camera in cameras):
            reads = [camera.read for camera in cameras]
            apart = max(apart, max(reads) - min(reads))
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        streams = [live(Asked(at_once)).run(camera.requests(), camera.send) for camera in cameras]
        await asyncio.gather(watch(), *streams)
    assert all(camera.results == list(range(1, 41)) for camera in cameras)
    assert apart <= 2


class Stages(Asked):
    """Frames that take their time, and end in every way there is."""

    async def detect(self, call: DetectCall, watcher: Watcher | None = None) -> DetectAnswer:
        assert watcher is not None
        self.begun.append(len(self.begun) + 1)
        way = len(self.begun) % 5
        await asyncio.sleep(0)
        if way == 1:
            raise Failure(Reason.MEMORY_LIMIT, "no room", retry_after=0.01)
        watcher.ready()
        await asyncio.sleep(0)
        if way == 2:
            raise Failure(Reason.MODEL_NOT_READY, "unloaded a moment ago")
        watcher.started()
        await asyncio.sleep(0)
        return DetectAnswer(REF)


def one_turn() -> Turns[LiveStream]:
    turns: Turns[LiveStream] = Turns()
    turns.resize(1)
    return turns


async def test_streams_of_one_model_take_turns_and_every_frame_gives_its_turn_back_however_it_ends() -> None:
    turns, cameras = one_turn(), [Camera(*range(1, 61)) for _ in range(4)]
    pipelines = [Stages(at_once) for _ in cameras]
    async with asyncio.timeout(60):
        await asyncio.gather(
            *(
                live(pipeline, FreshnessMode.LATEST, turns=turns).run(camera.requests(), camera.send)
                for camera, pipeline in zip(cameras, pipelines, strict=True)
            )
        )
    for camera in cameras:
        answered = [getattr(reply, reply.WhichOneof("kind")).sequence for reply in camera.replies[1:]]
        assert answered == list(range(1, 61))
    looks = [len(pipeline.begun) for pipeline in pipelines]
    assert min(looks) > 1
    assert max(looks) - min(looks) <= 2, looks
    assert (len(turns), turns.held) == (0, 0)


async def test_a_stream_whose_connection_is_lost_leaves_its_turn_to_the_others() -> None:
    turns, never = one_turn(), asyncio.Event()

    async def hangs(number: int) -> None:
        await never.wait()

    gone, stays = Camera(1, 2), Camera(1, 2)
    hanging = asyncio.create_task(
        live(Asked(hangs), FreshnessMode.LATEST, turns=turns).run(gone.requests(), gone.send)
    )
    async with asyncio.timeout(60):
        while not turns.held:
            await asyncio.sleep(0)
        staying = asyncio.create_task(
            live(Stages(later), FreshnessMode.LATEST, turns=turns).run(stays.requests(), stays.send)
        )
        while stays.read < 2:
            await asyncio.sleep(0)
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        await staying
    assert len(stays.replies) == 3
    assert (len(turns), turns.held) == (0, 0)


async def test_a_stream_that_is_over_keeps_no_turn_while_its_client_reads_no_more() -> None:
    """Its frame waited for a turn when a change of freshness let others take its place."""
    turns, others = one_turn(), live(Asked(later))
    assert turns.ask(others)
    ends = asyncio.Event()

    class Stuck(Camera):
        async def requests(self) -> AsyncIterator[StreamDetectRequest]:
            yield frame(1)
            aged = FreshnessMessage(mode=FreshnessModeMessage.FRESHNESS_MODE_MAX_AGE)
            aged.max_age.FromSeconds(3600)
            yield StreamDetectRequest(update=StreamUpdate(freshness=aged))
            for number in (2, 3, 4):
                yield frame(number)
            ends.set()

        async def send(self, message: Message) -> None:
            await super().send(message)
            if len(self.replies) == 5:  # the last of them
                await asyncio.Event().wait()

    camera, stream = Stuck(), live(Asked(at_once), FreshnessMode.LATEST, window=2, turns=turns)
    running = asyncio.create_task(stream.run(camera.requests(), camera.send))
    async with asyncio.timeout(60):
        await ends.wait()
        while len(camera.replies) < 5:
            await asyncio.sleep(0)
    give_turns(turns.done(others))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not running.done()
    assert turns.held == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
