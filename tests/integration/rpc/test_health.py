"""grpc.health.v1 over a real connection."""

import asyncio

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN
SHARED = ["", "readiness", "opsin.v1.InferenceService", "opsin.v1.ModelService"]


@pytest.fixture
def health(server) -> HealthStub:
    return HealthStub(server.channel)


async def status(health: HealthStub, name: str) -> int:
    return (await health.Check(HealthCheckRequest(service=name))).status


async def test_nothing_serves_from_the_first_moment_but_the_process_is_alive(health) -> None:
    assert [await status(health, name) for name in SHARED] == [NOT_SERVING] * 4
    assert await status(health, "liveness") == SERVING


async def test_the_server_serves_once_every_expected_model_does(server, health) -> None:
    server.board.expect(["a", "b"])
    server.board.set_model("a", True)
    assert await status(health, "model/a") == SERVING
    assert await status(health, "") == NOT_SERVING
    server.board.set_model("b", True)
    assert [await status(health, name) for name in SHARED] == [SERVING] * 4


async def test_a_name_that_nobody_knows_is_not_found(health) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status(health, "model/unheard-of")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_list_tells_every_name(server, health) -> None:
    server.board.expect(["a"])
    reply = await health.List(HealthListRequest())
    assert set(reply.statuses) == {*SHARED, "liveness", "model/a"}
    assert reply.statuses["liveness"].status == SERVING


async def test_a_watch_tells_the_status_at_once_and_after_each_change(server, health) -> None:
    server.board.expect(["a"])
    watch = health.Watch(HealthCheckRequest(service=""))
    assert (await watch.read()).status == NOT_SERVING
    server.board.set_model("a", True)
    assert (await watch.read()).status == SERVING
    server.board.drain()
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()


async def test_a_watch_on_an_unknown_name_stays_open_until_it_is_known(server, health) -> None:
    watch = health.Watch(HealthCheckRequest(service="model/late"))
    assert (await watch.read()).status == UNKNOWN
    server.board.set_model("late", True)
    assert (await watch.read()).status == SERVING
    server.board.remove_model("late")
    assert (await watch.read()).status == UNKNOWN
    watch.cancel()


async def test_a_watch_that_ends_is_forgotten(server, health) -> None:
    watch = health.Watch(HealthCheckRequest(service=""))
    await watch.read()
    assert server.board.watchers == 1
    watch.cancel()
    async with asyncio.timeout(30):
        while server.board.watchers:
            await asyncio.sleep(0.01)


async def test_one_watch_too_many_is_told_when_to_come_back(
    server, health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsin_server.rpc.health.MAX_WATCHERS", 1)
    watch = health.Watch(HealthCheckRequest(service=""))
    await watch.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Watch(HealthCheckRequest(service=""), metadata=(("x-request-id", "w-2"),)).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(caught.value.trailing_metadata())
    assert (trailers["grpc-retry-pushback-ms"], trailers["opsin-request-id"]) == ("1000", "w-2")
    watch.cancel()


async def test_stopping_ends_watches_with_ok_and_does_not_wait_for_them(server, health) -> None:
    server.board.expect(["a"])
    server.board.set_model("a", True)
    watch = health.Watch(HealthCheckRequest(service=""))
    assert (await watch.read()).status == SERVING
    server.board.drain()
    assert (await watch.read()).status == NOT_SERVING
    async with asyncio.timeout(30):
        await server.server.stop(grace=60)
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_bytes_that_are_no_health_request_are_an_invalid_argument(server, method: str) -> None:
    path = f"/grpc.health.v1.Health/{method}"
    kind = server.channel.unary_unary if method == "Check" else server.channel.unary_stream
    call = kind(path)(b"\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call if method == "Check" else call.read())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
