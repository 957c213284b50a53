"""The family of image classifiers: a picture in, every class's score out, and the pooled features as a
vector.

Owns the order of the steps and the meaning of the scores. One forward pass serves both tasks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageClassification

from opsin_detectors import tensors
from opsin_detectors.api import (
    Detector,
    ImageInput,
    Input,
    InputError,
    Item,
    Label,
    LoadContext,
    LoadError,
    ModelInfo,
    Options,
    Output,
    Pixels,
    Prepared,
    Task,
)
from opsin_detectors.flags import parse_flag
from opsin_detectors.transformers import pictures
from opsin_detectors.transformers.checkpoint import Checkpoint, classes_of
from opsin_detectors.transformers.heads import take_head

__all__ = ["ImageClassifier"]

_FEW = 20
"""Up to so many classes are always all answered."""


class ImageClassifier(Detector):
    """A loaded checkpoint. Settings: `flag` (see `flags.py`) and `scores` = softmax, sigmoid, or auto.

    auto: sigmoid where the config says multi-label or there is one class only, else softmax.
    """

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._name = context.name
        self._device, dtype = tensors.device_of(context), tensors.dtype_of(context)
        classes = classes_of(checkpoint.config)
        self._independent = _independent(context, checkpoint)
        flag = parse_flag(checkpoint.settings.text("flag"), classes)
        checkpoint.settings.done()
        self._always = tuple(classes.index(name) for name in flag.classes) if flag else ()
        self._pictures = pictures.choose(checkpoint.image_processor(), self._device, dtype)
        self._model = checkpoint.model(AutoModelForImageClassification).eval().to(torch.float32)
        self._head = take_head(self._model, len(classes), _probe(checkpoint.image_processor()))
        for module in (self._model, *([self._head] if self._head else [])):
            tensors.placed(module, self._device, dtype)
        self._classes = classes
        self.info = ModelInfo(
            tasks=frozenset({Task.CLASSIFY_IMAGE} | ({Task.EMBED_IMAGE} if self._head else set())),
            classes=classes,
            input=self._pictures.spec,
            embedding_dimensions=self._head.in_features if self._head else 0,
            flag=flag,
            max_batch=32 if self._device.type == "cpu" else 128,
            decode_size=self._pictures.decode_size,
            device=context.device,
            dtype=tensors.name_of(dtype),
            runtime="eager",
            memory_bytes=tensors.bytes_of(self._model) + (tensors.bytes_of(self._head) if self._head else 0),
        )

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Resize and crop, as the checkpoint's processor does."""
        match source:
            case ImageInput():
                return self._pictures.prepare(source.pixels)
            case _:
                raise InputError(f"{self._name} looks at pictures; it was given a text")

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
        logits, features = outputs[0].float(), outputs[1]
        scores = (logits.sigmoid() if self._independent else logits.softmax(-1)).cpu().numpy()
        vectors = None if features is None else features.float().cpu().numpy()
        return [
            Output(vector=vectors[row].copy())
            if item.task is Task.EMBED_IMAGE and vectors is not None
            else Output(labels=self._labels(scores[row], item.options))
            for row, item in enumerate(items)
        ]

    def _labels(self, scores: np.ndarray[Any, np.dtype[np.float32]], options: Options) -> list[Label]:
        wanted: Any = range(len(scores))
        if len(scores) > _FEW and 0 < options.max_labels < len(scores) and not options.labels:
            # Objects for a thousand classes cost more than the model's head; the flag's classes always count.
            best = np.argpartition(scores, -options.max_labels)[-options.max_labels :]
            wanted = dict.fromkeys([*best.tolist(), *self._always])
        return [Label(self._classes[index], float(scores[index]), index) for index in wanted]


def _independent(context: LoadContext, checkpoint: Checkpoint) -> bool:
    """Whether every class is scored for itself."""
    config = checkpoint.config
    match checkpoint.settings.text("scores", "auto"):
        case "auto":
            return bool(config.problem_type == "multi_label_classification" or config.num_labels == 1)
        case "sigmoid":
            return True
        case "softmax":
            return False
        case other:
            raise LoadError(f"“scores” of “{context.name}” has to be auto, softmax or sigmoid, not “{other}”")


def _probe(processor: Any) -> dict[str, torch.Tensor]:
    """Arguments for two unlike pictures, on the CPU in float32."""
    stock = pictures.StockPictures(processor, torch.device("cpu"), torch.float32)
    noise = np.random.default_rng(5)
    made: list[Pixels] = [np.full((64, 64, 3), 90, np.uint8), noise.integers(0, 256, (64, 64, 3), np.uint8)]
    return stock.arguments([stock.prepare(pixels).data for pixels in made])
