"""A real aio server on port 0 with a pipeline that does as the test says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from opsin.v1 import InferenceServiceStub, ModelServiceStub
from opsin_detectors.api import Box, Detection, FlagRule, Label, ModelInfo, Options, Task
from opsin_server.calls import (
    DetectAnswer,
    DetectCall,
    EmbedAnswer,
    EmbedCall,
    EmbeddedDetection,
    ModelRef,
    Timings,
    Watcher,
)
from opsin_server.config import Settings
from opsin_server.errors import Failure, Reason
from opsin_server.media.budget import PixelBudget
from opsin_server.media.pool import CpuPool
from opsin_server.models.status import BatchTime, DeviceStatus, ModelState, ModelStatus, ServerStatus
from opsin_server.rpc.health import HealthBoard
from opsin_server.rpc.server import RpcServer
from opsin_server.telemetry.metrics import Metrics

REF = ModelRef("finder", 3, "cpu")
FOUND = Detection(Box(0.1, 0.2, 0.3, 0.4), "cat", 0.75, 1)


def answer() -> DetectAnswer:
    return DetectAnswer(
        REF,
        [EmbeddedDetection(FOUND)],
        [Label("cat", 0.9, 1)],
        True,
        640,
        480,
        Timings(total=0.5, queue=0.25, batch_size=2),
    )


class FakePipeline:
    """Answers at once, unless told otherwise; remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[DetectCall | EmbedCall] = []
        self.cancelled = 0
        self.on_detect: Callable[[DetectCall], Awaitable[DetectAnswer]] | None = None

    async def detect(self, call: DetectCall, watcher: Watcher | None = None) -> DetectAnswer:
        self.calls.append(call)
        if watcher is not None:
            watcher.ready()
            watcher.started()
        try:
            return answer() if self.on_detect is None else await self.on_detect(call)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        self.calls.append(call)
        return EmbedAnswer(REF, np.array([0.25, -1.5, 3.0], np.float32))

    def fail_with(self, error: Exception) -> None:
        async def fail(call: DetectCall) -> DetectAnswer:
            raise error

        self.on_detect = fail


class FakeCatalog:
    """Two versions of `finder`, and `writer`, which cannot look at images."""

    def list(self) -> Sequence[ModelStatus]:
        info = ModelInfo(
            frozenset({Task.DETECT}), ("dog", "cat"), Options(min_score=0.5), flag=FlagRule(("cat",), 0.5)
        )
        text = ModelInfo(frozenset({Task.CLASSIFY_TEXT}), ("good", "bad"))
        serving = ModelState.SERVING
        return [
            ModelStatus("writer", 1, serving, info=text),
            ModelStatus(
                "finder",
                3,
                serving,
                detector="nanodet",
                info=info,
                buckets=(1, 2),
                profile=(BatchTime(1, 0.01, 0.002),),
                traffic_weight=9,
                labels=("stable",),
                load_time=1.5,
                serving_since=1e9,
            ),
            ModelStatus(
                "finder",
                4,
                ModelState.FAILED,
                failure=Failure(Reason.MODEL_LOAD_FAILED, "no such file"),
                labels=("canary",),
            ),
        ]

    def get(self, name: str) -> Sequence[ModelStatus]:
        found = [model for model in self.list() if model.name == (name or "finder")]
        if not found:
            raise Failure(Reason.MODEL_NOT_FOUND, "no such model", "model", {"nearest": "finder"})
        return found

    def server(self) -> ServerStatus:
        return ServerStatus((DeviceStatus("cpu", lanes=2),), "finder", "")


@dataclass
class Running:
    """A server under test, and a channel to it."""

    pipeline: FakePipeline
    board: HealthBoard
    metrics: Metrics
    server: RpcServer
    port: int
    channel: grpc.aio.Channel
    address: str = field(init=False)

    def __post_init__(self) -> None:
        self.address = f"127.0.0.1:{self.port}"
        self.inference = InferenceServiceStub(self.channel)
        self.models = ModelServiceStub(self.channel)


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@contextlib.asynccontextmanager
async def running(**sections: object) -> AsyncIterator[Running]:
    settings = Settings(**{"server": {"port": 0}, **sections})
    pipeline, board, metrics, pool = FakePipeline(), HealthBoard(), Metrics(), CpuPool(2)
    server = RpcServer(
        settings,
        pipeline=pipeline,
        catalog=FakeCatalog(),
        board=board,
        metrics=metrics,
        pool=pool,
        budget=PixelBudget(1 << 20),
        version="1.2.3",
    )
    try:
        port = server.bind()
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Running(pipeline, board, metrics, server, port, channel)
        finally:
            await server.stop(0)
    finally:
        pool.close()


@pytest.fixture
def serve() -> Serve:
    return running


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with running() as up:
        yield up
