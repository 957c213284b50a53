"""How the shipped Envoy configuration treats refusals and stalled servers.

The servers here are fakes of a few lines, as a real one cannot be told to refuse or to stall on demand.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from integration.deploy.processes import Envoy, channel, envoy

DETECT = "/opsin.v1.InferenceService/Detect"
STREAM = "/opsin.v1.InferenceService/StreamDetect"
SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()


@dataclass
class Fakes:
    """Servers that are always healthy and share one script.

    refusals: what the next calls to Detect, to whichever server, are refused with: a code and the pushback in
        milliseconds. When they are used up, calls are answered.
    calls: when each call arrived, and at which server.
    """

    ports: list[int] = field(default_factory=list)
    refusals: list[tuple[grpc.StatusCode, int | None]] = field(default_factory=list)
    calls: list[tuple[float, int]] = field(default_factory=list)

    def handlers(self, number: int) -> tuple[grpc.GenericRpcHandler, ...]:
        async def detect(request: bytes, context: Any) -> bytes:
            self.calls.append((time.monotonic(), number))
            if self.refusals:
                code, pushback = self.refusals.pop(0)
                trailers = () if pushback is None else (("grpc-retry-pushback-ms", str(pushback)),)
                await context.abort(code, "refused", trailers)
            return request

        async def stalled(_requests: Any, context: Any) -> None:
            await context.write(b"ready")
            await asyncio.sleep(60)

        async def check(_request: bytes, _context: Any) -> bytes:
            return SERVING

        return (
            grpc.method_handlers_generic_handler(
                "opsin.v1.InferenceService",
                {
                    "Detect": grpc.unary_unary_rpc_method_handler(detect),
                    "StreamDetect": grpc.stream_stream_rpc_method_handler(stalled),
                },
            ),
            grpc.method_handlers_generic_handler(
                "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
            ),
        )


@asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[tuple[Fakes, Envoy, grpc.aio.Channel]]:
    fakes = Fakes()
    # As the real server: reading no further ahead of the handler than a frame or two.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 128 << 10)]
    async with AsyncExitStack() as stack:
        for number in range(2):
            server = grpc.aio.server(options=[*options, ("grpc.max_receive_message_length", 32 << 20)])
            server.add_generic_rpc_handlers(fakes.handlers(number))
            fakes.ports.append(server.add_insecure_port("127.0.0.1:0"))
            await server.start()
            stack.push_async_callback(server.stop, 0)
        starting = envoy(folder, fakes.ports)
        proxy = await asyncio.to_thread(starting.__enter__)
        stack.push_async_callback(asyncio.to_thread, starting.__exit__, None, None, None)
        yield fakes, proxy, await stack.enter_async_context(channel(proxy.port))


def call(opened: grpc.aio.Channel, payload: bytes = b"x") -> Any:
    return opened.unary_unary(DETECT)(payload, timeout=20)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_a_refused_call_is_answered_by_the_other_server(code: grpc.StatusCode, tmp_path: Path) -> None:
    async with running(tmp_path) as (fakes, _, opened):
        fakes.refusals = [(code, None)]
        assert await call(opened) == b"x"
        (_, first), (_, second) = fakes.calls
    assert first != second


async def test_a_large_call_is_sent_again_whole(tmp_path: Path) -> None:
    payload = bytes(range(256)) * 40_000  # 10 MB
    async with running(tmp_path) as (fakes, _, opened):
        fakes.refusals = [(grpc.StatusCode.UNAVAILABLE, None)]
        answer = await opened.unary_unary(DETECT)(payload, timeout=20)
        assert len(fakes.calls) == 2
    assert answer == payload


async def test_a_pushback_delays_the_retry(tmp_path: Path) -> None:
    async with running(tmp_path) as (fakes, _, opened):
        fakes.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, 700)]
        assert await call(opened) == b"x"
        (first, _), (second, _) = fakes.calls
    assert second - first >= 0.69, "the proxy's timers go by when it last looked at the clock"


@pytest.mark.parametrize("pushback", [-1, 60_000], ids=["never", "a minute"])
async def test_a_refusal_that_must_not_be_retried_goes_to_the_caller_at_once(
    pushback: int, tmp_path: Path
) -> None:
    async with running(tmp_path) as (fakes, _, opened):
        fakes.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, pushback)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(opened)
        assert len(fakes.calls) == 1
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(refused.value.trailing_metadata() or ())
    assert trailers["grpc-retry-pushback-ms"] == str(pushback)


async def test_an_error_of_the_callers_own_making_is_not_retried(tmp_path: Path) -> None:
    async with running(tmp_path) as (fakes, _, opened):
        fakes.refusals = [(grpc.StatusCode.INVALID_ARGUMENT, None)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(opened)
        assert len(fakes.calls) == 1
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stalled_server_holds_back_its_client_after_a_few_frames(tmp_path: Path) -> None:
    frame = bytes(50_000)
    async with running(tmp_path) as (_, _, opened):
        stream: Any = opened.stream_stream(STREAM)(timeout=30)
        assert await stream.read() == b"ready"
        sent = 0
        while sent < 10_000_000:
            try:
                await asyncio.wait_for(asyncio.shield(stream.write(frame)), 1)
            except TimeoutError:
                break
            sent += len(frame)
        stream.cancel()
    assert sent <= 1_000_000, "with Envoy's default windows it is 33 MB"
