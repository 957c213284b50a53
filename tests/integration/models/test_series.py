"""The series of a version: everything it answered is in them, and they go with it."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from opsin.v1 import (
    DetectRequest,
    Frame,
    Image,
    LoadModelRequest,
    RawImage,
    ReuseSimilar,
    StreamConfig,
    StreamDetectRequest,
    UnloadModelRequest,
)
from serving import Serving, serving

PICTURE = Image(raw=RawImage(data=bytes(12), width=2, height=2))


def series(server: Serving, model: str) -> Iterator[tuple[str, dict[str, str]]]:
    """All that the server tells of a version, `name@number`."""
    name, _, number = model.partition("@")
    for family in server.app.metrics.registry.collect():
        for sample in family.samples:
            labels = sample.labels
            if labels.get("model") == model or (labels.get("model"), labels.get("version")) == (name, number):
                yield sample.name, labels


async def test_a_version_that_is_gone_leaves_no_series_behind() -> None:
    async with serving("echo") as server:
        settings = {"light": "false", "delay_ms": "5"}
        load = LoadModelRequest(name="slow", source="echo", version=7, settings=settings, wait=True)
        await server.models.LoadModel(load)
        calls = [server.inference.Detect(DetectRequest(model="slow", image=PICTURE)) for _ in range(20)]
        await asyncio.gather(*calls)
        names = {name for name, _ in series(server, "slow@7")}
        assert {"opsin_joined_total", "opsin_tickets_total", "opsin_model_answers_total"} <= names
        await server.models.UnloadModel(UnloadModelRequest(name="slow", version=7))
        async with asyncio.timeout(30):
            while any(version.key == "slow@7" for version in server.app.registry):
                await asyncio.sleep(0.01)
        assert list(series(server, "slow@7")) == []


async def test_a_version_whose_prepare_raises_is_told_to_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a broken canary would look like one that nobody calls."""
    async with serving("echo") as server:
        loaded = next(iter(server.app.registry)).loaded
        assert loaded is not None

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(loaded.detector, "prepare", broken)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await server.inference.Detect(DetectRequest(model="echo", image=PICTURE))
        assert error.value.code() is grpc.StatusCode.INTERNAL
        labels = {"model": "echo", "version": "1", "reason": "DETECTOR_FAILED"}
        assert server.app.metrics.registry.get_sample_value("opsin_model_answers_total", labels) == 1


async def test_a_frame_that_need_not_be_looked_at_is_no_failure_of_the_version() -> None:
    async with serving("echo=echo,light=false") as server:
        stream = server.inference.StreamDetect()
        alike = ReuseSimilar(max_hold=Duration(seconds=60))
        await stream.write(StreamDetectRequest(config=StreamConfig(model="echo", reuse_similar=alike)))
        assert (await stream.read()).HasField("ready")
        for sequence in (1, 2, 3):
            await stream.write(StreamDetectRequest(frame=Frame(sequence=sequence, image=PICTURE)))
            assert (await stream.read()).result.reused_from == (1 if sequence > 1 else 0)
        await stream.done_writing()
        told = [labels for name, labels in series(server, "echo@1") if name == "opsin_model_answers_total"]
        assert [labels["reason"] for labels in told] == [""]
