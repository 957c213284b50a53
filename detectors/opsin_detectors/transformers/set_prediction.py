"""From the numbers of a set-predicting detector (DETR and its kin) to detections, over a whole batch at once.

Each of the model's queries answers a box and a score per class. Either the classes and “no object” share one
softmax (DETR, YOLOS), and a query means its best class; or every class is scored for itself (RT-DETR,
Deformable DETR), and a query may mean several. There is no suppression: such a model is trained to say each
thing once. Knows nothing of pictures.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from opsin_detectors.api import Box, Detection, Item, Options, Output

__all__ = ["answers", "best_only", "corners", "independent_scores", "shared_scores"]

_EDGES = Box(0.0, 0.0, 1.0, 1.0)


def independent_scores(logits: torch.Tensor) -> torch.Tensor:
    """(B, queries, classes) logits -> scores, every class for itself."""
    return logits.float().sigmoid()


def shared_scores(logits: torch.Tensor) -> torch.Tensor:
    """(B, queries, classes + 1) logits, “no object” last -> (B, queries, classes); all but the best are 0."""
    return best_only(logits.float().softmax(-1)[..., :-1])


def best_only(scores: torch.Tensor) -> torch.Tensor:
    """The scores of each query with all but its best class set to 0."""
    best, label = scores.max(-1, keepdim=True)
    return torch.zeros_like(scores).scatter_(-1, label, best)


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) of center and size -> x_min, y_min, x_max, y_max, not yet cut at the picture's edges."""
    middle, half = boxes[..., :2].float(), boxes[..., 2:].float() / 2
    return torch.cat([middle - half, middle + half], -1)


def answers(
    scores: torch.Tensor, boxes: torch.Tensor, items: Sequence[Item], names: Sequence[Sequence[str]]
) -> list[Output]:
    """One Output per item: what scores at least its `min_score`, best first, at most `max_detections`.

    scores: (B, queries, classes), 0..1; an item with fewer classes than others has 0 in the rest. boxes: (B,
    queries, 4) corners as fractions of the upright picture. names: of each item's classes. A score of 0 is no
    detection, whatever `min_score`. An item with a number that is not finite answers one such score.
    """
    sound = torch.isfinite(scores.sum((1, 2)) + boxes.sum((1, 2))).tolist()
    wanted = _wanted(scores, [item.options for item in items], names)
    image, query, label = wanted.nonzero(as_tuple=True)
    score, box = scores[image, query, label], boxes[image, query].clamp(0.0, 1.0)
    table = torch.column_stack([image, label, score.double(), box.double()]).cpu().numpy()
    table = table[np.lexsort((-table[:, 2], table[:, 0]))]
    bounds = np.searchsorted(table[:, 0], np.arange(len(items) + 1))
    return [
        Output(
            detections=[_detection(row, known) for row in table[first:last][: item.options.max_detections]]
        )
        if good
        else Output(detections=(Detection(_EDGES, known[0], math.nan),))
        for item, known, good, (first, last) in zip(items, names, sound, pairwise(bounds), strict=True)
    ]


def _wanted(scores: torch.Tensor, options: Sequence[Options], names: Sequence[Sequence[str]]) -> torch.Tensor:
    """(B, queries, classes) bool: over its item's threshold, of a class that is asked for, among the best."""
    least = torch.tensor([one.min_score for one in options], device=scores.device)
    wanted = (scores >= least[:, None, None]) & (scores > 0.0)
    for row, (one, known) in enumerate(zip(options, names, strict=True)):
        if one.labels:
            asked = torch.tensor([name in one.labels for name in known], device=scores.device)
            wanted[row, :, : len(known)] &= asked
    for row in _crowded(wanted, options):  # it takes a threshold near zero
        rivals = scores[row].where(wanted[row], -1.0).flatten()
        wanted[row] &= scores[row] >= rivals.topk(options[row].max_detections).values[-1]
    return wanted


def _crowded(wanted: torch.Tensor, options: Sequence[Options]) -> list[int]:
    counts = wanted.flatten(1).sum(1).tolist()
    return [row for row, one in enumerate(options) if 0 < one.max_detections < counts[row]]


def _detection(row: Any, names: Sequence[str]) -> Detection:
    label = int(row[1])
    return Detection(Box(*row[3:].tolist()), names[label], float(row[2]), label)
