"""The family of CLIP, SigLIP and SigLIP 2: one model that embeds pictures and texts into one space.

Owns which part answers which task, and that a batch is of one task. What a task means is its part's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from opsin_detectors.api import Detector, Input, Item, LoadContext, ModelInfo, Options, Output, Prepared, Task
from opsin_detectors.inputs import picture_of, text_of
from opsin_detectors.transformers import pictures
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.towers import Towers
from opsin_detectors.transformers.zero_shot_classes import TEMPLATE, ZeroShotClasses

__all__ = ["JointEmbedder", "Part"]


class Part(Protocol):
    """What answers one task of a model with two towers. The rules are those of `Detector`."""

    def prepare(self, source: Input, options: Options) -> Prepared:
        """One input; only those of equal shape share a batch."""
        ...

    def infer(self, batch: Sequence[Any]) -> Any:
        """What `prepare` gave, as `Prepared.data`, of one shape."""
        ...

    def finish(self, outputs: Any, items: Sequence[Item]) -> list[Output]:
        """One output per item, in order."""
        ...


class _Work(NamedTuple):
    """A prepared input, with the task that it was prepared for."""

    task: Task
    data: Any

    @property
    def nbytes(self) -> int:
        """Of pixels held."""
        return int(getattr(self.data, "nbytes", 0))


class JointEmbedder(Detector):
    """A loaded checkpoint: a part for each task. Settings: `template`, “{}” where a candidate label goes."""

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        template = checkpoint.template(TEMPLATE)
        checkpoint.settings.done()
        towers = Towers(context, checkpoint)
        self._texts = towers.texts
        self._parts: Mapping[Task, Part] = {
            Task.EMBED_IMAGE: _ImagePart(context.name, towers),
            Task.EMBED_TEXT: _TextPart(context.name, towers),
            Task.ZERO_SHOT: ZeroShotClasses(context.name, towers, template),
        }
        self.info = ModelInfo(
            tasks=frozenset(self._parts),
            embedding_dimensions=towers.dimensions,
            max_batch=towers.max_batch,
            decode_size=towers.pictures.decode_size,
            device=context.device,
            dtype=towers.dtype,
            runtime=towers.layout,
            memory_bytes=towers.memory_bytes,
        )

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """As the task's part does."""
        ready = self._parts[task].prepare(source, options)
        return Prepared(_Work(task, ready.data), ready.state, (task, ready.shape))

    def example(self, task: Task) -> Input:
        """A grey picture, or a text that fits."""
        return self._texts.example() if task is Task.EMBED_TEXT else super().example(task)

    def examples(self, task: Task) -> Sequence[Input]:
        """Of every length that texts, and of common proportions that pictures are padded to."""
        if task is Task.EMBED_TEXT:
            return self._texts.examples()
        return (self.example(task), *pictures.EXAMPLES)

    def infer(self, batch: Sequence[_Work]) -> Any:
        """A batch of one task, because the task is in the shape."""
        return self._parts[batch[0].task].infer([one.data for one in batch])

    def finish(self, outputs: Any, items: Sequence[Item]) -> list[Output]:
        """As the task's part does."""
        return self._parts[items[0].task].finish(outputs, items)


class _ImagePart:
    """Pictures to vectors."""

    def __init__(self, name: str, towers: Towers) -> None:
        self._name = name
        self._towers = towers

    def prepare(self, source: Input, options: Options) -> Prepared:
        return self._towers.pictures.prepare(picture_of(self._name, source).pixels)

    def infer(self, batch: Sequence[Any]) -> torch.Tensor:
        return self._towers.image_features(batch)

    def finish(self, outputs: torch.Tensor, items: Sequence[Item]) -> list[Output]:
        return vectors(outputs)


class _TextPart:
    """Texts to vectors."""

    def __init__(self, name: str, towers: Towers) -> None:
        self._name = name
        self._towers = towers

    def prepare(self, source: Input, options: Options) -> Prepared:
        text = text_of(self._name, source)
        return self._towers.texts.prepare(text, truncate=options.truncate_text)

    def infer(self, batch: Sequence[Any]) -> torch.Tensor:
        return self._towers.text_features(batch)

    def finish(self, outputs: torch.Tensor, items: Sequence[Item]) -> list[Output]:
        return vectors(outputs)


def vectors(features: torch.Tensor) -> list[Output]:
    """One vector per row, each in memory of its own."""
    return [Output(vector=row.copy()) for row in features.float().cpu().numpy()]
