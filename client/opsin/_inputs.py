"""What can be looked at, and how it becomes something that travels.

A caller gives a path, bytes, pixels, a text or an address; `load` turns it into one of four things that the
contract can carry: encoded bytes, a `RawFrame`, a `Uri` or a `Text`. What is wrong with an input is said
here, before anything is sent. Files are read, never decoded: the server does that, by content.

Knows neither protobuf nor gRPC. numpy and Pillow objects are recognised without importing either.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from opsin._errors import InvalidInput, MessageTooLarge
from opsin._spelling import check_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

__all__ = ["Input", "Loaded", "Packet", "PixelFormat", "RawFrame", "Text", "Uri", "load", "needs_work"]


class PixelFormat(StrEnum):
    """How the pixels of a `RawFrame` are stored. YUV is BT.601, limited range."""

    RGB24 = "rgb24"
    """Three bytes a pixel: red, green, blue."""
    BGR24 = "bgr24"
    """Three bytes a pixel: blue, green, red, as OpenCV has them."""
    GRAY8 = "gray8"
    """One byte a pixel: luminance."""
    NV12 = "nv12"
    """4:2:0 in two planes: Y, then U and V interleaved. Even sizes only."""
    I420 = "i420"
    """4:2:0 in three planes: Y, U, V. Even sizes only."""


_ROW_BYTES = {PixelFormat.RGB24: 3, PixelFormat.BGR24: 3}
_PLANAR = (PixelFormat.NV12, PixelFormat.I420)


@dataclass(frozen=True, slots=True)
class Text:
    """A text to classify or embed. (A plain string is the path of a picture.)"""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text:
            raise InvalidInput.at("text", "Text takes a string of at least one character")


@dataclass(frozen=True, slots=True)
class Uri:
    """The http or https address of a picture, fetched by the server if it is set up to."""

    uri: str

    def __post_init__(self) -> None:
        if not self.uri.startswith(("http://", "https://")):
            raise InvalidInput.at(
                "image.uri", f"Uri takes an http:// or https:// address, not {_short(self.uri)}"
            )


@dataclass(frozen=True, slots=True, repr=False)
class RawFrame:
    """Pixels as they lie in memory: upright, rows from top to bottom, planes one after another.

    data: bytes-like; longer than needed is allowed, shorter is InvalidInput.
    width, height: pixels, at least 1, even for NV12 and I420.
    stride: bytes per row of the first plane; 0 = tight. NV12's chroma rows are as long, I420's half.
    """

    data: bytes
    width: int
    height: int
    format: PixelFormat = PixelFormat.RGB24
    stride: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", bytes(self.data))
        object.__setattr__(self, "format", PixelFormat(self.format))
        self._check()

    def __repr__(self) -> str:
        return f"RawFrame({self.width}x{self.height}, {self.format}, {len(self.data)} bytes)"

    @property
    def row_bytes(self) -> int:
        """Bytes from one row of the first plane to the next."""
        return self.stride or self.width * _ROW_BYTES.get(self.format, 1)

    @property
    def needed_bytes(self) -> int:
        """The fewest bytes that `data` may have."""
        rows = self.height * 3 // 2 if self.format in _PLANAR else self.height
        return self.row_bytes * rows

    def _check(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InvalidInput.at(
                "image.raw", f"a frame has at least one pixel, not {self.width} x {self.height}"
            )
        if self.format in _PLANAR and (self.width % 2 or self.height % 2):
            raise InvalidInput.at(
                "image.raw", f"{self.format} takes even sizes, not {self.width} x {self.height}"
            )
        tight = self.width * _ROW_BYTES.get(self.format, 1)
        if self.row_bytes < tight:
            raise InvalidInput.at(
                "image.raw.stride", f"a row takes {tight} bytes; the stride is {self.stride}"
            )
        if len(self.data) < self.needed_bytes:
            raise InvalidInput.at(
                "image.raw.data",
                f"{self.width} x {self.height} {self.format} takes {self.needed_bytes} bytes; "
                f"got {len(self.data)}",
            )


@dataclass(frozen=True, slots=True, repr=False)
class Packet:
    """One picture as a video encoder put it out, for a stream that was opened with `codec`.

    data: H.264 or HEVC in Annex B form (start codes, no B-frames), parameter sets before each key frame; or a
        JPEG, for Motion JPEG. Packets go into the stream in decoding order, without gaps.
    key_frame: whether decoding can begin here.
    """

    data: bytes
    key_frame: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", bytes(self.data))
        if not self.data:
            raise InvalidInput.at("frame.packet", "a packet has at least one byte")

    def __repr__(self) -> str:
        return f"Packet({len(self.data)} bytes{', key frame' if self.key_frame else ''})"


Input: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Text | Uri | RawFrame"
    " | Image.Image | npt.NDArray[np.uint8]"
)
"""Anything that can be looked at.

