"""The settings by concern: one frozen model each, with how to choose every option.

Knows nothing of where values come from, and reads nothing.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import NoDecode

__all__ = [
    "DEVICE_PATTERN",
    "MODEL_DEVICE_PATTERN",
    "NAME_PATTERN",
    "CacheSettings",
    "DetectorSettings",
    "DrainSettings",
    "LimitSettings",
    "LoadingSettings",
    "LogSettings",
    "MetricsSettings",
    "ModelSettings",
    "SchedulerSettings",
    "Section",
    "ServerSettings",
    "StreamSettings",
    "label_fault",
]

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
DEVICE_PATTERN = r"^(auto|cpu|cuda|cuda:\*|cuda:\d+(\+cuda:\d+)*)$"
MODEL_DEVICE_PATTERN = r"^(|auto|cpu|cuda(:\d+)?)$"

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def _long_name(value: object) -> object:
    return _SHORT.get(value, value) if isinstance(value, str) else value


Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16", "int8"], BeforeValidator(_long_name)]
Decode = Literal["auto", "cpu", "device"]
LaneKind = Literal["auto", "threads", "processes"]
Runtime = Literal["auto", "eager", "channels_last", "compile", "cuda_graphs", "openvino", "onnxruntime"]
# Of one model, where empty is "as for all". One literal each: of a union every part would be told as a fault.
ModelDtype = Annotated[
    Literal["", "auto", "float32", "bfloat16", "float16", "int8"], BeforeValidator(_long_name)
]
ModelLaneKind = Literal["", "auto", "threads", "processes"]
ModelRuntime = Literal[
    "", "auto", "eager", "channels_last", "compile", "cuda_graphs", "openvino", "onnxruntime"
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """Python takes `port = true` for 1; a person who writes it means something else."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            msg = f"{str(value).lower()} is not a value for it"
            raise ValueError(msg)
        return value


class ServerSettings(Section):
    """Where the server listens, and how its connections behave."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on. Loopback for yourself; 0.0.0.0 or :: in a container, or to serve others."""
    port: Port = 50051
    """Port to listen on. 0 takes any free one and prints it, which suits tests."""
    lookahead_bytes: Annotated[ByteSize, Field(ge=0, le=64 << 20)] = ByteSize(128 << 10)
    """How much a client may send ahead of what is read, for each stream. One or two frames of video: less
    stalls a long line, more lets a stalled server collect stale frames. 0 leaves it to gRPC, whose own
    choice grows to megabytes: to compare with, not to serve with."""
    max_pending_calls: Annotated[int, Field(ge=1, le=2**30 - 1)] = 10_000
    """Calls that may wait to be taken up. gRPC cancels calls beyond it without a word to retry by, so leave
    it far above the callers you expect."""
    cache_dir: Annotated[str, Field(min_length=1)] = "auto"
    """Folder for what is worth keeping from one start to the next: how each model runs best here, and graphs
    made for that. auto, the default: `opsin` in XDG_CACHE_HOME or ~/.cache; off keeps nothing, so that every
    start measures. In a container a volume, or filled while the image is made."""
    cache_dir_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(8 << 30)
    """What that folder may hold. Beyond it the graphs that were used longest ago go, whenever a model has
    been loaded, but none that a server on this machine is running. 0: no bound."""
    loop_watch_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """For finding what holds up everyone: logs whatever keeps the event loop for longer than so many
    milliseconds. 0.5 is a start; 0, the default, is off. Costs some microseconds a call."""


class MetricsSettings(Section):
    """The Prometheus endpoint."""

    port: Port | None = None
    """Port of /metrics. Unset, the default: no endpoint. 0 takes any free one."""
    host: str = ""
    """Address of /metrics. Empty, the default: the server's own. Choose a private one when the server is
    public: metrics need no credentials."""


class LimitSettings(Section):
    """How much the server takes; clients see these through GetServerInfo."""

    max_message_bytes: Annotated[ByteSize, Field(ge=4 << 20, le=1 << 30)] = ByteSize(32 << 20)
    """Largest message, both ways. Above the largest picture or batch you send; clients must match it."""
    max_pixels: Count = 50_000_000
    """Most pixels a picture may have. Above your largest camera; each costs three bytes while it waits."""
    max_side: Annotated[int, Field(ge=1, le=65535)] = 16_384
    """Longest side of a picture, in pixels."""
    max_batch_items: Count = 256
    """Most items in one batch call."""
    max_streams: Count = 256
    """Most live streams. What the device keeps fresh: the frames a second it runs, over those of a stream."""
    max_queued_tickets: Count = 1024
    """Most inputs that wait for a device. A second or two of work: longer queues only make answers later."""
    max_decoded_bytes: Annotated[ByteSize, Field(ge=1 << 20, le=1 << 62)] = ByteSize(1 << 30)
    """Most decoded pixels held at once, in bytes. A quarter of the memory you give the server is a start."""
    max_regions: Count = 64
    """Most regions in one request. Each costs as much as a picture of its own."""
    max_labels: Count = 1000
    """Most entries in `labels` and in `candidate_labels`."""
    max_text_characters: Count = 100_000
    """Longest text, in characters."""


