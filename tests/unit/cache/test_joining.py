"""Joining, with real tasks and no server: everyone is answered once, and work is done once."""

import asyncio
import math
import time
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsin_server.cache.joining import OWN, Flight, Joining
from opsin_server.calls import Caller
from opsin_server.errors import Failure, Reason
from opsin_server.scheduling.ticket import Priority
from opsin_server.stopwatch import Stopwatch


class Work:
    """Work that ends when the test says so. runs: how often it was begun; terms: what it was told since."""

    def __init__(self, *outcomes: str | Failure) -> None:
        self.outcomes = list(outcomes)
        self.runs = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self.party: Caller = Caller()
        self.amended: list[tuple[str, Priority, float]] = []

    def amend(self, caller: Caller) -> bool:
        self.amended.append((caller.flow, caller.priority, caller.deadline))
        return True

    async def run(self, party: Caller, watch: Stopwatch) -> str:
        self.runs += 1
        self.party = party
        party.begun(self)  # type: ignore[attr-defined]
        outcome = self.outcomes.pop(0)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(outcome, Failure):
            raise outcome
        return outcome


def flight_of(work: Work) -> tuple[Joining[str], Flight[str]]:
    joining: Joining[str] = Joining()
    return joining, joining.lead("mark", "source", work.run)


def ask(flight: Flight[str], caller: Caller | None = None) -> asyncio.Task[str]:
    waiter = flight.join(caller or Caller(), Stopwatch())
    return asyncio.create_task(flight.wait(waiter))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_who_wait_get_the_answer_of_one_run() -> None:
    work = Work("answer")
    joining, flight = flight_of(work)
    asked = [ask(flight) for _ in range(32)]
    work.go.set()
    assert await asyncio.gather(*asked) == ["answer"] * 32
    assert work.runs == 1
    assert not flight.open
    assert len(joining) == 0


async def test_a_leader_that_is_cancelled_neither_loses_the_work_nor_has_it_run_twice() -> None:
    work = Work("answer")
    _, flight = flight_of(work)
    leader, follower = ask(flight), ask(flight)
    await settle()
    leader.cancel()
    await settle()
    work.go.set()
    assert await follower == "answer"
    assert leader.cancelled()
    assert (work.runs, work.cancelled) == (1, 0)


async def test_the_last_to_leave_ends_the_work() -> None:
    work = Work("answer")
    joining, flight = flight_of(work)
    asked = [ask(flight), ask(flight)]
    await settle()
    for task in asked:
        task.cancel()
    await settle()
    assert work.cancelled == 1
    assert len(joining) == 0


async def test_each_caller_keeps_its_own_deadline() -> None:
    work = Work("answer")
    _, flight = flight_of(work)
    soon = ask(flight, Caller(deadline=time.monotonic() + 0.02))
    patient = ask(flight)
    with pytest.raises(Failure) as late:
        await soon
    assert late.value.reason is Reason.DEADLINE_PASSED
    work.go.set()
    assert await patient == "answer"
    assert work.runs == 1


async def test_nobody_joins_whose_deadline_has_passed() -> None:
    _, flight = flight_of(Work("answer"))
    leader = ask(flight)
    with pytest.raises(Failure) as late:
        flight.join(Caller(deadline=time.monotonic() - 1), Stopwatch())
    assert late.value.reason is Reason.DEADLINE_PASSED
    leader.cancel()
    await settle()


async def test_the_most_urgent_pays_and_the_latest_deadline_counts() -> None:
    work = Work("answer")
    _, flight = flight_of(work)
    now = time.monotonic()
    bulk = ask(flight, Caller("bulk", Priority.BULK, now + 50))
    await settle()
    urgent = ask(flight, Caller("urgent", Priority.INTERACTIVE, now + 20))
    assert work.amended[-1] == ("urgent", Priority.INTERACTIVE, now + 50)
    lasting = ask(flight, Caller("lasting"))
    await settle()
    assert work.amended[-1] == ("urgent", Priority.INTERACTIVE, math.inf)
    urgent.cancel()
    await settle()
    assert work.amended[-1] == ("lasting", Priority.INTERACTIVE, math.inf)
    lasting.cancel()
    await settle()
    assert work.amended[-1] == ("bulk", Priority.BULK, now + 50)
    work.go.set()
    assert await bulk == "answer"


