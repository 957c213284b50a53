"""Zero-shot image classification with two towers (CLIP, SigLIP): which of the caller's classes a picture is.

A part of `JointEmbedder`, which embeds with the same weights. Owns the meaning of the scores.
"""

from collections.abc import Mapping, Sequence

import torch
from torch.nn.functional import normalize

from opsin_detectors.api import Input, Item, Label, Options, Output, Prepared
from opsin_detectors.inputs import picture_of
from opsin_detectors.transformers.candidates import Sought, labels_of
from opsin_detectors.transformers.label_features import LabelFeatures
from opsin_detectors.transformers.towers import Towers

__all__ = ["TEMPLATE", "ZeroShotClasses"]

TEMPLATE = "This is a photo of {}."
"""What is made of a label, as transformers' own pipeline does."""


class ZeroShotClasses:
    """Scores of an item's own candidate labels, whatever its neighbours in the batch ask for."""

    def __init__(self, name: str, towers: Towers, template: str = TEMPLATE) -> None:
        self._name = name
        self._towers = towers
        self._features = LabelFeatures(towers.texts, towers.text_features, template)

    def prepare(self, source: Input, options: Options) -> Prepared:
        """The picture, beside its labels. Raises InputError for a label that is too long."""
        picture, labels = picture_of(self._name, source), labels_of(options)
        self._features.check(labels, truncate=options.truncate_text)
        ready = self._towers.pictures.prepare(picture.pixels)
        return Prepared(Sought(ready.data, labels), ready.state, ready.shape)

    @torch.inference_mode()
    def infer(self, batch: Sequence[Sought]) -> tuple[torch.Tensor, Mapping[str, int]]:
        """Logits of each picture and each label that any of them named, and the labels' columns."""
        labels = list(dict.fromkeys(label for one in batch for label in one.labels))
        texts = normalize(self._features(labels).float(), dim=-1)
        images = normalize(self._towers.image_features([one.picture for one in batch]).float(), dim=-1)
        logits = images @ texts.T * self._towers.scale + self._towers.bias
        return logits.cpu(), {label: column for column, label in enumerate(labels)}

    def finish(self, outputs: tuple[torch.Tensor, Mapping[str, int]], items: Sequence[Item]) -> list[Output]:
        """A score for each candidate, 0..1; by softmax they add up to 1, by sigmoid each is for itself."""
        logits, columns = outputs
        return [
            Output(labels=self._labels(row, columns, labels_of(item.options)))
            for row, item in zip(logits, items, strict=True)
        ]

    def _labels(self, row: torch.Tensor, columns: Mapping[str, int], labels: Sequence[str]) -> list[Label]:
        mine = row[[columns[label] for label in labels]]
        scores = (mine.sigmoid() if self._towers.sigmoid else mine.softmax(-1)).tolist()
        return [
            Label(label, score, index)
            for index, (label, score) in enumerate(zip(labels, scores, strict=True))
        ]
