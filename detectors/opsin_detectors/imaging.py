"""Resizing, cropping and letterboxing of uint8 pictures, with torch, for detectors' `prepare`.

Pixels stay uint8, (rows, columns, 3), C-contiguous, from end to end. Resizing is antialiased as Pillow's is,
and equal to it within one level, two in a pixel of ten thousand. Bicubic differs by more (7 levels seen on a
photograph) at edges from black to white where it overshoots: both clip between their two passes, each in its
own order.

Why not `torch.nn.functional.interpolate`: it writes its uint8 result planar, and turning that back into rows
of pixels costs more than the resizing. The operator beneath it accepts a result that is already interleaved:
VGA to 416 x 416 on one thread takes 0.34 ms so, 1.15 ms through `interpolate`, 2.4 ms in Pillow; from 1920 x
1080 0.9, 1.8 and 9 ms. Sets no thread counts: that is the business of whoever runs this.

Everything here takes a torch tensor as well, uint8 of the same shape, on any device, and gives a tensor on
that device. Torch has no uint8 kernel for resizing on a GPU, so tensors are resized in float32 and rounded.
That is within one level of what arrays give, bicubic within two in a few pixels of a hundred thousand (tested
on the CPU, where the same code runs).
"""

from enum import Enum
from typing import Any, TypeVar

import numpy as np
import torch

from opsin_detectors.api import Pixels

__all__ = ["Filter", "Picture", "borrow", "center_crop", "letterbox", "middle", "resize", "resize_short_side"]

Picture = TypeVar("Picture", Pixels, torch.Tensor)
"""uint8, (rows, columns, channels): an array in the host's memory, or a tensor where it is."""

_STEEP = 32
"""Tensors that shrink by more than this are resized by the CPU: a GPU's kernel keeps the weights of all that
lies under one result in shared memory, and refuses where they do not fit."""

_STRIP = 32
"""A picture is as good as endless when it is so many crops long."""


class Filter(Enum):
    """How pixels are weighed when resizing; always antialiased."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


_OPERATORS: dict[Filter, Any] = {
    Filter.BILINEAR: torch.ops.aten._upsample_bilinear2d_aa.out,
    Filter.BICUBIC: torch.ops.aten._upsample_bicubic2d_aa.out,
}
_FLOAT_OPERATORS: dict[Filter, Any] = {
    Filter.BILINEAR: torch.ops.aten._upsample_bilinear2d_aa.default,
    Filter.BICUBIC: torch.ops.aten._upsample_bicubic2d_aa.default,
}


def resize(pixels: Picture, width: int, height: int, how: Filter = Filter.BILINEAR) -> Picture:
    """`pixels` stretched to (height, width, channels). The same object when that is its size already."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if isinstance(pixels, torch.Tensor):
        return _resize_tensor(pixels, width, height, how)
    with torch.inference_mode():
        result = torch.empty((height, width, pixels.shape[2]), dtype=torch.uint8)
        _OPERATORS[how](_planes(borrow(pixels)), [height, width], False, None, None, out=_planes(result))
        resized: Pixels = result.numpy()
    return resized


def _resize_tensor(pixels: torch.Tensor, width: int, height: int, how: Filter) -> torch.Tensor:
    rows, columns = pixels.shape[:2]
    if max(rows / height, columns / width) > _STEEP:
        return torch.from_numpy(resize(pixels.cpu().numpy(), width, height, how)).to(pixels.device)
    with torch.inference_mode():
        planes = _planes(pixels).float()
        if how is Filter.BICUBIC:
            # It overshoots at edges: as the uint8 kernel does, clip between the passes too.
            planes = _levels(_scaled(planes, width, rows, how))
        return _levels(_scaled(planes, width, height, how)).to(torch.uint8)[0].permute(1, 2, 0).contiguous()


def _scaled(planes: torch.Tensor, width: int, height: int, how: Filter) -> torch.Tensor:
    scaled: torch.Tensor = _FLOAT_OPERATORS[how](planes, [height, width], False, None, None)
    return scaled


def _levels(planes: torch.Tensor) -> torch.Tensor:
    return planes.round_().clamp_(0.0, 255.0)


