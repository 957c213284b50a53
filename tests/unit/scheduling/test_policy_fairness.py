"""Fairness, order and monotony of the policy, on random queues."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from opsin_server.scheduling.policy import Plan, Run
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.ticket import Priority, Ticket
from unit.scheduling.worlds import World, linear, worlds

SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
SIZES = (1, 2, 4, 8, 16, 32)
costs = st.tuples(st.floats(0.0, 0.02), st.floats(1e-4, 0.005))
alike = st.tuples(st.floats(0.005, 0.02), st.floats(5e-4, 2e-3))
"""No more than a few times apart, so that a share is reached within some hundred batches."""


def one_model(cost: tuple[float, float]) -> World:
    made = World()
    made.model("m", ModelTerms(SIZES, max_hold=0.0), linear(*cost))
    return made


def ran(made: World) -> tuple[Ticket, ...]:
    action = made.plan().action
    assert isinstance(action, Run), action
    return action.tickets


@settings(SETTINGS, max_examples=10)
@given(st.lists(st.tuples(st.sampled_from([0.5, 1.0, 2.0]), alike), min_size=2, max_size=3))
def test_saturated_models_get_device_time_by_weight_whatever_they_cost(
    models: list[tuple[float, tuple[float, float]]],
) -> None:
    made = World()
    for number, (weight, cost) in enumerate(models):
        made.model(str(number), ModelTerms(SIZES, weight, max_hold=0.0), linear(*cost))
    used = [0.0] * len(models)
    longest = max(profile.seconds(32) for profile in made.profiles.values())
    until = made.now + 200 * longest
    while made.now < until:
        for number in range(len(models)):
            while made.queues.waiting(str(number)) < 64:
                made.add(str(number))
        plan = made.plan()
        assert isinstance(plan.action, Run)
        used[int(plan.action.model)] += made.carry_out(plan)
    weights = sum(weight for weight, _ in models)
    for seconds, (weight, _) in zip(used, models, strict=True):
        assert abs(seconds / sum(used) - weight / weights) <= 0.1 * weight / weights


@SETTINGS
@example((0.02, 0.000544189072957779), [20, 20, 20])  # 32 places and then 16, each half as dear again
@given(costs, st.lists(st.integers(8, 60), min_size=2, max_size=6))
def test_flows_with_work_have_had_the_same_device_time_but_for_a_quarter_of_a_batch(
    cost: tuple[float, float], waiting: list[int]
) -> None:
    """Device time, not places: those of a full batch cost less than those of the one that follows it."""
    made = one_model(cost)
    for number, count in enumerate(waiting):
        for _ in range(count):
            made.add(flow=str(number))
    served, had = [0] * len(waiting), [0.0] * len(waiting)
    apart = 0.0
    while True:
        plan = made.plan()
        assert isinstance(plan.action, Run)
        tickets = plan.action.tickets
        each = made.carry_out(plan) / len(tickets)
        for ticket in tickets:
            served[int(ticket.flow)] += 1
            had[int(ticket.flow)] += each
        if any(took == have for have, took in zip(waiting, served, strict=True)):
            return  # whoever has nothing left leaves its places to the others
        # A batch that is smaller than the one before may leave what that one left, and no more.
        most = max(apart, (len(tickets) / 4 + 1) * each)
        apart = max(had) - min(had)
        assert apart <= most * (1 + 1e-9)


@SETTINGS
@given(worlds())
def test_within_a_flow_nobody_who_could_still_make_it_is_passed_over_for_a_later_deadline(
    world: World,
) -> None:
    """Except for one of each flow that waited out its patience."""
    match world.plan().action:
        case Run(model, tickets):
            terms, profile = world.queues.terms[model], world.profiles[model]
            bucket = next(b for b in terms.buckets if b >= len(tickets))
            floor = world.now + terms.after + profile.after + profile.upper(bucket)
            taken = {t.id for t in tickets}
            for flow, priority in {(t.flow, t.priority) for t in tickets}:
                mine = [
                    t
                    for t in tickets
                    if (t.flow, t.priority) == (flow, priority) and world.now - t.arrived < terms.patience
                ]
                left = [
                    t.deadline
                    for t in world.queues
                    if (t.model, t.flow, t.priority, t.shape) == (model, flow, priority, tickets[0].shape)
                    and t.id not in taken
                    and t.deadline > floor
                ]
                if mine and left:
                    assert max(t.deadline for t in mine) <= min(left)


@SETTINGS
@given(costs, st.integers(1, 40))
def test_one_more_that_waits_never_makes_the_batch_smaller(cost: tuple[float, float], count: int) -> None:
    sizes = []
    for waiting in (count, count + 1, 2 * count, 3 * count):
        made = one_model(cost)
        for _ in range(waiting):
            made.add()
        sizes.append(len(ran(made)))
    assert sizes == sorted(sizes)


@SETTINGS
@given(costs, st.integers(1, 40), st.lists(st.floats(0.0, 3.0), min_size=2, max_size=5))
def test_an_earlier_deadline_of_one_never_makes_its_batch_larger(
    cost: tuple[float, float], others: int, lefts: list[float]
) -> None:
    """As long as it can be met at all, and the others have all the time there is."""
    sizes = []
    for left in sorted(lefts):
        made = one_model(cost)
        profile = made.profiles["m"]
        assume(profile.seconds(1) > 0)
        tight = made.add(left=profile.upper(1) + left * profile.upper(32))
        for _ in range(others):
            made.add()
        tickets = ran(made)
        assert tight in tickets
        sizes.append(len(tickets))
    assert all(one <= two for one, two in pairwise(sizes))


@SETTINGS
@given(costs, st.integers(1, 64), st.sampled_from([Priority.STREAM, Priority.BULK]))
def test_an_interactive_ticket_is_in_the_very_next_batch_whatever_waits_below_it(
    cost: tuple[float, float], below: int, priority: Priority
) -> None:
    """As long as nothing below it has waited out its patience."""
    made = one_model(cost)
    for number in range(below):
        made.add(flow=f"low-{number % 5}", priority=priority)
    urgent = made.add(flow="caller")
    assert urgent in ran(made)


@settings(SETTINGS, max_examples=15)
@given(st.integers(0, 2**32), st.floats(0.0, 0.5), st.booleans())
def test_flows_whose_waiting_ticket_is_replaced_by_a_newer_one_lose_nothing(
    seed: int, noise: float, gone_before: bool
) -> None:
    """As 32 cameras do, at rates of their own, on a device that is not quite steady.

    With LATEST the newer frame is there before the older one goes; with MAX_AGE it comes afterwards.
    """
    made, dice = one_model((0.01, 0.005)), random.Random(seed)
    made.queues.terms["m"] = ModelTerms((1, 2, 4), max_hold=0.0)
    waiting = {flow: made.add(flow=str(flow), priority=Priority.STREAM) for flow in range(32)}
    served = [0] * 32
    for _ in range(160):
        for flow in [f for f in waiting if dice.random() < (0.1, 0.5, 0.9)[f % 3]]:
            older = waiting[flow]
            if gone_before:
                made.queues.remove(older)
            waiting[flow] = made.add(flow=str(flow), priority=Priority.STREAM)
            if not gone_before:
                made.queues.remove(older)
        plan = made.plan()
        assert isinstance(plan.action, Run)
        ran_now = [int(ticket.flow) for ticket in plan.action.tickets]
        made.carry_out(plan, seconds=0.03 * (1 + noise * dice.random()))
        for flow in ran_now:
            served[flow] += 1
            waiting[flow] = made.add(flow=str(flow), priority=Priority.STREAM)
    assert max(abs(one - 20) for one in served) <= 2, served


def test_a_flow_that_comes_and_goes_unserved_is_owed_no_more_than_two_runs() -> None:
    """What it is owed while others are served may not grow with every time that it comes and goes."""
    made = one_model((0.0, 0.01))
    made.queues.terms["m"] = ModelTerms((1,), max_hold=0.0)
    for _ in range(50):
        visitor = made.add(flow="visitor", priority=Priority.STREAM)
        rival = made.add(flow="rival", priority=Priority.STREAM)
        made.carry_out(Plan(Run("m", (rival,))))
        made.queues.remove(visitor)
    order = []
    for _ in range(6):
        made.add(flow="visitor", priority=Priority.STREAM)
        made.add(flow="peer", priority=Priority.STREAM)
    for _ in range(12):
        plan = made.plan()
        assert isinstance(plan.action, Run)
        order += [ticket.flow for ticket in plan.action.tickets]
        made.carry_out(plan)
    assert order[:2] == ["visitor", "visitor"]
    assert order[:6].count("visitor") <= 4


@pytest.mark.parametrize("above", [Priority.INTERACTIVE, Priority.STREAM])
@pytest.mark.parametrize("places", [1, 2])
def test_a_busy_caller_of_a_higher_class_moves_no_share_between_those_below(
    above: Priority, places: int
) -> None:
    """As a caller beside cameras with LATEST, whose frames are superseded while they wait."""
    made, below = World(), Priority(above + 1)
    made.model("m", ModelTerms((places,), pads=True, max_hold=0.0), linear(0.01, 0.002))
    waiting = {str(number): made.add(flow=str(number), priority=below) for number in range(9)}
    served: Counter[str] = Counter()
    for beat in range(900):
        if beat % 3 == 0 and not any(ticket.priority is above for ticket in made.queues):
            made.add(flow="caller", priority=above)
        for number, flow in enumerate(waiting):  # newer frames, of some cameras more often than of others
            if beat % (1 + number // 3) == 0:
                if waiting[flow] in made.queues:
                    made.queues.remove(waiting[flow])
                waiting[flow] = made.add(flow=flow, priority=below)
        plan = made.plan()
        assert isinstance(plan.action, Run)
        served.update(ticket.flow for ticket in plan.action.tickets)
        made.carry_out(plan)
    del served["caller"]
    assert max(served.values()) <= 1.1 * min(served.values()), served
