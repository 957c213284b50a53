"""Large raw pictures reach the model without a copy; all else of a message is as if nobody had touched it."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin.v1 import (
    BatchDetectRequest,
    DetectRequest,
    EmbedRequest,
    Frame,
    Image,
    RawImage,
    StreamDetectRequest,
)
from opsin_server import calls
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure
from opsin_server.media.decode import decode
from opsin_server.media.header import MediaLimits
from opsin_server.rpc import lift as lifting
from opsin_server.rpc import varint
from opsin_server.rpc.convert import detect_call, embed_call
from opsin_server.rpc.edge import parse
from opsin_server.rpc.lift import LARGE, lift, pixels
from opsin_server.rpc.stream_config import StreamTerms
from opsin_server.rpc.stream_messages import frame_in

LIMITS = LimitSettings()
CALLER = calls.Caller()
SIDE = 700
PIXELS = bytes(SIDE * SIDE * 3)
RAW = RawImage(data=PIXELS, width=SIDE, height=SIDE)


def inside(view: object, data: bytes) -> bool:
    """Whether an array or a view looks at the very bytes of `data`."""
    at, begin = np.asarray(view).ctypes.data, np.frombuffer(data, np.uint8).ctypes.data
    return begin <= at < begin + len(data)


@pytest.mark.parametrize("kind", [DetectRequest, EmbedRequest])
def test_a_large_raw_picture_is_decoded_where_grpc_left_it(kind: type) -> None:
    data = kind(model="m", image=Image(raw=RAW)).SerializeToString()
    short, kept = lift(kind, data)
    assert kept is not None
    convert = detect_call if kind is DetectRequest else embed_call
    call = convert(parse(kind, short), CALLER, LIMITS)
    assert call.model == "m"
    picture = decode(call.source, MediaLimits())
    assert picture.pixels.shape == (SIDE, SIDE, 3)
    assert inside(picture.pixels, data)


def test_a_streamed_raw_frame_is_not_copied_and_counts_with_its_whole_size() -> None:
    frame = Frame(sequence=3, image=Image(raw=RAW))
    data = StreamDetectRequest(frame=frame).SerializeToString()
    short, kept = lift(StreamDetectRequest, data)
    assert len(short) < 200
    terms = StreamTerms.__new__(StreamTerms)
    object.__setattr__(terms, "codec", None)
    came = frame_in(parse(StreamDetectRequest, short).frame, terms, LIMITS)
    assert isinstance(came.source, calls.RawImage)
    assert came.sequence == 3
    assert came.size >= frame.ByteSize()
    assert inside(came.source.data, data)
    assert kept is not None


def test_a_large_file_is_read_where_grpc_left_it_too() -> None:
    frame = Frame(sequence=3, image=Image(encoded=bytes(2 * LARGE)))
    data = StreamDetectRequest(frame=frame).SerializeToString()
    short, kept = lift(StreamDetectRequest, data)
    terms = StreamTerms.__new__(StreamTerms)
    object.__setattr__(terms, "codec", None)
    came = frame_in(parse(StreamDetectRequest, short).frame, terms, LIMITS)
    assert isinstance(came.source, calls.EncodedImage)
    assert came.size >= frame.ByteSize()
    assert inside(came.source.data, data)
    assert kept is not None


def test_what_was_lifted_is_let_go_of_with_its_last_holder() -> None:
    _, kept = lift(DetectRequest, DetectRequest(image=Image(raw=RAW)).SerializeToString())
    assert len(lifting._lifted) == 1
    del kept
    gc.collect()
    assert len(lifting._lifted) == 0


def test_a_name_that_somebody_made_up_is_just_bytes() -> None:
    assert pixels(b"x" * 24) == b"x" * 24
    assert pixels(b"") == b""


@pytest.mark.parametrize(
    "message",
    [
        DetectRequest(image=Image(encoded=bytes(LARGE - 100))),
        DetectRequest(image=Image(raw=RawImage(data=bytes(LARGE - 100)))),
        DetectRequest(text="x" * 2 * LARGE),
        BatchDetectRequest(requests=[DetectRequest(image=Image(raw=RAW))]),
    ],
)
def test_other_messages_are_parsed_as_they_come(message: DetectRequest | BatchDetectRequest) -> None:
    data = message.SerializeToString()
    assert lift(type(message), data) == (data, None)


def test_pixels_given_twice_are_left_to_the_parser_whose_last_one_counts() -> None:
    one = DetectRequest(image=Image(raw=RAW)).SerializeToString()
    for twice in (one + one, one + DetectRequest(image=Image(raw=RawImage(width=5))).SerializeToString()):
        assert lift(DetectRequest, twice) == (twice, None)


def test_what_comes_after_the_picture_still_takes_its_place() -> None:
    data = (
        DetectRequest(image=Image(raw=RAW)).SerializeToString() + DetectRequest(text="t").SerializeToString()
    )
    short, kept = lift(DetectRequest, data)
    assert kept is not None
    assert detect_call(parse(DetectRequest, short), CALLER, LIMITS).source == calls.Text("t")


@pytest.mark.parametrize("zeros", [1, 4, 7])
def test_a_length_that_is_longer_than_it_need_be_is_left_to_the_parser(zeros: int) -> None:
    raw = RAW.SerializeToString()
    size = bytes(len(raw) >> shift & 0x7F | 0x80 for shift in (0, 7, 14)) + b"\x80" * (zeros - 1) + b"\0"
    image = b"\x1a" + size + raw
    data = DetectRequest(model="m").SerializeToString() + b"\x12" + varint.spelled(len(image)) + image
    assert lift(DetectRequest, data) == (data, None)


raws = st.builds(
    RawImage,
    data=st.binary(min_size=20, max_size=300),
    width=st.integers(0, 2**32 - 1),
    stride=st.integers(0, 2**32 - 1),
)
requests = st.builds(
    DetectRequest,
    model=st.text(max_size=5),
    image=st.builds(Image, raw=raws),
    routing_key=st.text(max_size=200),
    priority=st.integers(0, 2),
)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifting, "LARGE", 16)


@pytest.mark.usefixtures("_small")
class TestOfAnySize:
    """With the bound so low that every raw picture is large."""

    @given(requests, st.binary(max_size=40))
    def test_nothing_but_the_pixels_is_changed(self, request: DetectRequest, more: bytes) -> None:
        unknown = b"\xfa\x7f" + bytes([len(more)]) + more  # a field of a newer contract
        data = unknown + request.SerializeToString() + unknown
        short, kept = lift(DetectRequest, data)
        assert kept == request.image.raw.data
        parsed = parse(DetectRequest, short)
        assert pixels(parsed.image.raw.data) == request.image.raw.data
        parsed.image.raw.data = request.image.raw.data
        assert parsed.SerializeToString() == DetectRequest.FromString(data).SerializeToString()

    @given(requests, st.data())
    def test_broken_messages_are_as_broken_as_they_were(
        self, request: DetectRequest, draw: st.DataObject
    ) -> None:
        data = bytearray(request.SerializeToString())
        for _ in range(draw.draw(st.integers(1, 4))):
            data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
        data = data[: draw.draw(st.integers(0, len(data)))]
        short, kept = lift(DetectRequest, bytes(data))

        def read(message: bytes) -> object:
            try:
                parsed = parse(DetectRequest, message)
            except Failure:
                return None
            if parsed.WhichOneof("input") == "image" and parsed.image.WhichOneof("source") == "raw":
                parsed.image.raw.data = bytes(pixels(parsed.image.raw.data))
            return parsed.SerializeToString()

        assert read(short) == read(bytes(data))
        del kept
