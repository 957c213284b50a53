"""The scheduler's promises, with a runner whose batches a test can hold, fail and count."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from opsin_detectors.api import Item, Label, Options, Output, Prepared, Task
from opsin_server.errors import Failure, Reason
from opsin_server.scheduling.batch import Done, WrongLengthError
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.scheduler import Scheduler, SchedulerOptions

ITEM = Item(Task.CLASSIFY_TEXT, Options(), None, 0, 0)


class Model:
    """Answers each input with itself. A test can hold its batches at a gate, and name inputs that harm it."""

    light = False
    everywhere = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.batches: list[list[Any]] = []
        self.poison: set[Any] = set()
        self.short: set[Any] = set()
        self.kill: set[Any] = set()
        self.memory = 1000

    def collect(self, launched: list[Any], local: dict[str, object]) -> list[Any]:
        return launched

    def launch(self, prepared: Sequence[Prepared], local: dict[str, object]) -> list[Any]:
        data = [p.data for p in prepared]
        self.batches.append(data)
        self.started.release()
        self.gate.wait(10)
        if self.kill & set(data):
            raise SystemExit("the thread dies")
        if len(data) > self.memory:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        if self.poison & set(data):
            raise ValueError("poison")
        return data

    def finish(self, outputs: list[Any], items: Sequence[Item]) -> list[Output | Failure]:
        answers = [Output(labels=(Label(str(o), 1.0),)) for o in outputs if o not in self.short]
        if len(answers) != len(items):
            raise WrongLengthError(f"{len(items)} inputs gave {len(answers)} answers")
        return list(answers)


class Bench:
    """A scheduler with one model."""

    def __init__(self, scheduler: Scheduler, model: Model) -> None:
        self.scheduler = scheduler
        self.model = model
        self.health: list[bool] = []

    def submit(self, data: Any, **how: Any) -> asyncio.Future[Done]:
        how = {"flow": "test", **how}
        return self.scheduler.submit("m@1", Prepared(data), ITEM, **how)

    async def hold(self) -> asyncio.Future[Done]:
        """Keep the only lane busy with an input of its own until `let_go`."""
        self.model.gate.clear()
        held = self.submit("held")
        await self.lane_started()
        return held

    def let_go(self) -> None:
        self.model.gate.set()

    def minutes_pass(self) -> None:
        """For what is on the lanes and on the finisher, and the watch looks at them."""
        dispatcher = self.scheduler._dispatcher
        for lane in dispatcher.fleet._lanes:
            lane.since -= 600
        held = dispatcher._finisher._held
        held.update({batch: since - 600 for batch, since in held.items()})
        dispatcher._guard(dispatcher._look_for_stalls)

    async def lane_started(self) -> None:
        assert await asyncio.to_thread(self.model.started.acquire, True, 10)


@asynccontextmanager
async def bench(
    *, lanes: int = 1, buckets: tuple[int, ...] = (1, 2, 4, 8, 16), **options: Any
) -> AsyncGenerator[Bench]:
    model = Model()
    health: list[bool] = []
    scheduler = Scheduler(SchedulerOptions(lanes=lanes, **options), on_health=health.append)
    scheduler.add_model("m@1", model, ModelTerms(buckets), probe=(Prepared("probe"), ITEM))
    place = Bench(scheduler, model)
    place.health = health
    try:
        yield place
    finally:
        model.gate.set()
        await scheduler.close()


def name(done: Done) -> str:
    return done.output.labels[0].name


async def outcome(future: asyncio.Future[Done]) -> str:
    """The answer's name, or the reason of its failure."""
    try:
        return name(await asyncio.wait_for(future, 10))
    except Failure as failure:
        return failure.reason.name


async def test_an_input_is_answered_with_its_own_answer() -> None:
    async with bench() as b:
        assert name(await b.submit("a")) == "a"


async def test_inputs_that_wait_together_run_together_and_get_their_own_answers() -> None:
    async with bench() as b:
        held = await b.hold()
        futures = [b.submit(i) for i in range(8)]
        b.let_go()
        done = await asyncio.gather(held, *futures)
        assert [name(d) for d in done] == ["held", *map(str, range(8))]
        assert max(map(len, b.model.batches)) > 1


@pytest.mark.parametrize("position", [0, 3, 7])
async def test_a_caller_who_leaves_while_queued_costs_the_others_nothing(position: int) -> None:
    async with bench() as b:
        held = await b.hold()
        futures = [b.submit(i) for i in range(8)]
        futures[position].cancel()
        b.let_go()
        await held
        stayed = [f for i, f in enumerate(futures) if i != position]
        assert [name(d) for d in await asyncio.gather(*stayed)] == [str(i) for i in range(8) if i != position]
        assert all(position not in batch for batch in b.model.batches)


