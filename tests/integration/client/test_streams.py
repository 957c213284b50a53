"""Streams over real gRPC, by both clients: order, window, hand-over, breaks, and clean ends."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import opsin
from integration.client.fake import Fake, answer_all, ready, refuse, result
from opsin import v1 as pb

Connect = Callable[..., Any]


def numbers(replies: Any) -> list[int]:
    return [reply.sequence for reply in replies]


def test_every_frame_has_its_reply_in_order(fake: Fake, connect: Connect) -> None:
    session = connect(fake.target).stream([b"x"] * 50, model="m", track=True)
    replies = list(session)
    assert numbers(replies) == list(range(1, 51))
    assert all(isinstance(reply, opsin.FrameResult) for reply in replies)
    assert replies[0].result.detections[0].label == "frame"
    assert replies[0].input == b"x"
    stats = session.stats
    assert (stats.sent, stats.answered, stats.in_flight, stats.reconnects) == (50, 50, 0, 0)
    assert stats.age_p50 == 0.005
    assert session.stream_id == "made-up"


def test_no_more_frames_are_under_way_than_the_server_advises(fake: Fake, connect: Connect) -> None:
    counts = {"under way": 0, "most": 0}
    arrived = threading.Condition()

    def slow(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        next(requests)
        frames: list[int] = []

        def read() -> None:
            for request in requests:
                with arrived:
                    frames.append(request.frame.sequence)
                    counts["under way"] += 1
                    counts["most"] = max(counts.values())
                    arrived.notify_all()
            with arrived:
                frames.append(0)
                arrived.notify_all()

        threading.Thread(target=read).start()
        yield ready(3)
        while True:
            with arrived:
                arrived.wait_for(lambda: frames)
            time.sleep(0.01)  # time in which a client that ignores the window would send more
            with arrived:
                sequence = frames.pop(0)
                counts["under way"] -= bool(sequence)
            if not sequence:
                return
            yield result(sequence, window=3)

    fake.on_stream = slow
    assert numbers(connect(fake.target).stream([b"x"] * 20)) == list(range(1, 21))
    # One more may arrive while the reply that made room for it is still on its way to be counted here.
    assert 2 <= counts["most"] <= 4


def test_a_closed_stream_leaves_no_reader_that_the_end_of_the_program_could_stop_halfway(fake: Fake) -> None:
    before = set(threading.enumerate())

    def readers() -> list[str]:
        return [one.name for one in set(threading.enumerate()) - before if one.name == "opsin-stream-reader"]

    with opsin.Client(fake.target) as client:
        session = client.stream([b"x"] * 50, rate=0.01)
        assert next(iter(session)).sequence == 1
        assert readers()
        session.close()
        assert readers() == []


def test_a_wrong_input_among_frames_fails_alone_and_in_its_place(fake: Fake, connect: Connect) -> None:
    replies = list(connect(fake.target).stream([b"a", "missing.jpg", b"b"]))
    assert [type(reply).__name__ for reply in replies] == ["FrameResult", "FrameFailed", "FrameResult"]
    assert isinstance(replies[1].error, opsin.InvalidInput)
    assert numbers(replies) == [1, 2, 3]


def test_a_stream_of_wrong_inputs_alone_ends_too(fake: Fake, connect: Connect) -> None:
    assert numbers(connect(fake.target).stream(["missing.jpg"] * 9)) == list(range(1, 10))


def test_more_wrong_inputs_than_are_held_do_not_stop_the_stream(fake: Fake, connect: Connect) -> None:
    """No message of the server brings these replies to the caller."""
    replies = list(connect(fake.target).stream(["missing.jpg"] * 1500 + [b"x"]))
    assert numbers(replies) == list(range(1, 1502))
    assert isinstance(replies[-1], opsin.FrameResult)


def test_a_reply_that_is_made_here_does_not_wait_for_the_server(fake: Fake, connect: Connect) -> None:
    """The source goes on only when the caller has heard of its wrong frame."""
    heard = threading.Event()

    def frames() -> Iterator[Any]:
        yield b"a"
        yield "missing.jpg"
        assert heard.wait(60)
        yield b"b"

    session = connect(fake.target).stream(frames())
    first, second = next(session), next(session)
    assert isinstance(second, opsin.FrameFailed)
    heard.set()
    assert numbers([first, second, *session]) == [1, 2, 3]


def test_an_empty_source_is_an_empty_stream(fake: Fake, connect: Connect) -> None:
    assert list(connect(fake.target).stream([])) == []


def test_pixels_travel_as_jpeg_or_as_they_are(fake: Fake, connect: Connect) -> None:
    picture = np.full((16, 16, 3), 200, np.uint8)
    client = connect(fake.target)
    (encoded,) = client.stream([picture])
    assert encoded.input.startswith(b"\xff\xd8")
    assert encoded.result.draw().size == (16, 16)
    (raw,) = client.stream([picture], quality=None)
    assert raw.input == opsin.RawFrame(picture.tobytes(), 16, 16)


def test_a_config_that_is_refused_ends_the_stream_with_its_error(fake: Fake, connect: Connect) -> None:
    def refused(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        refuse(context, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        yield

    fake.on_stream = refused
    with pytest.raises(opsin.ModelNotFound):
        list(connect(fake.target).stream([b"x"]))
    assert len(fake.calls) == 1


def test_what_the_callers_own_iterator_raises_comes_out_after_the_replies(
    fake: Fake, connect: Connect
) -> None:
    def frames() -> Iterator[bytes]:
        yield b"a"
        yield b"b"
        raise KeyError("the camera is gone")

    session = connect(fake.target).stream(frames())
    assert numbers([next(session), next(session)]) == [1, 2]
    with pytest.raises(KeyError, match="camera"):
        next(session)


def test_a_source_that_cannot_be_closed_says_so_after_the_replies(fake: Fake) -> None:
    class Camera:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x", b"y"])

        def close(self) -> None:
            raise OSError("the driver hangs")

    with opsin.Client(fake.target) as client:
        session = client.stream(Camera(), timeout=20)
        assert [next(session).sequence, next(session).sequence] == [1, 2]
        with pytest.raises(OSError, match="the driver hangs"):
            next(session)


def test_changes_reach_the_server_mid_stream(fake: Fake, connect: Connect) -> None:
    seen: list[Any] = []

    def note(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        def noted() -> Iterator[Any]:
            for request in requests:
                seen.append(request)
                yield request

        yield from answer_all(noted(), context)

    fake.on_stream = note
    session = connect(fake.target).stream([b"x"] * 30, window=1)
    next(session)
    session.update(options=opsin.DetectOptions(min_score=0.5), freshness="latest")
    assert len(list(session)) == 29
    updates = [request.update for request in seen if request.WhichOneof("kind") == "update"]
    assert len(updates) == 1
    assert updates[0].options.min_score == 0.5
    assert updates[0].freshness.mode == pb.FreshnessMode.FRESHNESS_MODE_LATEST


def handed_over(after: int) -> Callable[[Iterator[Any], Any], Iterator[Any]]:
    """A server that sends each stream away after some frames; what it read beyond, it never accepted."""

    def serve(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        config = next(requests).config
        start = int(config.resume_token or b"0") + 1
        yield ready(4, next_sequence=start if config.resume_token else 0)
        for count, request in enumerate(requests, 1):
            sequence = request.frame.sequence
            assert sequence >= start
            yield result(sequence, token=str(sequence).encode())
            if count == after:
                reason = pb.GoAwayReason.GO_AWAY_REASON_MAX_STREAM_AGE
                away = pb.GoAway(reason=reason, last_sequence=sequence, resume_token=str(sequence).encode())
                yield pb.StreamDetectResponse(max_in_flight=4, go_away=away)
                return

    return serve


def test_a_stream_that_is_sent_away_goes_on_with_the_token_and_no_frame_is_lost_or_repeated(
    fake: Fake, connect: Connect
) -> None:
    fake.on_stream = handed_over(after=7)
    session = connect(fake.target).stream([b"x"] * 40)
    replies = list(session)
    assert numbers(replies) == list(range(1, 41))
    assert all(isinstance(reply, opsin.FrameResult) for reply in replies)
    assert session.stats.reconnects == 5
    assert len(fake.calls) == 6


def test_a_connection_that_breaks_mid_stream_is_made_again_and_unanswered_frames_are_sent_again(
    fake: Fake, connect: Connect
) -> None:
    received: list[int] = []

    def break_at_times(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        next(requests)
        yield ready(4)
        for count, request in enumerate(requests, 1):
            received.append(request.frame.sequence)
            if count == 6:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            yield result(request.frame.sequence, token=b"t")

    fake.on_stream = break_at_times
    session = connect(fake.target).stream([b"x"] * 20)
    assert numbers(session) == list(range(1, 21))
    assert session.stats.reconnects == 3
    assert session.stats.sent == 20
    assert len(received) > 20  # the sixth of each connection came twice, and was answered once


def test_a_server_that_is_killed_and_comes_back_finds_the_stream_again(connect: Connect) -> None:
    first = Fake()
    session = connect(first.target).stream(([b"x"] * 60), window=1)
    replies = [next(session) for _ in range(10)]
    first.stop()
    second = Fake(port=first.port)
    try:
        replies += list(session)
    finally:
        second.stop()
    assert numbers(replies) == list(range(1, 61))
    assert all(isinstance(reply, opsin.FrameResult) for reply in replies)
    assert session.stats.reconnects >= 1


def test_a_connection_that_failed_before_it_was_asked_for_messages_does_not_disturb_the_next(
    fake: Fake,
) -> None:
    """gRPC asks from a thread of its own, which may come late."""
    with opsin.Client(fake.target) as client:
        session = client.stream((b"x" for _ in iter(int, 1)), timeout=20)
        driver = session._driver
        late = driver._messages(0)
        assert next(session).sequence == 1
        assert list(late) == []
        assert [next(session).sequence for _ in range(20)] == list(range(2, 22))


def test_a_server_that_stays_away_ends_the_stream_with_what_is_lost(connect: Connect) -> None:
    server = Fake()
    session = connect(server.target).stream((b"x" for _ in iter(int, 1)), window=1, reconnect=0.5)
    assert next(session).sequence == 1
    server.stop()
    rest: list[Any] = []
    with pytest.raises(opsin.Unreachable):
        rest.extend(session)  # what came before the error stays
    assert numbers(rest) == list(range(2, len(rest) + 2))
    assert rest[-1].reason is opsin.DropReason.LOST


def test_a_live_source_never_waits_and_says_what_it_left_out(fake: Fake, connect: Connect) -> None:
    """The server answers nothing before the source has given all it has."""
    over = threading.Event()

    class Camera:
        live = True

        def __iter__(self) -> Iterator[bytes]:
            yield from [b"x"] * 60
            over.set()

    def slow(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        next(requests)
        yield ready(1)
        for request in requests:
            assert over.wait(60)
            yield result(request.frame.sequence, window=1)

    fake.on_stream = slow
    session = connect(fake.target).stream(Camera(), freshness="latest")
    replies = list(session)
    assert numbers(replies) == list(range(1, 61))
    dropped = [reply for reply in replies if isinstance(reply, opsin.FrameDropped)]
    # The newest is answered, and one that may have been on its way before it came.
    assert len(dropped) in (58, 59)
    assert isinstance(replies[-1], opsin.FrameResult)
    assert all(reply.by_client and reply.reason is opsin.DropReason.SUPERSEDED for reply in dropped)
    assert session.stats.dropped == {opsin.DropReason.SUPERSEDED: len(dropped)}


def test_leaving_early_ends_the_call_at_the_server(fake: Fake, connect: Connect) -> None:
    ended = threading.Event()

    def watched(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        context.add_callback(ended.set)
        return answer_all(requests, context)

    fake.on_stream = watched
    with connect(fake.target).stream(b"x" for _ in iter(int, 1)) as session:
        for reply in session:
            if reply.sequence == 5:
                break
    assert ended.wait(30)
    session.close()


def test_a_stream_that_is_closed_before_it_began_lets_go_of_its_source(fake: Fake, connect: Connect) -> None:
    class Camera:
        closed = threading.Event()

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

        def close(self) -> None:
            self.closed.set()

    with connect(fake.target).stream(Camera()):
        pass
    assert Camera.closed.wait(30)


def test_closing_the_client_ends_its_streams(fake: Fake) -> None:
    with opsin.Client(fake.target) as client:
        session = client.stream(b"x" for _ in iter(int, 1))
        next(session)
    assert len(list(session)) < 20


def test_a_stream_can_be_closed_from_another_thread_while_it_waits(fake: Fake) -> None:
    def silent(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        next(requests)
        yield ready(1)
        for _ in requests:
            pass

    fake.on_stream = silent
    with opsin.Client(fake.target) as client, client.stream(b"x" for _ in iter(int, 1)) as session:
        timer = threading.Timer(0.2, session.close)
        timer.start()
        assert list(session) == []
        timer.join()


def test_a_stream_that_is_forgotten_ends_by_itself(fake: Fake) -> None:
    ended = threading.Event()

    def watched(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        context.add_callback(ended.set)
        return answer_all(requests, context)

    fake.on_stream = watched
    with opsin.Client(fake.target) as client:
        for reply in client.stream(b"x" for _ in iter(int, 1)):
            if reply.sequence == 3:
                break
        gc.collect()
        assert ended.wait(30)


async def test_async_iterables_are_sources_and_cancelling_the_reader_ends_the_stream(fake: Fake) -> None:
    import asyncio

    async def frames() -> Any:
        while True:
            yield b"x"
            await asyncio.sleep(0)

    async with opsin.AsyncClient(fake.target) as client:
        session = client.stream(frames())
        seen: list[int] = []

        async def read() -> None:
            async for reply in session:
                seen.append(reply.sequence)  # noqa: PERF401 - seen as it grows

        task = asyncio.create_task(read())
        while len(seen) < 5:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.closed
    assert seen == list(range(1, len(seen) + 1))


async def test_closing_a_stream_closes_the_async_generator_that_it_reads(fake: Fake) -> None:
    """At once, and not when somebody collects it: a camera may be open in there."""
    closed = []

    async def frames() -> Any:
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    camera = frames()
    async with opsin.AsyncClient(fake.target) as client:
        async with client.stream(camera) as session:
            assert (await anext(session)).sequence == 1
        assert closed == [True]


def test_an_async_iterable_takes_the_async_client(fake: Fake) -> None:
    async def frames() -> Any:
        yield b"x"

    with opsin.Client(fake.target) as client, pytest.raises(opsin.InvalidInput, match="AsyncClient"):
        client.stream(frames())


def test_a_deadline_bounds_the_whole_stream(fake: Fake, connect: Connect) -> None:
    session = connect(fake.target).stream((b"x" for _ in iter(int, 1)), timeout=0.5)
    with pytest.raises(opsin.DeadlineExceeded):
        list(session)


def test_a_video_streams_frame_by_frame_with_its_rate(fake: Fake, connect: Connect, tmp_path: Any) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        film = container.add_stream("mpeg4", rate=20)
        film.width, film.height, film.pix_fmt = 64, 32, "yuv420p"
        for _ in range(10):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")
            container.mux(film.encode(picture))
        container.mux(film.encode())
    client = connect(fake.target)
    session = client.stream(tmp_path / "film.mp4")
    assert session.fps == 20.0
    assert numbers(session) == list(range(1, 11))
    began = time.monotonic()
    assert len(list(client.stream(tmp_path / "film.mp4", rate="realtime"))) == 10
    assert time.monotonic() - began > 0.4
