"""Answers kept in this process: least recently used goes first, bounded in bytes, gone with their model.

An answer is weighed when it is put in: what it holds in memory, its key and its place included. Libraries of
caches keep no index by model, and tell nobody what they evict; this one is 60 lines. For one thread.
"""

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from opsin_detectors.api import Attribute, Box, Detection, Label
from opsin_server.calls import Answer, DetectAnswer, EmbedAnswer, EmbeddedDetection, ModelRef, Timings

__all__ = ["Evicted", "MemoryCache", "weigh"]

LARGEST_SHARE = 8
"""An answer that takes more than this part (1/8) of the cache is not kept: it would push out all others."""


class Evicted(StrEnum):
    """Why an answer left."""

    SIZE = "size"
    AGE = "age"
    MODEL = "model"


@dataclass(slots=True)
class _Kept:
    answer: Answer
    models: tuple[str, ...]
    size: int
    until: float


class MemoryCache:
    """At most `capacity` bytes of answers; ttl: seconds that one may be given for, 0 = for ever."""

    def __init__(
        self,
        capacity: int,
        ttl: float = 0.0,
        *,
        on_evict: Callable[[Evicted, int], None] = lambda why, count: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self.bytes = 0
        self._ttl = ttl
        self._on_evict = on_evict
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._of_model: dict[str, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Answer | None:
        """The answer, now the most recently used; None when it is not here, or too old."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= self._clock():
            self._drop(key)
            self._on_evict(Evicted.AGE, 1)
            return None
        self._kept.move_to_end(key)
        return kept.answer

    def put(self, key: bytes, models: tuple[str, ...], answer: Answer) -> None:
        """Keep the answer of `models`, unless it is too large; what was used least recently makes room."""
        size = weigh(answer)
        if key in self._kept:
            self._drop(key)
        if size > self.capacity // LARGEST_SHARE:
            return
        evicted = 0
        while self.bytes + size > self.capacity:
            self._drop(next(iter(self._kept)))
            evicted += 1
        if evicted:
            self._on_evict(Evicted.SIZE, evicted)
        until = self._clock() + self._ttl if self._ttl else float("inf")
        self._kept[key] = _Kept(answer, models, size, until)
        for model in models:
            self._of_model.setdefault(model, set()).add(key)
        self.bytes += size

    def forget(self, model: str) -> None:
        """Drop every answer that `model`, `name@version`, had a part in."""
        keys = tuple(self._of_model.get(model, ()))
        for key in keys:
            self._drop(key)
        if keys:
            self._on_evict(Evicted.MODEL, len(keys))

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key)
        self.bytes -= kept.size
        for model in kept.models:
            keys = self._of_model[model]
            keys.discard(key)
            if not keys:
                del self._of_model[model]


# -- what an answer weighs -----------------------------------------------------------------------------------

_FLOAT = sys.getsizeof(1.0)
_KEY = sys.getsizeof(bytes(32))
_PLACE = 3 * 104
"""Its slots in the ordered dict and in the index, with the room that hash tables leave free."""
_MODEL = ModelRef("", 0, "")
_ENTRY = (
    _KEY
    + _PLACE
    + sys.getsizeof(_Kept(EmbedAnswer(_MODEL, np.zeros(0, np.float32)), (), 0, 0.0))
    + sys.getsizeof(_MODEL)
    + sys.getsizeof(Timings())
    + 12 * _FLOAT
)
_LABEL = sys.getsizeof(Label("", 0.0)) + _FLOAT
_ATTRIBUTE = sys.getsizeof(Attribute("", ())) + sys.getsizeof(())
_DETECTION = (
    sys.getsizeof(EmbeddedDetection(Detection(Box(0.0, 0.0, 1.0, 1.0), "", 0.0)))
    + sys.getsizeof(Detection(Box(0.0, 0.0, 1.0, 1.0), "", 0.0))
    + sys.getsizeof(Box(0.0, 0.0, 1.0, 1.0))
    + 5 * _FLOAT
    + 8
)
_VECTOR = sys.getsizeof(np.zeros(0, np.float32))


def weigh(answer: Answer) -> int:
    """Bytes that keeping an answer takes; names of classes are the model's own and not counted."""
    if isinstance(answer, EmbedAnswer):
        return _ENTRY + sys.getsizeof(answer) + _VECTOR + answer.vector.nbytes
    return _ENTRY + _weigh_detect(answer)


def _weigh_detect(answer: DetectAnswer) -> int:
    size = sys.getsizeof(answer) + sys.getsizeof(answer.detections) + sys.getsizeof(answer.labels)
    size += _LABEL * len(answer.labels) + _DETECTION * len(answer.detections)
    for found in answer.detections:
        if found.vector is not None:
            size += _VECTOR + found.vector.nbytes
        one = found.detection
        if one.text:
            size += sys.getsizeof(one.text)
        for attribute in one.attributes:
            size += _ATTRIBUTE + (_LABEL + 8) * len(attribute.labels)
    return size
