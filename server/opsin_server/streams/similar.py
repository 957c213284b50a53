"""Frames that look like one that was answered already, so that its answer can stand for theirs.

The measure is the mean difference of brightness between two small pictures. Each frame is compared with the
frame that was looked at last, not with its neighbour: a slow change adds up and is noticed. And however
alike, a frame is looked at when the last look is `max_hold` old, so that a change too small to notice is
never hidden longer. Knows pixels and times, nothing of streams; the time is passed in.
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opsin_detectors.api import Pixels
from opsin_server.calls import DetectAnswer

__all__ = ["Look", "ReuseSimilar", "SimilarFrames", "Thumbnail", "thumbnail"]

Thumbnail = npt.NDArray[np.float32]

_SIDE = 32
_LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255  # ITU-R BT.601-7, 2.5.1


@dataclass(frozen=True, slots=True)
class ReuseSimilar:
    """When an answer is used again.

    max_hold: seconds for which one answer is, at most. threshold: how different two frames may be, 0 (equal)
    to 1 (black against white).
    """

    max_hold: float = 1.0
    threshold: float = 0.01


def thumbnail(pixels: Pixels) -> Thumbnail:
    """Brightness of uint8 RGB (rows, columns, 3) in small: float32, 0..1, at most (32, 32).

    Means over blocks of 4 x 4 samples or more, which together take in the picture up to its edges: noise of
    single pixels averages out, and a 1080p frame takes a fraction of a millisecond. Runs on any thread.
    """
    rows, columns = pixels.shape[:2]
    down, across = min(_SIDE, rows), min(_SIDE, columns)
    few = pixels[:: max(1, rows // (down * 4)), :: max(1, columns // (across * 4))]
    if not isinstance(few, np.ndarray):  # a tensor, on a GPU that decoded the picture
        few = few.cpu().numpy()
    luma = few.astype(np.float32) @ _LUMA
    high, wide = luma.shape
    tops, lefts = np.arange(down) * high // down, np.arange(across) * wide // across
    sums = np.add.reduceat(np.add.reduceat(luma, tops, 0), lefts, 1)
    small: Thumbnail = sums / (_gaps(tops, high)[:, None] * _gaps(lefts, wide))
    return small


def _gaps(begins: npt.NDArray[np.int64], end: int) -> Thumbnail:
    """How long each of the parts is that begin there; the last one goes to `end`."""
    return np.diff(begins, append=end).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A frame that was looked at and answered.

    when: its arrival. key: what else its answer depends on: options, regions, the size of the picture.
    """

    sequence: int
    seen: Thumbnail
    when: float
    key: Hashable
    answer: DetectAnswer


class SimilarFrames:
    """Remembers the last look of a stream. `match` may be asked on any thread."""

    __slots__ = ("_last", "_rule")

    def __init__(self, rule: ReuseSimilar) -> None:
        self._rule = rule
        self._last: Look | None = None

    def answered(self, look: Look) -> None:
        """A frame that was looked at has its answer. They may come out of order; the newest counts."""
        if self._last is None or look.sequence > self._last.sequence:
            self._last = look

    def match(self, seen: Thumbnail, when: float, key: Hashable) -> Look | None:
        """The look whose answer fits this frame, if there is one."""
        last = self._last
        if last is None or key != last.key or seen.shape != last.seen.shape:
            return None
        if not 0 <= when - last.when < self._rule.max_hold:
            return None
        return last if float(np.abs(seen - last.seen).mean()) <= self._rule.threshold else None
