"""Live video against the real server: freshness, codecs, tracking, reuse, and what a client may do wrong."""

import asyncio
import threading
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from integration.streams.talking import Talk, ended, latest, picture, sequence, small_window, talking, word
from opsin.v1 import (
    Codec,
    DetectOptions,
    Frame,
    Freshness,
    FreshnessMode,
    Image,
    PixelFormat,
    RawImage,
    ReuseSimilar,
    StreamDetectRequest,
)
from opsin_server.media import video
from opsin_server.rpc.live_stream import LiveStream
from opsin_server.streams.frames import Stage
from serving import Serving, serving
from unit.media.test_video import clip, scene

SLOW = "slow=echo,delay_ms=100,max_batch=1"
GATED = "echo,light=false,max_batch=1"
ONE_LANE = {"lanes": 1}
SECOND = 10**9


def order(replies: list) -> list[int]:
    return [sequence(r) for r in replies]


async def until(holds: Callable[[], bool]) -> None:
    """However long it takes."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def only_stream(server: Serving) -> LiveStream:
    (stream,) = server.app.rpc.streams._live.values()
    return stream


async def test_latest_looks_at_the_newest_and_says_so_of_the_others(gate: threading.Event) -> None:
    async with serving(GATED, scheduler=ONE_LANE) as server, talking(server) as stream:
        gate.clear()
        ready = await stream.config(freshness=latest())
        assert ready.max_in_flight >= 2
        await stream.frame(1)
        session = only_stream(server)._session
        await until(lambda: session._frames.running == 1)
        for number in range(2, 31):
            await stream.frame(number)
        # All have come, and the last one waits for the device alone.
        await until(lambda: session.last_sequence == 30 and session._frames.count(Stage.QUEUED) == 1)
        await until(lambda: len(session._frames.live) == 2)
        gate.set()
        replies = await stream.rest()
    assert order(replies) == list(range(1, 31))
    assert [word(r) for r in replies] == ["result", *["SUPERSEDED"] * 28, "result"]


async def test_every_frame_is_answered_however_slow_the_model_is() -> None:
    async with serving("slow=echo,delay_ms=10") as server, talking(server) as stream:
        await stream.config()

        async def push() -> None:
            for number in range(1, 101):
                await stream.frame(number)
            await stream.call.done_writing()

        pushing = asyncio.create_task(push())
        while await stream.read() is not None:
            pass
        await pushing
    assert [word(r) for r in stream.replies[1:]] == ["result"] * 100


async def test_max_age_runs_nothing_older(gate: threading.Event) -> None:
    aged = Freshness(mode=FreshnessMode.FRESHNESS_MODE_MAX_AGE)
    aged.max_age.FromMilliseconds(150)
    async with serving(GATED, scheduler=ONE_LANE) as server, talking(server) as stream:
        gate.clear()
        await stream.config()
        session = only_stream(server)._session
        await stream.frame(1)
        await until(lambda: bool(server.app.scheduler._dispatcher.fleet.jobs))  # it is on the device
        await stream.update(freshness=aged)
        for number in range(2, 7):
            await stream.frame(number)
        # The device is busy until they have grown too old, and free when they have.
        await until(lambda: session.last_sequence == 6 and len(session._frames.live) <= 1)
        gate.set()
        replies = await stream.rest()
    assert order(replies) == list(range(1, 7))
    assert [word(r) for r in replies[1:]] == ["TOO_OLD"] * 5
    assert all(r.dropped.age.ToMilliseconds() >= 150 for r in replies[1:])


async def test_target_fps_samples_by_capture_time() -> None:
    rate = Freshness(mode=FreshnessMode.FRESHNESS_MODE_TARGET_FPS, target_fps=10)
    async with serving("echo") as server, talking(server) as stream:
        await stream.config(freshness=rate)
        for number in range(1, 31):
            await stream.frame(number, captured=1_700_000_000 * SECOND + number * SECOND // 30)
            await stream.read()
    looked = [sequence(r) for r in stream.replies[1:] if word(r) == "result"]
    assert looked == list(range(1, 31, 3))


async def test_freshness_changes_with_the_next_frame(gate: threading.Event) -> None:
    async with serving(GATED, scheduler=ONE_LANE) as server, talking(server) as stream:
        gate.clear()
        await stream.config()
        await stream.frame(1)
        await stream.frame(2)
        await stream.update(freshness=latest())
        for number in range(3, 10):
            await stream.frame(number)
        await until(lambda: only_stream(server)._session.last_sequence == 9)
        gate.set()
        replies = await stream.rest()
    words = [word(r) for r in replies]
    assert words[:2] == ["result", "result"]
    assert "SUPERSEDED" in words[2:]
    assert words[-1] == "result"


# Codecs.


@pytest.mark.parametrize("codec", [Codec.CODEC_H264, Codec.CODEC_HEVC])
async def test_packets_are_decoded_and_bad_ones_fail_alone(codec: Codec.ValueType) -> None:
    name = video.Codec.H264 if codec == Codec.CODEC_H264 else video.Codec.HEVC
    packets = list(clip(name, gop=10))
    packets[5] = np.random.default_rng(1).bytes(100_000)
    async with serving("echo") as server, talking(server) as stream:
        await stream.config(codec=codec)
        for number, packet in enumerate(packets, 1):
            await stream.frame(number, packet=packet)
            await stream.read()
    words = [word(r) for r in stream.replies[1:]]
    assert words == ["result"] * 5 + ["IMAGE_UNDECODABLE"] * 5 + ["result"] * 10
    first, bad = stream.replies[1], stream.replies[6]
    assert (first.result.response.image.width, first.result.response.image.height) == (160, 96)
    assert bad.failed.key_frame_wanted


async def test_packets_that_are_superseded_are_decoded_all_the_same(gate: threading.Event) -> None:
    packets = clip(video.Codec.H264)
    async with serving(GATED, scheduler=ONE_LANE) as server, talking(server) as stream:
        gate.clear()
        await stream.config(codec=Codec.CODEC_H264, freshness=latest())
        session = only_stream(server)._session
        await stream.frame(1, packet=packets[0])
        await until(lambda: session._frames.running == 1)
        for number, packet in enumerate(packets[1:], 2):
            await stream.frame(number, packet=packet)
        await until(lambda: session.last_sequence == len(packets) and not session._frames.chain)
        gate.set()
        replies = await stream.rest()
    words = [word(r) for r in replies]
    assert set(words) == {"result", "SUPERSEDED"}
    assert words[0] == words[-1] == "result"


async def test_motion_jpeg_and_pictures_share_a_stream() -> None:
    import simplejpeg

    async with serving("echo") as server, talking(server) as stream:
        await stream.config(codec=Codec.CODEC_MJPEG)
        await stream.frame(1, packet=simplejpeg.encode_jpeg(scene(1)[0]))
        await stream.frame(2, packet=b"noise")
        await stream.frame(3, packet=b"")
        await stream.frame(4, picture())
        replies = await stream.rest()
    assert [word(r) for r in replies] == ["result", "IMAGE_UNDECODABLE", "INPUT_MISSING", "result"]


async def test_b_frames_end_the_stream_with_the_setting_to_use() -> None:
    from unit.media.test_video import encode

    packets = encode(video.Codec.H264, scene(8), bframes="2", preset="veryfast")
    async with serving("echo") as server, talking(server) as stream:
        await stream.config(codec=Codec.CODEC_H264)
        for number, packet in enumerate(packets, 1):
            await stream.frame(number, packet=packet)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.rest()
    assert ended(caught.value) == "CODEC_UNSUPPORTED"
    assert "bframes=0" in (caught.value.details() or "")


# Tracking and reuse.


async def test_what_is_found_again_has_its_number() -> None:
    async with serving("echo") as server, talking(server) as stream:
        await stream.config(track=True)
        for number in range(1, 11):
            await stream.frame(number, captured=number * SECOND // 30)
        replies = await stream.rest()
    assert [r.result.response.detections[0].track_id for r in replies] == [1] * 10


async def test_a_still_scene_is_looked_at_once_and_a_change_at_once() -> None:
    async with serving("echo") as server, talking(server) as stream:
        await stream.config(reuse_similar=ReuseSimilar(max_hold=Duration(seconds=60)), track=True)
        for number in range(1, 11):
            await stream.frame(number, picture(100 if number < 6 else 200))
            await stream.read()
    replies = stream.replies[1:]
    assert [word(r) for r in replies] == ["result", *["reused"] * 4, "result", *["reused"] * 4]
    reused = replies[3].result
    assert reused.reused_from == 1
    assert (reused.response.timings.infer_us, reused.response.timings.batch_size) == (0, 0)
    assert reused.response.detections[0].track_id == 1


async def test_other_options_are_looked_at() -> None:
    async with serving("echo") as server, talking(server) as stream:
        await stream.config(reuse_similar=ReuseSimilar())
        await stream.frame(1)
        await stream.read()
        await stream.frame(2, options=DetectOptions(min_score=0.5))
        await stream.read()
    assert [word(r) for r in stream.replies[1:]] == ["result", "result"]


# Names and neighbours.


async def test_a_newer_stream_of_the_same_name_takes_over() -> None:
    async with serving(SLOW, scheduler=ONE_LANE) as server, talking(server) as old, talking(server) as new:
        await old.config(stream_id="door")
        await old.frame(1)
        await new.config(stream_id="door")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await old.rest()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert ended(caught.value) == "STREAM_TAKEN_OVER"
        await new.frame(1)
        assert [word(r) for r in await new.rest()] == ["result"]


async def test_streams_and_tasks_are_gone_when_their_clients_are() -> None:
    async with serving(SLOW, scheduler=ONE_LANE) as server:
        before = len(asyncio.all_tasks())
        for _ in range(20):
            async with talking(server) as stream:
                await stream.config(freshness=latest(), track=True)
                for number in range(1, 6):
                    await stream.frame(number)
                await stream.read()
        await until(lambda: not server.app.rpc.streams.live and len(asyncio.all_tasks()) <= before)
        await until(lambda: server.app.scheduler.waiting == 0)


HEAVY = 100_000
"""Bytes of a frame as it is sent, its number and its size included."""


def heavy(number: int) -> Image:
    """What makes frame `number` HEAVY bytes long: a grey picture, and bytes after it that are ignored."""
    raw = RawImage(data=bytes(99_900), width=300, height=300, format=PixelFormat.PIXEL_FORMAT_GRAY8)
    request = StreamDetectRequest(frame=Frame(sequence=number, image=Image(raw=raw)))
    raw.data += bytes(HEAVY - request.ByteSize())
    request.frame.image.raw.CopyFrom(raw)
    assert request.ByteSize() == HEAVY
    return request.frame.image


async def push(stream: Talk, seconds: float, reading: Callable[[], bool]) -> int:
    """Send heavy frames as fast as they are taken, until the server reads no further; how many were."""
    number = 0
    while number < 3000:
        sending = asyncio.create_task(stream.frame(number + 1, heavy(number + 1)))
        done, _ = await asyncio.wait((sending,), timeout=seconds)
        while not done and reading():  # a loaded server is late, not stalled
            done, _ = await asyncio.wait((sending,), timeout=seconds)
        if not done:
            sending.cancel()
            break
        number += 1
    return number


async def test_a_stalled_server_takes_its_window_and_about_two_frames_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stall(*_: object) -> None:
        await asyncio.Event().wait()

    async with serving("echo") as server, talking(server) as stream:
        monkeypatch.setattr(server.app.pipeline, "detect", stall)
        await stream.config()
        taken = await push(stream, 0.7, lambda: only_stream(server)._session.reading)
        print(f"a stalled server with a window of 8 took {taken} frames of {HEAVY} bytes")
    assert taken >= 8, "the window"
    assert taken * HEAVY <= 1_000_000


async def test_a_client_that_never_reads_is_read_no_further() -> None:
    """Replies fill what the client's transport holds (64 kB here); then its frames stay where they are."""
    async with serving("echo") as server, small_window(server) as stream:
        await stream.config()
        taken = await push(stream, 0.7, lambda: only_stream(server)._session.reading)
        live = server.app.rpc.streams.live
        print(f"a client that never reads got rid of {taken} frames")
    assert live == 1
    assert taken < 2000
