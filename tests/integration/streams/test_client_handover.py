"""Both clients' streams on real server processes that drain, die, or lose the connection; and freshness.

The promise: every frame that was given to the client is answered, once and in order, whatever becomes of the
server; what moves keeps its number.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import opsin
from integration.client.fake import Threaded
from integration.deploy.processes import Server, opsin_server
from integration.streams.switch import Switch, switch

SLOW = "echo,delay_ms=20,max_batch=1"
FRAMES = 90
GREY = opsin.RawFrame(bytes(64 * 48 * 3), 64, 48)
THERE, HERE = opsin.Box(0, 0, 0.2, 0.2), opsin.Box(0.7, 0.7, 1, 1)

Connect = Callable[[str], Any]
Start = Callable[..., Server]


@pytest.fixture(params=[opsin.Client, Threaded], ids=["Client", "AsyncClient"])
def connect(request: Any) -> Iterator[Connect]:
    """Makes a client of either kind; closed with the test."""
    with ExitStack() as stack:
        yield lambda target: stack.enter_context(request.param(target))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers that read each other's tokens."""
    config = tmp_path / "opsin.toml"
    config.write_text('[streams]\nsecret = "a secret that all servers have, of 32 characters"\n')
    with ExitStack() as stack:
        logs = iter(tmp_path / f"server{number}.log" for number in range(9))

        def begin(model: str = SLOW, *arguments: str) -> Server:
            told = ("--config", str(config), "--model", model, "--lanes", "1", *arguments)
            return stack.enter_context(opsin_server(next(logs), *told))

        yield begin


@pytest.fixture
def two(start: Start) -> Iterator[tuple[Server, Server, Switch]]:
    """Two servers, and the address at which the first one is found."""
    first, second = (start(SLOW, "--drain-delay", "0.2", "--drain-grace", "5") for _ in range(2))
    with switch(first.port) as proxy:
        yield first, second, proxy


def film() -> Iterator[opsin.Frame]:
    """One thing is seen for five frames, and then another one, number 2: a tracker that began anew says 1."""
    for at in range(FRAMES):
        yield opsin.Frame(GREY, options=opsin.DetectOptions(regions=(THERE if at < 5 else HERE,)))


def follow(
    session: Any, at: int, do: Callable[[], Any], replies: list[opsin.FrameReply] | None = None
) -> list[opsin.FrameReply]:
    """All replies, which are added to `replies`; `do` once frame `at` has its reply."""
    replies = [] if replies is None else replies
    for reply in session:
        replies.append(reply)
        if reply.sequence == at:
            do()
    return replies


def all_answered(replies: list[opsin.FrameReply]) -> None:
    """Each frame exactly once, in order, and what moves from server to server under one number all along."""
    assert [reply.sequence for reply in replies] == list(range(1, FRAMES + 1))
    assert [reply for reply in replies if not isinstance(reply, opsin.FrameResult)] == []
    assert [found.track_id for found in replies[0].result.detections] == [1]  # type: ignore[union-attr]
    after = [reply.result.detections[0].track_id for reply in replies[10:]]  # type: ignore[union-attr]
    assert set(after) == {2}


def test_a_stream_leaves_a_draining_server_and_goes_on_at_another(
    two: tuple[Server, Server, Switch], connect: Connect
) -> None:
    first, second, proxy = two

    def drain() -> None:
        proxy.turn_to(second.port)
        first.process.send_signal(signal.SIGTERM)

    session = connect(proxy.target).stream(film(), track=True)
    all_answered(follow(session, 20, drain))
    assert first.process.wait(10) == 0
    assert (session.stats.reconnects, session.stats.sent) == (1, FRAMES)


@pytest.mark.slow
def test_a_stream_waits_for_a_proxy_that_still_sends_it_to_the_server_that_left(
    two: tuple[Server, Server, Switch], connect: Connect
) -> None:
    first, second, proxy = two

    def drain() -> None:
        first.process.send_signal(signal.SIGTERM)
        turn = threading.Thread(target=lambda: (first.process.wait(10), proxy.turn_to(second.port)))
        turn.start()

    session = connect(proxy.target).stream(film(), track=True)
    all_answered(follow(session, 20, drain))
    assert first.process.returncode == 0
    assert session.stats.reconnects == 1


def test_a_stream_survives_the_death_of_its_server(
    two: tuple[Server, Server, Switch], connect: Connect
) -> None:
    first, second, proxy = two

    def kill() -> None:
        proxy.turn_to(second.port)
        first.kill()

    session = connect(proxy.target).stream(film(), track=True, stream_id="door")
    all_answered(follow(session, 70, kill))  # by then the token it began with has been refreshed
    assert session.stream_id == "door"
    assert (session.stats.reconnects, session.stats.sent) == (1, FRAMES)


