"""Requests made to hurt: each is told what is wrong with it, and the server goes on."""

import difflib
import math
import threading
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest

from integration.attack.told import goes_on, pixel, refused, told
from opsin.v1 import (
    BatchDetectRequest,
    DetectOptions,
    DetectRequest,
    EmbedRequest,
    GetModelRequest,
    Image,
)
from opsin.v1.common_pb2 import Box
from opsin_server import answers
from serving import Serving, serving

METHODS = ("Detect", "BatchDetect", "Embed", "BatchEmbed")
MEGABYTES = 30_000_000


@pytest.fixture
async def server() -> AsyncGenerator[Serving]:
    async with serving("echo") as up:
        yield up
        await goes_on(up)


def raw(server: Serving, method: str, data: bytes) -> Any:
    return server.channel.unary_unary(f"/opsin.v1.InferenceService/{method}")(data)


def detect(server: Serving, **fields: Any) -> Any:
    return server.inference.Detect(DetectRequest(**{"model": "echo", "image": pixel(), **fields}))


def length(size: int) -> bytes:
    """A size as a varint."""
    out = b""
    while size > 127:
        out += bytes([size & 127 | 128])
        size >>= 7
    return out + bytes([size])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 1000,
        b"\x0a\x05echo",
        b"\x08" + b"\xff" * 50,
        b"\x12\x80\x01" * 1000,
        b"\x9b\x06" * 5000,
        b"\x0a\x02\xff\xfe",
        b"\x00\x00",
    ],
    ids=["noise", "cut off", "endless number", "nested", "groups", "no UTF-8", "field 0"],
)
async def test_bytes_that_are_no_message_are_called_so_without_the_parsers_words(
    server: Serving, method: str, data: bytes
) -> None:
    failure = await refused(raw(server, method, data))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert "arse" not in failure.message


