"""Whether two servers say the same about a picture, within what number types make of it. Pure.

An answer is JSON: `{"labels": [[name, score], ...]}` for a classifier, `{"boxes": [[name, score, x_min,
y_min, x_max, y_max], ...]}` for a detector, corners in fractions of the picture. Order does not matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["EXACT", "RESAMPLED", "ROUNDED", "Answer", "Tolerance", "difference", "overlap"]

Answer = Mapping[str, Sequence[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """score: how far two scores may be apart. overlap: the least intersection over union of two boxes that
    are the same thing. threshold: the detector's minimum score; a box that close to it may be missing.
    """

    score: float
    overlap: float
    threshold: float = 0.35


EXACT = Tolerance(score=0.01, overlap=0.95)
"""Both sides compute in float32: what is left is the order of additions and a level of a pixel."""
ROUNDED = Tolerance(score=0.06, overlap=0.9)
"""One side computes in bfloat16 or int8."""
RESAMPLED = Tolerance(score=0.1, overlap=0.9)
"""One side shrinks a whole picture, the other lets the decoder shrink it by half first."""


def difference(expected: Answer, found: Answer, tolerance: Tolerance) -> str:
    """What they disagree on, in one sentence; "" when they agree."""
    if set(expected) != set(found):
        return f"one says {sorted(expected)}, the other {sorted(found)}"
    if "labels" in expected:
        return _labels(expected["labels"], found["labels"], tolerance)
    return _boxes(expected["boxes"], found["boxes"], tolerance)


def _labels(expected: Sequence[Any], found: Sequence[Any], tolerance: Tolerance) -> str:
    one, two = (dict(labels) for labels in (expected, found))
    if set(one) != set(two):
        return f"labels {sorted(one)} against {sorted(two)}"
    for name, score in one.items():
        if not abs(score - two[name]) <= tolerance.score:  # nor is a number that is none
            return f"“{name}” scores {score:.3f} against {two[name]:.3f}"
    best = max(one, key=lambda name: one[name])
    # Two labels closer than the tolerance may change places.
    if max(two.values()) - two[best] > tolerance.score:
        return f"the best label is “{best}” against “{max(two, key=lambda name: two[name])}”"
    return ""


def _boxes(expected: Sequence[Any], found: Sequence[Any], tolerance: Tolerance) -> str:
    rest = list(found)
    for box in expected:
        match = next((other for other in rest if _same(box, other, tolerance)), None)
        if match is not None:
            rest.remove(match)
        elif not _borderline(box, tolerance):
            return f"“{box[0]}” at {box[1]:.3f} has no counterpart"
    for box in rest:
        if not _borderline(box, tolerance):
            return f"“{box[0]}” at {box[1]:.3f} is one too many"
    return ""


def _same(one: Sequence[Any], two: Sequence[Any], tolerance: Tolerance) -> bool:
    return (
        one[0] == two[0]
        and abs(one[1] - two[1]) <= tolerance.score
        and overlap(one[2:], two[2:]) >= tolerance.overlap
    )


def _borderline(box: Sequence[Any], tolerance: Tolerance) -> bool:
    return bool(box[1] <= tolerance.threshold + tolerance.score)


def overlap(one: Sequence[float], two: Sequence[float]) -> float:
    """Intersection over union of (x_min, y_min, x_max, y_max)."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    both = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return both / (areas - both) if areas > both else 0.0
