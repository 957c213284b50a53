"""Unary and batch calls over a real connection."""

import asyncio

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from opsin.v1 import (
    BatchDetectRequest,
    BatchEmbedRequest,
    CacheStatus,
    Codec,
    DetectOptions,
    DetectRequest,
    EmbeddingDtype,
    EmbeddingEncoding,
    EmbedRequest,
    GetModelRequest,
    GetServerInfoRequest,
    Image,
    ListModelsRequest,
    LoadModelRequest,
    ModelState,
    Priority,
)
from opsin_server.calls import DetectAnswer, DetectCall, EncodedImage, ModelRef
from opsin_server.errors import Failure, Reason
from opsin_server.rpc.errors import RULES
from opsin_server.scheduling import ticket

PICTURE = Image(encoded=b"pixels")


def details(error: grpc.aio.AioRpcError) -> dict[type[Message], Message]:
    """The details of an error by type, one of each at most; the status repeats the code and the message."""
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return unpacked(status)


def unpacked(status: status_pb2.Status) -> dict[type[Message], Message]:
    found: dict[type[Message], Message] = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])
        assert kind not in found
        found[kind] = kind()
        packed.Unpack(found[kind])
    info = found[error_details_pb2.ErrorInfo]
    assert info.domain == "opsin"
    return found


def reason(error: grpc.aio.AioRpcError) -> str:
    return details(error)[error_details_pb2.ErrorInfo].reason


def named(data: bytes) -> DetectAnswer:
    """An answer that tells which input it is to."""
    return DetectAnswer(ModelRef(data.decode(), 1, "cpu"))


