"""What is asked and what is answered, in the server's own types.

`rpc/` builds a call from a message and a message from an answer; the pipeline knows only these. Nothing here
knows protobuf or gRPC. All times are seconds on the monotonic clock unless a name says otherwise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Protocol

from opsin_detectors.api import Box, Detection, ImageInput, Label, Vector
from opsin_server.scheduling.ticket import Priority

__all__ = [
    "Answer",
    "CacheState",
    "Caller",
    "DecodedImage",
    "DetectAnswer",
    "DetectCall",
    "DetectOptions",
    "EmbedAnswer",
    "EmbedCall",
    "EmbeddedDetection",
    "EncodedImage",
    "ModelRef",
    "NotNeeded",
    "PixelFormat",
    "RawImage",
    "Source",
    "Text",
    "Timings",
    "UriImage",
    "Watcher",
]


class PixelFormat(StrEnum):
    """Layout of a raw picture. For strides see RawImage in the protos."""

    RGB24 = "RGB24"
    BGR24 = "BGR24"
    GRAY8 = "GRAY8"
    NV12 = "NV12"
    I420 = "I420"


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """JPEG, PNG, WebP, GIF or BMP bytes; of large ones perhaps a view of the message that they came in."""

    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class RawImage:
    """Uncompressed pixels. stride: bytes per row of the first plane, 0 = tight.

    data: of large ones perhaps a view of the message that they came in.
    """

    data: bytes | memoryview
    width: int
    height: int
    stride: int = 0
    format: PixelFormat = PixelFormat.RGB24


@dataclass(frozen=True, slots=True)
class UriImage:
    """A picture to be fetched."""

    uri: str


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A picture that a stream's decoder holds, not yet RGB. `to_rgb` takes `near`, as `media.decode` does."""

    width: int
    height: int
    to_rgb: Callable[[tuple[int, int]], ImageInput]


@dataclass(frozen=True, slots=True)
class Text:
    """A text to classify or embed."""

    text: str


ImageSource = EncodedImage | RawImage | UriImage | DecodedImage
Source = ImageSource | Text


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, how urgently, and until when.

    flow: the name fairness counts this work under: tenant, else connection, else stream.
    deadline: when the answer is no longer wanted; `math.inf` when the caller set none.
    when_idle: nobody waits for it, so it is run only when nothing else would be.
    """

    flow: str = ""
    priority: Priority = Priority.INTERACTIVE
    deadline: float = math.inf
    request_id: str = ""
    routing_key: str = ""
    when_idle: bool = False


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """Options as the caller set them, each checked for itself; what is None or empty was not set.

    Ranges: min_score and iou_threshold 0..1; max_detections and max_labels 0 = the model's default.
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


@dataclass(frozen=True, slots=True)
class DetectCall:
    """One Detect request, one item of a BatchDetect, or one frame of a stream.

    then: the versions, by `name@number`, that look at what is found because the model's settings name them;
        empty: not chosen yet.
    """

    model: str
    source: Source
    options: DetectOptions = field(default_factory=DetectOptions)
    caller: Caller = field(default_factory=Caller)
    then: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """One Embed request or one item of a BatchEmbed. dimensions 0 = all."""

    model: str
    source: Source
    normalize: bool = True
    dimensions: int = 0
    truncate_text: bool = False
    skip_cache: bool = False
    caller: Caller = field(default_factory=Caller)


class NotNeeded(Exception):  # noqa: N818 (no error)
    """A watcher needs no answer any more; nobody is to blame."""


class Watcher(Protocol):
    """Is told how far a call has got."""

    @property
    def keen(self) -> bool:
        """Whether it needs to hear of `started`."""
        ...

    def decoded(self, image: ImageInput) -> None:
        """The picture, before it is prepared, on the thread that decoded it. May raise NotNeeded."""
        ...

    def ready(self) -> None:
        """Everything is prepared and waits for the device; on the event loop."""
        ...

    def started(self) -> None:
        """About to run, on the event loop. The call may still be cancelled here, and then does not run."""
        ...


class CacheState(Enum):
    """How an answer came about: computed for this call, found, or shared with an identical call in flight."""

    MISS = 1
    HIT = 2
    JOINED = 3


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model that answered."""

    name: str
    version: int
    device: str


@dataclass(slots=True)
class Timings:
    """Wall time of one input, in seconds. Stages never add up to more than `total`."""

    total: float = 0.0
    admission: float = 0.0
    decode: float = 0.0
    prepare: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    finish: float = 0.0
    order: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedDetection:
    """A detection with its own vector, when `embed_detections` asked for it, and its track (0 = none)."""

    detection: Detection
    vector: Vector | None = None
    track_id: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DetectAnswer:
    """The answer to a DetectCall: detections and labels final, highest score first.

    flagged: None when the model has no flag rule. width, height: upright pixels, 0 for text.
    """

    model: ModelRef
    detections: Sequence[EmbeddedDetection] = ()
    labels: Sequence[Label] = ()
    flagged: bool | None = None
    width: int = 0
    height: int = 0
    timings: Timings = field(default_factory=Timings)
    cache: CacheState = CacheState.MISS


@dataclass(frozen=True, slots=True, eq=False)
class EmbedAnswer:
    """The answer to an EmbedCall. vector: float32, shape (dimensions,)."""

    model: ModelRef
    vector: Vector
    timings: Timings = field(default_factory=Timings)
    cache: CacheState = CacheState.MISS


Answer = DetectAnswer | EmbedAnswer
