"""Both clients against the real server with the echo model."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

import opsin
from serving import serving

PICTURES = Path(__file__).parents[2] / "data" / "images"


async def test_the_async_client_detects_embeds_batches_and_streams() -> None:
    async with serving("echo") as server, opsin.AsyncClient(server.target) as client:
        await client.wait_until_serving()
        result = await client.detect(PICTURES / "astronaut.png")
        assert (result.width, result.height, result.detections[0].label) == (512, 512, "echo")
        assert result.request_id
        assert result.draw().size == (512, 512)
        raw = await client.detect(np.zeros((40, 60, 3), np.uint8))
        assert raw.detections[0].pixels == opsin.PixelBox(0, 0, 60, 40)
        vector = (await client.embed(opsin.Text("hello"))).vector
        assert isinstance(vector, np.ndarray)
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
        many = await client.detect_many([PICTURES / "rocket.jpg", b"noise", "missing.jpg"] * 100)
        assert [type(outcome).__name__ for outcome in many[:3]] == [
            "DetectResult",
            "InvalidInput",
            "InvalidInput",
        ]
        assert isinstance(many[1], opsin.OpsinError)
        assert many[1].reason in ("IMAGE_UNDECODABLE", "FORMAT_UNSUPPORTED")
        replies = [reply async for reply in client.stream([PICTURES / "rocket.jpg"] * 20 + [b"noise"])]
        assert [reply.sequence for reply in replies] == list(range(1, 22))
        assert isinstance(replies[-1], opsin.FrameFailed)
        with pytest.raises(opsin.ModelNotFound) as caught:
            await client.detect(b"x", model="eco")
        assert "echo" in caught.value.nearest


async def test_the_client_for_ordinary_code_works_from_a_thread_beside_it() -> None:
    def use(target: str) -> None:
        with opsin.Client(target) as client:
            client.wait_until_serving()
            assert client.health("model/echo").ok
            assert client.health("model/none") is opsin.Health.SERVICE_UNKNOWN
            assert client.server_info().default_detect_model == "echo"
            assert client.model("echo").state is opsin.ModelState.SERVING
            assert [model.name for model in client.models()] == ["echo"]
            session = client.stream([PICTURES / "rocket.jpg"] * 30)
            assert [reply.sequence for reply in session] == list(range(1, 31))
            assert session.model is not None
            assert session.model.name == "echo"

    async with serving("echo") as server:
        await asyncio.to_thread(use, server.target)
