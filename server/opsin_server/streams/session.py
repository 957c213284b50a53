"""One video stream, as a state machine without I/O: events and the time go in, actions come out.

The rules
---------

*Accounting.* Every accepted frame gets exactly one reply: `Result`, `Dropped` or `Failed`. Replies leave in
sequence order; one that is known early waits for its turn. A frame's first outcome counts. Whatever is told
of it later (an answer that lost a race with its own cancellation) is ignored, and so is any event about a
frame that the session does not know.

*A frame's way.* A picture of its own waits at once; a packet waits when it has gone through the stream's
decoder, which takes packets one at a time, in order, and takes all of them: also those of frames that are
already settled, since later ones refer to them. A frame that waits is submitted as soon as the rules allow,
and is then prepared, queued for the device, and run. From `FrameStarted` on no rule takes it away.

*Freshness.* A frame keeps the rule under which it arrived.
- EVERY_FRAME: submitted at once; never dropped. A refusal for want of room is tried again.
- LATEST: a frame that comes to wait supersedes those of its kind that wait. One at a time is prepared,
  because a frame in preparation is not taken away: if it were, a source faster than the decoder would never
  get an answer. When it is ready, it supersedes those that are queued. So the device always finds the
  newest ready frame. Where streams take turns, one waits for its turn before it is prepared, and a newer one
  takes its place meanwhile.
- MAX_AGE: dropped, TOO_OLD, as soon as it is `max_age` old and not on the device, and at the latest when it
  would be run. Age is fixed by arrival: time since then, plus what it travelled longer than the quickest.
- TARGET_FPS: the frames off the grid are dropped, RATE, when they come to wait.
- In these three modes, a refusal for want of room drops the frame, OVERLOAD.

*The window.* `max_in_flight` frames may be unanswered; a reply that the transport has not taken counts as
none.
- EVERY_FRAME stops reading at the window.
- The other modes read on. Beyond the window the oldest frame that is not in preparation or on the device is
  superseded, and nothing is submitted while replies pile up that the client does not take. A window that is
  lowered closes by one place with each reply that tells so: what a client sent by the one it knew of stays.
- All modes stop reading at `most_unsent` replies owed, at `most_bytes` held, and when the decoder is a window
  behind.

*The end.* A broken protocol, a closed client, a fatal frame, a go-away: reading stops, what was accepted is
answered, then comes `SendGoAway` where one was asked for, then `End`. A go-away's `last_sequence` is the last
frame accepted. Only a take-over and a lost connection end at once, as nobody is left to read.

*Time* is passed in and need only not run backwards. `wake_at` says when to send a `Tick`.

The theory
----------

Each event changes the books and then everything that could follow is tried, in the order of `_advance`.
That is simpler to get right than to say for each event what it may set off, and costs some microseconds.
What is left to the handler: messages and bytes, options, the decoder, tokens, tracking, and the order in
which it carries out the actions, which must be the order in which they came.
"""

import math
from dataclasses import dataclass
from enum import Enum

from opsin_server.errors import Failure, Reason
from opsin_server.streams import events as ev
from opsin_server.streams.events import Action, Event, Outcome
from opsin_server.streams.frames import Frame, Frames, Rule, Stage
from opsin_server.streams.freshness import AgeClock, DropReason, Freshness

__all__ = ["SessionLimits", "StreamSession"]

