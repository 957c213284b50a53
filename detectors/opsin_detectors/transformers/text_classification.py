"""The family of text classifiers: a text in, every class's score out.

Owns the order of the steps; tokens are `texts.py`'s and scores `class_scores.py`'s.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from opsin_detectors import tensors
from opsin_detectors.api import Item, LoadContext, LoadError, ModelInfo, Output, Task
from opsin_detectors.transformers import texts
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.class_scores import ClassScores
from opsin_detectors.transformers.reading import TextReader

__all__ = ["TextClassifier"]


class TextClassifier(TextReader):
    """A loaded checkpoint. Settings: those of `ClassScores`."""

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._name = context.name
        self._device, dtype = tensors.device_of(context), tensors.dtype_of(context)
        config = checkpoint.config
        if config.problem_type == "regression":
            raise LoadError(
                f"{checkpoint.source} answers a quantity, not classes (problem_type “regression”)"
            )
        self._scores = ClassScores(context, checkpoint)
        checkpoint.settings.done()
        tokenizer = checkpoint.tokenizer()
        self._texts = texts.Texts(tokenizer, texts.token_limit(tokenizer, config))
        self._model = checkpoint.model(AutoModelForSequenceClassification).eval().to(torch.float32)
        with torch.inference_mode():
            self._texts.try_padding(self._logits)
        tensors.placed(self._model, self._device, dtype)
        self.info = ModelInfo(
            tasks=frozenset({Task.CLASSIFY_TEXT}),
            classes=self._scores.classes,
            flag=self._scores.flag,
            max_batch=texts.largest_batch(self._device, config),
            device=context.device,
            dtype=tensors.name_of(dtype),
            runtime="eager",
            memory_bytes=tensors.bytes_of(self._model),
        )

    @torch.inference_mode()
    def infer(self, batch: Sequence[texts.Tokens]) -> torch.Tensor:
        """Logits, (B, classes)."""
        return self._logits(self._texts.arguments(batch, self._device))

    def finish(self, outputs: torch.Tensor, items: Sequence[Item]) -> list[Output]:
        """Labels."""
        scores = self._scores.of(outputs)
        return [
            Output(labels=self._scores.labels(row, item.options))
            for row, item in zip(scores, items, strict=True)
        ]

    def _logits(self, arguments: dict[str, Any]) -> torch.Tensor:
        logits: torch.Tensor = self._model(**arguments).logits
        return logits
