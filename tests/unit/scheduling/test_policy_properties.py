"""What must hold of every plan, on any queues."""

import math
from dataclasses import replace

from hypothesis import HealthCheck, given, settings

from opsin_server.scheduling.policy import Dead, Plan, Run, Sleep, Wait
from opsin_server.scheduling.queues import ModelTerms
from unit.scheduling.worlds import World, linear, worlds

SETTINGS = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))


def picture(world: World) -> object:
    """Everything a plan could have changed."""
    queues = world.queues
    return (
        [t.id for t in queues],
        queues.size,
        {
            key: (
                m.share.virtual,
                m.share.waiting,
                m.owed,
                [clock.now for clock in m.clocks],
                {k: (f.virtual, f.waiting, f.running, f.since) for k, f in m.flows.items()},
                {s: [[e[:2] for e in c.due] for c in g.classes] for s, g in m.groups.items()},
                (m.arrivals.answered_at, m.arrivals.back_by, m.arrivals.expected(world.now)),
            )
            for key, m in queues.models.items()
        },
        {key: profile.table() for key, profile in world.profiles.items()},
    )


def outcome(made: Plan) -> object:
    dead = [(d.ticket.id, d.why) for d in made.dead]
    match made.action:
        case Run(model, tickets):
            return dead, model, [t.id for t in tickets]
        case action:
            return dead, action


@SETTINGS
@given(worlds())
def test_a_plan_changes_nothing_and_comes_out_the_same_twice(world: World) -> None:
    before = picture(world)
    first = world.plan()
    assert picture(world) == before
    assert outcome(world.plan()) == outcome(first)


@SETTINGS
@given(worlds())
def test_a_batch_is_of_one_model_and_shape_and_of_a_size_that_was_warmed(world: World) -> None:
    match world.plan().action:
        case Run(model, tickets):
            terms = world.queues.terms[model]
            assert {t.model for t in tickets} == {model}
            assert len({t.shape for t in tickets}) == 1
            assert 1 <= len(tickets) <= terms.buckets[-1]
            if not terms.pads:
                assert len(tickets) in terms.buckets or len(tickets) < terms.buckets[0]


@SETTINGS
@given(worlds())
def test_a_flow_never_exceeds_its_cap_while_another_waits(world: World) -> None:
    match world.plan().action:
        case Run(model, tickets):
            cap = world.queues.terms[model].flow_cap
            rivals = {t.flow for t in world.queues if t.model == model and t.shape == tickets[0].shape}
            if cap and len(rivals) > 1:
                assert all(sum(t.flow == f for t in tickets) <= cap for f in rivals)


@SETTINGS
@given(worlds())
def test_only_waiting_tickets_run_or_die_and_each_once(world: World) -> None:
    made = world.plan()
    waiting = {t.id for t in world.queues}
    used = [d.ticket.id for d in made.dead]
    if isinstance(made.action, Run):
        used += [t.id for t in made.action.tickets]
    assert len(used) == len(set(used))
    assert set(used) <= waiting


@SETTINGS
@given(worlds())
def test_every_ticket_ends_exactly_once(world: World) -> None:
    expected = sorted(t.id for t in world.queues)
    ended: list[int] = []
    for made in world.beats():
        ended += [d.ticket.id for d in made.dead]
        if isinstance(made.action, Run):
            ended += [t.id for t in made.action.tickets]
    assert sorted(ended) == expected
    assert world.queues.size == 0
    assert isinstance(world.plan().action, Sleep)


@SETTINGS
@given(worlds())
def test_whoever_is_past_the_deadline_is_dead_and_nobody_else_without_cause(world: World) -> None:
    made = world.plan()
    expired = {d.ticket.id for d in made.dead if d.why == "expired"}
    assert expired == {t.id for t in world.queues if t.deadline <= world.now}
    for dead in made.dead:
        if dead.why == "unmeetable":
            terms, profile = world.queues.terms[dead.ticket.model], world.profiles[dead.ticket.model]
            assert dead.ticket.deadline < world.now + profile.lower(terms.buckets[0] if terms.pads else 1)


@SETTINGS
@given(worlds())
def test_a_batch_meets_the_earliest_deadline_in_it_by_the_profile_if_any_size_can(world: World) -> None:
    match world.plan().action:
        case Run(model, tickets):
            terms, profile = world.queues.terms[model], world.profiles[model]
            least = world.now + terms.after + profile.upper(terms.buckets[0])
            if all(t.deadline >= least for t in tickets):
                bucket = next(b for b in terms.buckets if b >= len(tickets))
                needed = profile.upper(
                    bucket if terms.pads else min(bucket, max(len(tickets), terms.buckets[0]))
                )
                assert min(t.deadline for t in tickets) >= world.now + terms.after + needed - 1e-9


@SETTINGS
@given(worlds())
def test_work_that_can_be_served_is_run_or_held_no_longer_than_allowed(world: World) -> None:
    made = world.plan()
    dead = {d.ticket.id for d in made.dead}
    alive = [t for t in world.queues if t.id not in dead]
    match made.action:
        case Sleep():
            assert not alive
        case Wait(until):
            assert until > world.now
            for key, queue in world.queues.models.items():
                if queue.share.waiting:
                    mine = [t for t in alive if t.model == key]
                    bound = world.queues.terms[key].max_hold
                    assert (
                        not mine
                        or until
                        <= max(min(t.arrived for t in mine), queue.arrivals.answered_at) + bound + 1e-9
                    )


@SETTINGS
@given(worlds())
def test_nothing_is_held_when_holding_is_switched_off(world: World) -> None:
    for key, terms in list(world.queues.terms.items()):
        world.queues.terms[key] = replace(terms, max_hold=0.0)
    assert not isinstance(world.plan().action, Wait)


@SETTINGS
@given(worlds())
def test_the_more_urgent_class_of_a_batch_leaves_nobody_behind_for_a_lower_one(world: World) -> None:
    """Except for the places owed to flows that waited too long: at most a quarter, at least one."""
    match world.plan().action:
        case Run(model, tickets):
            terms, profile = world.queues.terms[model], world.profiles[model]
            if terms.flow_cap:
                return
            taken = {t.id for t in tickets}
            floor = min(t.deadline for t in tickets)
            bucket = next(b for b in terms.buckets if b >= len(tickets))
            floor = max(floor, world.now + terms.after + profile.upper(bucket))
            left = [
                t.priority
                for t in world.queues
                if t.model == model
                and t.shape == tickets[0].shape
                and t.id not in taken
                and t.deadline >= floor
                and t.deadline > world.now
            ]
            if left:
                early = [t for t in tickets if t.priority > min(left)]
                assert len(early) <= max(1, len(tickets) // 4)


def test_a_dead_ticket_says_why() -> None:
    world = World()
    world.model("m", ModelTerms((1,)), linear(0.05, 0.0))
    late = world.add(left=-0.01)
    tight = world.add(left=0.01)
    fine = world.add(left=math.inf)
    made = world.plan()
    assert made.dead == (Dead(late, "expired"), Dead(tight, "unmeetable"))
    assert isinstance(made.action, Run)
    assert made.action.tickets == (fine,)
