"""Who is let in, who is not, and what they are told."""

import math
from typing import Any

import pytest

from opsin_server.admission.gate import Gate, GateLimits
from opsin_server.calls import Caller
from opsin_server.errors import Failure, Reason
from opsin_server.scheduling.admit import Estimate
from opsin_server.scheduling.ticket import Priority


class Scheduler:
    """A backlog as the test says."""

    def __init__(self, waiting: int = 0, backlog: float = 0.0, expected: Estimate | None = None) -> None:
        self.waiting, self.backlog, self.expected = waiting, backlog, expected

    def seconds_to_room(self, model: str, tickets: int) -> float:
        return 0.5 * tickets

    def backlog_seconds(self) -> float:
        return self.backlog

    def unopposed(self, model: str, deadline: float) -> bool:
        return False

    def estimate(self, model: str, flow: str, priority: Priority, deadline: float) -> Estimate | None:
        return self.expected


def gate(limits: GateLimits, **how: Any) -> Gate:
    return Gate(limits, Scheduler(**how), clock=lambda: 100.0)  # type: ignore[arg-type]


def refusal(gate: Gate, items: int = 1, **caller: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        gate.admit("m@1", items, Caller(**caller))
    return caught.value


def test_a_place_counts_until_it_is_freed() -> None:
    door = gate(GateLimits(queued=4))
    with door.admit("m@1", 3, Caller(flow="a")) as place:
        assert door.coming == 3
        place.take()
        assert door.coming == 2
        assert door.held == {"a": 3}
    assert door.coming == 0
    assert door.held == {}


def test_a_full_queue_refuses_with_the_time_until_there_is_room() -> None:
    failure = refusal(gate(GateLimits(queued=4), waiting=4), flow="a")
    assert failure.reason is Reason.QUEUE_FULL
    assert failure.retry_after == 0.5
    assert not failure.never_retry


def test_more_than_the_queue_ever_holds_is_never_to_be_retried() -> None:
    assert refusal(gate(GateLimits(queued=4)), items=5, flow="a").never_retry


def test_the_last_places_are_for_flows_below_their_part() -> None:
    door = gate(GateLimits(queued=8))
    greedy = [door.admit("m@1", 1, Caller(flow="greedy")) for _ in range(6)]
    polite = door.admit("m@1", 1, Caller(flow="polite"))
    failure = refusal(door, flow="greedy")
    assert failure.reason is Reason.QUEUE_FULL
    assert failure.metadata["limit"] == "4"
    second = door.admit("m@1", 1, Caller(flow="polite"))
    for place in (*greedy, polite, second):
        place.free()
    assert door.held == {}


def test_a_single_flow_may_fill_the_whole_queue() -> None:
    door = gate(GateLimits(queued=8))
    places = [door.admit("m@1", 1, Caller(flow="only")) for _ in range(8)]
    assert len(places) == 8
    assert refusal(door, flow="only").reason is Reason.QUEUE_FULL


def test_more_seconds_of_work_than_allowed_refuse_newcomers() -> None:
    failure = refusal(gate(GateLimits(backlog=2.0), waiting=1, backlog=5.0), flow="a")
    assert failure.reason is Reason.QUEUE_FULL
    assert failure.retry_after == 3.0


def test_frames_of_streams_pass_the_limits_on_waiting_work() -> None:
    door = gate(GateLimits(queued=1), waiting=5)
    door.admit("m@1", 1, Caller(flow="stream", priority=Priority.STREAM)).free()


def test_a_deadline_behind_the_backlog_is_refused_with_the_time_it_would_take() -> None:
    expected = Estimate(wait=2.0, run=0.5, least=0.5, feasible=False, feasible_idle=True, retry_after=1.5)
    failure = refusal(gate(GateLimits(), expected=expected), flow="a", deadline=101.0)
    assert failure.reason is Reason.DEADLINE_UNMEETABLE
    assert failure.metadata == {"left_ms": "1000", "needed_ms": "2500"}
    assert failure.retry_after == 1.5


def test_a_deadline_no_server_could_meet_is_never_to_be_retried() -> None:
    expected = Estimate(wait=0.0, run=0.5, least=0.5, feasible=False, feasible_idle=False, retry_after=None)
    failure = refusal(gate(GateLimits(), expected=expected), flow="a", deadline=100.1)
    assert failure.never_retry
    assert failure.retry_after is None


def test_a_deadline_that_has_passed_says_so() -> None:
    assert refusal(gate(GateLimits()), flow="a", deadline=99.0).reason is Reason.DEADLINE_PASSED


def test_without_a_deadline_nothing_is_estimated() -> None:
    expected = Estimate(9.0, 9.0, 9.0, feasible=False, feasible_idle=False, retry_after=None)
    gate(GateLimits(), expected=expected).admit("m@1", 1, Caller(flow="a", deadline=math.inf)).free()
