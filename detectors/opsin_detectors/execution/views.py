"""The shipped pictures, and views of them (crops, mirrored, darker): to calibrate with, others to check with.

What is checked with, calibration never saw: other views of the same picture would say little about pictures
of users. Real ones on purpose: noise and grey squares say little about how a network's numbers spread.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from opsin_detectors.api import ImageInput, Pixels

__all__ = ["Views", "files", "pictures", "views"]

_FOLDER = Path(__file__).parent / "pictures"
Views = tuple[ImageInput, ...]

_CALIBRATING, _CHECKING = "calibrating", "checking"
_PROVING = frozenset({"astronaut", "camera", "chelsea", "coffee", "rocket"})
"""What ways of running a model are proved on that need no calibration: every picture costs time for each."""
_CROPS = {
    _CALIBRATING: ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.8, 0.8)),
    _CHECKING: ((0.05, 0.05, 0.95, 0.95), (0.1, 0.0, 1.0, 0.9)),
}
"""Corners in shares of the picture."""


@functools.cache
def pictures() -> Views:
    """Five pictures as they are. Empty where Pillow is not installed: then nothing can be proved."""
    return _read(files())


def files() -> list[Path]:
    """Where `pictures` lie, for whoever wants to decode them by itself."""
    return sorted(
        (path for path in _FOLDER.glob("*/*.jpg") if path.stem in _PROVING), key=lambda path: path.name
    )


def views(*, checking: bool) -> Views:
    """Views of each of many pictures, which to check with are others than to calibrate with.

    Empty as `pictures` is.
    """
    what = _CHECKING if checking else _CALIBRATING
    found = []
    for picture in _read((_FOLDER / what).glob("*.jpg")):
        for crop in _CROPS[what]:
            part = _cropped(picture.pixels, crop)
            darker = (part.astype(np.uint16) * 3 // 4).astype(np.uint8)
            found += [_input(one) for one in (part, part[:, ::-1], darker)]
    return tuple(found)


def _read(paths: Iterable[Path]) -> Views:
    try:
        from PIL import Image
    except ImportError:
        return ()
    found = []
    for path in sorted(paths, key=lambda path: path.name):
        with Image.open(path) as opened:
            found.append(_input(np.asarray(opened.convert("RGB"))))
    return tuple(found)


def _cropped(pixels: Pixels, crop: tuple[float, float, float, float]) -> Pixels:
    rows, columns = pixels.shape[:2]
    left, top, right, bottom = crop
    return pixels[round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)]


def _input(pixels: Pixels) -> ImageInput:
    whole = np.ascontiguousarray(pixels)
    return ImageInput(whole, whole.shape[1], whole.shape[0])