async def test_a_flipped_bit_is_answered_or_refused_and_never_an_inner_error(
    server: Serving,
) -> None:
    good = DetectRequest(model="echo", image=pixel()).SerializeToString()
    for place in range(len(good) * 8):
        hurt = bytearray(good)
        hurt[place // 8] ^= 1 << place % 8
        code = await _code(raw(server, "Detect", bytes(hurt)))
        assert code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"), place


async def _code(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return told(error).code
    return "OK"


@pytest.mark.parametrize("number", [6, 5, 7], ids=["regions", "labels", "candidate_labels"])
async def test_millions_of_tiny_fields_cost_neither_time_nor_memory(server: Serving, number: int) -> None:
    inner = bytes([number << 3 | 2, 0]) * 10_000_000
    head = DetectRequest(model="echo", image=pixel()).SerializeToString()
    failure = await refused(raw(server, "Detect", head + b"\x22" + length(len(inner)) + inner))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert "fields" in failure.message, "counted, not parsed, which took half a minute"


async def test_a_batch_of_millions_of_empty_items_is_not_even_parsed(server: Serving) -> None:
    failure = await refused(raw(server, "BatchDetect", b"\x0a\x00" * 10_000_000))
    assert failure.reason == "MALFORMED_REQUEST"


async def test_too_many_regions_are_counted_before_they_are_read(server: Serving) -> None:
    failure = await refused(detect(server, options=DetectOptions(regions=[Box()] * 65)))
    assert failure.code == "INVALID_ARGUMENT"
    assert failure.field == "options.regions"


@pytest.mark.parametrize(
    "name", ["x" * 10_000, "😀" * 10_000, "\n[info] forged\x1b[31m", "\0", "ECHO", "@1x"]
)
async def test_a_name_of_any_kind_is_not_found_and_quoted_at_most_in_part(server: Serving, name: str) -> None:
    for call in (
        detect(server, model=name),
        server.models.GetModel(GetModelRequest(name=name)),
        detect(server, options=DetectOptions(embed_detections=True, embed_model=name)),
    ):
        failure = await refused(call)
        assert failure.code == "NOT_FOUND"
        assert len(failure.message) < 400


@pytest.mark.parametrize("tag", ["²", "٣", "9" * 5000, "", "01", "+1", "1 ", "😀" * 1000])
async def test_a_version_that_is_no_plain_number_is_not_found(server: Serving, tag: str) -> None:
    failure = await refused(detect(server, model=f"echo@{tag}"))
    assert (failure.code, failure.reason) == ("NOT_FOUND", "VERSION_NOT_FOUND")


async def test_names_of_megabytes_are_refused_and_nothing_like_them_is_looked_for(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for the nearest name took three seconds each."""
    monkeypatch.setattr(difflib, "get_close_matches", lambda *_, **__: pytest.fail("looked for"))
    name = "ab" * (MEGABYTES // 2)
    assert (await refused(detect(server, model=name))).reason == "MODEL_NOT_FOUND"
    assert (await refused(detect(server, model=f"echo@{name}"))).reason == "VERSION_NOT_FOUND"
    assert (await refused(detect(server, options=DetectOptions(labels=[name])))).reason == "LABEL_UNKNOWN"


@pytest.mark.parametrize(
    ("options", "reason", "field"),
    [
        ({"min_score": math.nan}, "OPTION_INVALID", "options.min_score"),
        ({"min_score": -1}, "OPTION_INVALID", "options.min_score"),
        ({"iou_threshold": math.inf}, "OPTION_INVALID", "options.iou_threshold"),
        ({"labels": [""]}, "OPTION_INVALID", "options.labels[0]"),
        ({"labels": ["x"] * 1001}, "OPTION_INVALID", "options.labels"),
        ({"labels": ["echo", "😀" * 5000]}, "LABEL_UNKNOWN", "options.labels[1]"),
        ({"candidate_labels": ["a"]}, "OPTION_UNSUPPORTED", "options.candidate_labels"),
        ({"regions": [Box()]}, "REGION_INVALID", "options.regions[0]"),
        ({"regions": [Box(x_min=0.9, x_max=0.1, y_max=1)]}, "REGION_INVALID", "options.regions[0]"),
        ({"regions": [Box(x_max=math.nan, y_max=1)]}, "REGION_INVALID", "options.regions[0]"),
        ({"regions": [Box(x_max=1.5, y_max=1)]}, "REGION_INVALID", "options.regions[0]"),
    ],
)
async def test_a_wrong_option_is_refused_by_its_name(
    server: Serving, options: dict[str, Any], reason: str, field: str
) -> None:
    failure = await refused(detect(server, options=DetectOptions(**options)))
    assert (failure.code, failure.reason, failure.field) == ("INVALID_ARGUMENT", reason, field)
    assert failure.trailers_only


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (DetectRequest(model="echo"), "INPUT_MISSING"),
        (DetectRequest(model="echo", image=Image()), "INPUT_MISSING"),
        (DetectRequest(model="echo", image=Image(uri="http://localhost/")), "URI_DISABLED"),
        (DetectRequest(model="echo", text="x" * 100_001), "TEXT_TOO_LONG"),
        (DetectRequest(model="echo", text="x", priority=77), "OPTION_INVALID"),  # type: ignore[arg-type]
    ],
)
async def test_a_request_with_nothing_usable_says_what_it_needs(
    server: Serving, request_: DetectRequest, reason: str
) -> None:
    assert (await refused(server.inference.Detect(request_))).reason == reason


async def test_the_largest_numbers_an_option_can_hold_are_taken(server: Serving) -> None:
    most = DetectOptions(max_detections=2**32 - 1, max_labels=2**32 - 1, min_score=0, iou_threshold=1)
    tiny = DetectOptions(regions=[Box(x_max=1e-45, y_max=1e-45)])
    assert (await detect(server, options=most)).detections
    assert (await detect(server, options=tiny)).detections
    failure = await refused(
        server.inference.Embed(EmbedRequest(model="echo", text="x", dimensions=2**32 - 1))
    )
    assert failure.reason == "OPTION_INVALID"


async def test_a_batch_too_long_or_of_bad_items_only_is_refused_as_a_whole(server: Serving) -> None:
    def batch(*items: DetectRequest) -> Any:
        return server.inference.BatchDetect(BatchDetectRequest(requests=items))

    long = [DetectRequest(model="echo", text=str(number)) for number in range(257)]
    assert (await refused(batch())).reason == "INPUT_MISSING"
    assert (await refused(batch(*long))).reason == "BATCH_TOO_LARGE"
    failure = await refused(batch(*[DetectRequest(model="zz", text="x")] * 256))
    assert (failure.reason, failure.field) == ("MODEL_NOT_FOUND", "requests[0].model")
    assert len((await batch(*long[:256])).outcomes) == 256


async def test_boxes_of_many_regions_are_merged_without_holding_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One by one on the event loop they took six seconds, those of 64 regions minutes."""
    threads, merge = [], answers.merge_regions

    def merged(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return merge(*arguments)

    monkeypatch.setattr(answers, "merge_regions", merged)
    async with serving("nanodet", "echo") as server:
        regions = [Box(x_max=1 - i / 1000, y_max=1) for i in range(16)]
        options = DetectOptions(regions=regions, min_score=0, iou_threshold=1, max_detections=2**32 - 1)
        assert len((await detect(server, model="nanodet", options=options)).detections) == 2000
    assert len(threads) == 1
    assert threads[0] != threading.get_ident(), "the event loop's"


async def test_vectors_for_more_boxes_than_the_queue_holds_are_refused() -> None:
    async with serving("nanodet", "echo", limits={"max_queued_tickets": 100}) as server:
        options = DetectOptions(
            min_score=0, iou_threshold=1, max_detections=500, embed_detections=True, embed_model="echo"
        )
        failure = await refused(detect(server, model="nanodet", options=options))
        assert failure.reason == "QUEUE_FULL"
        assert int(failure.trailers["grpc-retry-pushback-ms"]) < 0
        await goes_on(server)
