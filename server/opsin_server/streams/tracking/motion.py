"""How tracked boxes move: a Kalman filter of constant velocity for all tracks of a stream at once.

The state of a track is the centre, width and height of its box, and the velocity of each, in fractions of the
picture and per second. Noise is the same in all directions of one box and independent between its four
numbers, so the covariance is four 2 x 2 blocks, (position, velocity) of each number, held as three numbers
each; nothing needs a matrix product.

Noise scales with the box, as in SORT's successors: per step of 1/30 s, positions wander by 1/20 and
velocities by 1/160 of its width or height. Here both grow with the time that passed, which makes frames
that were dropped no different from frames that were never taken.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Motion", "to_boxes", "to_centres"]

Floats = npt.NDArray[np.float64]

_STEPS = 30.0  # a second, to which the noise refers
_POSITION = 1 / 20
_VELOCITY = 1 / 160


def to_centres(boxes: Floats) -> Floats:
    """(n, 4) corners to (n, 4) centre x, centre y, width, height."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], 1)


def to_boxes(centres: Floats) -> Floats:
    """The way back."""
    middle, half = centres[:, :2], np.maximum(centres[:, 2:], 1e-6) / 2
    return np.concatenate([middle - half, middle + half], 1)


def _scale(mean: Floats) -> Floats:
    """What the noise of each of the four numbers is proportional to: (n, 4)."""
    sides = np.maximum(mean[:, 2:], 1e-3)
    return np.concatenate([sides, sides], 1)


@dataclass(slots=True, eq=False)
class Motion:
    """The states of n tracks. mean, velocity: (n, 4). spread: (n, 4, 3), variance of the position,
    covariance, variance of the velocity."""

    mean: Floats
    velocity: Floats
    spread: Floats

    @staticmethod
    def begin(centres: Floats) -> "Motion":
        """Things seen for the first time: where they go is not known yet."""
        scale = _scale(centres)
        spread = np.zeros((*centres.shape, 3))
        spread[..., 0] = (2 * _POSITION * scale) ** 2
        spread[..., 2] = (10 * _VELOCITY * _STEPS * scale) ** 2
        return Motion(centres.copy(), np.zeros_like(centres), spread)

    def __len__(self) -> int:
        return len(self.mean)

    def predict(self, seconds: float) -> None:
        """Time passes."""
        if not len(self) or seconds <= 0:
            return
        scale = _scale(self.mean)
        self.mean += self.velocity * seconds
        self.mean[:, 2:] = np.maximum(self.mean[:, 2:], 1e-4)
        position, both, speed = (self.spread[..., i] for i in range(3))
        steps = seconds * _STEPS
        wander = (_VELOCITY * _STEPS * scale) ** 2 * steps
        position += 2 * seconds * both + seconds**2 * speed
        position += (_POSITION * scale) ** 2 * steps + wander * seconds**2 / 3
        both += seconds * speed + wander * seconds / 2
        speed += wander

    def correct(self, rows: npt.NDArray[np.int64], centres: Floats) -> None:
        """Tracks `rows` were seen at `centres`."""
        if not len(rows):
            return
        noise = (_POSITION * _scale(self.mean[rows])) ** 2
        position, both, speed = (self.spread[rows, :, i] for i in range(3))
        gain = position / (position + noise)
        gain_speed = both / (position + noise)
        error = centres - self.mean[rows]
        self.mean[rows] += gain * error
        self.velocity[rows] += gain_speed * error
        self.spread[rows, :, 0] = position * (1 - gain)
        self.spread[rows, :, 1] = both * (1 - gain)
        self.spread[rows, :, 2] = speed - gain_speed * both

    def keep(self, rows: npt.NDArray[np.int64]) -> "Motion":
        """Only these tracks, in this order."""
        return Motion(self.mean[rows], self.velocity[rows], self.spread[rows])

    def join(self, other: "Motion") -> "Motion":
        """These and the others."""
        return Motion(
            np.concatenate([self.mean, other.mean]),
            np.concatenate([self.velocity, other.velocity]),
            np.concatenate([self.spread, other.spread]),
        )
