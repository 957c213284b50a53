"""Requests to calls: what is taken, what is refused, and where the fault is said to be."""

import contextlib
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opsin.v1 import (
    Box,
    DetectOptions,
    DetectRequest,
    EmbeddingEncoding,
    EmbedRequest,
    Image,
    PixelFormat,
    Priority,
    RawImage,
)
from opsin_server import calls
from opsin_server.calls import Caller, EncodedImage, Text, UriImage
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure, Reason
from opsin_server.rpc.convert import detect_call, detect_options, embed_call, packed_wanted
from opsin_server.scheduling import ticket

LIMITS = LimitSettings()
CALLER = Caller(flow="f", deadline=5.0, request_id="r")
PICTURE = Image(encoded=b"pixels")

floats = st.floats(width=32) | st.sampled_from([0.0, 1.0, -0.0, math.nan, math.inf, -math.inf])


def options(**fields: object) -> calls.DetectOptions:
    return detect_options(DetectOptions(**fields), LIMITS, "options")


def refused(**fields: object) -> Failure:
    with pytest.raises(Failure) as caught:
        options(**fields)
    return caught.value


def test_a_bare_request_takes_the_models_defaults() -> None:
    call = detect_call(DetectRequest(image=PICTURE), CALLER, LIMITS)
    assert call == calls.DetectCall("", EncodedImage(b"pixels"), calls.DetectOptions(), CALLER)


def test_every_option_is_carried_over() -> None:
    taken = options(
        min_score=0.25,
        max_detections=7,
        max_labels=3,
        iou_threshold=0.5,
        labels=["cat", "dog"],
        regions=[Box(x_min=0, y_min=0.25, x_max=0.5, y_max=1)],
        candidate_labels=["a cat"],
        embed_detections=True,
        embed_model="clip",
        skip_cache=True,
        truncate_text=True,
    )
    assert taken == calls.DetectOptions(
        min_score=0.25,
        max_detections=7,
        max_labels=3,
        iou_threshold=0.5,
        labels=("cat", "dog"),
        regions=(calls.Box(0, 0.25, 0.5, 1),),
        candidate_labels=("a cat",),
        embed_detections=True,
        embed_model="clip",
        skip_cache=True,
        truncate_text=True,
    )
    assert {f.name for f in DetectOptions.DESCRIPTOR.fields} == set(calls.DetectOptions.__slots__)


def test_a_score_of_zero_is_not_the_same_as_none() -> None:
    assert options(min_score=0.0).min_score == 0.0
    assert options().min_score is None


@given(floats, st.sampled_from(["min_score", "iou_threshold"]))
def test_a_fraction_is_taken_exactly_when_it_lies_in_0_to_1(value: float, name: str) -> None:
    if 0.0 <= value <= 1.0:
        assert getattr(options(**{name: value}), name) == value
    else:
        failure = refused(**{name: value})
        assert (failure.reason, failure.field) == (Reason.OPTION_INVALID, f"options.{name}")


@given(floats, floats, floats, floats)
@example(0.0, 0.0, 1.0, 1.0)
@example(0.5, 0.5, 0.5, 0.6)
@example(0.0, 0.0, math.nan, 1.0)
@example(0.6, 0.1, 0.5, 0.9)
def test_a_region_is_taken_exactly_when_it_has_an_area_inside_the_image(
    x_min: float, y_min: float, x_max: float, y_max: float
) -> None:
    good = Box(x_max=1, y_max=1)
    box = Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    if 0 <= box.x_min < box.x_max <= 1 and 0 <= box.y_min < box.y_max <= 1:
        assert len(options(regions=[good, box]).regions) == 2
    else:
        failure = refused(regions=[good, box])
        assert (failure.reason, failure.field) == (Reason.REGION_INVALID, "options.regions[1]")


@pytest.mark.parametrize(
    ("name", "most", "item"),
    [("regions", 64, Box(x_max=1, y_max=1)), ("labels", 1000, "cat"), ("candidate_labels", 1000, "cat")],
)
def test_lists_are_taken_up_to_their_limit(name: str, most: int, item: object) -> None:
    assert len(getattr(options(**{name: [item] * most}), name)) == most
    failure = refused(**{name: [item] * (most + 1)})
    assert (failure.reason, failure.field) == (Reason.OPTION_INVALID, f"options.{name}")
    assert failure.metadata["limit"] == str(most)


@pytest.mark.parametrize("name", ["labels", "candidate_labels"])
def test_an_empty_name_is_pointed_at(name: str) -> None:
    failure = refused(**{name: ["cat", ""]})
    assert (failure.reason, failure.field) == (Reason.OPTION_INVALID, f"options.{name}[1]")


def test_candidate_labels_are_together_no_longer_than_a_text() -> None:
    assert refused(candidate_labels=["x" * 60_000] * 2).reason is Reason.TEXT_TOO_LONG


