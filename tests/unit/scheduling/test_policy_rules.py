"""Each rule of the policy, on queues made to show it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsin_server.scheduling.policy import LaneView, Run, Sleep, Wait
from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.ticket import Priority, Ticket
from unit.scheduling.worlds import World, linear

BUCKETS = (1, 2, 4, 8, 16, 32)


def world(fixed: float = 0.004, each: float = 0.00025, **terms: object) -> World:
    """One model, shaped like one on an accelerator unless said otherwise."""
    made = World()
    settings = {"buckets": BUCKETS, "max_hold": 0.0, **terms}
    made.model("m", ModelTerms(**settings), linear(fixed, each))  # type: ignore[arg-type]
    return made


def ran(made: World) -> tuple[Ticket, ...]:
    action = made.plan().action
    assert isinstance(action, Run), action
    return action.tickets


def test_nothing_to_do_is_sleep() -> None:
    assert world().plan().action == Sleep()


# -- which tickets -------------------------------------------------------------------------------------------


def test_interactive_before_streams_before_bulk() -> None:
    made = world(buckets=(1,))
    bulk = made.add(priority=Priority.BULK)
    stream = made.add(priority=Priority.STREAM)
    interactive = made.add()
    order = []
    for _ in range(3):
        plan = made.plan()
        assert isinstance(plan.action, Run)
        order += plan.action.tickets
        made.carry_out(plan)
    assert order == [interactive, stream, bulk]


def test_earliest_deadline_first_within_a_flow() -> None:
    made = world(buckets=(2,))
    made.add(left=9.0)
    second, first = made.add(left=2.0), made.add(left=1.0)
    assert ran(made) == (first, second)


def test_flows_take_turns_whatever_each_has_waiting() -> None:
    made = world(buckets=(8,))
    for _ in range(50):
        made.add(flow="greedy")
    for flow in ("a", "b"):
        for _ in range(3):
            made.add(flow=flow)
    flows = [t.flow for t in ran(made)]
    assert flows.count("a") >= 2
    assert flows.count("b") >= 2


def test_a_single_ticket_beside_a_greedy_flow_does_not_pay_for_a_full_batch() -> None:
    made = world()
    for _ in range(200):
        made.add(flow="greedy")
    polite = made.add(flow="polite")
    made.carry_out(made.plan())
    for _ in range(3):
        plan = made.plan()
        assert isinstance(plan.action, Run)
        if polite in plan.action.tickets:
            assert made.profiles["m"].seconds(len(plan.action.tickets)) <= 2.05 * made.profiles["m"].seconds(
                1
            )
            return
        made.carry_out(plan)
    if polite in made.queues:
        pytest.fail("a polite flow waited for four batches")


def test_equal_flows_fill_the_batch() -> None:
    made = world()
    for number in range(32):
        made.add(flow=f"f{number}")
    assert len(ran(made)) == 32


def test_shapes_are_not_mixed_and_each_gets_its_turn() -> None:
    made = world(buckets=(4,))
    for number in range(16):
        made.add(shape=number % 2)
    seen = []
    for plan in made.beats():
        assert isinstance(plan.action, Run)
        seen.append({t.shape for t in plan.action.tickets})
    assert all(len(s) == 1 for s in seen)
    assert {frozenset(s) for s in seen[:2]} == {frozenset({0}), frozenset({1})} or len(seen) == 4


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 6),
    st.sampled_from([(1,), (1, 2, 4), BUCKETS]),
    st.sampled_from([Priority.STREAM, Priority.BULK]),
    st.floats(0.001, 0.01),
)
def test_lower_classes_never_starve_behind_a_flood_of_interactive_work(
    flows: int, buckets: tuple[int, ...], priority: Priority, each: float
) -> None:
    """The bound of the module's text: patience + 4 (F + 1) / n seconds, and a batch."""
    made = world(fixed=0.002, each=each, buckets=buckets, patience=0.2)
    waiting = {made.add(flow=f"low-{i}", priority=priority) for i in range(flows)}
    began, longest = made.now, 0.0
    served = 0
    while waiting and made.now - began < 60:
        while made.queues.waiting("m") < 80:
            made.add(flow=f"high-{served % 3}")
        plan = made.plan()
        assert isinstance(plan.action, Run)
        waiting -= set(plan.action.tickets)
        served += len(plan.action.tickets)
        longest = max(longest, made.carry_out(plan))
    rate = served / (made.now - began)
    assert not waiting
    assert made.now - began <= 0.2 + 4 * (flows + 1) / rate + 2 * longest


def test_the_oldest_ticket_of_a_flow_is_not_passed_over_for_ever_by_tighter_ones() -> None:
    made = world(buckets=(1,), patience=0.1)
    old = made.add(left=math.inf)
    for _ in range(40):
        made.add(left=1.0)
        plan = made.plan()
        made.carry_out(plan)
        if old not in made.queues:
            return
    pytest.fail("the ticket without a deadline never ran")


