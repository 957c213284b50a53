"""Whether a detector's answers are still the same, run another way. Pure: compares `Output`s.

Two answers to one picture are the same when their best labels are, and every thing that one found clearly the
other found in the same place: overlap of 0.95 or more, scores close. What lies so near the threshold that a
rounding decides may be missing.
"""

import math
from collections.abc import Sequence

import numpy as np

from opsin_detectors.api import Box, Detection, Label, Output

__all__ = ["agreement", "difference", "overlap"]

LEAST_OVERLAP = 0.95
SCORE = 0.03
"""Scores may differ by so much; what is that close to the threshold may be found by one only."""
COSINE = 0.995
"""Vectors may point apart by so much."""


def difference(
    reference: Sequence[Output], answers: Sequence[Output], least: float = 0.0, *, tolerance: float = SCORE
) -> str:
    """What is not the same, in a few words; empty when all is.

    least: the score that things are found from.
    """
    for number, (old, new) in enumerate(zip(reference, answers, strict=True)):
        why = _of_one(old, new, least, tolerance)
        if why:
            return f"picture {number + 1}: {why}"
    return ""


def agreement(reference: Sequence[Output], answers: Sequence[Output]) -> tuple[int, int]:
    """How many answers are as the reference's, and how many of these there are to compare.

    Compared are best labels, of what was found the best thing's, and where there are none the vectors. A
    picture on which the reference says nothing proves nothing.
    """
    told = [
        _alike(old, new) for old, new in zip(reference, answers, strict=True) if _best(old) or _points(old)
    ]
    return sum(told), len(told)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0..1."""
    width = min(one.x_max, other.x_max) - max(one.x_min, other.x_min)
    height = min(one.y_max, other.y_max) - max(one.y_min, other.y_min)
    shared = max(width, 0.0) * max(height, 0.0)
    whole = _area(one) + _area(other) - shared
    return shared / whole if whole > 0 else 0.0


def _area(box: Box) -> float:
    return (box.x_max - box.x_min) * (box.y_max - box.y_min)


def _of_one(old: Output, new: Output, least: float, tolerance: float) -> str:
    return (
        _labels(old.labels, new.labels, tolerance)
        or _missing("no longer found", old.detections, new.detections, least, tolerance)
        or _missing("found anew", new.detections, old.detections, least, tolerance)
        or _vectors(old, new)
    )


def _labels(old: Sequence[Label], new: Sequence[Label], tolerance: float) -> str:
    if not old:
        return ""
    first, second = _top(old), _top(new)
    if first is None or second is None or first.name != second.name:
        return f"best label {second.name if second else 'none'}, not {first.name if first else 'none'}"
    scores = {label.name: label.score for label in new}
    apart = max(abs(label.score - scores.get(label.name, math.inf)) for label in old)
    return f"a score differs by {apart:.3f}" if not apart <= tolerance else ""


def _top(labels: Sequence[Label]) -> Label | None:
    return max(labels, key=lambda label: label.score, default=None)


def _missing(
    what: str, these: Sequence[Detection], those: Sequence[Detection], least: float, tolerance: float
) -> str:
    for one in these:
        if not math.isfinite(one.score):
            return "a score is no number"
        if one.score < least + tolerance:
            continue
        if not any(_same(one, other, tolerance) for other in those):
            return f"{one.label} {one.score:.2f} {what}"
    return ""


def _same(one: Detection, other: Detection, tolerance: float) -> bool:
    return (
        one.label == other.label
        and abs(one.score - other.score) <= tolerance
        and overlap(one.box, other.box) >= LEAST_OVERLAP
    )


def _vectors(old: Output, new: Output) -> str:
    if old.vector is None:
        return ""
    if new.vector is None or not np.isfinite(new.vector).all():
        return "no vector"
    length = float(np.linalg.norm(old.vector) * np.linalg.norm(new.vector))
    cosine = float(old.vector @ new.vector) / length if length else 1.0
    return f"its vector turned to a cosine of {cosine:.4f}" if cosine < COSINE else ""


def _best(answer: Output) -> str:
    if answer.labels:
        top = _top(answer.labels)
        return top.name if top else ""
    found = max(answer.detections, key=lambda one: one.score, default=None)
    return found.label if found else ""


def _points(answer: Output) -> bool:
    return answer.vector is not None


def _alike(old: Output, new: Output) -> bool:
    return _best(old) == _best(new) if _best(old) else not _vectors(old, new)
