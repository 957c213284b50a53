"""Running inputs of many shapes through a detector as the scheduler seats them: equal shapes together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opsin_detectors.api import (
    Detector,
    ImageInput,
    Input,
    LoadContext,
    LoadError,
    Options,
    Output,
    Task,
    TextInput,
)
from opsin_detectors.finder import find, load
from opsin_detectors.testing import run
from opsin_detectors.testing.running import by_shape, item, stack

__all__ = [
    "SENTENCES",
    "alone",
    "answered",
    "groups",
    "open_",
    "photo",
    "refusal",
    "texts_of",
    "together",
    "vectors",
]

SENTENCES = (
    "a",
    "tea",
    "good grief",
    "what a day!",
    "it was good, was it?",
    "the plot is thin, and so is the soup",
    "you'd better not, he said; not here, not now.",
    "a dog that barks at trains all day is no bother to anyone.",
)
"""Of 3 to 60 letters, most lengths unlike."""


def photo(width: int, height: int, seed: int = 1) -> ImageInput:
    """Soft noise: something to see at every size, and no edges to resize in different ways."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return ImageInput(np.array(picture), width, height)


def open_(folder: Path | str, dtype: str = "auto", **settings: str) -> Detector:
    return load(find()["transformers"], LoadContext("m", source=str(folder), settings=settings, dtype=dtype))


def refusal(folder: Path | str, **settings: str) -> str:
    """What loading the checkpoint is refused with: one line."""
    with pytest.raises(LoadError) as raised:
        open_(folder, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def texts_of(sentences: Sequence[str]) -> list[Input]:
    return [TextInput(one) for one in sentences]


def groups(detector: Detector, inputs: Sequence[Input], task: Task) -> dict[Any, list[int]]:
    """Places of the inputs by the shape that they are prepared to."""
    found: dict[Any, list[int]] = {}
    for place, one in enumerate(inputs):
        found.setdefault(detector.prepare(one, task, Options()).shape, []).append(place)
    return found


def together(detector: Detector, inputs: Sequence[Input], task: Task) -> list[Output]:
    """The answers, those of one shape in one batch."""
    answers: dict[int, Output] = {}
    for places in groups(detector, inputs, task).values():
        answers |= zip(places, run(detector, [inputs[place] for place in places], task), strict=True)
    return [answers[place] for place in range(len(inputs))]


def alone(detector: Detector, inputs: Sequence[Input], task: Task) -> list[Output]:
    return [run(detector, [one], task)[0] for one in inputs]


def vectors(outputs: Sequence[Output]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.stack([output.vector for output in outputs if output.vector is not None])


def answered(detector: Detector, given: Sequence[tuple[Input, Options]], task: Task) -> list[Output]:
    """Inputs with options of their own, in as few batches as their shapes allow, answered in order."""
    ready = [detector.prepare(one, task, options) for one, options in given]
    answers: dict[int, Output] = {}
    for places in by_shape(range(len(given)), ready):
        items = [item(given[place][0], ready[place], task, given[place][1]) for place in places]
        outputs = detector.infer(stack(detector, [ready[place] for place in places]))
        answers |= zip(places, detector.finish(outputs, items), strict=True)
    return [answers[place] for place in range(len(given))]
