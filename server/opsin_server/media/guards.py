"""Files of allowed size that would still cost far too much work: found by counting before a decoder starts.

The size limit bounds memory; these bound time. Linear in the file's bytes, so for worker threads.
"""

import re
import struct

import numpy as np

from opsin_server.errors import Reason
from opsin_server.media.header import MAX_BLOCKS, MAX_SEGMENTS, Data, Format, Header, refuse, undecodable

__all__ = ["MAX_RLE_BYTES", "MAX_SCANS", "check_work"]

MAX_SCANS = 50
"""Scans of a JPEG. Each is a pass over the whole picture however few bytes it has; encoders write about ten.
50 of them at 50 megapixels take three seconds of one core. ("Two Issues with the JPEG Standard", 2015.)"""

MAX_RLE_BYTES = 4 << 20
"""Size of a run-length coded BMP file, which Pillow decodes in a Python loop: about a second for this."""

_BLOCK = 1 << 20
"""Bytes that are looked at together, for the sake of the memory that takes."""
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""Neither coded data nor a restart within it."""
_SCAN, _END, _FIRST_WITH_LENGTH = 0xDA, 0xD9, 0xC0
_RLE = (1, 2)


def check_work(data: Data, header: Header) -> None:
    """Raise `Failure` when decoding would take work out of all proportion to the picture's size."""
    match header.format:
        case Format.JPEG if _scans_at_most(data) > MAX_SCANS:
            # Coded data never holds these two bytes. What else is in a file does, by chance: a film of some
            # megabytes that a phone puts behind its picture has a hundred of them.
            _check_scans(data)
        case Format.PNG:
            _check_chunks(data)
        case Format.BMP:
            _check_rle(data)


def _scans_at_most(data: Data) -> int:
    """How often the two bytes that begin a scan are there.

    `bytes.count` takes five times as long, 0.4 ms for a 1080p picture, and nobody may run Python meanwhile.
    """
    levels, count = np.frombuffer(data, np.uint8), 0
    for at in range(0, len(levels), _BLOCK):
        part = levels[at : at + _BLOCK + 1]
        count += int(np.count_nonzero((part[:-1] == 0xFF) & (part[1:] == _SCAN)))
    return count


def _check_scans(data: Data) -> None:
    """As libjpeg reads: from marker to marker, past what belongs to each, up to the one that ends it."""
    at, scans = 2, 0
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or data[found.end() - 1] == _END:
            return
        at, marker = found.end(), data[found.end() - 1]
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            undecodable(Format.JPEG, f"it has more than {MAX_SCANS} scans")
        if marker >= _FIRST_WITH_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    undecodable(Format.JPEG, f"it has more than {MAX_SEGMENTS} segments")


def _check_chunks(data: Data) -> None:
    """Pillow reads a PNG's chunks in a Python loop, and a chunk may be empty."""
    at = 8
    for _ in range(MAX_BLOCKS):
        if at + 12 > len(data) or data[at + 4 : at + 8] == b"IEND":
            return
        (length,) = struct.unpack_from(">I", data, at)
        at += 12 + length
    undecodable(Format.PNG, f"it has more than {MAX_BLOCKS} chunks")


def _check_rle(data: Data) -> None:
    (compression,) = struct.unpack_from("<I", data, 30) if len(data) >= 34 else (0,)
    if compression in _RLE and data[14] != 12 and len(data) > MAX_RLE_BYTES:
        size = f"{len(data)} bytes; run-length coded ones may have {MAX_RLE_BYTES}"
        refuse(Reason.IMAGE_TOO_LARGE, f"The BMP image has {size}.", max_bytes=str(MAX_RLE_BYTES))
