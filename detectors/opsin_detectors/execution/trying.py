"""A detector put through its own steps on given inputs, as a server would: prepare, infer, finish."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from opsin_detectors.api import Detector, Input, Item, Options, Output, Prepared, Task
from opsin_detectors.execution.network import Program, Runnable

__all__ = ["answers", "answers_by", "batch_of", "once", "prepared"]

_PICTURES = (Task.DETECT, Task.CLASSIFY_IMAGE, Task.EMBED_IMAGE)
_TEXTS = (Task.CLASSIFY_TEXT, Task.EMBED_TEXT)


def prepared(detector: Detector, inputs: Sequence[Input], options: Options | None = None) -> list[Prepared]:
    """All of them, ready for `infer`. options: the detector's own by default."""
    task = next(iter(_tasks(detector)))
    return [detector.prepare(one, task, options or detector.info.defaults) for one in inputs]


def batch_of(detector: Detector, ready: Sequence[Prepared]) -> Any:
    """What `infer` is given for these, which are all of one shape."""
    if detector.info.input is None:
        return [one.data for one in ready]
    stacked = torch.from_numpy(np.stack([one.data for one in ready]))
    return stacked.to(detector.info.device)


def once(detector: Runnable, program: Program) -> None:
    """Run one batch by this program, which the detector keeps. Raises whatever that raises."""
    detector.program = program
    with torch.inference_mode():
        program(batch_of(detector, prepared(detector, [detector.example(_tasks(detector)[0])])))


def answers(detector: Detector, inputs: Sequence[Any], options: Options | None = None) -> list[Output]:
    """What it answers, for each of its tasks on such inputs, one after the other. options: see `prepared`."""
    found: list[Output] = []
    options = options or detector.info.defaults
    ready = prepared(detector, inputs, options)
    for first, last in _runs(ready):
        outputs = detector.infer(batch_of(detector, ready[first:last]))
        for task in _tasks(detector):
            items = [_item(task, ready[at], inputs[at], options) for at in range(first, last)]
            found += detector.finish(_home(outputs), items)
    return found


def answers_by(
    detector: Runnable, program: Program, inputs: Sequence[Any], options: Options | None = None
) -> list[Output]:
    """What it answers when its network is run by this program, which it keeps."""
    detector.program = program
    return answers(detector, inputs, options)


def _tasks(detector: Detector) -> list[Task]:
    mine = [task for task in (*_PICTURES, *_TEXTS) if task in detector.info.tasks]
    return [task for task in mine if (task in _PICTURES) == (mine[0] in _PICTURES)]


def _item(task: Task, ready: Prepared, source: Any, options: Options) -> Item:
    size = (getattr(source, "width", 0), getattr(source, "height", 0))
    return Item(task, options, ready.state, *size)


def _runs(ready: Sequence[Prepared], most: int = 8) -> Iterator[tuple[int, int]]:
    """Neighbours of one shape, a few at a time."""
    at = 0
    for _, group in itertools.groupby(ready, key=lambda one: one.shape):
        count = len(list(group))
        for first in range(at, at + count, most):
            yield first, min(first + most, at + count)
        at += count


def _home(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.cpu()
    if isinstance(outputs, tuple):
        return tuple(_home(one) for one in outputs)
    return outputs
