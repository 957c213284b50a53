"""One stream as the client sees it: a state machine without threads, sockets or clocks.

The rules.

1. Every frame that is taken from the source gets exactly one reply, and replies come out in sequence order.
2. At most `window` frames are sent and unanswered. The window is the server's advice (`max_in_flight` of its
   last message), or the caller's own bound where that is lower. Nothing is sent before `ready`.
3. A frame keeps what was sent for it until its reply has come. When the stream breaks, or ends by `go_away`,
   the unanswered frames are sent again, in order and under their own numbers, on the next connection. The
   server may then look at a frame twice; the caller hears of it once: a second reply to one frame is ignored.
4. A frame whose number lies below the new connection's `next_sequence`, or that the server passed over, is
   reported lost.
5. A live source does not wait. Where freshness allows dropping, a frame that waits to be sent is dropped here
   by the stream's own rule: the newest wins; under `max_age`, what is too old goes.
6. A source that is not live is read only as frames are answered, a few ahead.
7. After a break the stream is opened again, for at most `reconnect` seconds without a reply and within the
   stream's `timeout`; a refusal of the very first opening is final. A refused token is dropped, and the
   stream goes on without one.
8. Packets of a codec refer to those before them, so none is left out alone: where one is, those after it are
   `skipped` up to the next key frame. So it is when the server asks for a key frame and none is on its way,
   and after a break, as the next decoder knows nothing. Only a newer key frame supersedes what waits.

Driven by `_stream` (threads) and `_stream_aio` (tasks). They call it under a lock, pass in the time (`now`,
monotonic seconds) and do what it says. Reads and writes messages, as the contract's edge.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError

from opsin import _requests
from opsin import v1 as pb
from opsin._calls import too_large
from opsin._errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    OpsinError,
    Overloaded,
    ResumeTokenInvalid,
    ServerFailed,
    Unavailable,
    Unreachable,
)
from opsin._freshness import Freshness, FreshnessMode
from opsin._inputs import Loaded, Packet
from opsin._options import DetectOptions, StreamAsk
from opsin._parse import frame_reply, model_ref
from opsin._replies import DropReason, FrameDropped, FrameFailed, FrameReply, FrameResult, StreamStats
from opsin._results import ModelRef
from opsin._stats import Tally

__all__ = ["Again", "Finish", "Next", "Session", "TakenFrame"]

AHEAD = 2
"""Frames made ready while the window is full, so that encoding overlaps with waiting."""
MAX_UNANSWERED = 1024
"""Frames without a reply that are held at most; a live source waits beyond, too."""
FIRST_BACKOFF, MAX_BACKOFF = 0.1, 5.0
_MOST_DOUBLINGS = 10  # beyond MAX_BACKOFF; hours of them would be more than a float holds


@dataclass(frozen=True, slots=True)
class TakenFrame:
    """A frame from the source, ready to travel, or the error that keeps it from it.

    by_source: nobody told its capture time; if it has one, that is by the source's own clock.
    """

    loaded: Loaded | Packet | None
    capture_time: float | None = None
    options: DetectOptions | None = None
    error: OpsinError | None = None
    source: Any = None
    by_source: bool = False


@dataclass(slots=True)
class _Slot:
    """A frame without a reply. local: the reply, where it is made here.

    begins, needs: a packet that decoding can begin with, and one that needs those before it.
    """

    sequence: int
    frame: TakenFrame
    taken_at: float
    message: bytes = b""
    sent: bool = False
    counted: bool = False
    local: FrameReply | None = None
    begins: bool = False
    needs: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The stream is over; raise `error` if there is one."""

    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Open the stream anew, after `delay` seconds."""

    delay: float


Next: TypeAlias = Finish | Again


class Session:
    """The state of one stream. live: the source does not wait. limit: the largest message, in bytes."""

    def __init__(self, ask: StreamAsk, *, live: bool, limit: int, now: float) -> None:
        self._limit = limit
        self._ask = ask
        self._options = ask.options
        self._freshness = ask.freshness
        self._live = live
        self._end = math.inf if ask.timeout is None else now + ask.timeout
        self._slots: dict[int, _Slot] = {}
        self._last_sequence = 0
        self._update = pb.StreamUpdate()  # what the server is still to be told
        self._source_ended = False
        self._source_error: Exception | None = None
        self._server_window = 0
        self._chained = ask.codec in ("h264", "hevc")
        self._gap = self._chained  # the packet that comes next lacks one before it
        self._open = False
        self._going_away = False
        self._token = b""
        self._ever_ready = False
        self._broken_since: float | None = None
        self._attempts = 0
        self.stream_id = ask.stream_id
        self.model: ModelRef | None = None
        self.tally = Tally(now)

    # From the source.

    def has_room(self) -> bool:
        """Whether another frame may be taken from the source now."""
        if len(self._slots) >= MAX_UNANSWERED:
            return False
        if self._live and self._freshness.drops:
            return True
        return sum(not slot.sent and slot.local is None for slot in self._slots.values()) < AHEAD

    def offer(self, frame: TakenFrame, now: float) -> None:
        """Take in a frame from the source."""
        self._last_sequence += 1
        slot = _Slot(self._last_sequence, frame, now)
        error = frame.error or self._misplaced(frame)
        if self._chained and isinstance(frame.loaded, Packet):
            slot.begins, slot.needs = frame.loaded.key_frame, not frame.loaded.key_frame
        if frame.loaded is not None and error is None:
            slot.message = _frame_message(slot.sequence, frame)
            if len(slot.message) > self._limit:
                error = too_large(len(slot.message), self._limit)
        if error is None:
            self._make_way(slot, now)
            self._join(slot)
        else:
            self._gap = self._gap or slot.begins or slot.needs
            slot.local = FrameFailed(
                slot.sequence, error, frame.capture_time, input=frame.loaded or frame.source
            )
        self._slots[slot.sequence] = slot

    def end_source(self, error: Exception | None = None) -> None:
        """The source has no more frames. error: raised once all frames have their reply."""
        self._source_ended = True
        self._source_error = error

    def update(self, options: DetectOptions | None, freshness: Freshness | None) -> None:
        """Change the stream from the next frame on."""
        self._options = options or self._options
        self._freshness = freshness or self._freshness
        # Only what changes: a rule that is set anew begins anew, too, as the spacing of `target_fps`.
        if options is not None:
            self._update.options.CopyFrom(_requests.detect_options(options))
            self._update.options.SetInParent()
        if freshness is not None:
            self._update.freshness.CopyFrom(_requests.freshness(freshness))

    # To the server.

    def opening(self) -> bytes:
        """The first message of a connection."""
        self._update.Clear()  # the config says it already
        self._skip()  # the decoder of a new connection knows nothing
        self._open = self._going_away = False
        config = _requests.stream_config(
            self._ask, self._options, self._freshness, self.stream_id, self._token
        )
        return pb.StreamDetectRequest(config=config).SerializeToString()

    def next_message(self, now: float) -> bytes | None:
        """What to send next; None: nothing for now."""
        if not self._open or self._going_away:
            return None
        if self._update.ListFields():
            message = pb.StreamDetectRequest(update=self._update).SerializeToString()
            self._update.Clear()
            return message
        self._drop_too_old(now)
        if self.in_flight >= self.window:
            return None
        slot = next(self._unsent(), None)
        if slot is None:
            return None
        slot.sent = True
        self.tally.sent(len(slot.message), again=slot.counted)
        slot.counted = True
        return slot.message

    @property
    def all_sent(self) -> bool:
        """Whether nothing is left to send on this connection."""
        return self._going_away or (
            self._open
            and self._source_ended
            and not self._update.ListFields()
            and next(self._unsent(), None) is None
        )

    @property
    def in_flight(self) -> int:
        """Frames sent and not yet answered."""
        return sum(slot.sent and slot.local is None for slot in self._slots.values())

    @property
    def window(self) -> int:
        """How many frames may be in flight."""
        return min(self._server_window, self._ask.window or self._server_window)

    # From the server.

    def receive(self, data: bytes) -> list[FrameReply]:
        """Take in a message of the server: what the caller gets for it. Raises ServerFailed for nonsense."""
        try:
            message = pb.StreamDetectResponse.FromString(data)
        except DecodeError:
            raise ServerFailed("the server sent what is no message of a stream") from None
        self._server_window = message.max_in_flight or self._server_window or 1
        self._token = message.resume_token or self._token
        match message.WhichOneof("kind"):
            case "ready":
                return self._ready(message.ready)
            case "go_away":
                self._going_away = True
                self._token = message.go_away.resume_token or self._token
                return []
            case "result" | "dropped" | "failed" as kind:
                self._broken_since, self._attempts = None, 0
                return self._reply(getattr(message, kind))
            case _:
                return []  # said by a newer server; nothing this client could do with it

    @property
    def has_local_reply(self) -> bool:
        """Whether it is the turn of a reply that was made here, which no message of the server brings."""
        return next((slot.local is not None for slot in self._slots.values()), False)

    def local_replies(self) -> list[FrameReply]:
        """Replies that were made here, as far as it is their turn."""
        replies = []
        for slot in list(self._slots.values()):
            if slot.local is None:
                break
            replies.append(self._give(slot, slot.local))
        return replies

    def ended(self, error: OpsinError | None, now: float) -> Next:
        """The connection ended, with OK or with an error: what to do now."""
        was_ready, self._open = self._open, False
        self._server_window = 0
        for slot in self._slots.values():
            slot.sent = False
        error = error or self._after_ok()
        if error is None and (not self._source_ended or self._slots):
            return Again(0.0)
        if error is None:
            return self._finish(self._source_error, now)
        if isinstance(error, ResumeTokenInvalid) and self._token:
            self._token = b""
            return Again(0.0)
        return self._after_break(error, now, was_ready=was_ready)

    def lose_all(self) -> list[FrameReply]:
        """The stream will not go on: the replies of the frames that have none."""
        for slot in self._slots.values():
            slot.local = slot.local or _lost(slot)
        return self.local_replies()

    def stats(self, now: float) -> StreamStats:
        """Figures about the stream."""
        return self.tally.stats(
            now, in_flight=self.in_flight, window=self.window, waiting=sum(1 for _ in self._unsent())
        )

    # Inside.

    def _ready(self, ready: Any) -> list[FrameReply]:
        self.tally.reconnects += self._ever_ready
        self._open = self._ever_ready = True
        if not self._slots:
            self._broken_since = None  # all is well again; otherwise the next reply says so
        self._token = ready.resume_token or self._token
        self.stream_id = ready.stream_id or self.stream_id
        self.model = model_ref(ready.model)
        for slot in self._slots.values():
            if slot.sequence < ready.next_sequence and slot.local is None:
                slot.local = _lost(slot)
        return self.local_replies()

    def _reply(self, body: Any) -> list[FrameReply]:
        slot = self._slots.get(body.sequence)
        if slot is None or not slot.sent or slot.local is not None:
            return []  # answered before the stream broke
        for earlier in self._slots.values():
            if earlier.sequence >= slot.sequence:
                break
            # Replies come in order, so the server will not speak of this frame again.
            if earlier.local is None:
                earlier.local = _lost(earlier)
        slot.local = self._aged(slot.frame, frame_reply(body, slot.frame.loaded))
        if getattr(body, "key_frame_wanted", False) and not self._begins_after(slot):
            self._skip()
        return self.local_replies()

    def _aged(self, frame: TakenFrame, reply: FrameReply) -> FrameReply:
        """A source that waits to be read has a clock for spacing only: late by that is not old."""
        if self._live or not frame.by_source or frame.capture_time is None:
            return reply
        match reply:
            case FrameResult():
                return replace(reply, age=reply.result.timings.total_ms / 1000)
            case FrameDropped():
                return replace(reply, age=None)
            case _:
                return reply

    def _begins_after(self, slot: _Slot) -> bool:
        """Whether a key frame is on its way behind a frame."""
        return any(s.begins and s.sent and s.sequence > slot.sequence for s in self._slots.values())

    def _skip(self) -> None:
        """The server's decoder lacks what waiting packets refer to: pass them over, up to a key frame."""
        if not self._chained:
            return
        for slot in self._unsent():
            if slot.begins:
                return
            if slot.needs:
                slot.local = _passed_over(slot, DropReason.SKIPPED)
        self._gap = True

    def _join(self, slot: _Slot) -> None:
        """A packet joins those that wait, unless one that it needs is missing."""
        if slot.begins:
            self._gap = False
        elif slot.needs and self._gap:
            slot.local = _passed_over(slot, DropReason.SKIPPED)

    def _misplaced(self, frame: TakenFrame) -> OpsinError | None:
        if isinstance(frame.loaded, Packet) and self._ask.codec in ("image", "auto"):
            return InvalidInput.at("frame.packet", "a packet takes a stream with a codec, as in codec='h264'")
        return None

    def _give(self, slot: _Slot, reply: FrameReply) -> FrameReply:
        del self._slots[slot.sequence]
        self.tally.given(reply)
        return reply

    def _unsent(self) -> Iterator[_Slot]:
        return (slot for slot in self._slots.values() if not slot.sent and slot.local is None)

    def _make_way(self, newer: _Slot, now: float) -> None:
        """Rule 5: drop what the frame that is about to come makes needless."""
        self._drop_too_old(now)
        if not self._live or self._freshness.mode in (FreshnessMode.EVERY_FRAME, FreshnessMode.MAX_AGE):
            return
        if self._chained and not newer.begins:
            return  # it may need those that wait
        for slot in self._unsent():
            slot.local = _dropped(slot, DropReason.SUPERSEDED, now)

    def _drop_too_old(self, now: float) -> None:
        max_age = self._freshness.max_age
        if not self._live or self._freshness.mode is not FreshnessMode.MAX_AGE or max_age is None:
            return
        if self._chained:
            return  # the server decodes them all the same, and drops them then
        for slot in self._unsent():
            if now - slot.taken_at > max_age:
                slot.local = _dropped(slot, DropReason.TOO_OLD, now)

    def _after_ok(self) -> OpsinError | None:
        """OK is right after `go_away`, and when everything was answered; else the server left too early."""
        if self._going_away or (
            self._source_ended and not any(s.local is None for s in self._slots.values())
        ):
            return None
        return Unavailable("the server ended the stream before every frame was answered")

    def _after_break(self, error: OpsinError, now: float, *, was_ready: bool) -> Next:
        """Rule 7."""
        self._broken_since = now if self._broken_since is None else self._broken_since
        if not self._ever_ready or not _may_pass(error):
            return self._finish(error, now)
        if now >= self._end:
            late = f"the stream took longer than {self._ask.timeout:g} s: {error}"
            return self._finish(DeadlineExceeded(late), now)
        patience = min(self._broken_since + self._ask.reconnect, self._end) - now
        if patience <= 0:
            return self._finish(error, now)
        return Again(min(self._backoff(error, was_ready=was_ready), patience))

    def _finish(self, error: Exception | None, now: float) -> Finish:
        self.tally.stopped = now
        return Finish(error)

    def _backoff(self, error: OpsinError, *, was_ready: bool) -> float:
        if was_ready and self._attempts == 0:
            self._attempts = 1
            return 0.0  # the first try costs nothing: the break may have been this connection's alone
        delay = min(FIRST_BACKOFF * 2.0 ** min(self._attempts, _MOST_DOUBLINGS), MAX_BACKOFF)
        self._attempts += 1
        return max(delay, error.retry_after or 0.0)


