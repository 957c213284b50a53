"""Work that nobody waits for: it runs alone, only when nothing else would, and costs nobody anything."""

import asyncio

import pytest

from unit.scheduling.test_scheduler import Bench, bench, name, outcome


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def free(b: Bench, lanes: int = 1) -> None:
    """Until so many lanes have nothing to do."""
    async with asyncio.timeout(10):
        while len(b.scheduler._dispatcher.fleet.idle) < lanes:
            await asyncio.sleep(0.001)


async def test_an_idle_device_runs_it_at_once() -> None:
    async with bench() as b:
        assert name(await b.submit("copy", when_idle=True)) == "copy"


async def test_everything_that_waits_goes_first_whatever_came_earlier() -> None:
    async with bench(buckets=(1, 2)) as b:
        held = await b.hold()
        copies = [b.submit(f"copy {n}", when_idle=True) for n in range(2)]
        real = [b.submit(n) for n in range(6)]
        b.let_go()
        await asyncio.gather(held, *real, *copies)
        ran = [data for batch in b.model.batches for data in batch]
        assert sorted(map(str, ran[1:7])) == [str(n) for n in range(6)]
        assert b.model.batches[-2:] == [["copy 0"], ["copy 1"]]


async def test_copies_run_one_at_a_time_and_never_beside_a_callers_input() -> None:
    async with bench() as b:
        held = await b.hold()
        copies = [b.submit(f"copy {n}", when_idle=True) for n in range(3)]
        b.let_go()
        await asyncio.gather(held, *copies)
        assert b.model.batches[1:] == [["copy 0"], ["copy 1"], ["copy 2"]]


async def test_a_callers_input_that_comes_meanwhile_overtakes_the_copies_that_wait() -> None:
    async with bench() as b:
        b.model.gate.clear()
        copies = [b.submit(f"copy {n}", when_idle=True) for n in range(3)]
        await b.lane_started()
        real = b.submit("real")
        await settle()
        b.let_go()
        await asyncio.gather(real, *copies)
        assert b.model.batches == [["copy 0"], ["real"], ["copy 1"], ["copy 2"]]


async def test_of_several_lanes_one_is_left_free() -> None:
    async with bench(lanes=2) as b:
        b.model.gate.clear()
        copies = [b.submit(f"copy {n}", when_idle=True) for n in range(4)]
        await b.lane_started()
        await settle()
        assert b.model.batches == [["copy 0"]]
        real = b.submit("real")
        await b.lane_started()
        assert b.model.batches == [["copy 0"], ["real"]]
        b.let_go()
        assert name(await real) == "real"
        await asyncio.gather(*copies)


async def test_it_counts_nowhere_as_work_that_waits() -> None:
    async with bench() as b:
        held = await b.hold()
        copies = [b.submit(n, when_idle=True) for n in range(50)]
        await settle()
        assert b.scheduler.waiting == 0
        assert b.scheduler.backlog_seconds() == 0
        assert b.scheduler.queues.waiting("m@1") == 0
        for copy in copies:
            copy.cancel()
        b.let_go()
        await held


async def test_its_model_is_not_charged_for_it() -> None:
    async with bench() as b:
        await b.submit("real")
        share = b.scheduler.queues.models["m@1"].share
        before = share.virtual
        for n in range(5):
            await b.submit(n, when_idle=True)
        assert share.virtual == before
        assert share.idle


@pytest.mark.parametrize("end", ["cancelled", "too late", "unloaded", "closed"])
async def test_whatever_ends_it_before_it_runs_it_does_not_run(end: str) -> None:
    async with bench() as b:
        held = await b.hold()
        deadline = asyncio.get_running_loop().time() + 0.02 if end == "too late" else float("inf")
        copy = b.submit("copy", when_idle=True, deadline=deadline)
        await settle()
        match end:
            case "cancelled":
                copy.cancel()
            case "too late":
                assert await outcome(copy) == "DEADLINE_PASSED"
            case "unloaded":
                b.scheduler.remove_model("m@1")
                assert await outcome(copy) == "MODEL_NOT_READY"
            case _:
                b.let_go()
                await b.scheduler.close()
                assert await outcome(copy) == "DRAINING"
                assert ["copy"] not in b.model.batches
                return
        b.let_go()
        await held
        await free(b)
        assert ["copy"] not in b.model.batches


async def test_a_copy_that_breaks_its_batch_fails_alone() -> None:
    async with bench() as b:
        b.model.poison = {"bad"}
        assert await outcome(b.submit("bad", when_idle=True)) == "DETECTOR_FAILED"
        assert name(await b.submit("after")) == "after"
