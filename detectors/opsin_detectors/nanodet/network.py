"""The network of NanoDet-g: a CSP backbone, a path-aggregation neck, and one small head per level.

Attribute names are the keys of the weights' file. Batch normalisation is folded into the convolutions
already.
Knows tensors only: pictures, scores and boxes are the business of `detector.py` and `boxes.py`.

Source of the architecture: NanoDet (https://github.com/RangiLyu/nanodet), configuration nanodet-g.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["BINS", "CLASSES", "SIZE", "STRIDES", "NanoDetG"]

SIZE = 416
STRIDES = (8, 16, 32)
CLASSES = 80
BINS = 11
"""A box side's distance from its point is a distribution over 0, 1, ... 10 strides."""

_NECK = 128


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(0.1, inplace=True))


class CspStage(nn.Module):
    """A cross-stage-partial stage: (B, channels, H, W) -> (B, 2 x channels, H / stride, W / stride).

    One half of the result is the first convolution's, the other went through `blocks` small residual pairs.
    """

    def __init__(self, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.inp = _convolution(channels, channels, stride)
        self.a = nn.ModuleList(_convolution(channels, half) for _ in range(blocks))
        self.b = nn.ModuleList(_convolution(half, half) for _ in range(blocks))
        self.out = _convolution(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        shortcut = x = self.inp(x)
        for first, second in zip(self.a, self.b, strict=True):
            narrow = first(x)
            x = torch.cat([second(narrow), narrow], 1)
        return torch.cat([self.out(x), shortcut], 1)


class NanoDetG(nn.Module):
    """(B, 3, 416, 416) normalised BGR -> (B, 3549, 124): per point 80 class logits and 4 x 11 distance
    logits.

    Points run level by level (strides 8, 16, 32), row by row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 32, 2)
        self.s1 = CspStage(32, blocks=1, stride=1)
        self.s2 = CspStage(64, blocks=2, stride=2)
        self.s3 = CspStage(128, blocks=2, stride=2)
        self.s4 = CspStage(256, blocks=3, stride=2)
        self.lat = nn.ModuleList(nn.Conv2d(channels, _NECK, 1) for channels in (128, 256, 512))
        self.head = nn.ModuleList(_convolution(_NECK, _NECK) for _ in STRIDES)
        self.pred = nn.ModuleList(nn.Conv2d(_NECK, CLASSES + 4 * BINS, 1) for _ in STRIDES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.s1(F.max_pool2d(self.stem(x), 3, 2, 1))
        fine = self.s2(x)
        middle = self.s3(fine)
        coarse = self.s4(middle)
        predictions = [
            pred(head(level)).flatten(2).transpose(1, 2)
            for level, head, pred in zip(self._neck(fine, middle, coarse), self.head, self.pred, strict=True)
        ]
        return torch.cat(predictions, 1)

    def _neck(self, *levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Coarse knowledge goes down to the fine levels, then fine knowledge back up."""
        fine, middle, coarse = (lateral(level) for lateral, level in zip(self.lat, levels, strict=True))
        middle = middle + _resized(coarse, middle)
        fine = fine + _resized(middle, fine)
        middle = middle + _resized(fine, middle)
        coarse = coarse + _resized(middle, coarse)
        return fine, middle, coarse


def _resized(x: torch.Tensor, like: torch.Tensor) -> Any:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
