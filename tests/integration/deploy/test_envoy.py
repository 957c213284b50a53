"""The shipped Envoy configuration, run by the real Envoy in front of real servers."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from integration.deploy.processes import (
    ENVOY_CONFIG,
    Server,
    channel,
    envoy,
    envoy_config,
    opsin_server,
    tool,
    wait_until,
)
from opsin.v1 import (
    DetectRequest,
    DetectResponse,
    Frame,
    Image,
    InferenceServiceAsyncStub,
    RawImage,
    StreamConfig,
    StreamDetectRequest,
)

GREY = Image(raw=RawImage(data=bytes(8 * 8 * 3), width=8, height=8))


@pytest.fixture
def servers(tmp_path: Path) -> Generator[list[Server]]:
    """Two real servers with the model that needs no weights. Each test gets its own: some kill them."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(opsin_server(tmp_path / f"server{number}.log", "--model", "echo"))
            for number in range(2)
        ]


def ports(servers: list[Server]) -> list[int]:
    return [server.port for server in servers]


async def detect(stub: InferenceServiceAsyncStub, image: Image = GREY) -> DetectResponse:
    return await stub.Detect(DetectRequest(image=image), timeout=20)


@pytest.mark.parametrize("shipped", [True, False], ids=["as shipped", "as run by these tests"])
def test_envoy_accepts_the_configuration(shipped: bool, tmp_path: Path) -> None:
    path = ENVOY_CONFIG if shipped else tmp_path / "envoy.json"
    if not shipped:
        path.write_text(json.dumps(envoy_config([1, 2])))
    done = subprocess.run(
        [tool("envoy"), "--mode", "validate", "-c", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


async def test_calls_on_one_connection_reach_both_servers(servers: list[Server], tmp_path: Path) -> None:
    with envoy(tmp_path, ports(servers)) as proxy:
        async with channel(proxy.port) as opened:
            stub = InferenceServiceAsyncStub(opened)
            answers = [await detect(stub) for _ in range(40)]
        assert all(answer.detections[0].label == "echo" for answer in answers)
        assert all(host["calls"] >= 5 for host in proxy.hosts().values())


async def test_a_message_of_many_megabytes_passes(servers: list[Server], tmp_path: Path) -> None:
    large = np.random.default_rng(1).integers(0, 255, (2000, 3000, 3), np.uint8)
    image = Image(raw=RawImage(data=large.tobytes(), width=3000, height=2000))
    with envoy(tmp_path, ports(servers)) as proxy:
        async with channel(proxy.port) as opened:
            answer = await detect(InferenceServiceAsyncStub(opened), image)
    assert (answer.image.width, answer.image.height) == (3000, 2000)


async def test_a_stream_answers_every_frame_in_order(servers: list[Server], tmp_path: Path) -> None:
    async def asked() -> AsyncGenerator[StreamDetectRequest]:
        yield StreamDetectRequest(config=StreamConfig(model="echo"))
        for sequence in range(1, 31):
            yield StreamDetectRequest(frame=Frame(sequence=sequence, image=GREY))

    with envoy(tmp_path, ports(servers)) as proxy:
        async with channel(proxy.port) as opened:
            replies = [
                reply async for reply in InferenceServiceAsyncStub(opened).StreamDetect(asked(), timeout=20)
            ]
    assert [reply.WhichOneof("kind") for reply in replies] == ["ready"] + ["result"] * 30
    assert [reply.result.sequence for reply in replies[1:]] == list(range(1, 31))


async def test_health_is_answered_through_the_proxy(servers: list[Server], tmp_path: Path) -> None:
    with envoy(tmp_path, ports(servers)) as proxy:
        async with channel(proxy.port) as opened:
            stub = health_pb2_grpc.HealthStub(opened)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
async def test_a_draining_server_gets_no_more_calls_and_none_fails(
    servers: list[Server], tmp_path: Path
) -> None:
    leaving, staying = servers
    with envoy(tmp_path, ports(servers)) as proxy:
        async with channel(proxy.port) as opened:
            stub = InferenceServiceAsyncStub(opened)
            leaving.process.send_signal(signal.SIGTERM)
            while leaving.process.poll() is None:
                await detect(stub)
                await asyncio.sleep(0.02)
            assert leaving.process.wait(1) == 0
            assert proxy.healthy() == {staying.port}
            await detect(stub)
        assert proxy.stat("upstream_rq_retry") == 0, "health took it out before it refused a call"


async def test_a_call_to_a_killed_server_is_sent_to_the_other_one(
    servers: list[Server], tmp_path: Path
) -> None:
    killed, left = servers
    # Health checks too rare to notice: only retries can save the calls.
    with envoy(tmp_path, ports(servers), health_interval=600) as proxy:
        async with channel(proxy.port) as opened:
            stub = InferenceServiceAsyncStub(opened)
            for _ in range(10):
                await detect(stub)
            killed.kill()
            wait_until(lambda: proxy.hosts()[killed.port]["connections"] == 0, "Envoy sees the closed socket")
            for _ in range(20):
                await detect(stub)
        assert proxy.healthy() == {killed.port, left.port}
        assert proxy.stat("upstream_rq_retry_success") >= 1
