"""Whether a detector's answers are still the same, run another way. Pure: compares `Output`s.

Two answers to one picture are the same when their best labels are, and every thing that one found clearly the
other found in the same place, each to itself: overlap of 0.95 or more, scores close. What lies so near the
threshold that a rounding decides may be missing.

int8 is judged by shares of many pictures instead, and its numbers may move further: its best labels, what it
finds and its vectors count each by themselves, so that none hides behind another.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from opsin_detectors.api import Box, Detection, Label, Output, Vector

__all__ = ["Agreement", "agreements", "difference", "overlap", "proves"]

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


def proves(reference: Sequence[Output], least: float = 0.0, *, tolerance: float = SCORE) -> bool:
    """Whether there is anything in these answers that others could differ in. least: see `difference`."""
    return any(
        one.labels or one.vector is not None or any(two.score >= least + tolerance for two in one.detections)
        for one in reference
    )


def agreements(reference: Sequence[Output], answers: Sequence[Output], least: float = 0.0) -> list[Agreement]:
    """Best labels, clear finds and vectors, of each how many are as the reference's; not what nobody has.

    A best label is the same, too, where the reference's own scores for both lie within 0.03. What was clearly
    found by one only counts as not the same, whichever that is; the other may have found it faintly. least:
    the score that things are found from.
    """
    told: dict[str, list[bool]] = {"labels": [], "finds": [], "vectors": []}
    for old, new in zip(reference, answers, strict=True):
        if old.labels:
            told["labels"].append(_same_label(old.labels, new.labels))
        told["finds"] += _as_found(old.detections, new.detections, least + CLEAR)
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
    if not old and not new:
        return ""
    first, second = _top(old), _top(new)
    before, now = _scores(old), _scores(new)
    # Of two labels with the very same score either is the best one.
    if first is None or second is None or before.get(second.name) != first.score:
        return f"best label {second.name if second else 'none'}, not {first.name if first else 'none'}"
    apart = [abs(score - now.get(name, math.inf)) for name, score in before.items()]
    # Asked so that a number that is none is not within it, wherever it stands.
    return "" if all(one <= tolerance for one in apart) else f"a score differs by {max(apart):.3f}"


def _top(labels: Sequence[Label]) -> Label | None:
    return max(labels, key=lambda label: label.score, default=None)


def _scores(labels: Sequence[Label]) -> dict[str, float]:
    return {label.name: label.score for label in labels}


def _missing(
    what: str, these: Sequence[Detection], those: Sequence[Detection], least: float, tolerance: float
) -> str:
    if not all(math.isfinite(one.score) for one in these):
        return "a score is no number"
    clear = [one for one in these if one.score >= least + tolerance]
    lost = _unmatched(clear, those, lambda one, other: _same(one, other, tolerance))
    return f"{lost[0].label} {lost[0].score:.2f} {what}" if lost else ""


def _unmatched(
    these: Sequence[Detection],
    those: Sequence[Detection],
    same: Callable[[Detection, Detection], bool],
) -> list[Detection]:
    """What is left when as many of these as possible have one of those to themselves."""
    holder: dict[int, int] = {}

    def place(at: int, tried: set[int]) -> bool:
        for other, candidate in enumerate(those):
            if other not in tried and same(these[at], candidate):
                tried.add(other)
                if other not in holder or place(holder[other], tried):
                    holder[other] = at
                    return True
        return False

    return [one for at, one in enumerate(these) if not place(at, set())]


def _same(one: Detection, other: Detection, tolerance: float) -> bool:
    return (
        one.label == other.label
        and abs(one.score - other.score) <= tolerance
        and overlap(one.box, other.box) >= LEAST_OVERLAP
    )


def _same_label(old: Sequence[Label], new: Sequence[Label]) -> bool:
    first, second = _top(old), _top(new)
    if first is None or second is None or not all(math.isfinite(label.score) for label in new):
        return False
    return first.score - _scores(old).get(second.name, -math.inf) <= SCORE


def _as_found(old: Sequence[Detection], new: Sequence[Detection], clear: float) -> list[bool]:
    """One for each clear find of either, that of both counted once. What moved is lost and invented: once."""
    sought = [one for one in old if one.score >= clear]
    lost = len(_unmatched(sought, new, _same_thing))
    # Asked so that a number that is none is clear.
    invented = len(_unmatched([one for one in new if not one.score < clear], old, _same_thing_of_old))
    return [True] * (len(sought) - lost) + [False] * max(lost, invented)


def _same_thing_of_old(new: Detection, old: Detection) -> bool:
    return _same_thing(old, new)


def _same_thing(one: Detection, other: Detection) -> bool:
    return (
        one.label == other.label
        and math.isfinite(other.score)
        and overlap(one.box, other.box) >= SHARE_OVERLAP
    )


def _vectors(old: Output, new: Output, least: float = COSINE) -> str:
    if old.vector is None:
        return ""
    if new.vector is None or not np.isfinite(new.vector).all():
        return "no vector"
    cosine = _cosine(old.vector, new.vector)
    return "" if cosine >= least else f"its vector turned to a cosine of {cosine:.4f}"


def _cosine(old: Vector, new: Vector) -> float:
    """-1..1. All zeros point where all zeros do, and nowhere else."""
    one, other = old.astype(np.float64), new.astype(np.float64)
    lengths = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    return float(one @ other) / (lengths[0] * lengths[1])
