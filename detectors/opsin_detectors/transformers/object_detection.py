"""The family of object detectors with classes of their own: DETR, YOLOS, RT-DETR, Deformable DETR and kin.

Owns the order of the steps. Pixels are `varied_pictures.py`, scores and boxes `set_prediction.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForObjectDetection

from opsin_detectors import tensors
from opsin_detectors.api import (
    Detector,
    Input,
    Item,
    LoadContext,
    LoadError,
    ModelInfo,
    Options,
    Output,
    Prepared,
    Task,
)
from opsin_detectors.inputs import picture_of
from opsin_detectors.transformers import pictures, set_prediction, varied_pictures
from opsin_detectors.transformers.checkpoint import Checkpoint, classes_of

__all__ = ["ObjectDetector"]


class ObjectDetector(Detector):
    """A loaded checkpoint. Settings: `min_score` (0..1, 0.5: below it nothing is a detection)."""

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._name = context.name
        self._device, dtype = tensors.device_of(context), tensors.dtype_of(context)
        self._classes = classes_of(checkpoint.config)
        min_score = checkpoint.settings.number("min_score", 0.5, least=0.0, most=1.0)
        checkpoint.settings.done()
        self._pictures = varied_pictures.choose(checkpoint.image_processor(), self._device, dtype)
        layout = tensors.layout_of(context)
        self._model = tensors.placed(
            checkpoint.model(AutoModelForObjectDetection), self._device, dtype, layout
        )
        self.info = ModelInfo(
            tasks=frozenset({Task.DETECT}),
            classes=self._classes,
            defaults=Options(min_score=min_score),
            input=self._pictures.spec,
            max_batch=16 if self._device.type == "cpu" else 64,
            decode_size=self._pictures.decode_size,
            device=context.device,
            dtype=tensors.name_of(dtype),
            runtime=layout,
            memory_bytes=tensors.bytes_of(self._model),
        )
        self._scores = self._meaning(checkpoint)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Resize, as the checkpoint's processor does."""
        picture = picture_of(self._name, source)
        return self._pictures.prepare(picture.pixels, (picture.width, picture.height))

    def example(self, task: Task) -> Input:
        """A picture of the commonest proportions."""
        return pictures.EXAMPLES[0]

    def examples(self, task: Task) -> Sequence[Input]:
        """Pictures of the proportions that cameras have."""
        return pictures.EXAMPLES

    @torch.inference_mode()
    def infer(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, queries, classes, or one more), and boxes (B, queries, 4) of center and size."""
        outputs = self._model(**self._pictures.arguments(batch))
        if self._pictures.spec is None:  # nobody else brings them home
            return outputs.logits.cpu(), outputs.pred_boxes.cpu()
        return outputs.logits, outputs.pred_boxes

    @torch.inference_mode()
    def finish(self, outputs: tuple[torch.Tensor, torch.Tensor], items: Sequence[Item]) -> list[Output]:
        """Boxes of each item by its own options."""
        logits, boxes = outputs
        names = [self._classes] * len(items)
        return set_prediction.answers(self._scores(logits), set_prediction.corners(boxes), items, names)

    def _meaning(self, checkpoint: Checkpoint) -> Any:
        """How logits become scores: told by whether they have a place for “no object”."""
        source = self.example(Task.DETECT)
        data = self.prepare(source, Task.DETECT, Options()).data
        batch = [data] if self._pictures.spec is None else torch.from_numpy(data)[None].to(self._device)
        width = self.infer(batch)[0].shape[-1]
        match width - len(self._classes):
            case 0:
                return set_prediction.independent_scores
            case 1:
                return set_prediction.shared_scores
            case _:
                raise LoadError(
                    f"{checkpoint.source} scores {width} classes, and its config names {len(self._classes)}"
                )
