"""Running a detector without a server, and checking that it keeps the rules of `opsin_detectors.api`.

For detectors' own tests: `check(detector)` is most of what such a test has to say. Needs torch only for
detectors that ask for it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from opsin_detectors.api import (
    Detector,
    ImageInput,
    Input,
    Item,
    Options,
    Output,
    Pixels,
    Prepared,
    Task,
    TextInput,
)

__all__ = ["check", "differences", "image", "run", "sample_inputs", "stack"]

_IMAGE_TASKS = (Task.DETECT, Task.CLASSIFY_IMAGE, Task.EMBED_IMAGE, Task.READ_TEXT)
_TEXT_TASKS = (Task.CLASSIFY_TEXT, Task.EMBED_TEXT)


def image(pixels: Pixels) -> ImageInput:
    """An input of these pixels, (rows, columns, 3) uint8 RGB, decoded at full size."""
    return ImageInput(np.ascontiguousarray(pixels), pixels.shape[1], pixels.shape[0])


def run(
    detector: Detector, inputs: Sequence[Input], task: Task, options: Options | None = None
) -> list[Output]:
    """Answer `inputs` as one batch, the way the server does: prepare, stack, infer, finish.

    options: the model's own defaults when None. Raises what the detector raises, and AssertionError for a
    prepared shape that is not the stated one or an answer of the wrong length.
    """
    chosen = options or detector.info.defaults
    prepared = [detector.prepare(one, task, chosen) for one in inputs]
    items = [_item(one, ready, task, chosen) for one, ready in zip(inputs, prepared, strict=True)]
    outputs = detector.finish(detector.infer(stack(detector, prepared)), items)
    assert len(outputs) == len(inputs), f"{len(outputs)} answers to {len(inputs)} inputs"
    return list(outputs)


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


def check(detector: Detector, *, tolerance: float = 1e-3) -> None:
    """Raise AssertionError unless the detector keeps the rules, for every task it states.

    One answer per input; answers finite, scores and boxes in 0..1; classes among the stated ones; and the
    same answer alone as in a batch, in any order, to within `tolerance`.
    """
    assert detector.info.tasks, "a detector has to state at least one task"
    for task in sorted(detector.info.tasks & {*_IMAGE_TASKS, *_TEXT_TASKS}):
        inputs = [detector.example(task), *sample_inputs(task)]
        together = run(detector, inputs, task)
        for output in together:
            _check_output(detector, output, task)
        alone = [run(detector, [one], task)[0] for one in inputs]
        backwards = run(detector, inputs[::-1], task)[::-1]
        for other in (alone, backwards):
            for one, two in zip(together, other, strict=True):
                assert not (found := differences(one, two, tolerance)), f"{task}: {found}"


def sample_inputs(task: Task) -> list[Input]:
    """A few made-up inputs for a task, of different sizes and content; always the same ones."""
    if task in _TEXT_TASKS:
        return [TextInput("a"), TextInput("A rocket on its launch pad. " * 5), TextInput("héllo 世界")]
    noise = np.random.default_rng(7)
    ramp = np.linspace(0, 255, 300 * 200 * 3).reshape(200, 300, 3).astype(np.uint8)
    pictures = [
        noise.integers(0, 256, (480, 640, 3), np.uint8),
        ramp,
        np.zeros((64, 48, 3), np.uint8),
        np.full((1, 1, 3), 255, np.uint8),
    ]
    return [image(one) for one in pictures]


def differences(one: Output, two: Output, tolerance: float) -> str:
    """How two answers differ by more than `tolerance`, in words; empty when they do not."""
    if _names(one) != _names(two):
        return f"{_names(one)} against {_names(two)}"
    first, second = _numbers(one), _numbers(two)
    if first.shape != second.shape:
        return f"{first.size} numbers against {second.size}"
    apart = float(np.abs(first - second).max(initial=0.0))
    return f"numbers differ by {apart:.2g}" if apart > tolerance else ""


def _item(source: Input, prepared: Prepared, task: Task, options: Options) -> Item:
    match source:
        case ImageInput():
            return Item(task, options, prepared.state, source.width, source.height)
        case TextInput():
            return Item(task, options, prepared.state, 0, 0)


def _names(output: Output) -> list[str]:
    labels = sorted(label.name for label in output.labels)
    return labels + [one.label for one in _ordered(output)]


def _ordered(output: Output) -> list[Any]:
    return sorted(output.detections, key=lambda one: (one.label, -round(one.score, 3), one.box.x_min))


def _numbers(output: Output) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = [label.score for label in sorted(output.labels, key=lambda one: one.name)]
    for one in _ordered(output):
        values += [one.score, one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max]
    vector: Any = output.vector if output.vector is not None else []
    return np.concatenate([np.array(values, np.float64), np.asarray(vector, np.float64)])


def _check_output(detector: Detector, output: Output, task: Task) -> None:
    info = detector.info
    assert np.isfinite(_numbers(output)).all(), f"{task}: a number is not finite"
    scored = [(one.label, one.score) for one in output.detections]
    scored += [(label.name, label.score) for label in output.labels]
    for name, score in scored:
        assert 0.0 <= score <= 1.0, f"{task}: score {score} of {name} is not in 0..1"
        assert not info.classes or name in info.classes, f"{task}: “{name}” is not a stated class"
    for one in output.detections:
        box = one.box
        assert 0.0 <= box.x_min <= box.x_max <= 1.0, f"{task}: {box} is not inside the picture"
        assert 0.0 <= box.y_min <= box.y_max <= 1.0, f"{task}: {box} is not inside the picture"
    if task in (Task.EMBED_IMAGE, Task.EMBED_TEXT):
        assert output.vector is not None, f"{task}: no vector"
        assert output.vector.shape == (info.embedding_dimensions,), f"{task}: {output.vector.shape}"
        assert output.vector.dtype == np.float32, f"{task}: vector of {output.vector.dtype}"
        assert math.isfinite(float(np.linalg.norm(output.vector)))
