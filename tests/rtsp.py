"""A camera on loopback that speaks RTSP 1.0 (RFC 2326), its video in the same connection (section 10.12).

Owns the little of the protocol that a player needs: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, and H.264 in
RTP (RFC 6184, single NAL units and fragments). One client after another; each gets the whole film from its
start, as fast as it reads, and then an RTCP BYE. Knows nothing of Opsin.
"""

import base64
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

__all__ = ["Camera", "camera", "nal_units", "rtp_packets"]

CLOCK = 90_000
PAYLOAD_TYPE = 96
SOURCE = 0x0B51
MOST = 1200
"""Bytes of a NAL unit in one RTP packet; larger ones go in fragments."""
_FRAGMENT = 28
_SPS, _PPS = 7, 8


def nal_units(packet: bytes) -> list[bytes]:
    """The NAL units of an Annex B packet, without start codes."""
    return [unit.rstrip(b"\0") for unit in packet.split(b"\0\0\1") if unit.rstrip(b"\0")]


def rtp_packets(frames: Sequence[bytes], fps: int) -> Iterator[bytes]:
    """The frames, Annex B, in RTP: the last packet of each carries the marker."""
    sequence = 0
    for number, frame in enumerate(frames):
        pieces = [piece for unit in nal_units(frame) for piece in _pieces(unit)]
        for at, piece in enumerate(pieces):
            marker = 0x80 if at == len(pieces) - 1 else 0
            time = number * CLOCK // fps
            yield struct.pack("!BBHII", 0x80, marker | PAYLOAD_TYPE, sequence, time, SOURCE) + piece
            sequence = (sequence + 1) % 65_536


def _pieces(unit: bytes) -> list[bytes]:
    """A NAL unit as it is, or in fragments FU-A: indicator, then a header with the first and last marked."""
    if len(unit) <= MOST:
        return [unit]
    indicator, kind, body = unit[0] & 0xE0 | _FRAGMENT, unit[0] & 0x1F, unit[1:]
    parts = [body[at : at + MOST] for at in range(0, len(body), MOST)]
    ends = [0x80, *[0] * (len(parts) - 2), 0x40]
    return [bytes((indicator, end | kind)) + part for end, part in zip(ends, parts, strict=True)]


@dataclass
class Camera:
    """url: where it is. asked: the methods that came, in order. transports: what SETUP asked for."""

    url: str
    frames: Sequence[bytes]
    fps: int
    asked: list[str] = field(default_factory=list)
    transports: list[str] = field(default_factory=list)

    def serve(self, line: socket.socket) -> None:
        """Answer one client until it goes."""
        with line, line.makefile("rb") as lines:
            while request := _request(lines):
                method, headers = request
                self.asked.append(method)
                line.sendall(self._reply(method, headers))
                if method == "PLAY":
                    self._play(line)
                elif method == "TEARDOWN":
                    return

    def _reply(self, method: str, headers: dict[str, str]) -> bytes:
        told = {"CSeq": headers["cseq"], "Session": "1"}
        body = b""
        match method:
            case "OPTIONS":
                told["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"
            case "DESCRIBE":
                body = self._description()
                told |= {"Content-Type": "application/sdp", "Content-Length": str(len(body))}
            case "SETUP":
                self.transports.append(headers["transport"])
                told["Transport"] = "RTP/AVP/TCP;unicast;interleaved=0-1"
            case "PLAY":
                told["RTP-Info"] = f"url={self.url}/track1;seq=0;rtptime=0"
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        return f"RTSP/1.0 200 OK\r\n{head}\r\n".encode() + body

    def _description(self) -> bytes:
        sets = [unit for unit in nal_units(self.frames[0]) if unit[0] & 0x1F in (_SPS, _PPS)]
        sprop = ",".join(base64.b64encode(unit).decode() for unit in sets)
        return (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            f"m=video 0 RTP/AVP {PAYLOAD_TYPE}\r\na=rtpmap:{PAYLOAD_TYPE} H264/{CLOCK}\r\n"
            f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1;sprop-parameter-sets={sprop}\r\n"
            f"a=framerate:{self.fps}\r\na=control:track1\r\n"
        ).encode()

    def _play(self, line: socket.socket) -> None:
        for packet in rtp_packets(self.frames, self.fps):
            line.sendall(struct.pack("!cBH", b"$", 0, len(packet)) + packet)
        bye = struct.pack("!BBHI", 0x81, 203, 1, SOURCE)
        report = struct.pack("!BBHIQIII", 0x80, 200, 6, SOURCE, 0, 0, 0, 0)
        line.sendall(struct.pack("!cBH", b"$", 1, len(report + bye)) + report + bye)


def _request(lines: BinaryIO) -> tuple[str, dict[str, str]] | None:
    """The next request, passing over what the client sends of RTCP; None at the end."""
    while first := lines.read(1):
        if first == b"$":
            _, size = struct.unpack("!BH", lines.read(3))
            lines.read(size)
            continue
        method = (first + lines.readline()).split()[0].decode()
        headers = {}
        while (row := lines.readline().decode().strip()) != "":
            name, _, value = row.partition(":")
            headers[name.lower()] = value.strip()
        return method, headers
    return None


@contextmanager
def camera(frames: Sequence[bytes], fps: int = 30) -> Iterator[Camera]:
    """A camera that shows these frames: Annex B, parameter sets in the first one."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        shown = Camera(f"rtsp://127.0.0.1:{door.getsockname()[1]}/door", frames, fps)

        def run() -> None:
            while True:
                try:
                    line, _ = door.accept()
                except OSError:
                    return
                try:
                    shown.serve(line)
                except OSError:
                    continue  # the client went in the middle of the film

        thread = threading.Thread(target=run, name="camera")
        thread.start()
        try:
            yield shown
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join()
