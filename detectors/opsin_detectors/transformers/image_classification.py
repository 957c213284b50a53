"""The family of image classifiers: a picture in, every class's score out, and the pooled features as a
vector.

Owns the order of the steps. One forward pass serves both tasks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageClassification

from opsin_detectors import tensors
from opsin_detectors.api import Input, Item, LoadContext, ModelInfo, Options, Output, Prepared, Task
from opsin_detectors.execution.decide import decide
from opsin_detectors.execution.network import Network, Outputs, Program, Runnable
from opsin_detectors.inputs import picture_of
from opsin_detectors.transformers import pictures
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.class_scores import ClassScores
from opsin_detectors.transformers.heads import take_head

__all__ = ["ImageClassifier"]


class ImageClassifier(Runnable):
    """A loaded checkpoint. Settings: those of `ClassScores`."""

    program: Program

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._name = context.name
        device = tensors.device_of(context)
        self._scores = ClassScores(context, checkpoint)
        checkpoint.settings.done()
        processor = checkpoint.image_processor()
        self._pictures = pictures.choose(processor, device, torch.float32)
        model = checkpoint.model(AutoModelForImageClassification).eval().to(torch.float32)
        head = take_head(model, len(self._scores.classes), pictures.probe(processor))
        body = _Classifier(model, head).eval().requires_grad_(False).to(device)
        self.info = ModelInfo(
            tasks=frozenset({Task.CLASSIFY_IMAGE} | ({Task.EMBED_IMAGE} if head else set())),
            classes=self._scores.classes,
            input=self._pictures.spec,
            embedding_dimensions=head.in_features if head else 0,
            flag=self._scores.flag,
            max_batch=32 if device.type == "cpu" else 128,
            decode_size=self._pictures.decode_size,
            device=context.device,
            takes_tensors=self._pictures.spec is not None,
        )
        decide(self, Network(body, self._pictures.arguments, self._pictures.spec), context)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Resize and crop, as the checkpoint's processor does."""
        return self._pictures.prepare(picture_of(self._name, source).pixels)

    @torch.inference_mode()
    def infer(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits (B, classes), and features (B, dimensions) where the model can be taken apart."""
        outputs = self.program(batch)
        return (outputs, None) if isinstance(outputs, torch.Tensor) else outputs

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


class _Classifier(nn.Module):
    """The model as one step: (B, 3, height, width) -> logits, with the features where it has a head."""

    def __init__(self, model: nn.Module, head: nn.Linear | None) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, **arguments: torch.Tensor) -> Outputs:
        outputs: torch.Tensor = self.model(**arguments).logits
        return outputs if self.head is None else (self.head(outputs), outputs)