str, PathLike: the path of a picture file, for every method. bytes, bytearray, memoryview: the content of
such a file. A binary file object: read to its end. PIL image, numpy array of uint8 with shape (rows,
columns, 3) in RGB, (rows, columns, 4) whose alpha is dropped, or (rows, columns) in grey. `RawFrame`: other
pixel layouts. `Text`: a text. `Uri`: an address for the server to fetch.
"""

Loaded: TypeAlias = bytes | RawFrame | Uri | Text
"""An input as it travels; bytes are an encoded picture. (Streams take a `Packet`, too.)"""


def load(source: Any, *, limit: int, quality: int | None = None) -> Loaded:
    """Make an input ready to travel. Raises InvalidInput or MessageTooLarge.

    limit: the largest message in bytes. Pixels travel raw, exactly as they are; those that do not fit the
        limit are sent as JPEG of quality 95.
    quality: send all pixels as JPEG of this quality, 1..100; for streams, where the network counts more.
    """
    from opsin import _images

    match source:
        case Text() | Uri():
            check_text("text", source.text if isinstance(source, Text) else source.uri)
            return source
        case RawFrame() as frame:
            return frame if quality is None else _images.jpeg(frame, quality)
        case bytes() | bytearray() | memoryview():
            return _encoded(bytes(source), "the input")
        case str() | os.PathLike():
            return _read(source, limit)
        case _ if (pixels := _images.pixels(source)) is not None:
            return _images.fitting(pixels, limit, quality)
        case _ if hasattr(source, "read"):
            return _encoded(source.read(), "the file object")
        case _:
            raise InvalidInput.at("input", _NOT_AN_INPUT.format(kind=_kind(source)))


def needs_work(source: Any) -> bool:
    """Whether `load` reads a file or works through pixels, so that an event loop should not do it."""
    return not isinstance(source, bytes | bytearray | memoryview | Text | Uri | RawFrame | Packet)


_NOT_AN_INPUT = (
    "cannot look at {kind}: give a path, encoded bytes, a PIL image, a numpy array (uint8, RGB), an "
    "opsin.RawFrame, an opsin.Uri or an opsin.Text"
)


def _read(path: "str | os.PathLike[str]", limit: int) -> bytes:
    name = os.fspath(path)
    if name.startswith(("http://", "https://")):
        raise InvalidInput.at(
            "input", f"{_short(name)} is an address: for the server to fetch it, give opsin.Uri(...)"
        )
    try:
        size = Path(name).stat().st_size
        if Path(name).is_dir():
            raise InvalidInput.at("input", f"{name} is a folder: give the files in it")
        if size > limit:
            raise MessageTooLarge(f"{name} has {size} bytes, more than a message may have ({limit})")
        return _encoded(Path(name).read_bytes(), name)
    except FileNotFoundError:
        raise InvalidInput.at(
            "input", f"there is no file {_short(name)} (for a text, give opsin.Text(...))"
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput.at(
            "input", f"cannot read {_short(name)}: {getattr(error, 'strerror', None) or error}"
        ) from None


def _encoded(data: object, name: str) -> bytes:
    if not isinstance(data, bytes):
        raise InvalidInput.at("input", f"{name} gives {_kind(data)}, not bytes: open it in binary mode")
    if not data:
        raise InvalidInput.at("input", f"{name} is empty: a picture file has at least a header")
    return data


def _kind(value: object) -> str:
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:99] + "…")
