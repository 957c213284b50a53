"""Both sides of a stream session: a client that sends what it likes, and a server whose stages take their
time.

`World` carries out what a session wants, keeps its own books of it, and checks with every action that no
rule is broken. Tests decide what happens next.
"""

import math
from collections import deque

from opsin_server.calls import DetectAnswer, ModelRef
from opsin_server.errors import Failure, Reason
from opsin_server.streams import events as ev
from opsin_server.streams.freshness import DropReason, Freshness, FreshnessMode
from opsin_server.streams.session import SessionLimits, StreamSession

ANSWER = DetectAnswer(ModelRef("echo", 1, "cpu"))
BAD_FRAME = Failure(Reason.IMAGE_UNDECODABLE, "no picture", "frame.image.encoded")

EVERY = Freshness()
DEFAULTS = SessionLimits()
LATEST = Freshness(FreshnessMode.LATEST)


class World:
    """A session with somebody at each end. `now` moves only when a test says so."""

    def __init__(
        self, freshness: Freshness = EVERY, limits: SessionLimits = DEFAULTS, *, open_it: bool = True
    ) -> None:
        self.limits = limits
        self.session = StreamSession(limits)
        self.now = 100.0
        self.freshness = freshness
        self.sequence = 0
        # What is where, by sequence.
        self.chain: deque[int] = deque()
        self.decoding: int | None = None
        self.preparing: list[int] = []
        self.queued: list[int] = []
        self.running: list[int] = []
        self.outbox: deque[int] = deque()
        # The books.
        self.accepted: list[int] = []
        self.rules: dict[int, Freshness] = {}
        self.arrival: dict[int, float] = {}
        self.ever_ran: set[int] = set()
        self.refused: set[int] = set()
        self.told: set[int] = set()  # those of which the pipeline or the decoder said what became of them
        self.cancelled: set[int] = set()
        self.settled: set[int] = set()  # by the pipeline, not by a rule
        self.sends: list[ev.Send] = []
        self.go_away: ev.SendGoAway | None = None
        self.end: ev.End | None = None
        self.reading = True
        self.asked = False  # for a turn
        self.turns = 0  # held
        self.with_turn: set[int] = set()
        self.window = limits.max_in_flight
        if open_it:
            self.tell(ev.ConfigReceived(freshness))

    # -- the session's wishes ----------------------------------------------------------------------------

    def tell(self, event: ev.Event) -> list[ev.Action]:
        actions = self.session.receive(event, self.now)
        for action in actions:
            assert self.end is None, "nothing follows End"
            self._carry_out(action)
        self.check()
        return actions

    def _carry_out(self, action: ev.Action) -> None:
        match action:
            case ev.Send():
                self._sent(action)
            case ev.Decode(sequence):
                assert self.decoding is None, "one packet at a time"
                assert self.chain.popleft() == sequence, "packets in order, all of them"
                self.decoding = sequence
            case ev.AskTurn():
                assert self.limits.turns
                assert not self.asked, "one request at a time"
                self.asked = True
            case ev.ReturnTurn():
                self.turns -= 1
                assert self.turns == len(self.with_turn)
            case ev.Submit(sequence, start_by, turn):
                latest = self.rules[sequence].mode is FreshnessMode.LATEST
                assert turn is (latest and self.limits.turns)
                if turn:
                    self.with_turn.add(sequence)
                    assert len(self.with_turn) <= self.turns, "no frame without the turn that it needs"
                assert sequence not in self.preparing + self.queued + self.running
                assert self.now < start_by
                if self.rules[sequence].mode is FreshnessMode.LATEST:
                    assert not self._newer_waiting(sequence), "the newest is the one to run"
                self.preparing.append(sequence)
            case ev.Cancel(sequence):
                assert sequence in self.accepted
                assert sequence not in self.told | self.cancelled
                self.cancelled.add(sequence)
                self._end_turn(sequence)
                for stage in (self.preparing, self.queued, self.running):
                    if sequence in stage:
                        stage.remove(sequence)
            case ev.SendGoAway():
                assert self.go_away is None
                self.go_away = action
            case ev.PauseReading():
                assert self.reading
                self.reading = False
            case ev.ResumeReading():
                assert not self.reading
                self.reading = True
            case ev.End():
                self.end = action
            case ev.SendReady():
                assert not self.sends

    def _end_turn(self, sequence: int) -> None:
        if sequence in self.with_turn:
            self.with_turn.remove(sequence)
            self.turns -= 1

    def _newer_waiting(self, sequence: int) -> list[int]:
        """LATEST frames that this one competes with: newer, decoded, unanswered, not submitted."""
        elsewhere = {*self.preparing, *self.queued, *self.running, *self.chain, self.decoding, *self.settled}
        return [
            s
            for s in self.accepted
            if s > sequence and s not in elsewhere and self.rules[s].mode is FreshnessMode.LATEST
        ]

    def _sent(self, send: ev.Send) -> None:
        done = len(self.sends)
        assert self.accepted[done] == send.sequence, "replies in order, exactly one each"
        assert (send.sequence in self.told) is not (send.sequence in self.cancelled), "each frame is let go"
        self.sends.append(send)
        self.outbox.append(send.sequence)
        rule = self.rules[send.sequence]
        assert send.max_in_flight >= (1 if self.freshness.mode is FreshnessMode.EVERY_FRAME else 2)
        assert send.age >= self.now - self.arrival[send.sequence] - 1e-9
        assert send.order >= 0
        match send.outcome:
            case ev.Dropped(DropReason.SUPERSEDED):
                assert rule.mode is not FreshnessMode.EVERY_FRAME
                assert send.sequence not in self.ever_ran, "what is on the device is not superseded"
                assert any(s > send.sequence for s in self.accepted), "somebody newer took its place"
            case ev.Dropped(DropReason.TOO_OLD):
                assert rule.mode is FreshnessMode.MAX_AGE
                assert send.age >= rule.max_age - 1e-9
                assert send.sequence not in self.ever_ran
            case ev.Dropped(DropReason.RATE):
                assert rule.mode is FreshnessMode.TARGET_FPS
            case ev.Dropped(DropReason.OVERLOAD):
                assert rule.mode is not FreshnessMode.EVERY_FRAME
                assert send.sequence in self.refused
            case _:
                pass

    # -- what must hold at any time ----------------------------------------------------------------------

    def check(self) -> None:
        assert self.reading is self.session.reading or self.end is not None
        unsent = len(self.accepted) - len(self.sends) + len(self.outbox)
        if self.end is None:
            assert self.session.unsent == unsent
        if self.end is None and self.reading and self.accepted:
            assert unsent < self.limits.most_unsent
            if self.freshness.mode is FreshnessMode.EVERY_FRAME:
                assert unsent < self.window, "the window is never exceeded"
        for stage in (self.preparing, self.queued):
            latest = [s for s in stage if self.rules[s].mode is FreshnessMode.LATEST]
            assert len(latest) <= 1, "LATEST keeps one"
        assert self.session.wake_at > self.now or not self.accepted or self.end is not None

    # -- the client --------------------------------------------------------------------------------------

    def send(
        self,
        *,
        gap: int = 1,
        captured: int | None = None,
        chained: bool = False,
        bad: bool = False,
        size: int = 1,
    ) -> int:
        """The client sends a frame, and the server reads it, allowed or not."""
        self.sequence += gap
        sequence = self.sequence
        if self.end is None and self.session._state.name == "LIVE":
            self.accepted.append(sequence)
            self.rules[sequence] = self.freshness
            self.arrival[sequence] = self.now
            if bad:
                self.settled.add(sequence)
            if chained:
                self.chain.append(sequence)
        self.tell(
            ev.FrameArrived(sequence, captured, size, chained=chained, failure=BAD_FRAME if bad else None)
        )
        return sequence

    def update(self, freshness: Freshness) -> None:
        self.freshness = freshness
        self.tell(ev.UpdateReceived(freshness))

    def load(self, window: int) -> None:
        self.window = window
        self.tell(ev.LoadChanged(window))

    # -- the server --------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Time passes; ticks come when they are due."""
        until = self.now + seconds
        while self.end is None and self.session.wake_at <= until:
            self.now = max(self.now, self.session.wake_at)
            self.tell(ev.Tick())
        self.now = until

    def give_turn(self) -> None:
        assert self.asked
        self.asked = False
        self.turns += 1
        self.tell(ev.TurnGiven())
        assert self.turns == len(self.with_turn), "a turn is used at once, or comes back"

    def decode(self, *, picture: bool = True) -> int:
        assert self.decoding is not None
        sequence, self.decoding = self.decoding, None
        if not picture:
            self.settled.add(sequence)
        self.tell(ev.FrameDecoded(sequence, picture))
        return sequence

    def fail_decode(self) -> None:
        assert self.decoding is not None
        sequence, self.decoding = self.decoding, None
        self.tells(sequence)
        self.tell(ev.FrameFailed(sequence, BAD_FRAME, key_frame_wanted=True))

    def ready(self, sequence: int) -> None:
        self.preparing.remove(sequence)
        self.queued.append(sequence)
        # The session may take an older queued frame back, which the check must see as one step.
        self.tell(ev.FrameReady(sequence))

    def start(self, sequence: int) -> None:
        stage = self.queued if sequence in self.queued else self.preparing
        stage.remove(sequence)
        self.running.append(sequence)
        self._end_turn(sequence)
        self.tell(ev.FrameStarted(sequence))
        if sequence in self.running:  # it was not taken back
            self.ever_ran.add(sequence)
            rule = self.rules[sequence]
            if rule.mode is FreshnessMode.MAX_AGE:
                assert self.now - self.arrival[sequence] < rule.max_age, "nothing older is run"

    def answer(self, sequence: int) -> None:
        self.running.remove(sequence)
        self.tells(sequence)
        self.tell(ev.FrameAnswered(sequence, ANSWER))

    def tells(self, sequence: int) -> None:
        """What becomes of a frame is known on the server's side; a rule may have been quicker."""
        self.settled.add(sequence)
        self._end_turn(sequence)
        if sequence not in self.cancelled:
            self.told.add(sequence)

    def refuse(self, sequence: int, retry_after: float = 0.1) -> None:
        self.preparing.remove(sequence)
        self.refused.add(sequence)
        if self.rules[sequence].mode is not FreshnessMode.EVERY_FRAME:
            self.settled.add(sequence)
        self.tell(ev.FrameRefused(sequence, retry_after))

    def fail(self, sequence: int, *, fatal: bool = False) -> None:
        for stage in (self.preparing, self.queued, self.running):
            if sequence in stage:
                stage.remove(sequence)
        self.tells(sequence)
        self.tell(ev.FrameFailed(sequence, BAD_FRAME, fatal=fatal))

    def take(self, count: int = 1) -> None:
        """The transport takes replies."""
        for _ in range(count):
            self.outbox.popleft()
        self.tell(ev.ReplySent(count))

    def run_dry(self) -> None:
        """Every stage does its work until there is none; afterwards nothing may be left unanswered."""
        for _ in range(10_000):
            if self.end is not None:
                return
            if self.outbox:
                self.take(len(self.outbox))
            elif self.decoding is not None:
                self.decode()
            elif self.running:
                self.answer(self.running[0])
            elif self.queued:
                self.start(self.queued[0])
            elif self.preparing:
                self.ready(self.preparing[0])
            elif self.asked:
                self.give_turn()
            elif self.session.wake_at < math.inf:
                self.wait(self.session.wake_at - self.now)
            else:
                break
        assert [s.sequence for s in self.sends] == self.accepted, "nothing is forgotten"
        assert self.reading, "an idle stream is read"
        assert not self.turns

    def outcomes(self) -> list[str]:
        """What became of each frame, in words, in order."""
        return [_word(s.outcome) for s in self.sends]


def _word(outcome: ev.Outcome) -> str:
    match outcome:
        case ev.Result(reused_from=0):
            return "result"
        case ev.Result():
            return "reused"
        case ev.Dropped(reason):
            return reason.value
        case ev.Failed():
            return "failed"
