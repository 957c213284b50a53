"""An open loop sends when calls are due and counts from there; a closed loop hides what a stall costs."""

import asyncio
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from opsin.bench.arrivals import Arrivals
from opsin.bench.figures import figures_of
from opsin.bench.load import Budget, Recording, Sample, closed_loop
from opsin.bench.openloop import open_loop
from opsin.bench.presence import Presence


class OneAtATime:
    """A server with one place that is busy for `service` seconds with each call. most: calls under way."""

    def __init__(self, service: float) -> None:
        self.most = 0
        self._under_way = 0
        self._service = service
        self._place = asyncio.Lock()

    async def __call__(self, number: int) -> Sample:
        started = time.perf_counter()
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        async with self._place:
            await asyncio.sleep(self._service)
        self._under_way -= 1
        return Sample(time.perf_counter() - started)


async def test_a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one() -> None:
    """Coordinated omission: asked twice as often as it can answer, the server falls further behind."""
    polite, overrun = OneAtATime(0.01), OneAtATime(0.01)
    await closed_loop(polite, Budget(total=40), callers=1)
    opened = await open_loop(
        overrun, Arrivals("constant", 200.0).offsets(total=40), Recording(), budget=Budget()
    )
    assert polite.most == 1, "nobody waits, however slow the server is"
    in_order = [sample.seconds for sample in sorted(opened.samples, key=lambda one: one.at)]
    more = [later - earlier for earlier, later in itertools.pairwise(in_order)]
    assert min(more) > 0.004, "each waits for all before it: 10 ms more than the last, and came 5 ms later"


async def test_latency_counts_from_when_a_call_was_due_and_not_from_when_it_got_a_place() -> None:
    gate = asyncio.Event()

    async def call(number: int) -> Sample:
        await gate.wait()
        return Sample(0.0)

    async def open_gate() -> None:
        await asyncio.sleep(0.1)
        gate.set()

    opening = asyncio.create_task(open_gate())
    done = await open_loop(call, [0.0] * 5, Recording(), budget=Budget(), callers=1)
    await opening
    assert len(done.samples) == 5
    assert all(sample.seconds >= 0.09 for sample in done.samples)


async def test_no_call_is_sent_before_it_is_due_even_by_a_loop_whose_timers_wake_early() -> None:
    """Its latency counts from then: a head start would make the server look quicker than it is."""

    async def call(number: int) -> Sample:
        return Sample(0.0)

    async def run() -> Recording:
        offsets = [0.0013 * at for at in range(60)]
        return await open_loop(call, offsets, Recording(), budget=Budget())

    class Early(asyncio.SelectorEventLoop):
        def call_later(self, delay: float, *more: Any, **also: Any) -> Any:
            return super().call_later(max(0.0, delay - 0.0006), *more, **also)

    with ThreadPoolExecutor(1) as pool:
        done = await asyncio.wrap_future(pool.submit(_run_in, Early, run))
    assert len(done.samples) == 60
    assert min(sample.lag for sample in done.samples) >= 0


def _run_in(loop: Callable[[], asyncio.AbstractEventLoop], run: Callable[[], Any]) -> Any:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(run())


async def test_no_more_calls_are_under_way_than_there_are_callers() -> None:
    under_way, most = 0, 0

    async def call(number: int) -> Sample:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(10):
            await asyncio.sleep(0)
        under_way -= 1
        return Sample(0.0)

    done = await open_loop(call, [0.0] * 50, Recording(), budget=Budget(), callers=3)
    assert (most, len(done.samples)) == (3, 50)


async def test_calls_that_find_too_many_under_way_are_counted_and_not_sent() -> None:
    gate, sent = asyncio.Event(), 0

    async def call(number: int) -> Sample:
        nonlocal sent
        sent += 1
        await gate.wait()
        return Sample(0.0)

    async def later() -> None:
        while sent < 4:
            await asyncio.sleep(0)
        for _ in range(50):  # turns of the loop, in each of which one is due
            await asyncio.sleep(0)
        gate.set()

    opening = asyncio.create_task(later())
    done = await open_loop(call, [0.0] * 10, Recording(), budget=Budget(), most=4)
    await opening
    assert (len(done.samples), done.unsent) == (4, 6)
    figures = figures_of([done], 0, offered=100.0)
    assert (figures.calls, figures.errors) == (10, {"NOT_SENT": 6})
    assert figures.client_limited, "the tool was the limit, and says so"


async def test_what_is_unanswered_when_the_patience_ends_is_cut_off_and_counted() -> None:
    async def call(number: int) -> Sample:
        if number % 2:
            await asyncio.Event().wait()
        return Sample(0.0)

    done = await open_loop(call, [0.0] * 10, Recording(), budget=Budget(), drain=0.05)
    assert (len(done.samples), done.unfinished) == (5, 5)
    assert figures_of([done], 0, offered=1.0, deadline=9.0).good_share == 0.5


async def test_a_run_lasts_as_long_as_its_arrivals_are_spread_over() -> None:
    """Or else a rate of two a second over one second would come out as four."""

    async def call(number: int) -> Sample:
        return Sample(0.0)

    begun = time.perf_counter()
    done = await open_loop(call, [0.0, 0.1], Recording(), budget=Budget(), span=0.25)
    assert 0.25 <= done.seconds <= time.perf_counter() - begun


async def test_a_loop_that_cannot_keep_up_says_by_how_much_it_was_late() -> None:
    def hold_the_loop(number: int) -> Sample:
        time.sleep(0.02)
        return Sample(0.0)

    async def call(number: int) -> Sample:
        return hold_the_loop(number)

    done = await open_loop(call, [0.0] * 20, Recording(), budget=Budget())
    limits = figures_of([done], 0, offered=20.0).limits
    assert limits.lag_p99
    assert limits.lag_p99 > 200
    assert any("sent late" in reason for reason in limits.reasons)


async def test_a_stopped_budget_ends_the_sending_and_keeps_what_was_measured() -> None:
    budget = Budget()

    async def call(number: int) -> Sample:
        if number == 2:
            budget.stop()
        return Sample(0.0)

    done = await open_loop(call, (0.001 * at for at in range(10**6)), Recording(), budget=budget, span=1e6)
    assert 3 <= len(done.samples) < 100
    assert done.seconds < 100


def test_a_server_is_given_up_when_for_a_while_every_call_reaches_nobody() -> None:
    gone, there, slow = Sample(0, error="UNAVAILABLE"), Sample(0), Sample(0, error="DEADLINE_EXCEEDED")
    presence = Presence(patience=3.0)
    assert not presence.note(gone, 10.0)
    assert not presence.note(gone, 12.9)
    assert not presence.note(there, 13.0), "it came back"
    assert not presence.note(gone, 14.0)
    assert not presence.note(slow, 16.0), "somebody took the call"
    assert not presence.note(gone, 17.0)
    assert presence.note(gone, 20.0)
