"""Pictures together with the classes that their callers name: what every zero-shot family is given."""

from typing import Any, NamedTuple

from transformers import PreTrainedModel

from opsin_detectors import tensors
from opsin_detectors.api import LoadContext, ModelInfo, Options, Task

__all__ = ["Sought", "info_of", "labels_of"]

_STAND_IN = ("a thing",)
"""Looked for where nothing was named: a warm-up. The server refuses such a call before it comes here."""


class Sought(NamedTuple):
    """A picture made ready, and what to look for: the labels, or what was made of them."""

    picture: Any
    labels: Any

    @property
    def nbytes(self) -> int:
        """Of pixels held."""
        return int(self.picture.nbytes)


def labels_of(options: Options) -> tuple[str, ...]:
    """What the caller looks for."""
    return options.candidate_labels or _STAND_IN


def info_of(
    model: PreTrainedModel, context: LoadContext, *, min_score: float, decode_size: tuple[int, int]
) -> ModelInfo:
    """What a model is that finds what callers name, and that torch runs."""
    return ModelInfo(
        tasks=frozenset({Task.DETECT, Task.ZERO_SHOT}),
        defaults=Options(min_score=min_score),
        max_batch=8 if model.device.type == "cpu" else 32,
        decode_size=decode_size,
        device=context.device,
        dtype=tensors.name_of(model.dtype),
        runtime=tensors.layout_of(context),
        memory_bytes=tensors.bytes_of(model),
    )