# -- how many ------------------------------------------------------------------------------------------------


def test_the_batch_is_as_large_as_pays() -> None:
    made = world()
    for _ in range(100):
        made.add()
    assert len(ran(made)) == 32


def test_where_a_larger_batch_gains_nothing_a_small_one_runs() -> None:
    made = world(fixed=0.0001, each=0.01)
    for _ in range(32):
        made.add()
    assert len(ran(made)) == 1


def test_an_earlier_deadline_never_makes_the_batch_larger() -> None:
    sizes = []
    for left in (1.0, 0.0115, 0.0085, 0.0064, 0.0052, 0.0046):
        made = world()
        made.add(left=left)
        for _ in range(31):
            made.add(left=10.0)
        sizes.append(len(ran(made)))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 32
    assert sizes[-1] <= 2


def test_a_nearly_dead_ticket_is_served_when_nobody_pays_for_it() -> None:
    made = world()
    tight = made.add(left=0.005)
    for _ in range(20):
        made.add(left=5.0)
    assert tight in ran(made)


def test_a_nearly_dead_ticket_does_not_shrink_everybodys_batch_under_overload() -> None:
    made = world()
    tight = made.add(left=0.005)
    for _ in range(400):
        made.add(left=0.05)
    tickets = ran(made)
    assert tight not in tickets
    assert len(tickets) == 32


def test_more_waiting_never_makes_the_batch_smaller() -> None:
    sizes = []
    for count in range(1, 70):
        made = world()
        for _ in range(count):
            made.add()
        sizes.append(len(ran(made)))
    assert sizes == sorted(sizes)


def test_idle_lanes_get_their_part_where_splitting_costs_nothing() -> None:
    made = world(fixed=0.0005, each=0.01)
    made.lane = LaneView(0, lanes=4, idle=4)
    for _ in range(8):
        made.add()
    assert len(ran(made)) <= 2


def test_idle_lanes_get_nothing_where_splitting_would_waste_the_device() -> None:
    made = world(fixed=0.010, each=0.0001)
    made.lane = LaneView(0, lanes=2, idle=2)
    for _ in range(8):
        made.add()
    assert len(ran(made)) == 8


def test_padding_lets_any_number_run() -> None:
    made = world(pads=True)
    for _ in range(5):
        made.add()
    assert len(ran(made)) == 5


# -- the dead ------------------------------------------------------------------------------------------------


def test_a_bound_that_nobody_checked_for_long_is_doubted() -> None:
    """A model that once took a second may be fast again; only running it can tell."""
    made = World()
    slow = Profile()
    for _ in range(50):
        slow.observe(1, 1.0)
    made.model("m", ModelTerms((1,), max_hold=0.0), slow)
    tries = 0
    for _ in range(400):
        made.add(left=0.2)
        plan = made.plan()
        if isinstance(plan.action, Run):
            tries += 1
        for dead in plan.dead:
            made.queues.remove(dead.ticket)
        if tries:
            break
        made.now += 0.1
    assert tries == 1


# -- which model ---------------------------------------------------------------------------------------------


