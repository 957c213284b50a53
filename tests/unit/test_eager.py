"""Coroutines that begin at once: what is done when `begin` returns, and that the rest is a task like any."""

import asyncio

import pytest

from opsin_server.eager import begin


async def test_what_waits_for_nothing_has_ended_when_begin_returns() -> None:
    told: list[str] = []

    async def work() -> None:
        told.append("done")

    tasks = asyncio.all_tasks()
    assert begin(work()) is None
    assert told == ["done"]
    assert asyncio.all_tasks() == tasks


async def test_what_waits_carries_on_in_a_task_from_where_it_waited() -> None:
    told: list[object] = []
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    second: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        told.append("begun")
        told.append(await first)
        await asyncio.sleep(0)
        told.append(await second)

    task = begin(work())
    assert task is not None
    assert told == ["begun"]
    first.set_result("first")
    second.set_result("second")
    await task
    assert told == ["begun", "first", "second"]


async def test_an_exception_before_the_first_wait_is_the_callers() -> None:
    async def work() -> None:
        raise KeyError("early")

    with pytest.raises(KeyError, match="early"):
        begin(work())


async def test_an_exception_after_the_first_wait_is_the_tasks() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        with pytest.raises(KeyError):
            await gate
        raise IndexError("late")

    task = begin(work())
    assert task is not None
    gate.set_exception(KeyError())
    with pytest.raises(IndexError, match="late"):
        await task


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_cancelling_the_task_takes_out_what_it_waits_for(turns: int) -> None:
    gates: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
    ended: list[str] = []

    async def work() -> None:
        try:
            for gate in gates:
                await gate
        finally:
            ended.append("ended")

    task = begin(work())
    assert task is not None
    if turns == 2:
        gates[0].set_result(None)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["ended"]
    assert gates[-1].cancelled() or turns < 2


async def test_a_cancellation_that_is_caught_ends_nothing() -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            told.append("tidied up")

    told: list[str] = []
    task = begin(work())
    assert task is not None
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert told == ["tidied up"]


async def test_until_it_waits_it_is_nobodys_task_and_from_then_on_its_own() -> None:
    seen: list[asyncio.Task[object] | None] = []

    async def work() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    caller = asyncio.current_task()
    task = begin(work())
    assert task is not None
    assert asyncio.current_task() is caller
    await task
    assert seen == [None, task]


async def test_a_timeout_that_would_be_the_callers_is_refused() -> None:
    async def work() -> None:
        async with asyncio.timeout(1):
            pass

    with pytest.raises(RuntimeError):
        begin(work())


async def test_it_begins_from_a_callback_too_where_there_is_no_task() -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    async def work() -> None:
        told.set()

    loop.call_soon(lambda: begin(work()))
    async with asyncio.timeout(10):
        await told.wait()
