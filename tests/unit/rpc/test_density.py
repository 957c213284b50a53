"""Fields are counted as the parser would find them, and only where it matters."""

import time

from hypothesis import given
from hypothesis import strategies as st

from opsin.v1 import BatchDetectRequest, DetectOptions, DetectRequest, Image
from opsin.v1.common_pb2 import Box
from opsin_server.rpc.density import MOST_FIELDS, SMALL, crowded

PADDING = bytes(SMALL)


def request(regions: int, labels: int) -> BatchDetectRequest:
    """1 + 2 x (3 + 1 + regions x 2 + labels) fields: each item counts, and each of its fields."""
    box = Box(x_max=1, y_max=1)
    options = DetectOptions(regions=[box] * regions, labels=["x"] * labels)
    item = DetectRequest(model="m", image=Image(encoded=PADDING), options=options)
    return BatchDetectRequest(requests=[item, item])


@given(st.integers(0, 5), st.integers(0, 5))
def test_every_field_of_every_message_inside_counts(regions: int, labels: int) -> None:
    data = request(regions, labels).SerializeToString()
    options = regions * 3 + labels
    fields = 2 * (1 + 4 + options)  # the item; model, image, encoded, options; what is in those
    assert not crowded(BatchDetectRequest, data, fields)
    assert crowded(BatchDetectRequest, data, fields - 1)


def test_a_small_message_is_not_looked_at() -> None:
    assert not crowded(BatchDetectRequest, b"\x0a\x00" * 100, 1)


def test_the_largest_batch_of_full_allow_lists_is_taken() -> None:
    options = DetectOptions(labels=["label"] * 1000)
    item = DetectRequest(model="m", image=Image(encoded=b"x"), options=options)
    assert not crowded(BatchDetectRequest, BatchDetectRequest(requests=[item] * 256).SerializeToString())
    assert crowded(BatchDetectRequest, b"\x0a\x00" * (MOST_FIELDS + 1))


def test_large_pictures_cost_nothing() -> None:
    data = DetectRequest(model="m", image=Image(encoded=bytes(30 << 20))).SerializeToString()
    begun = time.perf_counter()
    assert not crowded(DetectRequest, data)
    assert time.perf_counter() - begun < 0.005


@given(st.binary(max_size=200))
def test_broken_bytes_are_left_to_the_parser(noise: bytes) -> None:
    crowded(DetectRequest, noise + bytes(SMALL) + noise)
    crowded(DetectRequest, b"\x22\xff\xff\xff\x7f" + noise + PADDING)
    crowded(DetectRequest, PADDING + b"\xff")
