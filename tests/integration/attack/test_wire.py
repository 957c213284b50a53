"""Faults below the messages: broken HTTP/2, compression bombs, floods, and clients that say nothing.

gRPC itself answers most of these, in its own words. What is held here is that the server does not hang, does
not grow, and serves the next caller.
"""

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncGenerator

import psutil
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from integration.attack.told import goes_on, pixel
from opsin.v1 import DetectRequest
from serving import Serving, serving

GOOD = DetectRequest(model="echo", image=pixel()).SerializeToString()
SLOW = DetectRequest(model="slow", image=pixel()).SerializeToString()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
Headers = list[tuple[str, str]]


@pytest.fixture
async def server() -> AsyncGenerator[Serving]:
    async with serving("echo", "slow=echo,delay_ms=30,max_batch=1") as up:
        yield up
        await goes_on(up)


def connect(server: Serving) -> socket.socket:
    host, _, port = server.target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def headers(*extra: tuple[str, str]) -> Headers:
    path = "/opsin.v1.InferenceService/Detect"
    usual = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here")]
    return [*usual, ("te", "trailers"), ("content-type", "application/grpc"), *extra]


def framed(data: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(data)) + data


def open_http2(line: socket.socket) -> H2Connection:
    http = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
    http.initiate_connection()
    line.sendall(http.data_to_send())
    return http


def call(server: Serving, head: Headers, body: bytes) -> dict[str, str]:
    """One call by hand: the response's headers and trailers, or what became of it instead."""
    answer: dict[str, str] = {}
    with connect(server) as line:
        http = open_http2(line)
        http.send_headers(1, head)
        for at in range(0, len(body), 16_000):
            http.send_data(1, body[at : at + 16_000])
        http.end_stream(1)
        line.sendall(http.data_to_send())
        while data := line.recv(65_536):
            for event in http.receive_data(data):
                answer |= _read(event)
                if isinstance(event, StreamEnded | StreamReset | ConnectionTerminated):
                    return answer
    return answer


def _read(event: Event) -> dict[str, str]:
    match event:
        case ResponseReceived() | TrailersReceived():
            pairs = event.headers or []
            return {_text(k): _text(v) for k, v in pairs}
        case StreamReset():
            return {"reset": str(event.error_code)}
        case _:
            return {}


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def grown() -> int:
    """Megabytes of this process."""
    return int(psutil.Process().memory_info().rss) >> 20


GZIP = ("grpc-encoding", "gzip")
INVALID, EXHAUSTED, INTERNAL, TOO_LATE, UNKNOWN_METHOD = "3", "8", "13", "4", "12"


@pytest.mark.parametrize(
    ("extra", "body", "status"),
    [
        ((GZIP,), framed(gzip.compress(GOOD), 1), "0"),
        ((GZIP,), framed(b"\x1f\x8bnot really", 1), INTERNAL),
        ((GZIP,), framed(gzip.compress(GOOD)[:-8], 1), INTERNAL),
        ((), framed(GOOD, 1), INTERNAL),
        ((("grpc-encoding", "zzz"),), framed(GOOD, 1), INTERNAL),
        ((), b"\0\xff\xff\xff\xff", EXHAUSTED),
        ((("grpc-timeout", "soon"),), framed(GOOD), INTERNAL),
        ((("grpc-timeout", "99999999H"),), framed(GOOD), "0"),
        ((("x-bin", "!!!"),), framed(GOOD), INTERNAL),
        ((("x-request-id", "a b\t"),), framed(GOOD), "0"),
        (tuple((f"x-{i}", "y" * 10) for i in range(1000)), framed(GOOD), "0"),
    ],
)
async def test_a_call_made_by_hand_ends_with_a_status(
    server: Serving, extra: tuple[tuple[str, str], ...], body: bytes, status: str
) -> None:
    answer = await asyncio.to_thread(call, server, headers(*extra), body)
    assert answer.get("grpc-status") == status


@pytest.mark.parametrize("timeout", ["1n", "20m"])
async def test_a_call_with_next_to_no_time_is_late_or_refused_at_the_door(
    server: Serving, timeout: str
) -> None:
    """gRPC makes a whole millisecond of 1n; whether the server still sees the call in time is a race."""
    answer = await asyncio.to_thread(call, server, headers(("grpc-timeout", timeout)), framed(SLOW))
    late = answer.get("grpc-status") == TOO_LATE
    assert late or answer["grpc-message"].startswith("the deadline leaves")


async def test_a_compression_bomb_is_refused_before_it_unfolds(server: Serving) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < 60_000
    sizes = []
    for _ in range(8):
        answer = await asyncio.to_thread(call, server, headers(GZIP), framed(bomb, 1))
        assert answer["grpc-status"] == EXHAUSTED
        sizes.append(grown())
    assert sizes[-1] - sizes[2] < 100


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x16\x03\x01" + bytes(range(200)),
        bytes(5000),
        PREFACE + b"\xff" * 100,
        PREFACE + b"\0\0\1\0\0\0\0\0\0x",
        PREFACE + b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
        PREFACE + b"\0\0\1\1\0\0\0\0\1\x82" + b"\0\0\1\x09\0\0\0\0\1\x84" * 20_000,
        PREFACE + (b"\0\0\x08\6\0\0\0\0\0" + b"12345678") * 20_000,
        PREFACE * 1000,
    ],
    ids=["HTTP/1", "TLS", "zeros", "frame", "data on 0", "window 0", "continuations", "pings", "prefaces"],
)
async def test_broken_http2_ends_its_own_connection_and_nothing_else(server: Serving, data: bytes) -> None:
    def send() -> None:
        with connect(server) as line:
            try:
                line.sendall(data)
                while line.recv(4096):
                    line.settimeout(0.3)
            except OSError:
                return  # the server has hung up, or has nothing to say

    await asyncio.to_thread(send)
    before = grown()  # with what gRPC and the allocator keep from then on
    await asyncio.to_thread(send)
    assert grown() - before < 50


async def test_a_flood_of_calls_taken_back_at_once_leaves_nothing_behind(server: Serving) -> None:
    def flood() -> None:
        with connect(server) as line:
            http = open_http2(line)
            try:
                for number in range(1, 10_000, 2):
                    http.send_headers(number, headers())
                    http.reset_stream(number, 8)
                    line.sendall(http.data_to_send())
            except OSError:
                return  # refusing the connection is a fair answer

    tasks = len(asyncio.all_tasks())
    await asyncio.to_thread(flood)
    before = grown()  # with what gRPC and the allocator keep from then on
    await asyncio.to_thread(flood)
    await goes_on(server)
    assert grown() - before < 100
    async with asyncio.timeout(30):
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.02)


async def test_hundreds_of_clients_that_say_nothing_cost_the_others_nothing(server: Serving) -> None:
    files = psutil.Process().num_fds()
    lines = [connect(server) for _ in range(200)]
    for line in lines[::2]:
        line.sendall(PREFACE)
    await goes_on(server)
    for line in lines:
        line.close()
    async with asyncio.timeout(30):
        while psutil.Process().num_fds() > files + 5:
            await asyncio.sleep(0.02)


async def test_the_callers_request_id_is_taken_only_when_it_is_fit_for_a_header(server: Serving) -> None:
    good = await asyncio.to_thread(call, server, headers(("x-request-id", "abc-1")), framed(GOOD))
    bad = await asyncio.to_thread(call, server, headers(("x-request-id", "a b " + "c" * 200)), framed(GOOD))
    assert good["opsin-request-id"] == "abc-1"
    assert len(bad["opsin-request-id"]) == 16
