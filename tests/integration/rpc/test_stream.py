"""StreamDetect over a real connection, EVERY_FRAME."""

import asyncio
import time

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from opsin._ending import Ending
from opsin.v1 import (
    DetectOptions,
    Frame,
    Freshness,
    FreshnessMode,
    GoAwayReason,
    Image,
    ReuseSimilar,
    StreamConfig,
    StreamDetectRequest,
    StreamDetectResponse,
    StreamUpdate,
)
from opsin_server.calls import DetectAnswer, DetectCall, ModelRef
from opsin_server.errors import Failure, Reason
from opsin_server.scheduling.ticket import Priority

CONFIG = StreamDetectRequest(config=StreamConfig(stream_id="cam"))


def frame(sequence: int, data: bytes = b"", **rest: object) -> StreamDetectRequest:
    image = Image(encoded=data or str(sequence).encode())
    return StreamDetectRequest(frame=Frame(sequence=sequence, image=image, **rest))


def update(**fields: object) -> StreamDetectRequest:
    return StreamDetectRequest(update=StreamUpdate(**fields))


async def echo(call: DetectCall) -> DetectAnswer:
    return DetectAnswer(ModelRef(call.source.data.decode(), 1, "cpu"))


async def talk(server, *messages: StreamDetectRequest | bytes) -> tuple[list[StreamDetectResponse], object]:
    """Send everything, half-close, and read to the end: the replies, and the error if there was one."""
    call = server.channel.stream_stream(
        "/opsin.v1.InferenceService/StreamDetect",
        request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        response_deserializer=StreamDetectResponse.FromString,
    )(timeout=20)
    ending = Ending(call)
    replies: list[StreamDetectResponse] = []
    try:
        for message in messages:
            await call.write(message)
        await call.done_writing()
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
        pass  # the server has ended the call already; what it said is read below
    try:
        # Not call.read(), which forgets what has arrived as soon as the call's end has.
        async for reply in call:
            replies.append(reply)  # noqa: PERF401 - what came before an error stays
    except grpc.aio.AioRpcError as error:
        return replies, await ending.of(error)
    return replies, None if await call.code() is grpc.StatusCode.OK else call


def told(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """Reason and field of an error."""
    assert isinstance(error, grpc.aio.AioRpcError)
    return unpacked(status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]))


def unpacked(status: status_pb2.Status) -> tuple[str, str]:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for packed in status.details:
        packed.Unpack(info)
        packed.Unpack(bad)
    return info.reason, bad.field_violations[0].field if bad.field_violations else ""


async def test_ready_comes_first_and_then_one_result_a_frame(server) -> None:
    server.pipeline.on_detect = echo
    replies, error = await talk(server, CONFIG, frame(1), frame(2), frame(7))
    assert error is None
    assert [reply.WhichOneof("kind") for reply in replies] == ["ready", "result", "result", "result"]
    assert all(reply.max_in_flight >= 1 for reply in replies)
    ready = replies[0].ready
    assert (ready.stream_id, ready.model.name, ready.model.version, ready.next_sequence) == (
        "cam",
        "finder",
        3,
        0,
    )
    assert [(r.result.sequence, r.result.response.model.name) for r in replies[1:]] == [
        (1, "1"),
        (2, "2"),
        (7, "7"),
    ]


async def test_a_frame_is_an_ordinary_call_of_the_stream(server) -> None:
    await talk(server, CONFIG, frame(1))
    (call,) = server.pipeline.calls
    assert call.model == "finder@3"
    assert (call.caller.flow, call.caller.priority) == ("stream/cam", Priority.STREAM)
    assert call.caller.deadline == float("inf")


async def test_replies_are_in_order_however_the_work_ends(server) -> None:
    gates = {n: asyncio.Event() for n in (1, 2, 3)}
    gates[3].set()

    async def gated(call: DetectCall) -> DetectAnswer:
        number = int(call.source.data)
        await gates[number].wait()
        if number > 1:
            gates[number - 1].set()
        return await echo(call)

    server.pipeline.on_detect = gated
    replies, error = await talk(server, CONFIG, frame(1), frame(2), frame(3))
    assert error is None
    assert [reply.result.sequence for reply in replies[1:]] == [1, 2, 3]
    for reply in replies[1:]:
        times = reply.result.response.timings
        assert times.order_us <= times.total_us


