"""The stream's rules one by one, told as small stories."""

from itertools import pairwise

import pytest

from opsin_server.errors import Failure, Reason
from opsin_server.streams import events as ev
from opsin_server.streams.freshness import Freshness, FreshnessMode
from opsin_server.streams.session import SessionLimits, StreamSession
from unit.streams.stream_world import BAD_FRAME, EVERY, LATEST, World

AGED = Freshness(FreshnessMode.MAX_AGE, max_age=0.5)


TURNS = SessionLimits(turns=True)


def run(world: World, sequence: int) -> None:
    """Bring a submitted frame onto the device."""
    world.ready(sequence)
    world.start(sequence)


def ending(world: World) -> Reason | None:
    assert world.end is not None
    return world.end.failure.reason if world.end.failure else None


# Opening.


def test_ready_comes_first_and_names_the_window() -> None:
    (action,) = StreamSession().receive(ev.ConfigReceived(EVERY), 0.0)
    assert action == ev.SendReady(next_sequence=0, max_in_flight=8)


def test_a_window_of_one_is_told_as_two_to_a_stream_that_drops() -> None:
    (action,) = StreamSession(SessionLimits(1)).receive(ev.ConfigReceived(LATEST), 0.0)
    assert action == ev.SendReady(next_sequence=0, max_in_flight=2)


def test_a_resumed_stream_goes_on_where_it_was_told_to_and_not_before() -> None:
    session = StreamSession()
    assert session.receive(ev.ConfigReceived(EVERY, next_sequence=8), 0.0) == [ev.SendReady(8, 8)]
    *_, end = session.receive(ev.FrameArrived(7), 0.0)
    assert isinstance(end, ev.End)
    assert end.failure is not None
    assert end.failure.reason is Reason.SEQUENCE_NOT_INCREASING


@pytest.mark.parametrize("event", [ev.FrameArrived(1), ev.UpdateReceived(), ev.ClientClosed()])
def test_a_stream_that_does_not_begin_with_its_config_ends(event: ev.Event) -> None:
    world = World(open_it=False)
    world.tell(event)
    assert ending(world) is Reason.STREAM_PROTOCOL


# EVERY_FRAME.


def test_every_frame_stops_reading_at_the_window_and_reads_on_when_a_reply_is_taken() -> None:
    world = World(EVERY, SessionLimits(3))
    for _ in range(3):
        world.send()
    assert not world.reading
    run(world, 1)
    world.answer(1)
    assert not world.reading, "the reply is still here"
    world.take()
    assert world.reading


def test_frames_that_finish_early_wait_for_their_turn() -> None:
    world = World()
    for _ in range(3):
        world.send()
    for sequence in (1, 2, 3):
        run(world, sequence)
    world.answer(3)
    world.answer(2)
    assert not world.sends
    world.wait(0.25)
    world.answer(1)
    assert [s.sequence for s in world.sends] == [1, 2, 3]
    assert [s.order for s in world.sends] == pytest.approx([0, 0.25, 0.25])


def test_every_frame_tries_again_where_there_was_no_room() -> None:
    world = World()
    world.send()
    world.refuse(1, retry_after=0.2)
    assert not world.preparing
    world.wait(0.19)
    assert not world.preparing
    world.wait(0.02)
    assert world.preparing == [1]


def test_every_frame_is_answered_when_the_stream_turns_to_latest_behind_it() -> None:
    world = World()
    for _ in range(3):
        world.send()
    world.update(LATEST)
    for _ in range(3):
        world.send()
    world.run_dry()
    assert world.outcomes()[:3] == ["result"] * 3


def test_a_lowered_window_holds_for_what_comes_next_and_is_told_with_the_next_reply() -> None:
    world = World(EVERY, SessionLimits(8))
    for _ in range(4):
        world.send()
    world.load(2)
    assert not world.reading
    run(world, 1)
    world.answer(1)
    assert world.sends[0].max_in_flight == 2
    world.take()
    assert not world.reading
    run(world, 2)
    world.answer(2)
    world.take()
    run(world, 3)
    world.answer(3)
    world.take()
    assert world.reading


# LATEST.


def test_latest_runs_the_first_and_the_newest_of_a_burst() -> None:
    world = World(LATEST)
    world.send()
    run(world, 1)
    for _ in range(9):
        world.send()
    while world.preparing:
        world.ready(world.preparing[0])
    assert world.queued == [10]
    world.run_dry()
    assert world.outcomes() == ["result", *["SUPERSEDED"] * 8, "result"]