def _may_pass(error: OpsinError) -> bool:
    """Whether another connection may fare better."""
    match error:
        case _ if error.never_retry:
            return False
        case Unavailable() | Unreachable() | Overloaded() | Cancelled():
            return True
        case ServerFailed():
            return not error.reason  # made by gRPC or a proxy: a reset connection looks like this
        case _:
            return False


def _lost(slot: _Slot) -> FrameDropped:
    return _passed_over(slot, DropReason.LOST)


def _passed_over(slot: _Slot, reason: DropReason) -> FrameDropped:
    frame = slot.frame
    return FrameDropped(slot.sequence, reason, None, frame.capture_time, by_client=True, input=frame.loaded)


def _dropped(slot: _Slot, reason: DropReason, now: float) -> FrameDropped:
    frame, age = slot.frame, now - slot.taken_at
    return FrameDropped(slot.sequence, reason, age, frame.capture_time, by_client=True, input=frame.loaded)


def _frame_message(sequence: int, frame: TakenFrame) -> bytes:
    assert frame.loaded is not None
    if isinstance(frame.loaded, Packet):
        message = pb.Frame(sequence=sequence, packet=frame.loaded.data)
    else:
        message = pb.Frame(sequence=sequence, image=_requests.image(frame.loaded))  # type: ignore[arg-type]
    if frame.capture_time is not None:
        message.capture_time.FromMicroseconds(round(frame.capture_time * 1e6))  # all that a float holds
    if frame.options is not None:
        message.options.CopyFrom(_requests.detect_options(frame.options))
    return pb.StreamDetectRequest(frame=message).SerializeToString()
