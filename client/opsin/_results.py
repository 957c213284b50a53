"""What comes back from `detect` and `embed`: frozen values, coordinates as fractions and as pixels.

Knows neither protobuf nor gRPC; `_parse` builds these from messages. Drawing is in `_draw`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

__all__ = [
    "Attribute",
    "Box",
    "CacheStatus",
    "DetectResult",
    "Detection",
    "EmbedResult",
    "Label",
    "ModelRef",
    "PixelBox",
    "Timings",
    "Vector",
]

Vector: TypeAlias = "npt.NDArray[np.float32] | tuple[float, ...]"
"""A numpy array of float32, shape (dimensions,), where numpy is installed; else a tuple."""

_DIGITS = 6  # of fractions in to_dict: finer than a pixel, and no noise from float32


class CacheStatus(StrEnum):
    """Whether an answer was computed for this call."""

    MISS = "miss"
    """Computed for this call."""
    HIT = "hit"
    """Taken from the server's result cache."""
    JOINED = "joined"
    """Shared with an identical input that was under way."""


@dataclass(frozen=True, slots=True)
class PixelBox:
    """A rectangle of whole pixels, never empty: `pixels[box.y_min:box.y_max, box.x_min:box.x_max]`."""

    x_min: int
    y_min: int
    x_max: int
    y_max: int

    @property
    def width(self) -> int:
        """Columns, at least 1."""
        return self.x_max - self.x_min

    @property
    def height(self) -> int:
        """Rows, at least 1."""
        return self.y_max - self.y_min

    def to_dict(self) -> dict[str, int]:
        """Ready for JSON."""
        return {"x_min": self.x_min, "y_min": self.y_min, "x_max": self.x_max, "y_max": self.y_max}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in fractions of the upright picture: 0 is the left or top edge, 1 the right or bottom."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def to_pixels(self, width: int, height: int) -> PixelBox:
        """The nearest whole pixels in a picture of this size (at least 1 x 1): inside it, never empty."""
        x_min, x_max = _span(self.x_min, self.x_max, width)
        y_min, y_max = _span(self.y_min, self.y_max, height)
        return PixelBox(x_min, y_min, x_max, y_max)

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return {
            "x_min": round(self.x_min, _DIGITS),
            "y_min": round(self.y_min, _DIGITS),
            "x_max": round(self.x_max, _DIGITS),
            "y_max": round(self.y_max, _DIGITS),
        }


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """The pixels from `low` to `high` of `size`: edges to the nearest pixel edge, at least one pixel long."""
    first = min(max(math.floor(low * size + 0.5), 0), size - 1)
    end = min(max(math.floor(high * size + 0.5), first + 1), size)
    return first, end


@dataclass(frozen=True, slots=True)
class Label:
    """A class by name and number, and how sure the model is of it, 0..1."""

    name: str
    score: float
    class_id: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"name": self.name, "score": round(self.score, _DIGITS), "class_id": self.class_id}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One more thing that is known about a detection, such as `emotion`; highest score first."""

    name: str
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Detection:
    """One thing that was found.

    box, pixels: where, in fractions and in whole pixels of the upright picture. score: 0..1.
    attributes: what a second look at the box said. text: what is written there, for models that read.
    track_id: the same thing has the same number from frame to frame of a stream; 0: not tracked.
    embedding: the vector of the box, when `embed_detections` asked for it.
    """

    box: Box
    pixels: PixelBox
    label: str
    score: float
    class_id: int = 0
    attributes: tuple[Attribute, ...] = ()
    text: str = ""
    track_id: int = 0
    embedding: "Vector | None" = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; what is not there is left out."""
        found: dict[str, Any] = {
            "label": self.label,
            "score": round(self.score, _DIGITS),
            "class_id": self.class_id,
            "box": self.box.to_dict(),
            "pixels": self.pixels.to_dict(),
        }
        if self.attributes:
            found["attributes"] = {a.name: [label.to_dict() for label in a.labels] for a in self.attributes}
        if self.text:
            found["text"] = self.text
        if self.track_id:
            found["track_id"] = self.track_id
        if self.embedding is not None:
            found["embedding"] = _floats(self.embedding)
        return found


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model that answered. device: `cpu`, `cuda:0`."""

    name: str
    version: int
    device: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"name": self.name, "version": self.version, "device": self.device}


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the server's time for one input went: wall time in milliseconds, 0 where a stage did not happen.

    The stages never add up to more than the total. order_ms: waiting for the replies to earlier frames of the
    stream. batch_size: how many inputs ran together, this one included; 0 for cached and joined answers.
    """

    total_ms: float = 0.0
    admission_ms: float = 0.0
    decode_ms: float = 0.0
    prepare_ms: float = 0.0
    queue_ms: float = 0.0
    infer_ms: float = 0.0
    finish_ms: float = 0.0
    order_ms: float = 0.0
    batch_size: int = 0

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class DetectResult:
    """What was found in one input.

    detections: what was found and where. labels: what the whole input is. Both highest score first.
    flagged: whether the model's flag classes reach its threshold; None for a model without such classes.
    width, height: of the upright picture in pixels; 0 for a text.
    """

    detections: tuple[Detection, ...]
    labels: tuple[Label, ...]
    flagged: bool | None
    width: int
    height: int
    model: ModelRef
    timings: Timings
    cache: CacheStatus = CacheStatus.MISS
    request_id: str = field(default="", compare=False)
    source: Any = field(default=None, compare=False, repr=False)
    """The input, as it was given (in a stream: as it was sent)."""

    def draw(self, image: Any = None) -> "Image.Image":
        """The picture with all that was found drawn on it: a new PIL image in mode RGB, upright.

        image: the picture to draw on, as anything `detect` takes but a text or an address; None: the one that
        was looked at. Raises MissingExtra without Pillow, InvalidInput when there is no picture to draw on.
        """
        from opsin._draw import draw

        return draw(self, image)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "detections": [detection.to_dict() for detection in self.detections],
            "labels": [label.to_dict() for label in self.labels],
            "flagged": self.flagged,
            "width": self.width,
            "height": self.height,
            "model": self.model.to_dict(),
            "timings": self.timings.to_dict(),
            "cache": str(self.cache),
            "request_id": self.request_id,
        }


@dataclass(frozen=True, slots=True, eq=False)
class EmbedResult:
    """The vector of one input. vector: float32, shape (dimensions,); of length 1 unless asked otherwise."""

    vector: Vector
    dimensions: int
    model: ModelRef
    timings: Timings
    cache: CacheStatus = CacheStatus.MISS
    request_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "vector": _floats(self.vector),
            "dimensions": self.dimensions,
            "model": self.model.to_dict(),
            "timings": self.timings.to_dict(),
            "cache": str(self.cache),
            "request_id": self.request_id,
        }


def _floats(vector: Sequence[float] | Any) -> list[float]:
    return [float(value) for value in vector]
