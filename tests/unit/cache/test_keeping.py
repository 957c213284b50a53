"""What is kept: names of answers, memory, bytes, the breaker, and what a model is."""

import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin_detectors.api import Attribute, Box, Detection, Label, ModelInfo, Options, Task
from opsin_server.cache import codec
from opsin_server.cache.breaker import Breaker
from opsin_server.cache.identity import Origin, identity
from opsin_server.cache.key import QUICK_BYTES, Question, digest, mark, same
from opsin_server.cache.memory import Evicted, MemoryCache, weigh
from opsin_server.calls import (
    Answer,
    DetectAnswer,
    EmbedAnswer,
    EmbeddedDetection,
    EncodedImage,
    ModelRef,
    PixelFormat,
    RawImage,
    Text,
    Timings,
)

MODEL = ModelRef("m", 1, "cpu")
QUESTION = Question("detect", Task.DETECT, ("m@1",), Options())
IDENTITY = (b"identity",)


def detect_answer(found: int = 1, *, text: str = "", vector: int = 0) -> DetectAnswer:
    attribute = Attribute("emotion", (Label("happy", 0.5, 3), Label("sad", 0.25, 4)))
    return DetectAnswer(
        MODEL,
        detections=[
            EmbeddedDetection(
                Detection(
                    Box(0.125 + n / 4096, 0.25, 0.5, 0.75), "cat", 0.5 + n / 4096, 7, (attribute,), text
                ),
                np.arange(vector, dtype=np.float32) if vector else None,
            )
            for n in range(found)
        ],
        labels=[Label("indoor", 0.75, 2)],
        flagged=False,
        width=640,
        height=480,
    )


# -- names ---------------------------------------------------------------------------------------------------

OTHERS = [
    replace(QUESTION, kind="embed"),
    replace(QUESTION, task=Task.CLASSIFY_IMAGE),
    replace(QUESTION, models=("m@2",)),
    replace(QUESTION, models=("m@1", "n@1")),
    replace(QUESTION, regions=(Box(0.0, 0.0, 1.0, 1.0),)),
    replace(QUESTION, normalize=False),
    replace(QUESTION, dimensions=4),
    *(
        replace(QUESTION, options=replace(Options(), **{name: value}))
        for name, value in {
            "min_score": 0.5,
            "min_label_score": 0.5,
            "max_detections": 7,
            "max_labels": 3,
            "iou_threshold": 0.75,
            "labels": frozenset({"cat"}),
            "candidate_labels": ("a cat",),
            "truncate_text": True,
        }.items()
    ),
]


def test_every_option_counts() -> None:
    """A field that is added to Options or Question must be spelled out in the key, too."""
    assert len(OTHERS) == 6 + 1 + len(Options.__dataclass_fields__)
    names = {digest(q, IDENTITY, Text("x")) for q in [QUESTION, *OTHERS]}
    assert len(names) == 1 + len(OTHERS)
    assert len({mark(q, Text("x")) for q in [QUESTION, *OTHERS]}) == 1 + len(OTHERS)


def test_the_order_of_an_allow_list_does_not_count_and_that_of_candidates_does() -> None:
    def named(**options: object) -> bytes:
        return digest(replace(QUESTION, options=replace(Options(), **options)), IDENTITY, Text("x"))

    assert named(labels=frozenset(["a", "b"])) == named(labels=frozenset(["b", "a"]))
    assert named(candidate_labels=("a", "b")) != named(candidate_labels=("b", "a"))


def test_sources_of_different_kinds_never_share_a_name() -> None:
    data = b"x" * 12
    sources = [
        Text(data.decode()),
        EncodedImage(data),
        RawImage(data, 2, 2),
        RawImage(data, 4, 1),
        RawImage(data, 2, 2, 6),
        RawImage(data, 2, 2, 0, PixelFormat.BGR24),
    ]
    assert len({digest(QUESTION, IDENTITY, s) for s in sources}) == len(sources)
    assert digest(QUESTION, (b"other",), sources[0]) != digest(QUESTION, IDENTITY, sources[0])


