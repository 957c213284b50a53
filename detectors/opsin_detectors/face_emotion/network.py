"""The two networks of the cascade: `TinyFace` finds faces, `FaceExpression` scores what one shows.

Attribute names are the keys of the weights' files. Both come from TensorFlow, whose "same" padding puts the
odd row and column below and to the right; hence the padding by hand. Knows tensors only.

Source of the architectures: face-api.js (https://github.com/justadudewhohacks/face-api.js).
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["ANCHORS", "EMOTION_SIZE", "FACE_SIZE", "GRID", "FaceExpression", "TinyFace"]

FACE_SIZE = 416
EMOTION_SIZE = 112
GRID = 13
"""Cells in a row and in a column of the face network's output."""
ANCHORS = (
    (1.603231, 2.094468),
    (6.041143, 7.080126),
    (2.882459, 3.518061),
    (4.266906, 5.178857),
    (9.041765, 10.66308),
)
"""Width and height, in cells, of the boxes that a cell's five predictions start from."""

_NUMBERS = 5
"""Of each prediction: x, y, width, height and score."""


def _same(x: torch.Tensor, stride: int) -> torch.Tensor:
    """Padded so that a 3 x 3 kernel answers ceil(side / stride), as TensorFlow's "same" does."""
    before_after = []
    for side in (x.shape[3], x.shape[2]):
        missing = max((-(-side // stride) - 1) * stride + 3 - side, 0)
        before_after += [missing // 2, missing - missing // 2]
    return F.pad(x, before_after)


class Separable(nn.Module):
    """A depthwise 3 x 3 and a pointwise convolution.

    (B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.dw = nn.Conv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.pw = nn.Conv2d(inputs, outputs, 1)
        self._stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.pw(self.dw(_same(x, self._stride)))
        return out


class TinyFace(nn.Module):
    """(B, 3, 416, 416) normalised RGB -> (B, 845, 5) boxes and score logits, of 13 x 13 cells by 5 anchors.

    A row is x_min, y_min, x_max, y_max in fractions of the canvas, not cut at its edges, and the logit of the
    score. Always float32, whatever the type of the weights: half a bit of a box is pixels.
    """

    _corners: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        channels = (16, 32, 64, 128, 256, 512)
        self.c0 = nn.Conv2d(3, channels[0], 3)
        self.sep = nn.ModuleList(map(Separable, channels, channels[1:]))
        self.c8 = nn.Conv2d(channels[-1], len(ANCHORS) * _NUMBERS, 1)
        cells = torch.arange(GRID, dtype=torch.float32)
        y, x = torch.meshgrid(cells, cells, indexing="ij")
        self.register_buffer("_corners", torch.stack([x, y], -1)[:, :, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = F.max_pool2d(F.leaky_relu(self.c0(x), 0.1), 2, 2, ceil_mode=True)
        for block in self.sep[:-1]:
            x = F.max_pool2d(F.leaky_relu(block(x), 0.1), 2, 2, ceil_mode=True)
        x = F.leaky_relu(self.sep[-1](x), 0.1)
        # The last pooling keeps the size: one column and one row more, that win nowhere.
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-1e4), 2, 1)
        return self._decoded(self.c8(x).float())

    def _decoded(self, raw: torch.Tensor) -> torch.Tensor:
        cells = raw.permute(0, 2, 3, 1).reshape(-1, GRID, GRID, len(ANCHORS), _NUMBERS)
        center = cells[..., :2].sigmoid() + self._corners.float()
        half = cells[..., 2:4].exp() * raw.new_tensor(ANCHORS) / 2  # never rounded to the weights' type
        boxes = torch.cat([center - half, center + half], -1) / GRID
        return torch.cat([boxes, cells[..., 4:]], -1).flatten(1, 3)


class DenseBlock(nn.Module):
    """Four convolutions, each fed with the sum of all before it; the first one halves the size."""

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        head = nn.Conv2d(inputs, outputs, 3, 2) if first else Separable(inputs, outputs, 2)
        self.c = nn.ModuleList([head, *(Separable(outputs, outputs) for _ in range(3))])
        self._first = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / 2), ceil(W / 2))."""
        x = total = F.relu(self.c[0](_same(x, 2) if self._first else x))
        for convolution in self.c[1:]:
            total = total + convolution(x)
            x = F.relu(total)
        return x


class FaceExpression(nn.Module):
    """(B, 3, 112, 112) normalised RGB face -> (B, 7) logits of emotions."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, 32, 64, 128, 256)
        self.b = nn.ModuleList(
            DenseBlock(inputs, outputs, first=inputs == 3) for inputs, outputs in pairwise(sizes)
        )
        self.fc = nn.Linear(256, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        for block in self.b:
            x = block(x)
        logits: torch.Tensor = self.fc(F.avg_pool2d(x, 7, 2).flatten(1))
        return logits
