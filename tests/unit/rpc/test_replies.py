"""Answers to responses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from opsin.v1 import CacheStatus, DetectResponse, Embedding, EmbedResponse
from opsin_detectors.api import Attribute, Box, Detection, Label
from opsin_server.calls import CacheState, DetectAnswer, EmbedAnswer, EmbeddedDetection, ModelRef, Timings
from opsin_server.rpc import replies
from opsin_server.rpc.replies import detect_response, embed_response, embedding, timings

REF = ModelRef("m", 1, "cpu")
vectors = hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32, allow_nan=False))


@given(vectors)
def test_a_vector_arrives_as_it_was_in_either_form(vector: np.ndarray) -> None:
    floats = Embedding.FromString(embedding(vector, packed=False).SerializeToString())
    assert np.array_equal(np.array(floats.values, np.float32), vector)
    packed = Embedding.FromString(embedding(vector, packed=True).SerializeToString())
    assert np.array_equal(np.frombuffer(packed.packed, "<f4"), vector)
    assert floats.dimensions == packed.dimensions == len(vector)
    assert not floats.packed
    assert not packed.values


@pytest.mark.parametrize("size", [1, 31, 32, 4095, 4096, 600_000])
def test_a_vector_of_any_length_keeps_its_length(size: int) -> None:
    assert len(embedding(np.zeros(size, np.float32), packed=False).values) == size


def test_a_vector_in_another_byte_order_or_with_gaps_is_told_right() -> None:
    numbers = np.arange(6, dtype=">f4")
    assert list(embedding(numbers[::2], packed=False).values) == [0, 2, 4]


times = st.floats(0, 400)


@given(st.lists(times, min_size=7, max_size=7), times)
def test_the_stages_never_add_up_to_more_than_the_total(stages: list[float], rest: float) -> None:
    names = ("admission", "decode", "prepare", "queue", "infer", "finish", "order")
    spent = Timings(total=sum(stages) + rest, **dict(zip(names, stages, strict=True)))
    message = timings(spent)
    assert (
        sum(getattr(message, f"{name}_us") for name in names) <= message.total_us + 1
    )  # a rounding of floats


def test_times_too_long_for_the_field_are_cut_and_negative_ones_are_none() -> None:
    message = timings(Timings(total=1e9, queue=-1.0))
    assert (message.total_us, message.queue_us) == (2**32 - 1, 0)


def test_everything_found_is_told() -> None:
    mood = Attribute("emotion", (Label("happy", 0.75, 3),))
    found = Detection(Box(0.125, 0.25, 0.5, 0.75), "face", 0.5, 2, (mood,), "EXIT")
    vector = np.array([1.0, 2.0], np.float32)
    message = detect_response(DetectAnswer(REF, [EmbeddedDetection(found, vector, 9)]))
    (told,) = message.detections
    assert (told.label, told.class_id, told.score, told.text, told.track_id) == ("face", 2, 0.5, "EXIT", 9)
    assert (told.box.x_min, told.box.y_min, told.box.x_max, told.box.y_max) == (0.125, 0.25, 0.5, 0.75)
    assert [(a.name, a.labels[0].name, a.labels[0].class_id) for a in told.attributes] == [
        ("emotion", "happy", 3)
    ]
    assert told.embedding.packed == vector.tobytes()


def test_what_a_text_or_an_unflagged_model_has_not_is_left_unset() -> None:
    message = detect_response(DetectAnswer(REF))
    assert not message.HasField("image")
    assert not message.HasField("flagged")
    assert detect_response(DetectAnswer(REF, flagged=False)).HasField("flagged")


def test_a_reply_is_built_in_place_and_no_part_of_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    mood = Attribute("emotion", (Label("happy", 0.75, 3),))
    vector = np.array([1.0, 2.0], np.float32)
    found = Detection(Box(0.125, 0.25, 0.5, 0.75), "face", 0.5, 2, (mood,))
    made = []
    for name in ("DetectResponse", "EmbedResponse", "Embedding", "ModelRefMessage", "TimingsMessage"):
        kind = getattr(replies, name)
        monkeypatch.setattr(replies, name, lambda *a, kind=kind, **k: made.append(kind) or kind(*a, **k))
    detect_response(DetectAnswer(REF, [EmbeddedDetection(found, vector)]))
    told = embed_response(EmbedAnswer(REF, vector), packed=False)
    assert made == [DetectResponse, EmbedResponse]
    assert list(told.embedding.values) == [1.0, 2.0]
    assert (told.embedding.dimensions, told.model.name) == (2, "m")


@pytest.mark.parametrize("state", list(CacheState))
def test_how_an_answer_came_about_is_told(state: CacheState) -> None:
    wanted = CacheStatus.Value(f"CACHE_STATUS_{state.name}")
    assert detect_response(DetectAnswer(REF, cache=state)).cache == wanted
    vector = np.zeros(1, np.float32)
    assert embed_response(EmbedAnswer(REF, vector, cache=state), packed=True).cache == wanted