@pytest.mark.slow
def test_live_video_survives_the_death_of_its_server(
    two: tuple[Server, Server, Switch], connect: Connect
) -> None:
    first, second, proxy = two

    def kill() -> None:
        proxy.turn_to(second.port)
        first.kill()

    session = connect(proxy.target).stream([GREY] * 100, freshness="latest", rate=50, track=True)
    replies = follow(session, 40, kill)
    assert [reply.sequence for reply in replies] == list(range(1, 101))
    answered = [reply for reply in replies if isinstance(reply, opsin.FrameResult)]
    assert len([reply for reply in answered if reply.sequence > 50]) > 10
    assert {reply.result.detections[0].track_id for reply in answered} == {1}
    assert session.stats.reconnects == 1


def test_a_stream_takes_itself_over_when_only_its_connection_broke(start: Start, connect: Connect) -> None:
    server = start()
    with switch(server.port) as proxy:
        session = connect(proxy.target).stream(film(), track=True, stream_id="door")
        replies = []
        for reply in session:
            replies.append(reply)
            if reply.sequence in (20, 50, 70):
                proxy.cut()
        all_answered(replies)
    assert session.stats.reconnects == 3
    assert server.process.poll() is None


@pytest.mark.slow
def test_a_frozen_server_s_frames_are_answered_by_the_other_when_the_proxy_cuts(
    two: tuple[Server, Server, Switch], connect: Connect
) -> None:
    first, second, proxy = two

    def freeze() -> None:
        os.kill(first.process.pid, signal.SIGSTOP)
        proxy.turn_to(second.port)
        proxy.cut()

    try:
        session = connect(proxy.target).stream(film(), track=True)
        all_answered(follow(session, 30, freeze))
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
    assert session.stats.reconnects == 1


def test_a_stream_ends_with_every_frame_told_of_when_no_server_is_left(
    start: Start, connect: Connect
) -> None:
    server = start()
    session = connect(f"127.0.0.1:{server.port}").stream([GREY] * FRAMES, reconnect=0.5)
    replies: list[opsin.FrameReply] = []
    with pytest.raises((opsin.Unavailable, opsin.Unreachable)):
        follow(session, 20, server.kill, replies)
    assert [reply.sequence for reply in replies] == list(range(1, len(replies) + 1))
    lost = [reply for reply in replies if isinstance(reply, opsin.FrameDropped)]
    assert 1 <= len(lost) <= 12
    assert {reply.reason for reply in lost} == {opsin.DropReason.LOST}
    assert lost == replies[-len(lost) :], "what was answered was answered before"


@pytest.fixture(scope="module")
def twenty_a_second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose model looks at 20 frames a second."""
    log = tmp_path_factory.mktemp("server") / "log"
    with opsin_server(log, "--model", "echo,delay_ms=50,max_batch=1", "--lanes", "1") as server:
        yield f"127.0.0.1:{server.port}"


def watch(session: Any) -> tuple[list[Any], opsin.StreamStats]:
    """200 frames of a camera."""
    replies = list(session)
    assert [reply.sequence for reply in replies] == list(range(1, 201)), "one reply each, in order"
    return replies, session.stats


def test_latest_answers_as_many_as_it_can_and_none_late(twenty_a_second: str, connect: Connect) -> None:
    replies, stats = watch(connect(twenty_a_second).stream([GREY] * 200, freshness="latest", rate=100))
    assert 25 <= stats.answered <= 45, "2 s of 20 frames a second"
    assert set(stats.dropped) == {opsin.DropReason.SUPERSEDED}
    assert isinstance(replies[-1], opsin.FrameResult), "nothing newer than the last frame"
    assert stats.age_p50 < 0.2
    assert stats.waiting == stats.in_flight == 0


def test_max_age_answers_none_that_had_to_wait_longer(twenty_a_second: str, connect: Connect) -> None:
    _, stats = watch(connect(twenty_a_second).stream([GREY] * 200, freshness="max_age=0.2", rate=100))
    assert 20 <= stats.answered <= 45
    assert set(stats.dropped) == {opsin.DropReason.TOO_OLD}
    assert stats.age_p50 < 0.2 + 2 * 0.05, "no older than that when its turn came, and its own look"


def test_target_fps_answers_so_many_a_second(twenty_a_second: str, connect: Connect) -> None:
    replies, stats = watch(connect(twenty_a_second).stream([GREY] * 200, freshness="target_fps=10", rate=100))
    assert 18 <= stats.answered <= 22, "2 s of 10 frames a second"
    assert stats.dropped.get(opsin.DropReason.RATE, 0) >= 175
    assert isinstance(replies[0], opsin.FrameResult)


def test_a_changed_rule_holds_from_then_on(twenty_a_second: str, connect: Connect) -> None:
    session = connect(twenty_a_second).stream([GREY] * 60, freshness="latest", rate=100)
    replies = follow(session, 10, lambda: session.update(freshness="every_frame"))
    assert [reply.sequence for reply in replies] == list(range(1, 61))
    kinds = [type(reply) for reply in replies]
    assert opsin.FrameDropped in kinds[:20]
    assert set(kinds[30:]) == {opsin.FrameResult}
