"""A stream's state machine, played from both sides without sockets, threads or clocks."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opsin
from opsin import v1 as pb
from opsin._options import StreamAsk
from opsin._session import MAX_UNANSWERED, Again, Finish, Session, TakenFrame

PICTURE = TakenFrame(b"jpeg")
BROKEN = opsin.Unreachable("the connection broke")


@dataclass
class Server:
    """The other side: takes what is sent, answers in order, keeps the contract."""

    window: int = 3
    unanswered: list[int] = field(default_factory=list)
    last_answered: int = 0
    config: pb.StreamConfig | None = None
    seen: list[int] = field(default_factory=list)

    def open(self, data: bytes) -> bytes:
        """A new connection: a fresh server that knows only what the token says."""
        self.config = pb.StreamDetectRequest.FromString(data).config
        self.unanswered = []
        token = self.config.resume_token
        ready = pb.StreamReady(stream_id="s", next_sequence=int(token) + 1 if token else 0)
        return self._say(ready=ready)

    def take(self, data: bytes) -> None:
        message = pb.StreamDetectRequest.FromString(data)
        if message.WhichOneof("kind") == "frame":
            assert not self.unanswered or message.frame.sequence > self.unanswered[-1]
            self.unanswered.append(message.frame.sequence)
            self.seen.append(message.frame.sequence)

    def answer(self, kind: str) -> bytes:
        sequence = self.last_answered = self.unanswered.pop(0)
        bodies: dict[str, Any] = {
            "result": pb.FrameResult(sequence=sequence),
            "dropped": pb.FrameDropped(sequence=sequence, reason=pb.DropReason.DROP_REASON_SUPERSEDED),
            "failed": pb.FrameFailed(sequence=sequence),
        }
        return self._say(token=True, **{kind: bodies[kind]})

    def go_away(self) -> bytes:
        """After everything accepted was answered, as the contract has it."""
        return self._say(token=True, go_away=pb.GoAway(last_sequence=self.last_answered))

    def _say(self, *, token: bool = False, **kind: Any) -> bytes:
        made = pb.StreamDetectResponse(max_in_flight=self.window, **kind)
        made.resume_token = str(self.last_answered).encode() if token else b""
        return made.SerializeToString()


def opened(server: Server, *, live: bool = False, **ask: Any) -> Session:
    session = Session(StreamAsk.of(**ask), live=live, limit=1 << 20, now=0.0)
    session.receive(server.open(session.opening()))
    return session


def send_all(session: Session, server: Server, now: float = 0.0) -> None:
    while (message := session.next_message(now)) is not None:
        server.take(message)


def numbers(replies: list[Any]) -> list[int]:
    return [reply.sequence for reply in replies]


ACTIONS = st.lists(
    st.sampled_from(
        ["offer", "offer_bad", "send", "result", "dropped", "failed", "break", "go_away", "widen"]
    ),
    max_size=120,
)


@settings(max_examples=400)
@given(
    actions=ACTIONS,
    live=st.booleans(),
    rule=st.sampled_from(["every_frame", "latest", "max_age=3", "target_fps=5"]),
    window=st.integers(1, 5),
)
def test_every_frame_gets_exactly_one_reply_in_order_whatever_happens(
    actions: list[str], live: bool, rule: str, window: int
) -> None:
    server = Server(window)
    session = opened(server, live=live, freshness=rule, reconnect=1e9)
    offered, given_back, now = 0, list[Any](), 0.0

    def reopen(error: opsin.OpsinError | None) -> None:
        given_back.extend(session.local_replies())
        assert isinstance(session.ended(error, now), Again)
        given_back.extend(session.receive(server.open(session.opening())))

    for action in actions:
        now += 1.0
        match action:
            case "offer" | "offer_bad" if session.has_room():
                bad = action == "offer_bad"
                session.offer(TakenFrame(None, error=opsin.InvalidInput("no")) if bad else PICTURE, now)
                offered += 1
            case "send":
                if (message := session.next_message(now)) is not None:
                    server.take(message)
            case "result" | "dropped" | "failed" if server.unanswered:
                given_back += session.receive(server.answer(action))
            case "break":
                reopen(BROKEN)
            case "go_away" if not server.unanswered:
                given_back += session.receive(server.go_away())
                assert session.next_message(now) is None
                reopen(None)
            case "widen":
                server.window = server.window % 5 + 1
        assert len(server.unanswered) <= max(session.window, 5)
        assert numbers(given_back) == list(range(1, len(given_back) + 1))

    session.end_source()
    while not session.all_sent or server.unanswered:
        send_all(session, server, now)
        if server.unanswered:
            given_back += session.receive(server.answer("result"))
    given_back += session.local_replies()
    assert session.ended(None, now) == Finish(None)
    assert numbers(given_back) == list(range(1, offered + 1))
    stats = session.stats(now)
    assert stats.answered + stats.failed + sum(stats.dropped.values()) == offered
    assert (stats.in_flight, stats.waiting) == (0, 0)


@given(windows=st.lists(st.integers(1, 8), min_size=1, max_size=40), own=st.integers(0, 4))
def test_no_more_frames_are_in_flight_than_the_server_and_the_caller_allow(
    windows: list[int], own: int
) -> None:
    server = Server(windows[0])
    session = opened(server, window=own)
    for window in windows:
        while session.has_room():
            session.offer(PICTURE, 0.0)
        before = session.in_flight
        send_all(session, server)
        allowed = min(session.window, own or session.window)
        assert session.in_flight == len(server.unanswered) <= max(allowed, before)
        server.window = window
        session.receive(server.answer("result"))


def test_nothing_is_sent_before_the_server_is_ready() -> None:
    session = Session(StreamAsk(), live=False, limit=1000, now=0.0)
    session.opening()
    session.offer(PICTURE, 0.0)
    assert session.next_message(0.0) is None
    session.receive(Server().open(session.opening()))
    assert session.next_message(0.0) is not None


def test_a_second_reply_to_one_frame_is_ignored() -> None:
    server = Server()
    session = opened(server)
    session.offer(PICTURE, 0.0)
    send_all(session, server)
    reply = server.answer("result")
    assert numbers(session.receive(reply)) == [1]
    assert session.receive(reply) == []
    assert session.stats(0.0).answered == 1


def test_a_reply_to_a_frame_that_was_not_sent_yet_is_ignored() -> None:
    session = opened(Server(1))
    session.offer(PICTURE, 0.0)
    early = pb.StreamDetectResponse(result=pb.FrameResult(sequence=1)).SerializeToString()
    assert session.receive(early) == []
    assert session.next_message(0.0) is not None
    assert numbers(session.receive(early)) == [1]


def test_unanswered_frames_are_sent_again_under_their_own_numbers_with_the_token() -> None:
    server = Server()
    session = opened(server)
    for _ in range(3):
        session.offer(PICTURE, 0.0)
    send_all(session, server)
    session.receive(server.answer("result"))
    assert session.ended(BROKEN, 1.0) == Again(0.0)
    session.receive(server.open(session.opening()))
    assert server.config is not None
    assert server.config.resume_token == b"1"
    send_all(session, server)
    assert server.unanswered == [2, 3]
    assert session.stats(1.0).sent == 3  # each counted once
    assert session.stats(1.0).reconnects == 1


def test_frames_that_the_next_server_counts_as_answered_are_reported_lost() -> None:
    server = Server()
    session = opened(server)
    for _ in range(3):
        session.offer(PICTURE, 0.0)
    send_all(session, server)
    session.ended(BROKEN, 1.0)
    session.opening()
    server.unanswered = []
    ready = pb.StreamDetectResponse(max_in_flight=3, ready=pb.StreamReady(next_sequence=3))
    lost = session.receive(ready.SerializeToString())
    assert [(reply.sequence, getattr(reply, "reason", None)) for reply in lost] == [(1, "lost"), (2, "lost")]
    send_all(session, server)
    assert server.seen[-1] == 3


def test_a_frame_that_the_server_passed_over_is_reported_lost() -> None:
    server = Server()
    session = opened(server)
    session.offer(PICTURE, 0.0)
    session.offer(PICTURE, 0.0)
    send_all(session, server)
    server.unanswered.pop(0)
    replies = session.receive(server.answer("result"))
    assert numbers(replies) == [1, 2]
    assert getattr(replies[0], "reason", None) is opsin.DropReason.LOST


def test_the_first_refusal_is_final_and_a_later_one_is_not() -> None:
    session = Session(StreamAsk(), live=False, limit=1000, now=0.0)
    assert session.ended(BROKEN, 0.0) == Finish(BROKEN)
    assert isinstance(opened(Server()).ended(BROKEN, 0.0), Again)


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (opsin.Unreachable("x"), True),
        (opsin.Draining("x", reason="DRAINING", retry_after=1.0), True),
        (opsin.Overloaded("x", reason="STREAM_LIMIT", retry_after=1.0), True),
        (opsin.ServerFailed("RST_STREAM"), True),
        (opsin.ServerFailed("x", reason="DETECTOR_FAILED"), False),
        (opsin.InputLost("x", reason="LANE_LOST", never_retry=True), False),
        (opsin.StreamTakenOver("x", reason="STREAM_TAKEN_OVER"), False),
        (opsin.InvalidInput("x"), False),
        (opsin.DeadlineExceeded("x"), False),
        (opsin.Unauthenticated("x"), False),
    ],
)
def test_a_stream_goes_on_only_where_another_connection_may_fare_better(
    error: opsin.OpsinError, goes_on: bool
) -> None:
    assert isinstance(opened(Server()).ended(error, 0.0), Again) is goes_on


def test_waits_grow_obey_the_server_and_end() -> None:
    session = opened(Server(), reconnect=10.0)
    delays, now = [], 0.0
    while isinstance(decision := session.ended(BROKEN, now), Again):
        delays.append(decision.delay)
        now += decision.delay
    assert delays[:4] == [0.0, 0.2, 0.4, 0.8]
    assert now == pytest.approx(10.0)
    told = opsin.Draining("x", retry_after=3.0)
    session = opened(Server())
    session.ended(told, 0.0)
    assert session.ended(told, 0.0) == Again(3.0)


def test_a_server_is_waited_for_no_longer_than_the_stream_may_take() -> None:
    session = opened(Server(), reconnect=60.0, timeout=3.0)
    now, told = 1.0, opsin.Draining("moving house", retry_after=30.0)
    while isinstance(decision := session.ended(told, now), Again):
        now += decision.delay
    assert now == pytest.approx(3.0)
    assert isinstance(decision.error, opsin.DeadlineExceeded)
    assert "3 s: moving house" in str(decision.error)


def test_a_server_may_stay_away_for_days() -> None:
    """A wait of 5 s and a refused connection, for hours and hours."""
    session = opened(Server(), reconnect=1e9)
    delays = [session.ended(BROKEN, 5.0 * count) for count in range(5000)]
    assert delays[-1] == Again(5.0)


def test_without_reconnecting_the_first_break_ends_the_stream_and_no_frame_is_forgotten() -> None:
    server = Server()
    session = opened(server, reconnect=0.0)
    for _ in range(2):
        session.offer(PICTURE, 0.0)
    send_all(session, server)
    assert session.ended(BROKEN, 0.0) == Finish(BROKEN)
    assert [(r.sequence, getattr(r, "reason", None)) for r in session.lose_all()] == [
        (1, "lost"),
        (2, "lost"),
    ]


def test_a_refused_token_is_dropped_and_the_stream_goes_on_without_one() -> None:
    server = Server()
    session = opened(server)
    session.offer(PICTURE, 0.0)
    send_all(session, server)
    session.receive(server.answer("result"))
    session.ended(BROKEN, 0.0)
    assert session.ended(opsin.ResumeTokenInvalid("too old"), 0.0) == Again(0.0)
    assert pb.StreamDetectRequest.FromString(session.opening()).config.resume_token == b""


def test_a_server_that_leaves_with_ok_before_all_is_answered_counts_as_a_break() -> None:
    server = Server()
    session = opened(server, reconnect=0.0)
    session.offer(PICTURE, 0.0)
    send_all(session, server)
    decision = session.ended(None, 0.0)
    assert isinstance(decision, Finish)
    assert isinstance(decision.error, opsin.Unavailable)


def test_a_live_source_drops_the_older_frames_and_says_so() -> None:
    server = Server(1)
    session = opened(server, live=True, freshness="latest")
    for now in range(4):
        session.offer(PICTURE, float(now))
        send_all(session, server)
    replies = session.receive(server.answer("result"))
    assert [(type(r).__name__, r.sequence) for r in replies] == [
        ("FrameResult", 1),
        ("FrameDropped", 2),
        ("FrameDropped", 3),
    ]
    assert all(r.by_client and r.reason == "superseded" for r in replies[1:])  # type: ignore[union-attr]


def test_a_live_source_drops_what_is_too_old_to_be_answered_in_time() -> None:
    server = Server(1)
    session = opened(server, live=True, freshness="max_age=2")
    for now in (0.0, 1.0, 2.0):
        session.offer(PICTURE, now)
        send_all(session, server, now)
    replies = session.receive(server.answer("result"))
    assert numbers(replies) == [1]
    send_all(session, server, 3.5)
    replies = session.local_replies()
    assert [(r.sequence, getattr(r, "reason", None)) for r in replies] == [(2, "too_old")]
    assert server.unanswered == [3]


def test_a_live_source_with_every_frame_waits_and_a_patient_one_is_read_only_a_little_ahead() -> None:
    for live, rule in ((True, "every_frame"), (False, "latest")):
        session = opened(Server(1), live=live, freshness=rule)
        taken = 0
        while session.has_room():
            session.offer(PICTURE, 0.0)
            taken += 1
        assert taken == 2


def test_even_a_live_source_waits_when_too_much_has_no_reply() -> None:
    session = opened(Server(1), live=True, freshness="latest")
    send_all(session, Server())
    while session.has_room():
        session.offer(PICTURE, 0.0)
    assert session.stats(0.0).waiting == 1
    assert MAX_UNANSWERED == 1024


def test_an_update_goes_before_the_next_frame_and_into_the_next_config() -> None:
    server = Server()
    session = opened(server)
    session.offer(PICTURE, 0.0)
    session.update(opsin.DetectOptions(min_score=0.5), opsin.Freshness.of("latest"))
    first = pb.StreamDetectRequest.FromString(session.next_message(0.0) or b"")
    assert first.update.options.min_score == 0.5
    assert first.update.freshness.mode == pb.FreshnessMode.FRESHNESS_MODE_LATEST
    second = pb.StreamDetectRequest.FromString(session.next_message(0.0) or b"")
    assert second.frame.sequence == 1
    session.ended(BROKEN, 0.0)
    assert pb.StreamDetectRequest.FromString(session.opening()).config.options.min_score == 0.5


def test_an_update_says_only_what_changes() -> None:
    """Freshness that is told again begins again: with target_fps the next frame would always be looked at."""
    session = opened(Server(), freshness="target_fps=5")

    def told() -> pb.StreamUpdate:
        message = session.next_message(0.0)
        assert message is not None
        return pb.StreamDetectRequest.FromString(message).update

    session.update(opsin.DetectOptions(), None)
    update = told()
    assert (update.HasField("options"), update.HasField("freshness")) == (True, False)
    session.update(None, opsin.Freshness.of("latest"))
    update = told()
    assert (update.HasField("options"), update.HasField("freshness")) == (False, True)
    session.update(opsin.DetectOptions(min_score=0.5), None)
    session.update(None, opsin.Freshness.of("max_age=2"))
    update = told()
    assert (update.options.min_score, update.freshness.max_age.seconds) == (0.5, 2)
    session.update(None, None)
    assert session.next_message(0.0) is None


def test_a_frame_over_the_message_limit_fails_alone() -> None:
    server = Server()
    session = Session(StreamAsk(), live=False, limit=100, now=0.0)
    session.receive(server.open(session.opening()))
    session.offer(TakenFrame(bytes(200)), 0.0)
    session.offer(PICTURE, 0.0)
    send_all(session, server)
    replies = session.receive(server.answer("result"))
    assert [type(reply).__name__ for reply in replies] == ["FrameFailed", "FrameResult"]
    assert isinstance(replies[0].error, opsin.MessageTooLarge)  # type: ignore[union-attr]


def test_what_the_caller_gets_holds_times_and_what_was_sent() -> None:
    server = Server()
    session = opened(server)
    session.offer(TakenFrame(b"jpeg", capture_time=1700000000.25), 0.0)
    message = pb.StreamDetectRequest.FromString(session.next_message(0.0) or b"")
    assert message.frame.capture_time.ToNanoseconds() == 1700000000_250000000
    answer = pb.FrameResult(sequence=1, capture_time=message.frame.capture_time, reused_from=0)
    answer.age.FromMilliseconds(30)
    (reply,) = session.receive(pb.StreamDetectResponse(result=answer).SerializeToString())
    assert isinstance(reply, opsin.FrameResult)
    assert (reply.age, reply.capture_time, reply.input) == (0.03, 1700000000.25, b"jpeg")
    assert reply.result.source == b"jpeg"
    assert session.stats(0.0).age_p99 == 0.03


@pytest.mark.parametrize("live", [False, True])
def test_lateness_by_the_clock_of_a_file_is_no_age(live: bool) -> None:
    server = Server()
    session = Session(StreamAsk(), live=live, limit=1 << 20, now=0.0)
    session.receive(server.open(session.opening()))
    session.offer(TakenFrame(b"jpeg", capture_time=5.0, by_source=True), 0.0)
    session.offer(TakenFrame(b"jpeg", capture_time=5.0), 0.0)
    send_all(session, server)
    ages = []
    for sequence in (1, 2):
        looked = pb.DetectResponse(timings=pb.Timings(total_us=4000))
        answer = pb.FrameResult(sequence=sequence, response=looked)
        answer.age.FromSeconds(7)
        message = pb.StreamDetectResponse(max_in_flight=4, result=answer)
        (reply,) = session.receive(message.SerializeToString())
        ages.append(reply.age)  # type: ignore[union-attr]
    assert ages == [7.0 if live else 0.004, 7.0]


def test_nonsense_from_the_server_is_its_failure() -> None:
    with pytest.raises(opsin.ServerFailed):
        opened(Server()).receive(b"\xff\xff")
