"""Live video through the shipped Envoy configuration, on real servers with the project's own clients."""

import asyncio
import signal
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import opsin
from integration.deploy.processes import Server, channel, envoy, opsin_server
from opsin.v1 import Frame, Image, RawImage, StreamConfig, StreamDetectRequest

STREAM = "/opsin.v1.InferenceService/StreamDetect"
SIDE = 128
PIXELS = bytes(SIDE * SIDE * 3)  # about 49 kB, as a JPEG of live video
STUCK = b"\0\xff\xff" + PIXELS[3:]  # which the echo model never answers when told to hang
GREY = opsin.RawFrame(PIXELS, SIDE, SIDE)


def serving(stack: ExitStack, folder: Path, number: int, model: str) -> Server:
    config = folder / "opsin.toml"
    config.write_text('[streams]\nsecret = "a secret that all servers have, of 32 characters"\n')
    leaving = ("--drain-delay", "1.5", "--drain-grace", "10")
    told = ("--config", str(config), "--model", model, "--lanes", "1", *leaving)
    return stack.enter_context(opsin_server(folder / f"server{number}.log", *told))


@pytest.fixture
def two(tmp_path: Path) -> Generator[list[Server]]:
    """Servers that read each other's tokens; 20 ms a frame."""
    with ExitStack() as stack:
        yield [serving(stack, tmp_path, number, "echo,delay_ms=20,max_batch=1") for number in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["drained", "killed"])
async def test_a_stream_goes_on_at_the_other_server(how: str, two: list[Server], tmp_path: Path) -> None:
    with envoy(tmp_path, [server.port for server in two], health_interval=0.3) as proxy:
        async with opsin.AsyncClient(f"127.0.0.1:{proxy.port}") as client:
            session = client.stream([GREY] * 200, track=True, rate=50)
            replies = [await anext(session) for _ in range(70)]
            leaving = next(s for s in two if proxy.hosts()[s.port]["active"])
            if how == "drained":
                leaving.process.send_signal(signal.SIGTERM)
            else:
                leaving.kill()
            replies += [reply async for reply in session]
        if how == "drained":
            assert await asyncio.to_thread(leaving.process.wait, 60) == 0
    assert [reply.sequence for reply in replies] == list(range(1, 201))
    assert {type(reply) for reply in replies} == {opsin.FrameResult}
    assert {reply.result.detections[0].track_id for reply in replies} == {1}
    assert session.stats.reconnects == 1 if how == "drained" else session.stats.reconnects >= 1


async def test_a_client_that_ignores_the_window_of_a_stalled_stream_is_held_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = serving(stack, tmp_path, 0, "echo,hang=true,max_batch=1")
        proxy = stack.enter_context(envoy(tmp_path, [server.port]))
        async with channel(proxy.port) as opened:
            stream: Any = opened.stream_stream(STREAM)(timeout=60)
            await stream.write(StreamDetectRequest(config=StreamConfig()).SerializeToString())
            await asyncio.wait_for(stream.read(), 20)
            sent = 0
            while sent < 10_000_000:
                image = Image(raw=RawImage(data=STUCK, width=SIDE, height=SIDE))
                frame = StreamDetectRequest(frame=Frame(sequence=sent + 1, image=image)).SerializeToString()
                try:
                    await asyncio.wait_for(asyncio.shield(stream.write(frame)), 1)
                except TimeoutError:
                    break
                sent += len(frame)
            stream.cancel()
    assert sent <= 8 * len(PIXELS) + 1_000_000, "its window of 8 frames, and the buffers on the way"
