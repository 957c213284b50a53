"""From messages to results: the reading half of the client's edge to protobuf."""

import struct
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from opsin import v1 as pb
from opsin._errors import OpsinError
from opsin._extras import optional
from opsin._models import BatchProfile, Device, Limits, Model, ModelState, RuntimeTrial, ServerInfo, Task
from opsin._options import DetectOptions
from opsin._replies import DropReason, FrameDropped, FrameFailed, FrameReply, FrameResult
from opsin._results import (
    Attribute,
    Box,
    CacheStatus,
    Detection,
    DetectResult,
    EmbedResult,
    Label,
    ModelRef,
    PixelBox,
    Timings,
    Vector,
)
from opsin._status import error_from_status

__all__ = [
    "batch_of",
    "detect_result",
    "drop_reason",
    "embed_result",
    "frame_reply",
    "model",
    "model_ref",
    "seconds",
    "server_info",
    "unix_seconds",
    "vector",
]

T = TypeVar("T")

_CACHE = {2: CacheStatus.HIT, 3: CacheStatus.JOINED}
_STATES = tuple(ModelState)  # in the order of the contract's numbers, as _TASKS
_TASKS = tuple(Task)
_DROPS = (DropReason.SUPERSEDED, *DropReason)  # unspecified reads as SUPERSEDED, says the contract


def detect_result(answer: pb.DetectResponse, request_id: str = "", source: Any = None) -> DetectResult:
    """What was found, from its message."""
    width, height = answer.image.width, answer.image.height
    return DetectResult(
        detections=tuple(_detection(found, width, height) for found in answer.detections),
        labels=_labels(answer.labels),
        flagged=answer.flagged if answer.HasField("flagged") else None,
        width=width,
        height=height,
        model=model_ref(answer.model),
        timings=_timings(answer.timings),
        cache=_CACHE.get(answer.cache, CacheStatus.MISS),
        request_id=request_id,
        source=source,
    )


def embed_result(answer: pb.EmbedResponse, request_id: str = "") -> EmbedResult:
    """A vector, from its message."""
    values = vector(answer.embedding)
    return EmbedResult(
        vector=values,
        dimensions=len(values),
        model=model_ref(answer.model),
        timings=_timings(answer.timings),
        cache=_CACHE.get(answer.cache, CacheStatus.MISS),
        request_id=request_id,
    )


def batch_of(outcome: Any, parse: Callable[..., T], request_id: str) -> T | OpsinError:
    """One item of a batch: its result, or the error that it alone would have ended with."""
    if outcome.WhichOneof("outcome") == "response":
        return parse(outcome.response, request_id=request_id)
    error = error_from_status(outcome.error)
    error.request_id = request_id
    return error


def vector(embedding: pb.Embedding) -> Vector:
    """The numbers of an embedding: float32 in numpy where it is installed, else a tuple."""
    numpy = optional("numpy")
    half = embedding.dtype == pb.EmbeddingDtype.EMBEDDING_DTYPE_F16
    if numpy is None:
        return _tuple(embedding, half)
    if embedding.packed:
        packed: Vector = numpy.frombuffer(embedding.packed, "<f2" if half else "<f4").astype(numpy.float32)
        return packed
    plain: Vector = numpy.asarray(embedding.values, numpy.float32)
    return plain


def _tuple(embedding: pb.Embedding, half: bool) -> tuple[float, ...]:
    if not embedding.packed:
        return tuple(embedding.values)
    letter, size = ("e", 2) if half else ("f", 4)
    return struct.unpack(f"<{len(embedding.packed) // size}{letter}", embedding.packed)


def model_ref(ref: pb.ModelRef) -> ModelRef:
    """The model that answered, from its message."""
    return ModelRef(ref.name, ref.version, ref.device)


def seconds(duration: Any) -> float:
    """A protobuf Duration in seconds."""
    return float(duration.seconds + duration.nanos / 1e9)


def unix_seconds(holder: Any, name: str) -> float | None:
    """The field `name`, a protobuf Timestamp, in Unix seconds; None when it is unset."""
    return seconds(getattr(holder, name)) if holder.HasField(name) else None


def _detection(found: pb.Detection, width: int, height: int) -> Detection:
    box = Box(found.box.x_min, found.box.y_min, found.box.x_max, found.box.y_max)
    return Detection(
        box=box,
        pixels=box.to_pixels(width, height) if width and height else PixelBox(0, 0, 0, 0),
        label=found.label,
        score=found.score,
        class_id=found.class_id,
        attributes=tuple(Attribute(a.name, _labels(a.labels)) for a in found.attributes),
        text=found.text,
        track_id=found.track_id,
        embedding=vector(found.embedding) if found.HasField("embedding") else None,
    )