def test_latest_takes_back_a_frame_that_waits_for_the_device_when_a_newer_one_is_ready() -> None:
    world = World(LATEST)
    world.send()
    run(world, 1)
    world.send()
    world.ready(2)
    world.send()
    assert world.queued == [2], "until the newer one is ready, the older keeps the place"
    world.ready(3)
    assert world.queued == [3]


def test_a_source_faster_than_the_decoder_still_gets_answers() -> None:
    world = World(LATEST)
    for _ in range(100):
        world.send()
        world.send()
        world.send()
        for sequence in list(world.preparing):
            world.ready(sequence)
        for sequence in list(world.queued):
            world.start(sequence)
        for sequence in list(world.running):
            world.answer(sequence)
        world.take(len(world.outbox))
    assert world.outcomes().count("result") >= 99


def test_latest_never_takes_back_what_is_on_the_device() -> None:
    world = World(LATEST)
    world.send()
    run(world, 1)
    for _ in range(5):
        world.send()
        world.ready(world.preparing[0])
    assert world.running == [1]


def test_a_dropped_frame_waits_for_the_slow_one_before_it() -> None:
    world = World(LATEST)
    for _ in range(3):
        world.send()
    assert not world.sends
    world.run_dry()
    assert world.outcomes() == ["result", "SUPERSEDED", "result"]


def test_latest_reads_on_while_the_device_stalls_until_too_many_replies_are_owed() -> None:
    world = World(LATEST)
    world.send()
    run(world, 1)
    while world.reading:
        world.send()
    assert len(world.accepted) == 1024
    assert len(world.session._frames.live) <= 4, "what is superseded is let go"


def test_a_client_that_does_not_read_is_given_no_device_time() -> None:
    world = World(LATEST, SessionLimits(2))
    for _ in range(50):
        world.send()
        for sequence in list(world.preparing):
            run(world, sequence)
            world.answer(sequence)
    assert world.outcomes().count("result") <= 2
    world.run_dry()
    assert world.outcomes()[-1] == "result", "and goes on where it is when it reads again"


def test_while_a_frame_waits_for_its_turn_the_newest_takes_its_place_undecoded() -> None:
    world = World(LATEST, TURNS)
    for _ in range(3):
        world.send()
    assert world.asked
    assert not world.preparing
    world.give_turn()
    assert world.preparing == [3]
    world.run_dry()
    assert world.outcomes() == ["SUPERSEDED", "SUPERSEDED", "result"]


def test_each_frame_of_latest_takes_a_turn_of_its_own_until_it_starts() -> None:
    world = World(LATEST, TURNS)
    world.send()
    world.give_turn()
    world.ready(1)
    world.send()
    assert (world.turns, world.asked, world.preparing) == (1, True, [])
    world.start(1)
    assert (world.turns, world.asked) == (0, True)
    world.give_turn()
    assert world.preparing == [2]


def test_a_turn_that_comes_when_replies_pile_up_goes_back_and_is_asked_for_again() -> None:
    world = World(LATEST, SessionLimits(2, turns=True))
    for sequence in (1, 2):
        world.send()
        world.give_turn()
        run(world, sequence)
        world.answer(sequence)
    world.take()
    world.send()
    assert world.asked
    world.load(1)
    world.update(AGED)
    world.send()
    world.give_turn()
    world.run_dry()
    assert world.outcomes() == ["result"] * 4


def test_other_modes_take_no_turns() -> None:
    for freshness in (EVERY, AGED, Freshness(FreshnessMode.TARGET_FPS, target_fps=10)):
        world = World(freshness, TURNS)
        world.send()
        assert world.preparing == [1]
        assert not world.asked


# MAX_AGE.


def test_max_age_drops_what_waited_too_long_without_waiting_for_the_device() -> None:
    world = World(AGED)
    world.send()
    run(world, 1)
    world.send()
    world.ready(2)
    world.wait(0.6)
    world.answer(1)
    assert world.outcomes() == ["result", "TOO_OLD"]


def test_max_age_is_judged_once_more_when_the_frame_would_be_run() -> None:
    world = World(AGED)
    world.send()
    world.ready(1)
    world.now += 0.51  # the timer is late
    world.start(1)
    assert not world.running
    assert world.outcomes() == ["TOO_OLD"]


def test_a_frame_on_the_device_may_grow_older_than_max_age() -> None:
    world = World(AGED)
    world.send()
    run(world, 1)
    world.wait(2.0)
    world.answer(1)
    assert world.outcomes() == ["result"]


