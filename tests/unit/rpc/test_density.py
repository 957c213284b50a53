"""Fields are counted as the parser would find them, and only where it matters."""

import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin.v1 import BatchDetectRequest, DetectOptions, DetectRequest, Image
from opsin.v1.common_pb2 import Box
from opsin_server.rpc.density import MOST_FIELDS_OF_BATCH, SMALL, crowded, most_fields

PADDING = bytes(SMALL)
MOST = most_fields(DetectRequest)


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


def full(labels: int, regions: int) -> DetectRequest:
    box = Box(x_min=0.1, y_min=0.1, x_max=0.9, y_max=0.9)
    lists = {"labels": ["label"] * labels, "candidate_labels": ["label"] * labels}
    options = DetectOptions(regions=[box] * regions, **lists)
    return DetectRequest(model="m", image=Image(encoded=PADDING), options=options)


@pytest.mark.parametrize(("labels", "regions"), [(1000, 64), (50_000, 2000)])
def test_a_request_with_lists_as_long_as_they_may_be_is_taken(labels: int, regions: int) -> None:
    one = full(labels, regions)
    assert not crowded(DetectRequest, one.SerializeToString(), most_fields(DetectRequest, labels, regions))
    batch = BatchDetectRequest(requests=[one]).SerializeToString()
    assert not crowded(BatchDetectRequest, batch, most_fields(BatchDetectRequest, labels, regions))


def test_a_batch_may_have_more_fields_than_a_request_but_not_any_number() -> None:
    most = most_fields(BatchDetectRequest)
    full_batch = BatchDetectRequest(requests=[request(0, 80).requests[0]] * 256).SerializeToString()
    assert not crowded(BatchDetectRequest, full_batch, most)
    assert crowded(BatchDetectRequest, b"\x0a\x00" * (MOST_FIELDS_OF_BATCH + 1), most)


def test_a_request_of_nothing_but_labels_is_refused_without_counting_them_all() -> None:
    data = DetectRequest(options=DetectOptions(labels=["x"] * 260_000)).SerializeToString()
    refused, counted = [], []
    for _ in range(3):
        begun = time.thread_time()
        assert crowded(DetectRequest, data, most_fields(DetectRequest))
        refused.append(time.thread_time() - begun)
        begun = time.thread_time()
        assert not crowded(DetectRequest, data, 300_000)
        counted.append(time.thread_time() - begun)
    assert min(refused) < min(counted) / 4, "counting all of them takes forty times as long"


def test_large_pictures_cost_nothing() -> None:
    data = DetectRequest(model="m", image=Image(encoded=bytes(30 << 20))).SerializeToString()
    looked, read = [], []
    for _ in range(3):
        begun = time.thread_time()
        assert not crowded(DetectRequest, data, most_fields(DetectRequest))
        looked.append(time.thread_time() - begun)
        begun = time.thread_time()
        zlib.crc32(data)
        read.append(time.thread_time() - begun)
    assert min(looked) < min(read) / 4, "less than to read them once"


@given(st.binary(max_size=200))
def test_broken_bytes_are_left_to_the_parser(noise: bytes) -> None:
    crowded(DetectRequest, noise + bytes(SMALL) + noise, MOST)
    crowded(DetectRequest, b"\x22\xff\xff\xff\x7f" + noise + PADDING, MOST)
    crowded(DetectRequest, PADDING + b"\xff", MOST)