def _labels(labels: Any) -> tuple[Label, ...]:
    return tuple(Label(label.name, label.score, label.class_id) for label in labels)


def _timings(us: pb.Timings) -> Timings:
    return Timings(
        total_ms=us.total_us / 1000,
        admission_ms=us.admission_us / 1000,
        decode_ms=us.decode_us / 1000,
        prepare_ms=us.prepare_us / 1000,
        queue_ms=us.queue_us / 1000,
        infer_ms=us.infer_us / 1000,
        finish_ms=us.finish_us / 1000,
        order_ms=us.order_us / 1000,
        batch_size=us.batch_size,
    )


def drop_reason(number: int) -> DropReason:
    """Why a frame was dropped, from the contract's enum."""
    reason: DropReason = _at(_DROPS, number)
    return reason


def frame_reply(body: Any, sent: Any) -> FrameReply:
    """What became of a frame, from a FrameResult, FrameDropped or FrameFailed. sent: what was sent for it."""
    if isinstance(body, pb.FrameFailed):
        error = error_from_status(body.error)
        return FrameFailed(body.sequence, error, key_frame_wanted=body.key_frame_wanted, input=sent)
    age, taken = unix_seconds(body, "age"), unix_seconds(body, "capture_time")
    if isinstance(body, pb.FrameDropped):
        return FrameDropped(body.sequence, drop_reason(body.reason), age, taken, input=sent)
    result = detect_result(body.response, source=sent)
    return FrameResult(body.sequence, result, age, taken, body.reused_from, sent)


def model(message: pb.Model) -> Model:
    """One version of a model, from its message."""
    return Model(
        name=message.name,
        version=message.version,
        state=_at(_STATES, message.state),
        failure=error_from_status(message.failure) if message.HasField("failure") else None,
        detector=message.detector,
        source=message.source,
        tasks=tuple(_at(_TASKS, task) for task in message.tasks),
        classes=tuple(message.classes),
        default_options=_options(message.default_options),
        embedding_dimensions=message.embedding_dimensions,
        device=message.device,
        dtype=message.dtype,
        runtime=message.runtime,
        buckets=tuple(message.buckets),
        profile=_steps(message.profile),
        traffic_weight=message.traffic_weight,
        labels=tuple(message.labels),
        memory_bytes=message.memory_bytes,
        load_time=unix_seconds(message, "load_time"),
        queued=message.queued,
        oldest_wait_us=message.oldest_wait_us,
        busy_share=message.busy_share,
        shadow=message.shadow,
        flag_classes=tuple(message.flag_classes),
        flag_threshold=message.flag_threshold,
        serving_since=unix_seconds(message, "serving_since"),
        trials=tuple(
            RuntimeTrial(one.runtime, one.dtype, _steps(one.times), one.chosen, one.verdict, one.lane_kind)
            for one in message.trials
        ),
        decoder=message.decoder,
        lane_kind=message.lane_kind,
    )


def _steps(messages: Iterable[pb.BatchProfile]) -> tuple[BatchProfile, ...]:
    return tuple(BatchProfile(p.batch_size, p.median_us, p.spread_us) for p in messages)


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    """What a server is, from its message."""
    limits = {name: getattr(message.limits, name) for name in Limits.__slots__}
    devices = [{name: getattr(device, name) for name in Device.__slots__} for device in message.devices]
    return ServerInfo(
        version=message.version,
        limits=Limits(**limits),
        devices=tuple(Device(**device) for device in devices),
        default_detect_model=message.default_detect_model,
        default_embed_model=message.default_embed_model,
        uptime=seconds(message.uptime),
        start_time=unix_seconds(message, "start_time"),
        codecs=tuple(pb.Codec.Name(codec).removeprefix("CODEC_").lower() for codec in message.codecs),
        uris_enabled=message.uris_enabled,
    )


def _options(message: pb.DetectOptions) -> DetectOptions:
    return DetectOptions(
        min_score=message.min_score if message.HasField("min_score") else None,
        max_detections=message.max_detections,
        max_labels=message.max_labels,
        iou_threshold=message.iou_threshold if message.HasField("iou_threshold") else None,
        labels=tuple(message.labels),
        candidate_labels=tuple(message.candidate_labels),
        embed_detections=message.embed_detections,
        embed_model=message.embed_model,
        skip_cache=message.skip_cache,
        truncate_text=message.truncate_text,
    )


def _at(names: tuple[T, ...], number: int) -> T:
    """The name of an enum's number; the first, `unknown`, for one that a newer server made up."""
    return names[number] if number < len(names) else names[0]
