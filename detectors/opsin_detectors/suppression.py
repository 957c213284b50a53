"""Non-maximum suppression, for detectors whose networks say the same thing several times. Numpy only."""

import numpy as np
import numpy.typing as npt

__all__ = ["keep"]

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def keep(label: Integers, box: Floats, iou_threshold: float) -> Integers:
    """Greedy class-wise non-maximum suppression of one image's candidates, which come highest score first.

    label: shape (N,). box: x_min, y_min, x_max, y_max in any one unit, shape (N, 4).
    Answers the indices of those kept, in order: each overlaps no kept one of its class by more than the
    threshold (intersection over union).
    """
    count = len(label)
    if count < 2:
        return np.arange(count)
    rivals = (label[:, None] == label) & (_iou(box) > iou_threshold)
    kept = np.ones(count, np.bool_)
    rivals &= np.tri(count, dtype=np.bool_, k=-1).T
    for index in rivals.any(1).nonzero()[0]:
        if kept[index]:
            kept &= ~rivals[index]
    return kept.nonzero()[0]


def _iou(box: Floats) -> Floats:
    """(N, N) intersection over union."""
    x_min, y_min, x_max, y_max = np.ascontiguousarray(box.T)
    width = np.minimum(x_max[:, None], x_max) - np.maximum(x_min[:, None], x_min)
    height = np.minimum(y_max[:, None], y_max) - np.maximum(y_min[:, None], y_min)
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area = (x_max - x_min) * (y_max - y_min)
    union = area[:, None] + area - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio
