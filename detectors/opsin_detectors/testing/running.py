"""Running a detector without a server: prepare, stack, infer, finish.

`Harness` is the seam to what puts batches together. The one here stacks in plain memory; the server has
another, which stages batches the way it does for calls. Needs torch only for detectors that ask for it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from opsin_detectors.api import Detector, ImageInput, Input, Item, Options, Output, Prepared, Task, TextInput
from opsin_detectors.testing.samples import options_for

__all__ = ["Harness", "Lane", "PlainHarness", "by_shape", "item", "run", "stack"]

Shaped = TypeVar("Shaped")


class Lane(Protocol):
    """Where batches run one after the other. Belongs to one thread."""

    def infer(self, prepared: Sequence[Prepared]) -> Any:
        """Put a batch together, run it, and answer its outputs, on the host."""
        ...


class Harness(Protocol):
    """How batches come about."""

    def lane(self, detector: Detector) -> Lane:
        """A new lane for a detector."""
        ...

    def sizes(self, largest: int) -> Sequence[int]:
        """The batch sizes that a model with this largest one is run at, ascending."""
        ...


class PlainHarness:
    """Batches in memory of their own, at 1, 2, 4 ... and the largest size."""

    def lane(self, detector: Detector) -> Lane:
        return _PlainLane(detector)

    def sizes(self, largest: int) -> Sequence[int]:
        return sorted({*(1 << n for n in range(largest.bit_length())), largest})


class _PlainLane:
    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def infer(self, prepared: Sequence[Prepared]) -> Any:
        return self._detector.infer(stack(self._detector, prepared))


def run(
    detector: Detector, inputs: Sequence[Input], task: Task, options: Options | None = None
) -> list[Output]:
    """Answer `inputs` the way the server does: prepare, stack what fits together, infer, finish.

    options: the model's own defaults when None. Raises what the detector raises, and AssertionError for a
    prepared shape that is not the stated one or an answer of the wrong length.
    """
    chosen = options or options_for(detector.info, task)
    prepared = [detector.prepare(one, task, chosen) for one in inputs]
    answers: dict[int, Output] = {}
    for places in by_shape(range(len(inputs)), prepared):
        items = [item(inputs[place], prepared[place], task, chosen) for place in places]
        outputs = detector.finish(detector.infer(stack(detector, [prepared[p] for p in places])), items)
        assert len(outputs) == len(items), f"{len(outputs)} answers to {len(items)} inputs"
        answers |= zip(places, outputs, strict=True)
    return [answers[place] for place in range(len(inputs))]


def stack(detector: Detector, prepared: Sequence[Prepared]) -> Any:
    """What `infer` gets for these: the stacked tensor or array of the stated input, else the list of data."""
    spec = detector.info.input
    if spec is None:
        return [one.data for one in prepared]
    shape = (spec.height, spec.width, spec.channels)
    for one in prepared:
        assert one.data.shape == shape, f"prepared {one.data.shape}, stated {shape}"
        assert one.data.dtype == np.uint8, f"prepared {one.data.dtype}, and it has to be uint8"
    stacked = np.stack([one.data for one in prepared])
    if spec.framework == "numpy":
        return stacked
    import torch

    return torch.from_numpy(stacked).to(detector.info.device)


def item(source: Input, prepared: Prepared, task: Task, options: Options) -> Item:
    """A prepared input as `finish` sees it."""
    match source:
        case ImageInput():
            return Item(task, options, prepared.state, source.width, source.height)
        case TextInput():
            return Item(task, options, prepared.state, 0, 0)


def by_shape(these: Iterable[Shaped], prepared: Iterable[Prepared]) -> list[list[Shaped]]:
    """`these` in groups that may share a batch: those whose prepared inputs have the same `shape`."""
    groups: dict[Any, list[Shaped]] = {}
    for one, ready in zip(these, prepared, strict=True):
        groups.setdefault(ready.shape, []).append(one)
    return list(groups.values())
