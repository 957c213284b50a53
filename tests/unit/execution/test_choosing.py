"""Which way to run a network is chosen: only what is faster than the baseline everywhere, fastest first."""

from collections.abc import Callable

import pytest

from opsin_detectors.execution.measure import measure
from opsin_detectors.execution.plan import BASELINE, Hardware, Plan, candidates, faster, told

BF16 = Plan("channels_last", "bfloat16")
GRAPH = Plan("openvino")


def test_the_baseline_is_always_the_first_candidate() -> None:
    for hardware in (Hardware(), Hardware("cuda", bf16=True), Hardware("cuda")):
        assert candidates(hardware, exportable=True)[0] == BASELINE


def test_bfloat16_is_tried_only_where_the_processor_has_it() -> None:
    assert BF16 not in candidates(Hardware(), exportable=True)
    assert BF16 in candidates(Hardware(bf16=True), exportable=True)


def test_other_runtimes_are_tried_only_where_they_are_installed_and_the_network_can_be_exported() -> None:
    here = Hardware(installed=frozenset({"openvino", "onnxruntime"}))
    assert {plan.runtime for plan in candidates(here, exportable=True)} > {"openvino", "onnxruntime"}
    assert {plan.runtime for plan in candidates(here, exportable=False)} == {"eager", "channels_last"}
    assert {plan.runtime for plan in candidates(Hardware(), exportable=True)} == {"eager", "channels_last"}


def test_a_gpu_is_offered_graphs_and_compiling_in_the_type_of_its_tensor_cores() -> None:
    plans = candidates(Hardware("cuda", fp16=True), exportable=True)
    assert Plan("cuda_graphs", "float16") in plans
    assert Plan("compile", "float16") in plans
    assert all(plan.dtype != "bfloat16" for plan in plans)


@pytest.mark.parametrize(
    ("runtime", "dtype", "plan"),
    [
        ("auto", "auto", None),
        ("auto", "bfloat16", BF16),
        ("auto", "int8", Plan("openvino", "int8")),
        ("eager", "auto", BASELINE),
        ("openvino", "bfloat16", Plan("openvino", "bfloat16")),
    ],
)
def test_what_is_told_is_obeyed(runtime: str, dtype: str, plan: Plan | None) -> None:
    assert told(runtime, dtype) == plan


def test_nothing_that_is_not_clearly_faster_is_chosen() -> None:
    assert faster({BASELINE: {1: 1.0, 4: 3.0}, BF16: {1: 0.97, 4: 2.9}}) == []


def test_what_is_slower_at_any_size_is_not_chosen_however_fast_at_another() -> None:
    assert faster({BASELINE: {1: 1.0, 4: 3.0}, BF16: {1: 1.2, 4: 0.5}}) == []


def test_the_fastest_comes_first() -> None:
    times = {BASELINE: {1: 1.0, 4: 3.0}, BF16: {1: 0.6, 4: 1.8}, GRAPH: {1: 0.5, 4: 1.6}}
    assert faster(times) == [GRAPH, BF16]


def test_what_was_given_up_after_one_size_is_compared_at_that_size() -> None:
    assert faster({BASELINE: {1: 1.0, 4: 3.0}, BF16: {1: 0.5}}) == [BF16]


class Machine:
    """A clock that goes on by what each way takes, and a note of what ran."""

    def __init__(self, seconds: dict[Plan, float]) -> None:
        self.now = 0.0
        self.ran: list[tuple[Plan, int]] = []
        self.runs: dict[Plan, Callable[[int], None]] = {
            plan: self._runner(plan, one) for plan, one in seconds.items()
        }

    def _runner(self, plan: Plan, seconds: float) -> Callable[[int], None]:
        def run(size: int) -> None:
            self.ran.append((plan, size))
            self.now += seconds * size

        return run

    def clock(self) -> float:
        return self.now


def test_rounds_take_turns() -> None:
    machine = Machine({BASELINE: 1.0, BF16: 0.9})
    measure(machine.runs, (1,), clock=machine.clock, rounds=3, budget=100)
    assert [plan for plan, _ in machine.ran] == [BASELINE, BF16] * 4


def test_the_median_of_each_size_is_told() -> None:
    machine = Machine({BASELINE: 1.0, BF16: 0.9})
    times = measure(machine.runs, (1, 4), clock=machine.clock, budget=1000)
    assert times[BASELINE] == pytest.approx({1: 1.0, 4: 4.0})
    assert times[BF16] == pytest.approx({1: 0.9, 4: 3.6})


def test_what_cannot_be_chosen_is_not_measured_further_and_all_else_is() -> None:
    """The slower of two that beat the baseline is taken where the quicker one's answers are others."""
    slow = Plan("onnxruntime")
    machine = Machine({BASELINE: 2.0, BF16: 1.0, GRAPH: 1.9, slow: 2.2})
    times = measure(machine.runs, (1, 4), clock=machine.clock, budget=1000)
    assert {plan: sorted(sizes) for plan, sizes in times.items()} == {
        BASELINE: [1, 4],
        BF16: [1, 4],
        GRAPH: [1, 4],
        slow: [1],
    }


def test_when_time_is_up_two_rounds_of_the_first_size_are_what_there_is() -> None:
    machine = Machine({BASELINE: 10.0, BF16: 10.0})
    times = measure(machine.runs, (1, 4), clock=machine.clock, rounds=5, budget=6.0)
    assert machine.ran == [(BASELINE, 1), (BF16, 1)] * 3
    assert sorted(times[BASELINE]) == [1]


def breaks_at(size: int, run: Callable[[int], None]) -> Callable[[int], None]:
    """A run of batches smaller than that."""

    def broken(asked: int) -> None:
        run(asked if asked < size else asked // 0)

    return broken


def test_what_breaks_is_left_out_and_the_rest_is_measured() -> None:
    machine = Machine({BASELINE: 1.0, BF16: 1.0, GRAPH: 1.0})
    runs = {**machine.runs, GRAPH: breaks_at(4, machine.runs[GRAPH])}
    times = measure(runs, (1, 4), clock=machine.clock, budget=1000)
    assert {plan: sorted(sizes) for plan, sizes in times.items()} == {BASELINE: [1, 4], BF16: [1, 4]}


def test_a_baseline_that_breaks_is_an_error() -> None:
    machine = Machine({BASELINE: 1.0})
    with pytest.raises(ZeroDivisionError):
        measure({BASELINE: breaks_at(1, machine.runs[BASELINE])}, (1,), clock=machine.clock)
