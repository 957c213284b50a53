"""From the end of the drain's delay: what was accepted is answered, what comes is told why and when."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from opsin.v1 import DetectRequest, Image, ListModelsRequest
from opsin_server.calls import DetectAnswer, DetectCall, ModelRef, Timings

PICTURE = DetectRequest(image=Image(encoded=b"pixels"))
TRAILER = (("x-request-id", "late-1"),)


def told(error: grpc.aio.AioRpcError) -> tuple[str, float, str]:
    """The reason, the seconds to wait, and the request id of a refusal, which has nothing but trailers."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    trailers = dict(error.trailing_metadata())
    found = {}
    for detail in status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details:
        message = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])()
        detail.Unpack(message)
        found[type(message)] = message
    wait = found[error_details_pb2.RetryInfo].retry_delay.ToMilliseconds() / 1000
    return found[error_details_pb2.ErrorInfo].reason, wait, trailers["opsin-request-id"]


async def held(server) -> "tuple[grpc.aio.UnaryUnaryCall, asyncio.Event]":
    """A call that was accepted, and what lets it be answered."""
    gate = asyncio.Event()

    async def slow(call: DetectCall) -> DetectAnswer:
        await gate.wait()
        return DetectAnswer(ModelRef("finder", 3, "cpu"), [], [], None, 4, 4, Timings())

    server.pipeline.on_detect = slow
    call = server.inference.Detect(PICTURE)
    async with asyncio.timeout(30):
        while not server.pipeline.calls:
            await asyncio.sleep(0.01)
    return call, gate


async def test_calls_on_a_live_connection_are_refused_with_the_time_to_come_back(server) -> None:
    accepted, gate = await held(server)
    stopping = asyncio.create_task(server.server.stop(grace=600))
    await asyncio.sleep(0.1)
    for call in (
        server.inference.Detect(PICTURE, metadata=TRAILER),
        server.models.ListModels(ListModelsRequest(), metadata=TRAILER),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert told(refused.value) == ("DRAINING", 1.0, "late-1")
    stream = server.inference.StreamDetect(metadata=TRAILER)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream.read()
    assert told(refused.value) == ("DRAINING", 1.0, "late-1")
    gate.set()
    assert (await accepted).model.name == "finder"
    async with asyncio.timeout(30):
        await stopping
    assert len(server.pipeline.calls) == 1


async def test_a_stream_that_never_said_anything_is_refused_and_holds_nothing_up(server) -> None:
    stream = server.inference.StreamDetect(metadata=TRAILER)
    async with asyncio.timeout(30):
        while not server.server.streams.live:
            await asyncio.sleep(0.01)
        await server.server.stop(grace=600)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
    assert told(refused.value) == ("DRAINING", 1.0, "late-1")


async def test_whoever_gets_the_last_answer_and_calls_again_is_told_too(server) -> None:
    accepted, gate = await held(server)
    stopping = asyncio.create_task(server.server.stop(grace=600))
    await asyncio.sleep(0.1)
    gate.set()
    await accepted
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await server.inference.Detect(PICTURE, metadata=TRAILER)
    assert told(refused.value) == ("DRAINING", 1.0, "late-1")
    async with asyncio.timeout(30):
        await stopping


async def test_callers_that_do_not_give_up_hold_nothing_up(server) -> None:
    async def insist() -> None:
        while True:
            try:
                await server.models.ListModels(ListModelsRequest())
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)

    callers = asyncio.create_task(insist())
    await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        await server.server.stop(grace=600)
    callers.cancel()


async def test_a_server_that_nobody_calls_waits_neither_to_refuse_nor_for_its_grace(
    server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsin_server.rpc.server.REFUSING", 600)
    await server.models.ListModels(ListModelsRequest())
    async with asyncio.timeout(30):
        await server.server.stop(grace=600)


async def test_a_call_that_takes_longer_than_refusals_last_is_still_answered(
    server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsin_server.rpc.server.REFUSING", 0.05)
    accepted, gate = await held(server)
    stopping = asyncio.create_task(server.server.stop(grace=600))
    await asyncio.sleep(0.3)
    assert not stopping.done()
    gate.set()
    assert (await accepted).model.name == "finder"
    async with asyncio.timeout(30):
        await stopping


async def test_a_call_that_outlives_the_grace_is_given_up(server) -> None:
    accepted, _ = await held(server)
    async with asyncio.timeout(30):
        await server.server.stop(grace=0.2)
    with pytest.raises(grpc.aio.AioRpcError):
        await accepted
