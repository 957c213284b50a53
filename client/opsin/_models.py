"""What comes back about a server and its models: frozen values, times in seconds.

Knows neither protobuf nor gRPC; `_parse` builds these from messages.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from opsin._errors import OpsinError
from opsin._options import DetectOptions

__all__ = [
    "BatchProfile",
    "Device",
    "Health",
    "Limits",
    "Model",
    "ModelState",
    "RuntimeTrial",
    "ServerInfo",
    "Task",
]


class Health(StrEnum):
    """What a server says about itself, or about one of its models. Only SERVING is good: see `ok`."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    SERVICE_UNKNOWN = "service_unknown"
    """The server knows no service or model of that name."""

    @property
    def ok(self) -> bool:
        """Whether calls are welcome. (Every text is true, so ask this, not `if health`.)"""
        return self is Health.SERVING


class ModelState(StrEnum):
    """Where a version of a model is in its life."""

    UNKNOWN = "unknown"
    LOADING = "loading"
    WARMING = "warming"
    SERVING = "serving"
    DRAINING = "draining"
    FAILED = "failed"


class Task(StrEnum):
    """What a model can do."""

    UNKNOWN = "unknown"
    DETECT = "detect"
    CLASSIFY_IMAGE = "classify_image"
    CLASSIFY_TEXT = "classify_text"
    EMBED_IMAGE = "embed_image"
    EMBED_TEXT = "embed_text"
    ZERO_SHOT = "zero_shot"
    READ_TEXT = "read_text"


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """The learnt run time of one batch size: an average that a slow run hardly moves, and from there to about
    the 90th percentile."""

    batch_size: int
    median_us: int
    spread_us: int


@dataclass(frozen=True, slots=True)
class RuntimeTrial:
    """One way to run a model that was tried. verdict: `chosen`, or in words why it was not.

    lane_kind: `threads` or `processes`, where times are of as many batches side by side as there are lanes.
    """

    runtime: str
    dtype: str
    times: tuple[BatchProfile, ...]
    chosen: bool
    verdict: str
    lane_kind: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model: what it is, what it can do, and how it fares.

    failure: why it is FAILED. classes: names by class id. buckets: the batch sizes it runs. traffic_weight:
    its share of calls that name no version. labels: the labels that lead to it. load_time: seconds until it
    was SERVING, None before. serving_since: Unix seconds. queued, oldest_wait_us, busy_share (0..1): live.
    decoder: what decodes its JPEGs, where there was a choice. lane_kind: where its network computes, in
    `threads` or `processes`, where there was a choice.
    """

    name: str
    version: int
    state: ModelState
    failure: OpsinError | None
    detector: str
    source: str
    tasks: tuple[Task, ...]
    classes: tuple[str, ...]
    default_options: DetectOptions
    embedding_dimensions: int
    device: str
    dtype: str
    runtime: str
    buckets: tuple[int, ...]
    profile: tuple[BatchProfile, ...]
    traffic_weight: int
    labels: tuple[str, ...]
    memory_bytes: int
    load_time: float | None
    queued: int
    oldest_wait_us: int
    busy_share: float
    shadow: bool
    flag_classes: tuple[str, ...]
    flag_threshold: float
    serving_since: float | None
    trials: tuple[RuntimeTrial, ...] = ()
    decoder: str = ""
    lane_kind: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {
            "failure": self.failure and self.failure.to_dict(),
            "tasks": [str(task) for task in self.tasks],
            "state": str(self.state),
            "default_options": asdict(self.default_options),
            "profile": [asdict(step) for step in self.profile],
            "trials": [asdict(trial) for trial in self.trials],
        }


@dataclass(frozen=True, slots=True)
class Device:
    """What models run on. lanes: batches side by side. Memory in bytes, 0: not known. busy_share: 0..1."""

    name: str
    description: str
    lanes: int
    memory_bytes: int
    free_memory_bytes: int
    busy_share: float


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a server takes: bytes, pixels, entries and characters, by name."""

    max_message_bytes: int
    max_pixels: int
    max_side: int
    max_batch_items: int
    max_streams: int
    max_queued_tickets: int
    max_decoded_bytes: int
    max_regions: int
    max_labels: int
    max_text_characters: int
    max_quoted_characters: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is. uptime: seconds. start_time: Unix seconds by its own clock, None: not told.

    default_detect_model, default_embed_model: what the name "" leads to; empty: there is none.
    codecs: what a stream may send (`image`, `h264`, ...). uris_enabled: whether it fetches `Uri`s.
    """

    version: str
    limits: Limits
    devices: tuple[Device, ...]
    default_detect_model: str
    default_embed_model: str
    uptime: float
    start_time: float | None
    codecs: tuple[str, ...]
    uris_enabled: bool

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)
