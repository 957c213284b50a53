"""ModelService: what the server is and has. Read off the catalog, converted, nothing decided.

What changes something is in `operate.py`.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

from opsin.v1.detect_pb2 import DetectOptions
from opsin.v1.model_pb2 import BatchProfile, Device, Limits, Model, RuntimeTrial
from opsin.v1.model_pb2 import ModelState as StateMessage
from opsin.v1.model_pb2 import Task as TaskMessage
from opsin.v1.model_service_pb2 import (
    GetModelRequest,
    GetModelResponse,
    GetServerInfoRequest,
    GetServerInfoResponse,
    ListModelsRequest,
    ListModelsResponse,
)
from opsin.v1.stream_pb2 import Codec
from opsin_detectors.api import ModelInfo, Task, Trial
from opsin_server.admission.options import (
    DEFAULT_MAX_DETECTIONS,
    FEW_CLASSES,
    MANY_CLASSES_LABELS,
    nearest,
)
from opsin_server.config import LimitSettings
from opsin_server.errors import QUOTE_LIMIT, Failure, Reason, quote
from opsin_server.media.video import known_codecs
from opsin_server.models.status import DeviceStatus, ModelState, ModelStatus
from opsin_server.rpc.edge import CallContext
from opsin_server.rpc.errors import status_of
from opsin_server.rpc.replies import microseconds
from opsin_server.rpc.seam import Catalog

__all__ = ["ModelService", "choose", "model_message"]

_STATES: Mapping[ModelState, StateMessage.ValueType] = {
    ModelState.LOADING: StateMessage.MODEL_STATE_LOADING,
    ModelState.WARMING: StateMessage.MODEL_STATE_WARMING,
    ModelState.SERVING: StateMessage.MODEL_STATE_SERVING,
    ModelState.DRAINING: StateMessage.MODEL_STATE_DRAINING,
    ModelState.FAILED: StateMessage.MODEL_STATE_FAILED,
}
_TASKS: Mapping[Task, TaskMessage.ValueType] = {
    Task.DETECT: TaskMessage.TASK_DETECT,
    Task.CLASSIFY_IMAGE: TaskMessage.TASK_CLASSIFY_IMAGE,
    Task.CLASSIFY_TEXT: TaskMessage.TASK_CLASSIFY_TEXT,
    Task.EMBED_IMAGE: TaskMessage.TASK_EMBED_IMAGE,
    Task.EMBED_TEXT: TaskMessage.TASK_EMBED_TEXT,
    Task.ZERO_SHOT: TaskMessage.TASK_ZERO_SHOT,
    Task.READ_TEXT: TaskMessage.TASK_READ_TEXT,
}


class ModelService:
    """The methods of opsin.v1.ModelService that tell something, as behaviours for `Edge`."""

    def __init__(
        self,
        catalog: Catalog,
        limits: LimitSettings,
        version: str,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._limits = limits
        self._version = version
        self._clock = wall_clock
        self._started = wall_clock()

    async def get_server_info(
        self, request: GetServerInfoRequest, context: CallContext
    ) -> GetServerInfoResponse:
        """What this server is, and how much it takes."""
        del request, context
        now = self._catalog.server()
        reply = GetServerInfoResponse(
            version=self._version,
            limits=_limits(self._limits),
            devices=[_device(device) for device in now.devices],
            default_detect_model=now.default_detect_model,
            default_embed_model=now.default_embed_model,
            codecs=[Codec.CODEC_IMAGE, *(Codec.Value(f"CODEC_{codec}") for codec in known_codecs())],
            uris_enabled=False,
        )
        reply.uptime.FromMicroseconds(round(max(self._clock() - self._started, 0) * 1e6))
        reply.start_time.FromMicroseconds(round(self._started * 1e6))
        return reply

    async def list_models(self, request: ListModelsRequest, context: CallContext) -> ListModelsResponse:
        """Every version of every model."""
        del request, context
        models = sorted(self._catalog.list(), key=lambda model: (model.name, model.version))
        return ListModelsResponse(models=[model_message(model) for model in models])

    async def get_model(self, request: GetModelRequest, context: CallContext) -> GetModelResponse:
        """The version that a name leads to."""
        del context
        return GetModelResponse(model=model_message(choose(self._catalog, request.name)))


def choose(catalog: Catalog, name: str, field: str = "name") -> ModelStatus:
    """The version that `name`, `name@3` or `name@canary` leads to; of a bare name the one with most traffic.

    field: where the name was given. Raises `Failure` MODEL_NOT_FOUND or VERSION_NOT_FOUND.
    """
    base, marked, tag = name.partition("@")
    try:
        versions = catalog.get(base)
    except Failure as failure:
        raise dataclasses.replace(failure, field=field) from None
    if not marked:
        return max(versions, key=lambda model: (model.traffic_weight, model.version))
    for model in versions:
        if tag in (str(model.version), *model.labels):
            return model
    raise _no_version(tag, versions, field)


def model_message(status: ModelStatus) -> Model:
    """One version of a model."""
    message = Model(
        name=status.name,
        version=status.version,
        state=_STATES[status.state],
        detector=status.detector,
        source=status.source,
        buckets=status.buckets,
        traffic_weight=status.traffic_weight,
        labels=status.labels,
        queued=status.queued,
        oldest_wait_us=microseconds(status.oldest_wait),
        busy_share=status.busy_share,
        shadow=status.shadow,
        decoder=status.decoder,
        memory_bytes=status.memory_bytes,
    )
    if status.failure is not None:
        message.failure.CopyFrom(status_of(status.failure))
    if status.load_time is not None:
        message.load_time.FromMicroseconds(round(status.load_time * 1e6))
    if status.serving_since is not None:
        message.serving_since.FromMicroseconds(round(status.serving_since * 1e6))
    for entry in status.profile:
        message.profile.add(
            batch_size=entry.batch_size,
            median_us=microseconds(entry.median),
            spread_us=microseconds(entry.spread),
        )
    if status.info is not None:
        _add_info(message, status.info)
        message.device = status.device or status.info.device
    return message


def _add_info(message: Model, info: ModelInfo) -> None:
    message.tasks.extend(sorted(_TASKS[task] for task in info.tasks))
    message.classes.extend(info.classes)
    message.default_options.CopyFrom(_default_options(info))
    message.embedding_dimensions = info.embedding_dimensions
    message.dtype = info.dtype
    message.runtime = info.runtime
    message.lane_kind = info.lane_kind
    for trial in info.trials:
        message.trials.append(_trial(trial))
    if info.flag is not None:
        message.flag_classes.extend(info.flag.classes)
        message.flag_threshold = info.flag.threshold


def _trial(trial: Trial) -> RuntimeTrial:
    times = [
        BatchProfile(batch_size=size, median_us=microseconds(seconds)) for size, seconds in trial.seconds
    ]
    return RuntimeTrial(
        runtime=trial.runtime,
        dtype=trial.dtype,
        times=times,
        chosen=trial.verdict.startswith("chosen"),
        verdict=trial.verdict,
        lane_kind=trial.lane_kind,
    )


def _default_options(info: ModelInfo) -> DetectOptions:
    few = len(info.classes) <= FEW_CLASSES
    return DetectOptions(
        min_score=info.defaults.min_score,
        max_detections=info.defaults.max_detections or DEFAULT_MAX_DETECTIONS,
        max_labels=info.defaults.max_labels or (len(info.classes) if few else MANY_CLASSES_LABELS),
        iou_threshold=info.defaults.iou_threshold,
    )


def _device(device: DeviceStatus) -> Device:
    return Device(
        name=device.name,
        description=device.description,
        lanes=device.lanes,
        memory_bytes=device.memory_bytes,
        free_memory_bytes=device.free_memory_bytes,
        busy_share=device.busy_share,
    )


def _limits(limits: LimitSettings) -> Limits:
    """The settings have the names of the message's fields."""
    return Limits(max_quoted_characters=QUOTE_LIMIT, **{k: int(v) for k, v in limits.model_dump().items()})


def _no_version(tag: str, versions: Sequence[ModelStatus], field: str) -> Failure:
    known = [str(model.version) for model in versions] + [label for m in versions for label in m.labels]
    return Failure(
        Reason.VERSION_NOT_FOUND,
        f"Model {quote(versions[0].name)} has no version or label {quote(tag)}; it has {', '.join(known)}.",
        field=field,
        metadata={"model": versions[0].name, "version": tag, "nearest": nearest(tag, known) or known[0]},
    )