@pytest.mark.parametrize("position", [0, 3, 7])
async def test_a_caller_who_leaves_while_running_costs_the_others_nothing(position: int) -> None:
    async with bench() as b:
        b.model.gate.clear()
        futures = [b.submit(i) for i in range(8)]
        await b.lane_started()
        futures[position].cancel()
        b.let_go()
        stayed = [f for i, f in enumerate(futures) if i != position]
        assert [name(d) for d in await asyncio.gather(*stayed)] == [str(i) for i in range(8) if i != position]
        assert name(await b.submit("after")) == "after"


async def test_every_caller_may_leave_at_once() -> None:
    async with bench() as b:
        b.model.gate.clear()
        futures = [b.submit(i) for i in range(30)]
        await b.lane_started()
        for future in futures:
            future.cancel()
        b.let_go()
        assert name(await b.submit("after")) == "after"
        assert b.scheduler.waiting == 0


@pytest.mark.parametrize("position", range(8))
async def test_poison_fails_alone_in_few_extra_runs(position: int) -> None:
    async with bench(buckets=(8,)) as b:
        held = await b.hold()
        b.model.poison = {position}
        futures = [b.submit(i) for i in range(8)]
        b.let_go()
        await held
        outcomes = [await outcome(f) for f in futures]
        assert outcomes == [str(i) if i != position else "DETECTOR_FAILED" for i in range(8)]
        assert len(b.model.batches) <= 1 + 1 + 2 * 3  # the held one, the failed one, 2 log2(8) halves


async def test_two_poisons_fail_two_callers_only() -> None:
    async with bench(buckets=(16,)) as b:
        held = await b.hold()
        b.model.poison = {2, 11}
        futures = [b.submit(i) for i in range(16)]
        b.let_go()
        await held
        outcomes = [await outcome(f) for f in futures]
        assert outcomes == [str(i) if i not in (2, 11) else "DETECTOR_FAILED" for i in range(16)]


async def test_a_wrong_number_of_answers_fails_only_the_input_that_causes_it() -> None:
    async with bench(buckets=(8,)) as b:
        held = await b.hold()
        b.model.short = {5}
        futures = [b.submit(i) for i in range(8)]
        b.let_go()
        await held
        outcomes = [await outcome(f) for f in futures]
        assert outcomes == [str(i) if i != 5 else "DETECTOR_BROKEN" for i in range(8)]


async def test_a_batch_too_large_for_the_device_is_halved_and_the_bound_remembered() -> None:
    async with bench(buckets=(1, 2, 4, 8)) as b:
        held = await b.hold()
        b.model.memory = 3
        futures = [b.submit(i) for i in range(8)]
        b.let_go()
        await held
        assert [await outcome(f) for f in futures] == [str(i) for i in range(8)]
        assert b.scheduler.terms("m@1").buckets == (1, 2)
        tried = len(b.model.batches)
        again = [b.submit(i) for i in range(8)]
        await asyncio.gather(*again)
        assert max(map(len, b.model.batches[tried:])) <= 2


async def test_the_half_of_an_odd_batch_that_does_fit_is_not_forbidden() -> None:
    async with bench(buckets=(1, 2, 3)) as b:
        held = await b.hold()
        b.model.memory = 2
        futures = [b.submit(i) for i in range(3)]
        b.let_go()
        await held
        assert [await outcome(f) for f in futures] == ["0", "1", "2"]
        assert list(map(len, b.model.batches[-2:])) == [2, 1]
        assert b.scheduler.terms("m@1").buckets == (1, 2)


async def test_an_input_too_large_even_alone_is_told_so_and_not_to_retry() -> None:
    async with bench() as b:
        b.model.memory = 0
        with pytest.raises(Failure) as caught:
            await b.submit("huge")
        assert caught.value.reason is Reason.DEVICE_MEMORY
        assert caught.value.never_retry
        b.model.memory = 1000
        assert name(await b.submit("after")) == "after"


async def test_a_deadline_that_passes_in_the_queue_is_answered_while_the_device_is_still_busy() -> None:
    async with bench() as b:
        held = await b.hold()
        loop = asyncio.get_running_loop()
        doomed = b.submit("late", deadline=loop.time() + 0.03)
        assert await outcome(doomed) == "DEADLINE_PASSED"
        assert not held.done()
        b.let_go()
        await held
        assert ["late"] not in b.model.batches


async def test_a_stalled_lane_fails_what_it_holds_turns_health_and_is_replaced() -> None:
    async with bench() as b:
        held = await b.hold()
        b.minutes_pass()
        assert await outcome(held) == "LANE_LOST"
        assert b.health == [False]
        b.let_go()  # the replacement's probe may pass; the old thread is ignored
        assert name(await asyncio.wait_for(b.submit("after"), 10)) == "after"
        assert b.health == [False, True]


