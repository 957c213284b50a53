"""`check` catches detectors that break the rules; otherwise passing it would mean nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from opsin_detectors.api import (
    Box,
    Detection,
    Detector,
    Input,
    InputSpec,
    Item,
    Label,
    ModelInfo,
    Options,
    Output,
    Prepared,
    Task,
)
from opsin_detectors.testing import check

Finish = Callable[[Any, Sequence[Item]], list[Output]]


class Made(Detector):
    """A detector whose answers are those of a function over the batch's mean levels."""

    def __init__(
        self, finish: Finish, prepared: tuple[int, ...] = (4, 4, 3), task: Task = Task.DETECT
    ) -> None:
        self._finish, self._prepared = finish, prepared
        self.info = ModelInfo(
            tasks=frozenset({task}),
            classes=("a",),
            input=InputSpec(4, 4, framework="numpy"),
            embedding_dimensions=2,
        )

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        level = int(source.pixels.mean())  # type: ignore[union-attr]
        return Prepared(np.full(self._prepared, level, np.uint8))

    def infer(self, batch: Any) -> Any:
        return batch.mean((1, 2, 3)) / 255

    def finish(self, outputs: Any, items: Sequence[Item]) -> list[Output]:
        return self._finish(outputs, items)


def answer(score: float, name: str = "a", box: Box | None = None) -> Output:
    return Output([Detection(box or Box(0, 0, 1, 1), name, score)])


def honest(outputs: Any, items: Sequence[Item]) -> list[Output]:
    return [answer(float(one)) for one in outputs]


def test_an_honest_detector_passes() -> None:
    check(Made(honest))


@pytest.mark.parametrize(
    ("finish", "said"),
    [
        (lambda outputs, items: honest(outputs, items)[1:], "4 answers to 5 inputs"),
        (lambda outputs, items: honest(outputs, items)[::-1], "numbers differ"),
        (lambda outputs, items: [answer(float(outputs.mean())) for _ in outputs], "numbers differ"),
        (lambda outputs, items: [answer(float(one) * 2) for one in outputs], "is not in 0..1"),
        (lambda outputs, items: [answer(float("nan")) for _ in outputs], "not finite"),
        (lambda outputs, items: [answer(0.5, "b") for _ in outputs], "is not a stated class"),
        (lambda outputs, items: [answer(0.5, box=Box(0, 0, 2, 1)) for _ in outputs], "not inside"),
        (lambda outputs, items: [Output(labels=[Label("a", -0.1)]) for _ in outputs], "is not in 0..1"),
    ],
)
def test_a_detector_that_breaks_a_rule_is_caught(finish: Finish, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check(Made(finish))


def test_a_prepared_input_of_another_shape_is_caught() -> None:
    with pytest.raises(AssertionError, match="stated"):
        check(Made(honest, prepared=(5, 4, 3)))


@pytest.mark.parametrize(
    "vector", [None, np.zeros(3, np.float32), np.zeros(2, np.float64), np.full(2, np.nan, np.float32)]
)
def test_a_vector_that_is_none_or_wrong_is_caught(vector: Any) -> None:
    with pytest.raises(AssertionError):
        check(Made(lambda outputs, items: [Output(vector=vector) for _ in items], task=Task.EMBED_IMAGE))