def test_a_frame_that_travelled_longer_is_older() -> None:
    world = World(AGED)
    world.send(captured=0)
    world.run_dry()
    world.wait(1.0)
    world.send(captured=600_000_000)  # 0.4 s longer on the way than the first
    run(world, 2)
    world.wait(0.05)
    world.answer(2)
    assert world.sends[1].age == pytest.approx(0.45)
    world.send(captured=0)
    assert world.outcomes()[2] == "TOO_OLD", "and may be too old when it arrives"


def test_beyond_the_window_the_oldest_that_waits_is_superseded() -> None:
    world = World(AGED, SessionLimits(3))
    world.send()
    run(world, 1)
    for sequence in (2, 3):
        world.send()
        world.ready(sequence)
    world.send()
    world.answer(1)
    assert world.outcomes() == ["result", "SUPERSEDED"]
    assert world.queued == [3]


def test_what_was_sent_by_the_window_before_it_was_lowered_is_not_superseded() -> None:
    world = World(AGED, SessionLimits(4))
    for _ in range(4):
        world.send()
    run(world, 1)
    world.answer(1)
    world.load(2)
    world.send()  # by reply 1, which spoke of a window of 4
    assert world.outcomes() == ["result"]
    run(world, 2)
    world.answer(2)
    assert world.sends[1].max_in_flight == 2
    world.ready(3)
    world.send()  # by a client that does not listen: one place is gone
    run(world, 4)
    world.answer(4)
    assert world.outcomes() == ["result", "result", "SUPERSEDED", "result"]


# TARGET_FPS.


def test_target_fps_keeps_the_first_and_then_an_even_rate_by_capture_time() -> None:
    world = World(Freshness(FreshnessMode.TARGET_FPS, target_fps=10))
    for number in range(31):
        world.send(captured=number * 1_000_000_000 // 30)
        world.run_dry()
    kept = [i for i, word in enumerate(world.outcomes()) if word == "result"]
    assert kept == list(range(0, 31, 3))
    assert set(world.outcomes()) == {"result", "RATE"}


# Packets.


def test_packets_go_through_the_decoder_one_at_a_time_and_all_of_them() -> None:
    world = World(Freshness(FreshnessMode.TARGET_FPS, target_fps=1))
    for number in range(5):
        world.send(chained=True, captured=number, bad=number == 2)
    kept = [
        action.keep for action in world.session.receive(ev.Tick(), world.now) if isinstance(action, ev.Decode)
    ]
    assert kept == []
    assert world.decoding == 1
    for sequence in range(1, 6):
        assert world.decode() == sequence
    world.run_dry()
    assert world.outcomes() == ["result", "RATE", "failed", "RATE", "RATE"]


def test_a_frame_that_is_settled_is_decoded_without_its_picture() -> None:
    session = StreamSession()
    session.receive(ev.ConfigReceived(EVERY), 0.0)
    actions = session.receive(ev.FrameArrived(1, chained=True, failure=BAD_FRAME), 0.0)
    assert ev.Decode(1, keep=False) in actions


def test_parameter_sets_alone_take_nobodys_place() -> None:
    world = World(LATEST)
    world.send()
    run(world, 1)
    world.send(chained=True)
    world.decode()
    world.send(chained=True)
    world.decode(picture=False)
    world.run_dry()
    assert world.outcomes() == ["result", "result", "NO_PICTURE"]


def test_a_decoder_that_falls_behind_stops_the_reading_in_every_mode() -> None:
    world = World(LATEST, SessionLimits(4))
    while world.reading:
        world.send(chained=True)
    assert len(world.accepted) == 4
    world.decode()
    assert world.reading


def test_garbage_fails_its_frame_and_asks_for_a_key_frame() -> None:
    world = World()
    world.send(chained=True)
    world.fail_decode()
    assert world.sends[0].outcome == ev.Failed(BAD_FRAME, key_frame_wanted=True)
    world.send(chained=True)
    world.run_dry()
    assert world.outcomes() == ["failed", "result"]


def test_bytes_not_yet_decoded_are_bounded() -> None:
    world = World(LATEST, SessionLimits(most_bytes=100))
    world.send(size=60)
    world.send(size=60)
    assert not world.reading
    run(world, 1)
    world.answer(1)
    assert world.reading


# Other outcomes.


def test_no_room_drops_a_frame_that_may_be_dropped() -> None:
    world = World(LATEST)
    world.send()
    world.refuse(1)
    assert world.outcomes() == ["OVERLOAD"]


def test_a_reused_answer_says_whose_it_is() -> None:
    world = World()
    world.send()
    world.run_dry()
    world.send()
    world.preparing.remove(2)
    world.tells(2)
    outcome = world.sends[0].outcome
    assert isinstance(outcome, ev.Result)
    world.tell(ev.FrameReused(2, 1, outcome.answer))
    assert world.sends[1].outcome == ev.Result(outcome.answer, reused_from=1)


def test_a_token_is_refreshed_at_least_every_second_and_with_the_last_reply() -> None:
    world = World()
    for _ in range(30):
        world.wait(0.1)
        world.send()
        world.run_dry()
    told = [i for i, send in enumerate(world.sends) if send.refresh]
    assert max(b - a for a, b in pairwise(told)) <= 10
    assert len(told) <= 6
    world.send()
    world.tell(ev.ClientClosed())
    world.run_dry()
    assert world.sends[-1].refresh


# The end.


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (ev.ClientClosed(), None),
        (ev.ClientErred(Failure(Reason.STREAM_PROTOCOL, "empty")), Reason.STREAM_PROTOCOL),
        (ev.ConfigReceived(EVERY), Reason.STREAM_PROTOCOL),
        (
            ev.UpdateReceived(failure=Failure(Reason.OPTION_INVALID, "no", "options.min_score")),
            Reason.STREAM_PROTOCOL,
        ),
        (ev.FrameArrived(3), Reason.SEQUENCE_NOT_INCREASING),
        (ev.FrameArrived(0), Reason.SEQUENCE_NOT_INCREASING),
    ],
)
def test_what_was_accepted_is_answered_before_the_end(event: ev.Event, reason: Reason | None) -> None:
    world = World()
    for _ in range(3):
        world.send()
    world.tell(event)
    assert not world.reading
    assert world.end is None
    world.tell(ev.FrameArrived(9))
    world.run_dry()
    assert world.outcomes() == ["result"] * 3
    assert ending(world) is reason


