"""Pictures that keep their proportions, so that each has a size of its own: what DETR and its kin look at.

The same bargain as in `pictures.py`: uint8 all along where that gives the stock processor's pixels, else the
processor. Pictures are not padded to their neighbours' size, as the processor would in a batch: those of
equal size share a batch, and an answer does not depend on what else came in. Knows nothing of models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from opsin_detectors import imaging, tensors
from opsin_detectors.api import InputSpec, Pixels, Prepared
from opsin_detectors.transformers import pictures

__all__ = ["Proportion", "VariedPictures", "choose", "fitted"]

Size = tuple[int, int]
"""Width, height."""

_TRIED: tuple[Size, ...] = ((640, 427), (90, 131), (500, 100), (97, 401))
"""Wide and tall, ordinary and so long that the longest edge decides."""


def fitted(width: int, height: int, shortest: int, longest: int, multiple: int = 1) -> Size:
    """The size with its shorter side `shortest`, or less where the longer one would pass `longest`.

    Rounded as Hugging Face's processors do it, to the order of their divisions: a size that is off by one
    pixel moves boxes. multiple: both sides are cut to multiples of it (YOLOS: 16).
    """
    low, high = float(min(width, height)), float(max(width, height))
    exact, side = float(shortest), shortest
    if high / low * shortest > longest:
        exact = longest * low / high
        side = round(exact)
    if min(width, height) == side and multiple == 1:
        return width, height
    long_side = int(exact * max(width, height) / min(width, height))
    wide, tall = (side, long_side) if width < height else (long_side, side)
    return max(multiple, wide - wide % multiple), max(multiple, tall - tall % multiple)


@dataclass(frozen=True, slots=True)
class Proportion:
    """Resizing within bounds, then normalising. mean, deviation: per channel, in levels 0..255."""

    shortest: int
    longest: int
    multiple: int
    how: imaging.Filter
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def size(self, width: int, height: int) -> Size:
        """Of the result, for a picture of this size."""
        return fitted(width, height, self.shortest, self.longest, self.multiple)

    def apply(self, pixels: Pixels) -> Pixels:
        """Everything but the normalising."""
        return imaging.resize(pixels, *self.size(pixels.shape[1], pixels.shape[0]), self.how)


class VariedPictures:
    """uint8 pictures of many sizes; those of equal size share a batch."""

    spec: InputSpec | None = None

    def __init__(self, steps: Proportion, device: torch.device, dtype: torch.dtype) -> None:
        self._steps = steps
        self._device = device
        self._normalize = tensors.Normalizer(steps.mean, steps.deviation, device, dtype)
        # Both sides shrink alike, so a picture with its shorter side that long is large enough.
        self.decode_size = (steps.shortest, steps.shortest)

    def prepare(self, pixels: Pixels, original: Size = (0, 0)) -> Prepared:
        """uint8, of the size that the original asks for."""
        width, height = self._steps.size(*(original if all(original) else pixels.shape[1::-1]))
        return Prepared(imaging.resize(pixels, width, height, self._steps.how), shape=(width, height))

    def arguments(self, batch: Sequence[Pixels]) -> dict[str, torch.Tensor]:
        """batch: pictures of one size. No mask: without one every pixel is taken for real, as it is."""
        stacked = torch.from_numpy(np.stack(batch)).to(self._device)
        return {"pixel_values": self._normalize(stacked)}


def choose(processor: Any, device: torch.device, dtype: torch.dtype) -> pictures.Pictures:
    """The fast way where it is proven right for this processor, else the processor."""
    settings = dict(processor.to_dict())
    for multiple in (1, 16):
        steps = _read(settings, multiple)
        if steps is not None and pictures.agrees(steps, processor, _TRIED):
            return VariedPictures(steps, device, dtype)
    return pictures.choose(processor, device, dtype)


def _read(settings: Mapping[str, Any], multiple: int) -> Proportion | None:
    """The steps that a processor's settings describe, if they keep proportions; None for anything else."""
    match {name: value for name, value in settings["size"].items() if value} if settings.get("size") else {}:
        case {"shortest_edge": shortest, "longest_edge": longest, **rest} if not rest:
            # Padding to one's own size is none. What is left is what a recipe of one fixed size has as well.
            fixed = {**settings, "do_pad": False, "size": {"height": shortest, "width": shortest}}
            recipe = pictures.read_recipe(fixed)
        case _:
            return None
    if recipe is None or recipe.crop:
        return None
    return Proportion(shortest, longest, multiple, recipe.how, recipe.mean, recipe.deviation)
