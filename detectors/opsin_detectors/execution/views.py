"""The shipped pictures, and many views of them: crops, mirrored, darker; to prove and to calibrate with.

Real pictures on purpose: noise and grey squares say little about how a network's numbers spread.
"""

import functools
from pathlib import Path

import numpy as np

from opsin_detectors.api import ImageInput, Pixels

__all__ = ["Views", "pictures", "views"]

_FOLDER = Path(__file__).parent / "pictures"
Views = tuple[ImageInput, ...]

_CALIBRATING = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.8, 0.8), (0.2, 0.2, 1.0, 1.0), (0.1, 0.0, 0.9, 1.0))
_CHECKING = (
    (0.0, 0.1, 1.0, 0.95),
    (0.05, 0.05, 0.95, 0.95),
    (0.0, 0.0, 0.9, 0.9),
    (0.1, 0.1, 1.0, 1.0),
    (0.1, 0.0, 1.0, 0.9),
    (0.0, 0.1, 0.9, 1.0),
)
"""Corners of crops in shares of the picture. What is checked with is not what was calibrated with."""


@functools.cache
def pictures() -> Views:
    """The pictures as they are. Empty where Pillow is not installed: then nothing can be proved."""
    try:
        from PIL import Image
    except ImportError:
        return ()
    found = []
    for path in sorted(_FOLDER.glob("*.jpg")):
        with Image.open(path) as opened:
            found.append(_input(np.asarray(opened.convert("RGB"))))
    return tuple(found)


def views(*, checking: bool) -> Views:
    """Many views of each picture; other ones to check with than to calibrate with."""
    crops = _CHECKING if checking else _CALIBRATING
    found = []
    for picture in pictures():
        for crop in crops:
            part = _cropped(picture.pixels, crop)
            darker = (part.astype(np.uint16) * 3 // 4).astype(np.uint8)
            found += [_input(one) for one in (part, part[:, ::-1], darker)]
    return tuple(found)


def _cropped(pixels: Pixels, crop: tuple[float, float, float, float]) -> Pixels:
    rows, columns = pixels.shape[:2]
    left, top, right, bottom = crop
    return pixels[round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)]


def _input(pixels: Pixels) -> ImageInput:
    whole = np.ascontiguousarray(pixels)
    return ImageInput(whole, whole.shape[1], whole.shape[0])
