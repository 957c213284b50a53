"""The CPU pool answers every waiter, takes no more than it said, and outlives whoever leaves."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from opsin_server.errors import Failure, Reason
from opsin_server.media.pool import CpuPool, usable_cores


class Gate:
    """A job that holds its worker until it is opened, and tells when it began."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._began = threading.Event()

    def __call__(self) -> str:
        self._began.set()
        assert self._opened.wait(10)
        return "through"

    def open(self) -> None:
        self._opened.set()

    async def began(self) -> None:
        await asyncio.to_thread(self._began.wait, 10)


@pytest_asyncio.fixture
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[CpuPool]:
    pool = CpuPool(workers=1, max_queued=getattr(request, "param", 2))
    yield pool
    pool.close()


async def settle() -> None:
    """Let tasks run up to where they wait for another thread."""
    for _ in range(5):
        await asyncio.sleep(0)


async def counted(pool: CpuPool, jobs: int) -> None:
    """Wait until this many jobs have ended: a waiter that left gets no answer to wait for."""
    async with asyncio.timeout(10):
        while pool.stats().finished < jobs:
            await asyncio.sleep(0.001)


async def test_a_result_comes_back_from_another_thread(pool: CpuPool) -> None:
    assert await pool.run(lambda a, b: (a + b, threading.current_thread().name), 1, 2) == (3, "opsin-cpu-0")
    assert pool.stats().finished == 1


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (Failure(Reason.IMAGE_UNDECODABLE, "broken"), Failure),
        (KeyError("x"), KeyError),
        (StopIteration(1), RuntimeError),
        (SystemExit(1), RuntimeError),
        (asyncio.CancelledError(), RuntimeError),
    ],
)
async def test_an_exception_reaches_its_waiter_and_nobody_else(
    pool: CpuPool, error: BaseException, seen: type[Exception]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(seen):
        await pool.run(fail)
    assert await pool.run(str, 1) == "1"


async def test_jobs_beyond_the_bound_are_refused_with_a_time(pool: CpuPool) -> None:
    gate = Gate()
    running = asyncio.create_task(pool.run(gate))
    await gate.began()
    waiting = [asyncio.create_task(pool.run(str, n)) for n in range(2)]
    await settle()
    with pytest.raises(Failure) as caught:
        await pool.run(str, 3)
    assert caught.value.reason is Reason.QUEUE_FULL
    assert caught.value.retry_after
    stats = pool.stats()
    assert (stats.workers, stats.busy, stats.queued, stats.refused) == (1, 1, 2, 1)
    gate.open()
    assert await asyncio.gather(running, *waiting) == ["through", "0", "1"]
    assert (pool.stats().busy, pool.stats().queued) == (0, 0)


async def test_urgent_jobs_go_first_and_are_never_refused(pool: CpuPool) -> None:
    gate, order = Gate(), []
    running = asyncio.create_task(pool.run(gate))
    await gate.began()
    normal = [asyncio.create_task(pool.run(order.append, n)) for n in (1, 2)]
    await settle()
    urgent = [asyncio.create_task(pool.run(order.append, n, urgent=True)) for n in (-1, -2)]
    await settle()
    gate.open()
    await asyncio.gather(running, *normal, *urgent)
    assert order == [-1, -2, 1, 2]


@pytest.mark.parametrize("pool", [50], indirect=True)
async def test_a_caller_with_many_jobs_waiting_delays_another_by_one(pool: CpuPool) -> None:
    gate, order = Gate(), []
    running = asyncio.create_task(pool.run(gate))
    await gate.began()
    greedy = [asyncio.create_task(pool.run(order.append, n, flow="greedy")) for n in range(9)]
    await settle()
    polite = asyncio.create_task(pool.run(order.append, "polite", flow="polite"))
    await settle()
    gate.open()
    await asyncio.gather(running, polite, *greedy)
    assert order == [0, "polite", *range(1, 9)]


@pytest.mark.parametrize("pool", [50], indirect=True)
async def test_patient_jobs_come_fourth_at_the_latest(pool: CpuPool) -> None:
    gate, order = Gate(), []
    running = asyncio.create_task(pool.run(gate))
    await gate.began()
    patient = [asyncio.create_task(pool.run(order.append, -n, patient=True)) for n in (1, 2)]
    await settle()
    others = [asyncio.create_task(pool.run(order.append, n)) for n in range(8)]
    await settle()
    gate.open()
    await asyncio.gather(running, *patient, *others)
    assert order == [0, 1, 2, -1, 3, 4, 5, -2, 6, 7]


async def test_a_job_whose_waiter_left_never_begins_and_frees_its_place(pool: CpuPool) -> None:
    gate, ran = Gate(), []
    running = asyncio.create_task(pool.run(gate))
    await gate.began()
    leaver, stayer = (asyncio.create_task(pool.run(ran.append, n)) for n in (1, 2))
    await settle()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert pool.stats().queued == 1
    assert pool.stats().skipped == 1
    latecomer = asyncio.create_task(pool.run(ran.append, 3))
    await settle()
    gate.open()
    await asyncio.gather(running, stayer, latecomer)
    assert ran == [2, 3]


async def test_a_waiter_that_leaves_a_running_job_breaks_nothing(pool: CpuPool) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    gate = Gate()
    leaver = asyncio.create_task(pool.run(gate))
    await gate.began()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    gate.open()
    assert await pool.run(str, 1) == "1"
    assert pool.stats().skipped == 0
    assert pool.stats().finished == 2
    assert not complaints


async def test_a_storm_of_cancellations_loses_no_other_answer() -> None:
    pool = CpuPool(workers=4, max_queued=10_000)
    tasks = [asyncio.create_task(pool.run(lambda n: n, n)) for n in range(3000)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for n, result in enumerate(results):
        assert result == n or (n % 3 == 0 and isinstance(result, asyncio.CancelledError))
    stats = pool.stats()
    assert stats.queued == 0
    await counted(pool, 3000 - stats.skipped)
    pool.close()


async def test_closing_fails_who_waits_and_lets_who_runs_finish(pool: CpuPool) -> None:
    gate = Gate()
    running = asyncio.create_task(pool.run(gate))
    await gate.began()
    waiting = asyncio.create_task(pool.run(str, 1))
    await settle()
    pool.close(timeout=0)
    for attempt in (waiting, pool.run(str, 2), pool.run(str, 3, urgent=True)):
        with pytest.raises(Failure) as caught:
            await attempt
        assert caught.value.reason is Reason.DRAINING
    gate.open()
    assert await running == "through"


async def test_closing_ends_the_threads() -> None:
    before = set(threading.enumerate())
    pool = CpuPool(workers=3)
    workers = set(threading.enumerate()) - before
    assert len(workers) == 3
    await pool.run(str, 1)
    pool.close()
    pool.close()
    assert not any(worker.is_alive() for worker in workers)


def test_a_loop_that_ended_before_the_answer_does_not_kill_the_worker() -> None:
    pool, gate = CpuPool(workers=1), Gate()

    async def leave() -> None:
        task = asyncio.create_task(pool.run(gate))
        await gate.began()
        task.cancel()

    async def come_back() -> str:
        return await pool.run(str, 1)

    asyncio.run(leave())
    gate.open()
    assert asyncio.run(come_back()) == "1"
    pool.close()


async def test_an_idle_pool_holds_on_to_nothing(pool: CpuPool) -> None:
    class Picture:
        pass

    picture = Picture()
    kept = weakref.ref(picture)
    await pool.run(lambda seen: seen, picture)
    del picture
    async with asyncio.timeout(10):
        while kept() is not None:  # until the worker is back at its queue
            gc.collect()
            await asyncio.sleep(0.001)


def test_without_a_number_there_are_as_many_threads_as_cores_but_two_at_least() -> None:
    pool = CpuPool()
    assert pool.stats().workers == max(2, usable_cores())
    pool.close()
