"""Opsin: ask a server what is in a picture, a text or a video.

    import opsin

    with opsin.Client() as client:
        result = client.detect("street.jpg", min_score=0.5)
        for found in result.detections:
            print(found.label, round(found.score, 2), found.pixels)
        result.draw().save("street-annotated.jpg")

`Client` is for ordinary code, `AsyncClient` for asyncio; what they take is `Input`, what they raise is below
`OpsinError`. The messages on the wire, for programs that want them raw, are in `opsin.v1`.

Importing this takes numpy, Pillow and PyAV from nowhere: they are used where they are installed. gRPC
itself is loaded with the first use of a client.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from opsin._errors import (
    AlreadyExists,
    Cancelled,
    ClientClosed,
    Code,
    DeadlineExceeded,
    DetectorFailed,
    Draining,
    FailedPrecondition,
    FieldViolation,
    InputLost,
    InvalidInput,
    MessageTooLarge,
    MissingExtra,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    OpsinError,
    Overloaded,
    PermissionDenied,
    ResumeTokenInvalid,
    ServerFailed,
    StreamError,
    StreamTakenOver,
    TaskUnsupported,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unreachable,
)
from opsin._freshness import (
    Freshness,
    FreshnessMode,
)
from opsin._inputs import (
    Input,
    Packet,
    PixelFormat,
    RawFrame,
    Text,
    Uri,
)
from opsin._models import (
    BatchProfile,
    Device,
    Health,
    Limits,
    Model,
    ModelState,
    RuntimeTrial,
    ServerInfo,
    Task,
)
from opsin._options import (
    DetectOptions,
    Priority,
)
from opsin._replies import (
    DropReason,
    FrameDropped,
    FrameFailed,
    FrameReply,
    FrameResult,
    StreamStats,
)
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

if TYPE_CHECKING:
    from opsin._aio import AsyncClient
    from opsin._client import Client
    from opsin._draw import draw
    from opsin._sources import Frame
    from opsin._stream import StreamSession
    from opsin._stream_aio import AsyncStreamSession
    from opsin._video import Video

    __version__: str

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "AsyncStreamSession",
    "Attribute",
    "BatchProfile",
    "Box",
    "CacheStatus",
    "Cancelled",
    "Client",
    "ClientClosed",
    "Code",
    "DeadlineExceeded",
    "DetectOptions",
    "DetectResult",
    "Detection",
    "DetectorFailed",
    "Device",
    "Draining",
    "DropReason",
    "EmbedResult",
    "FailedPrecondition",
    "FieldViolation",
    "Frame",
    "FrameDropped",
    "FrameFailed",
    "FrameReply",
    "FrameResult",
    "Freshness",
    "FreshnessMode",
    "Health",
    "Input",
    "InputLost",
    "InvalidInput",
    "Label",
    "Limits",
    "MessageTooLarge",
    "MissingExtra",
    "Model",
    "ModelLoadFailed",
    "ModelNotFound",
    "ModelNotReady",
    "ModelRef",
    "ModelState",
    "NotFound",
    "OpsinError",
    "Overloaded",
    "Packet",
    "PermissionDenied",
    "PixelBox",
    "PixelFormat",
    "Priority",
    "RawFrame",
    "ResumeTokenInvalid",
    "RuntimeTrial",
    "ServerFailed",
    "ServerInfo",
    "StreamError",
    "StreamSession",
    "StreamStats",
    "StreamTakenOver",
    "Task",
    "TaskUnsupported",
    "Text",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unreachable",
    "Uri",
    "Vector",
    "Video",
    "draw",
]

# What loads gRPC, Pillow or PyAV, by the module it is in.
_LAZY = {
    "AsyncClient": "_aio",
    "Client": "_client",
    "draw": "_draw",
    "Frame": "_sources",
    "StreamSession": "_stream",
    "AsyncStreamSession": "_stream_aio",
    "Video": "_video",
}

if not TYPE_CHECKING:  # a type checker would take any name to exist

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from opsin._channel import package_version

            return package_version()
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
