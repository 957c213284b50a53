"""NanoDet-g behind the detector API: pictures in, boxes of COCO's 80 classes out.

    prepare   stretch to 416 x 416, uint8 RGB
    infer     normalise per batch, forward
    finish    threshold, decode, suppress (`boxes.py`)

Owns loading the weights and the order of the steps; the arithmetic is in `network.py` and `boxes.py`.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from opsin_detectors import imaging, tensors
from opsin_detectors.api import (
    Box,
    Detection,
    ImageInput,
    Input,
    InputError,
    InputSpec,
    Item,
    LoadContext,
    LoadError,
    ModelInfo,
    Options,
    Output,
    Prepared,
    Task,
)
from opsin_detectors.execution.decide import decide
from opsin_detectors.execution.network import Argument, Network, Program, Runnable
from opsin_detectors.nanodet.boxes import Candidates, candidates, finite, keep, points
from opsin_detectors.nanodet.coco import CLASSES
from opsin_detectors.nanodet.network import SIZE, NanoDetG
from opsin_detectors.settings import Settings

__all__ = ["NanoDet"]

# Of the 0..255 levels, in RGB. The network was trained on BGR: `_load` swaps its first weights instead of
# pixels.
_MEAN = (123.675, 116.28, 103.53)
_DEVIATION = (58.395, 57.12, 57.375)

_FIRST = "stem.0.weight"

_BROKEN = Output(detections=(Detection(Box(0.0, 0.0, 1.0, 1.0), CLASSES[0], math.nan),))
"""The answer where the network gave a number that is none: the server fails that item, and only that."""


class NanoDet(Runnable):
    """Loaded weights on one device. Defaults: min_score 0.35, iou_threshold 0.5, 100 detections."""

    program: Program

    def __init__(self, context: LoadContext) -> None:
        Settings(context).done()
        device = tensors.device_of(context)
        self._points = points("cpu")
        self.info = ModelInfo(
            tasks=frozenset({Task.DETECT}),
            classes=CLASSES,
            defaults=Options(min_score=0.35, iou_threshold=0.5, max_detections=100),
            input=InputSpec(SIZE, SIZE),
            max_batch=32 if device.type == "cpu" else 128,
            decode_size=(SIZE, SIZE),
            device=context.device,
            takes_tensors=True,
        )
        normalize = tensors.Normalizer(_MEAN, _DEVIATION, device, torch.float32)
        body = _load(context).eval().requires_grad_(False).to(device)
        network = Network(body, Argument("x", normalize), self.info.input)
        decide(self, network, context)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Stretch to the network's size."""
        match source:
            case ImageInput():
                return Prepared(imaging.resize(source.pixels, SIZE, SIZE))
            case _:
                raise InputError("nanodet looks at pictures; it was given a text")

    @torch.inference_mode()
    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, 416, 416, 3) uint8 RGB -> (B, 3549, 124) logits, on the same device."""
        outputs: torch.Tensor = self.program(batch)
        return outputs

    @torch.inference_mode()
    def finish(self, outputs: torch.Tensor, items: Sequence[Item]) -> list[Output]:
        """Boxes of each item by its own options."""
        sound = finite(outputs)
        # The server brings outputs home first; whoever calls this without it may not.
        where = self._points.to(outputs.device)
        labels = {row: _numbers(item.options.labels) for row, item in enumerate(items) if item.options.labels}
        found = candidates(outputs, where, [item.options.min_score for item in items], labels)
        bounds = np.searchsorted(found.image, np.arange(len(items) + 1))
        return [
            _answer(found, slice(first, last), item.options) if good else _BROKEN
            for item, good, (first, last) in zip(items, sound, pairwise(bounds), strict=True)
        ]


def _load(context: LoadContext) -> NanoDetG:
    path = Path(context.source)
    if not path.is_file():
        raise LoadError(f"nanodet's weights are missing: {path} is not a file")
    network = NanoDetG()
    try:
        weights = load_file(path)
        weights[_FIRST] = weights[_FIRST].flip(1)
        network.load_state_dict(weights)
    except Exception as error:
        raise LoadError(f"{path} does not hold the weights of NanoDet-g: {error}") from error
    return network


def _numbers(names: Iterable[str]) -> list[int]:
    return [CLASSES.index(name) for name in names if name in CLASSES]


def _answer(found: Candidates, mine: slice, options: Options) -> Output:
    label, score, box = found.label[mine], found.score[mine], found.box[mine]
    kept = keep(label, box, options.iou_threshold)[: options.max_detections]
    return Output(
        detections=[_detection(*row) for row in zip(box[kept], label[kept], score[kept], strict=True)]
    )


def _detection(box: Any, label: Any, score: Any) -> Detection:
    return Detection(Box(*box.tolist()), CLASSES[label], float(score), int(label))
