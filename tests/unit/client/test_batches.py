"""Many inputs: cut to the limits, repeated where the server asks, every outcome in its place."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opsin
from opsin import _batches
from opsin import v1 as pb
from opsin._calls import Call
from opsin._options import DetectAsk

FULL = opsin.Overloaded("full", reason="QUEUE_FULL", retry_after=0.2)
HOPELESS = opsin.Overloaded("never", reason="DEADLINE_UNMEETABLE", never_retry=True)


def batcher(inputs: Any, limit: int = 1 << 20) -> Any:
    return _batches.detect(inputs, DetectAsk(), limit, 10.0)


def items(call: Call[Any]) -> list[bytes]:
    return [r.image.encoded for r in pb.BatchDetectRequest.FromString(call.request).requests]


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 900), max_size=80), limit=st.integers(2000, 6000))
def test_every_call_fits_the_limits_and_every_input_has_its_outcome_in_order(
    lengths: list[int], limit: int
) -> None:
    inputs = [bytes([at % 256]) * length for at, length in enumerate(lengths)]
    work = batcher(inputs, limit)
    while (call := work.next_call()) is not None:
        assert len(call.request) <= limit
        assert 1 <= len(items(call)) <= 256
        work.take(items(call))
    assert work.results == inputs


def test_a_call_has_at_most_256_items_and_more_time_for_more_of_them() -> None:
    work = batcher([b"x"] * 300)
    first = work.next_call()
    assert len(items(first)) == 256
    assert first.timeout == 80.0
    work.take(items(first))
    second = work.next_call()
    assert (len(items(second)), second.timeout) == (44, 20.0)


def test_inputs_are_read_only_as_their_turn_comes() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x"

    batcher(endless()).next_call()
    assert taken == 256


def test_an_input_that_cannot_travel_gets_its_error_in_its_place() -> None:
    work = batcher([b"a", "no/such/file", bytes(5000), b"b"], limit=4000)
    call = work.next_call()
    assert items(call) == [b"a", b"b"]
    work.take(["A", "B"])
    assert work.next_call() is None
    first, missing, large, last = work.results
    assert (first, last) == ("A", "B")
    assert isinstance(missing, opsin.InvalidInput)
    assert isinstance(large, opsin.MessageTooLarge)


def test_what_the_server_asks_to_send_later_is_sent_later_and_not_for_ever() -> None:
    work = batcher([b"a", b"b", b"c"])
    work.next_call()
    work.take(["A", FULL, HOPELESS])
    assert work.delay == 0.2
    for _ in range(_batches.MAX_ATTEMPTS - 1):
        assert items(work.next_call()) == [b"b"]
        work.take([FULL])
    assert work.next_call() is None
    assert work.results == ["A", FULL, HOPELESS]


def test_a_call_that_fails_costs_no_results_of_other_calls() -> None:
    work = batcher([b"x"] * 257)
    work.next_call()
    work.take(["ok"] * 256)
    work.next_call()
    broken = opsin.Unreachable("gone")
    work.take(broken)
    assert work.next_call() is None
    assert work.results == ["ok"] * 256 + [broken]


def test_a_server_that_answers_too_few_is_noticed() -> None:
    work = batcher([b"a", b"b"])
    call = work.next_call()
    short = pb.BatchDetectResponse(outcomes=[pb.DetectOutcome(response=pb.DetectResponse())])
    with pytest.raises(opsin.ServerFailed, match="2"):
        call.answer(short.SerializeToString(), "r")


def test_a_text_that_cannot_travel_costs_the_others_nothing() -> None:
    work = batcher([opsin.Text("one"), opsin.Text("half an emoji \ud83d"), opsin.Text("two")])
    call = work.next_call()
    assert [r.text for r in pb.BatchDetectRequest.FromString(call.request).requests] == ["one", "two"]
    work.take(["1", "2"])
    assert work.next_call() is None
    first, broken, last = work.results
    assert (first, last) == ("1", "2")
    assert isinstance(broken, opsin.InvalidInput)
    assert broken.violations[0].field == "text"