async def refused(call) -> grpc.aio.AioRpcError:
    """The error of a call that was refused: trailers-only, with a request id."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert "opsin-request-id" in dict(caught.value.trailing_metadata())
    return caught.value


async def test_detect_answers_with_what_the_pipeline_found(server) -> None:
    reply = await server.inference.Detect(DetectRequest(image=PICTURE, model="finder"))
    (found,) = reply.detections
    assert (found.label, found.class_id, found.score) == ("cat", 1, 0.75)
    assert found.box.y_max == pytest.approx(0.4)
    assert (reply.image.width, reply.image.height, reply.flagged) == (640, 480, True)
    assert (reply.model.name, reply.model.version) == ("finder", 3)
    assert (reply.timings.total_us, reply.timings.queue_us, reply.timings.batch_size) == (500_000, 250_000, 2)
    assert reply.cache == CacheStatus.CACHE_STATUS_MISS
    (call,) = server.pipeline.calls
    assert call.model == "finder"
    assert call.source == EncodedImage(b"pixels")


async def test_the_deadline_the_priority_and_the_connection_reach_the_pipeline(server) -> None:
    loop = asyncio.get_running_loop()
    request = DetectRequest(image=PICTURE, priority=Priority.PRIORITY_BULK, routing_key="k")
    await server.inference.Detect(request, timeout=200)
    caller = server.pipeline.calls[0].caller
    assert 100 < caller.deadline - loop.time() < 210  # gRPC sends a timeout rounded up
    assert caller.priority is ticket.Priority.BULK
    assert caller.routing_key == "k"
    assert caller.flow.startswith("ipv4:127.0.0.1:")


async def test_without_a_deadline_the_call_has_none(server) -> None:
    await server.inference.Detect(DetectRequest(image=PICTURE))
    assert server.pipeline.calls[0].caller.deadline == float("inf")


@pytest.mark.parametrize("packed", [False, True])
async def test_a_vector_travels_in_the_form_that_was_asked_for(server, packed: bool) -> None:
    encoding = EmbeddingEncoding.EMBEDDING_ENCODING_PACKED if packed else 0
    reply = await server.inference.Embed(EmbedRequest(text="hi", encoding=encoding))
    assert reply.embedding.dimensions == 3
    if packed:
        assert reply.embedding.packed == bytes.fromhex("0000803e0000c0bf00004040")
        assert reply.embedding.dtype == EmbeddingDtype.EMBEDDING_DTYPE_F32
        assert not reply.embedding.values
    else:
        assert list(reply.embedding.values) == [0.25, -1.5, 3.0]
        assert not reply.embedding.packed


@pytest.mark.parametrize("method", ["Detect", "BatchDetect", "Embed", "BatchEmbed"])
async def test_bytes_that_are_no_message_are_named_so_without_the_parsers_words(server, method: str) -> None:
    call = server.channel.unary_unary(f"/opsin.v1.InferenceService/{method}")
    error = await refused(call(b"\xff\xff\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "MALFORMED_REQUEST"
    assert f"opsin.v1.{method}Request" in error.details()
    assert "pars" not in error.details().lower()
    await server.inference.Detect(DetectRequest(image=PICTURE))  # and the server goes on


@pytest.mark.parametrize(
    ("request_", "why", "path"),
    [
        (DetectRequest(), "INPUT_MISSING", "input"),
        (DetectRequest(image=Image()), "INPUT_MISSING", "image.source"),
        (DetectRequest(image=Image(encoded=b"")), "INPUT_MISSING", "image.encoded"),
        (DetectRequest(text=""), "INPUT_MISSING", "text"),
        (
            DetectRequest(image=PICTURE, options=DetectOptions(min_score=float("nan"))),
            "OPTION_INVALID",
            "options.min_score",
        ),
    ],
)
async def test_a_bad_request_names_its_field(server, request_: DetectRequest, why: str, path: str) -> None:
    error = await refused(server.inference.Detect(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = details(error)
    assert found[error_details_pb2.ErrorInfo].reason == why
    (violation,) = found[error_details_pb2.BadRequest].field_violations
    assert violation.field == path
    assert not server.pipeline.calls


@pytest.mark.parametrize("why", list(Reason))
async def test_every_reason_arrives_with_its_code_and_details(server, why: Reason) -> None:
    server.pipeline.fail_with(Failure(why, "It went wrong.", "image.encoded", {"key": "value"}))
    error = await refused(server.inference.Detect(DetectRequest(image=PICTURE)))
    assert error.code() is RULES[why].code
    found = details(error)
    info = found[error_details_pb2.ErrorInfo]
    assert (info.reason, dict(info.metadata)) == (why.value, {"key": "value"})
    assert found[error_details_pb2.BadRequest].field_violations[0].field == "image.encoded"
    pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert pushback is not None
        assert (int(pushback) > 0) == (error_details_pb2.RetryInfo in found)


async def test_a_refusal_is_trailers_only(server) -> None:
    """gRPC retries only what comes without initial metadata: its own retry is the proof."""
    attempts = 0

    async def fail_once(call: DetectCall) -> DetectAnswer:
        nonlocal attempts
        attempts += 1
        raise Failure(Reason.QUEUE_FULL, "Full.", retry_after=0.01)

    server.pipeline.on_detect = fail_once
    policy = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "600s",
        "maxBackoff": "600s", "backoffMultiplier": 1, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]}"""
    async with grpc.aio.insecure_channel(
        server.address, options=[("grpc.service_config", policy)]
    ) as channel:
        call = channel.unary_unary("/opsin.v1.InferenceService/Detect")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(DetectRequest(image=PICTURE).SerializeToString(), timeout=60)
        assert attempts == 4, "after the pushback, not the backoff"


async def test_an_unexpected_exception_tells_an_id_and_nothing_else(server) -> None:
    server.pipeline.fail_with(RuntimeError("secret path /etc/weights"))
    error = await refused(server.inference.Detect(DetectRequest(image=PICTURE)))
    assert error.code() is grpc.StatusCode.INTERNAL
    error_id = details(error)[error_details_pb2.ErrorInfo].metadata["error_id"]
    assert error_id in error.details()
    assert b"secret" not in dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert "secret" not in error.details()


async def test_a_cancellation_that_leaks_out_of_the_work_never_leaves_the_client_hanging(server) -> None:
    async def leak(call: DetectCall) -> DetectAnswer:
        raise asyncio.CancelledError

    server.pipeline.on_detect = leak
    error = await refused(server.inference.Detect(DetectRequest(image=PICTURE), timeout=30))
    assert error.code() is grpc.StatusCode.INTERNAL