@given(st.binary(min_size=1, max_size=4000), st.data())
def test_pictures_are_the_same_when_every_byte_is(data: bytes, drawn: st.DataObject) -> None:
    one, copy = EncodedImage(data), EncodedImage(bytes(bytearray(data)))
    assert mark(QUESTION, one) == mark(QUESTION, copy)
    assert same(one, copy)
    at = drawn.draw(st.integers(0, len(data) - 1))
    changed = bytearray(data)
    changed[at] ^= 1
    assert not same(one, EncodedImage(bytes(changed)))


@pytest.mark.parametrize("at", [0, QUICK_BYTES, 3 * QUICK_BYTES + 6])
def test_large_pictures_are_compared_to_the_last_byte(at: int) -> None:
    data = bytes(3 * QUICK_BYTES + 7)
    changed = bytearray(data)
    assert same(EncodedImage(data), EncodedImage(bytes(changed)))
    changed[at] = 1
    assert not same(EncodedImage(data), EncodedImage(bytes(changed)))


# -- memory --------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 12)), max_size=80))
def test_memory_never_holds_more_than_its_bytes_and_what_was_used_last_stays(
    puts: list[tuple[int, int]],
) -> None:
    cache = MemoryCache(40_000)
    for name, found in puts:
        answer = detect_answer(found)
        cache.put(bytes([name]) * 32, ("m@1",), answer)
        assert cache.bytes <= cache.capacity
        if weigh(answer) <= cache.capacity // 8:
            assert cache.get(bytes([name]) * 32) is answer
    cache.forget("m@1")
    assert (cache.bytes, len(cache)) == (0, 0)


def test_an_answer_goes_with_every_model_that_had_a_part_in_it() -> None:
    evicted: list[tuple[Evicted, int]] = []
    cache = MemoryCache(1 << 20, on_evict=lambda why, count: evicted.append((why, count)))
    cache.put(b"a", ("m@1", "embedder@1"), detect_answer())
    cache.put(b"b", ("m@1",), detect_answer())
    cache.forget("embedder@1")
    assert cache.get(b"a") is None
    assert cache.get(b"b") is not None
    assert evicted == [(Evicted.MODEL, 1)]


def test_an_answer_is_given_until_it_is_too_old() -> None:
    clock = Clock()
    cache = MemoryCache(1 << 20, 10.0, clock=clock)
    cache.put(b"a", ("m@1",), detect_answer())
    clock.now = 9.9
    assert cache.get(b"a") is not None
    clock.now = 10.0
    assert cache.get(b"a") is None
    assert cache.bytes == 0


def test_an_answer_that_would_push_out_all_others_is_not_kept() -> None:
    cache = MemoryCache(8000)
    cache.put(b"a", ("m@1",), EmbedAnswer(MODEL, np.zeros(2000, np.float32)))
    assert len(cache) == 0


def real_answer(found: int, vector: int) -> DetectAnswer:
    """As a model gives it: every number an object of its own."""
    fresh = iter(np.random.default_rng(0).random(found * 7 + 9).tolist())
    return DetectAnswer(
        ModelRef("m", 1, "cpu"),
        detections=[
            EmbeddedDetection(
                Detection(
                    Box(next(fresh), next(fresh), next(fresh), next(fresh)),
                    "cat",
                    next(fresh),
                    7,
                    (Attribute("emotion", (Label("happy", next(fresh), 3), Label("sad", next(fresh), 4))),),
                ),
                np.arange(vector, dtype=np.float32) if vector else None,
            )
            for _ in range(found)
        ],
        labels=[Label("indoor", next(fresh), 2)],
        timings=Timings(*(next(fresh) for _ in range(8))),
    )


@pytest.mark.parametrize(("found", "vector"), [(0, 0), (1, 0), (20, 0), (3, 512)])
def test_the_weight_of_answers_is_what_they_take(found: int, vector: int) -> None:
    cache = MemoryCache(1 << 30)
    gc.collect()
    tracemalloc.start()
    for name in range(500):
        cache.put(name.to_bytes(32, "big"), ("m@1",), real_answer(found, vector))
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.8 * taken <= cache.bytes <= 1.4 * taken


