"""The admission estimate: what a newcomer has to expect behind the backlog."""

import math

import pytest

from opsin_server.scheduling.admit import Estimate, backlog_seconds, drain_seconds, estimate
from opsin_server.scheduling.policy import LaneView
from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.ticket import Priority
from unit.scheduling.worlds import World, linear


def world() -> World:
    made = World()
    made.model("m", ModelTerms((1, 2, 4, 8, 16, 32)), linear(0.004, 0.00025))
    made.model("other", ModelTerms((1, 2, 4, 8, 16, 32)), linear(0.010, 0.001))
    return made


def ask(
    made: World, *, left: float = math.inf, flow: str = "new", idle: int = 0, **more: Priority
) -> Estimate:
    return estimate(
        made.queues,
        made.now,
        made.profiles,
        LaneView(0, 1, idle),
        model="m",
        flow=flow,
        deadline=made.now + left,
        **more,
    )


def test_an_idle_server_answers_after_one_run() -> None:
    told = ask(world(), left=0.1, idle=1)
    assert told.wait == 0.0
    assert told.total == pytest.approx(0.00425, rel=0.1)
    assert (told.feasible, told.feasible_idle, told.retry_after) == (True, True, 0.0)


def test_what_even_an_idle_server_cannot_do_is_not_to_be_retried() -> None:
    told = ask(world(), left=0.001, idle=1)
    assert (told.feasible, told.feasible_idle, told.retry_after) == (False, False, None)


def test_behind_a_backlog_a_tight_deadline_is_refused_with_the_time_to_come_back() -> None:
    made = world()
    for _ in range(640):
        made.add(flow="new")
    told = ask(made, left=0.05)
    assert told.wait == pytest.approx(20 * 0.012, rel=0.2)
    assert (told.feasible, told.feasible_idle) == (False, True)
    assert told.retry_after == pytest.approx(told.total - 0.05, rel=0.01)


def test_the_wait_grows_with_the_backlog() -> None:
    made, waits = world(), []
    for _ in range(300):
        made.add(flow="new")
        waits.append(ask(made).wait)
    assert waits == sorted(waits)
    assert waits[-1] > 5 * waits[0]


def test_a_greedy_flow_delays_only_itself() -> None:
    made = world()
    for _ in range(640):
        made.add(flow="greedy")
    assert ask(made, flow="greedy").wait > 0.2
    assert ask(made, flow="polite").wait < 0.02


def test_bulk_work_does_not_delay_interactive_work() -> None:
    made = world()
    for _ in range(640):
        made.add(flow="f", priority=Priority.BULK)
    assert ask(made, flow="f").wait < 0.02
    assert ask(made, flow="f", priority=Priority.BULK).wait > 0.2


def test_another_model_delays_by_its_share_only() -> None:
    made = world()
    for _ in range(1000):
        made.add("other")
    alone = ask(made).wait
    assert alone < 0.1
    for _ in range(640):
        made.add(flow="new")
    assert ask(made).wait == pytest.approx(2 * 640 * 0.012 / 32, rel=0.3)


def test_the_backlog_is_told_in_seconds_of_work() -> None:
    made = world()
    assert backlog_seconds(made.queues, made.profiles, 1) == 0.0
    for _ in range(320):
        made.add()
    assert backlog_seconds(made.queues, made.profiles, 1) == pytest.approx(0.12, rel=0.05)
    assert backlog_seconds(made.queues, made.profiles, 2) == pytest.approx(0.06, rel=0.05)


def test_a_full_queue_asks_to_come_back_when_places_are_free() -> None:
    made = world()
    assert drain_seconds(made.queues, made.profiles, 1, model="m") == pytest.approx(0.00425, rel=0.05)
    for _ in range(320):
        made.add()
    half = drain_seconds(made.queues, made.profiles, 1, model="m", tickets=160)
    assert half == pytest.approx(0.06, rel=0.05)


def test_an_unknown_profile_refuses_nobody() -> None:
    made = World()
    made.model("m", ModelTerms((1, 4)), Profile())
    for _ in range(100):
        made.add()
    assert ask(made, left=0.001).feasible


SHORT, LONG = 0, 1


def test_a_backlog_takes_what_its_own_shapes_take() -> None:
    made, profile = World(), Profile()
    for size in (1, 2, 4) * 30:
        profile.observe(size, 0.001, SHORT)
        profile.observe(size, 0.1 * size, LONG)
    made.model("m", ModelTerms((1, 2, 4)), profile)
    for _ in range(40):
        made.add(shape=SHORT, flow="new")
    assert ask(made).wait == pytest.approx(10 * 0.001, rel=0.1)
    assert backlog_seconds(made.queues, made.profiles, 1) == pytest.approx(10 * 0.001, rel=0.1)
    for _ in range(40):
        made.add(shape=LONG, flow="new")
    assert ask(made).wait == pytest.approx(10 * 0.001 + 40 * 0.1, rel=0.1)


def test_a_batch_that_runs_is_waited_for_as_long_as_its_own_size_and_shape_take() -> None:
    made, profile = World(), Profile()
    for size in (1, 2, 4) * 30:
        profile.observe(size, 0.001 * size, SHORT)
        profile.observe(size, 0.1 * size, LONG)
    made.model("m", ModelTerms((1, 2, 4)), profile)
    for shape, count, seconds in ((SHORT, 1, 0.001), (SHORT, 4, 0.004), (LONG, 2, 0.2)):
        tickets = tuple(made.add(shape=shape) for _ in range(count))
        for ticket in tickets:
            made.queues.remove(ticket)
        made.queues.started("m", tickets, made.now)
        assert ask(made).wait == pytest.approx(seconds, rel=0.05)
        made.queues.finished("m", tickets, made.now, seconds)
