"""What a tracker is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from opsin_detectors.api import Detection

__all__ = ["Sightings", "Tracker"]


@dataclass(frozen=True, slots=True, eq=False)
class Sightings:
    """What was found in one frame, n things.

    boxes: float64 (n, 4), x_min, y_min, x_max, y_max in fractions of the picture. scores: float64 (n,), 0..1.
    classes: int64 (n,); things of different classes are never the same.
    """

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]

    @staticmethod
    def of(detections: Sequence[Detection]) -> "Sightings":
        """As a detector tells them."""
        boxes = [(d.box.x_min, d.box.y_min, d.box.x_max, d.box.y_max) for d in detections]
        return Sightings(
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array([d.score for d in detections], np.float64),
            np.array([d.class_id for d in detections], np.int64),
        )


class Tracker(Protocol):
    """Follows things through one stream. Called for each frame that was looked at, in order."""

    def update(self, seen: Sightings, time: float) -> list[int]:
        """The number of each thing seen, 0 where it has none.

        time: seconds, on the stream's own clock (capture time where frames have it); gaps are what dropped
        frames leave. A time that goes back counts as no time passed.
        """
        ...

    def snapshot(self) -> bytes:
        """All that the tracker knows, in at most 16 KiB: to go on elsewhere."""
        ...

    def restore(self, snapshot: bytes) -> None:
        """Go on where a snapshot was taken. Raises ValueError when it is none of this tracker's."""
        ...
