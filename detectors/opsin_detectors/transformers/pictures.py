"""Getting a picture into the shape that a checkpoint's image processor asks for.

`FastPictures` does it this project's way: uint8 all along, resized by torch, normalised once per batch on the
device. It is used only when it understands every setting of the processor *and* gives what the processor
gives on pictures tried while loading. Otherwise `StockPictures` calls the processor itself. Knows nothing of
models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from opsin_detectors import imaging, tensors
from opsin_detectors.api import ImageInput, InputSpec, Pixels, Prepared

__all__ = [
    "EXAMPLES",
    "FastPictures",
    "Pictures",
    "Recipe",
    "Steps",
    "StockPictures",
    "agrees",
    "choose",
    "gathered",
    "probe",
    "read_recipe",
]

Size = tuple[int, int]
"""Width, height."""


class Pictures(Protocol):
    """One way from pixels to a model's arguments."""

    spec: InputSpec | None
    decode_size: Size

    def prepare(self, pixels: Pixels, original: Size = (0, 0)) -> Prepared:
        """One picture, (rows, columns, 3) uint8 RGB.

        original: its size before it was decoded smaller, where that can matter to the result's size.
        """
        ...

    def arguments(self, batch: Any) -> dict[str, torch.Tensor]:
        """The model's keyword arguments for a batch, on its device."""
        ...


class Steps(Protocol):
    """What is done to pixels before a model sees them; mean and deviation in levels 0..255."""

    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def deviation(self) -> tuple[float, ...]: ...

    def apply(self, pixels: Pixels) -> Pixels:
        """Everything but the normalising."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a processor does, in order: resize, crop, normalise.

    stretch: resize to exactly this; None: resize to `short_side` in proportion. crop: the middle of that, or
        None.
    mean, deviation: per channel, in levels 0..255.
    """

    stretch: Size | None
    short_side: int
    crop: Size | None
    how: imaging.Filter
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def size(self) -> Size:
        """Of the result."""
        return self.crop or self.stretch or (self.short_side, self.short_side)

    def apply(self, pixels: Pixels) -> Pixels:
        """Everything but the normalising."""
        if self.stretch:
            resized = imaging.resize(pixels, *self.stretch, self.how)
        else:
            seen = imaging.middle(pixels, self.short_side, *self.crop) if self.crop else pixels
            resized = imaging.resize_short_side(seen, self.short_side, self.how)
        return imaging.center_crop(resized, *self.crop) if self.crop else resized


