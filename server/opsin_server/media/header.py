"""What a picture file says of itself before anything is decoded: format, size and, for JPEG, which way is up.

Owns the list of formats, the limits on size, and the refusal of everything else. Reads bytes, never pixels: a
12 000 x 12 000 PNG costs microseconds here. Every walk over a file's structure is bounded, so that this may
run on the event loop. Must not know Pillow or any other decoder.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from opsin_server.errors import Failure, Reason
from opsin_server.media.exif import jpeg_orientation

__all__ = [
    "ENCODED",
    "MAX_BLOCKS",
    "MAX_SEGMENTS",
    "Data",
    "Format",
    "Header",
    "MediaLimits",
    "read_header",
    "refuse",
    "undecodable",
]

ENCODED = "image.encoded"
"""The field that carries a file's bytes, as errors name it."""

MAX_SEGMENTS = 1024
"""Segments of a JPEG before its pixels, each a step of a Python loop on the event loop, a microsecond. Real
files have a few dozen, one with a large colour profile and XMP up to some five hundred."""

MAX_BLOCKS = 16_384
"""PNG chunks in all, and GIF sub-blocks before the first frame. A GIF with XMP has a thousand, a large PNG in
small chunks more; a hostile file has millions, each a step of some Python loop."""


Data = bytes | memoryview
"""Of a file. A view where it is large: of the message that it came in."""


class Format(StrEnum):
    """The formats that are decoded; the values are Pillow's names of them."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WEBP"
    GIF = "GIF"
    BMP = "BMP"


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """How large a picture may be, in pixels of the stored picture: `max_pixels` in all, `max_side` a side."""

    max_pixels: int = 50_000_000
    max_side: int = 16_384

    def check(self, width: int, height: int, field: str) -> None:
        """Raise IMAGE_TOO_LARGE when a picture of this size is over a limit."""
        if width > self.max_side or height > self.max_side:
            self._refuse(width, height, f"a side may have {self.max_side}", field)
        if width * height > self.max_pixels:
            self._refuse(width, height, f"a picture may have {self.max_pixels} in all", field)

    def _refuse(self, width: int, height: int, rule: str, field: str) -> NoReturn:
        raise Failure(
            Reason.IMAGE_TOO_LARGE,
            f"The picture has {width} x {height} pixels; {rule}.",
            field,
            {
                "width": str(width),
                "height": str(height),
                "max_pixels": str(self.max_pixels),
                "max_side": str(self.max_side),
            },
        )


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes tell. width and height: pixels as stored, before any orientation is applied.

    orientation: EXIF's, 1 to 8, for JPEG; 1 for the others, whose EXIF may lie behind the pixels.
    """

    format: Format
    width: int
    height: int
    orientation: int = 1


def read_header(data: Data, limits: MediaLimits) -> Header:
    """Format and size of an encoded picture, judged by its content.

    Raises `Failure`: INPUT_MISSING (no bytes), FORMAT_UNSUPPORTED, IMAGE_UNDECODABLE (broken header, zero
    size), IMAGE_TOO_LARGE.
    """
    if not data:
        raise Failure(Reason.INPUT_MISSING, "The image has no bytes.", ENCODED)
    kind = _sniff(data)
    try:
        header = _parse(data, kind)
    except (struct.error, IndexError):
        undecodable(kind, "it ends inside its header")
    if header.width <= 0 or header.height <= 0:
        undecodable(kind, f"its header says {header.width} x {header.height} pixels")
    limits.check(header.width, header.height, ENCODED)
    return header


def undecodable(kind: Format, why: str) -> NoReturn:
    """Raise IMAGE_UNDECODABLE; `why` completes "The PNG image cannot be decoded: "."""
    refuse(Reason.IMAGE_UNDECODABLE, f"The {kind} image cannot be decoded: {why}.", format=kind.value)


def refuse(reason: Reason, message: str, **metadata: str) -> NoReturn:
    """Raise a `Failure` that blames the encoded bytes."""
    raise Failure(reason, message, ENCODED, metadata)


def _sniff(data: Data) -> Format:
    match data[:2]:
        case b"\xff\xd8":
            return Format.JPEG
        case b"BM":
            return Format.BMP
        case b"GI" if data[:6] in (b"GIF87a", b"GIF89a"):
            return Format.GIF
        case b"\x89P" if data[:8] == b"\x89PNG\r\n\x1a\n":
            return Format.PNG
        case b"RI" if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return Format.WEBP
    refuse(
        Reason.FORMAT_UNSUPPORTED,
        "The image is in none of the formats that are decoded: JPEG, PNG, WebP, GIF, BMP.",
        formats="JPEG,PNG,WEBP,GIF,BMP",
    )


