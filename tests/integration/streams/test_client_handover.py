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
from statistics import median
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
    """One thing is seen for five frames, and then another one, number 2: a tracker that began anew says 1.

    By its clock all of it takes a second, so nothing is forgotten while a loaded machine moves the stream.
    """
    for at in range(FRAMES):
        options = opsin.DetectOptions(regions=(THERE if at < 5 else HERE,))
        yield opsin.Frame(GREY, capture_time=1e9 + at / 100, options=options)


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
    assert first.process.wait(60) == 0
    assert (session.stats.reconnects, session.stats.sent) == (1, FRAMES)


@pytest.mark.slow
def test_a_stream_waits_for_a_proxy_that_still_sends_it_to_the_server_that_left(
    two: tuple[Server, Server, Switch], connect: Connect
) -> None:
    first, second, proxy = two

    def drain() -> None:
        first.process.send_signal(signal.SIGTERM)
        turn = threading.Thread(target=lambda: (first.process.wait(60), proxy.turn_to(second.port)))
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

    camera = Camera([opsin.Frame(GREY, capture_time=1e9 + at / 100) for at in range(100)])
    session = connect(proxy.target).stream(camera, freshness="latest", track=True)
    camera.let(1)
    replies = [next(session)]
    camera.let(44)
    replies += [next(session) for _ in range(39)]
    kill()
    camera.let(55)
    replies += list(session)
    assert [reply.sequence for reply in replies] == list(range(1, 101))
    answered = [reply for reply in replies if isinstance(reply, opsin.FrameResult)]
    assert answered[-1].sequence == 100, "there is nothing newer"
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


class Camera:
    """A live source whose frames come when the test says so, however late a loaded machine is."""

    live = True

    def __init__(self, frames: list[Any]) -> None:
        self._frames = frames
        self._allowed = threading.Semaphore(0)

    def __iter__(self) -> Iterator[Any]:
        for frame in self._frames:
            assert self._allowed.acquire(timeout=60)
            yield frame

    def let(self, count: int) -> None:
        """So many more may come, at once."""
        self._allowed.release(count)

    def film(self, session: Any, burst: int) -> list[Any]:
        """All replies; the frames come `burst` at a time, each time when those before have their replies."""
        self.let(burst)
        replies = []
        for reply in session:
            replies.append(reply)
            if reply.sequence % burst == 0:
                self.let(burst)
        assert [reply.sequence for reply in replies] == list(range(1, len(self._frames) + 1))
        return replies


@pytest.fixture(scope="module")
def twenty_a_second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose model looks at 20 frames a second."""
    log = tmp_path_factory.mktemp("server") / "log"
    with opsin_server(log, "--model", "echo,delay_ms=50,max_batch=1", "--lanes", "1") as server:
        yield f"127.0.0.1:{server.port}"


def test_latest_answers_as_many_as_it_can_and_none_late(twenty_a_second: str, connect: Connect) -> None:
    """Ten frames at once, ten times: the last of them is looked at as soon as the device is free."""
    camera = Camera([GREY] * 100)
    session = connect(twenty_a_second).stream(camera, freshness="latest")
    replies = camera.film(session, 10)
    results = [reply for reply in replies if isinstance(reply, opsin.FrameResult)]
    dropped = [reply for reply in replies if isinstance(reply, opsin.FrameDropped)]
    assert set(range(10, 101, 10)) <= {reply.sequence for reply in results}, "nothing newer than the last"
    assert {reply.reason for reply in dropped} == {opsin.DropReason.SUPERSEDED}
    assert len(results) + len(dropped) == 100
    looks = [reply.result.timings for reply in results]
    waits = [t.total_ms - t.infer_ms - t.finish_ms - t.order_ms for t in looks]
    assert median(waits) < 2 * median(t.infer_ms for t in looks), "in line they would wait for five looks"
    assert (session.stats.waiting, session.stats.in_flight) == (0, 0)


def test_max_age_answers_none_that_had_to_wait_longer(twenty_a_second: str, connect: Connect) -> None:
    """Every third frame was held up for a minute on its way to the server."""
    held_up = set(range(3, 31, 3))
    frames = [opsin.Frame(GREY, capture_time=1e9 + at - 60 * (at in held_up)) for at in range(1, 31)]
    replies = list(connect(twenty_a_second).stream(frames, freshness="max_age=40"))
    assert [reply.sequence for reply in replies] == list(range(1, 31))
    dropped = [reply for reply in replies if not isinstance(reply, opsin.FrameResult)]
    assert {reply.sequence for reply in dropped} == held_up
    assert {reply.reason for reply in dropped} == {opsin.DropReason.TOO_OLD}  # type: ignore[union-attr]
    assert min(reply.age for reply in dropped) >= 40  # type: ignore[union-attr]


def test_max_age_drops_of_a_burst_what_grew_too_old(twenty_a_second: str, connect: Connect) -> None:
    """A look takes longer than a frame may be old, so none can wait for another's."""
    camera = Camera([GREY] * 60)
    session = connect(twenty_a_second).stream(camera, freshness="max_age=0.04")
    replies = camera.film(session, 20)
    dropped = [reply for reply in replies if not isinstance(reply, opsin.FrameResult)]
    assert dropped
    assert {reply.reason for reply in dropped} == {opsin.DropReason.TOO_OLD}  # type: ignore[union-attr]
    assert min(reply.age for reply in dropped) >= 0.04  # type: ignore[union-attr]


def test_target_fps_answers_so_many_a_second(twenty_a_second: str, connect: Connect) -> None:
    """Two seconds of a camera of 100 frames a second, by its own clock."""
    frames = [opsin.Frame(GREY, capture_time=1e9 + at / 100) for at in range(200)]
    replies = list(connect(twenty_a_second).stream(frames, freshness="target_fps=10"))
    assert [reply.sequence for reply in replies] == list(range(1, 201))
    looked_at = [reply.sequence for reply in replies if isinstance(reply, opsin.FrameResult)]
    assert looked_at == list(range(1, 201, 10))
    dropped = [reply for reply in replies if isinstance(reply, opsin.FrameDropped)]
    assert {reply.reason for reply in dropped} == {opsin.DropReason.RATE}


def test_a_changed_rule_holds_from_then_on(twenty_a_second: str, connect: Connect) -> None:
    camera = Camera([GREY] * 60)
    session = connect(twenty_a_second).stream(camera, freshness="latest")
    camera.let(30)
    replies = [next(session) for _ in range(30)]
    session.update(freshness="every_frame")
    camera.let(30)
    replies += list(session)
    assert [reply.sequence for reply in replies] == list(range(1, 61))
    kinds = [type(reply) for reply in replies]
    assert opsin.FrameDropped in kinds[:30]
    assert set(kinds[30:]) == {opsin.FrameResult}
