"""From the network's raw numbers to boxes: threshold, decode what is left, and non-maximum suppression.

The order is what makes it cheap: of 3549 x 80 scores an image a handful pass the threshold, and only those
are decoded. Thresholding works on logits, so that no score is computed in vain. Knows nothing of pictures or
options.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from opsin_detectors.nanodet.network import BINS, CLASSES, SIZE, STRIDES
from opsin_detectors.suppression import keep

__all__ = ["MOST_CANDIDATES", "Candidates", "candidates", "finite", "keep", "points"]

MOST_CANDIDATES = 1000
"""Highest-scoring candidates of an image that go into suppression, as upstream has it (`nms_pre`)."""

_SHY = 1 - 1e-6
"""Logits are compared with the threshold's, short of what is lost to rounding on the way there; scores then
exactly."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Everything over its image's threshold, over a whole batch, by image and then highest score first.

    image, label: int64, shape (candidates,). score: 0..1. box: x_min, y_min, x_max, y_max in 0..1 of the
        picture.
    """

    image: Integers
    label: Integers
    score: Floats
    box: Floats


def points(device: torch.device | str) -> torch.Tensor:
    """Where the network looks: (3549, 3) of x, y and stride, in input pixels, in the order of its outputs."""
    levels = []
    for stride in STRIDES:
        centers = (torch.arange(SIZE // stride, dtype=torch.float32, device=device) + 0.5) * stride
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        levels.append(torch.stack([x, y, torch.full_like(x, stride)], -1).reshape(-1, 3))
    return torch.cat(levels)


def finite(outputs: torch.Tensor) -> npt.NDArray[np.bool_]:
    """Which images of (B, points, numbers) have finite numbers only: comparing NaN would hide them."""
    answer: npt.NDArray[np.bool_] = torch.isfinite(outputs.sum((1, 2), dtype=torch.float32)).cpu().numpy()
    return answer


def candidates(
    outputs: torch.Tensor,
    where: torch.Tensor,
    least: Sequence[float],
    labels: Mapping[int, Sequence[int]] | None = None,
) -> Candidates:
    """What scores at least `least[i]` in image i.

    outputs: (B, points, 124) of any floating type on any device. where: `points` on that device. No more than
        the best `MOST_CANDIDATES` of an image.
    labels: the classes that an image is asked for, all where it is not named.
    """
    logits = _asked(outputs[..., :CLASSES], labels or {})
    limits = torch.tensor([_logit(score * _SHY) for score in least], device=outputs.device)
    image, point, label = _over(logits, limits)
    if (
        crowded := (torch.bincount(image, minlength=len(least)) > MOST_CANDIDATES)
        .nonzero()
        .flatten()
        .tolist()
    ):
        for one in crowded:  # it takes a threshold near zero
            limits[one] = logits[one].flatten().topk(MOST_CANDIDATES).values[-1]
        image, point, label = _over(logits, limits)
    score = logits[image, point, label].float().sigmoid()
    exact = score.double() >= torch.tensor(least, dtype=torch.float64, device=score.device)[image]
    image, point, label, score = image[exact], point[exact], label[exact], score[exact]
    box = _boxes(outputs[image, point, CLASSES:].float(), where[point])
    table = torch.column_stack([image, label, score.double(), box.double()]).cpu().numpy()
    table = table[np.lexsort((-table[:, 2], table[:, 0]))]
    if crowded:  # equal scores at the limit
        table = table[np.arange(len(table)) - np.searchsorted(table[:, 0], table[:, 0]) < MOST_CANDIDATES]
    whole, real = table[:, :2].astype(np.int64), table[:, 2:].astype(np.float32)
    return Candidates(whole[:, 0], whole[:, 1], real[:, 0], real[:, 1:])


def _asked(logits: torch.Tensor, labels: Mapping[int, Sequence[int]]) -> torch.Tensor:
    """(B, points, classes), as low as can be where an image is not asked for a class."""
    if not labels:
        return logits
    others = torch.zeros(len(logits), 1, CLASSES, dtype=torch.bool, device=logits.device)
    for image, asked in labels.items():
        others[image] = True
        others[image, 0, list(asked)] = False
    return logits.masked_fill(others, -math.inf)


def _over(logits: torch.Tensor, limits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, point and class of every logit that is at least its image's limit."""
    # Most points have no class over the limit, and the maximum tells them apart at a quarter of the cost.
    image, point = (logits.amax(-1).float() >= limits[:, None]).nonzero(as_tuple=True)
    row, label = (logits[image, point].float() >= limits[image, None]).nonzero(as_tuple=True)
    return image[row], point[row], label


def _boxes(distances: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(N, 4 x 11) distance logits and (N, 3) points -> (N, 4) corners as fractions of the input.

    The distance to a side is the mean of its distribution, in strides (Generalized Focal Loss,
    arXiv:2006.04388).
    """
    steps = torch.arange(BINS, dtype=torch.float32, device=distances.device)
    sides = distances.view(-1, 4, BINS).softmax(-1) @ steps * where[:, 2:]
    corners = torch.cat([where[:, :2] - sides[:, :2], where[:, :2] + sides[:, 2:]], 1)
    return (corners / SIZE).clamp(0.0, 1.0)


def _logit(score: float) -> float:
    if score <= 0.0:
        return torch.finfo(torch.float32).min  # what is not asked for is lower still
    return math.inf if score >= 1.0 else math.log(score / (1.0 - score))
