"""A real server on the test's own event loop, on any free port of loopback, gone when the test is."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from opsin.v1 import InferenceServiceStub, ModelServiceStub
from opsin_server.app import App
from opsin_server.config import Settings

__all__ = ["Serving", "serving"]


@dataclass(frozen=True)
class Serving:
    """app: the server. target: where it listens. inference, models: raw stubs on one channel."""

    app: App
    target: str
    channel: grpc.aio.Channel
    inference: Any
    models: Any


@asynccontextmanager
async def serving(*models: str, **sections: dict[str, Any]) -> AsyncGenerator[Serving]:
    """Serve `models`, written as for `--model`; each section of the settings as a dict."""
    quiet: dict[str, Any] = {
        "server": {"port": 0},
        "drain": {"delay": 0.0, "grace": 5.0},
        # Nothing is measured, and answers are the same on every machine.
        "detectors": {"runtime": "channels_last", "lane_kind": "threads"},
    }
    for name, values in sections.items():
        quiet[name] = {**quiet.get(name, {}), **values}
    app = App(Settings(model=models or ("echo",), **quiet))
    port = await app.start()
    try:
        failed = await app.load()
        assert not failed, failed[0].failure
        target = f"127.0.0.1:{port}"
        limit = [("grpc.max_receive_message_length", 32 << 20), ("grpc.max_send_message_length", 32 << 20)]
        async with grpc.aio.insecure_channel(target, options=limit) as channel:
            yield Serving(app, target, channel, InferenceServiceStub(channel), ModelServiceStub(channel))
    finally:
        await app.stop()
