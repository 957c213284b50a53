"""What a call that waits for the device still holds, and that it holds nothing once it is answered."""

import asyncio
import io
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image as Pictures

from integration.attack.told import goes_on
from opsin.v1 import DetectRequest, Image
from opsin_server import pipeline
from serving import serving

MODEL = "echo,light=false,max_batch=1"
SIDE = 600
LARGE = 4_000_000
"""Bytes of a file: a small picture, and what no decoder looks at."""


def large_file() -> bytes:
    file = io.BytesIO()
    Pictures.new("RGB", (SIDE, SIDE), (10, 20, 30)).save(file, "JPEG")
    return file.getvalue().ljust(LARGE, b"\0")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """The pixels of every picture that was decoded, as long as anybody has them."""
    pixels: list[weakref.ref[Any]] = []
    decode = pipeline.decode

    def noted(*arguments: Any, **more: Any) -> Any:
        image = decode(*arguments, **more)
        pixels.append(weakref.ref(image.pixels))
        return image

    monkeypatch.setattr(pipeline, "decode", noted)
    return pixels


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_call_that_waits_for_the_device_has_let_go_of_its_pixels(
    gate: threading.Event, decoded: list[weakref.ref[Any]]
) -> None:
    async with serving(MODEL, scheduler={"lanes": 1}) as server:
        gate.clear()
        pictures = [large_file() + bytes([number]) for number in range(4)]
        calls = [server.inference.Detect(DetectRequest(image=Image(encoded=one))) for one in pictures]
        await until(lambda: len(decoded) == 4 and server.app.scheduler.waiting >= 3)
        await until(lambda: [kept for kept in decoded if kept() is not None] == [])
        await until(lambda: server.app._budget.used == 0)  # nor are they counted any longer
        assert not any(call.done() for call in calls)
        gate.set()
        assert [reply.image.width for reply in await asyncio.gather(*calls)] == [SIDE] * 4


def large_blocks() -> int:
    """Objects of Python's that are as large as the file."""
    return sum(trace.size >= LARGE for trace in tracemalloc.take_snapshot().traces)


async def test_a_call_holds_its_message_and_its_file_once_and_neither_after_the_reply(
    gate: threading.Event, decoded: list[weakref.ref[Any]]
) -> None:
    """gRPC keeps the message it received until the reply; identical calls are told by the file."""
    async with serving(MODEL, scheduler={"lanes": 1}) as server:
        await goes_on(server)
        gate.clear()
        data = DetectRequest(image=Image(encoded=large_file())).SerializeToString()
        method = server.channel.unary_unary("/opsin.v1.InferenceService/Detect")
        tracemalloc.start()
        try:
            call = method(data)
            await until(lambda: len(decoded) == 1 and decoded[0]() is None)
            await until(lambda: large_blocks() <= 2)
            assert not call.done()
            gate.set()
            await call
            await until(lambda: large_blocks() == 0)
        finally:
            tracemalloc.stop()
