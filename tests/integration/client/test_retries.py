"""Retries are gRPC's own, by service config: measured here, on the clock of the server."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import grpc
import pytest

import opsin
from integration.client.fake import Fake, found, refuse
from opsin import _channel

Connect = Callable[..., Any]
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")


def fail_first(fake: Fake, times: int, code: grpc.StatusCode, reason: str, pushback: str | None) -> None:
    def detect(request: Any, context: Any) -> Any:
        if len(fake.times("Detect")) <= times:
            refuse(context, code, reason, pushback=pushback)
        return found(request, context)

    fake.on_detect = detect


def gaps(fake: Fake) -> list[float]:
    return [later - earlier for earlier, later in pairwise(fake.times("Detect"))]


def test_no_retry_comes_before_the_time_that_the_server_told(fake: Fake, connect: Connect) -> None:
    # The configured backoff would be at most 0.12 s the first and 0.24 s the second time.
    fail_first(fake, 2, *FULL, pushback="600")
    assert connect(fake.target).detect(b"abc").detections
    assert len(gaps(fake)) == 2
    assert all(gap >= 0.595 for gap in gaps(fake))


def test_a_short_pushback_beats_the_configured_backoff(
    fake: Fake, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("initialBackoff", "maxBackoff"):
        monkeypatch.setitem(_channel._RETRY_POLICY, name, "600s")
    fail_first(fake, 4, *FULL, pushback="5")
    assert connect(fake.target).detect(b"abc", timeout=60).detections, "by the backoff it would never come"
    assert len(gaps(fake)) == 4


def test_never_means_never(fake: Fake, connect: Connect) -> None:
    fail_first(fake, 9, *FULL, pushback="-1")
    with pytest.raises(opsin.Overloaded) as caught:
        connect(fake.target).detect(b"abc")
    assert caught.value.never_retry
    assert len(fake.calls) == 1


def test_a_server_that_is_not_ready_is_asked_again_five_times_at_most(fake: Fake, connect: Connect) -> None:
    fail_first(fake, 99, grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY", pushback="1")
    with pytest.raises(opsin.ModelNotReady):
        connect(fake.target).detect(b"abc")
    assert len(fake.calls) == 5


def test_even_a_large_call_is_retried(fake: Fake, connect: Connect) -> None:
    """By default gRPC gives up retrying calls over 256 kB, and says nothing."""
    fail_first(fake, 1, *FULL, pushback="1")
    assert connect(fake.target).detect(bytes(8_000_000)).detections[0].label == "8000000"
    assert len(fake.calls) == 2


def test_the_deadline_bounds_all_attempts_together(fake: Fake, connect: Connect) -> None:
    fail_first(fake, 99, *FULL, pushback="300")
    with pytest.raises(opsin.OpsinError):
        connect(fake.target).detect(b"abc", timeout=0.5)
    assert len(fake.calls) <= 2, "with a time each they would be five"


def test_a_wrong_request_is_not_repeated(fake: Fake, connect: Connect) -> None:
    fail_first(fake, 1, grpc.StatusCode.INVALID_ARGUMENT, "OPTION_INVALID", pushback=None)
    with pytest.raises(opsin.InvalidInput):
        connect(fake.target).detect(b"abc")
    assert len(fake.calls) == 1


def test_loading_a_model_is_not_repeated_by_itself(fake: Fake, connect: Connect) -> None:
    fake.on_load = lambda _, context: refuse(context, grpc.StatusCode.UNAVAILABLE, "DRAINING", pushback="1")
    with pytest.raises(opsin.Draining):
        connect(fake.target).load_model("a")
    assert len(fake.calls) == 1