async def test_a_bad_frame_fails_and_the_stream_lives_on(server) -> None:
    async def picky(call: DetectCall) -> DetectAnswer:
        if call.source.data == b"bad":
            raise Failure(Reason.IMAGE_UNDECODABLE, "No picture.", "image.encoded")
        if call.source.data == b"crash":
            raise RuntimeError("secret")
        return await echo(call)

    server.pipeline.on_detect = picky
    replies, error = await talk(
        server,
        CONFIG,
        frame(1, b"bad"),
        frame(2, options=DetectOptions(min_score=2)),
        StreamDetectRequest(frame=Frame(sequence=3)),
        StreamDetectRequest(frame=Frame(sequence=4, packet=b"h264")),
        frame(5, b"crash"),
        frame(6),
    )
    assert error is None
    assert [reply.WhichOneof("kind") for reply in replies[1:]] == ["failed"] * 5 + ["result"]
    assert [reply.failed.sequence for reply in replies[1:6]] == [1, 2, 3, 4, 5]
    assert [unpacked(reply.failed.error) for reply in replies[1:6]] == [
        ("IMAGE_UNDECODABLE", "frame.image.encoded"),
        ("OPTION_INVALID", "frame.options.min_score"),
        ("INPUT_MISSING", "frame.payload"),
        ("CODEC_UNSUPPORTED", "frame.packet"),
        ("DETECTOR_FAILED", ""),
    ]
    assert "secret" not in replies[5].failed.error.message


async def test_a_stream_may_be_sent_away_after_the_greatest_sequence(server) -> None:
    """There is no number for what would come next, and the token has room for none."""
    greatest = 2**64 - 1
    call = server.inference.StreamDetect()
    for message in (CONFIG, frame(greatest)):
        await call.write(message)
    async with asyncio.timeout(20):
        assert [(await call.read()).WhichOneof("kind") for _ in range(2)] == ["ready", "result"]
        await server.server.stop(grace=20)
        go_away = (await call.read()).go_away
        assert (go_away.last_sequence, bool(go_away.resume_token)) == (greatest, True)
        assert await call.read() is grpc.aio.EOF


async def test_options_hold_from_the_config_by_the_update_and_for_one_frame(server) -> None:
    config = StreamDetectRequest(config=StreamConfig(options=DetectOptions(max_detections=1)))
    await talk(
        server,
        config,
        frame(1),
        update(options=DetectOptions(max_detections=2)),
        frame(2),
        frame(3, options=DetectOptions(max_detections=3)),
        update(freshness=Freshness(mode=FreshnessMode.FRESHNESS_MODE_EVERY_FRAME)),
        frame(4),
    )
    asked = {call.source.data: call.options.max_detections for call in server.pipeline.calls}
    assert asked == {b"1": 1, b"2": 2, b"3": 3, b"4": 2}


@pytest.mark.parametrize(
    ("broken", "why", "field"),
    [
        (CONFIG, "STREAM_PROTOCOL", "config"),
        (StreamDetectRequest(), "STREAM_PROTOCOL", "kind"),
        (b"\xff\xff", "MALFORMED_REQUEST", ""),
        (frame(2), "SEQUENCE_NOT_INCREASING", "frame.sequence"),
        (frame(1), "SEQUENCE_NOT_INCREASING", "frame.sequence"),
        (update(options=DetectOptions(min_score=-1)), "STREAM_PROTOCOL", "update.options.min_score"),
        (
            update(freshness=Freshness(mode=FreshnessMode.FRESHNESS_MODE_TARGET_FPS)),
            "STREAM_PROTOCOL",
            "update.freshness.target_fps",
        ),
    ],
)
async def test_a_broken_protocol_ends_the_call_after_what_was_accepted(server, broken, why, field) -> None:
    gate = asyncio.Event()

    async def slow(call: DetectCall) -> DetectAnswer:
        await gate.wait()
        return await echo(call)

    server.pipeline.on_detect = slow
    asyncio.get_running_loop().call_later(0.2, gate.set)
    replies, error = await talk(server, CONFIG, frame(1), frame(2), broken, frame(9))
    assert [reply.result.sequence for reply in replies[1:]] == [1, 2]
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert told(error) == (why, field)