def resize_short_side(pixels: Picture, size: int, how: Filter = Filter.BILINEAR) -> Picture:
    """`pixels` with the shorter side `size` long and the longer one in proportion, rounded down."""
    height, width = pixels.shape[:2]
    if height <= width:
        return resize(pixels, max(1, size * width // height), size, how)
    return resize(pixels, size, max(1, size * height // width), how)


def middle(pixels: Picture, size: int, width: int, height: int) -> Picture:
    """What there is to see of `pixels` in the middle (height, width) of them, the shorter side `size` long.

    The same object but for strips, of which `resize_short_side` would make many millions of pixels. Cut on
    both sides alike, and far from what is seen, so that it stays where it was to a part of a pixel.
    """
    rows, columns = pixels.shape[:2]
    top, left = _cut(rows, columns, size, height), _cut(columns, rows, size, width)
    return pixels[top : rows - top, left : columns - left] if top or left else pixels


def _cut(side: int, other: int, size: int, seen: int) -> int:
    """Pixels to cut at each end of a side of which so many, resized, are seen. It stays the longer one."""
    if side * size <= _STRIP * seen * other:
        return 0
    return max(0, side - max(other, _STRIP // 2 * seen * other // size + 1)) // 2


def center_crop(pixels: Picture, width: int, height: int) -> Picture:
    """The middle (height, width) of `pixels`, black where they are smaller than that."""
    rows, columns = pixels.shape[:2]
    if rows >= height and columns >= width:
        top, left = (rows - height) // 2, (columns - width) // 2
        return _tight(pixels[top : top + height, left : left + width])
    canvas = _canvas(pixels, max(rows, height), max(columns, width), 0)
    # The odd pixel of the border is above and to the left, as Hugging Face's processors have it.
    top, left = (canvas.shape[0] - rows + 1) // 2, (canvas.shape[1] - columns + 1) // 2
    canvas[top : top + rows, left : left + columns] = pixels
    return center_crop(canvas, width, height)


def letterbox(
    pixels: Picture,
    width: int,
    height: int,
    *,
    fill: int = 0,
    centered: bool = False,
    how: Filter = Filter.BILINEAR,
) -> tuple[Picture, float, tuple[int, int]]:
    """`pixels` fitted into (height, width) in proportion, the rest filled with the level `fill`.

    Answers the canvas, the scale (canvas pixels per picture pixel), and the picture's left and top on the
    canvas: 0, 0 unless `centered`.
    """
    rows, columns = pixels.shape[:2]
    scale = min(width / columns, height / rows)
    inner_width = min(width, max(1, round(columns * scale)))
    inner_height = min(height, max(1, round(rows * scale)))
    left, top = ((width - inner_width) // 2, (height - inner_height) // 2) if centered else (0, 0)
    canvas = _canvas(pixels, height, width, fill)
    canvas[top : top + inner_height, left : left + inner_width] = resize(
        pixels, inner_width, inner_height, how
    )
    return canvas, scale, (left, top)


def _tight(pixels: Picture) -> Picture:
    """Rows without gaps between them."""
    return pixels.contiguous() if isinstance(pixels, torch.Tensor) else np.ascontiguousarray(pixels)


def _canvas(like: Picture, height: int, width: int, fill: int) -> Picture:
    """Of one level, where `like` is."""
    shape = (height, width, like.shape[2])
    if isinstance(like, torch.Tensor):
        return torch.full(shape, fill, dtype=torch.uint8, device=like.device)
    return np.full(shape, fill, np.uint8)


def borrow(pixels: Pixels) -> torch.Tensor:
    """The same memory as a tensor, to be read only. Keep `pixels` alive as long as the tensor.

    torch warns of arrays that are not writable, such as views of received bytes; this does not write.
    """
    return torch.from_numpy(pixels if pixels.flags.writeable else np.asarray(_Writable(pixels)))


class _Writable:
    """A read-only array's memory, offered as writable by numpy's array interface, without a copy."""

    def __init__(self, pixels: Pixels) -> None:
        self._kept = pixels
        self.__array_interface__ = {
            **pixels.__array_interface__,
            "data": (pixels.__array_interface__["data"][0], False),
        }


def _planes(tensor: torch.Tensor) -> torch.Tensor:
    """(rows, columns, channels) seen as (1, channels, rows, columns), channels-last in memory."""
    return tensor.permute(2, 0, 1).unsqueeze(0)
