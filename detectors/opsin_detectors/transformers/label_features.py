"""The text features of the classes that callers name, kept so that a class costs the text tower once.

Callers of a zero-shot model name the same few classes with every picture. Knows neither pictures nor scores.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch

from opsin_detectors.api import TextTooLongError
from opsin_detectors.transformers.texts import Texts

__all__ = ["KEPT", "LabelFeatures"]

KEPT = 4096
"""Classes whose features are kept, the longest unused forgotten first: 16 MB at 1024 dimensions."""
_AT_ONCE = 64
"""Texts in one run of the tower, so that a thousand new classes do not need a thousand texts' memory."""


class LabelFeatures:
    """Features by label, for many threads at once.

    texts: makes tokens. tower: from prepared tokens of one shape to (B, dimensions). template: has “{}” where
    the label goes.
    """

    def __init__(
        self, texts: Texts, tower: Callable[[Sequence[Any]], torch.Tensor], template: str, kept: int = KEPT
    ) -> None:
        self._texts = texts
        self._tower = tower
        self._template = template
        self._limit = kept
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()
        # Apart from the features: those of a label that one caller had cut do not make it fit for others.
        self._fits = lru_cache(kept)(self._fit)

    def check(self, labels: Sequence[str], *, truncate: bool) -> None:
        """Raise TextTooLongError for a label that is too long for the model, unless it may be cut."""
        if truncate:
            return
        for at, label in enumerate(labels):
            try:
                self._fits(label)
            except TextTooLongError as error:
                message = f"candidate label “{label[:50]}”: {error}"
                raise TextTooLongError(message, option=f"candidate_labels[{at}]") from None

    def _fit(self, label: str) -> None:
        self._texts.prepare(self._template.format(label), truncate=False)

    def __call__(self, labels: Sequence[str]) -> torch.Tensor:
        """(labels, dimensions), on the tower's device. Runs the tower for what is not kept."""
        with self._lock:
            known = {label: self._kept[label] for label in labels if label in self._kept}
        known |= self._made([label for label in dict.fromkeys(labels) if label not in known])
        with self._lock:
            for label in known:
                self._kept[label] = known[label]
                self._kept.move_to_end(label)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return torch.stack([known[label] for label in labels])

    def _made(self, labels: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the tower says. Only texts of one shape run together."""
        ready = [
            (label, self._texts.prepare(self._template.format(label), truncate=True)) for label in labels
        ]
        ready.sort(key=lambda pair: str(pair[1].shape))
        made: dict[str, torch.Tensor] = {}
        for _, group in groupby(ready, key=lambda pair: pair[1].shape):
            same = list(group)
            for start in range(0, len(same), _AT_ONCE):
                part = same[start : start + _AT_ONCE]
                features = self._tower([one.data for _, one in part])
                made |= {label: row.clone() for (label, _), row in zip(part, features, strict=True)}
        return made
