"""Calls over real gRPC, by both clients."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import opsin
from integration.client.fake import LIMIT, Fake, found, refuse
from opsin import v1 as pb

Connect = Callable[..., Any]


def test_a_picture_goes_in_and_typed_results_come_out(fake: Fake, connect: Connect, tmp_path: Path) -> None:
    client = connect(fake.target)
    (tmp_path / "a.jpg").write_bytes(b"x" * 7)
    result = client.detect(tmp_path / "a.jpg", min_score=0.5, labels=["7"], model="m")
    assert result.detections[0].label == "7"
    assert result.detections[0].pixels == opsin.PixelBox(0, 0, 64, 32)
    assert result.request_id == "request-1"
    request = fake.calls[0][1]
    assert (request.model, request.options.min_score, list(request.options.labels)) == ("m", 0.5, ["7"])
    assert client.detect(np.zeros((2, 3, 3), np.uint8)).detections[0].label == "18"
    assert client.detect(opsin.Text("hello")).detections[0].label == "hello"


def test_a_vector_comes_back(fake: Fake, connect: Connect) -> None:
    result = connect(fake.target).embed(opsin.Text("a"), model="m", dimensions=2)
    assert list(result.vector) == [1.0, 2.0]
    assert result.dimensions == 2
    assert fake.calls[0][1].encoding == pb.EmbeddingEncoding.EMBEDDING_ENCODING_PACKED


def test_identity_metadata_agent_and_deadline_go_along(fake: Fake, connect: Connect) -> None:
    left: list[float] = []

    def note(request: Any, context: Any) -> Any:
        left.append(context.time_remaining())
        return pb.DetectResponse()

    fake.on_detect = note
    client = connect(fake.target, token="t0", metadata=[("x-tenant", "a")], timeout=700.0)
    client.detect(b"x")
    client.detect(b"x", timeout=200.0)
    client.detect(b"x", timeout=math.inf)
    metadata = fake.calls[0][3]
    assert metadata["authorization"] == "Bearer t0"
    assert metadata["x-tenant"] == "a"
    assert metadata["user-agent"].startswith(f"opsin-python/{opsin.__version__}")
    assert 600 < left[0] < 710  # gRPC sends a timeout rounded up
    assert 100 < left[1] < 210
    assert left[2] is None or left[2] > 1e6


def test_a_refusal_becomes_its_exception(fake: Fake, connect: Connect) -> None:
    fake.on_detect = lambda _, context: refuse(context, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    with pytest.raises(opsin.ModelNotFound, match="MODEL_NOT_FOUND it is") as caught:
        connect(fake.target).detect(b"x")
    assert (caught.value.reason, caught.value.request_id) == ("MODEL_NOT_FOUND", "refused")
    assert caught.value.code is opsin.Code.NOT_FOUND


@pytest.mark.parametrize("timeout", [math.inf, 1e9, 1e12])
def test_no_time_is_too_long(fake: Fake, connect: Connect, timeout: float) -> None:
    client = connect(fake.target)
    client.wait_until_serving(timeout=timeout)
    assert client.detect(b"12", timeout=timeout).detections[0].label == "2"
    assert [reply.sequence for reply in client.stream([b"x"] * 2, timeout=timeout)] == [1, 2]


def test_no_answer_in_time_is_a_timeout(fake: Fake, connect: Connect) -> None:
    told = threading.Event()
    fake.on_detect = lambda request, context: told.wait(60) and found(request, context)
    with pytest.raises(TimeoutError, match=r"within 0\.2 s") as caught:
        connect(fake.target).detect(b"x", timeout=0.2)
    assert not told.is_set(), "before the server had an answer"
    told.set()
    assert isinstance(caught.value, opsin.DeadlineExceeded)


def test_nobody_there_is_told_with_the_address(connect: Connect) -> None:
    with pytest.raises(opsin.Unreachable, match=r"127\.0\.0\.1:1"):
        connect("127.0.0.1:1").health()


def test_a_large_picture_passes_in_both_directions(fake: Fake, connect: Connect) -> None:
    fake.on_detect = lambda *_: pb.DetectResponse(labels=[pb.Label(name="x" * 20_000_000)])
    result = connect(fake.target).detect(bytes(20_000_000))
    assert len(result.labels[0].name) == 20_000_000


def test_a_message_over_the_limit_is_refused_before_it_is_sent(fake: Fake, connect: Connect) -> None:
    client = connect(fake.target, max_message_bytes=100_000)
    with pytest.raises(opsin.MessageTooLarge, match="100000"):
        client.detect(bytes(100_000))
    assert fake.calls == []
    assert client.detect(bytes(99_000)).detections


def test_a_message_over_the_other_sides_limit_says_so(connect: Connect) -> None:
    fake = Fake(limit=10_000)
    try:
        fake.on_detect = lambda *_: pb.DetectResponse(labels=[pb.Label(name="x" * 20_000)])
        with pytest.raises(opsin.MessageTooLarge, match=fake.target):
            connect(fake.target).detect(bytes(20_000))
        with pytest.raises(opsin.MessageTooLarge, match="limit"):
            connect(fake.target, max_message_bytes=10_000).detect(b"x")
    finally:
        fake.stop()


def test_a_wrong_input_or_option_never_reaches_the_server(fake: Fake, connect: Connect) -> None:
    client = connect(fake.target)
    with pytest.raises(opsin.InvalidInput, match="no file"):
        client.detect("missing.jpg")
    with pytest.raises(opsin.InvalidInput, match="min_score"):
        client.detect(b"x", min_score=2.0)
    with pytest.raises(opsin.InvalidInput, match="priority"):
        client.embed(b"x", priority="soon")
    assert fake.calls == []


def test_many_inputs_travel_in_calls_of_256_and_come_back_in_order(fake: Fake, connect: Connect) -> None:
    client = connect(fake.target)
    inputs = [bytes(at + 1) for at in range(300)]
    results = client.detect_many(inputs, min_score=0.5)
    assert [result.detections[0].label for result in results] == [str(at + 1) for at in range(300)]
    sizes = [len(request.requests) for _, request, _, _ in fake.calls]
    assert sizes == [256, 44]
    assert results[0].source == inputs[0]
    assert len(client.embed_many([opsin.Text("a")] * 3)) == 3


def test_what_fails_among_many_is_an_error_in_its_place(fake: Fake, connect: Connect) -> None:
    def judge(request: Any) -> Any:
        from google.rpc.status_pb2 import Status

        if request.image.encoded == b"bad":
            return pb.DetectOutcome(error=Status(code=3, message="no picture"))
        return pb.DetectOutcome(response=pb.DetectResponse())

    fake.on_batch = judge
    good, bad, missing = connect(fake.target).detect_many([b"good", b"bad", "missing.jpg"])
    assert isinstance(good, opsin.DetectResult)
    assert isinstance(bad, opsin.InvalidInput)
    assert (bad.message, bad.request_id) == ("no picture", "request-1")
    assert isinstance(missing, opsin.InvalidInput)


def test_items_refused_for_overload_are_sent_again_after_the_time_asked_for(
    fake: Fake, connect: Connect
) -> None:
    from google.protobuf.any_pb2 import Any as Packed
    from google.protobuf.duration_pb2 import Duration
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    refused = set[bytes]()

    def judge(request: Any) -> Any:
        if request.image.encoded == b"b" and b"b" not in refused:
            refused.add(b"b")
            packed = Packed()
            packed.Pack(RetryInfo(retry_delay=Duration(nanos=300_000_000)))
            return pb.DetectOutcome(error=Status(code=8, message="full", details=[packed]))
        return pb.DetectOutcome(response=pb.DetectResponse())

    fake.on_batch = judge
    results = connect(fake.target).detect_many([b"a", b"b"])
    assert all(isinstance(result, opsin.DetectResult) for result in results)
    first, second = fake.times("BatchDetect")
    assert second - first >= 0.3


def test_a_call_that_fails_as_a_whole_gives_its_error_to_each_of_its_items(connect: Connect) -> None:
    results = connect("127.0.0.1:1").detect_many([b"a", b"b"])
    assert [type(result) for result in results] == [opsin.Unreachable] * 2


def test_models_are_listed_described_loaded_and_switched(fake: Fake, connect: Connect) -> None:
    client = connect(fake.target)
    assert [str(model) for model in client.models()] == ["a@1", "b@1"]
    assert client.model().name == "default"
    assert client.server_info().version == "9.9"
    loaded = client.load_model(
        "c", source="hub/id", settings={"threshold": 0.5}, labels=["canary"], wait=False
    )
    assert loaded.state is opsin.ModelState.SERVING
    request = next(request for name, request, _, _ in fake.calls if name == "LoadModel")
    assert (dict(request.settings), list(request.labels), request.wait) == (
        {"threshold": "0.5"},
        ["canary"],
        False,
    )
    assert client.unload_model("c", version=2).name == "c"
    assert [m.name for m in client.set_traffic("c", {1: 90, 2: 10}, labels={"canary": 2})] == ["c"]
    request = fake.calls[-1][1]
    assert [(target.version, target.weight) for target in request.targets] == [(1, 90), (2, 10)]
    assert dict(request.labels) == {"canary": 2}


def test_health_is_asked_and_watched(fake: Fake, connect: Connect) -> None:
    from grpc_health.v1.health_pb2 import HealthCheckResponse as Wire

    client = connect(fake.target)
    fake.health.set("", Wire.NOT_SERVING)
    assert client.health() is opsin.Health.NOT_SERVING
    assert client.health("no such thing") is opsin.Health.SERVICE_UNKNOWN
    watch = client.watch_health("model/a")
    assert next(watch) is opsin.Health.SERVICE_UNKNOWN
    fake.health.set("model/a", Wire.SERVING)
    assert next(watch) is opsin.Health.SERVING
    watch.close()
    with pytest.raises(opsin.DeadlineExceeded, match=r"not serving within 0\.3 s"):
        client.wait_until_serving(timeout=0.3)
    fake.health.set("", Wire.SERVING)
    client.wait_until_serving(timeout=30)


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"tls": "no/such.pem"}, "tls"), ({"token": "a\n"}, "token"), ({"token": "ä"}, "token")],
)
def test_what_cannot_be_sent_along_is_an_invalid_input(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(opsin.InvalidInput) as caught:
        opsin.Client("127.0.0.1:1", **settings)
    assert caught.value.violations[0].field == field


HALF = "\udcff"  # of a name that is not UTF-8, as Python has it


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.detect(b"x", model=HALF),
        lambda client: client.detect(b"x", labels=[HALF]),
        lambda client: client.embed(opsin.Text("a"), routing_key=HALF),
        lambda client: client.model(HALF),
        lambda client: client.load_model("a", source=HALF),
        lambda client: client.unload_model(HALF),
        lambda client: client.set_traffic("a", labels={HALF: 1}),
        lambda client: client.health(HALF),
        lambda client: list(client.stream([b"x"], model=HALF)),
    ],
)
def test_a_string_that_no_message_can_carry_is_an_invalid_input(
    fake: Fake, connect: Connect, use: Callable[[Any], Any]
) -> None:
    with pytest.raises(opsin.InvalidInput, match="half a character"):
        use(connect(fake.target))
    assert fake.calls == []


def test_waiting_leaves_a_server_that_ends_every_watch_in_peace(connect: Connect) -> None:
    watched: list[float] = []

    def leaves(_request: bytes, _context: Any) -> Iterator[bytes]:
        watched.append(time.monotonic())
        yield from ()

    server = grpc.server(ThreadPoolExecutor(4))
    watch = grpc.unary_stream_rpc_method_handler(leaves, None, None)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": watch}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(opsin.DeadlineExceeded, match="was not serving within"):
            connect(f"127.0.0.1:{port}").wait_until_serving(timeout=1.0)
    finally:
        server.stop(None).wait()
    assert 1 <= len(watched) <= 11  # a tenth of a second apart


def test_waiting_for_a_server_starts_before_the_server_does(connect: Connect) -> None:
    import threading

    first = Fake()
    port = first.port
    first.stop()
    started: list[Fake] = []
    timer = threading.Timer(0.3, lambda: started.append(Fake(port)))
    timer.start()
    try:
        connect(f"127.0.0.1:{port}").wait_until_serving(timeout=20)
        assert started
    finally:
        timer.join()
        started[0].stop()


def test_a_closed_client_says_so_and_closes_twice(fake: Fake) -> None:
    client = opsin.Client(fake.target)
    client.close()
    client.close()
    for use in (
        lambda: client.detect(b"x"),
        lambda: client.stream([b"x"]),
        lambda: list(client.watch_health()),
    ):
        with pytest.raises(opsin.ClientClosed):
            use()


async def test_the_async_client_can_be_made_outside_of_its_loop(fake: Fake) -> None:
    async with opsin.AsyncClient(fake.target) as client:
        assert (await client.detect(b"abc")).detections[0].label == "3"
    await client.close()
    with pytest.raises(opsin.ClientClosed):
        await client.detect(b"x")


def test_the_limits_of_both_sides_are_the_same_by_default() -> None:
    assert LIMIT == 32 * 1024 * 1024
