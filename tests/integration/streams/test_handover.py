"""A stream that goes on elsewhere: nothing lost, nothing twice, the same numbers for the same things."""

import asyncio

import grpc
import pytest

from integration.streams.talking import ended, latest, sequence, talking, word
from opsin.v1 import GoAwayReason, StreamDetectResponse
from opsin_server.streams.session import SessionLimits
from serving import serving

SHARED = {"secret": "a secret that both servers have, of 32 characters"}
SECOND = 10**9


def last_token(replies: list[StreamDetectResponse]) -> bytes:
    tokens = [r.resume_token or r.ready.resume_token or r.go_away.resume_token for r in replies]
    return [t for t in tokens if t][-1]


async def test_a_drain_moves_a_stream_to_another_server() -> None:
    async with (
        serving("slow=echo,delay_ms=20,max_batch=1", streams=SHARED) as first,
        talking(first) as stream,
    ):
        await stream.config(stream_id="door", track=True)
        for number in range(1, 21):
            await stream.frame(number, captured=number * SECOND // 30)
        while len(stream.replies) < 6:
            await stream.read()
        first.app.rpc.streams.drain()
        while await stream.read() is not None:
            pass
        assert await stream.call.code() is grpc.StatusCode.OK
        *replies, bye = stream.replies[1:]
    assert bye.go_away.reason == GoAwayReason.GO_AWAY_REASON_DRAINING
    assert bye.go_away.last_sequence == sequence(replies[-1]) >= 5
    number = bye.go_away.last_sequence + 1
    track = replies[-1].result.response.detections[0].track_id
    async with serving("echo", streams=SHARED) as second, talking(second) as stream:
        ready = (await stream.config(track=True, resume_token=bye.go_away.resume_token)).ready
        assert (ready.next_sequence, ready.stream_id) == (number, "door")
        for following in range(number, number + 5):
            await stream.frame(following, captured=following * SECOND // 30)
        more = await stream.rest()
    assert [sequence(r) for r in replies + more] == list(range(1, number + 5))
    assert {r.result.response.detections[0].track_id for r in more} == {track}


async def test_a_killed_server_is_left_behind_with_the_last_token() -> None:
    async with serving("echo", streams=SHARED) as first, talking(first) as stream:
        await stream.config(stream_id="door")
        for number in range(1, 60):
            await stream.frame(number)
            await stream.read()
            await asyncio.sleep(0.02)
        token = last_token(stream.replies)
        assert [r.resume_token != b"" for r in stream.replies[1:]].count(True) >= 2
    async with serving("echo", streams=SHARED) as second, talking(second) as stream:
        ready = (await stream.config(resume_token=token)).ready
        assert 30 <= ready.next_sequence <= 60, "at most a second old"
        await stream.frame(60)
        assert [sequence(r) for r in await stream.rest()] == [60]


async def test_a_resumed_stream_goes_on_and_not_back() -> None:
    async with serving("echo") as server:
        async with talking(server) as stream:
            await stream.config()
            await asyncio.sleep(SessionLimits().refresh)  # so that the reply brings a fresh token
            await stream.frame(7)
            token = last_token(await stream.rest())
        async with talking(server) as stream:
            assert (await stream.config(resume_token=token)).ready.next_sequence == 8
            await stream.frame(7)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.rest()
    assert ended(caught.value) == "SEQUENCE_NOT_INCREASING"


async def test_a_stranger_s_token_is_refused_before_ready() -> None:
    async with serving("echo") as first, talking(first) as stream:
        token = (await stream.config()).ready.resume_token
    async with serving("echo") as second, talking(second) as stream:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.config(resume_token=token)
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert ended(caught.value) == "RESUME_TOKEN_INVALID"


async def test_old_streams_are_sent_away_to_begin_again() -> None:
    async with serving("echo", streams={"max_duration": 0.3}) as server, talking(server) as stream:
        await stream.config(freshness=latest())
        reply = None
        while reply is None or word(reply) == "result":
            await stream.frame(len(stream.replies))
            reply = await stream.read()
        assert reply is not None
        assert reply.go_away.reason == GoAwayReason.GO_AWAY_REASON_MAX_STREAM_AGE
        assert reply.go_away.last_sequence == len(stream.replies) - 2, (
            "all between ready and this are answered"
        )
        assert await stream.read() is None