def three_models(weights: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> World:
    made = World()
    shapes = ((0.004, 0.00025), (0.010, 0.001), (0.002, 0.002))
    for name, weight, (fixed, each) in zip("abc", weights, shapes, strict=True):
        made.model(name, ModelTerms(BUCKETS, weight, max_hold=0.0), linear(fixed, each))
    return made


def test_saturated_models_share_the_device_by_weight() -> None:
    made = three_models()
    used = dict.fromkeys("abc", 0.0)
    for _ in range(400):
        for name in "abc":
            while made.queues.waiting(name) < 64:
                made.add(name)
        plan = made.plan()
        assert isinstance(plan.action, Run)
        used[plan.action.model] += made.carry_out(plan)
    total = sum(used.values())
    assert used["a"] / total == pytest.approx(0.25, rel=0.1)
    assert used["b"] / total == pytest.approx(0.25, rel=0.1)
    assert used["c"] / total == pytest.approx(0.50, rel=0.1)


def test_a_model_that_slept_does_not_take_the_device_when_it_wakes() -> None:
    made = three_models((1.0, 1.0, 1.0))
    for _ in range(100):
        while made.queues.waiting("a") < 64:
            made.add("a")
        made.carry_out(made.plan())
    used = dict.fromkeys("ab", 0.0)
    for _ in range(60):
        for name in "ab":
            while made.queues.waiting(name) < 64:
                made.add(name)
        plan = made.plan()
        assert isinstance(plan.action, Run)
        used[plan.action.model] += made.carry_out(plan)
    assert used["b"] / sum(used.values()) < 0.6


def test_an_ill_filled_batch_lets_a_full_one_go_first_but_not_for_long() -> None:
    made = three_models((1.0, 1.0, 1.0))
    lone = made.add("b")
    began = made.now
    models = []
    while lone in made.queues:
        while made.queues.waiting("a") < 64:
            made.add("a")
        plan = made.plan()
        assert isinstance(plan.action, Run)
        models.append(plan.action.model)
        made.carry_out(plan)
    assert models[0] == "a"
    assert made.now - began <= 3 * made.profiles["b"].seconds(32) + made.profiles["b"].seconds(1) + 0.02


def test_an_ill_filled_batch_does_not_yield_at_the_cost_of_its_deadline() -> None:
    made = three_models((1.0, 1.0, 1.0))
    lone = made.add("b", left=0.0125)
    for _ in range(64):
        made.add("a")
    assert ran(made) == (lone,)


# -- holding -------------------------------------------------------------------------------------------------


def flock(made: World, callers: int, rounds: int, *, back: float = 0.0005) -> list[int]:
    """Callers who ask again `back` seconds after each answer; the sizes of the batches."""
    sizes: list[int] = []
    coming: list[tuple[float, str]] = [(made.now, f"caller-{i}") for i in range(callers)]
    while len(sizes) < rounds:
        plan = made.plan()
        match plan.action:
            case Run(model, tickets):
                for one in tickets:
                    made.queues.remove(one)
                made.queues.started(model, tickets, made.now)
                ends = made.now + made.profiles[model].seconds(len(tickets))
                for at, flow in sorted(c for c in coming if c[0] <= ends):
                    made.now = max(made.now, at)
                    made.add(flow=flow)
                coming = [c for c in coming if c[0] > ends]
                made.queues.finished(model, tickets, ends, ends - made.now)
                made.now = ends
                coming += [(ends + back * (1 + i / 100), t.flow) for i, t in enumerate(tickets)]
                sizes.append(len(tickets))
            case action:
                until = action.until if isinstance(action, Wait) else math.inf
                at, flow = min(coming, default=(math.inf, ""))
                made.now = min(until, at)
                if at <= until:
                    coming.remove((at, flow))
                    made.add(flow=flow)
    return sizes


def test_callers_who_come_back_together_run_together() -> None:
    sizes = flock(world(max_hold=0.02), 16, 80)
    assert sizes[-10:] == [16] * 10


def test_without_holding_they_take_turns_in_halves() -> None:
    sizes = flock(world(max_hold=0.0), 16, 80)
    assert max(sizes[-10:]) < 16


def test_a_single_caller_is_never_kept_waiting() -> None:
    made = world(max_hold=0.02)
    for _ in range(200):
        made.add()
        plan = made.plan()
        assert isinstance(plan.action, Run)
        made.carry_out(plan)
        made.now += 0.0003


def test_holding_ends_when_the_callers_stay_away() -> None:
    made = world(max_hold=0.02)
    flock(made, 16, 80)
    made.now += 5.0
    for one in list(made.queues):
        made.queues.remove(one)
    made.add()
    assert isinstance(made.plan().action, Run)


SHORT, LONG = 0, 1


def of_two_lengths() -> World:
    """A model of short inputs, at 1 ms and 0.1 ms each, and long ones, at 100 ms and 20 ms each."""
    sizes = (1, 2, 4, 8, 16, 32)
    profile = Profile()
    for size in sizes * 30:
        profile.observe(size, 0.001 + 0.0001 * size, SHORT)
        profile.observe(size, 0.1 + 0.02 * size, LONG)
    made = World()
    made.model("m", ModelTerms(sizes), profile)
    return made


def test_short_inputs_are_not_thought_late_for_the_long_ones_that_came_before() -> None:
    made = of_two_lengths()
    for _ in range(32):
        made.add(shape=SHORT, left=0.02)
    action = made.plan().action
    assert isinstance(action, Run)
    assert len(action.tickets) == 32


def test_long_inputs_run_in_batches_that_are_in_time_however_quick_the_short_ones_are() -> None:
    made = of_two_lengths()
    for _ in range(32):
        made.add(shape=LONG, left=0.3)
    action = made.plan().action
    assert isinstance(action, Run)
    assert len(action.tickets) == 8, "16 would take 0.42 s"


def test_what_is_certain_to_miss_is_so_for_its_own_length() -> None:
    made = of_two_lengths()
    short, long = made.add(shape=SHORT, left=0.05), made.add(shape=LONG, left=0.05)
    plan = made.plan()
    assert [dead.ticket for dead in plan.dead] == [long]
    assert plan.action == Run("m", (short,))


def test_a_bound_of_one_length_is_doubted_though_the_other_is_served() -> None:
    made, tries = of_two_lengths(), 0
    for _ in range(400):
        made.add(shape=SHORT)
        made.add(shape=LONG, left=0.02)
        plan = made.plan()
        made.carry_out(plan, seconds=0.0)
        tries += isinstance(plan.action, Run) and plan.action.tickets[0].shape == LONG
        made.now += 0.1
    assert tries, "it may be quick by now; only running it can tell"
