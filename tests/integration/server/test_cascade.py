"""Boxes with a vector each: the second stage keeps to the rules of the first."""

import asyncio
import io
import threading
from typing import Any

import grpc
import pytest
from PIL import Image as Pictures

from opsin.v1 import BatchDetectRequest, DetectOptions, DetectRequest, Image
from opsin_server.errors import Failure, Reason
from serving import Serving, serving

SIDE = 64


def png() -> bytes:
    out = io.BytesIO()
    Pictures.new("RGB", (SIDE, SIDE)).save(out, "PNG")
    return out.getvalue()


PICTURE = png()
OPTIONS = DetectOptions(embed_detections=True, embed_model="second")


def request(routing_key: str = "") -> DetectRequest:
    return DetectRequest(model="echo", image=Image(encoded=PICTURE), options=OPTIONS, routing_key=routing_key)


def refuse_second_stage(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = server.app.pipeline._gate
    admit = gate.admit

    def full(model: str, *others: Any) -> Any:
        if model == "second@1":
            raise Failure(Reason.QUEUE_FULL, "Full.", retry_after=0.25)
        return admit(model, *others)

    monkeypatch.setattr(gate, "admit", full)


async def test_a_full_second_stage_refuses_one_call_but_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving("echo", "second=echo") as server:
        refuse_second_stage(server, monkeypatch)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.inference.Detect(request())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "250"
        reply = await server.inference.BatchDetect(BatchDetectRequest(requests=[request()]))
        assert reply.outcomes[0].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert server.app._budget.used == 0


async def test_a_routing_key_chooses_the_second_model_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving("echo", "second=echo") as server:
        registry, routed = server.app.registry, []
        pick = registry.pick

        def noting(name: str, kind: Any, routing_key: str = "") -> Any:
            routed.append((name, routing_key))
            return pick(name, kind, routing_key)

        monkeypatch.setattr(registry, "pick", noting)
        await server.inference.Detect(request("user-7"))
        assert routed == [("echo", "user-7"), ("second", "user-7")]


async def test_the_picture_counts_against_the_budget_from_stage_to_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving("echo", "second=echo,light=false,max_batch=1") as server:
        budget, least = server.app._budget, []
        assembled = server.app.pipeline._assembled
        second = server.app.registry.route("second", "embed").detector
        began, may_end, infer = asyncio.Event(), threading.Event(), second.infer
        loop = asyncio.get_running_loop()

        async def between(*args: Any) -> Any:
            least.append(budget.used)
            return await assembled(*args)

        def held(batch: Any) -> Any:
            loop.call_soon_threadsafe(began.set)
            may_end.wait(60)
            return infer(batch)

        monkeypatch.setattr(server.app.pipeline, "_assembled", between)
        monkeypatch.setattr(second, "infer", held)
        call = asyncio.ensure_future(server.inference.Detect(request()))
        async with asyncio.timeout(60):
            await began.wait()
        least.append(budget.used)  # the second stage runs
        may_end.set()
        assert len((await call).detections) == 1
        assert min(least) >= SIDE * SIDE * 3
        assert budget.used == 0