@given(st.binary(max_size=200))
def test_whatever_the_bytes_a_request_becomes_a_call_or_a_failure(data: bytes) -> None:
    try:
        request = DetectRequest.FromString(data)
    except Exception:
        return
    with contextlib.suppress(Failure):
        detect_call(request, CALLER, LIMITS)


@pytest.mark.parametrize(
    ("image", "source"),
    [
        (Image(encoded=b"x"), EncodedImage(b"x")),
        (Image(uri="https://h/x"), UriImage("https://h/x")),
        (
            Image(raw=RawImage(data=b"x", width=2, height=3, stride=4, format=PixelFormat.PIXEL_FORMAT_NV12)),
            calls.RawImage(b"x", 2, 3, 4, calls.PixelFormat.NV12),
        ),
        (Image(raw=RawImage(data=b"x")), calls.RawImage(b"x", 0, 0, 0, calls.PixelFormat.RGB24)),
    ],
)
def test_every_kind_of_image_is_taken(image: Image, source: object) -> None:
    assert detect_call(DetectRequest(image=image), CALLER, LIMITS).source == source
    assert embed_call(EmbedRequest(image=image), CALLER, LIMITS).source == source


@pytest.mark.parametrize("format_", PixelFormat.values())
def test_every_pixel_format_of_the_contract_is_known(format_: int) -> None:
    raw = RawImage(data=b"x", format=format_)
    name = PixelFormat.Name(format_).removeprefix("PIXEL_FORMAT_").replace("UNSPECIFIED", "RGB24")
    source = detect_call(DetectRequest(image=Image(raw=raw)), CALLER, LIMITS).source
    assert source.format.value == name


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (DetectRequest(), Reason.INPUT_MISSING, "input"),
        (DetectRequest(image=Image()), Reason.INPUT_MISSING, "image.source"),
        (DetectRequest(image=Image(encoded=b"")), Reason.INPUT_MISSING, "image.encoded"),
        (DetectRequest(image=Image(uri="")), Reason.INPUT_MISSING, "image.uri"),
        (DetectRequest(image=Image(raw=RawImage(width=1, height=1))), Reason.INPUT_MISSING, "image.raw.data"),
        (
            DetectRequest(image=Image(raw=RawImage(data=b"x", format=99))),
            Reason.FORMAT_UNSUPPORTED,
            "image.raw.format",
        ),
        (DetectRequest(text=""), Reason.INPUT_MISSING, "text"),
        (DetectRequest(text="x" * 100_001), Reason.TEXT_TOO_LONG, "text"),
        (DetectRequest(image=PICTURE, priority=99), Reason.OPTION_INVALID, "priority"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_by_its_path(
    request_: DetectRequest, reason: Reason, field: str
) -> None:
    with pytest.raises(Failure) as caught:
        detect_call(request_, CALLER, LIMITS)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_characters_are_counted_not_bytes() -> None:
    text = "ж" * 100_000
    assert detect_call(DetectRequest(text=text), CALLER, LIMITS).source == Text(text)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [(0, ticket.Priority.INTERACTIVE), (1, ticket.Priority.INTERACTIVE), (2, ticket.Priority.BULK)],
)
def test_the_priority_and_the_routing_key_are_the_callers(sent: int, meant: ticket.Priority) -> None:
    assert len(Priority.values()) == 3
    request = DetectRequest(image=PICTURE, priority=sent, routing_key="k")
    caller = detect_call(request, CALLER, LIMITS).caller
    assert caller == Caller(flow="f", priority=meant, deadline=5.0, request_id="r", routing_key="k")


def test_an_embed_request_is_carried_over() -> None:
    request = EmbedRequest(
        model="m", text="hi", normalize=False, dimensions=4, truncate_text=True, skip_cache=True
    )
    assert embed_call(request, CALLER, LIMITS) == calls.EmbedCall(
        "m", Text("hi"), normalize=False, dimensions=4, truncate_text=True, skip_cache=True, caller=CALLER
    )
    assert embed_call(EmbedRequest(text="hi"), CALLER, LIMITS).normalize


@pytest.mark.parametrize(("encoding", "packed"), [(0, False), (1, False), (2, True)])
def test_an_encoding_is_chosen(encoding: int, packed: bool) -> None:
    assert len(EmbeddingEncoding.values()) == 3
    assert packed_wanted(EmbedRequest(encoding=encoding)) is packed


def test_an_unknown_encoding_is_refused_before_the_work() -> None:
    with pytest.raises(Failure) as caught:
        embed_call(EmbedRequest(text="hi", encoding=99), CALLER, LIMITS)
    assert (caught.value.reason, caught.value.field) == (Reason.OPTION_INVALID, "encoding")


def test_equal_requests_make_equal_calls() -> None:
    """What a batch runs once: the same bytes, and what means the same."""
    one = detect_call(DetectRequest(image=PICTURE), CALLER, LIMITS)
    same = detect_call(DetectRequest(image=PICTURE, priority=1, options=DetectOptions()), CALLER, LIMITS)
    assert one == same
    assert hash(one) == hash(same)