@pytest.mark.parametrize(
    ("first", "code", "why", "field"),
    [
        (frame(1), "INVALID_ARGUMENT", "STREAM_PROTOCOL", "config"),
        (StreamDetectRequest(), "INVALID_ARGUMENT", "STREAM_PROTOCOL", "config"),
        (None, "INVALID_ARGUMENT", "STREAM_PROTOCOL", "config"),
        (StreamConfig(model="fndr"), "NOT_FOUND", "MODEL_NOT_FOUND", "config.model"),
        (StreamConfig(model="finder@9"), "NOT_FOUND", "VERSION_NOT_FOUND", "config.model"),
        (StreamConfig(model="finder@4"), "FAILED_PRECONDITION", "MODEL_LOAD_FAILED", "config.model"),
        (StreamConfig(model="writer"), "FAILED_PRECONDITION", "TASK_UNSUPPORTED", "config.model"),
        (
            StreamConfig(options=DetectOptions(labels=["cow"])),
            "INVALID_ARGUMENT",
            "LABEL_UNKNOWN",
            "config.options.labels[0]",
        ),
        (
            StreamConfig(options=DetectOptions(iou_threshold=float("nan"))),
            "INVALID_ARGUMENT",
            "OPTION_INVALID",
            "config.options.iou_threshold",
        ),
        (
            StreamConfig(
                freshness=Freshness(mode=FreshnessMode.FRESHNESS_MODE_MAX_AGE, max_age=Duration(seconds=-1))
            ),
            "INVALID_ARGUMENT",
            "OPTION_INVALID",
            "config.freshness.max_age",
        ),
        (
            StreamConfig(freshness=Freshness(mode=99)),
            "INVALID_ARGUMENT",
            "OPTION_INVALID",
            "config.freshness.mode",
        ),
        (StreamConfig(codec=77), "INVALID_ARGUMENT", "CODEC_UNSUPPORTED", "config.codec"),
        (
            StreamConfig(reuse_similar=ReuseSimilar(max_hold=Duration())),
            "INVALID_ARGUMENT",
            "OPTION_INVALID",
            "config.reuse_similar.max_hold",
        ),
        (
            StreamConfig(reuse_similar=ReuseSimilar(threshold=2)),
            "INVALID_ARGUMENT",
            "OPTION_INVALID",
            "config.reuse_similar.threshold",
        ),
        (StreamConfig(resume_token=b"x"), "OUT_OF_RANGE", "RESUME_TOKEN_INVALID", "config.resume_token"),
    ],
)
async def test_a_config_in_error_ends_the_call_before_ready(server, first, code, why, field) -> None:
    if isinstance(first, StreamConfig):
        first = StreamDetectRequest(config=first)
    replies, error = await talk(server, *([first] if first else []))
    assert replies == []
    assert error.code().name == code
    assert told(error) == (why, field)


async def test_the_window_stops_the_reading(serve) -> None:
    async with serve(streams={"max_in_flight": 2}) as server:
        gate = asyncio.Event()

        async def slow(call: DetectCall) -> DetectAnswer:
            await gate.wait()
            return await echo(call)

        server.pipeline.on_detect = slow
        call = server.inference.StreamDetect()
        await call.write(CONFIG)
        assert (await call.read()).max_in_flight == 2
        for number in range(1, 7):
            await call.write(frame(number))
        async with asyncio.timeout(30):
            while len(server.pipeline.calls) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # time enough to take more, were there a place
        assert len(server.pipeline.calls) == 2
        gate.set()
        assert [(await call.read()).result.sequence for _ in range(6)] == [1, 2, 3, 4, 5, 6]
        call.cancel()


