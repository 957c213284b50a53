"""The loop's debug mode names what held the loop for too long, and nothing else."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from opsin_server.telemetry.loop_watch import LoopWatch, name_of, waits_in, watching


class Clock:
    """Goes on only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A watch of half a millisecond, what it reported, and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seen: list[tuple[str, float]] = []
        self.waits: list[str] = []
        self.watch = LoopWatch(0.0005, self._note, self.clock)

    def _note(self, callback: Callable[..., Any], seconds: float, _: float) -> None:
        self.seen.append((name_of(callback), seconds))
        self.waits.append(waits_in(callback))


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop])
def test_a_step_of_a_task_that_holds_the_loop_is_told_by_its_coroutines_name(factory: Any) -> None:
    watched = Watched()

    async def greedy() -> None:
        await asyncio.sleep(0)
        watched.clock.now += 0.002
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.create_task(greedy())

    with asyncio.Runner(loop_factory=watching(factory, watched.watch)) as runner:
        runner.run(main())
    assert [(name.rpartition(".")[2], round(seconds, 6)) for name, seconds in watched.seen] == [
        ("greedy", 0.002)
    ]


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop])
def test_timers_and_calls_from_other_threads_are_watched_too(factory: Any) -> None:
    watched = Watched()

    def hold(done: "asyncio.Future[None]") -> None:
        watched.clock.now += 0.001
        done.set_result(None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        loop.call_later(0.001, hold, first)
        await first
        await loop.run_in_executor(None, loop.call_soon_threadsafe, hold, second)
        await second

    with asyncio.Runner(loop_factory=watching(factory, watched.watch)) as runner:
        runner.run(main())
    assert [name.rpartition(".")[2] for name, _ in watched.seen] == ["hold", "hold"]


def test_what_stays_within_the_limit_is_not_told() -> None:
    watched = Watched()

    async def quick() -> None:
        watched.clock.now += 0.0005

    with asyncio.Runner(loop_factory=watching(None, watched.watch)) as runner:
        runner.run(quick())
    assert watched.seen == []


def test_a_callback_that_raises_is_told_and_raises() -> None:
    watched = Watched()

    def fails() -> None:
        watched.clock.now += 0.001
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        watched.watch.timed(fails)()
    assert len(watched.seen) == 1


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop])
def test_of_a_task_it_is_told_in_which_coroutine_it_went_on_to_wait(factory: Any) -> None:
    watched = Watched()

    async def inner(gate: "asyncio.Future[None]") -> None:
        watched.clock.now += 0.002
        await gate

    async def outer(gate: "asyncio.Future[None]") -> None:
        await inner(gate)
        watched.clock.now += 0.002

    async def main() -> None:
        gate = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(outer(gate))
        await asyncio.sleep(0)
        gate.set_result(None)
        await task

    with asyncio.Runner(loop_factory=watching(factory, watched.watch)) as runner:
        runner.run(main())
    assert [name.rpartition(".")[2] for name, _ in watched.seen] == ["outer", "outer"]
    assert [name.rpartition(".")[2] for name in watched.waits] == ["inner", ""]


def test_time_that_others_had_the_processor_is_told_apart() -> None:
    wall, own = Clock(), Clock()
    told: list[tuple[float, float]] = []

    def put_aside() -> None:
        wall.now += 0.005
        own.now += 0.001

    LoopWatch(0.0005, lambda _, seconds, busy: told.append((seconds, busy)), wall, own).timed(put_aside)()
    assert told == [(0.005, 0.001)]
