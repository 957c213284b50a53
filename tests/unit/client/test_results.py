"""Results: pixels that lie in the picture, dicts that are JSON, messages read to the last field."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opsin
from opsin import Box, _parse
from opsin import v1 as pb

shares = st.floats(0, 1, width=32)
sizes = st.integers(1, 20_000)


@given(a=shares, b=shares, c=shares, d=shares, width=sizes, height=sizes)
def test_a_pixel_box_lies_inside_the_picture_and_is_never_empty(
    *, a: float, b: float, c: float, d: float, width: int, height: int
) -> None:
    box = Box(min(a, b), min(c, d), max(a, b), max(c, d)).to_pixels(width, height)
    assert 0 <= box.x_min < box.x_max <= width
    assert 0 <= box.y_min < box.y_max <= height


@given(a=shares, b=shares, width=sizes)
def test_a_pixel_edge_is_at_most_half_a_pixel_off_unless_the_box_would_be_empty(
    a: float, b: float, width: int
) -> None:
    low, high = min(a, b), max(a, b)
    box = Box(low, 0, high, 1).to_pixels(width, 1)
    if (high - low) * width >= 1:
        assert abs(box.x_min - low * width) <= 0.5
        assert abs(box.x_max - high * width) <= 0.5
    else:
        assert box.width <= 2


@given(first=st.integers(0, 999), length=st.integers(1, 1000), size=st.integers(1000, 5000))
def test_a_box_made_of_whole_pixels_comes_back_as_these_pixels(first: int, length: int, size: int) -> None:
    end = min(first + length, size)
    edges = np.array([first / size, end / size], np.float32)  # as it travels
    box = Box(float(edges[0]), 0, float(edges[1]), 1).to_pixels(size, 1)
    assert (box.x_min, box.x_max) == (first, end)


@given(x=st.floats(-1e30, 1e30), y=st.floats(-1e30, 1e30))
def test_a_box_outside_the_picture_still_gives_pixels_inside(x: float, y: float) -> None:
    box = Box(min(x, y), 0, max(x, y), 1).to_pixels(10, 10)
    assert 0 <= box.x_min < box.x_max <= 10


DETECTED = pb.DetectResponse(
    detections=[
        pb.Detection(
            box=pb.Box(x_min=0.25, y_min=0.5, x_max=0.5, y_max=1),
            label="face",
            class_id=3,
            score=0.9,
            attributes=[pb.Attribute(name="emotion", labels=[pb.Label(name="happy", score=0.5, class_id=1)])],
            text="STOP",
            track_id=7,
            embedding=pb.Embedding(values=[1, 2], dimensions=2),
        )
    ],
    labels=[pb.Label(name="neutral", score=0.75)],
    flagged=False,
    image=pb.ImageInfo(width=400, height=200),
    model=pb.ModelRef(name="m", version=2, device="cpu"),
    timings=pb.Timings(total_us=1500, infer_us=1000, batch_size=4),
    cache=pb.CacheStatus.CACHE_STATUS_JOINED,
)


def test_a_detection_is_read_to_the_last_field() -> None:
    result = _parse.detect_result(DETECTED, "r1", "face.jpg")
    found = result.detections[0]
    assert found.pixels == opsin.PixelBox(100, 100, 200, 200)
    assert (found.pixels.width, found.pixels.height) == (100, 100)
    assert (found.label, found.class_id, found.text, found.track_id) == ("face", 3, "STOP", 7)
    assert found.attributes == (opsin.Attribute("emotion", (opsin.Label("happy", 0.5, 1),)),)
    assert found.embedding is not None
    assert list(found.embedding) == [1, 2]
    assert result.labels == (opsin.Label("neutral", 0.75),)
    assert result.flagged is False
    assert str(result.model) == "m@2"
    assert result.timings == opsin.Timings(total_ms=1.5, infer_ms=1.0, batch_size=4)
    assert result.cache is opsin.CacheStatus.JOINED
    assert (result.request_id, result.source) == ("r1", "face.jpg")


def test_what_was_not_said_is_none_or_empty() -> None:
    result = _parse.detect_result(pb.DetectResponse())
    assert result.flagged is None
    assert (result.detections, result.labels, result.width) == ((), (), 0)
    assert result.cache is opsin.CacheStatus.MISS


def test_a_dict_is_json_and_holds_round_numbers() -> None:
    as_dict = json.loads(json.dumps(_parse.detect_result(DETECTED).to_dict()))
    assert as_dict["detections"][0]["score"] == 0.9
    assert as_dict["detections"][0]["pixels"] == {"x_min": 100, "y_min": 100, "x_max": 200, "y_max": 200}
    assert as_dict["detections"][0]["attributes"]["emotion"][0]["name"] == "happy"
    assert as_dict["detections"][0]["embedding"] == [1, 2]
    assert as_dict["cache"] == "joined"


@pytest.mark.parametrize(("letter", "kind"), [("<f4", "F32"), ("<f2", "F16")])
@pytest.mark.parametrize("with_numpy", [True, False])
def test_a_packed_vector_is_read_with_and_without_numpy(
    letter: str, kind: str, with_numpy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [0.5, -0.25, 3.0]
    packed = pb.Embedding(
        packed=np.array(numbers, letter).tobytes(),
        dtype=pb.EmbeddingDtype.Value(f"EMBEDDING_DTYPE_{kind}"),
        dimensions=3,
    )
    with monkeypatch.context() as patched:
        if not with_numpy:
            patched.setitem(__import__("sys").modules, "numpy", None)
        vector = _parse.vector(packed)
        plain = _parse.vector(pb.Embedding(values=numbers, dimensions=3))
    assert list(vector) == numbers == list(plain)
    assert isinstance(vector, np.ndarray if with_numpy else tuple)
    if isinstance(vector, np.ndarray):
        assert vector.dtype == np.float32


def test_a_model_and_a_server_are_read_to_the_last_field() -> None:
    message = pb.Model(
        name="m",
        version=2,
        state=pb.ModelState.MODEL_STATE_WARMING,
        tasks=[pb.Task.TASK_DETECT, pb.Task.TASK_READ_TEXT],
        profile=[pb.BatchProfile(batch_size=4, median_us=10, spread_us=2)],
        default_options=pb.DetectOptions(min_score=0.5),
        buckets=[1, 4],
    )
    message.load_time.FromMilliseconds(1500)
    read = _parse.model(message)
    assert read.state is opsin.ModelState.WARMING
    assert read.tasks == (opsin.Task.DETECT, opsin.Task.READ_TEXT)
    assert read.profile == (opsin.BatchProfile(4, 10, 2),)
    assert read.default_options.min_score == 0.5
    assert (read.load_time, read.serving_since, read.failure) == (1.5, None, None)
    assert json.loads(json.dumps(read.to_dict()))["tasks"] == ["detect", "read_text"]
    info = pb.GetServerInfoResponse(
        version="1",
        devices=[pb.Device(name="cpu", lanes=2)],
        codecs=[pb.Codec.CODEC_IMAGE, pb.Codec.CODEC_H264],
    )
    info.limits.max_batch_items = 9
    server = _parse.server_info(info)
    assert (server.limits.max_batch_items, server.devices[0].lanes, server.codecs) == (
        9,
        2,
        ("image", "h264"),
    )
    assert json.loads(json.dumps(server.to_dict()))["limits"]["max_batch_items"] == 9


@pytest.mark.parametrize(
    ("ours", "wire", "prefix"),
    [
        (opsin.Task, pb.Task, "TASK_"),
        (opsin.ModelState, pb.ModelState, "MODEL_STATE_"),
        (opsin.DropReason, pb.DropReason, "DROP_REASON_"),
        (opsin.CacheStatus, pb.CacheStatus, "CACHE_STATUS_"),
        (opsin.FreshnessMode, pb.FreshnessMode, "FRESHNESS_MODE_"),
    ],
)
def test_our_names_are_the_contracts_names(ours: type, wire: object, prefix: str) -> None:
    told = {name.removeprefix(prefix) for name in wire.keys()} - {"UNSPECIFIED"}  # type: ignore[attr-defined] # noqa: SIM118
    assert {member.name for member in ours} - {"UNKNOWN", "LOST", "SKIPPED"} == told  # type: ignore[attr-defined]


def test_enums_are_read_by_the_contracts_numbers() -> None:
    for task, number in pb.Task.items():
        read = _parse.model(pb.Model(tasks=[number])).tasks[0]
        assert read.name == task.removeprefix("TASK_").replace("UNSPECIFIED", "UNKNOWN")
    for name, value in pb.ModelState.items():
        state = _parse.model(pb.Model(state=value)).state
        assert state.name == name.removeprefix("MODEL_STATE_").replace("UNSPECIFIED", "UNKNOWN")
    for why, drop in pb.DropReason.items():
        reply = _parse.frame_reply(pb.FrameDropped(sequence=1, reason=drop), None)
        assert isinstance(reply, opsin.FrameDropped)
        assert reply.reason.name == why.removeprefix("DROP_REASON_").replace("UNSPECIFIED", "SUPERSEDED")
    assert _parse.model(pb.Model(tasks=[77])).tasks == (opsin.Task.UNKNOWN,)  # type: ignore[list-item]