async def test_a_lane_whose_thread_dies_fails_what_it_holds_and_is_replaced() -> None:
    async with bench() as b:
        b.model.kill = {"deadly"}
        assert await outcome(b.submit("deadly")) == "LANE_LOST"
        assert name(await b.submit("after")) == "after"


async def test_when_every_spare_lane_is_lost_all_that_waits_fails_and_health_stays_down() -> None:
    async with bench(stall_timeout=0.1, spare_lanes=0) as b:
        held = await b.hold()
        waiting = b.submit("waits")
        assert await outcome(held) == "LANE_LOST"
        assert await outcome(waiting) == "LANE_LOST"
        assert await outcome(b.submit("later")) == "LANE_LOST"
        assert b.health == [False]


async def test_closing_answers_everyone() -> None:
    async with bench() as b:
        held = await b.hold()
        waiting = b.submit("waits")
        b.let_go()
        await b.scheduler.close()
        assert await outcome(waiting) == "DRAINING"
        assert await outcome(held) in ("held", "DRAINING")


async def test_an_unloaded_model_answers_those_who_wait() -> None:
    async with bench() as b:
        held = await b.hold()
        waiting = b.submit("waits")
        b.scheduler.remove_model("m@1")
        assert await outcome(waiting) == "MODEL_NOT_READY"
        b.let_go()
        assert await outcome(held) == "held"
        assert await outcome(b.submit("later")) == "MODEL_NOT_READY"


async def test_ten_thousand_random_cancellations_cost_nobody_else_an_answer() -> None:
    rng = np.random.default_rng(7)
    async with bench(lanes=2, buckets=(1, 2, 4, 8, 16, 32)) as b:

        async def caller(i: int) -> str:
            future = b.submit(i)
            if rng.random() < 0.5:
                for _ in range(rng.integers(0, 6)):
                    await asyncio.sleep(0)
                future.cancel()
            try:
                return name(await future)
            except asyncio.CancelledError:
                return "left"

        cancelled = 0
        for start in range(0, 20_000, 1000):
            answers = await asyncio.gather(*(caller(i) for i in range(start, start + 1000)))
            assert all(a in ("left", str(start + i)) for i, a in enumerate(answers))
            cancelled += answers.count("left")
        assert cancelled > 5_000
        assert b.scheduler.waiting == 0


