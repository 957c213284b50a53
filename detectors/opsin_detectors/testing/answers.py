"""Judging answers: what is wrong with one by itself, and how two differ. Runs nothing."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from opsin_detectors.api import Box, Detection, Label, ModelInfo, Options, Output, Task

__all__ = ["FAULTS", "Fault", "boxes", "differences", "finite", "labels", "scores", "vector"]

_EMBEDS = (Task.EMBED_IMAGE, Task.EMBED_TEXT)
_SLACK = 1e-6
"""What rounding in float32 may add to 1."""


def differences(one: Output, two: Output, tolerance: float) -> str:
    """How two answers differ by more than `tolerance`, in words; empty when they do not.

    Vectors are compared at length 1, as the server sends them.
    """
    if _names(one) != _names(two):
        return f"{_named(one)} against {_named(two)}"
    first, second = _direction(one), _direction(two)
    if first.shape != second.shape:
        return f"{first.size} numbers against {second.size}"
    apart = max(
        float(np.abs(first - second).max(initial=0.0)), _labels_apart(one, two), _found_apart(one, two)
    )
    return f"numbers differ by {apart:.2g}" if apart > tolerance else ""


def finite(output: Output, task: Task, info: ModelInfo, options: Options) -> str:
    """Every number is one."""
    for name, score in _scored(output):
        if not math.isfinite(score):
            return f"the score of “{name}” is {score}"
    for found in output.detections:
        if not all(map(math.isfinite, _corners(found.box))):
            return f"{found.box} is not finite"
    if output.vector is not None and not np.isfinite(output.vector).all():
        wrong = np.flatnonzero(~np.isfinite(output.vector))
        return f"{len(wrong)} of the vector's {output.vector.size} numbers are not finite"
    return ""


def scores(output: Output, task: Task, info: ModelInfo, options: Options) -> str:
    """Scores are in 0..1, and those of an attribute fall."""
    for name, score in _scored(output):
        if math.isfinite(score) and not 0 <= score <= 1 + _SLACK:
            return f"the score of “{name}” is {score:.6g}"
    for found in output.detections:
        for attribute in found.attributes:
            given = [label.score for label in attribute.labels]
            if given != sorted(given, reverse=True):
                return f"the labels of attribute “{attribute.name}” are not in order, highest score first"
    return ""


def boxes(output: Output, task: Task, info: ModelInfo, options: Options) -> str:
    """Boxes lie inside the picture and have a width and a height."""
    for found in output.detections:
        box = found.box
        if not all(map(math.isfinite, _corners(box))):
            continue  # a fault of its own
        if any(corner < 0 or corner > 1 + _SLACK for corner in _corners(box)):
            return f"{_said(box)} of “{found.label}” is not inside the picture"
        if box.x_min >= box.x_max or box.y_min >= box.y_max:
            return f"{_said(box)} of “{found.label}” is upside down, or empty"
    return ""


def labels(output: Output, task: Task, info: ModelInfo, options: Options) -> str:
    """Labels are among the classes, under their own numbers."""
    classes = options.candidate_labels or info.classes
    given: list[Label | Detection] = [*output.labels, *output.detections]
    for one in given if classes else ():
        name = one.name if isinstance(one, Label) else one.label
        if name not in classes:
            return f"“{name}” is not a stated class"
        if not 0 <= one.class_id < len(classes) or classes[one.class_id] != name:
            return f"“{name}” came with class_id {one.class_id}, and it is class {classes.index(name)}"
    return ""


def vector(output: Output, task: Task, info: ModelInfo, options: Options) -> str:
    """Embedding tasks answer a float32 vector of the stated length, not all zero."""
    if task not in _EMBEDS:
        return ""
    given: Any = output.vector
    if not isinstance(given, np.ndarray):
        return f"the vector is {'missing' if given is None else f'a {type(given).__name__}'}"
    if given.shape != (info.embedding_dimensions,):
        return f"the vector has the shape {given.shape}, and {(info.embedding_dimensions,)} is stated"
    if given.dtype != np.float32:
        return f"the vector is of {given.dtype}"
    return "" if given.any() else "the vector is all zero, which has no direction"


Fault = Callable[[Output, Task, ModelInfo, Options], str]

FAULTS: dict[str, Fault] = {
    "finite": finite,
    "scores": scores,
    "boxes": boxes,
    "labels": labels,
    "vector": vector,
}
"""By rule: what is wrong with an answer, in words; empty when nothing is."""


def _scored(output: Output) -> Iterator[tuple[str, float]]:
    for label in output.labels:
        yield label.name, label.score
    for found in output.detections:
        yield found.label, found.score
        for attribute in found.attributes:
            for label in attribute.labels:
                yield label.name, label.score


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x_min, box.y_min, box.x_max, box.y_max


def _said(box: Box) -> str:
    return "the box ({:.4g}, {:.4g}) to ({:.4g}, {:.4g})".format(*_corners(box))


def _names(output: Output) -> list[str]:
    names = sorted(label.name for label in output.labels)
    return names + sorted(one.label for one in output.detections)


def _named(output: Output) -> str:
    names = _names(output)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


def _labels_apart(one: Output, two: Output) -> float:
    first, second = ({label.name: label.score for label in output.labels} for output in (one, two))
    return max((abs(score - second[name]) for name, score in first.items()), default=0.0)


def _found_apart(one: Output, two: Output) -> float:
    """The largest distance of a detection from the nearest one with its label that no other has taken."""
    left, apart = list(two.detections), 0.0
    for found in one.detections:
        alike = [other for other in left if other.label == found.label]
        nearest = min(alike, key=lambda other: _apart(found, other))
        left.remove(nearest)
        apart = max(apart, _apart(found, nearest))
    return apart


def _apart(one: Detection, two: Detection) -> float:
    pairs = zip((one.score, *_corners(one.box)), (two.score, *_corners(two.box)), strict=True)
    return max(abs(first - second) for first, second in pairs)


def _direction(output: Output) -> np.ndarray[Any, np.dtype[np.float64]]:
    vector: Any = np.asarray(output.vector if output.vector is not None else [], np.float64).ravel()
    return np.asarray(vector / (np.linalg.norm(vector) or 1.0))
