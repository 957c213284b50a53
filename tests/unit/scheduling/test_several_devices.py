"""Several devices, one queue: all of them work, and what one breaks another puts right."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from opsin_detectors.api import Item, Label, Options, Output, Prepared, Task
from opsin_server.errors import Failure, Reason
from opsin_server.scheduling.batch import Done
from opsin_server.scheduling.fleet import STRIKES
from opsin_server.scheduling.lanes import DEVICE
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.scheduler import Scheduler, SchedulerOptions

ITEM = Item(Task.CLASSIFY_TEXT, Options(), None, 0, 0)


class Model:
    """Answers with the device that it ran on. Devices and inputs can be broken, and each device held."""

    def __init__(self, devices: Sequence[str], *, light: bool = False, everywhere: bool = True) -> None:
        self.light, self.everywhere = light, everywhere
        self.ran: list[tuple[str, list[Any]]] = []
        self.began = {device: threading.Semaphore(0) for device in devices}
        self.gates = {device: threading.Event() for device in devices}
        self.broken: dict[str, BaseException] = {}
        self.room: dict[str, int] = {}
        self.poison: set[Any] = set()
        self.deadly: Any = None
        for gate in self.gates.values():
            gate.set()

    def launch(self, prepared: Sequence[Prepared], local: dict[str, object]) -> list[str]:
        device, data = str(local[DEVICE]), [p.data for p in prepared]
        self.ran.append((device, data))
        self.began[device].release()
        self.gates[device].wait(20)
        if device in self.broken:
            raise self.broken[device]
        if len(data) > self.room.get(device, len(data)):
            raise RuntimeError("CUDA out of memory")
        if self.deadly in data:
            raise SystemExit
        if self.poison & set(data):
            raise ValueError("poison")
        return [device] * len(data)

    def collect(self, launched: list[str], local: dict[str, object]) -> list[str]:
        return launched

    def finish(self, outputs: list[str], items: Sequence[Item]) -> list[Output | Failure]:
        return [Output(labels=(Label(device, 1.0),)) for device in outputs]


class Bench:
    """A scheduler with one model on each device."""

    def __init__(self, scheduler: Scheduler, model: Model, seen: "Seen") -> None:
        self.scheduler, self.model, self.seen = scheduler, model, seen

    def submit(self, data: Any = "one", model: str = "m@1") -> asyncio.Future[Done]:
        return self.scheduler.submit(model, Prepared(data), ITEM, flow="test")

    def add(self, key: str, **what: bool) -> Model:
        """One more model."""
        model = Model(tuple(self.model.gates), **what)
        self.scheduler.add_model(key, model, ModelTerms((1,)))
        return model

    async def outcome(self, future: asyncio.Future[Done]) -> str:
        """Where it was answered, or why it was not."""
        try:
            return (await asyncio.wait_for(future, 20)).output.labels[0].name
        except Failure as failure:
            return failure.reason.name

    def minutes_pass(self) -> None:
        """For what is on the lanes, and the watch looks at them."""
        dispatcher = self.scheduler._dispatcher
        for lane in dispatcher.fleet._lanes:
            lane.since -= 600
        dispatcher._guard(dispatcher._look_for_stalls)

    async def began(self, device: str) -> None:
        assert await asyncio.to_thread(self.model.began[device].acquire, True, 20)

    async def break_down(self, device: str, times: int) -> list[str]:
        """Make the device fail, and give it so many batches while no other is free to take them."""
        (other,) = set(self.model.gates) - {device}
        self.model.broken[device] = RuntimeError("CUDA error: device-side assert triggered")
        answers = []
        for _ in range(times):
            self.model.gates[other].clear()
            holding = self.submit("held")
            second = self.submit("second")
            await self.began(other)
            await self.began(device)
            self.model.gates[other].set()
            answers += [await self.outcome(holding), await self.outcome(second)]
            self.model.began[other] = threading.Semaphore(0)
            self.model.began[device] = threading.Semaphore(0)
        return answers


class Seen:
    """An observer."""

    def __init__(self) -> None:
        self.devices: list[str] = []
        self.health: list[bool] = []

    def ticket_arrived(self, ticket: Any) -> None: ...

    def ticket_ended(self, model: str, end: Any) -> None: ...

    def batch_ran(self, model: str, size: int, seconds: float, *, again: bool, device: str) -> None:
        self.devices.append(device)


@asynccontextmanager
async def bench(
    *devices: str, lanes: int = 1, buckets: tuple[int, ...] = (1,), **options: Any
) -> AsyncGenerator[Bench]:
    model, seen = Model(devices), Seen()
    terms = SchedulerOptions(lanes=lanes, device="+".join(devices), devices=devices, **options)
    scheduler = Scheduler(terms, observer=seen, on_health=seen.health.append)
    scheduler.add_model("m@1", model, ModelTerms(buckets), probe=(Prepared("probe"), ITEM))
    try:
        yield Bench(scheduler, model, seen)
    finally:
        for gate in model.gates.values():
            gate.set()
        await scheduler.close()


async def test_every_device_takes_work_from_the_one_queue() -> None:
    async with bench("a", "b", "c", lanes=2) as place:
        for gate in place.model.gates.values():
            gate.clear()
        futures = [place.submit(n) for n in range(6)]
        for device in "abcabc":
            await place.began(device)
        for gate in place.model.gates.values():
            gate.set()
        assert sorted([await place.outcome(future) for future in futures]) == [*"aabbcc"]
        assert sorted(place.seen.devices) == [*"aabbcc"]
        assert place.scheduler.lanes == 6
        assert [place.scheduler.lanes_on(device) for device in place.scheduler.devices] == [2, 2, 2]


async def test_what_a_broken_device_fails_another_answers() -> None:
    async with bench("a", "b", buckets=(1, 2, 4)) as place:
        place.model.broken["a"] = RuntimeError("CUDA error: unspecified launch failure")
        futures = [place.submit(n) for n in range(40)]
        assert {await place.outcome(future) for future in futures} == {"b"}


async def test_a_device_that_keeps_failing_what_others_answer_gets_no_more() -> None:
    async with bench("a", "b") as place:
        answers = await place.break_down("a", STRIKES)
        assert set(answers) == {"b"}
        assert place.scheduler.devices_in_use == ("b",)
        assert [place.scheduler.lanes_on(device) for device in "ab"] == [0, 1]
        place.model.ran.clear()
        assert {await place.outcome(place.submit(n)) for n in range(20)} == {"b"}
        assert {device for device, _ in place.model.ran} == {"b"}
        assert place.scheduler.healthy
        assert place.seen.health == []


async def test_a_device_that_fails_now_and_then_is_kept() -> None:
    async with bench("a", "b") as place:
        for _ in range(STRIKES):
            await place.break_down("a", STRIKES - 1)
            place.model.broken.clear()
            await place.scheduler.run_alone("m@1", place.model, [(Prepared("x"), ITEM)], device="a")
            place.model.gates["b"].clear()
            held = [place.submit(n) for n in range(2)]
            await place.began("b")
            await place.began("a")
            place.model.gates["b"].set()
            assert {await place.outcome(future) for future in held} == {"a", "b"}
            place.model.began = {device: threading.Semaphore(0) for device in "ab"}
        assert place.scheduler.devices_in_use == ("a", "b")


async def test_the_last_device_is_never_given_up() -> None:
    async with bench("a", "b") as place:
        await place.break_down("a", STRIKES)
        place.model.broken["b"] = RuntimeError("CUDA error")
        for _ in range(2 * STRIKES):
            assert await place.outcome(place.submit()) == Reason.DETECTOR_FAILED.name
        assert place.scheduler.devices_in_use == ("b",)
        place.model.broken.clear()
        assert await place.outcome(place.submit()) == "b"


async def test_poison_fails_alone_and_is_no_devices_fault() -> None:
    async with bench("a", "b", buckets=(1, 2, 4, 8)) as place:
        place.model.poison.add(5)
        for _ in range(2 * STRIKES):
            futures = [place.submit(n) for n in range(8)]
            ends = [await place.outcome(future) for future in futures]
            assert ends[5] == Reason.DETECTOR_FAILED.name
            assert set(ends[:5] + ends[6:]) <= {"a", "b"}
        assert place.scheduler.devices_in_use == ("a", "b")


async def test_a_batch_too_large_for_one_device_is_halved_and_that_is_no_devices_fault() -> None:
    async with bench("a", "b", buckets=(1, 2, 4)) as place:
        place.model.room["a"] = 2
        while place.scheduler.terms("m@1").buckets[-1] > 2:  # until it was given one
            futures = [place.submit(n) for n in range(16)]
            assert {await place.outcome(future) for future in futures} <= {"a", "b"}
            assert place.scheduler.devices_in_use == ("a", "b")


async def test_one_input_for_which_a_device_has_no_memory_is_answered_by_another() -> None:
    async with bench("a", "b") as place:
        place.model.room["a"] = 0
        futures = [place.submit(n) for n in range(10)]
        assert {await place.outcome(future) for future in futures} == {"b"}


async def test_a_device_that_hangs_does_not_hold_up_the_other() -> None:
    async with bench("a", "b", spare_lanes=0) as place:
        place.model.gates["a"].clear()
        futures = [place.submit(n) for n in range(10)]
        await place.began("a")
        async with asyncio.timeout(20):
            while sum(future.done() for future in futures) < 9:
                await asyncio.sleep(0.001)
        place.minutes_pass()
        ends = [await place.outcome(future) for future in futures]
        assert ends.count("b") == 9
        assert ends.count("a") == 0
        assert place.scheduler.lanes_on("a") == 0
        assert place.scheduler.healthy
        assert await place.outcome(place.submit()) == "b"


async def test_lanes_that_one_device_loses_are_not_the_others() -> None:
    async with bench("a", "b", spare_lanes=1) as place:
        place.model.broken["a"] = SystemExit()
        while place.scheduler.lanes_on("a"):  # the lane, and the one that took its place
            await asyncio.gather(*(place.outcome(place.submit(n)) for n in range(4)))
        assert await place.outcome(place.submit("b")) == "b"
        place.model.deadly = "deadly"
        assert await place.outcome(place.submit("deadly")) == Reason.LANE_LOST.name
        assert place.scheduler.lanes_on("b") == 1
        assert await place.outcome(place.submit()) == "b"


async def test_a_warm_up_runs_on_the_device_that_it_is_for() -> None:
    async with bench("a", "b", "c") as place:
        for device in "cabcba":
            await place.scheduler.run_alone("m@1", place.model, [(Prepared(device), ITEM)], device=device)
        assert place.model.ran == [(device, [device]) for device in "cabcba"]


async def test_a_warm_up_for_a_device_that_was_given_up_runs_on_another() -> None:
    async with bench("a", "b") as place:
        await place.break_down("a", STRIKES)
        place.model.ran.clear()
        await place.scheduler.run_alone("m@1", place.model, [(Prepared("x"), ITEM)], device="a")
        assert place.model.ran == [("b", ["x"])]


async def test_what_a_model_on_a_device_of_its_own_fails_is_not_run_there_again_for_another_lane() -> None:
    async with bench("a", "b") as place:
        own = place.add("own@1", everywhere=False)
        own.poison.add("bad")
        assert await place.outcome(place.submit("bad", "own@1")) == Reason.DETECTOR_FAILED.name
        assert [data for _, data in own.ran] == [["bad"]]


async def test_a_model_on_a_device_of_its_own_does_not_speak_for_the_devices_of_the_lanes() -> None:
    async with bench("a", "b") as place:
        place.add("own@1", everywhere=False)
        await place.break_down("a", STRIKES - 1)
        place.model.gates["b"].clear()
        held = place.submit("held")
        await place.began("b")
        assert await place.outcome(place.submit("fine", "own@1")) == "a", "on the lane of a, not on a"
        place.model.gates["b"].set()
        await place.outcome(held)
        place.model.began["b"] = threading.Semaphore(0)
        await place.break_down("a", 1)
        assert place.scheduler.devices_in_use == ("b",)


async def test_a_light_model_that_finds_a_device_out_keeps_the_next_batch_from_it() -> None:
    async with bench("a", "b") as place:
        light = place.add("light@1", light=True)
        light.broken["a"] = RuntimeError("CUDA error: device-side assert triggered")
        for _ in range(STRIKES - 1):
            assert await place.outcome(place.submit("light", "light@1")) == "b"
        last = place.submit("light", "light@1")  # failed on a; settled on b in the step that fills all lanes
        futures = [last, *(place.submit(n) for n in range(4))]
        assert {await place.outcome(future) for future in futures} == {"b"}
        assert {device for device, _ in place.model.ran} == {"b"}
        assert place.scheduler.devices_in_use == ("b",)
