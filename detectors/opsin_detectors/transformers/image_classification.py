"""The family of image classifiers: a picture in, every class's score out, and the pooled features as a
vector.

Owns the order of the steps. One forward pass serves both tasks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForImageClassification

from opsin_detectors import tensors
from opsin_detectors.api import (
    Detector,
    Input,
    Item,
    LoadContext,
    ModelInfo,
    Options,
    Output,
    Prepared,
    Task,
)
from opsin_detectors.inputs import picture_of
from opsin_detectors.transformers import pictures
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.class_scores import ClassScores
from opsin_detectors.transformers.heads import take_head

__all__ = ["ImageClassifier"]


class ImageClassifier(Detector):
    """A loaded checkpoint. Settings: those of `ClassScores`."""

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._name = context.name
        self._device, dtype = tensors.device_of(context), tensors.dtype_of(context)
        self._scores = ClassScores(context, checkpoint)
        checkpoint.settings.done()
        self._pictures = pictures.choose(checkpoint.image_processor(), self._device, dtype)
        self._model = checkpoint.model(AutoModelForImageClassification).eval().to(torch.float32)
        self._head = take_head(
            self._model, len(self._scores.classes), pictures.probe(checkpoint.image_processor())
        )
        for module in (self._model, *([self._head] if self._head else [])):
            tensors.placed(module, self._device, dtype)
        self.info = ModelInfo(
            tasks=frozenset({Task.CLASSIFY_IMAGE} | ({Task.EMBED_IMAGE} if self._head else set())),
            classes=self._scores.classes,
            input=self._pictures.spec,
            embedding_dimensions=self._head.in_features if self._head else 0,
            flag=self._scores.flag,
            max_batch=32 if self._device.type == "cpu" else 128,
            decode_size=self._pictures.decode_size,
            device=context.device,
            dtype=tensors.name_of(dtype),
            runtime="eager",
            memory_bytes=tensors.bytes_of(self._model) + (tensors.bytes_of(self._head) if self._head else 0),
        )

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Resize and crop, as the checkpoint's processor does."""
        return self._pictures.prepare(picture_of(self._name, source).pixels)

    @torch.inference_mode()
    def infer(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits (B, classes), and features (B, dimensions) where the model can be taken apart."""
        outputs: torch.Tensor = self._model(**self._pictures.arguments(batch)).logits
        return (outputs, None) if self._head is None else (self._head(outputs), outputs)

    @torch.inference_mode()
    def finish(
        self, outputs: tuple[torch.Tensor, torch.Tensor | None], items: Sequence[Item]
    ) -> list[Output]:
        """Labels for a classification, a vector for an embedding."""
        logits, features = outputs
        scores = self._scores.of(logits)
        vectors = None if features is None else features.float().cpu().numpy()
        return [
            Output(vector=vectors[row].copy())
            if item.task is Task.EMBED_IMAGE and vectors is not None
            else Output(labels=self._scores.labels(scores[row], item.options))
            for row, item in enumerate(items)
        ]
