"""The messages of a bench, as bytes: a function from a call's number to its request, for each method.

What is the same in every request is made once. Knows the contract; sends nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opsin import _requests
from opsin import v1 as pb
from opsin._freshness import Freshness
from opsin._inputs import Loaded, Text, load
from opsin._options import DetectAsk, EmbedAsk, StreamAsk

__all__ = ["PATHS", "Asked", "Maker", "frame_message", "opening", "request_maker"]

Maker = Callable[[int], Any]
"""From a number to an input, as `opsin.Client` takes it."""

PATHS = {
    "detect": "/opsin.v1.InferenceService/Detect",
    "embed": "/opsin.v1.InferenceService/Embed",
    "batch": "/opsin.v1.InferenceService/BatchDetect",
    "stream": "/opsin.v1.InferenceService/StreamDetect",
}
_LIMIT = 1 << 31


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the server besides the inputs. batch: inputs of a call, with the method `batch`.

    freshness: of streams, as `opsin.Client.stream` takes it.
    """

    model: str = ""
    skip_cache: bool = True
    batch: int = 8
    freshness: str = "every_frame"


def request_maker(method: str, make: Maker, asked: Asked) -> Callable[[int], bytes]:
    """The serialised request of a call, by its number."""
    match method:
        case "embed":
            return _embeds(make, asked)
        case "batch":
            return _batches(make, asked)
        case _:
            return _detects(make, asked)


def opening(asked: Asked) -> bytes:
    """The first message of a stream."""
    ask = StreamAsk.of(model=asked.model, freshness=asked.freshness)
    config = _requests.stream_config(ask, ask.options, Freshness.of(asked.freshness), "", b"")
    return pb.StreamDetectRequest(config=config).SerializeToString()


def frame_message(sequence: int, source: Any) -> bytes:
    """A frame that is taken now."""
    image = _requests.image(load(source, limit=_LIMIT))  # type: ignore[arg-type]  # no texts in streams
    frame = pb.Frame(sequence=sequence, image=image)
    frame.capture_time.FromNanoseconds(time.time_ns())
    return pb.StreamDetectRequest(frame=frame).SerializeToString()


def _detects(make: Maker, asked: Asked) -> Callable[[int], bytes]:
    # Serialised messages one behind the other are one message: that is how protobuf merges.
    head = _detect_head(asked).SerializeToString()
    return lambda number: head + pb.DetectRequest(**_input(make(number))).SerializeToString()


def _embeds(make: Maker, asked: Asked) -> Callable[[int], bytes]:
    ask = EmbedAsk(model=asked.model, skip_cache=asked.skip_cache)
    head = _requests.embed_request(Text("-"), ask)
    head.ClearField("text")
    start = head.SerializeToString()
    return lambda number: start + pb.EmbedRequest(**_input(make(number))).SerializeToString()


def _batches(make: Maker, asked: Asked) -> Callable[[int], bytes]:
    head, size = _detect_head(asked), asked.batch

    def batch(number: int) -> bytes:
        message = pb.BatchDetectRequest()
        for item in range(number * size, (number + 1) * size):
            request = message.requests.add()
            request.CopyFrom(head)
            request.MergeFrom(pb.DetectRequest(**_input(make(item))))
        return message.SerializeToString()

    return batch


def _detect_head(asked: Asked) -> pb.DetectRequest:
    ask = DetectAsk.of(model=asked.model, skip_cache=asked.skip_cache)
    head = _requests.detect_request(Text("-"), ask)
    head.ClearField("text")
    return head


def _input(source: Any) -> dict[str, Any]:
    loaded: Loaded = load(source, limit=_LIMIT)
    return {"text": loaded.text} if isinstance(loaded, Text) else {"image": _requests.image(loaded)}