async def test_when_the_client_goes_the_frames_under_way_are_cancelled(server) -> None:
    async def hang(call: DetectCall) -> DetectAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    server.pipeline.on_detect = hang
    call = server.inference.StreamDetect()
    await call.write(CONFIG)
    await call.read()
    await call.write(frame(1))
    await call.write(frame(2))
    async with asyncio.timeout(30):
        while len(server.pipeline.calls) < 2:
            await asyncio.sleep(0.01)
        call.cancel()
        while server.pipeline.cancelled < 2 or server.server.streams.live:
            await asyncio.sleep(0.01)


async def test_streams_beyond_the_limit_are_refused_and_a_place_comes_free(serve) -> None:
    async with serve(limits={"max_streams": 1}) as server:
        first = server.inference.StreamDetect()
        await first.write(CONFIG)
        await first.read()
        _, error = await talk(server, CONFIG)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert told(error)[0] == "STREAM_LIMIT"
        assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        assert (await talk(server, CONFIG))[1] is None


async def test_a_server_that_stops_answers_what_it_accepted_and_says_go_away(server) -> None:
    gate = asyncio.Event()

    async def slow(call: DetectCall) -> DetectAnswer:
        await gate.wait()
        return await echo(call)

    server.pipeline.on_detect = slow
    call = server.inference.StreamDetect()
    await call.write(CONFIG)
    await call.read()
    await call.write(frame(1))
    await call.write(frame(2))
    async with asyncio.timeout(10):
        while len(server.pipeline.calls) < 2:
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(server.server.stop(grace=60))
        await asyncio.sleep(0.05)
        gate.set()
        assert [(await call.read()).result.sequence for _ in range(2)] == [1, 2]
        go_away = (await call.read()).go_away
        assert go_away.reason == GoAwayReason.GO_AWAY_REASON_DRAINING
        assert go_away.last_sequence == 2
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        await stopping


async def test_the_age_of_a_frame_needs_no_common_clock(server) -> None:
    def captured(at: float) -> Timestamp:
        stamp = Timestamp()
        stamp.FromNanoseconds(int(at * 1e9))
        return stamp

    skewed = time.time() - 3600  # the client's clock is an hour slow
    first, late = captured(skewed), captured(skewed - 200)  # the second one was taken 200 s earlier
    replies, _ = await talk(
        server, CONFIG, frame(1, capture_time=first), frame(2, capture_time=late), frame(3)
    )
    ages = [reply.result.age.ToMilliseconds() for reply in replies[1:]]
    assert ages[0] < 100_000
    assert 200_000 <= ages[1] < 300_000
    assert ages[2] < 100_000
    assert replies[1].result.capture_time == first
    assert not replies[3].result.HasField("capture_time")


async def test_a_frame_taken_at_no_time_of_any_calendar_fails_alone(server) -> None:
    """As of a client that takes nanoseconds for seconds: ages beside it would be too long for a Duration."""
    last, first = 253_402_300_799, -62_135_596_800
    stamps = [-(2**63), first, 2**63 - 1, last, first - 1, last + 1, first]
    replies, error = await talk(
        server, CONFIG, *(frame(n, capture_time=Timestamp(seconds=s)) for n, s in enumerate(stamps, 1))
    )
    assert error is None
    kinds = [reply.WhichOneof("kind") for reply in replies[1:]]
    assert kinds == ["failed", "result", "failed", "result", "failed", "failed", "result"]
    assert unpacked(replies[1].failed.error) == ("OPTION_INVALID", "frame.capture_time")
    ages = [reply.result.age for reply in replies[1:] if reply.HasField("result")]
    assert all(0 <= age.seconds <= 315_576_000_000 for age in ages)


async def test_a_stream_is_counted_frame_by_frame(server) -> None:
    await talk(server, CONFIG, frame(1), frame(2, options=DetectOptions(min_score=2)))
    value = server.metrics.registry.get_sample_value
    assert value("opsin_frames_total", {"outcome": "result", "reason": ""}) == 1
    assert value("opsin_frames_total", {"outcome": "failed", "reason": "OPTION_INVALID"}) == 1
    assert value("opsin_calls_total", {"method": "StreamDetect", "code": "OK", "reason": ""}) == 1