class SchedulerSettings(Section):
    """How the device is used."""

    lanes: Annotated[int, Field(ge=0, le=256)] = 0
    """Batches that run side by side on a device. 0, the default: one on a GPU, by the cores on a CPU."""
    lane_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Torch threads of a lane. 0, the default: the cores shared out over the lanes."""
    cpu_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads that decode, prepare and finish. 0, the default: one for each core."""
    trace: Path | None = None
    """File to record every input's arrival in, for `opsin simulate --trace`. Unset, the default: none. For an
    hour that shall be looked at, not for ever: it grows by about 100 bytes an input."""
    max_backlog: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """Seconds of work that may wait for the device, over all models. Above the longest deadline your callers
    set: what waits longer than that is answered too late for everyone."""
    stall_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """Seconds without progress after which a lane counts as stalled and health says so. Well above the
    slowest batch of the slowest model, first runs included."""


class StreamSettings(Section):
    """How video streams are served."""

    max_in_flight: Annotated[int, Field(ge=2, le=1024)] = 8
    """Frames of one stream that may be unanswered. More fills batches better when there are few streams; each
    one adds a frame's time to the delay of a client that fills the window."""
    max_duration: Seconds = 0.0
    """Seconds after which a stream is sent away to begin again, here or elsewhere, give or take a tenth. 0,
    the default: never. An hour or less lets load spread to servers that were added."""
    secret: SecretStr = SecretStr("")
    """Signs the tokens by which a stream goes on elsewhere. Give all servers behind one address the same, of
    32 characters or more. Unset, the default: a random one, so that a token is good on this process only."""


class CacheSettings(Section):
    """Work that is not done twice. See docs/cache.md."""

    join: bool = True
    """Whether identical inputs that are in flight run once. Leave it on; off to measure without it."""
    memory_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(0)
    """Bytes of answers kept in this process. 0, the default: none. Worth it where the same pictures come
    again: an answer takes about 1 kB and 0.5 kB for each detection, so 64 MiB hold some 30 000."""
    ttl: Seconds = 3600.0
    """Seconds that an answer is kept, here and in Redis. 0: until there is no room. Answers do not change
    while a version is served, so this only bounds how long unused ones lie around."""
    redis: SecretStr = SecretStr("")
    """Where servers share answers: redis://host:6379/0, rediss:// for TLS. Empty, the default: nowhere. Worth
    it with several servers and a model that takes well over a millisecond. Needs the extra `redis`."""
    redis_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] = "opsin"
    """What every key begins with. Another one for servers that shall not share, or to leave all behind."""
    redis_timeout: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.01
    """Seconds after which looking in Redis is given up. A few round trips; each call may lose this much
    until Redis counts as down, and then nothing."""
    redis_wait: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.1
    """Seconds to wait for an answer that another server is computing right now. About what computing takes;
    0 never waits."""


