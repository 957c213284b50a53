"""How a model and a device stand, as plain facts for whoever asks.

Filled by the registry, read by `rpc/model.py` and telemetry. Knows neither protobuf nor how a model is run.
"""

from dataclasses import dataclass
from enum import Enum

from opsin_detectors.api import ModelInfo
from opsin_server.errors import Failure

__all__ = ["BatchTime", "DeviceStatus", "ModelState", "ModelStatus", "ServerStatus"]


class ModelState(Enum):
    """Where a version of a model is in its life."""

    LOADING = 1
    WARMING = 2
    SERVING = 3
    DRAINING = 4
    FAILED = 5


@dataclass(frozen=True, slots=True)
class BatchTime:
    """Learnt run time of one batch size, in seconds: the usual, and about the 90th percentile less that.

    Both are estimates, from a mean and a mean deviation that outliers hardly move.
    """

    batch_size: int
    median: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of a model.

    info: None until the detector is loaded.
    load_time: seconds of loading and warming up, None until SERVING.
    serving_since: seconds since the epoch.
    oldest_wait: seconds; busy_share: 0..1 of its lanes' time over the last seconds.
    device: what it runs on, several joined by “+”. decoder: what decodes its JPEGs, where there was a choice.
    memory_bytes: its weights, and what warming up took beside them; 0 until it is loaded.
    """

    name: str
    version: int
    state: ModelState
    failure: Failure | None = None
    detector: str = ""
    source: str = ""
    info: ModelInfo | None = None
    device: str = ""
    decoder: str = ""
    buckets: tuple[int, ...] = ()
    profile: tuple[BatchTime, ...] = ()
    traffic_weight: int = 0
    shadow: bool = False
    labels: tuple[str, ...] = ()
    load_time: float | None = None
    serving_since: float | None = None
    queued: int = 0
    oldest_wait: float = 0.0
    busy_share: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """What models run on. lanes: batches side by side; bytes are 0 when not known; busy_share 0..1."""

    name: str
    description: str = ""
    lanes: int = 1
    memory_bytes: int = 0
    free_memory_bytes: int = 0
    busy_share: float = 0.0


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What the server has now. The defaults are model names, empty when there is none."""

    devices: tuple[DeviceStatus, ...] = ()
    default_detect_model: str = ""
    default_embed_model: str = ""
