"""Pictures for the tests here: made on the spot, sound ones and hostile ones."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opsin_server.calls import EncodedImage
from opsin_server.media.decode import decode
from opsin_server.media.header import MediaLimits

SAMPLES = Path(__file__).parents[2] / "data" / "images"
LIMITS = MediaLimits()
PNG_START = b"\x89PNG\r\n\x1a\n"


def photo(width: int = 61, height: int = 43) -> Image.Image:
    """A picture that no turn or mirroring maps onto itself."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x * y) % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def pixels(data: bytes, near: tuple[int, int] = (0, 0)) -> np.ndarray:
    return decode(EncodedImage(data), LIMITS, near).pixels


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture, warnings.catch_warnings(action="ignore"):
        return np.asarray(picture.convert("RGB"))


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A whole PNG. rows: unfiltered, each with its filter byte 0 in front."""
    body = chunk(b"IDAT", zlib.compress(rows, 1))
    return PNG_START + png_header(width, height, depth, colour) + body + chunk(b"IEND")


def rle_bmp(width: int, height: int, body: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    palette = bytes(channel for grey in range(256) for channel in (grey, grey, grey, 0))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body


def gif_with_frame(screen: tuple[int, int], frame: tuple[int, int, int, int]) -> bytes:
    """A GIF that disposes of its first frame (left, top, width, height), with no pixels in it."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0, 0, 0) + b"\x21\xf9\x04\x08\x00\x00\x00\x00"
    return head + b"\x2c" + struct.pack("<HHHHB", *frame, 0) + b"\x02\x00\x3b"