class DetectorSettings(Section):
    """Which detectors there are, and what they run on."""

    dirs: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders to look for detectors in, beside the built-in ones. In the environment separated as PATH is."""
    device: Annotated[str, Field(pattern=DEVICE_PATTERN)] = "auto"
    """What models run on unless they say otherwise: auto (a GPU when there is one), cpu, cuda, cuda:1.
    Several GPUs: cuda:0+cuda:1, or cuda:* for all; each has every model and takes from the same queues."""
    dtype: Dtype = "auto"
    """Type of the weights: auto, float32 (or fp32), bfloat16 (bf16), float16 (fp16), int8. auto takes the
    fastest that keeps the answers; float32 to compare last digits. int8 is quantised on real pictures while
    loading, and refused where the best label changes on more than 2 in 100 of them."""
    runtime: Runtime = "auto"
    """What runs networks: auto, eager (torch, as they are written), channels_last, openvino, onnxruntime; on
    a GPU also compile and cuda_graphs. auto measures once on each kind of machine and takes the fastest that
    gives the same answers; eager to compare with other servers. With auto here and a dtype told: torch."""
    lane_kind: LaneKind = "auto"
    """Where networks that torch runs on a CPU compute: threads of the server, processes (one for each lane,
    so that no lane waits for another's interpreter lock), or auto, which measures once on each kind of
    machine and takes processes where they save a twentieth. A model that cannot run in processes is refused
    when they are told, and runs in threads with auto."""
    decode: Decode = "auto"
    """Where JPEGs for models on a GPU are decoded and resized: auto, cpu, device. device is nvJPEG (extra
    `nvjpeg`), for models that can take its pixels; loading fails where it cannot. auto takes it where it is
    there, gives the CPU's pixels, and manages more pictures a second than all threads of the CPU."""

    @field_validator("dirs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


class LoadingSettings(Section):
    """What callers may load while the server runs. Models that the settings name are not bound by it."""

    dirs: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders that sources have to lie in, links followed; hub ids are refused then. In the environment
    separated as PATH is. Empty, the default: any folder and any hub id. Name one where strangers reach the
    port."""
    trust: bool = False
    """Whether a request may set trust_remote_code and allow_pickle, by which code of a checkpoint runs here.
    Off, the default; on where only you reach the port."""

    @field_validator("dirs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """info for starts, stops and failed calls; debug adds a line for each call."""
    format: Literal["console", "json"] = "console"
    """console for people, json for a log collector: one object a line."""


class DrainSettings(Section):
    """How the server leaves."""

    delay: Seconds = 5.0
    """Seconds between NOT_SERVING and refusing new calls. Longer than your proxy takes to notice."""
    grace: Seconds = 20.0
    """Seconds that accepted work may then take. Together with the delay below the platform's kill timeout
    (Kubernetes: terminationGracePeriodSeconds, 30)."""


class ModelSettings(Section):
    """One model to load."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """What clients call it."""
    source: str = ""
    """A detector's name, a folder, a file or a hub id. Empty, the default: the detector of the same name."""
    version: Annotated[int, Field(ge=1, le=2**63 - 1)] = 1
    """Its version. Give the same name several times to run versions side by side."""
    detector: str = ""
    """The detector to run it with. Empty, the default: chosen by the source."""
    device: Annotated[str, Field(pattern=MODEL_DEVICE_PATTERN)] = ""
    """What it runs on. Empty, the default: as all models do."""
    dtype: ModelDtype = ""
    """Type of its weights. Empty, the default: as for all models."""
    runtime: ModelRuntime = ""
    """What runs its network. Empty, the default: as for all models."""
    lane_kind: ModelLaneKind = ""
    """Where its network computes: auto, threads, processes; refused where processes are told and cannot be.
    Empty, the default: as for all models."""
    max_batch: Annotated[int, Field(ge=0, le=4096)] = 0
    """Largest batch. 0, the default: what the detector allows. Less when memory is short."""
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Its share of the device when models compete, against the others' shares."""
    labels: tuple[str, ...] = ()
    """Labels that lead to this version: `name@canary`."""
    weight: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Its share of the calls that name no version: this over the sum for all versions of the name. Unset, the
    default: the first version of a name gets all, the others none."""
    shadow: bool = False
    """Whether it gets a copy of every call for its name, with the answers thrown away: to try a new version
    on real traffic. One for each name at most."""
    then: tuple[str, ...] = ()
    """Models that look at each box it finds: what they read, their labels or their vector is told with the
    box. Names of models here, or of detectors, which are then served under that name too. Several joined by
    “+”. Empty, the default: none."""
    then_margin: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What those see around the box on each side, as a share of its sides: 0.1 where the edges matter."""
    then_classes: tuple[str, ...] = ()
    """Only boxes of these classes are looked at again, joined by “+”. Empty, the default: all."""
    settings: dict[str, str] = Field(default_factory=dict)
    """The detector's own settings; `--model` puts every key here that is not one of the above."""

    @field_validator("settings", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        """TOML writes numbers and truth values bare; detectors read text."""
        if not isinstance(value, Mapping):
            return value
        return {key: str(v).lower() if isinstance(v, bool) else str(v) for key, v in value.items()}

    @field_validator("then", "then_classes", mode="before")
    @classmethod
    def _joined(cls, value: object) -> object:
        return value.split("+") if isinstance(value, str) else value

    @field_validator("then")
    @classmethod
    def _named(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in value:
            base, _, tag = name.partition("@")
            if not re.fullmatch(NAME_PATTERN, base) or ("@" in name and not re.fullmatch(NAME_PATTERN, tag)):
                msg = f"it names models as calls do, NAME, NAME@VERSION or NAME@LABEL; not {name[:200]!r}"
                raise ValueError(msg)
            if base == info.data.get("name"):
                msg = f"model {base} cannot look at what it finds itself; name another one"
                raise ValueError(msg)
        return value

    @field_validator("labels")
    @classmethod
    def _not_digits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for label in value:
            if fault := label_fault(label):
                raise ValueError(fault)
        return value


def label_fault(label: str) -> str:
    """What is wrong with a label; empty when nothing is."""
    if re.fullmatch(NAME_PATTERN, label) and not label.isdigit():
        return ""
    return f"a label is lower-case letters, digits, dots and dashes, never all digits; not {label[:200]!r}"
