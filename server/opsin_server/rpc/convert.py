"""Requests to calls: protobuf in, the server's own checked types out.

Owns which check applies to which field, and the field's path from the root of the message. The way back is in
`replies.py`. Knows nothing of models: a call that leaves here is well formed, not yet possible.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from opsin.v1.common_pb2 import Box as BoxMessage
from opsin.v1.common_pb2 import Image as ImageMessage
from opsin.v1.common_pb2 import RawImage as RawImageMessage
from opsin.v1.detect_pb2 import DetectOptions as DetectOptionsMessage
from opsin.v1.detect_pb2 import DetectRequest
from opsin.v1.embed_pb2 import EmbeddingEncoding, EmbedRequest
from opsin_detectors.api import Box
from opsin_server.calls import (
    Caller,
    DetectCall,
    DetectOptions,
    EmbedCall,
    EncodedImage,
    ImageSource,
    PixelFormat,
    RawImage,
    Source,
    Text,
    UriImage,
)
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure, Reason
from opsin_server.rpc import validate
from opsin_server.rpc.lift import pixels as lifted
from opsin_server.scheduling.ticket import Priority

__all__ = ["detect_call", "detect_options", "embed_call", "image_source", "packed_wanted"]

_T = TypeVar("_T", bytes, str)

_NO_OPTIONS = DetectOptions()
_PRIORITIES: Mapping[int, Priority] = {0: Priority.INTERACTIVE, 1: Priority.INTERACTIVE, 2: Priority.BULK}
_FORMATS: Mapping[int, PixelFormat] = {
    0: PixelFormat.RGB24,
    1: PixelFormat.RGB24,
    2: PixelFormat.BGR24,
    3: PixelFormat.GRAY8,
    4: PixelFormat.NV12,
    5: PixelFormat.I420,
}


def detect_call(request: DetectRequest, caller: Caller, limits: LimitSettings) -> DetectCall:
    """One DetectRequest. Raises `Failure` with the path of the field that is wrong."""
    return DetectCall(
        model=request.model,
        source=_source(request, limits),
        options=detect_options(request.options, limits, "options")
        if request.HasField("options")
        else _NO_OPTIONS,
        caller=_caller(request, caller),
    )


def embed_call(request: EmbedRequest, caller: Caller, limits: LimitSettings) -> EmbedCall:
    """One EmbedRequest. Raises `Failure` with the path of the field that is wrong."""
    packed_wanted(request)
    return EmbedCall(
        model=request.model,
        source=_source(request, limits),
        normalize=request.normalize if request.HasField("normalize") else True,
        dimensions=request.dimensions,
        truncate_text=request.truncate_text,
        skip_cache=request.skip_cache,
        caller=_caller(request, caller),
    )


def packed_wanted(request: EmbedRequest) -> bool:
    """Whether the vector shall travel as bytes."""
    match request.encoding:
        case EmbeddingEncoding.EMBEDDING_ENCODING_UNSPECIFIED | EmbeddingEncoding.EMBEDDING_ENCODING_FLOATS:
            return False
        case EmbeddingEncoding.EMBEDDING_ENCODING_PACKED:
            return True
        case unknown:
            raise _unknown_value(unknown, "encoding", "FLOATS or PACKED")


def detect_options(message: DetectOptionsMessage, limits: LimitSettings, path: str) -> DetectOptions:
    """The options of a request, a stream, an update or a frame; `path` is where they lie in the message."""
    return DetectOptions(
        min_score=_optional_fraction(message, "min_score", path),
        max_detections=message.max_detections,
        max_labels=message.max_labels,
        iou_threshold=_optional_fraction(message, "iou_threshold", path),
        labels=validate.names(message.labels, limits.max_labels, f"{path}.labels"),
        regions=_regions(message.regions, limits.max_regions, f"{path}.regions"),
        candidate_labels=validate.words(
            message.candidate_labels,
            limits.max_labels,
            limits.max_text_characters,
            f"{path}.candidate_labels",
        ),
        embed_detections=message.embed_detections,
        embed_model=message.embed_model,
        skip_cache=message.skip_cache,
        truncate_text=message.truncate_text,
    )


def image_source(image: ImageMessage, path: str) -> ImageSource:
    """Where the pixels are; `path` is where the image lies in the message."""
    match image.WhichOneof("source"):
        case "encoded":
            return EncodedImage(lifted(_filled(image.encoded, f"{path}.encoded")))
        case "raw":
            return _raw(image.raw, f"{path}.raw")
        case "uri":
            return UriImage(_filled(image.uri, f"{path}.uri"))
        case _:
            at = f"{path}.source"
            raise Failure(Reason.INPUT_MISSING, f"{path} needs one of encoded, uri or raw.", field=at)


def _source(request: DetectRequest | EmbedRequest, limits: LimitSettings) -> Source:
    match request.WhichOneof("input"):
        case "image":
            return image_source(request.image, "image")
        case "text":
            return Text(validate.text(request.text, limits.max_text_characters, "text"))
        case _:
            raise Failure(Reason.INPUT_MISSING, "The request needs an image or a text.", field="input")


def _caller(request: DetectRequest | EmbedRequest, caller: Caller) -> Caller:
    """The caller of this very request. The common case, nothing set, makes no new object."""
    priority = _PRIORITIES.get(request.priority)
    if priority is None:
        raise _unknown_value(request.priority, "priority", "INTERACTIVE or BULK")
    if priority is caller.priority and not request.routing_key:
        return caller
    return Caller(caller.flow, priority, caller.deadline, caller.request_id, request.routing_key)


def _raw(raw: RawImageMessage, path: str) -> RawImage:
    pixels = _FORMATS.get(raw.format)
    if pixels is None:
        at = f"{path}.format"
        known = ", ".join(PixelFormat)
        raise Failure(
            Reason.FORMAT_UNSUPPORTED,
            f"{at} is {raw.format}; this server knows {known}.",
            field=at,
            metadata={"format": str(raw.format)},
        )
    data = lifted(_filled(raw.data, f"{path}.data"))
    return RawImage(data, raw.width, raw.height, raw.stride, pixels)


def _filled(value: _T, path: str) -> _T:
    if not value:
        raise Failure(Reason.INPUT_MISSING, f"{path} is empty.", field=path)
    return value


def _regions(boxes: Sequence[BoxMessage], limit: int, path: str) -> tuple[Box, ...]:
    """Counted before any is converted: a message has room for millions."""
    validate.at_most(len(boxes), limit, "regions", path)
    return validate.regions([_box(box) for box in boxes], limit, path)


def _box(box: BoxMessage) -> Box:
    return Box(box.x_min, box.y_min, box.x_max, box.y_max)


def _optional_fraction(message: DetectOptionsMessage, name: str, path: str) -> float | None:
    if not message.HasField(name):  # type: ignore[arg-type]
        return None
    return validate.fraction(getattr(message, name), f"{path}.{name}")


def _unknown_value(value: int, path: str, known: str) -> Failure:
    return Failure(
        Reason.OPTION_INVALID,
        f"{path} has the unknown value {value}; it must be {known}.",
        field=path,
        metadata={"value": str(value)},
    )