async def test_a_deep_lane_is_given_the_next_batch_when_it_would_be_no_fuller_later() -> None:
    async with bench(depth=2, buckets=(1, 2, 4)) as b:
        b.model.gate.clear()
        running = [b.submit(i) for i in range(4)]
        await b.lane_started()
        few = [b.submit(i) for i in range(4, 6)]
        await asyncio.sleep(0)
        assert b.scheduler.waiting == 2
        more = [b.submit(i) for i in range(6, 10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert b.scheduler.waiting == 2  # four of the six went ahead
        b.let_go()
        answers = [name(d) for d in await asyncio.gather(*running, *few, *more)]
        assert answers == [str(i) for i in range(10)]


async def test_a_stalled_deep_lane_fails_both_of_its_batches() -> None:
    async with bench(depth=2, buckets=(1,)) as b:
        b.model.gate.clear()
        one, two = b.submit(1), b.submit(2)
        await b.lane_started()
        b.minutes_pass()
        assert await outcome(one) == "LANE_LOST"
        assert await outcome(two) == "LANE_LOST"
        b.let_go()
        assert name(await b.submit("after")) == "after"


async def test_an_error_in_the_owner_itself_answers_everyone_also_what_is_on_a_lane() -> None:
    async with bench() as b:
        held = await b.hold()
        waiting = b.submit("waits")
        broken = b.submit("broken", on_start=lambda: 1 / 0)
        b.let_go()
        assert await outcome(waiting) in ("waits", "LANE_LOST")
        assert await outcome(broken) == "LANE_LOST"
        assert await outcome(held) in ("held", "LANE_LOST")
        assert b.health == [False]
        with pytest.raises(Failure):
            await asyncio.wait_for(b.scheduler.run_alone("m@1", b.model, [(Prepared(1), ITEM)]), 5)


async def test_a_light_model_that_raises_is_charged_no_more_than_it_took() -> None:
    async with bench() as b:
        b.model.light = True
        b.model.poison = {"bad"}
        for data, end in (("bad", "DETECTOR_FAILED"), ("good", "good")):
            queued = b.submit(data, on_start=lambda: None)  # whoever wants to hear of the start is queued
            assert await outcome(queued) == end
        assert 0 <= b.scheduler.queues.models["m@1"].share.virtual < 1


@pytest.mark.parametrize("depth", [1, 2])
async def test_accounts_are_settled_for_everything_a_lost_lane_held(depth: int) -> None:
    async with bench(depth=depth, buckets=(1,)) as b:
        b.model.gate.clear()
        futures = [b.submit(i) for i in range(2)]
        await b.lane_started()
        b.minutes_pass()
        for future in futures[:depth]:
            assert await outcome(future) == "LANE_LOST"
        b.let_go()
        await outcome(futures[-1])
        assert await outcome(b.submit("after")) == "after"
        queue = b.scheduler.queues.models["m@1"]
        assert queue.share.running == 0
        assert not queue.running


async def test_accounts_are_settled_for_a_model_that_was_removed_while_it_ran() -> None:
    async with bench() as b:
        held = await b.hold()
        b.scheduler.remove_model("m@1")
        b.let_go()
        assert await outcome(held) == "held"
        b.scheduler.add_model("m@1", b.model, ModelTerms((1, 2)))
        assert await outcome(b.submit("again")) == "again"
        assert b.scheduler.queues.models["m@1"].share.running == 0


async def test_a_new_lane_that_fails_its_probe_is_not_sound() -> None:
    async with bench(spare_lanes=2) as b:
        held = await b.hold()
        b.model.poison = {"probe"}
        b.minutes_pass()
        assert await outcome(held) == "LANE_LOST"
        b.let_go()
        assert await outcome(b.submit("later")) == "LANE_LOST"
        assert b.health == [False]


async def test_a_finish_that_hangs_fails_what_it_holds_and_the_rest_goes_on() -> None:
    async with bench(finish_threads=2, buckets=(1,)) as b:
        release = threading.Event()
        finish = b.model.finish

        def sometimes(outputs: list[Any], items: Sequence[Item]) -> list[Output | Failure]:
            if outputs == ["hangs"]:
                release.wait(10)
            return finish(outputs, items)

        b.model.finish = sometimes  # type: ignore[method-assign]
        hanging = b.submit("hangs")
        assert await outcome(b.submit("fine")) == "fine"
        b.minutes_pass()
        assert await outcome(hanging) == "LANE_LOST"
        assert await outcome(b.submit("after")) == "after"
        release.set()


async def test_a_finish_that_comes_back_late_costs_no_thread() -> None:
    async with bench(finish_threads=2, buckets=(1,)) as b:
        finish = b.model.finish
        begun, release = threading.Semaphore(0), threading.Semaphore(0)

        def late(outputs: list[Any], items: Sequence[Item]) -> list[Output | Failure]:
            if outputs == ["late"]:
                begun.release()
                release.acquire(timeout=10)
            return finish(outputs, items)

        b.model.finish = late  # type: ignore[method-assign]
        for _ in range(3):  # more often than there are threads
            slow = b.submit("late")
            assert await asyncio.to_thread(begun.acquire, True, 10)
            b.minutes_pass()
            assert await outcome(slow) == "LANE_LOST"
            release.release()
            async with asyncio.timeout(10):
                while b.scheduler._dispatcher._finisher._begun:
                    await asyncio.sleep(0.001)
            assert await outcome(b.submit("after")) == "after"
        assert b.scheduler.healthy


async def test_when_every_thread_hangs_in_finish_all_is_over() -> None:
    async with bench(finish_threads=2, buckets=(1,)) as b:
        release = threading.Event()
        begun = threading.Semaphore(0)

        def never(outputs: list[Any], items: Sequence[Item]) -> list[Output | Failure]:
            begun.release()
            release.wait(10)
            return []

        b.model.finish = never  # type: ignore[method-assign]
        hanging = [b.submit(i) for i in range(2)]
        for _ in hanging:
            assert await asyncio.to_thread(begun.acquire, True, 10)
        b.minutes_pass()
        assert [await outcome(one) for one in hanging] == ["LANE_LOST"] * 2
        assert not b.scheduler.healthy
        release.set()


async def test_what_waits_for_a_slow_finish_is_bounded() -> None:
    async with bench(finish_threads=1, buckets=(1,)) as b:
        release = threading.Event()
        finish = b.model.finish

        def slow(outputs: list[Any], items: Sequence[Item]) -> list[Output | Failure]:
            release.wait(10)
            return finish(outputs, items)

        b.model.finish = slow  # type: ignore[method-assign]
        futures = [b.submit(i) for i in range(50)]
        for _ in range(4):
            await b.lane_started()
        await asyncio.sleep(0.05)
        assert b.scheduler.waiting >= 45
        release.set()
        assert [name(d) for d in await asyncio.gather(*futures)] == [str(i) for i in range(50)]
