"""Faces behind the detector API, each of which a second stage looks at (`emotion.py`).

    prepare   fit into 416 x 416 from the top left, black around it, uint8 RGB
    infer     normalise per batch, forward, boxes
    finish    threshold, back to the picture, suppress

Owns finding faces. That their crops are cut, batched and merged is the server's work: this detector states
the stage and never runs it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from opsin_detectors import imaging, tensors
from opsin_detectors.api import (
    Box,
    Detection,
    Input,
    InputSpec,
    Item,
    LoadContext,
    ModelInfo,
    Options,
    Output,
    Prepared,
    Stage,
    Task,
)
from opsin_detectors.execution.decide import decide
from opsin_detectors.execution.network import Argument, Network, Program, Runnable
from opsin_detectors.face_emotion.emotion import Emotion
from opsin_detectors.face_emotion.network import FACE_SIZE, TinyFace
from opsin_detectors.face_emotion.weights_file import filled
from opsin_detectors.inputs import picture_of
from opsin_detectors.settings import Settings
from opsin_detectors.suppression import keep

__all__ = ["FaceEmotion"]

CLASSES = ("face",)

_MEAN = (117.001, 114.697, 97.404)
_LEVELS = (255.0, 255.0, 255.0)

_BROKEN = Output(detections=(Detection(Box(0.0, 0.0, 1.0, 1.0), CLASSES[0], math.nan),))
"""The answer where the network gave a number that is none: the server fails that item, and only that."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """How much of the canvas the picture takes, from the top left: shares of its width and height, 0..1."""

    width: float
    height: float


class FaceEmotion(Runnable):
    """Loaded weights on one device. Defaults: min_score 0.5, iou_threshold 0.4, 100 detections."""

    program: Program

    def __init__(self, context: LoadContext) -> None:
        Settings(context).done()
        device = tensors.device_of(context)
        path = Path(context.source) / "tiny_face.safetensors"
        emotion = Emotion(context)
        self.info = ModelInfo(
            tasks=frozenset({Task.DETECT}),
            classes=CLASSES,
            defaults=Options(min_score=0.5, iou_threshold=0.4, max_detections=100),
            input=InputSpec(FACE_SIZE, FACE_SIZE),
            max_batch=32 if device.type == "cpu" else 128,
            decode_size=(FACE_SIZE, FACE_SIZE),
            device=context.device,
            takes_tensors=True,
            memory_bytes=emotion.info.memory_bytes,
            stages=(Stage("emotion", emotion),),
        )
        normalize = tensors.Normalizer(_MEAN, _LEVELS, device, torch.float32)
        body = filled(TinyFace(), path).eval().requires_grad_(False).to(device)
        decide(self, Network(body, Argument("x", normalize), self.info.input), context)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Fit into the network's square, keeping the proportion."""
        pixels = picture_of("face-emotion", source).pixels
        canvas, scale, _ = imaging.letterbox(pixels, FACE_SIZE, FACE_SIZE)
        rows, columns = pixels.shape[:2]
        return Prepared(canvas, Fitted(scale * columns / FACE_SIZE, scale * rows / FACE_SIZE))

    @torch.inference_mode()
    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, 416, 416, 3) uint8 RGB -> (B, 845, 5) boxes on the canvas and score logits, float32."""
        outputs: torch.Tensor = self.program(batch)
        return outputs

    def finish(self, outputs: torch.Tensor, items: Sequence[Item]) -> list[Output]:
        """Faces of each item by its own options."""
        scores = outputs[..., 4].sigmoid().cpu().numpy()
        boxes = outputs[..., :4].cpu().numpy()
        return [_answer(*row) for row in zip(boxes, scores, items, strict=True)]


def _answer(boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], item: Item) -> Output:
    """Of one picture. boxes: (845, 4) in fractions of the canvas. scores: (845,)."""
    if not np.isfinite(scores.sum() + boxes.sum()):
        return _BROKEN
    options, fitted = item.options, item.state
    best = (scores >= options.min_score).nonzero()[0]
    best = best[np.argsort(-scores[best], kind="stable")]
    shares = np.array([fitted.width, fitted.height] * 2, np.float32)
    found = (boxes[best] / shares).clip(0.0, 1.0)
    inside = (found[:, 2:] > found[:, :2]).all(1)  # nothing is left of a box that lies outside the picture
    best, found = best[inside], found[inside]
    kept = keep(np.zeros(len(best), np.int64), found, options.iou_threshold)[: options.max_detections]
    return Output(
        detections=[
            Detection(Box(*found[index].tolist()), CLASSES[0], float(scores[best[index]])) for index in kept
        ]
    )
