"""What happens to a stream, and what it then wants done: the words between the session and its handler.

Events go into `StreamSession.receive`, actions come out. Frames are known by their sequence. Times are
seconds on the server's monotonic clock, except `captured`, which is nanoseconds on the client's. Without
behaviour and without protobuf, and never changed: frozen, but for those that every frame needs, as a frozen
one takes three times as long to make.
"""

from dataclasses import dataclass
from enum import StrEnum

from opsin_server.calls import DetectAnswer
from opsin_server.errors import Failure
from opsin_server.streams.freshness import DropReason, Freshness

__all__ = [
    "Action",
    "AskTurn",
    "Cancel",
    "ClientClosed",
    "ClientErred",
    "ConfigReceived",
    "ConnectionLost",
    "Decode",
    "Dropped",
    "End",
    "Event",
    "Failed",
    "FrameAnswered",
    "FrameArrived",
    "FrameDecoded",
    "FrameFailed",
    "FrameReady",
    "FrameRefused",
    "FrameReused",
    "FrameStarted",
    "GoAwayReason",
    "GoAwayRequested",
    "LoadChanged",
    "Outcome",
    "PauseReading",
    "ReplySent",
    "Result",
    "ResumeReading",
    "ReturnTurn",
    "Send",
    "SendGoAway",
    "SendReady",
    "Submit",
    "TakenOver",
    "Tick",
    "TurnGiven",
    "UpdateReceived",
]


class GoAwayReason(StrEnum):
    """Why a stream ends here and goes on elsewhere."""

    DRAINING = "DRAINING"
    MAX_STREAM_AGE = "MAX_STREAM_AGE"
    MODEL_SWITCHED = "MODEL_SWITCHED"


# What the client does.


@dataclass(frozen=True, slots=True)
class ConfigReceived:
    """A configuration that was checked and accepted by the handler. One in error never gets here.

    freshness: already checked. next_sequence: of a resumed stream, where it goes on; 0 on a new one.
    """

    freshness: Freshness
    next_sequence: int = 0


@dataclass(frozen=True, slots=True)
class UpdateReceived:
    """A change from the next frame on. freshness: None stays. failure: what is wrong with the update, if
    any.
    """

    freshness: Freshness | None = None
    failure: Failure | None = None


@dataclass(slots=True)
class FrameArrived:
    """A frame has fully arrived.

    captured: its `capture_time`, exactly, in nanoseconds; None when it has none.
    size: bytes that are held until it was decoded, or needs no decoding any more.
    chained: a packet that must go through the stream's decoder, in order, whatever becomes of the frame.
    failure: what is wrong with the frame, found without decoding it; it is answered `failed`.
    """

    sequence: int
    captured: int | None = None
    size: int = 0
    chained: bool = False
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ClientErred:
    """A message that breaks the protocol: an empty one, or none that can be read."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class ClientClosed:
    """The client sends nothing more, and reads on."""


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """Nobody is there any more: the call was cancelled, its deadline passed, or its connection broke."""


# What happens on the server.


@dataclass(frozen=True, slots=True)
class FrameDecoded:
    """Answers `Decode`. picture: whether the packet held one."""

    sequence: int
    picture: bool = True


@dataclass(frozen=True, slots=True)
class FrameReady:
    """A submitted frame is prepared and waits for the device. EVERY_FRAME needs to be told neither this nor
    `FrameStarted`."""

    sequence: int


@dataclass(frozen=True, slots=True)
class FrameStarted:
    """A frame is about to run on the device. If a `Cancel` of it comes back, leave it out: it is too old."""

    sequence: int


@dataclass(slots=True)
class FrameAnswered:
    """The answer to a frame."""

    sequence: int
    answer: DetectAnswer


@dataclass(frozen=True, slots=True)
class FrameReused:
    """A frame looks like an earlier one, and is answered with that one's answer."""

    sequence: int
    reused_from: int
    answer: DetectAnswer


@dataclass(frozen=True, slots=True)
class FrameFailed:
    """A frame could not be answered, at whatever stage.

    key_frame_wanted: the decoder lost its reference.
    fatal: the whole stream must end with this failure, once all that was accepted is answered.
    """

    sequence: int
    failure: Failure
    key_frame_wanted: bool = False
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class FrameRefused:
    """There is no room for a submitted frame (pixels, queues); try again after `retry_after` seconds."""

    sequence: int
    retry_after: float = 0.1