# -- bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [detect_answer(0), detect_answer(3, text="hé"), detect_answer(2, vector=8)]
)
def test_what_is_stored_comes_back_whole(answer: DetectAnswer) -> None:
    back = codec.decode(codec.encode(answer), "detect", MODEL)
    assert isinstance(back, DetectAnswer)
    assert [d.detection for d in back.detections] == [d.detection for d in answer.detections]
    for one, other in zip(back.detections, answer.detections, strict=True):
        assert (one.vector is None) == (other.vector is None)
        if one.vector is not None:
            assert np.array_equal(one.vector, other.vector)
    assert list(back.labels) == list(answer.labels)
    assert (back.flagged, back.width, back.height) == (False, 640, 480)


def test_a_vector_comes_back_and_no_flag_stays_none() -> None:
    vector = np.linspace(-1, 1, 768, dtype=np.float32)
    back = codec.decode(codec.encode(EmbedAnswer(MODEL, vector)), "embed", MODEL)
    assert isinstance(back, EmbedAnswer)
    assert np.array_equal(back.vector, vector)
    plain = codec.decode(codec.encode(DetectAnswer(MODEL)), "detect", MODEL)
    assert isinstance(plain, DetectAnswer)
    assert plain.flagged is None


@given(st.data())
def test_damaged_bytes_are_no_answer(drawn: st.DataObject) -> None:
    data = codec.encode(detect_answer())
    cut = data[: drawn.draw(st.integers(0, len(data) - 1))]
    assert codec.decode(cut, "detect", MODEL) is None
    changed = bytearray(data)
    changed[drawn.draw(st.integers(0, len(data) - 1))] ^= drawn.draw(st.integers(1, 255))
    assert codec.decode(bytes(changed), "detect", MODEL) is None


@pytest.mark.parametrize("data", [b"", b"hello", b"opsin", b"opsin\x02d" + bytes(40)])
def test_other_programs_bytes_are_no_answer(data: bytes) -> None:
    assert codec.decode(data, "detect", MODEL) is None


def test_an_answer_of_another_kind_is_no_answer() -> None:
    answers: list[Answer] = [detect_answer(), EmbedAnswer(MODEL, np.ones(3, np.float32))]
    assert codec.decode(codec.encode(answers[0]), "embed", MODEL) is None
    assert codec.decode(codec.encode(answers[1]), "detect", MODEL) is None


# -- the breaker ---------------------------------------------------------------------------------------------


def test_the_breaker_opens_after_failures_in_a_row_and_rests_longer_each_time() -> None:
    breaker = Breaker(in_a_row=3, rest=0.5, longest=2.0)
    assert [breaker.failed() for _ in range(4)] == [False, False, True, False]
    assert [breaker.rest() for _ in range(4)] == [0.5, 1.0, 2.0, 2.0]
    breaker.well()
    assert not breaker.open
    assert breaker.rest() == 0.5


def test_the_breaker_opens_when_half_of_the_calls_fail_though_never_in_a_row() -> None:
    breaker = Breaker(in_a_row=3, window=20)
    for _ in range(9):
        breaker.succeeded()
        assert not breaker.failed()
    breaker.succeeded()
    assert breaker.failed()


# -- what a model is -----------------------------------------------------------------------------------------


def test_a_model_is_another_when_its_files_settings_or_precision_are(tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    origin = Origin(
        "d", str(tmp_path), {"a": "1"}, ModelInfo(frozenset({Task.DETECT, Task.EMBED_IMAGE})), "1.0"
    )
    first = identity(origin)
    assert identity(origin) == first
    assert identity(replace(origin, settings={"a": "2"})) != first
    assert identity(replace(origin, info=replace(origin.info, dtype="bfloat16"))) != first
    assert identity(replace(origin, release="1.1")) != first
    assert identity(replace(origin, decoder="nvjpeg")) != first
    weights.write_bytes(b"two")
    assert identity(origin) != first


def test_where_the_files_lie_does_not_count(tmp_path: Path) -> None:
    names = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "weights.bin").write_bytes(b"one")
        origin = Origin("d", str(tmp_path / place), {}, ModelInfo(frozenset({Task.DETECT})), "1.0")
        names.append(identity(origin))
    assert names[0] == names[1]
