"""The queues: what is in them, what the accounts remember, and that neither grows for ever."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsin_server.scheduling.policy import Run
from opsin_server.scheduling.queues import ModelTerms, Queues
from opsin_server.scheduling.ticket import Priority, Ticket
from unit.scheduling.worlds import World, linear


def ticket(number: int, model: str = "m", flow: str = "f", size: int = 10) -> Ticket:
    return Ticket(number, model, flow, float(number), size=size)


def queues() -> Queues:
    made = Queues()
    made.terms["m"] = ModelTerms((1, 2, 4))
    return made


def test_what_was_added_is_there_until_it_is_removed() -> None:
    made, one, two = queues(), ticket(1), ticket(2)
    made.add(one)
    made.add(two)
    assert (len(made), made.size, list(made), one in made) == (2, 20, [one, two], True)
    assert (made.waiting("m"), made.oldest("m"), made.oldest("other")) == (2, 1.0, None)
    made.remove(one)
    assert (len(made), made.size, list(made), one in made) == (1, 10, [two], False)
    made.remove(two)
    assert (len(made), made.size, made.waiting("m"), made.oldest("m")) == (0, 0, 0, None)


def test_unknown_models_and_tickets_and_doubles_are_errors() -> None:
    made, one = queues(), ticket(1)
    with pytest.raises(KeyError):
        made.add(ticket(5, model="nobody"))
    made.add(one)
    with pytest.raises(ValueError, match="waits already"):
        made.add(one)
    with pytest.raises(KeyError):
        made.remove(ticket(7))
    assert len(made) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(Priority), st.floats(0, 9)), max_size=60))
def test_removing_in_any_order_leaves_nothing_behind(rows: list[tuple[str, Priority, float]]) -> None:
    made = queues()
    tickets = [
        Ticket(i, "m", flow, 0.0, priority, deadline, size=3, shape=i % 2)
        for i, (flow, priority, deadline) in enumerate(rows)
    ]
    for one in tickets:
        made.add(one)
    random.Random(1).shuffle(tickets)
    for one in tickets:
        made.remove(one)
    assert len(made) == made.size == 0
    assert all(not queue.groups for queue in made.models.values())


def test_a_flow_that_was_away_gets_no_credit_for_it() -> None:
    world = World()
    world.model("m", ModelTerms((1,), max_hold=0.0), linear(0.0, 0.01, (1,)))
    for _ in range(50):
        world.add(flow="busy")
        world.carry_out(world.plan())
    for _ in range(40):
        world.add(flow="busy")
        world.add(flow="back")
    served = []
    for _ in range(20):
        made = world.plan()
        assert isinstance(made.action, Run)
        served.append(made.action.tickets[0].flow)
        world.carry_out(made)
    assert abs(served.count("back") - served.count("busy")) <= 2


def test_accounts_of_flows_that_went_are_forgotten() -> None:
    world = World()
    world.model("m", ModelTerms((1,), max_hold=0.0), linear(0.0, 0.01, (1,)))
    for number in range(5000):
        world.add(flow=f"once-{number}")
        world.carry_out(world.plan())
    assert len(world.queues.models["m"].flows) < 2000


def test_tickets_that_only_die_leave_no_accounts_behind_either() -> None:
    made = queues()
    for number in range(5000):
        one = ticket(number, flow=f"once-{number}")
        made.add(one)
        made.remove(one)
    assert len(made.models["m"].flows) < 2000


def test_a_failed_batch_is_charged_and_so_are_its_halves() -> None:
    made = queues()
    pair = (ticket(1), ticket(2, flow="g"))
    for one in pair:
        made.add(one)
    for one in pair:
        made.remove(one)
    made.started("m", pair, 3.0)
    made.finished("m", pair, 4.0, 1.0)
    for one in pair:
        made.finished("m", (one,), 5.0, 0.5)
    model = made.models["m"]
    assert model.share.virtual == pytest.approx(2.0)
    assert model.share.idle
    assert {f.virtual for f in model.flows.values()} == {1.0}


def test_a_model_that_was_removed_while_it_ran_leaves_nothing() -> None:
    made, one = queues(), ticket(1)
    made.add(one)
    made.remove(one)
    made.started("m", (one,), 1.0)
    del made.terms["m"]
    made.finished("m", (one,), 2.0, 1.0)
    assert not made.models
