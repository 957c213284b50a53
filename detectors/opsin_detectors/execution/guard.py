"""Whether a detector's answers are still the same, run another way. Pure: compares `Output`s.

Two answers to one picture are the same when their best labels are, and every thing that one found clearly the
other found in the same place: overlap of 0.95 or more, scores close. What lies so near the threshold that a
rounding decides may be missing.

int8 is judged by shares of many pictures instead, and its numbers may move further: its best labels, what it
finds and its vectors count each by themselves, so that none hides behind another.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from opsin_detectors.api import Box, Detection, Label, Output

__all__ = ["Agreement", "agreements", "difference", "overlap"]

LEAST_OVERLAP = 0.95
SCORE = 0.03
"""Scores may differ by so much; what is that close to the threshold may be found by one only."""
COSINE = 0.995
"""Vectors may point apart by so much."""
SHARE_COSINE = 0.99
"""The same where shares count: 8 bits turn a vector of a thousand numbers further than bfloat16 does."""
SHARE_OVERLAP = 0.8
"""And boxes overlap by so much."""
CLEAR = 0.1
"""A thing counts there whose score lies by so much above what things are found from."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one kind of answer how many there were to compare, 1 or more, and how many were the same."""

    what: str
    same: int
    compared: int

    @property
    def share(self) -> float:
        """0..1."""
        return self.same / self.compared

    def __str__(self) -> str:
        return f"{self.what} {self.share:.1%} of {self.compared}"


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


def agreements(reference: Sequence[Output], answers: Sequence[Output], least: float = 0.0) -> list[Agreement]:
    """Best labels, clear finds and vectors, of each how many are as the reference's; not what it has none of.

    A best label is the same, too, where the reference's own scores for both lie within 0.03. least: the score
    that things are found from.
    """
    told: dict[str, list[bool]] = {"labels": [], "finds": [], "vectors": []}
    for old, new in zip(reference, answers, strict=True):
        if old.labels:
            told["labels"].append(_same_label(old.labels, new.labels))
        told["finds"] += _found_again(old.detections, new.detections, least + CLEAR)
        if old.vector is not None:
            told["vectors"].append(not _vectors(old, new, SHARE_COSINE))
    return [Agreement(what, sum(same), len(same)) for what, same in told.items() if same]


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


def _same_label(old: Sequence[Label], new: Sequence[Label]) -> bool:
    first, second = _top(old), _top(new)
    if first is None or second is None or not math.isfinite(second.score):
        return False
    scores = {label.name: label.score for label in old}
    return first.score - scores.get(second.name, -math.inf) <= SCORE


def _found_again(old: Sequence[Detection], new: Sequence[Detection], least: float) -> Iterator[bool]:
    for one in old:
        if one.score >= least:
            yield any(
                one.label == other.label and overlap(one.box, other.box) >= SHARE_OVERLAP for other in new
            )


def _vectors(old: Output, new: Output, least: float = COSINE) -> str:
    if old.vector is None:
        return ""
    if new.vector is None or not np.isfinite(new.vector).all():
        return "no vector"
    length = float(np.linalg.norm(old.vector) * np.linalg.norm(new.vector))
    cosine = float(old.vector @ new.vector) / length if length else 1.0
    return f"its vector turned to a cosine of {cosine:.4f}" if cosine < least else ""
