"""Packets in a stream's state machine: whatever happens, the server can decode what it is sent."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import opsin
from opsin import v1 as pb
from opsin._options import StreamAsk
from opsin._session import Again, Session, TakenFrame

KEY, DELTA = (
    TakenFrame(opsin.Packet(data, key_frame=key)) for data, key in ((b"key", True), (b"delta", False))
)
BROKEN = opsin.Unreachable("the connection broke")


@dataclass
class Decoder:
    """A server that answers in order, and holds each packet against those before it."""

    window: int = 4
    last: int = 0
    """The packet that the next one may refer to; 0 while a key frame is needed."""
    unanswered: list[tuple[int, bool]] = field(default_factory=list)
    undecodable: int = 0
    broken: bool = False

    def open(self, opening: bytes) -> bytes:
        config = pb.StreamDetectRequest.FromString(opening).config
        assert config.codec == pb.Codec.CODEC_H264
        self.unanswered, self.last = [], 0
        return self._say(ready=pb.StreamReady(stream_id="s"))

    def take(self, data: bytes) -> None:
        frame = pb.StreamDetectRequest.FromString(data).frame
        if frame.packet == b"key":
            self.broken = False
        elif frame.sequence != self.last + 1 or not self.last:
            self.undecodable += not self.broken
            self.broken = True
        self.last = frame.sequence
        self.unanswered.append((frame.sequence, not self.broken))

    def lose(self) -> None:
        """Something is wrong with its decoder."""
        self.broken = True

    def answer(self) -> bytes:
        sequence, good = self.unanswered.pop(0)
        if good:
            return self._say(result=pb.FrameResult(sequence=sequence))
        return self._say(failed=pb.FrameFailed(sequence=sequence, key_frame_wanted=True))

    def _say(self, **kind: Any) -> bytes:
        return pb.StreamDetectResponse(max_in_flight=self.window, **kind).SerializeToString()


def opened(server: Decoder, *, live: bool = False, **ask: Any) -> Session:
    session = Session(StreamAsk.of(codec="h264", **ask), live=live, limit=1 << 20, now=0.0)
    session.receive(server.open(session.opening()))
    return session


def send_all(session: Session, server: Decoder) -> None:
    while (message := session.next_message(0.0)) is not None:
        server.take(message)


def words(replies: list[Any]) -> list[str]:
    return [f"{r.sequence} {getattr(r, 'reason', type(r).__name__)}" for r in replies]


@settings(max_examples=400)
@given(
    actions=st.lists(
        st.sampled_from(["key", "delta", "delta", "delta", "send", "send", "answer", "break", "too_large"]),
        max_size=100,
    ),
    live=st.booleans(),
    rule=st.sampled_from(["every_frame", "latest", "max_age=3", "target_fps=5"]),
)
def test_a_server_is_sent_only_what_it_can_decode_and_every_packet_has_its_reply(
    actions: list[str], live: bool, rule: str
) -> None:
    server = Decoder()
    session = opened(server, live=live, freshness=rule, reconnect=1e9)
    offered, replies = 0, list[Any]()
    for now, action in enumerate(actions):
        match action:
            case "key" | "delta" | "too_large" if session.has_room():
                large = TakenFrame(opsin.Packet(b"x" * (2 << 20)))
                session.offer({"key": KEY, "delta": DELTA, "too_large": large}[action], float(now))
                offered += 1
            case "send" if (message := session.next_message(float(now))) is not None:
                server.take(message)
            case "answer" if server.unanswered:
                replies += session.receive(server.answer())
            case "break":
                replies += session.local_replies()
                assert isinstance(session.ended(BROKEN, float(now)), Again)
                replies += session.receive(server.open(session.opening()))
    session.end_source()
    while not session.all_sent or server.unanswered:
        send_all(session, server)
        if server.unanswered:
            replies += session.receive(server.answer())
    replies += session.local_replies()
    assert server.undecodable == 0
    assert [reply.sequence for reply in replies] == list(range(1, offered + 1))


def test_when_the_server_wants_a_key_frame_what_waits_is_passed_over_up_to_the_next() -> None:
    server = Decoder(window=2)
    session = opened(server, live=True)
    for frame in (KEY, DELTA, DELTA, DELTA, KEY, DELTA):
        session.offer(frame, 0.0)
    send_all(session, server)
    server.unanswered[1] = (2, False)
    server.lose()
    replies = session.receive(server.answer()) + session.receive(server.answer())
    assert words(replies) == ["1 FrameResult", "2 FrameFailed", "3 skipped", "4 skipped"]
    send_all(session, server)
    assert [sequence for sequence, _ in server.unanswered] == [5, 6]


def test_nothing_is_passed_over_when_a_key_frame_is_on_its_way_already() -> None:
    server = Decoder(window=3)
    session = opened(server, live=True)
    for frame in (KEY, DELTA, KEY, DELTA):
        session.offer(frame, 0.0)
    send_all(session, server)
    server.unanswered[1] = (2, False)
    replies = session.receive(server.answer()) + session.receive(server.answer())
    send_all(session, server)
    replies += session.receive(server.answer()) + session.receive(server.answer())
    assert words(replies) == ["1 FrameResult", "2 FrameFailed", "3 FrameResult", "4 FrameResult"]


def test_latest_drops_waiting_packets_only_for_a_newer_key_frame() -> None:
    server = Decoder(window=1)
    session = opened(server, live=True, freshness="latest")
    for frame in (KEY, DELTA, DELTA):
        session.offer(frame, 0.0)
        send_all(session, server)
    assert session.receive(server.answer())[0].sequence == 1
    assert session.local_replies() == []
    session.offer(KEY, 1.0)
    assert words(session.local_replies()) == ["2 superseded", "3 superseded"]


def test_a_source_that_begins_in_the_middle_is_sent_from_its_first_key_frame_on() -> None:
    server = Decoder()
    session = opened(server)
    for frame in (DELTA, KEY, DELTA):
        session.offer(frame, 0.0)
    assert words(session.local_replies()) == ["1 skipped"]
    send_all(session, server)
    assert [sequence for sequence, _ in server.unanswered] == [2, 3]


def test_a_packet_in_a_stream_of_pictures_fails_with_what_to_do() -> None:
    session = Session(StreamAsk(), live=False, limit=1000, now=0.0)
    session.offer(KEY, 0.0)
    (reply,) = session.local_replies()
    assert isinstance(reply, opsin.FrameFailed)
    assert "codec='h264'" in str(reply.error)