@pytest.mark.parametrize("reason", sorted(OWN - {Reason.DEADLINE_PASSED, Reason.DEADLINE_UNMEETABLE}))
async def test_a_refusal_of_the_leader_is_not_the_followers(reason: Reason) -> None:
    work = Work(Failure(reason, "not you"), "answer")
    _, flight = flight_of(work)
    leader, follower = ask(flight), ask(flight)
    work.go.set()
    with pytest.raises(Failure) as refused:
        await leader
    assert refused.value.reason is reason
    assert await follower == "answer"


@pytest.mark.parametrize("reason", [Reason.DEADLINE_PASSED, Reason.DEADLINE_UNMEETABLE])
async def test_what_is_too_late_for_one_deadline_is_too_late_for_all_earlier_ones_and_no_later_one(
    reason: Reason,
) -> None:
    work = Work(Failure(reason, "too late"), "answer")
    _, flight = flight_of(work)
    now = time.monotonic()
    early, leader = ask(flight, Caller(deadline=now + 10)), ask(flight, Caller(deadline=now + 20))
    await settle()
    work.amend = lambda caller: False  # type: ignore[method-assign]  # its ticket has been given up already
    patient = ask(flight)
    work.go.set()
    for task in (early, leader):
        with pytest.raises(Failure):
            await task
    assert await patient == "answer"
    assert work.runs == 2


@pytest.mark.parametrize("reason", [Reason.IMAGE_UNDECODABLE, Reason.DETECTOR_FAILED, Reason.LANE_LOST])
async def test_a_failure_of_the_input_is_everybodys(reason: Reason) -> None:
    work = Work(Failure(reason, "bad"))
    _, flight = flight_of(work)
    asked = [ask(flight) for _ in range(3)]
    work.go.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [o.reason for o in outcomes if isinstance(o, Failure)] == [reason] * 3
    assert len({id(o) for o in outcomes}) == 3, "each has an exception of its own"
    assert work.runs == 1


async def test_an_unexpected_error_is_told_to_all() -> None:
    async def broken(party: Caller, watch: Stopwatch) -> str:
        raise ZeroDivisionError

    flight = Joining[str]().lead("mark", "source", broken)
    outcomes = await asyncio.gather(ask(flight), ask(flight), return_exceptions=True)
    assert [type(o) for o in outcomes] == [ZeroDivisionError] * 2


@dataclass(frozen=True)
class Step:
    act: str
    who: int
    deadline: float


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["join", "join", "cancel", "tick", "go"]),
        st.integers(0, 7),
        st.sampled_from([math.inf, 30.0, 60.0]),
    ),
    max_size=40,
)
OUTCOMES = st.lists(
    st.sampled_from([Reason.QUEUE_FULL, Reason.MEMORY_LIMIT, Reason.DEADLINE_UNMEETABLE]), max_size=4
)


@settings(max_examples=150, deadline=None)
@given(STEPS, OUTCOMES, st.sampled_from(["answer", Reason.DETECTOR_FAILED]))
def test_whatever_comes_and_goes_everyone_is_answered_once_and_rightly(
    steps: list[Step], refusals: list[Reason], last: str | Reason
) -> None:
    asyncio.run(_random(steps, refusals, last))


async def _random(steps: list[Step], refusals: list[Reason], last: str | Reason) -> None:
    end = Failure(last, "bad") if isinstance(last, Reason) else last
    joining: Joining[str] = Joining()
    works: list[Work] = []
    asked: list[asyncio.Task[str]] = []
    now = time.monotonic()

    for step in steps:
        if step.act == "join":
            flights = joining.alike("mark")
            if not flights:
                works.append(Work(*[Failure(reason, "own") for reason in refusals], *[end] * 50))
                flights = (joining.lead("mark", "source", works[-1].run),)
            caller = Caller(f"flow-{step.who}", Priority(step.who % 3), now + step.deadline)
            asked.append(ask(flights[0], caller))
        elif step.act == "cancel" and asked:
            asked[step.who % len(asked)].cancel()
        elif step.act == "go" and works:
            works[-1].go.set()
        await settle() if step.act == "tick" else await asyncio.sleep(0)
    for work in works:
        work.go.set()
    done, waiting = await asyncio.wait(asked, timeout=5) if asked else (set(), set())
    assert not waiting
    assert len(joining) == 0
    assert {t for t in asyncio.all_tasks() if t is not asyncio.current_task()} == set()
    for task in done:
        if task.cancelled():
            continue
        error = task.exception()
        if error is None:
            assert task.result() == last
        else:
            assert isinstance(error, Failure)
            assert error.reason in {*refusals, last}
    assert all(work.runs <= 1 + len(refusals) for work in works), "work that was done was done again"
