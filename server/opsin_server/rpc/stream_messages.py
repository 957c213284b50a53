"""Messages of a stream, both ways: frames in, replies out.

Owns the form of a frame and of a frame's reply. Whatever is wrong with a frame by itself is found here, and
told with the path from the message's root.
"""

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from opsin.v1.stream_pb2 import DropReason as DropReasonMessage
from opsin.v1.stream_pb2 import Frame, GoAway, StreamDetectResponse, StreamReady
from opsin.v1.stream_pb2 import GoAwayReason as GoAwayReasonMessage
from opsin_server.calls import DetectOptions, EncodedImage, ImageSource, RawImage
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure, Reason
from opsin_server.rpc.convert import detect_options, image_source
from opsin_server.rpc.errors import status_of
from opsin_server.rpc.replies import fill_detect, microseconds, model_ref
from opsin_server.rpc.stream_config import StreamTerms
from opsin_server.streams import events as ev

__all__ = ["FrameIn", "frame_in", "go_away", "ready", "reply"]

_NANO = 10**9
_TIMESTAMPS = range(-62_135_596_800, 253_402_300_800)
"""Seconds of a Timestamp: the years 1 to 9999. Ages are differences of them, and a Duration holds no more."""


@dataclass(slots=True)
class FrameIn:
    """A frame as it came; never changed, like an event.

    One of source and packet is there, unless something is wrong: failure.
    captured: nanoseconds. options: of this frame alone. size: bytes that it holds.
    """

    sequence: int
    captured: int | None = None
    source: ImageSource | None = None
    packet: bytes | None = None
    options: DetectOptions | None = None
    size: int = 0
    failure: Failure | None = None


def frame_in(frame: Frame, agreed: StreamTerms, limits: LimitSettings) -> FrameIn:
    """Read a frame; never raises."""
    packet = (frame.packet or None) if agreed.codec is not None else None
    failure, captured, source, options = None, None, None, None
    try:
        captured = _captured(frame)
        source = _source(frame, agreed)
        if frame.HasField("options"):
            options = detect_options(frame.options, limits, "options")
    except Failure as wrong:
        failure = wrong.within("frame")
    return FrameIn(frame.sequence, captured, source, packet, options, _size(frame, source), failure)


def _size(frame: Frame, source: ImageSource | None) -> int:
    """Bytes that it holds, those included that were lifted out of the message."""
    match source:
        case RawImage(data=memoryview() as lifted) | EncodedImage(data=memoryview() as lifted):
            return frame.ByteSize() + len(lifted)
        case _:
            return frame.ByteSize()


def _captured(frame: Frame) -> int | None:
    if not frame.HasField("capture_time"):
        return None
    stamp = frame.capture_time
    if not 0 <= stamp.nanos < _NANO:
        message = f"capture_time has {stamp.nanos} nanos; they are from 0 to 999999999."
        raise Failure(Reason.OPTION_INVALID, message, "capture_time")
    if stamp.seconds not in _TIMESTAMPS:
        message = f"capture_time has {stamp.seconds} seconds; it lies in the years 1 to 9999."
        raise Failure(Reason.OPTION_INVALID, message, "capture_time")
    return stamp.seconds * _NANO + stamp.nanos


def _source(frame: Frame, agreed: StreamTerms) -> ImageSource | None:
    """The picture; None for a packet, which is the decoder's."""
    match frame.WhichOneof("payload"):
        case "image":
            return image_source(frame.image, "image")
        case "packet" if agreed.codec is None:
            message = "The frame has a packet, and the stream's codec is IMAGE: send an image."
            raise Failure(Reason.CODEC_UNSUPPORTED, message, field="packet")
        case "packet" if not frame.packet:
            raise Failure(Reason.INPUT_MISSING, "The packet has no bytes.", field="packet")
        case "packet":
            return None
    raise Failure(Reason.INPUT_MISSING, "The frame needs an image, or a packet.", field="payload")


def ready(action: ev.SendReady, agreed: StreamTerms, token: bytes) -> StreamDetectResponse:
    """The configuration was accepted."""
    message = StreamReady(
        stream_id=agreed.stream_id,
        model=model_ref(agreed.model),
        resume_token=token,
        next_sequence=action.next_sequence,
    )
    return StreamDetectResponse(max_in_flight=action.max_in_flight, ready=message)


def go_away(action: ev.SendGoAway, window: int, token: bytes) -> StreamDetectResponse:
    """The stream goes on elsewhere."""
    reason = GoAwayReasonMessage.Value(f"GO_AWAY_REASON_{action.reason}")
    message = GoAway(reason=reason, resume_token=token, last_sequence=action.last_sequence)
    return StreamDetectResponse(max_in_flight=window, go_away=message)


def reply(send: ev.Send) -> StreamDetectResponse:
    """The reply to one frame, without a token; times count to when its turn came."""
    message = StreamDetectResponse(max_in_flight=send.max_in_flight)
    match send.outcome:
        case ev.Result(answer, reused_from):
            result = message.result
            result.sequence, result.reused_from = send.sequence, reused_from
            response = result.response
            fill_detect(response, answer)
            timings = response.timings
            timings.total_us = microseconds(send.at - send.arrival)
            timings.order_us = microseconds(send.order)
            _stamp(result.capture_time, send)
            result.age.FromMicroseconds(round(send.age * 1e6))
        case ev.Dropped(reason):
            message.dropped.sequence = send.sequence
            message.dropped.reason = DropReasonMessage.Value(f"DROP_REASON_{reason}")
            _stamp(message.dropped.capture_time, send)
            message.dropped.age.FromMicroseconds(round(send.age * 1e6))
        case ev.Failed(failure, key_frame_wanted):
            message.failed.sequence = send.sequence
            message.failed.error.CopyFrom(status_of(failure))
            message.failed.key_frame_wanted = key_frame_wanted
    return message


def _stamp(message: Timestamp, send: ev.Send) -> None:
    """The capture time, exactly as it was sent; unset where it was."""
    if send.captured is not None:
        message.seconds, message.nanos = divmod(send.captured, _NANO)
        message.SetInParent()
