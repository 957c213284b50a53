"""Whatever the client, the device and the network do, in whatever order, no rule of a stream is broken.

The checks are in `World`, which plays both sides; this picks what happens next, at random.
"""

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from opsin_server.errors import Failure, Reason
from opsin_server.streams import events as ev
from opsin_server.streams.freshness import Freshness, FreshnessMode
from opsin_server.streams.session import SessionLimits
from unit.streams.stream_world import World

FRESHNESS = st.sampled_from(
    [
        Freshness(),
        Freshness(FreshnessMode.LATEST),
        Freshness(FreshnessMode.MAX_AGE, max_age=0.2),
        Freshness(FreshnessMode.TARGET_FPS, target_fps=10),
    ]
)


def pick(data: st.DataObject, stage: list[int]) -> int:
    return data.draw(st.sampled_from(sorted(stage)))


class Stream(RuleBasedStateMachine):
    world: World
    ending = False

    @initialize(freshness=FRESHNESS, window=st.integers(1, 4), most=st.integers(5, 12), turns=st.booleans())
    def opens(self, freshness: Freshness, window: int, most: int, turns: bool) -> None:
        self.world = World(freshness, SessionLimits(window, most, most_bytes=40, turns=turns))

    # The client. It keeps to what the server reads, as the transport makes it.

    @precondition(lambda self: self.world.reading)
    @rule(
        gap=st.integers(1, 3),
        captured=st.none() | st.integers(0, 10**9),
        chained=st.booleans(),
        bad=st.sampled_from([False, False, False, True]),
        size=st.integers(0, 15),
    )
    def sends_a_frame(self, gap: int, captured: int | None, chained: bool, bad: bool, size: int) -> None:
        self.world.send(gap=gap, captured=captured, chained=chained, bad=bad, size=size)

    @precondition(lambda self: self.world.reading)
    @rule(freshness=FRESHNESS)
    def changes_its_mind(self, freshness: Freshness) -> None:
        self.world.update(freshness)

    @precondition(lambda self: self.world.outbox)
    @rule(data=st.data())
    def takes_replies(self, data: st.DataObject) -> None:
        self.world.take(data.draw(st.integers(1, len(self.world.outbox))))

    # The server.

    @precondition(lambda self: self.world.asked and self.world.end is None)
    @rule()
    def gives_a_turn(self) -> None:
        self.world.give_turn()

    @precondition(lambda self: self.world.decoding is not None)
    @rule(picture=st.sampled_from([True, True, False]))
    def decodes(self, picture: bool) -> None:
        self.world.decode(picture=picture)

    @precondition(lambda self: self.world.decoding is not None)
    @rule()
    def finds_garbage(self) -> None:
        self.world.fail_decode()

    @precondition(lambda self: self.world.preparing)
    @rule(data=st.data())
    def prepares(self, data: st.DataObject) -> None:
        self.world.ready(pick(data, self.world.preparing))

    @precondition(lambda self: self.world.preparing)
    @rule(data=st.data())
    def has_no_room(self, data: st.DataObject) -> None:
        self.world.refuse(pick(data, self.world.preparing))

    @precondition(lambda self: self.world.queued)
    @rule(data=st.data())
    def starts(self, data: st.DataObject) -> None:
        self.world.start(pick(data, self.world.queued))

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def answers(self, data: st.DataObject) -> None:
        self.world.answer(pick(data, self.world.running))

    @precondition(lambda self: self.world.preparing or self.world.queued or self.world.running)
    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        world = self.world
        world.fail(pick(data, world.preparing + world.queued + world.running))

    @rule(window=st.integers(1, 4))
    def changes_the_window(self, window: int) -> None:
        self.world.load(window)

    @rule(seconds=st.floats(0.001, 0.3))
    def waits(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(data=st.data())
    def hears_of_frames_long_gone(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from([s.sequence for s in self.world.sends] or [10**9]))
        for event in (ev.FrameReady, ev.FrameStarted, ev.FrameDecoded, ev.FrameRefused):
            if event is ev.FrameDecoded and sequence == self.world.decoding:
                continue  # long answered, and not long gone
            assert not self.world.session.receive(event(sequence), self.world.now)

    @rule()
    def comes_to_rest(self) -> None:
        self.world.run_dry()

    # The end. Rare, as little happens afterwards.

    @precondition(lambda self: len(self.world.accepted) > 3)
    @rule(
        event=st.sampled_from(
            [
                ev.ClientClosed(),
                ev.ClientErred(Failure(Reason.STREAM_PROTOCOL, "empty")),
                ev.GoAwayRequested(ev.GoAwayReason.DRAINING),
                ev.ConfigReceived(Freshness()),
            ]
        )
    )
    def begins_to_end(self, event: ev.Event) -> None:
        self.ending = True
        self.world.tell(event)

    @invariant()
    def is_sane(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.tell(ev.GoAwayRequested(ev.GoAwayReason.MAX_STREAM_AGE))
        world.run_dry()
        assert world.end is not None, "a stream that is asked to end does"
        assert [s.sequence for s in world.sends] == world.accepted
        if world.go_away is not None:
            assert world.go_away.last_sequence == (world.accepted[-1] if world.accepted else 0)
        else:
            assert self.ending, "only a stream that was ending already goes without a go-away"


TestStream = Stream.TestCase
TestStream.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
