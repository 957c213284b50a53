"""A model whose lanes are processes, served: its answers, its failures, and that it goes without a trace."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from opsin.v1 import (
    BatchDetectRequest,
    DetectRequest,
    GetModelRequest,
    Image,
    LoadModelRequest,
    RawImage,
    UnloadModelRequest,
)
from opsin_detectors.execution.apart import ApartProgram
from programs import Deadly
from serving import serving

ASTRONAUT = (Path(__file__).parents[2] / "data" / "images" / "astronaut.png").read_bytes()
TWO: dict[str, Any] = {"scheduler": {"lanes": 2, "lane_threads": 1}}


def children() -> set[int]:
    return {one.pid for one in psutil.Process().children(recursive=True)}


def grey(level: int) -> DetectRequest:
    """A picture of one level all over, so that it is that in any size."""
    return DetectRequest(image=Image(raw=RawImage(data=bytes([level]) * (64 * 64 * 3), width=64, height=64)))


async def test_processes_answer_as_threads_do_and_go_with_their_model() -> None:
    before = children()
    settings = {"runtime": "eager"}
    async with serving("echo", **TWO) as server:
        found = []
        for kind in ("threads", "processes"):
            ask = LoadModelRequest(
                name=kind, source="nanodet", settings={**settings, "lane_kind": kind}, wait=True
            )
            model = (await server.models.LoadModel(ask)).model
            assert model.lane_kind == kind
            request = DetectRequest(model=kind, image=Image(encoded=ASTRONAUT))
            answers = await asyncio.gather(*(server.inference.Detect(request) for _ in range(4)))
            found.append([answer.detections for answer in answers])
        assert found[0] == found[1]
        assert found[0][0][0].label == "person"
        told = (await server.models.GetModel(GetModelRequest(name="processes"))).model
        assert told.memory_bytes > 50 << 20  # two interpreters with torch
        assert children() > before
        await server.models.UnloadModel(UnloadModelRequest(name="processes"))
        async with asyncio.timeout(60):
            while children() != before:
                await asyncio.sleep(0.02)


async def test_a_picture_that_kills_its_process_fails_alone_and_the_server_serves_on() -> None:
    before = children()
    async with serving("nanodet=nanodet,runtime=eager,lane_kind=threads", **TWO) as server:
        (version,) = server.app.registry
        assert version.loaded is not None
        detector: Any = version.loaded.detector
        detector.program = ApartProgram(Deadly(detector.program), 2)
        request = BatchDetectRequest(requests=[grey(level) for level in (1, 2, 66, 3, 4)])
        outcomes = (await server.inference.BatchDetect(request)).outcomes
        assert [one.HasField("error") for one in outcomes] == [False, False, True, False, False]
        again = (await server.inference.BatchDetect(BatchDetectRequest(requests=[grey(9), grey(8)]))).outcomes
        assert not any(one.HasField("error") for one in again)
    assert children() == before


async def test_a_detector_that_has_threads_only_is_not_served_in_processes() -> None:
    async with serving("echo") as server:
        ask = LoadModelRequest(name="other", source="echo", settings={"lane_kind": "processes"}, wait=True)
        with pytest.raises(grpc.aio.AioRpcError, match="lane_kind processes of model “other” cannot be"):
            await server.models.LoadModel(ask)
