"""Whether a JPEG is of the plain and whole kind that a GPU may decode in libjpeg's place.

A GPU's decoder knows fewer kinds than libjpeg, and may paint over damage that ours refuses. So only what is
certain here goes to it: eight-bit baseline YCbCr of the usual samplings, one scan, nothing between its first
byte and the end of the file but coded data, as many restart markers as there have to be, no gap, and the end
marker last. Whatever is in doubt belongs to libjpeg, and is answered or refused as it always was.

What this cannot see is damage inside coded data that leaves all of that as it is. Linear in the file's bytes
(it searches for 0xFF), so for worker threads. Knows no decoder and no device.
"""

import re
import struct

from opsin_server.errors import Failure
from opsin_server.media.header import Data, Format, Header, segments

__all__ = ["is_plain"]

_BASELINE, _JFIF, _ADOBE, _RESTARTS = 0xC0, 0xE0, 0xEE, 0xDD
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SAMPLINGS = frozenset({(1, 1), (2, 1), (2, 2)})
"""Of brightness against colour: 4:4:4, 4:2:2, 4:2:0."""
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_OTHER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""A marker that is no restart."""
_GAP = re.compile(rb"\0{16}")
"""Where a part of a file was never written. Coded data has so many zeros only where all is of one colour."""


def is_plain(data: Data, header: Header) -> bool:
    """Whether `data`, whose header was read, is a JPEG that is certain to mean the same to every decoder."""
    if header.format is not Format.JPEG or data[-len(_END) :] != _END:
        return False
    try:
        return _is_plain(data)
    except (Failure, struct.error, IndexError):  # libjpeg shall say what is wrong with it
        return False


def _is_plain(data: Data) -> bool:
    frame, interval, end = b"", 0, 2
    stated = False  # a marker says that it is YCbCr
    for marker, start, end in segments(data):
        body = bytes(data[start:end])
        if marker in _FRAMES:
            frame = body if marker == _BASELINE else b""
        elif marker == _RESTARTS:
            (interval,) = struct.unpack(">H", body)
        elif marker == _JFIF:
            stated |= body.startswith(b"JFIF\0")
        elif marker == _ADOBE and body.startswith(b"Adobe"):
            if body[11] != 1:  # inks, or RGB as it is
                return False
            stated = True
    units = _units(frame, stated=stated)
    return units > 0 and _is_one_scan(data, end, (units - 1) // interval if interval else 0)


def _units(frame: bytes, *, stated: bool) -> int:
    """Of a frame header's body: how many units a scan of all its colours has; 0 where it is not plain."""
    if len(frame) != 15 or frame[0] != 8 or frame[5] != 3:
        return 0
    names, samplings = frame[6::3], frame[7::3]
    if not stated and names != b"\1\2\3":
        return 0
    across, down = samplings[0] >> 4, samplings[0] & 15
    if (across, down) not in _SAMPLINGS or samplings[1:] != b"\x11\x11":
        return 0
    height, width = struct.unpack_from(">HH", frame, 1)
    return int(-(-width // (8 * across)) * -(-height // (8 * down)))


def _is_one_scan(data: Data, at: int, restarts: int) -> bool:
    """Whether from the scan header at `at` on there is coded data with so many restarts, and the end."""
    if data[at : at + 2] != _SCAN or data[at + 4] != 3:  # fewer colours: there are more scans to come
        return False
    (length,) = struct.unpack_from(">H", data, at + 2)
    coded = at + 2 + length
    other = _OTHER.search(data, coded)
    if other is None or other.start() != len(data) - len(_END) or _GAP.search(data, coded):
        return False
    return sum(1 for _ in _RESTART.finditer(data, coded)) == restarts