class FastPictures:
    """See the module."""

    def __init__(self, recipe: Recipe, device: torch.device, dtype: torch.dtype) -> None:
        self._recipe = recipe
        self._normalize = tensors.Normalizer(recipe.mean, recipe.deviation, device, dtype)
        width, height = recipe.size
        self.spec: InputSpec | None = InputSpec(height, width)
        self.decode_size = recipe.stretch or (recipe.short_side, recipe.short_side)

    def prepare(self, pixels: Pixels, original: Size = (0, 0)) -> Prepared:
        """uint8, of the stated size."""
        return Prepared(self._recipe.apply(pixels))

    def arguments(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """batch: (B, H, W, 3) uint8 on the device."""
        return {"pixel_values": self._normalize(batch)}


class Arrays(dict[str, Any]):
    """What a processor answers for one picture, by name, without the batch dimension."""

    @property
    def nbytes(self) -> int:
        """Held while it waits."""
        return sum(array.nbytes for array in self.values())


class StockPictures:
    """The checkpoint's own processor, one picture at a time; pictures of equal results share a batch."""

    spec: InputSpec | None = None
    decode_size: Size = (0, 0)

    def __init__(self, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._processor = processor
        self._device = device
        self._dtype = dtype

    def prepare(self, pixels: Pixels, original: Size = (0, 0)) -> Prepared:
        """Whatever arrays the processor answers."""
        # As a PIL image, because of an array of three rows the processor cannot tell where its channels are.
        answer = self._processor(images=Image.fromarray(pixels), return_tensors="np")
        arrays = Arrays((name, np.asarray(array)[0]) for name, array in answer.items())
        return Prepared(arrays, shape=tuple((name, array.shape) for name, array in arrays.items()))

    def arguments(self, batch: Sequence[Arrays]) -> dict[str, torch.Tensor]:
        """batch: the prepared arrays, stacked here."""
        return {name: self._tensor([one[name] for one in batch]) for name in batch[0]}

    def _tensor(self, arrays: Sequence[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.stack(arrays))
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)


def gathered(way: Pictures, given: Sequence[Any], device: torch.device) -> dict[str, torch.Tensor]:
    """The model's arguments for prepared pictures of one shape that nobody else has stacked and moved."""
    if way.spec is None:
        return way.arguments(given)
    return way.arguments(torch.from_numpy(np.stack(given)).to(device))


def choose(processor: Any, device: torch.device, dtype: torch.dtype) -> Pictures:
    """The fast way where it is proven right for this processor, else the processor."""
    recipe = read_recipe(processor.to_dict())
    if recipe is None or not agrees(recipe, processor):
        return StockPictures(processor, device, dtype)
    return FastPictures(recipe, device, dtype)


_UNDERSTOOD = frozenset(
    [
        "image_processor_type",
        "feature_extractor_type",
        "processor_class",
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "crop_pct",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
        "do_convert_rgb",
        "do_reduce_labels",
        "default_to_square",
        "data_format",
        "format",  # of annotations, as the next
        "do_convert_annotations",
    ]
)
# PIL's numbers.
_FILTERS = {2: imaging.Filter.BILINEAR, 3: imaging.Filter.BICUBIC}


def read_recipe(settings: Mapping[str, Any]) -> Recipe | None:
    """The recipe that a processor's settings describe; None when they ask for anything else."""
    # What is set to nothing, false or empty asks for nothing.
    if any(value and name not in _UNDERSTOOD for name, value in settings.items()):
        return None
    how = _FILTERS.get(settings.get("resample", 2))
    if how is None or not settings.get("do_resize"):
        return None
    steps = _sizes(settings)
    if steps is None:
        return None
    rescale = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    mean, deviation = (0.0,) * 3, (1.0,) * 3
    if settings.get("do_normalize"):
        mean, deviation = tuple(settings["image_mean"]), tuple(settings["image_std"])
    return Recipe(*steps, how, tuple(m / rescale for m in mean), tuple(d / rescale for d in deviation))


def _sizes(settings: Mapping[str, Any]) -> tuple[Size | None, int, Size | None] | None:
    """Stretch, short side and crop; None when the result has no one size."""
    size = {name: value for name, value in settings["size"].items() if value}
    crop = _pair(settings["crop_size"]) if settings.get("do_center_crop") else None
    match size:
        case {"height": _, "width": _, **rest} if not rest:
            return _pair(size), 0, crop
        case {"shortest_edge": side, **rest} if not rest and settings.get("crop_pct") and not crop:
            # ConvNeXT: below 384 it keeps the proportion and crops, from there on it stretches.
            square = (side, side)
            return (None, int(side / settings["crop_pct"]), square) if side < 384 else (square, 0, None)
        case {"shortest_edge": side, **rest} if not rest and crop:
            return None, side, crop
        case _:
            return None


def _pair(size: Mapping[str, int]) -> Size:
    return size["width"], size["height"]


_TRIED: tuple[Size, ...] = ((640, 427), (90, 131))


def agrees(steps: Steps, processor: Any, sizes: Sequence[Size] = _TRIED) -> bool:
    """Whether the steps give what the processor gives, on pictures of these widths and heights.

    To within 3 levels anywhere and 0.5 on average: resizings round differently. A mask that marks every pixel
    as real says nothing, and may be left out.
    """
    noise = np.random.default_rng(11)
    normalize = tensors.Normalizer(steps.mean, steps.deviation, torch.device("cpu"), torch.float32)
    for columns, rows in sizes:
        coarse = noise.integers(64, 192, (max(1, rows // 8), max(1, columns // 8), 3), np.uint8)
        pixels = imaging.resize(coarse, columns, rows)  # smooth, and with nothing to clip
        theirs = processor(images=Image.fromarray(pixels), return_tensors="np")
        ours = normalize(torch.from_numpy(steps.apply(pixels))[None]).numpy()
        if not set(theirs) <= {"pixel_values", "pixel_mask"} or not np.all(theirs.get("pixel_mask", 1)):
            return False
        if theirs["pixel_values"].shape != ours.shape:
            return False
        apart = np.abs(ours - theirs["pixel_values"]) * np.reshape(steps.deviation, (3, 1, 1))
        if apart.max() > 3.0 or apart.mean() > 0.5:
            return False
    return True


def _grey(width: int, height: int) -> ImageInput:
    return ImageInput(np.full((height, width, 3), 114, np.uint8), width, height)


EXAMPLES = tuple(
    _grey(*size)
    for size in ((640, 480), (480, 640), (640, 360), (360, 640), (480, 480), (640, 160), (640, 40))
)
"""Grey pictures of the proportions that cameras have, and of strips, for what gives each its own shape."""


def probe(processor: Any) -> dict[str, torch.Tensor]:
    """A model's arguments for two unlike pictures, on the CPU in float32: to try a model out with."""
    stock = StockPictures(processor, torch.device("cpu"), torch.float32)
    noise = np.random.default_rng(5)
    made: list[Pixels] = [np.full((64, 64, 3), 90, np.uint8), noise.integers(0, 256, (64, 64, 3), np.uint8)]
    return stock.arguments([stock.prepare(pixels).data for pixels in made])
