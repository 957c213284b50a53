"""What a stream gives back: one reply for each frame, and figures about the whole.

Knows neither protobuf nor gRPC.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from opsin._errors import OpsinError
from opsin._results import DetectResult

__all__ = ["DropReason", "FrameDropped", "FrameFailed", "FrameReply", "FrameResult", "StreamStats"]


class DropReason(StrEnum):
    """Why a frame was not looked at."""

    SUPERSEDED = "superseded"
    """A newer frame took its place."""
    TOO_OLD = "too_old"
    """It was older than the stream's `max_age` when its turn came."""
    RATE = "rate"
    """It came sooner than the stream's `target_fps` asks for."""
    OVERLOAD = "overload"
    """The server's memory for pictures is spent."""
    NO_PICTURE = "no_picture"
    """It holds no picture of its own."""
    LOST = "lost"
    """The connection broke, and nobody knows what became of it."""
    SKIPPED = "skipped"
    """A packet that cannot be decoded without one that is gone: passed over, up to the next key frame."""


@dataclass(frozen=True, slots=True)
class FrameResult:
    """A frame was looked at.

    capture_time: Unix seconds, where the frame had one. age: seconds from its capture (else its arrival at
    the server) to its answer. reused_from: the frame whose answer this is, by `reuse_similar`; 0: its own.
    """

    sequence: int
    result: DetectResult
    age: float | None = None
    capture_time: float | None = None
    reused_from: int = 0
    input: Any = field(default=None, compare=False, repr=False)
    """What was sent: encoded bytes, an `opsin.RawFrame`, an `opsin.Uri` or an `opsin.Packet`."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": "result",
            "sequence": self.sequence,
            "capture_time": self.capture_time,
            "age": self.age,
            "reused_from": self.reused_from,
            "result": self.result.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class FrameDropped:
    """A frame was not looked at, by rule. by_client: it was dropped here, and never sent."""

    sequence: int
    reason: DropReason
    age: float | None = None
    capture_time: float | None = None
    by_client: bool = False
    input: Any = field(default=None, compare=False, repr=False)
    """What was, or would have been, sent."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": "dropped",
            "sequence": self.sequence,
            "capture_time": self.capture_time,
            "age": self.age,
            "reason": str(self.reason),
            "by_client": self.by_client,
        }


@dataclass(frozen=True, slots=True)
class FrameFailed:
    """A frame could not be looked at; the stream lives on. key_frame_wanted: its decoder is lost."""

    sequence: int
    error: OpsinError
    capture_time: float | None = None
    key_frame_wanted: bool = False
    input: Any = field(default=None, compare=False, repr=False)
    """What was sent; for an input that could not be sent, the input itself."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": "failed",
            "sequence": self.sequence,
            "capture_time": self.capture_time,
            "error": self.error.to_dict(),
            "key_frame_wanted": self.key_frame_wanted,
        }


FrameReply: TypeAlias = FrameResult | FrameDropped | FrameFailed


@dataclass(frozen=True, slots=True)
class StreamStats:
    """How a stream fares, at one moment. Ages in seconds, over the last 1 000 answers; None before the first.

    sent: frames handed to the network, each counted once. answered, dropped, failed: replies given back, by
    kind.
    in_flight: frames sent and not yet answered. window: how many may be. waiting: frames taken from the
    source and not yet sent. reconnects: times the stream went on with a new connection. fps: answers a
    second.
    """

    sent: int
    answered: int
    dropped: dict[DropReason, int]
    failed: int
    in_flight: int
    window: int
    waiting: int
    bytes_sent: int
    reconnects: int
    age_p50: float | None
    age_p99: float | None
    age_max: float | None
    seconds: float
    fps: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {"dropped": {str(reason): count for reason, count in self.dropped.items()}}