@dataclass(frozen=True, slots=True)
class ReplySent:
    """The transport took this many replies (`Send`), oldest first."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class TurnGiven:
    """Answers `AskTurn`: a frame of LATEST may be submitted. `ReturnTurn` comes back if there is none."""


@dataclass(frozen=True, slots=True)
class LoadChanged:
    """The server wants at most this many frames of the stream unanswered from now on, at least 1."""

    max_in_flight: int


@dataclass(frozen=True, slots=True)
class GoAwayRequested:
    """The stream shall go on elsewhere."""

    reason: GoAwayReason


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A newer stream of the same name took over."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due when `StreamSession.wake_at` is reached, harmless at any other time."""


Event = (
    ConfigReceived
    | UpdateReceived
    | FrameArrived
    | ClientErred
    | ClientClosed
    | ConnectionLost
    | FrameDecoded
    | FrameReady
    | FrameStarted
    | FrameAnswered
    | FrameReused
    | FrameFailed
    | FrameRefused
    | ReplySent
    | TurnGiven
    | LoadChanged
    | GoAwayRequested
    | TakenOver
    | Tick
)


# What became of a frame: one of these, once.


@dataclass(slots=True)
class Result:
    """It was answered. reused_from: the frame whose answer it is, 0 = its own."""

    answer: DetectAnswer
    reused_from: int = 0


@dataclass(frozen=True, slots=True)
class Dropped:
    """It was not looked at, by rule."""

    reason: DropReason


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not be answered."""

    failure: Failure
    key_frame_wanted: bool = False


Outcome = Result | Dropped | Failed


# What the session wants done, in this order.


@dataclass(frozen=True, slots=True)
class SendReady:
    """Say that the configuration was accepted."""

    next_sequence: int
    max_in_flight: int


@dataclass(frozen=True, slots=True)
class Decode:
    """Give a packet to the stream's decoder. One at a time: `FrameDecoded` or `FrameFailed` answers it.

    keep: whether the picture will be wanted; without, it is decoded only as far as later packets need.
    """

    sequence: int
    keep: bool


@dataclass(slots=True)
class Submit:
    """Send a frame through the pipeline. start_by: not to be run at this time or later; infinite without.

    turn: it has the turn that was given; over when the frame starts, or is not looked at any more.
    """

    sequence: int
    start_by: float
    turn: bool = False


@dataclass(frozen=True, slots=True)
class AskTurn:
    """A frame of LATEST could be submitted; `TurnGiven` answers that it may be, at once or later."""


@dataclass(frozen=True, slots=True)
class ReturnTurn:
    """The turn that was given is not needed."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody wants this frame any more: let go of its picture, and take it out of the pipeline.

    Its reply is settled; what still comes of it is ignored. A packet is still to be decoded, when told so.
    """

    sequence: int


@dataclass(slots=True)
class Send:
    """Send a frame's reply. Comes in sequence order; `ReplySent` tells that the transport took it.

    age: as in `FrameResult.age`. order: seconds that the reply waited for those before it.
    arrival: when the frame had arrived. at: when its reply's turn came. max_in_flight: to be told with it.
    refresh: put a fresh resume token, as of after this reply, into it.
    """

    sequence: int
    outcome: Outcome
    captured: int | None
    arrival: float
    at: float
    age: float
    order: float
    max_in_flight: int
    refresh: bool


@dataclass(frozen=True, slots=True)
class SendGoAway:
    """Say that the stream goes on elsewhere, after `last_sequence`, with a fresh token."""

    reason: GoAwayReason
    last_sequence: int


@dataclass(frozen=True, slots=True)
class PauseReading:
    """Read no further message from the client until told to."""


@dataclass(frozen=True, slots=True)
class ResumeReading:
    """Read on."""


@dataclass(frozen=True, slots=True)
class End:
    """Nothing follows: end the call with this failure, or OK, when all that was to be sent is sent.

    at_once: whatever is still unsent is not worth waiting for.
    """

    failure: Failure | None = None
    at_once: bool = False


Action = (
    SendReady
    | Decode
    | Submit
    | AskTurn
    | ReturnTurn
    | Cancel
    | Send
    | SendGoAway
    | PauseReading
    | ResumeReading
    | End
)
