"""`opsin serve` as a process: signals under load, addresses that are taken, settings that make no sense."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from integration.attack.told import pixel
from opsin.v1 import DetectRequest, InferenceServiceStub

SERVE = [sys.executable, "-m", "opsin.cli", "serve", "--port", "0", "--log-level", "warning"]


def failed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a server that must not come up."""
    done = subprocess.run(
        [*SERVE, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert not done.stdout
    return done


@asynccontextmanager
async def served(folder: Path, *arguments: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        *SERVE, *arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        yield process, line.split(" at ")[1].split()[0]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "70000"), "server.port is 70000"),
        (("--drain-delay", "nan"), "drain.delay is nan"),
        (("--model", "zzz"), "no detector"),
        (("--model", "echo", "--model", "echo"), "version 1 twice"),
        (("--config", "/nowhere/opsin.toml"), "cannot be read"),
    ],
)
def test_a_wrong_flag_is_told_in_one_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = failed(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        b"[limits]\nmax_side = 'x'",
        b"\xff\xfe",
        b"[serverr]\nport = 1",
        b"[",
        b"model = 3",
        b"[[model]]",
        b"limits = 5",
    ],
)
def test_a_wrong_settings_file_is_told_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "opsin.toml").write_bytes(content)
    done = failed(tmp_path)
    assert done.returncode == 2
    assert "opsin.toml" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("flag", "setting"), [("--port", ""), ("--metrics-port", "metrics.port: ")])
def test_an_address_in_use_is_one_sentence_with_its_name(tmp_path: Path, flag: str, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = failed(tmp_path, "--model", "echo", "--port", "0", flag, str(port))
    assert done.returncode == 2
    assert f"opsin: {setting}cannot listen on 127.0.0.1:{port}: Address already in use\n" in done.stderr
    assert "Traceback" not in done.stderr


async def test_sigterm_under_load_breaks_off_no_call_that_was_accepted(tmp_path: Path) -> None:
    flags = ("--model", "slow=echo,delay_ms=100,max_batch=8", "--drain-delay", "0.3", "--grace", "30")
    ends: Counter[str] = Counter()
    async with served(tmp_path, *flags) as (process, target), grpc.aio.insecure_channel(target) as channel:
        stub = InferenceServiceStub(channel)

        async def call(number: int) -> None:
            while process.returncode is None:
                number += 1
                try:
                    await stub.Detect(DetectRequest(image=pixel(number.to_bytes(3, "big"))))
                except grpc.aio.AioRpcError as error:
                    ends[f"{error.code().name}: {error.details()}"] += 1
                    return
                ends["OK"] += 1

        callers = [asyncio.create_task(call(number << 16)) for number in range(24)]
        async with asyncio.timeout(60):
            while ends["OK"] <= 24:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            await asyncio.gather(*callers)
    assert ends.pop("OK") > 24
    assert all(end.startswith("UNAVAILABLE") and "Socket closed" not in end for end in ends), ends


async def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    flags = ("--model", "echo", "--drain-delay", "600")
    async with (
        served(tmp_path, *flags) as (process, target),
        grpc.aio.insecure_channel(target) as channel,
        asyncio.timeout(60),
    ):
        process.send_signal(signal.SIGTERM)
        async for reply in HealthStub(channel).Watch(HealthCheckRequest()):
            if reply.status == HealthCheckResponse.NOT_SERVING:
                break
        assert process.returncode is None
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 128 + signal.SIGTERM, "long before the delay is over"