async def test_when_the_client_goes_its_work_is_cancelled_quietly(server) -> None:
    started = asyncio.Event()

    async def hang(call: DetectCall) -> DetectAnswer:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    server.pipeline.on_detect = hang
    call = server.inference.Detect(DetectRequest(image=PICTURE))
    await started.wait()
    call.cancel()
    async with asyncio.timeout(30):
        while not server.pipeline.cancelled:
            await asyncio.sleep(0.01)
    server.pipeline.on_detect = None
    await server.inference.Detect(DetectRequest(image=PICTURE))


async def test_an_error_longer_than_trailers_may_be_is_cut(server) -> None:
    server.pipeline.fail_with(
        Failure(Reason.LABEL_UNKNOWN, "ж" * 20_000, "options.labels[0]", {"k": "ж" * 20_000})
    )
    error = await refused(server.inference.Detect(DetectRequest(image=PICTURE)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().endswith("…")
    assert len(details(error)[error_details_pb2.ErrorInfo].metadata["k"]) == 200


async def test_the_clients_request_id_comes_back_when_it_is_sane(server) -> None:
    for sent, kept in (("abc-123", True), ("x" * 500, False), ("a b", False)):
        call = server.inference.Detect(DetectRequest(image=PICTURE), metadata=(("x-request-id", sent),))
        await call
        told = dict(await call.trailing_metadata())["opsin-request-id"]
        assert (told == sent) is kept
        assert told


async def test_a_call_is_counted_once_by_method_code_and_reason(server) -> None:
    await server.inference.Detect(DetectRequest(image=PICTURE))
    server.pipeline.fail_with(Failure(Reason.QUEUE_FULL, "Full."))
    await refused(server.inference.Detect(DetectRequest(image=PICTURE)))
    value = server.metrics.registry.get_sample_value
    labels = {"method": "Detect", "code": "OK", "reason": ""}
    assert value("opsin_calls_total", labels) == 1
    assert value("opsin_calls_total", {**labels, "code": "RESOURCE_EXHAUSTED", "reason": "QUEUE_FULL"}) == 1
    assert value("opsin_call_seconds_count", {"method": "Detect"}) == 2
    assert value("opsin_calls_in_flight", {"method": "Detect"}) == 0
    assert value("opsin_failures_total", {"reason": "QUEUE_FULL"}) == 1


# --- batches --------------------------------------------------------------------------------------------


async def test_the_items_of_a_batch_run_at_the_same_time(server) -> None:
    all_in = asyncio.Barrier(3)

    async def together(call: DetectCall) -> DetectAnswer:
        await all_in.wait()
        return named(call.source.data)

    server.pipeline.on_detect = together
    items = [DetectRequest(image=Image(encoded=data)) for data in (b"a", b"b", b"c")]
    reply = await server.inference.BatchDetect(BatchDetectRequest(requests=items), timeout=30)
    assert [outcome.response.model.name for outcome in reply.outcomes] == ["a", "b", "c"]


async def test_each_item_of_a_batch_has_its_own_outcome_in_its_own_place(server) -> None:
    async def poison(call: DetectCall) -> DetectAnswer:
        if call.source == EncodedImage(b"bad"):
            raise Failure(Reason.IMAGE_UNDECODABLE, "No picture.", "image.encoded")
        return named(call.source.data)

    server.pipeline.on_detect = poison
    items = [
        DetectRequest(image=Image(encoded=b"a")),
        DetectRequest(),
        DetectRequest(image=Image(encoded=b"bad")),
        DetectRequest(image=Image(encoded=b"b")),
    ]
    reply = await server.inference.BatchDetect(BatchDetectRequest(requests=items))
    assert [outcome.WhichOneof("outcome") for outcome in reply.outcomes] == [
        "response",
        "error",
        "error",
        "response",
    ]
    assert reply.outcomes[3].response.model.name == "b"
    fields = [
        unpacked(reply.outcomes[i].error)[error_details_pb2.BadRequest].field_violations[0].field
        for i in (1, 2)
    ]
    assert fields == ["requests[1].input", "requests[2].image.encoded"]


async def test_equal_items_of_a_batch_run_once(server) -> None:
    same = DetectRequest(image=PICTURE)
    other = DetectRequest(image=PICTURE, options=DetectOptions(min_score=0.5))
    reply = await server.inference.BatchDetect(BatchDetectRequest(requests=[same, other, same]))
    assert len(server.pipeline.calls) == 2
    assert reply.outcomes[0] == reply.outcomes[2]


async def test_equal_texts_embed_once_but_keep_their_own_encoding(server) -> None:
    plain = EmbedRequest(text="a")
    packed = EmbedRequest(text="a", encoding=EmbeddingEncoding.EMBEDDING_ENCODING_PACKED)
    reply = await server.inference.BatchEmbed(BatchEmbedRequest(requests=[plain, packed]))
    assert len(server.pipeline.calls) == 1
    assert len(reply.outcomes[0].response.embedding.values) == 3
    assert len(reply.outcomes[1].response.embedding.packed) == 12


async def test_a_batch_is_refused_as_a_whole_only_when_nothing_was_admitted(server) -> None:
    async def full(call: DetectCall) -> DetectAnswer:
        if call.source == EncodedImage(b"in"):
            return named(b"in")
        raise Failure(Reason.QUEUE_FULL, "Full.", retry_after=0.25)

    server.pipeline.on_detect = full
    out = DetectRequest(image=Image(encoded=b"out"))
    error = await refused(server.inference.BatchDetect(BatchDetectRequest(requests=[DetectRequest(), out])))
    assert reason(error) == "QUEUE_FULL"  # of both reasons the one that waiting helps against
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "250"
    admitted = DetectRequest(image=Image(encoded=b"in"))
    reply = await server.inference.BatchDetect(BatchDetectRequest(requests=[out, admitted]))
    assert [outcome.WhichOneof("outcome") for outcome in reply.outcomes] == ["error", "response"]


async def test_a_refused_batch_tells_the_soonest_time_at_which_trying_again_makes_sense(server) -> None:
    waits = {b"a": None, b"b": 0.75, b"c": 0.5}  # DEADLINE_UNMEETABLE has no time but the failure's own

    async def unmeetable(call: DetectCall) -> DetectAnswer:
        wait = waits[call.source.data]
        raise Failure(Reason.DEADLINE_UNMEETABLE, "Too late.", retry_after=wait, never_retry=wait is None)

    server.pipeline.on_detect = unmeetable
    items = [DetectRequest(image=Image(encoded=data)) for data in waits]
    error = await refused(server.inference.BatchDetect(BatchDetectRequest(requests=items)))
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "500"


async def test_items_that_were_refused_half_way_are_outcomes_not_refusals(server) -> None:
    server.pipeline.fail_with(Failure(Reason.QUEUE_FULL, "Full.", admitted=True))
    reply = await server.inference.BatchDetect(BatchDetectRequest(requests=[DetectRequest(image=PICTURE)]))
    assert unpacked(reply.outcomes[0].error)[error_details_pb2.ErrorInfo].reason == "QUEUE_FULL"


async def test_items_that_failed_after_admission_are_outcomes_even_when_all_failed(server) -> None:
    server.pipeline.fail_with(Failure(Reason.IMAGE_UNDECODABLE, "No picture.", "image.encoded"))
    request = BatchDetectRequest(requests=[DetectRequest(image=PICTURE)])
    reply = await server.inference.BatchDetect(request)
    assert reply.outcomes[0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize("method", ["BatchDetect", "BatchEmbed"])
async def test_an_empty_and_an_overlong_batch_are_refused(server, method: str) -> None:
    kind, item = (
        (BatchDetectRequest, DetectRequest())
        if method == "BatchDetect"
        else (BatchEmbedRequest, EmbedRequest())
    )
    call = getattr(server.inference, method)
    assert reason(await refused(call(kind()))) == "INPUT_MISSING"
    assert reason(await refused(call(kind(requests=[item] * 257)))) == "BATCH_TOO_LARGE"


async def test_when_the_client_of_a_batch_goes_all_its_items_are_cancelled(server) -> None:
    all_in = asyncio.Barrier(3)

    async def hang(call: DetectCall) -> DetectAnswer:
        await all_in.wait()
        await asyncio.Event().wait()
        raise AssertionError

    server.pipeline.on_detect = hang
    items = [DetectRequest(image=Image(encoded=data)) for data in (b"a", b"b")]
    call = server.inference.BatchDetect(BatchDetectRequest(requests=items))
    await all_in.wait()
    call.cancel()
    async with asyncio.timeout(30):
        while server.pipeline.cancelled < 2:
            await asyncio.sleep(0.01)


# --- models ---------------------------------------------------------------------------------------------


async def test_server_info_tells_the_limits_and_the_defaults(server) -> None:
    info = await server.models.GetServerInfo(GetServerInfoRequest())
    assert info.version == "1.2.3"
    assert info.default_detect_model == "finder"
    assert (info.limits.max_message_bytes, info.limits.max_quoted_characters) == (32 << 20, 200)
    assert all(value for _, value in info.limits.ListFields())
    assert len(info.limits.ListFields()) == len(info.limits.DESCRIPTOR.fields)
    assert [(device.name, device.lanes) for device in info.devices] == [("cpu", 2)]


@pytest.mark.parametrize(
    ("video", "codecs"), [(True, ["IMAGE", "H264", "HEVC", "MJPEG"]), (False, ["IMAGE", "MJPEG"])]
)
async def test_server_info_tells_the_codecs_that_a_stream_may_use(
    server, monkeypatch: pytest.MonkeyPatch, video: bool, codecs: list[str]
) -> None:
    monkeypatch.setattr("opsin_server.media.video.find_spec", lambda name: video or None)
    info = await server.models.GetServerInfo(GetServerInfoRequest())
    assert [Codec.Name(codec) for codec in info.codecs] == [f"CODEC_{name}" for name in codecs]


async def test_models_are_listed_by_name_and_version(server) -> None:
    reply = await server.models.ListModels(ListModelsRequest())
    assert [(m.name, m.version) for m in reply.models] == [("finder", 3), ("finder", 4), ("writer", 1)]
    finder = reply.models[0]
    assert list(finder.classes) == ["dog", "cat"]
    assert finder.default_options.max_labels == 2
    assert finder.default_options.min_score == 0.5
    assert finder.profile[0].median_us == 10_000
    assert finder.load_time.ToMilliseconds() == 1500
    assert list(finder.flag_classes) == ["cat"]
    assert reply.models[1].state == ModelState.MODEL_STATE_FAILED
    assert unpacked(reply.models[1].failure)[error_details_pb2.ErrorInfo].reason == "MODEL_LOAD_FAILED"


@pytest.mark.parametrize(
    ("name", "version"), [("", 3), ("finder", 3), ("finder@4", 4), ("finder@canary", 4), ("writer", 1)]
)
async def test_a_name_leads_to_one_version(server, name: str, version: int) -> None:
    reply = await server.models.GetModel(GetModelRequest(name=name))
    assert reply.model.version == version


@pytest.mark.parametrize(
    ("name", "why"),
    [("findr", "MODEL_NOT_FOUND"), ("finder@9", "VERSION_NOT_FOUND"), ("finder@", "VERSION_NOT_FOUND")],
)
async def test_a_name_that_leads_nowhere_is_not_found_with_the_nearest(server, name: str, why: str) -> None:
    error = await refused(server.models.GetModel(GetModelRequest(name=name)))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    found = details(error)
    assert found[error_details_pb2.ErrorInfo].reason == why
    assert found[error_details_pb2.ErrorInfo].metadata["nearest"]
    assert found[error_details_pb2.BadRequest].field_violations[0].field == "name"


async def test_what_is_not_served_yet_is_unimplemented(server) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.models.LoadModel(LoadModelRequest(name="x"))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_as_large_as_the_limit_arrives_and_a_larger_one_is_refused(serve) -> None:
    async with serve(limits={"max_message_bytes": "4MiB"}) as up:
        await up.inference.Detect(DetectRequest(image=Image(encoded=bytes((4 << 20) - 100))))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await up.inference.Detect(DetectRequest(image=Image(encoded=bytes(4 << 20))))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_port_that_is_taken_is_told_with_the_reason(server, serve) -> None:
    with pytest.raises(OSError, match="in use"):
        async with serve(server={"port": server.port}):
            pass
