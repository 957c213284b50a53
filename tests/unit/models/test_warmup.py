"""A model serves at the sizes that pay, and they are found by running them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from opsin_server.models.warmup import RUNS, between, candidate_sizes, warm_up


class Device:
    """Runs batches in no time, and says what they would have taken."""

    def __init__(self, fixed: float, each: float) -> None:
        self.fixed, self.each = fixed, each
        self.ran: list[int] = []

    async def run(self, pairs: Sequence[Any]) -> float:
        self.ran.append(len(pairs))
        return self.fixed + self.each * len(pairs)


def model(device: str) -> Any:
    return SimpleNamespace(info=SimpleNamespace(device=device))


PAIR: Any = ("prepared", "item")


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_sizes_double_up_to_the_largest(largest: int, sizes: list[int]) -> None:
    assert candidate_sizes(largest) == sizes


def test_a_size_lies_in_the_middle_of_each_doubling() -> None:
    assert between([1, 2, 4, 8, 12]) == [3, 6]


async def test_on_a_cpu_sizes_end_where_batching_stops_paying() -> None:
    flat = Device(fixed=0.0, each=0.04)
    assert list(await warm_up(model("cpu"), PAIR, flat.run, largest=32)) == [1]
    steep = Device(fixed=0.1, each=0.001)
    assert list(await warm_up(model("cpu"), PAIR, steep.run, largest=8)) == [1, 2, 3, 4, 6, 8]


async def test_on_a_gpu_every_size_is_warm() -> None:
    flat = Device(fixed=0.0, each=0.04)
    assert list(await warm_up(model("cuda"), PAIR, flat.run, largest=4)) == [1, 2, 3, 4]


async def test_the_first_run_of_a_size_is_not_its_measurement() -> None:
    device = Device(fixed=0.1, each=0.001)
    measured = await warm_up(model("cpu"), PAIR, device.run, largest=2)
    assert device.ran == [1] * RUNS + [2] * RUNS
    assert all(len(runs) == RUNS - 1 for runs in measured.values())
