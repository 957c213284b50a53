"""What somebody who serves these models with a peer would write: bytes in, JSON-ready answers out.

Runs in the peers' environments: torch, transformers, simplejpeg, and of Opsin only nanodet's forward pass and
its box decoding, which a user would otherwise have to copy. Decoding and resizing are as quick as Opsin's own
(simplejpeg, uint8 antialiased resize), normalising is done once a batch, the model is eager, float32, as
`from_pretrained` gives it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import simplejpeg
import torch

from opsin_detectors import imaging

__all__ = ["Classifier", "Detector", "UserModel", "load"]


class UserModel(Protocol):
    """read: a file to pixels of the model's size, uint8 (H, W, 3). run: a batch of those to answers."""

    def read(self, data: bytes) -> Any: ...

    def run(self, batch: Sequence[Any]) -> list[dict[str, Any]]: ...


def load(kind: str, source: str, threads: int) -> UserModel:
    """kind: "classifier" or "detector". source: a Hugging Face folder, or the detector's weights."""
    torch.set_num_threads(threads)
    return Classifier(Path(source)) if kind == "classifier" else Detector(Path(source))


def _pixels(data: bytes, width: int, height: int) -> torch.Tensor:
    rows, columns = simplejpeg.decode_jpeg_header(data)[:2]
    # The decoder may stop at a half, a quarter or an eighth, but never below what the model looks at.
    factor = max(
        (one for one in (1, 2, 4, 8) if rows // one >= height and columns // one >= width), default=1
    )
    pixels = simplejpeg.decode_jpeg(
        data, min_height=-(-rows // factor), min_width=-(-columns // factor), min_factor=1
    )
    return torch.from_numpy(imaging.resize(pixels, width, height))


class Classifier:
    """An image classifier from a Hugging Face folder that stretches its pictures to one size."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageClassification

        self._model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
        told = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        self._width, self._height = told["size"]["width"], told["size"]["height"]
        scale = 1 / (255 * torch.tensor(told["image_std"]).view(1, 3, 1, 1))
        self._scale = scale
        self._shift = -torch.tensor(told["image_mean"]).view(1, 3, 1, 1) * 255 * scale
        names = self._model.config.id2label
        self._names = [names[index] for index in range(len(names))]

    def read(self, data: bytes) -> Any:
        """Pixels of the model's size."""
        return _pixels(data, self._width, self._height)

    @torch.inference_mode()
    def run(self, batch: Sequence[Any]) -> list[dict[str, Any]]:
        """Scores of all labels."""
        levels = torch.stack(list(batch)).permute(0, 3, 1, 2).float().contiguous()
        logits = self._model(pixel_values=levels * self._scale + self._shift).logits
        return [
            {"labels": [[name, score] for name, score in zip(self._names, row, strict=True)]}
            for row in logits.softmax(-1).tolist()
        ]


class Detector:
    """NanoDet-g, at its own minimum score and overlap."""

    MIN_SCORE, OVERLAP = 0.35, 0.5

    def __init__(self, weights: Path) -> None:
        from safetensors.torch import load_file

        from opsin_detectors.nanodet import boxes, network
        from opsin_detectors.nanodet.coco import CLASSES

        self._boxes, self._size, self._names = boxes, network.SIZE, CLASSES
        self._model = network.NanoDetG().eval()
        self._model.load_state_dict(load_file(weights))
        self._points = boxes.points("cpu")
        # As the network was trained: blue, green, red.
        self._mean = torch.tensor([103.53, 116.28, 123.675]).view(1, 3, 1, 1)
        self._deviation = torch.tensor([57.375, 57.12, 58.395]).view(1, 3, 1, 1)

    def read(self, data: bytes) -> Any:
        """Pixels of the model's size."""
        return _pixels(data, self._size, self._size)

    @torch.inference_mode()
    def run(self, batch: Sequence[Any]) -> list[dict[str, Any]]:
        """Boxes over the minimum score, after suppression."""
        # Planar, as every common way from a picture to a tensor gives it.
        levels = torch.stack(list(batch)).permute(0, 3, 1, 2).flip(1).float().contiguous()
        outputs = self._model((levels - self._mean) / self._deviation)
        found = self._boxes.candidates(outputs, self._points, [self.MIN_SCORE] * len(batch))
        return [{"boxes": self._rows(found, found.image == index)} for index in range(len(batch))]

    def _rows(self, found: Any, mine: Any) -> list[list[Any]]:
        label, score, box = found.label[mine], found.score[mine], found.box[mine]
        kept = np.asarray(self._boxes.keep(label, box, self.OVERLAP))[:100]
        return [
            [self._names[name], float(one), *where.tolist()]
            for name, one, where in zip(label[kept], score[kept], box[kept], strict=True)
        ]
