"""What emotion a face shows: a classifier of crops that hold one face. The second stage of `face-emotion`.

An ordinary detector in all respects; it is loaded by the first stage and not found on its own.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from opsin_detectors import imaging, tensors
from opsin_detectors.api import (
    Input,
    InputSpec,
    Item,
    Label,
    LoadContext,
    ModelInfo,
    Options,
    Output,
    Prepared,
    Task,
)
from opsin_detectors.execution.decide import decide
from opsin_detectors.execution.network import Argument, Network, Program, Runnable
from opsin_detectors.face_emotion.network import EMOTION_SIZE, FaceExpression
from opsin_detectors.face_emotion.weights_file import filled
from opsin_detectors.inputs import picture_of

__all__ = ["EMOTIONS", "Emotion"]

EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")

_MEAN = (122.782, 117.001, 104.298)
_LEVELS = (255.0, 255.0, 255.0)


class Emotion(Runnable):
    """The expression network on one device: a crop of a face -> all seven emotions."""

    program: Program

    def __init__(self, context: LoadContext) -> None:
        device = tensors.device_of(context)
        path = Path(context.source) / "face_expression.safetensors"
        self.info = ModelInfo(
            tasks=frozenset({Task.CLASSIFY_IMAGE}),
            classes=EMOTIONS,
            input=InputSpec(EMOTION_SIZE, EMOTION_SIZE),
            max_batch=64 if device.type == "cpu" else 256,
            decode_size=(EMOTION_SIZE, EMOTION_SIZE),
            device=context.device,
            takes_tensors=True,
        )
        normalize = tensors.Normalizer(_MEAN, _LEVELS, device, torch.float32)
        body = filled(FaceExpression(), path).eval().requires_grad_(False).to(device)
        decide(self, Network(body, Argument("x", normalize), self.info.input), context)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Fit the crop into the middle of a black square."""
        pixels = picture_of("face-emotion", source).pixels
        canvas, _, _ = imaging.letterbox(pixels, EMOTION_SIZE, EMOTION_SIZE, centered=True)
        return Prepared(canvas)

    @torch.inference_mode()
    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, 112, 112, 3) uint8 RGB -> (B, 7) scores that add up to 1, float32."""
        scores: torch.Tensor = self.program(batch).float().softmax(-1)
        return scores

    def finish(self, outputs: torch.Tensor, items: Sequence[Item]) -> list[Output]:
        """All seven for each crop."""
        return [
            Output(
                labels=[
                    Label(name, score, index)
                    for index, (name, score) in enumerate(zip(EMOTIONS, row, strict=True))
                ]
            )
            for row in outputs.tolist()
        ]