def _parse(data: Data, kind: Format) -> Header:
    match kind:
        case Format.JPEG:
            return _jpeg(data)
        case Format.PNG:
            return _png(data)
        case Format.WEBP:
            return _webp(data)
        case Format.GIF:
            return _gif(data)
        case Format.BMP:
            return _bmp(data)


# JPEG (ITU T.81, annex B): markers, most of them with a length, up to the start of the first scan.

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}
_FILL, _NOT_FILL = re.compile(rb"\xff"), re.compile(rb"[^\xff]")
_MAX_FILL = 256
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1


def segments(data: Data) -> Iterator[tuple[int, int, int]]:
    """(marker, first byte of the body, end of the body) of each segment before the first scan."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 1 < len(data) and data[at] == 0xFF and data[at + 1] != 0xFF:
            marker = data[at + 1]
            at += 2
        else:
            marker, at = _next_marker(data, at)
        if marker in (_SOS, _EOI):
            return
        if marker == 0 or marker in _NO_LENGTH:
            continue
        length = data[at] << 8 | data[at + 1]
        if length < 2:
            undecodable(Format.JPEG, "one of its segments has no length")
        yield marker, at + 2, at + length
        at += length
    undecodable(Format.JPEG, f"it has more than {MAX_SEGMENTS} segments before its pixels")


def _next_marker(data: Data, at: int) -> tuple[int, int]:
    """Like libjpeg: past what is not a marker, and past the 0xFF bytes that may fill up before one."""
    fill = _FILL.search(data, at)
    found = _NOT_FILL.search(data, fill.start(), fill.start() + _MAX_FILL) if fill else None
    if found is None:
        undecodable(Format.JPEG, "it ends before its pixels")
    return found[0][0], found.end()


def _jpeg(data: Data) -> Header:
    size: tuple[int, int] | None = None
    orientation = 0
    for marker, start, end in segments(data):
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", data, start + 1)
            if size is not None:
                undecodable(Format.JPEG, "it gives its size twice")
            size = width, height
        elif marker == _APP1 and not orientation and data[start : start + 6] == b"Exif\0\0":
            orientation = jpeg_orientation(bytes(data[start:end]))
    if size is None:
        undecodable(Format.JPEG, "it does not give its size")
    return Header(Format.JPEG, *size, orientation or 1)


def _png(data: Data) -> Header:
    length, name, width, height = struct.unpack_from(">I4sII", data, 8)
    if name != b"IHDR" or length != 13:
        undecodable(Format.PNG, "it does not begin with a header chunk")
    return Header(Format.PNG, width, height)


def _webp(data: Data) -> Header:
    match data[12:16]:
        case b"VP8X":  # extended: the canvas, 24 bits a side, less one
            low, high = struct.unpack_from("<II", bytes(data[24:30]) + b"\0\0", 0)
            return Header(Format.WEBP, (low & 0xFFFFFF) + 1, (low >> 24 | (high & 0xFFFF) << 8) + 1)
        case b"VP8L" if data[20] == 0x2F:  # lossless: 14 bits a side, less one
            (bits,) = struct.unpack_from("<I", data, 21)
            return Header(Format.WEBP, (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":  # lossy: 14 bits a side, 2 bits of scale above
            width, height = struct.unpack_from("<HH", data, 26)
            return Header(Format.WEBP, width & 0x3FFF, height & 0x3FFF)
    undecodable(Format.WEBP, "its first chunk is no picture")


def _gif(data: Data) -> Header:
    """The screen's size, grown to hold the first frame: a decoder makes room for both."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = 0
    while data[at] == 0x21:  # an extension: two bytes, then sub-blocks up to an empty one
        at += 2
        if not data[at]:
            # Decoders disagree about what follows an extension of no blocks, so none of them gets to see it.
            undecodable(Format.GIF, "it has an empty extension")
        while data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > MAX_BLOCKS:
                undecodable(Format.GIF, f"it has more than {MAX_BLOCKS} blocks before its pixels")
        at += 1
    if data[at] != 0x2C:
        undecodable(Format.GIF, "it has no frame")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    if not frame_width or not frame_height:
        undecodable(Format.GIF, "its first frame is empty")
    return Header(Format.GIF, max(width, left + frame_width), max(height, top + frame_height))


def _bmp(data: Data) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:  # OS/2: 16 bits a side
        return Header(Format.BMP, *struct.unpack_from("<HH", data, 18))
    if size < 16:
        undecodable(Format.BMP, "its header has no known length")
    width, height = struct.unpack_from("<ii", data, 18)
    return Header(Format.BMP, width, abs(height))  # a negative height means rows from top to bottom
