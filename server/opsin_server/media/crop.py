"""Cutting a region out of a decoded picture. Pure, for worker threads."""

import math

import numpy as np

from opsin_detectors.api import Box, ImageInput
from opsin_server.media.device import tight

__all__ = ["crop"]


def crop(image: ImageInput, region: Box) -> ImageInput:
    """The part of `image` inside `region` (fractions), at least one pixel, grown to whole pixels.

    width and height of the result are those of the part in the upright original.
    """
    rows, columns = image.pixels.shape[:2]
    left, right = _span(region.x_min, region.x_max, columns)
    top, bottom = _span(region.y_min, region.y_max, rows)
    x_min, x_max = _span(region.x_min, region.x_max, image.width)
    y_min, y_max = _span(region.y_min, region.y_max, image.height)
    part = image.pixels[top:bottom, left:right]
    pixels = np.ascontiguousarray(part) if isinstance(part, np.ndarray) else tight(part)
    return ImageInput(pixels, x_max - x_min, y_max - y_min)


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """[low, high] as a range of whole pixels, never empty, inside 0..size."""
    first = min(max(0, math.floor(low * size + 1e-6)), size - 1)
    last = max(first + 1, min(size, math.ceil(high * size - 1e-6)))
    return first, last