def test_an_updates_fault_is_told_with_its_path() -> None:
    world = World()
    world.tell(ev.UpdateReceived(failure=Failure(Reason.OPTION_INVALID, "no", "options.min_score")))
    assert world.end is not None
    assert world.end.failure is not None
    assert world.end.failure.field == "update.options.min_score"


def test_a_go_away_answers_what_was_accepted_and_names_the_last() -> None:
    world = World(LATEST)
    for _ in range(3):
        world.send(gap=10)
    world.tell(ev.GoAwayRequested(ev.GoAwayReason.DRAINING))
    world.tell(ev.FrameArrived(31))
    world.run_dry()
    assert len(world.sends) == 3
    assert world.go_away == ev.SendGoAway(ev.GoAwayReason.DRAINING, last_sequence=30)
    assert ending(world) is None


def test_a_go_away_on_a_resumed_stream_without_frames_hands_the_sequence_on() -> None:
    session = StreamSession()
    session.receive(ev.ConfigReceived(EVERY, next_sequence=41), 0.0)
    actions = session.receive(ev.GoAwayRequested(ev.GoAwayReason.MAX_STREAM_AGE), 1.0)
    assert actions == [ev.SendGoAway(ev.GoAwayReason.MAX_STREAM_AGE, 40), ev.End()]


def test_a_go_away_before_the_config_is_a_refusal() -> None:
    world = World(open_it=False)
    world.tell(ev.GoAwayRequested(ev.GoAwayReason.DRAINING))
    assert ending(world) is Reason.DRAINING


def test_a_fatal_frame_is_answered_and_then_ends_the_stream() -> None:
    world = World()
    world.send()
    world.send()
    world.fail(1, fatal=True)
    assert world.end is None
    world.run_dry()
    assert world.outcomes() == ["failed", "result"]
    assert ending(world) is Reason.IMAGE_UNDECODABLE


@pytest.mark.parametrize("event", [ev.TakenOver(), ev.ConnectionLost()])
def test_nobody_left_to_read_ends_at_once_and_takes_all_work_back(event: ev.Event) -> None:
    world = World(LATEST)
    world.send()
    run(world, 1)
    world.send()
    world.send()
    world.tell(event)
    assert world.end is not None
    assert world.end.at_once
    assert not world.preparing + world.queued + world.running
    assert ending(world) is (Reason.STREAM_TAKEN_OVER if event == ev.TakenOver() else None)


def test_nothing_follows_the_end() -> None:
    world = World()
    world.send()
    world.tell(ev.ConnectionLost())
    for event in (ev.FrameAnswered(1, None), ev.Tick(), ev.ReplySent(), ev.FrameArrived(2)):  # type: ignore[arg-type]
        assert world.session.receive(event, 1.0) == []
