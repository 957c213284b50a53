"""What is asked of a model: options of detection, embedding and streams, checked before they travel.

Each option is written down once, in a frozen dataclass; the `...Keywords` say the same to type checkers,
for the clients' keyword arguments (a test compares the two). Knows neither protobuf nor gRPC.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias, TypedDict, Unpack, get_args

from opsin._errors import InvalidInput
from opsin._freshness import Freshness
from opsin._results import Box
from opsin._spelling import check_text

__all__ = [
    "Codec",
    "DetectAsk",
    "DetectKeywords",
    "DetectOptions",
    "EmbedAsk",
    "EmbedKeywords",
    "OptionKeywords",
    "Priority",
    "StreamAsk",
    "StreamKeywords",
]

Priority: TypeAlias = Literal["interactive", "bulk"]
RegionLike: TypeAlias = Box | tuple[float, float, float, float]
Rate: TypeAlias = Literal["max", "realtime"] | float
Codec: TypeAlias = Literal["image", "h264", "hevc", "mjpeg", "auto"]


class OptionKeywords(TypedDict, total=False):
    """The fields of `DetectOptions` as keyword arguments."""

    min_score: float | None
    max_detections: int
    max_labels: int
    iou_threshold: float | None
    labels: Iterable[str]
    regions: Iterable[RegionLike]
    candidate_labels: Iterable[str]
    embed_detections: bool
    embed_model: str
    skip_cache: bool
    truncate_text: bool


class DetectKeywords(OptionKeywords, total=False):
    """The keyword arguments of `detect` and `detect_many`."""

    model: str
    priority: Priority
    routing_key: str


class EmbedKeywords(TypedDict, total=False):
    """The keyword arguments of `embed` and `embed_many`."""

    model: str
    normalize: bool
    dimensions: int
    truncate_text: bool
    skip_cache: bool
    priority: Priority
    routing_key: str


class StreamKeywords(OptionKeywords, total=False):
    """The keyword arguments of `stream`."""

    model: str
    freshness: str | Freshness
    track: bool
    reuse_similar: float | None
    reuse_threshold: float
    stream_id: str
    rate: Rate | None
    quality: int | None
    codec: Codec
    window: int
    reconnect: float
    timeout: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectOptions:
    """What to look for, and how. Raises InvalidInput for a value out of its range.

    min_score: the lowest score that is answered, 0..1; None: the model's own. Whole-image labels are
        cut by it only when it is set.
    max_detections: the most detections, highest scores first; 0: the model's own, usually 100.
    max_labels: the most whole-image labels; 0: all when the model has at most 20 classes, else 5.
    iou_threshold: of two boxes that overlap more, the lower score is dropped, 0..1; None: the model's own.
    labels: the only classes that are answered, by exact name; empty: all.
    regions: the parts of the picture to look at, each in the model's full resolution: `Box`es or
        (x_min, y_min, x_max, y_max), 0..1; empty: the whole picture.
    candidate_labels: the classes to choose from, for zero-shot models.
    embed_detections, embed_model: give each detection the vector of its box, by that model ("": the default).
    skip_cache: neither join identical work under way nor use the result cache.
    truncate_text: cut a text that is longer than the model reads, instead of refusing it.
    """

    min_score: float | None = None
    max_detections: int = 0
    max_labels: int = 0
    iou_threshold: float | None = None
    labels: tuple[str, ...] = ()
    regions: tuple[Box, ...] = ()
    candidate_labels: tuple[str, ...] = ()
    embed_detections: bool = False
    embed_model: str = ""
    skip_cache: bool = False
    truncate_text: bool = False

    def __post_init__(self) -> None:
        _check_share("options.min_score", self.min_score)
        _check_share("options.iou_threshold", self.iou_threshold)
        _check_count("options.max_detections", self.max_detections)
        _check_count("options.max_labels", self.max_labels)
        object.__setattr__(self, "labels", _names("options.labels", self.labels))
        object.__setattr__(
            self, "candidate_labels", _names("options.candidate_labels", self.candidate_labels)
        )
        object.__setattr__(self, "regions", _regions(self.regions))
        check_text("options.embed_model", self.embed_model)

    @classmethod
    def of(cls, **options: Unpack[OptionKeywords]) -> Self:
        """From keyword arguments, with anything iterable where a tuple is kept."""
        return cls(**options)  # type: ignore[arg-type]  # __post_init__ makes the tuples


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectAsk:
    """All that a Detect call says besides its input."""

    model: str = ""
    options: DetectOptions = field(default_factory=DetectOptions)
    priority: Priority = "interactive"
    routing_key: str = ""

    def __post_init__(self) -> None:
        _check_priority(self.priority)
        check_text("model", self.model)
        check_text("routing_key", self.routing_key)

    @classmethod
    def of(
        cls,
        *,
        model: str = "",
        priority: Priority = "interactive",
        routing_key: str = "",
        **options: Unpack[OptionKeywords],
    ) -> Self:
        """From the keyword arguments of `detect`."""
        return cls(
            model=model, options=DetectOptions.of(**options), priority=priority, routing_key=routing_key
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedAsk:
    """All that an Embed call says besides its input.

    normalize: scale the vector to length 1. dimensions: keep only the first so many values; 0: all.
    """

    model: str = ""
    normalize: bool = True
    dimensions: int = 0
    truncate_text: bool = False
    skip_cache: bool = False
    priority: Priority = "interactive"
    routing_key: str = ""

    def __post_init__(self) -> None:
        _check_priority(self.priority)
        _check_count("dimensions", self.dimensions)
        check_text("model", self.model)
        check_text("routing_key", self.routing_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAsk:
    """All that a stream is opened with. See `Client.stream` for the meaning of each."""

    model: str = ""
    options: DetectOptions = field(default_factory=DetectOptions)
    freshness: Freshness = field(default_factory=Freshness)
    track: bool = False
    reuse_similar: float | None = None
    reuse_threshold: float = 0.0
    stream_id: str = ""
    rate: Rate | None = None
    quality: int | None = 90
    codec: Codec = "image"
    window: int = 0
    reconnect: float = 30.0
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.codec not in get_args(Codec):
            raise InvalidInput.at(
                "codec", f"codec is one of {', '.join(get_args(Codec))}; not {self.codec!r}"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise InvalidInput.at(
                "quality", f"JPEG quality is 1 to 100, or None for raw pixels; not {self.quality}"
            )
        if isinstance(self.rate, str) and self.rate not in ("max", "realtime"):
            raise InvalidInput.at("rate", f"rate is 'max', 'realtime' or frames a second; not {self.rate!r}")
        if isinstance(self.rate, float | int) and not 0 < self.rate < math.inf:
            raise InvalidInput.at("rate", f"a rate in frames a second is above 0; not {self.rate}")
        if self.reuse_similar is not None and not 0 < self.reuse_similar < math.inf:
            raise InvalidInput.at(
                "reuse_similar", f"reuse_similar is above 0 seconds; not {self.reuse_similar}"
            )
        _check_share("reuse_threshold", self.reuse_threshold)
        _check_count("window", self.window)
        check_text("model", self.model)
        check_text("stream_id", self.stream_id)

    @classmethod
    def of(cls, **keywords: Any) -> Self:
        """From the keyword arguments of `stream` (`StreamKeywords`)."""
        options = {name: keywords.pop(name) for name in _OPTION_NAMES & keywords.keys()}
        freshness = Freshness.of(keywords.pop("freshness", Freshness()))
        return cls(options=DetectOptions.of(**options), freshness=freshness, **keywords)


_OPTION_NAMES = OptionKeywords.__annotations__.keys()


def _check_share(field: str, value: float | None) -> None:
    if value is not None and not (_is_number(value) and 0 <= value <= 1):
        raise InvalidInput.at(field, f"{field.rpartition('.')[2]} is a number from 0 to 1; not {value!r}")


def _check_count(field: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise InvalidInput.at(
            field, f"{field.rpartition('.')[2]} is a whole number, 0 or above; not {value!r}"
        )


def _check_priority(value: str) -> None:
    if value not in ("interactive", "bulk"):
        raise InvalidInput.at("priority", f"priority is 'interactive' or 'bulk'; not {value!r}")


def _names(field: str, names: Iterable[str]) -> tuple[str, ...]:
    # A lone string is iterable too, and would become its letters.
    if isinstance(names, str):
        raise InvalidInput.at(field, f"{field.rpartition('.')[2]} is a list of names; give [{names!r}]")
    told = tuple(names)
    for name in told:
        check_text(field, name)
    return told


def _regions(regions: Iterable[RegionLike]) -> tuple[Box, ...]:
    return tuple(_region(f"options.regions[{at}]", region) for at, region in enumerate(regions))


def _region(field: str, region: Box | Sequence[float]) -> Box:
    if not isinstance(region, Box):
        if len(region) != 4:
            raise InvalidInput.at(field, f"a region is a Box or (x_min, y_min, x_max, y_max); not {region!r}")
        region = Box(*region)
    if not (0 <= region.x_min < region.x_max <= 1 and 0 <= region.y_min < region.y_max <= 1):
        raise InvalidInput.at(field, f"a region lies inside 0..1 and is not empty; not {region}")
    return region


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
