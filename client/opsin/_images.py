"""Pixels of numpy and Pillow: recognised, checked, and brought into a form that travels.

Imports numpy and Pillow only when they are there and needed. Knows nothing of messages.
"""

import io
from typing import Any

from opsin._errors import InvalidInput, MissingExtra
from opsin._extras import loaded, need, optional
from opsin._inputs import PixelFormat, RawFrame

__all__ = ["fitting", "jpeg", "pixels", "to_pil"]

_FALLBACK_QUALITY = 95
_SLACK = 64 * 1024  # for the rest of the message: options, labels, framing


def pixels(source: Any) -> RawFrame | bytes | None:
    """The pixels of a PIL image or a numpy array; None for anything else.

    bytes (a PNG file) come back for 16-bit images, which the contract's raw formats do not cover.
    """
    if (numpy := loaded("numpy")) and isinstance(source, numpy.ndarray):
        return _from_array(source)
    if (image := loaded("PIL.Image")) and isinstance(source, image.Image):
        return _from_pil(source)
    return None


def fitting(source: RawFrame | bytes, limit: int, quality: int | None) -> RawFrame | bytes:
    """The pixels as they are, or as JPEG: where asked for, and where they do not fit the message limit."""
    if isinstance(source, bytes):
        return source
    if quality is not None:
        return jpeg(source, quality)
    if len(source.data) + _SLACK <= limit:
        return source
    try:
        return jpeg(source, _FALLBACK_QUALITY)
    except MissingExtra:
        return source  # the message is refused for its size, and that error says more


def jpeg(frame: RawFrame, quality: int) -> bytes | RawFrame:
    """The frame as JPEG, quality 1..100, chroma at half resolution. YUV frames are small and stay raw."""
    match frame.format:
        case PixelFormat.NV12 | PixelFormat.I420:
            return frame
        case _ if (fast := optional("simplejpeg")) and (numpy := optional("numpy")):
            return _simplejpeg(frame, quality, fast, numpy)
        case _:
            out = io.BytesIO()
            to_pil(frame, "Sending pixels as JPEG").save(out, "JPEG", quality=quality, subsampling="4:2:0")
            return out.getvalue()


def to_pil(source: Any, what: str = "Drawing") -> Any:
    """Any picture as an upright PIL image in mode RGB (grey frames: L). Raises InvalidInput, MissingExtra."""
    image = need("PIL.Image", what)
    match source:
        case RawFrame(format=PixelFormat.NV12 | PixelFormat.I420):
            raise _invalid(f"cannot draw on {source.format} pixels: give the picture as image=")
        case RawFrame():
            return _frame_to_pil(source, image)
        case bytes() | bytearray() | memoryview():
            return _opened(io.BytesIO(source), image)
        case image.Image():
            return _upright(source).convert("RGB")
        case _ if (numpy := loaded("numpy")) and isinstance(source, numpy.ndarray):
            return _frame_to_pil(_from_array(source), image)
        case _:
            return _opened(source, image)


def _opened(file: Any, image: Any) -> Any:
    try:
        with image.open(file) as opened:
            return _upright(opened).convert("RGB")
    except (OSError, AttributeError) as error:
        raise _invalid(f"no picture to draw on ({error}): give one as image=") from None


def _frame_to_pil(frame: RawFrame, image: Any) -> Any:
    mode, layout = {
        PixelFormat.RGB24: ("RGB", "RGB"),
        PixelFormat.BGR24: ("RGB", "BGR"),
        PixelFormat.GRAY8: ("L", "L"),
    }[frame.format]
    size = (frame.width, frame.height)
    return image.frombytes(mode, size, frame.data, "raw", layout, frame.row_bytes)


def _simplejpeg(frame: RawFrame, quality: int, fast: Any, numpy: Any) -> bytes:
    grey = frame.format is PixelFormat.GRAY8
    depth = 1 if grey else 3
    rows = numpy.frombuffer(frame.data, numpy.uint8, frame.row_bytes * frame.height)
    rows = rows.reshape(frame.height, frame.row_bytes)[:, : frame.width * depth]
    array = numpy.ascontiguousarray(rows.reshape(frame.height, frame.width, depth))
    colors = {PixelFormat.GRAY8: "GRAY", PixelFormat.BGR24: "BGR"}.get(frame.format, "RGB")
    encoded: bytes = fast.encode_jpeg(array, quality, colors, "Gray" if grey else "420")
    return encoded


def _from_array(array: Any) -> RawFrame:
    if array.dtype.name != "uint8":
        hint = ": multiply by 255 and convert, if its range is 0..1" if array.dtype.kind == "f" else ""
        raise _invalid(f"a numpy picture is uint8, 0..255; this one is {array.dtype}{hint}")
    match array.shape:
        case (rows, columns) | (rows, columns, 1):
            return RawFrame(array.tobytes(), columns, rows, PixelFormat.GRAY8)
        case (rows, columns, 3):
            return RawFrame(array.tobytes(), columns, rows)
        case (rows, columns, 4):
            return RawFrame(array[..., :3].tobytes(), columns, rows)
        case (1 | 3 | 4, _, _):
            raise _invalid(
                f"a numpy picture is (rows, columns, channels); this one is {array.shape}: transpose(1, 2, 0)"
            )
        case (_, _, _, _):
            raise _invalid(
                f"this is a batch of pictures, {array.shape}: give them one by one, or to detect_many"
            )
        case shape:
            raise _invalid(f"a numpy picture is (rows, columns, 3) or (rows, columns); this one is {shape}")


def _from_pil(image: Any) -> RawFrame | bytes:
    match image.mode:
        case "F":
            raise _invalid("a PIL image of mode F has no fixed range: convert it to L or RGB")
        case mode if mode.startswith("I"):
            out = io.BytesIO()
            image.save(out, "PNG")
            return out.getvalue()
        case "L":
            upright, layout = _upright(image), PixelFormat.GRAY8
        case _:
            upright, layout = _upright(image).convert("RGB"), PixelFormat.RGB24
    return RawFrame(upright.tobytes(), upright.width, upright.height, layout)


def _upright(image: Any) -> Any:
    return need("PIL.ImageOps", "Turning a picture upright").exif_transpose(image)


def _invalid(message: str) -> InvalidInput:
    return InvalidInput.at("input", message)