_SUPERSEDED = ev.Dropped(DropReason.SUPERSEDED)
_TOO_OLD = ev.Dropped(DropReason.TOO_OLD)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds of one stream.

    max_in_flight: the window at the start; `LoadChanged` moves it. most_unsent: replies owed.
    most_bytes: of frames not yet decoded. refresh: seconds between two resume tokens; half of what is
    promised, so that it holds down to two frames a second. turns: frames of LATEST need a turn (`AskTurn`).
    """

    max_in_flight: int = 8
    most_unsent: int = 1024
    most_bytes: int = 64 << 20
    refresh: float = 0.5
    turns: bool = False


class State(Enum):
    """Where the stream is in its life."""

    OPENING = 1  # waits for its configuration
    LIVE = 2
    DRAINING = 3  # accepts nothing more, answers what it accepted
    ENDED = 4


class StreamSession:
    """The rules of one stream; see the module's page. Not thread-safe, never blocks, raises nothing."""

    def __init__(self, limits: SessionLimits = SessionLimits()) -> None:
        self._limits = limits
        self._state = State.OPENING
        self._rule = Rule(Freshness())
        self._window = limits.max_in_flight
        self._granted = self._window  # what a client that obeys may have sent by
        self._frames = Frames()
        self._ages = AgeClock()
        self._last = 0  # the greatest sequence that is taken
        self._unsent = 0  # replies on their way that the transport has not taken
        self._decoding = False
        self._asked = self._has_turn = False  # for a turn; whether one was given and is not used yet
        self._reading = True
        self._aging = False  # some frame may have got too old
        self._refreshed = -math.inf
        self._go_away: ev.GoAwayReason | None = None
        self._failure: Failure | None = None
        self._out: list[Action] = []

    # -- what can be asked -------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether `End` came out."""
        return self._state is State.ENDED

    @property
    def reading(self) -> bool:
        """Whether the handler may read another message; changes come out as actions, too."""
        return self._reading

    @property
    def unsent(self) -> int:
        """Frames that were accepted and whose reply the transport has not taken."""
        return len(self._frames.line) + self._unsent

    @property
    def last_sequence(self) -> int:
        """The last frame that was accepted; the next must be greater."""
        return self._last

    @property
    def max_in_flight(self) -> int:
        """The window, as the client is told: a stream that drops needs a frame to wait while one is run."""
        return max(2, self._window) if self._rule.drops else self._window

    @property
    def wake_at(self) -> float:
        """When to send a `Tick`; infinite when nothing depends on time."""
        waiting = self._frames.waiting
        if not waiting and not self._aging:
            return math.inf
        again = waiting[0].not_before if waiting else -math.inf
        times = [again] if again > -math.inf else []
        if self._aging:
            times += [f.start_by for f in self._frames.live.values() if f.stage < Stage.RUNNING]
        return min(times, default=math.inf)

    # -- what happens ------------------------------------------------------------------------------------

    def receive(self, event: Event, now: float) -> list[Action]:
        """What is to be done, in this order, after something happened at `now`."""
        if self.ended:
            if isinstance(event, ev.ReplySent):
                self._unsent -= event.count
            return []
        self._apply(event, now)
        if not self.ended:
            self._advance(now)
        out, self._out = self._out, []
        return out

    def _apply(self, event: Event, now: float) -> None:
        match event:
            case ev.FrameArrived():
                self._arrived(event, now)
            case ev.ReplySent(count):
                self._unsent -= count
            case ev.FrameAnswered(sequence, answer):
                self._settle_known(sequence, ev.Result(answer), now)
            case ev.ConfigReceived() | ev.UpdateReceived() | ev.ClientErred() | ev.ClientClosed():
                self._told(event, now)
            case ev.LoadChanged(max_in_flight):
                self._window = max(1, max_in_flight)
                self._granted = max(self._granted, self.max_in_flight)
            case ev.GoAwayRequested(reason):
                self._leave(reason)
            case ev.TurnGiven():
                self._asked, self._has_turn = False, True
            case ev.TakenOver():
                self._stop(_taken_over())
            case ev.ConnectionLost():
                self._stop(None)
            case ev.Tick():
                pass
            case _:
                self._progressed(event, now)

    def _told(
        self, event: ev.ConfigReceived | ev.UpdateReceived | ev.ClientErred | ev.ClientClosed, now: float
    ) -> None:
        """A message that is no frame, or the end of messages."""
        if self._state is State.DRAINING:
            return
        match event:
            case ev.ConfigReceived(freshness, next_sequence) if self._state is State.OPENING:
                self._open(freshness, next_sequence, now)
            case ev.ConfigReceived():
                self._drain(_broken("A stream has one config; send an update instead.", "config"))
            case ev.ClientErred(failure):
                self._drain(failure)
            case _ if self._state is State.OPENING:
                self._drain(_broken("The first message of a stream is its config.", "config"))
            case ev.UpdateReceived(failure=Failure() as failure):
                self._drain(_wrong_update(failure))
            case ev.UpdateReceived(freshness):
                self._rule = Rule(freshness) if freshness else self._rule
            case ev.ClientClosed():
                self._drain(None)

    def _open(self, freshness: Freshness, next_sequence: int, now: float) -> None:
        self._state = State.LIVE
        self._rule = Rule(freshness)
        self._last = max(0, next_sequence - 1)
        self._refreshed = now
        self._out.append(ev.SendReady(next_sequence, self.max_in_flight))

    def _arrived(self, event: ev.FrameArrived, now: float) -> None:
        if self._state is State.DRAINING:
            return
        if self._state is State.OPENING:
            self._drain(_broken("The first message of a stream is its config.", "config"))
        elif event.sequence <= self._last:
            self._drain(_not_increasing(event.sequence, self._last))
        else:
            self._accept(event, now)

    def _accept(self, event: ev.FrameArrived, now: float) -> None:
        self._last = event.sequence
        frame = Frame(event, now, self._ages.arrived(now, event.captured), self._rule)
        self._frames.accept(frame)
        self._aging = self._aging or frame.start_by < math.inf
        if event.failure is not None:
            self._settle(frame, ev.Failed(event.failure), now)
        elif not event.chained:
            self._wait(frame, now)

    def _progressed(self, event: Event, now: float) -> None:
        """Something became of a frame."""
        match event:
            case ev.FrameDecoded(sequence, picture):
                self._decoded(sequence, now, picture=picture)
            case ev.FrameReady(sequence):
                self._ready(sequence, now)
            case ev.FrameStarted(sequence):
                self._started(sequence, now)
            case ev.FrameReused(sequence, reused_from, answer):
                self._settle_known(sequence, ev.Result(answer, reused_from), now)
            case ev.FrameFailed():
                self._failed(event, now)
            case ev.FrameRefused(sequence, retry_after):
                self._refused(sequence, retry_after, now)

    # -- a frame's way -----------------------------------------------------------------------------------

    def _decoded(self, sequence: int, now: float, *, picture: bool) -> None:
        if not self._leaves_decoder(sequence):
            return
        frame = self._frames.decoded()
        if frame.stage is Stage.SETTLED:
            return
        if not picture:
            self._settle(frame, ev.Dropped(DropReason.NO_PICTURE), now)
        else:
            self._frames.move(frame, Stage.WAITING)
            self._wait(frame, now)

    def _leaves_decoder(self, sequence: int) -> bool:
        """Whether this frame was in the decoder; then it is free."""
        chain = self._frames.chain
        if not self._decoding or not chain or chain[0].sequence != sequence:
            return False
        self._decoding = False
        return True

    def _wait(self, frame: Frame, now: float) -> None:
        """A frame could be submitted from now on."""
        rule = frame.rule
        if rule.sampler is not None and not rule.sampler.keeps(frame.arrival, frame.captured):
            self._settle(frame, ev.Dropped(DropReason.RATE), now)
            return
        if rule.latest:
            if self._is_behind(frame):
                self._settle(frame, _SUPERSEDED, now)
                return
            for older in [f for f in self._frames.waiting if f.rule.latest]:
                self._settle(older, _SUPERSEDED, now)
        self._frames.waiting.append(frame)
        if rule.drops and not rule.latest:
            self._make_room(now)

    def _is_behind(self, frame: Frame) -> bool:
        """Whether a newer frame got past this one, as a picture of its own gets past a packet."""
        return any(
            f.sequence > frame.sequence and f.rule.latest and Stage.WAITING <= f.stage < Stage.RUNNING
            for f in self._frames.live.values()
        )

    def _make_room(self, now: float) -> None:
        """Keep to the window: the oldest that can still be taken away go, but never the newest."""
        frames = self._frames
        over = len(frames.live) - frames.count(Stage.CHAINED) - max(self._granted, self.max_in_flight)
        if over <= 0:
            return
        open_to_it = (Stage.WAITING, Stage.QUEUED)
        takeable = [f for f in frames.live.values() if f.stage in open_to_it and f.rule.drops]
        for frame in takeable[:-1][:over]:
            self._settle(frame, _SUPERSEDED, now)

    def _ready(self, sequence: int, now: float) -> None:
        frame = self._frames.live.get(sequence)
        if frame is None or frame.stage is not Stage.PREPARING:
            return
        if frame.rule.latest:
            for older in [f for f in self._frames.at(Stage.QUEUED) if f.rule.latest]:
                self._settle(older, _SUPERSEDED, now)
        self._frames.move(frame, Stage.QUEUED)

    def _started(self, sequence: int, now: float) -> None:
        frame = self._frames.live.get(sequence)
        if frame is None or frame.stage not in (Stage.PREPARING, Stage.QUEUED):
            return
        if now >= frame.start_by:
            self._settle(frame, _TOO_OLD, now)
        else:
            self._frames.move(frame, Stage.RUNNING)

    def _failed(self, event: ev.FrameFailed, now: float) -> None:
        if self._leaves_decoder(event.sequence):
            self._frames.decoded()
        self._settle_known(event.sequence, ev.Failed(event.failure, event.key_frame_wanted), now)
        if event.fatal and self._failure is None and self._go_away is None:
            self._drain(event.failure)

    def _refused(self, sequence: int, retry_after: float, now: float) -> None:
        frame = self._frames.live.get(sequence)
        if frame is None or frame.stage < Stage.PREPARING:
            return
        if frame.rule.drops:
            self._settle(frame, ev.Dropped(DropReason.OVERLOAD), now)
            return
        frame.not_before = now + retry_after
        self._frames.wait_again(frame)

    def _settle_known(self, sequence: int, outcome: Outcome, now: float) -> None:
        """The pipeline or the decoder says what became of a frame, if that is still open."""
        frame = self._frames.live.get(sequence)
        if frame is not None:
            if frame.stage is Stage.WAITING:
                self._frames.waiting.remove(frame)
            self._frames.settle(frame, outcome, now)

    def _settle(self, frame: Frame, outcome: Outcome, now: float) -> None:
        """A rule decides about a frame, wherever it is."""
        if frame.stage is Stage.WAITING and frame in self._frames.waiting:
            self._frames.waiting.remove(frame)
        self._out.append(ev.Cancel(frame.sequence))
        self._frames.settle(frame, outcome, now)

    # -- what follows ------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Everything that has become possible."""
        frames = self._frames
        if self._aging:
            self._drop_old(now)
        if frames.chain and not self._decoding:
            self._decode()
        if frames.waiting:
            self._submit(now)
        if self._has_turn:
            self._has_turn = False
            self._out.append(ev.ReturnTurn())
        if frames.line:
            self._reply(now)
        if self._state is State.DRAINING and not frames.line:
            self._finish()
        self._set_reading()

    def _drop_old(self, now: float) -> None:
        live = self._frames.live
        for frame in [f for f in live.values() if f.start_by <= now and f.stage < Stage.RUNNING]:
            self._settle(frame, _TOO_OLD, now)
        self._aging = any(f.start_by < math.inf for f in live.values())

    def _decode(self) -> None:
        frame = self._frames.chain[0]
        self._decoding = True
        self._out.append(ev.Decode(frame.sequence, keep=frame.stage is not Stage.SETTLED))

    def _submit(self, now: float) -> None:
        """In order: a frame that may not be submitted yet holds up those behind it."""
        waiting = self._frames.waiting
        while waiting and waiting[0].not_before <= now:
            frame = waiting[0]
            frame.not_before = -math.inf
            if not self._may_submit(frame):
                return
            turn = frame.rule.latest and self._limits.turns
            if turn and not self._takes_turn():
                return
            waiting.popleft()
            self._frames.move(frame, Stage.PREPARING)
            self._out.append(ev.Submit(frame.sequence, frame.start_by, turn))

    def _takes_turn(self) -> bool:
        """Use the turn that was given; without one, ask."""
        if self._has_turn:
            self._has_turn = False
            return True
        if not self._asked:
            self._asked = True
            self._out.append(ev.AskTurn())
        return False

    def _may_submit(self, frame: Frame) -> bool:
        if not frame.rule.drops:
            return True
        if frame.rule.latest:
            preparing = any(f.rule.latest for f in self._frames.at(Stage.PREPARING))
            return not preparing and self._frames.running + self._unsent < self.max_in_flight
        return self._frames.submitted + self._unsent < self.max_in_flight

    def _reply(self, now: float) -> None:
        """Send what is known, up to the first frame whose outcome is not."""
        line = self._frames.line
        while line and line[0].outcome is not None:
            self._send(self._frames.leave(), now)

    def _send(self, frame: Frame, now: float) -> None:
        last_of_all = self._state is State.DRAINING and not self._frames.line
        refresh = last_of_all or now - self._refreshed >= self._limits.refresh
        if refresh:
            self._refreshed = now
        self._unsent += 1
        window = self.max_in_flight
        self._granted = max(self._granted - 1, window)
        assert frame.outcome is not None
        self._out.append(
            ev.Send(
                sequence=frame.sequence,
                outcome=frame.outcome,
                captured=frame.captured,
                arrival=frame.arrival,
                at=now,
                age=now - frame.arrival + frame.late,
                order=now - frame.settled,
                max_in_flight=window,
                refresh=refresh,
            )
        )

    def _set_reading(self) -> None:
        wanted = self._state in (State.OPENING, State.LIVE) and not self._full()
        if wanted is not self._reading:
            self._reading = wanted
            self._out.append(ev.ResumeReading() if wanted else ev.PauseReading())

    def _full(self) -> bool:
        limits, frames, unsent = self._limits, self._frames, self.unsent
        return (
            (unsent >= self._window and not self._rule.drops)
            or unsent >= limits.most_unsent
            or frames.bytes >= limits.most_bytes
            or (bool(frames.chain) and len(frames.chain) >= self.max_in_flight)
        )

    # -- the end -----------------------------------------------------------------------------------------

    def _leave(self, reason: ev.GoAwayReason) -> None:
        match self._state:
            case State.OPENING:
                self._drain(Failure(Reason.DRAINING, "The server is shutting down.", retry_after=1.0))
            case State.LIVE:
                self._go_away = reason
                self._drain(None)

    def _drain(self, failure: Failure | None) -> None:
        self._state = State.DRAINING
        self._failure = failure

    def _finish(self) -> None:
        """All that was accepted is answered: the stream is over."""
        if self._go_away is not None:
            self._out.append(ev.SendGoAway(self._go_away, self._last))
        self._end(ev.End(self._failure))

    def _stop(self, failure: Failure | None) -> None:
        """End now; nobody is left to read the answers."""
        self._out += [ev.Cancel(sequence) for sequence in self._frames.live]
        self._frames = Frames()
        self._end(ev.End(failure, at_once=True))

    def _end(self, end: ev.End) -> None:
        self._state = State.ENDED
        self._reading = False
        self._out.append(end)


def _broken(message: str, field: str = "") -> Failure:
    return Failure(Reason.STREAM_PROTOCOL, message, field)


def _wrong_update(failure: Failure) -> Failure:
    metadata = {**failure.metadata, "cause": failure.reason.value}
    return Failure(Reason.STREAM_PROTOCOL, failure.message, failure.within("update").field, metadata)


def _not_increasing(sequence: int, last: int) -> Failure:
    return Failure(
        Reason.SEQUENCE_NOT_INCREASING,
        f"Frame {sequence} does not follow {last}; sequences start at 1 and increase.",
        "frame.sequence",
        {"sequence": str(sequence), "last": str(last)},
    )


def _taken_over() -> Failure:
    return Failure(Reason.STREAM_TAKEN_OVER, "A newer stream of the same name took over.")
