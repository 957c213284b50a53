"""One live stream: carries out what its session decides.

A task reads messages and tells the session of them, a task writes what the session wants sent, and each
frame that is looked at is a task in between, unless it is answered on the spot. Owns what a session must not
know: messages, pictures, the decoder, the tracker and the tokens. It decides nothing: every rule of a stream
is in `streams/session.py`.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import structlog
from google.protobuf.message import Message

from opsin.v1.stream_pb2 import StreamDetectRequest, StreamDetectResponse
from opsin_server.calls import Caller, DetectCall, ImageSource, Timings
from opsin_server.config import LimitSettings
from opsin_server.eager import begin
from opsin_server.errors import Failure, Reason
from opsin_server.media.budget import PixelBudget
from opsin_server.media.header import MediaLimits
from opsin_server.media.pool import CpuPool
from opsin_server.media.video import open_decoder
from opsin_server.rpc import stream_messages as messages
from opsin_server.rpc.errors import as_failure
from opsin_server.rpc.seam import Pipeline
from opsin_server.rpc.stream_config import StreamTerms, update_of
from opsin_server.rpc.stream_work import Alike, Work, decoded_image
from opsin_server.streams import events as ev
from opsin_server.streams.freshness import FreshnessMode
from opsin_server.streams.session import SessionLimits, StreamSession
from opsin_server.streams.similar import SimilarFrames
from opsin_server.streams.tokens import ResumeToken, TokenSigner
from opsin_server.streams.tracking import ByteTracker, Sightings
from opsin_server.streams.turns import Turns
from opsin_server.telemetry.metrics import Metrics

__all__ = ["LiveStream", "StreamRooms", "give_turns"]

Send = Callable[[Message], Awaitable[None]]
Requests = AsyncIterator[StreamDetectRequest]

_NO_ROOM = (Reason.MEMORY_LIMIT, Reason.QUEUE_FULL)
_CROWDED = 0.01  # seconds between two looks at whether there is memory for another decoded picture
_FEW_SIGHTINGS = 25  # to track so many takes the event loop no longer than a hop to a thread and back
_GREATEST = 2**64 - 1  # sequence; nothing can come after it, so a token does not need to say what
_SENT = ev.ReplySent()
_log = structlog.get_logger("opsin.stream")


@dataclass(frozen=True, slots=True)
class StreamRooms:
    """What all streams of a server use."""

    pipeline: Pipeline
    pool: CpuPool
    budget: PixelBudget
    signer: TokenSigner
    limits: LimitSettings
    metrics: Metrics


class LiveStream:
    """One stream whose configuration was accepted. `run` it once.

    turns: those of its model, which frames of LATEST take; None: there are enough for all.
    """

    def __init__(
        self,
        rooms: StreamRooms,
        agreed: StreamTerms,
        caller: Caller,
        window: int,
        turns: "Turns[LiveStream] | None" = None,
    ) -> None:
        self._rooms = rooms
        self._agreed = agreed
        self._caller = caller
        self._options = agreed.options
        self._drops = agreed.freshness.mode is not FreshnessMode.EVERY_FRAME
        self._session = StreamSession(SessionLimits(window, turns=turns is not None))
        self._turns: Turns[LiveStream] = Turns() if turns is None else turns
        self._similar = SimilarFrames(agreed.reuse) if agreed.reuse else None
        self._tracker = _tracker(agreed)
        self._highest = 0  # track number that was given
        self._seen_last = 0  # sequence, when `in_use` was asked
        limits = MediaLimits(rooms.limits.max_pixels, rooms.limits.max_side)
        self._decoder = open_decoder(agreed.codec, limits) if agreed.codec else None
        self._work: dict[int, Work] = {}  # frames whose outcome is open
        self._packets: dict[int, bytes] = {}  # that the decoder has not had
        self._background: set[asyncio.Task[None]] = set()
        self._told: deque[ev.Event] = deque()  # that the session has not heard of
        self._telling = False
        self._on_the_spot = True  # whether a frame that is submitted now may begin at once
        self._outbox: deque[ev.Action | None] = deque()
        self._to_write = asyncio.Event()
        self._may_read = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = math.inf
        self._writer: asyncio.Task[None] | None = None
        self._end: ev.End | None = None
        # Frames without a capture time are tracked by wall time, which another server has, too.
        self._wall = time.time() - time.monotonic()

    # -- life --------------------------------------------------------------------------------------------

    async def run(self, requests: Requests, send: Send) -> None:
        """Until the session ends; raises the failure that it ends with."""
        self.tell(ev.ConfigReceived(self._agreed.freshness, self._agreed.next_sequence))
        self._writer = asyncio.create_task(self._write(send))
        reader = asyncio.create_task(self._read(requests))
        try:
            await asyncio.wait((self._writer,))
        finally:
            self._close(reader)
        if self._end is not None and self._end.failure is not None:
            raise self._end.failure
        if not self._writer.cancelled():
            self._writer.result()  # raises what broke it

    def _close(self, reader: asyncio.Task[None]) -> None:
        self.tell(ev.ConnectionLost())  # unless the session has ended: then this says nothing
        assert self._writer is not None
        for task in (reader, self._writer, *self._background):
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._decoder is not None:
            self._decoder.close()

    def leave(self, reason: ev.GoAwayReason) -> None:
        """Go on elsewhere: answer what was accepted, say so, and end."""
        self.tell(ev.GoAwayRequested(reason))

    def taken_over(self) -> None:
        """A newer stream has the name now."""
        self.tell(ev.TakenOver())

    def allow(self, window: int) -> None:
        """So many frames may be unanswered from now on."""
        self.tell(ev.LoadChanged(window))

    def take_turn(self) -> None:
        """The turn that was asked for is here."""
        self.tell(ev.TurnGiven())

    def _ask_turn(self) -> None:
        if self._turns.ask(self):
            self.take_turn()

    def _end_turn(self) -> None:
        give_turns(self._turns.done(self))

    def in_use(self) -> bool:
        """Whether a frame came since this was asked last, or one is unanswered."""
        before, self._seen_last = self._seen_last, self._session.last_sequence
        return self._seen_last != before or self._session.unsent > 0

    # -- the session -------------------------------------------------------------------------------------

    def tell(self, event: ev.Event) -> None:
        """Something happened; do what follows from it. Event loop only, and never raises.

        What happens while that is done (a frame is answered on the spot) has its turn afterwards: actions are
        carried out in the order in which they came.
        """
        self._told.append(event)
        if self._telling:
            return
        self._telling = self._on_the_spot = True
        session = self._session
        try:
            while self._told:
                for action in session.receive(self._told.popleft(), time.monotonic()):
                    self._act(action)
        finally:
            self._telling = False
        wake_at = session.wake_at
        if wake_at != self._wake_at:
            self._arm(wake_at)

    def _act(self, action: ev.Action) -> None:
        match action:
            case ev.Submit(sequence, turn=turn):
                work = self._work[sequence]
                work.turn = self._end_turn if turn else None
                self._submit(work)
            case ev.AskTurn():
                self._ask_turn()
            case ev.ReturnTurn():
                self._end_turn()
            case ev.Send() | ev.SendReady() | ev.SendGoAway():
                self._post(action)
            case ev.Cancel(sequence):
                self._withdraw(sequence)
            case ev.Decode(sequence, keep):
                decoding = self._decode(sequence, self._packets.pop(sequence), keep=keep)
                self._keep(asyncio.create_task(decoding))
            case ev.PauseReading():
                self._may_read.clear()
            case ev.ResumeReading():
                self._may_read.set()
            case ev.End(at_once=at_once):
                self._end = action
                give_turns(self._turns.leave(self))  # now: a client that reads no more can hold up the rest
                self._post(None)
                if at_once and self._writer is not None:
                    self._writer.cancel()

    def _submit(self, work: Work) -> None:
        """Look at a frame: one a turn at once, as it may be answered on the spot, and any others in time.

        So many frames that are let in together do not keep the event loop from other streams.
        """
        at_once, self._on_the_spot = self._on_the_spot, False
        task = begin(self._look(work)) if at_once else asyncio.create_task(self._look(work))
        if task is not None:
            work.task = task
            self._keep(task)

    def _withdraw(self, sequence: int) -> None:
        # Gone where it has just ended on the spot, and the session has not heard of that yet.
        work = self._work.pop(sequence, None)
        if work is not None:
            work.cancel()

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold it until it ends: the event loop does not."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _post(self, action: ev.Action | None) -> None:
        """To be written; None: nothing follows."""
        self._outbox.append(action)
        self._to_write.set()

    def _arm(self, wake_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_at = wake_at
        if wake_at < math.inf:
            delay = max(0.0, wake_at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer, self._wake_at = None, math.inf
        self.tell(ev.Tick())

    # -- what comes in -----------------------------------------------------------------------------------

    async def _read(self, requests: Requests) -> None:
        try:
            async for request in requests:
                self._take(request)
                if not self._session.reading:
                    await self._may_read.wait()
            self.tell(ev.ClientClosed())
        except Failure as failure:
            self.tell(ev.ClientErred(failure))
        except Exception as error:
            _log.debug("stream_broken", stream=self._agreed.stream_id, error=repr(error))
            self.tell(ev.ConnectionLost())

    def _take(self, request: StreamDetectRequest) -> None:
        match request.WhichOneof("kind"):
            case "frame":
                self._accept(messages.frame_in(request.frame, self._agreed, self._rooms.limits))
            case "update":
                event, options = update_of(request.update, self._agreed, self._rooms.limits)
                self._options = options or self._options
                if event.freshness is not None:
                    self._drops = event.freshness.mode is not FreshnessMode.EVERY_FRAME
                self.tell(event)
            case "config":
                self.tell(ev.ConfigReceived(self._agreed.freshness))
            case _:
                message = "A message of a stream holds a config, a frame or an update."
                self.tell(ev.ClientErred(Failure(Reason.STREAM_PROTOCOL, message, "kind")))

    def _accept(self, frame: messages.FrameIn) -> None:
        failure, source = frame.failure, frame.source
        chained = False
        if frame.packet is not None and self._decoder is not None:
            chained = self._decoder.chained
            if not chained and failure is None:
                failure, source = self._single(frame.packet)
        if frame.sequence > self._session.last_sequence:
            options = self._options if frame.options is None else frame.options
            self._work[frame.sequence] = Work(
                frame, source, options, tell=self.tell, watched=self._drops, similar=self._similar
            )
            if chained and frame.packet is not None:
                self._packets[frame.sequence] = frame.packet
        self.tell(
            ev.FrameArrived(frame.sequence, frame.captured, frame.size, chained=chained, failure=failure)
        )

    def _single(self, packet: bytes) -> tuple[Failure | None, ImageSource | None]:
        """A packet that stands for itself: only its header is read here."""
        assert self._decoder is not None
        try:
            picture = self._decoder.feed(packet)
        except Failure as failure:
            return failure.within("frame"), None
        return None, decoded_image(picture) if picture else None

    # -- a frame's way -----------------------------------------------------------------------------------

    async def _decode(self, sequence: int, packet: bytes, *, keep: bool) -> None:
        assert self._decoder is not None
        begun = time.monotonic()
        event: ev.Event
        try:
            while self._rooms.budget.crowded:  # noqa: ASYNC110  anybody may free some, and tells no one
                await asyncio.sleep(_CROWDED)
            # Urgent, as it may not be refused: at most one packet of each stream is on its way.
            feed = partial(self._decoder.feed, packet, keep=keep)
            picture = await self._rooms.pool.run(feed, urgent=True)
        except Exception as error:
            failure = as_failure(error).within("frame")
            self._work.pop(sequence, None)
            event = ev.FrameFailed(
                sequence,
                failure,
                key_frame_wanted=self._decoder.key_frame_wanted,
                fatal=failure.reason is Reason.CODEC_UNSUPPORTED,
            )
        else:
            work = self._work.get(sequence)
            if work is not None and picture is not None:
                work.source = decoded_image(picture)
                work.held = self._rooms.budget.hold(picture.width * picture.height * 3 // 2)
                work.decoding = time.monotonic() - begun
            event = ev.FrameDecoded(sequence, picture is not None)
        self.tell(event)

    async def _look(self, work: Work) -> None:
        event = await self._outcome(work)
        if not isinstance(event, ev.FrameRefused):
            self._work.pop(work.sequence, None)
            work.let_go()
        self.tell(event)

    async def _outcome(self, work: Work) -> ev.Event:
        assert work.source is not None
        call = DetectCall(self._agreed.model_key, work.source, work.options, self._caller)
        try:
            answer = await self._rooms.pipeline.detect(call, work)
        except Alike as alike:
            reused = replace(alike.look.answer, timings=Timings(decode=work.decoding))
            return ev.FrameReused(work.sequence, alike.look.sequence, reused)
        except asyncio.CancelledError:
            if work.withdrawn:
                raise
            return ev.FrameFailed(work.sequence, as_failure(RuntimeError("the work was cancelled")))
        except Exception as error:
            return _misfortune(work, as_failure(error))
        answer.timings.decode += work.decoding
        if self._similar is not None:
            work.remember(answer, self._similar)
        return ev.FrameAnswered(work.sequence, answer)

    # -- what goes out -----------------------------------------------------------------------------------

    async def _write(self, send: Send) -> None:
        while (action := await self._posted()) is not None:
            await send(await self._message(action))
            if isinstance(action, ev.Send):
                self.tell(_SENT)

    async def _posted(self) -> ev.Action | None:
        while not self._outbox:
            self._to_write.clear()
            await self._to_write.wait()
        return self._outbox.popleft()

    async def _message(self, action: ev.Action) -> StreamDetectResponse:
        match action:
            case ev.Send():
                return await self._reply(action)
            case ev.SendReady():
                return messages.ready(action, self._agreed, self._token(self._agreed.next_sequence))
            case ev.SendGoAway(last_sequence=last):
                token = self._token(last + 1 if last else 0)
                return messages.go_away(action, self._session.max_in_flight, token)
        raise AssertionError(action)

    async def _reply(self, send: ev.Send) -> StreamDetectResponse:
        highest = self._highest
        if self._tracker is not None and isinstance(send.outcome, ev.Result):
            send = replace(send, outcome=await self._tracked(self._tracker, send, send.outcome))
        message = messages.reply(send)
        # A client that has seen a number must be able to carry it on: an older token would give it again, to
        # something else.
        if send.refresh or self._highest > highest:
            message.resume_token = self._token(send.sequence + 1)
        self._count(send.outcome)
        return message

    async def _tracked(self, tracker: ByteTracker, send: ev.Send, result: ev.Result) -> ev.Result:
        """In the order of replies, so that a token can hold the tracker as of after its reply."""
        found = result.answer.detections
        seen = Sightings.of([f.detection for f in found])
        when = send.arrival + self._wall if send.captured is None else send.captured * 1e-9
        if len(found) <= _FEW_SIGHTINGS:
            numbers = tracker.update(seen, when)
        else:
            numbers = await self._rooms.pool.run(tracker.update, seen, when, urgent=True)
        self._highest = max((self._highest, *numbers))
        numbered = [replace(f, track_id=number) for f, number in zip(found, numbers, strict=True)]
        return replace(result, answer=replace(result.answer, detections=numbered))

    def _token(self, next_sequence: int) -> bytes:
        token = ResumeToken(
            stream_id=self._agreed.stream_id,
            next_sequence=min(next_sequence, _GREATEST),
            model=self._agreed.model_key,
            tracker=self._tracker.snapshot() if self._tracker else b"",
        )
        return self._rooms.signer.sign(token, time.time())

    def _count(self, outcome: ev.Outcome) -> None:
        metrics = self._rooms.metrics
        match outcome:
            case ev.Result():
                metrics.frame("result")
            case ev.Dropped(reason):
                metrics.frame("dropped", reason.value)
            case ev.Failed(failure):
                metrics.failed(failure.reason.value)
                metrics.frame("failed", failure.reason.value)


def give_turns(streams: Iterable[LiveStream]) -> None:
    """Tell those who got a turn, each in a turn of the event loop: whoever gave it back may be anywhere."""
    for stream in streams:
        asyncio.get_running_loop().call_soon(stream.take_turn)


def _tracker(agreed: StreamTerms) -> ByteTracker | None:
    """A tracker where one is wanted, that goes on where another server's ended."""
    if not agreed.track:
        return None
    tracker = ByteTracker()
    if agreed.resumed is not None and agreed.resumed.tracker:
        tracker.restore(agreed.resumed.tracker)
    return tracker


def _misfortune(work: Work, failure: Failure) -> ev.Event:
    """No answer: for want of room, or for good. Options that no frame named are the stream's."""
    if failure.reason in _NO_ROOM and not failure.never_retry:
        return ev.FrameRefused(work.sequence, failure.retry_after or 0.1)
    whose = "config" if failure.field.startswith("options") and not work.own_options else "frame"
    return ev.FrameFailed(work.sequence, failure.within(whose))
