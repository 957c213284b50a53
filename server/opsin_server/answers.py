"""From a detector's raw outputs to the answer: thresholds, order, cuts, the flag, and regions put together.

Pure functions on plain data. Every answer passes here, so an option means the same for every detector,
whoever wrote it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from opsin_detectors.api import (
    Attribute,
    Box,
    Detection,
    FlagRule,
    Label,
    ModelInfo,
    Options,
    Output,
    Task,
    Vector,
)

__all__ = ["cut_vector", "flagged", "keep_detections", "keep_labels", "merge_regions", "place"]


MOST_MERGED = 2000
"""Highest-scoring detections of all regions together that are looked through for twins: the work grows with
the square. It takes thresholds near zero to find more."""


def keep_detections(found: Iterable[Detection], options: Options) -> list[Detection]:
    """At least `min_score`, in the allow-list, highest score first, at most `max_detections`."""
    kept = [
        d for d in found if d.score >= options.min_score and (not options.labels or d.label in options.labels)
    ]
    kept.sort(key=_score, reverse=True)
    return kept[: options.max_detections]


def keep_labels(labels: Iterable[Label], options: Options) -> list[Label]:
    """In the allow-list, at least `min_label_score`, highest score first, at most `max_labels` (0 = all)."""
    kept = [
        label
        for label in labels
        if label.score >= options.min_label_score and (not options.labels or label.name in options.labels)
    ]
    kept.sort(key=_score, reverse=True)
    return kept[: options.max_labels or None]


def flagged(rule: FlagRule | None, outputs: Iterable[Output]) -> bool | None:
    """Whether any look at the image reaches the flag rule's threshold; None when there is no rule."""
    if rule is None:
        return None
    return any(
        sum(label.score for label in output.labels if label.name in rule.classes) >= rule.threshold
        for output in outputs
    )


def place(box: Box, region: Box) -> Box:
    """A box in fractions of a region, as fractions of the whole image."""
    width, height = region.x_max - region.x_min, region.y_max - region.y_min
    return Box(
        region.x_min + box.x_min * width,
        region.y_min + box.y_min * height,
        region.x_min + box.x_max * width,
        region.y_min + box.y_max * height,
    )


def merge_regions(
    outputs: Sequence[Output], regions: Sequence[Box], info: ModelInfo, options: Options
) -> list[Detection]:
    """Everything found in each region, in whole-image coordinates.

    What two regions both saw (same class, overlap above `iou_threshold`) is kept once, with the higher score.
    A classifier's labels become one detection per region, all labels in attribute `class`.
    """
    if not info.tasks & {Task.DETECT, Task.READ_TEXT}:
        pairs = zip(outputs, regions, strict=True)
        return [_classified(output.labels, region) for output, region in pairs if output.labels]
    seen = [
        (d, region)
        for output, region in zip(outputs, regions, strict=True)
        for d in keep_detections(output.detections, options)
    ]
    seen.sort(key=lambda pair: pair[0].score, reverse=True)
    found = [replace(d, box=place(d.box, region)) for d, region in seen[:MOST_MERGED]]
    return [found[index] for index in _suppress(found, options)]


def _suppress(found: Sequence[Detection], options: Options) -> list[int]:
    """Which to keep, of detections that come highest score first; at most `max_detections`."""
    names: dict[str, int] = {}
    label = np.array([names.setdefault(d.label, len(names)) for d in found])
    corners = np.array([(d.box.x_min, d.box.y_min, d.box.x_max, d.box.y_max) for d in found]).reshape(-1, 4)
    alive = np.ones(len(found), np.bool_)
    kept: list[int] = []
    for index in range(len(found)):
        if not alive[index]:
            continue
        kept.append(index)
        if len(kept) == options.max_detections:
            break
        twins = _overlaps(corners[index], corners[index + 1 :]) > options.iou_threshold
        alive[index + 1 :] &= ~(twins & (label[index + 1 :] == label[index]))
    return kept


def _overlaps(one: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union, 0..1, of one box (4,) with each of others (n, 4)."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    both = np.maximum(sides, 0.0).prod(1)
    union = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - both
    shares: npt.NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return shares


def _classified(labels: Sequence[Label], region: Box) -> Detection:
    ranked = tuple(sorted(labels, key=_score, reverse=True))
    top = ranked[0]
    return Detection(region, top.name, top.score, top.class_id, (Attribute("class", ranked),))


def _score(thing: Detection | Label) -> float:
    return thing.score


def cut_vector(vector: Vector, *, dimensions: int, normalize: bool) -> Vector:
    """The first `dimensions` numbers (0 = all), of length 1 when `normalize`; float32, shape (dimensions,).

    A zero vector stays zero: it has no direction.
    """
    cut = np.asarray(vector, np.float32)
    if dimensions:
        cut = cut[:dimensions]
    if normalize:
        length = float(np.linalg.norm(cut))
        if length > 0:
            cut = cut / np.float32(length)
    return cut
