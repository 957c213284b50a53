"""Streams through a real Envoy, beside the same streams to the server itself.

What a client that never stops gets rid of while the server is stalled; whether every frame is answered once,
in order, and how much later; and a stream whose server drains in its middle. Without a proxy the client is
given both servers' addresses.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import opsin
from bench.figures import Figure, at_most
from bench.frames import Cameras, drive, open_stream
from bench.inputs import Kind
from bench.load import beside, channel, in_loop
from bench.proxy import envoy
from bench.scale import Scale
from bench.server import Server
from bench.watch import wait_for
from opsin.v1 import Frame, Image, RawImage, StreamConfig, StreamDetectRequest

__all__ = ["measure"]

STALLED = "device=echo,hang=true,max_batch=1"
QUICK = "device=echo,delay_ms=5"
SHARED = {"STREAMS__SECRET": "a secret that all servers have, of 32 characters"}
WIDTH, HEIGHT = 250, 133
PIXELS = bytes(WIDTH * HEIGHT * 3)
"""A little less than 100 kB, to be that with the rest of the message."""
STUCK = b"\0\xff\xff" + PIXELS[3:]
"""With a first pixel that the stalled server's model never comes back from."""
ENOUGH, PATIENCE = 100_000_000, 1.5
FRAMES, RATE = 400, 100.0


@dataclass(slots=True)
class _Rounds:
    accepted: list[float] = field(default_factory=list)
    astray: list[float] = field(default_factory=list)
    delay_ms: list[float] = field(default_factory=list)
    unanswered: list[float] = field(default_factory=list)
    reconnects: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Moved:
    """A stream that was handed over. gap: the longest time between two replies, in seconds."""

    unanswered: int
    reconnects: int
    gap: float


def measure(scale: Scale) -> list[Figure]:
    """About half a minute a round."""
    ways = {"direct": _Rounds(), "through Envoy": _Rounds()}
    for number in range(scale.rounds):
        for way, rounds in ways.items():
            scale.say(f"{way}, round {number + 1}")
            _round(rounds, scale, proxied=way != "direct")
    direct, proxied = ways.values()
    return [figure for way, rounds in ways.items() for figure in _figures(way, rounds)] + [
        Figure(
            "through Envoy: added to the median from capture to reply",
            [far - near for far, near in zip(proxied.delay_ms, direct.delay_ms, strict=True)],
            "ms",
        )
    ]


def _figures(way: str, rounds: _Rounds) -> list[Figure]:
    told = {"median_delay_ms": rounds.delay_ms, "reconnects": rounds.reconnects}
    within = at_most(1000) if way == "direct" else None
    return [
        Figure(f"{way}: taken by a stalled server, in frames of 100 kB", rounds.accepted, "kB", within),
        Figure(f"{way}, 8 streams: frames not answered once, in order", rounds.astray, "", at_most(0), told),
        Figure(f"{way}, the server drains: frames without an answer", rounds.unanswered, "", at_most(0)),
        Figure(f"{way}, the server drains: longest time between two replies", rounds.gap_ms, "ms"),
    ]


def _round(rounds: _Rounds, scale: Scale, *, proxied: bool) -> None:
    with Server(STALLED) as server:
        rounds.accepted.append(_reached([server], _push, proxied=proxied) / 1000)
    with Server(QUICK) as server:

        def film(target: str) -> Any:
            return drive(Cameras(target, "device", Kind(size=len(PIXELS)), scale.seconds(5), 8, rate=30.0))

        reels = _reached([server], film, proxied=proxied)
    rounds.astray.append(sum(reel.astray for reel in reels) + sum(bool(reel.error) for reel in reels))
    rounds.delay_ms.append(median(delay for reel in reels for delay in reel.delays) * 1000)
    with Server(QUICK, settings=SHARED) as one, Server(QUICK, settings=SHARED) as other:
        moved: _Moved = _reached(
            [one, other], lambda target: _hand_over((one, other), target), proxied=proxied
        )
    rounds.unanswered.append(moved.unanswered)
    rounds.reconnects.append(moved.reconnects)
    rounds.gap_ms.append(moved.gap * 1000)


def _reached(servers: Sequence[Server], do: Any, *, proxied: bool) -> Any:
    """What `do` makes of the address that the servers are reached at."""
    if not proxied:
        return do("ipv4:" + ",".join(server.target for server in servers))
    with envoy([server.target for server in servers]) as target:
        return do(target)


def _push(target: str) -> int:
    """Bytes that a client got rid of that heeds no window."""
    return int(in_loop(_pushed(target)))


async def _pushed(target: str) -> int:
    async with channel(target) as connection:
        call, _ = await open_stream(connection, StreamConfig(model="device"))
        sent = number = 0
        while sent < ENOUGH:
            number += 1
            image = Image(raw=RawImage(data=STUCK, width=WIDTH, height=HEIGHT))
            request = StreamDetectRequest(frame=Frame(sequence=number, image=image))
            writing = asyncio.ensure_future(call.write(request))
            done, _ = await asyncio.wait((writing,), timeout=PATIENCE)
            if not done:
                break
            sent += request.ByteSize()
        call.cancel()
        return sent


def _hand_over(servers: Sequence[Server], target: str) -> _Moved:
    """A live stream, whose server is told to leave after a quarter of its frames."""
    with beside(_watch, target) as watching:
        wait_for(
            lambda: any(_answered(server) > FRAMES / 4 for server in servers), "the stream to be on its way"
        )
        next(server for server in servers if _answered(server)).leave()
        return watching.result()


def _answered(server: Server) -> float:
    return server.counters().total("opsin_frames_total")


def _watch(target: str) -> _Moved:
    frame = opsin.RawFrame(PIXELS, WIDTH, HEIGHT)
    replies: list[Any] = []
    gap, last = 0.0, 0.0
    with (
        opsin.Client(target) as client,
        client.stream([frame] * FRAMES, model="device", rate=RATE) as session,
    ):
        for reply in session:
            now = time.monotonic()
            gap, last = max(gap, now - last if last else 0.0), now
            replies.append(reply)
        reconnects = session.stats.reconnects
    good = [reply.sequence for reply in replies if isinstance(reply, opsin.FrameResult)]
    return _Moved(FRAMES - len(set(good)) + len(replies) - len(set(good)), reconnects, gap)
