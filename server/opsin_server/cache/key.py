"""When two inputs are the same, and the name under which an answer is kept.

Two ways, for two ends. Inputs that are in flight are compared byte by byte, after a *mark* (the question, the
length, a few samples) has told nearly all different ones apart: 2 us for 100 kB, and no hash is needed unless
answers are kept. Answers that are kept are found by a *digest*: BLAKE3 of question and bytes, since whoever
can make two pictures with one digest can put words into the server's mouth. Measured on 100 kB: BLAKE3 18 us,
SHA-256 56 (200 and more without the processor's help), BLAKE2b 107; XXH3 takes 2, and is no such hash.

Pure functions on plain data; which thread runs them is the caller's choice.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from opsin_detectors.api import Box, Options, Task
from opsin_server.calls import EncodedImage, RawImage, Text

__all__ = ["QUICK_BYTES", "Known", "Question", "digest", "is_large", "mark", "same", "size_of"]

QUICK_BYTES = 1 << 20
"""Larger inputs are compared and hashed off the event loop: up to here it takes less than 0.2 ms."""

_SAMPLES = 128
_LAST = 16
_BLOCK = 1 << 20

Known = EncodedImage | RawImage | Text
"""Sources whose content is at hand."""


@dataclass(frozen=True, slots=True)
class Question:
    """Everything but the input that decides the answer, with defaults filled in.

    kind: `detect` or `embed`. models: keys, `name@version`, of the model and of those of its second stage.
    options: as the model is run with. regions: as asked, empty for the whole picture.
    stages: what the models of the second stage look at: plain values, spelled alike in every process.
    """

    kind: str
    task: Task
    models: tuple[str, ...]
    options: Options
    regions: tuple[Box, ...] = ()
    normalize: bool = True
    dimensions: int = 0
    stages: tuple[Hashable, ...] = ()


def mark(question: Hashable, source: Known) -> Hashable:
    """Equal for equal inputs, and hardly ever for others that are in flight at the same time.

    question: all but the source, a `Question` or whatever else is equal for equal ones.
    """
    match source:
        case Text(text):
            return (question, text)
        case EncodedImage(data):
            return (question, len(data), _sample(data))
        case RawImage(data, width, height, stride, layout):
            return (question, width, height, stride, layout, len(data), _sample(data))


def same(one: Known, other: Known) -> bool:
    """Whether two sources with the same mark are the same, byte by byte."""
    if isinstance(one, Text) or isinstance(other, Text):
        return one == other
    if len(one.data) <= QUICK_BYTES or one.data is other.data:
        return one.data == other.data
    # numpy lets go of the interpreter meanwhile; the comparison of bytes does not.
    a, b = np.frombuffer(one.data, np.uint8), np.frombuffer(other.data, np.uint8)
    return len(a) == len(b) and all(
        np.array_equal(a[start : start + _BLOCK], b[start : start + _BLOCK])
        for start in range(0, len(a), _BLOCK)
    )


def size_of(source: Known) -> int:
    """Bytes of a picture, characters of a text."""
    return len(source.text) if isinstance(source, Text) else len(source.data)


def is_large(source: Known) -> bool:
    """Whether `same` and `digest` are too slow for the event loop."""
    return size_of(source) > QUICK_BYTES


def digest(question: Question, identities: tuple[bytes, ...], source: Known) -> bytes:
    """The name of an answer, 32 bytes.

    identities: what the question's models are, in its order: `name@version` alone may mean something else
    tomorrow, or on another server.
    """
    import blake3  # only servers that keep answers need it

    data: bytes | memoryview
    match source:
        case Text(text):
            head, data = b"text", text.encode("utf-8", "surrogatepass")
        case EncodedImage(data):
            head = b"encoded"
        case RawImage(data, width, height, stride, layout):
            head = f"raw {width} {height} {stride} {layout}".encode()
    hasher = blake3.blake3(_spelled(question))
    for part in (*identities, head):
        hasher.update(len(part).to_bytes(4, "big") + part)
    hasher.update(data)
    return hasher.digest()


@lru_cache(maxsize=1024)
def _spelled(question: Question) -> bytes:
    """The question as bytes: the same in every process, for one and only one question."""
    options = question.options
    words = (
        question.kind,
        question.task.value,
        question.models,
        options.min_score,
        options.min_label_score,
        options.max_detections,
        options.max_labels,
        options.iou_threshold,
        sorted(options.labels),
        options.candidate_labels,
        options.truncate_text,
        [(box.x_min, box.y_min, box.x_max, box.y_max) for box in question.regions],
        question.normalize,
        question.dimensions,
        question.stages,
    )
    spelled = repr(words).encode("utf-8", "surrogatepass")
    return len(spelled).to_bytes(4, "big") + spelled


def _sample(data: bytes | memoryview) -> bytes:
    """A few bytes from all over: pictures of one camera begin alike, and differ in their last bytes."""
    step = len(data) // _SAMPLES
    return bytes(data[::step]) + bytes(data[-_LAST:]) if step > 1 else bytes(data)
