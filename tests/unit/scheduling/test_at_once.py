"""A light input that finds the device idle is run on the spot, and by the same rules as everybody else."""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from opsin_detectors.api import Prepared
from opsin_server.scheduling.admit import estimate
from opsin_server.scheduling.batch import Done
from opsin_server.scheduling.policy import LaneView, Run, at_once, unopposed
from opsin_server.scheduling.queues import ModelTerms
from unit.scheduling.test_scheduler import ITEM, Bench, Model, bench, name, outcome
from unit.scheduling.worlds import World, worlds


class Light(Model):
    """Takes less time than a hop to its lane."""

    light = True
    everywhere = False


@asynccontextmanager
async def lighted() -> AsyncGenerator[tuple[Bench, Light]]:
    """A bench with a light model beside its own."""
    async with bench() as b:
        light = Light()
        b.scheduler.add_model("l@1", light, ModelTerms((1, 2, 4)))
        yield b, light


def ask(b: Bench, data: Any, **how: Any) -> asyncio.Future[Done]:
    return b.scheduler.submit("l@1", Prepared(data), ITEM, flow="test", **how)


@given(worlds(), st.sampled_from(["a", "b", "c"]), st.floats(-0.01, 0.2) | st.just(math.inf))
def test_whoever_runs_at_once_is_whom_the_policy_would_run(world: World, model: str, left: float) -> None:
    for ticket in tuple(world.queues):
        world.queues.remove(ticket)
    if model not in world.queues.terms:
        return
    deadline = world.now + left
    if at_once(world.queues, world.now, world.profiles, model=model, deadline=deadline):
        ticket = world.add(model, left=deadline - world.now)
        made = world.plan()
        assert made.action == Run(model, (ticket,))
        assert not made.dead


@given(worlds(), st.sampled_from(["a", "b", "c"]))
def test_nobody_goes_ahead_of_those_who_wait(world: World, model: str) -> None:
    if model in world.queues.terms and len(world.queues):
        assert not at_once(world.queues, world.now, world.profiles, model=model)


@given(worlds(), st.sampled_from(["a", "b", "c"]))
def test_a_deadline_that_passed_runs_nothing(world: World, model: str) -> None:
    if model in world.queues.terms:
        assert not at_once(world.queues, world.now, world.profiles, model=model, deadline=world.now)


@given(worlds(), st.sampled_from(["a", "b", "c"]), st.floats(-0.01, 0.2) | st.just(math.inf))
def test_whoever_is_unopposed_is_whom_the_estimate_lets_in(world: World, model: str, left: float) -> None:
    for ticket in tuple(world.queues):
        world.queues.remove(ticket)
    if model not in world.queues.terms:
        return
    free, deadline = LaneView(), world.now + left
    seen = estimate(
        world.queues, world.now, world.profiles, free, model=model, flow="new", deadline=deadline + 1e-9
    )
    assert seen.feasible or not unopposed(
        world.queues, world.now, world.profiles, model=model, deadline=deadline
    )


async def test_a_light_input_is_answered_before_submit_returns() -> None:
    async with lighted() as (b, light):
        future = ask(b, "now")
        assert future.done()
        assert name(await future) == "now"
        assert light.batches == [["now"]]
        assert b.scheduler.profile("l@1").table()


async def test_a_light_input_that_fails_fails_alone() -> None:
    async with lighted() as (b, light):
        light.poison = {"bad"}
        assert await outcome(ask(b, "bad")) == "DETECTOR_FAILED"
        assert name(await ask(b, "good")) == "good"


async def test_while_the_only_lane_is_busy_light_inputs_wait_for_it() -> None:
    async with lighted() as (b, _):
        held = await b.hold()
        waiting = [ask(b, n) for n in range(3)]
        assert not any(future.done() for future in waiting)
        b.let_go()
        await held
        assert [name(await future) for future in waiting] == ["0", "1", "2"]


async def test_whoever_may_withdraw_at_the_start_is_asked_before_it_runs() -> None:
    async with lighted() as (b, light):
        futures: list[asyncio.Future[Done]] = []

        def withdraw() -> None:
            futures[0].cancel()

        futures.append(ask(b, "too old", on_start=withdraw))
        await asyncio.wait(futures)
        assert futures[0].cancelled()
        assert light.batches == []


async def test_the_device_that_nobody_else_wanted_is_charged_to_nobody() -> None:
    async with lighted() as (b, _):
        for n in range(5):
            await ask(b, n)
        assert "l@1" not in b.scheduler.queues.models
