"""Options: what is out of range is told before sending, and everything else arrives as it was meant."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import opsin
from opsin import Freshness, _requests
from opsin import v1 as pb
from opsin._channel import Link
from opsin._options import DetectAsk, EmbedAsk, StreamAsk

bad_shares = st.one_of(
    st.floats(max_value=-1e-9, allow_nan=False),
    st.floats(min_value=1.0000001),
    st.just(math.nan),
    st.just("0.5"),
)


@given(value=bad_shares)
def test_a_score_outside_0_to_1_is_refused_with_its_field(value: float) -> None:
    for name in ("min_score", "iou_threshold"):
        with pytest.raises(opsin.InvalidInput) as caught:
            DetectAsk.of(**{name: value})  # type: ignore[arg-type]
        assert caught.value.violations[0].field == f"options.{name}"


@given(value=st.floats(0, 1))
def test_a_score_inside_0_to_1_travels_and_is_set_even_at_zero(value: float) -> None:
    message = _requests.detect_options(opsin.DetectOptions(min_score=value))
    assert message.HasField("min_score")
    assert message.min_score == pytest.approx(value, abs=1e-7)
    assert not message.HasField("iou_threshold")


@pytest.mark.parametrize("value", [-1, 1.5, True, 2**32, "3"])
def test_a_count_is_a_whole_number_that_fits(value: object) -> None:
    with pytest.raises(opsin.InvalidInput, match="max_detections"):
        opsin.DetectOptions(max_detections=value)  # type: ignore[arg-type]


def test_a_lone_string_is_no_list_of_labels() -> None:
    with pytest.raises(opsin.InvalidInput, match=r"\['person'\]"):
        DetectAsk.of(labels="person")


@pytest.mark.parametrize(
    "region", [(0, 0, 1.1, 1), (0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (0, 0, 1), (math.nan, 0, 1, 1)]
)
def test_a_region_lies_inside_the_picture_and_is_not_empty(region: tuple[float, ...]) -> None:
    with pytest.raises(opsin.InvalidInput) as caught:
        DetectAsk.of(regions=[(0, 0, 1, 1), region])  # type: ignore[list-item]
    assert caught.value.violations[0].field == "options.regions[1]"


def test_every_detect_option_arrives() -> None:
    ask = DetectAsk.of(
        model="m@2",
        priority="bulk",
        routing_key="k",
        min_score=0.5,
        max_detections=3,
        max_labels=4,
        iou_threshold=0.25,
        labels=iter(["a"]),
        regions=[opsin.Box(0, 0, 0.5, 1), (0.5, 0, 1, 1)],
        candidate_labels=["c"],
        embed_detections=True,
        embed_model="e",
        skip_cache=True,
        truncate_text=True,
    )
    message = _requests.detect_request(opsin.Text("hello"), ask)
    assert (message.model, message.routing_key, message.text) == ("m@2", "k", "hello")
    assert message.priority == pb.Priority.PRIORITY_BULK
    set_fields = {descriptor.name for descriptor, _ in message.options.ListFields()}
    assert set_fields == {descriptor.name for descriptor in pb.DetectOptions.DESCRIPTOR.fields}
    assert message.options.regions[1].x_min == 0.5


def test_every_embed_option_arrives_and_vectors_are_asked_for_packed() -> None:
    ask = EmbedAsk(
        model="m", normalize=False, dimensions=8, truncate_text=True, skip_cache=True, routing_key="k"
    )
    message = _requests.embed_request(b"jpeg", ask)
    assert message.encoding == pb.EmbeddingEncoding.EMBEDDING_ENCODING_PACKED
    assert message.HasField("normalize")
    assert not message.normalize
    set_fields = {descriptor.name for descriptor, _ in message.ListFields()}
    assert set_fields == {descriptor.name for descriptor in pb.EmbedRequest.DESCRIPTOR.fields} - {"text"}


def test_every_stream_setting_arrives() -> None:
    ask = StreamAsk.of(
        model="m", min_score=0.5, freshness="max_age=0.5", track=True, reuse_similar=2.0, reuse_threshold=0.5
    )
    config = _requests.stream_config(ask, ask.options, ask.freshness, "s", b"t")
    assert config.freshness.max_age.ToMilliseconds() == 500
    assert config.reuse_similar.max_hold.ToMilliseconds() == 2000
    set_fields = {descriptor.name for descriptor, _ in config.ListFields()}
    assert set_fields == {descriptor.name for descriptor in pb.StreamConfig.DESCRIPTOR.fields} - {"codec"}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("every_frame", Freshness()),
        ("latest", Freshness(opsin.FreshnessMode.LATEST)),
        ("max_age=0.5", Freshness(opsin.FreshnessMode.MAX_AGE, max_age=0.5)),
        ("target_fps=10", Freshness(opsin.FreshnessMode.TARGET_FPS, target_fps=10.0)),
    ],
)
def test_freshness_is_read_from_text_and_written_back(text: str, rule: Freshness) -> None:
    assert Freshness.of(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize(
    "text",
    [
        "newest",
        "max_age",
        "max_age=",
        "max_age=0",
        "max_age=-1",
        "max_age=nan",
        "target_fps=fast",
        "latest=3",
    ],
)
def test_a_freshness_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(opsin.InvalidInput):
        Freshness.of(text)


@pytest.mark.parametrize(
    "settings",
    [{"quality": 0}, {"quality": 101}, {"rate": "fast"}, {"rate": 0}, {"reuse_similar": 0}, {"window": -1}],
)
def test_a_stream_setting_out_of_range_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(opsin.InvalidInput, match=next(iter(settings))):
        StreamAsk.of(**settings)


def test_a_priority_is_one_of_two() -> None:
    with pytest.raises(opsin.InvalidInput, match="bulk"):
        DetectAsk.of(priority="urgent")  # type: ignore[arg-type]


def link(**settings: object) -> Link:
    plain = {
        "target": "a:1",
        "timeout": 5.0,
        "tls": False,
        "token": None,
        "metadata": (),
        "max_message_bytes": 1,
        "user_agent": "",
    }
    return Link(**{**plain, **settings})  # type: ignore[arg-type]


def test_a_timeout_is_the_calls_own_else_the_clients_and_infinity_is_none() -> None:
    assert link().deadline(None) == 5.0
    assert link().deadline(2.0) == 2.0
    assert link().deadline(None, 600.0) == 600.0
    assert link().deadline(math.inf) is None
    with pytest.raises(opsin.InvalidInput):
        link(timeout=0.0)


def test_a_token_goes_along_as_a_bearer() -> None:
    made = link(token="t", metadata=(("x-a", "b"),))
    assert made.call_metadata == (("authorization", "Bearer t"), ("x-a", "b"))


def test_a_target_with_a_scheme_of_the_web_is_refused_with_what_would_be_right() -> None:
    with pytest.raises(opsin.InvalidInput, match="host:port"):
        link(target="http://localhost:50051")
    assert link(target="dns:///opsin:50051").target == "dns:///opsin:50051"


def test_the_environment_gives_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGET", "elsewhere:7")
    with opsin.Client() as client:
        assert client.target == "elsewhere:7"
    monkeypatch.delenv("OPSIN_TARGET")
    with opsin.Client() as client:
        assert client.target == "127.0.0.1:50051"
