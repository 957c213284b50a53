"""A model serves at the sizes that pay, and they are found by running them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from opsin_detectors.api import Input, Prepared, Task, TextInput
from opsin_server.models.warmup import LONG, RUNS, between, candidate_sizes, examples, touch, warm_up


class Device:
    """Runs batches in no time, and says what they would have taken. It has memory for batches of `room`."""

    def __init__(self, fixed: float, each: float, room: int = 1000) -> None:
        self.fixed, self.each, self.room = fixed, each, room
        self.ran: list[int] = []

    async def run(self, pairs: Sequence[Any]) -> float:
        if len(pairs) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.ran.append(len(pairs))
        return self.fixed + self.each * len(pairs)


def model(device: str) -> Any:
    return SimpleNamespace(key="m@1", info=SimpleNamespace(device=device))


PAIR: Any = (Prepared("data", shape=16), "item")


async def sizes(of: Any, device: Device, largest: int) -> list[int]:
    return list((await warm_up(of, PAIR, device.run, largest=largest)).seconds)


@pytest.mark.parametrize(("largest", "expected"), [(1, [1]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_sizes_double_up_to_the_largest(largest: int, expected: list[int]) -> None:
    assert candidate_sizes(largest) == expected


def test_a_size_lies_in_the_middle_of_each_doubling() -> None:
    assert between([1, 2, 4, 8, 12]) == [3, 6]


async def test_on_a_cpu_sizes_end_where_batching_stops_paying() -> None:
    flat = Device(fixed=0.0, each=0.2)
    assert await sizes(model("cpu"), flat, 32) == [1]
    steep = Device(fixed=0.1, each=0.001)
    assert await sizes(model("cpu"), steep, 8) == [1, 2, 3, 4, 6, 8]


async def test_small_batches_need_not_pay_on_a_cpu_where_only_one_lane_is_at_work() -> None:
    flat = Device(fixed=0.0, each=0.04)
    assert await sizes(model("cpu"), flat, 32) == [1, 2, 3, 4]
    assert 8 not in flat.ran
    slower = Device(fixed=0.0, each=0.1)
    assert await sizes(model("cpu"), slower, 32) == [1, 2]
    narrow = Device(fixed=0.0, each=0.04)
    assert await sizes(model("cpu"), narrow, 3) == [1, 2, 3]


async def test_a_quick_model_on_a_cpu_is_worth_batching_for_what_batches_cost_beside_their_run() -> None:
    quick = Device(fixed=0.0, each=0.008)
    assert 2 in await sizes(model("cpu"), quick, 32)


async def test_on_a_gpu_every_size_is_warm() -> None:
    flat = Device(fixed=0.0, each=0.04)
    assert await sizes(model("cuda"), flat, 4) == [1, 2, 3, 4]


async def test_the_first_run_of_a_size_is_not_its_measurement() -> None:
    device = Device(fixed=0.1, each=0.001)
    measured = await warm_up(model("cpu"), PAIR, device.run, largest=2)
    assert device.ran == [1] * RUNS + [2] * RUNS
    assert all(len(runs) == RUNS - 1 for runs in measured.seconds.values())


async def test_sizes_end_before_the_one_there_is_no_memory_for() -> None:
    small = Device(fixed=0.1, each=0.001, room=20)
    warmth = await warm_up(model("cuda"), PAIR, small.run, largest=64)
    assert list(warmth.seconds) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert warmth.fits == 16


async def test_without_memory_for_a_single_input_warming_up_fails() -> None:
    full = Device(fixed=0.1, each=0.001, room=0)
    with pytest.raises(RuntimeError, match="out of memory"):
        await warm_up(model("cuda"), PAIR, full.run, largest=64)


async def test_what_is_not_about_memory_fails_at_any_size() -> None:
    async def broken(pairs: Sequence[Any]) -> float:
        if len(pairs) > 2:
            raise RuntimeError("shapes do not match")
        return 0.1

    with pytest.raises(RuntimeError, match="shapes"):
        await warm_up(model("cuda"), PAIR, broken, largest=64)


class Reader:
    """Reads texts; those of one length share a batch."""

    def __init__(self, *offered: str) -> None:
        self._offered = offered

    def prepare(self, source: Any, task: Task, options: Any) -> Prepared:
        return Prepared(source.text, shape=len(source.text))

    def examples(self, task: Task) -> Sequence[Input]:
        return [TextInput(text) for text in self._offered]


def reading(detector: Any) -> Any:
    return SimpleNamespace(key="m@1", detector=detector, info=SimpleNamespace(defaults=None))


def test_one_example_of_each_shape_is_warmed_and_the_typical_one_comes_first() -> None:
    found = examples(reading(Reader("typical", "a", "b", "as long", "longer yet")), Task.EMBED_TEXT)

    assert [pair[0].data for pair in found] == ["typical", "a", "longer yet"]


def test_a_detector_that_offers_one_example_only_is_warmed_with_that() -> None:
    old: Any = SimpleNamespace(
        example=lambda task: TextInput("old"), prepare=lambda source, task, options: Prepared(source.text)
    )

    assert [pair[0].data for pair in examples(reading(old), Task.EMBED_TEXT)] == ["old"]


async def test_another_shape_is_run_once_at_each_size() -> None:
    quick = Device(fixed=0.0, each=LONG / 100)

    assert await touch(model("cuda"), PAIR, quick.run, [1, 2, 3, 4]) == 4
    assert quick.ran == [1, 2, 3, 4]


async def test_another_shape_that_takes_long_does_not_hold_up_the_start() -> None:
    slow = Device(fixed=0.0, each=LONG * 0.6)

    assert await touch(model("cpu"), PAIR, slow.run, [1, 2, 4, 8]) == 8
    assert slow.ran == [1, 2]


@pytest.mark.parametrize(("room", "fits"), [(5, 4), (0, 1)])
async def test_sizes_end_where_another_shape_has_no_memory(room: int, fits: int) -> None:
    small = Device(fixed=0.0, each=0.001, room=room)

    assert await touch(model("cuda"), PAIR, small.run, [1, 2, 4, 8]) == fits


async def test_another_shape_that_fails_otherwise_fails_the_start() -> None:
    async def broken(pairs: Sequence[Any]) -> float:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        await touch(model("cuda"), PAIR, broken, [1])
