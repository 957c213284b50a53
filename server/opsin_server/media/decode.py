"""Picture files and raw frames to upright uint8 RGB.

Owns the choice of decoder and the conversion of every pixel layout to RGB. JPEG goes through simplejpeg, at a
reduced size where the caller needs no more, or through the device's decoder where the caller has one; the
rest, and the few JPEGs that simplejpeg does not know (CMYK, unusual chroma), through Pillow, one named plugin
at a time. Whatever a decoder raises becomes a `Failure`. Runs in worker threads, keeps no state, and must not
know the event loop. `decoded_bytes` is the part that is cheap enough for the loop.
"""

import io
import warnings

import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from opsin_detectors.api import ImageInput, Pixels
from opsin_server.calls import DecodedImage, EncodedImage, ImageSource, RawImage, UriImage
from opsin_server.errors import QUOTE_LIMIT, Failure, Reason
from opsin_server.media.device import DeviceDecoder
from opsin_server.media.exif import orientation, turn_upright, upright_size
from opsin_server.media.guards import check_work
from opsin_server.media.header import ENCODED, Data, Format, Header, MediaLimits, read_header, undecodable
from opsin_server.media.raw import check_raw, decode_raw, is_view

__all__ = ["configure_pillow", "decode", "decoded_bytes", "is_instant"]

# Pillow finds its plugins lazily and not thread-safely, so they are imported here, before any thread asks.
_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
Image.preinit()

_SIXTEEN_TO_EIGHT = ((np.arange(1 << 16, dtype=np.uint32) + 128) // 257).astype(np.uint8)


def configure_pillow(limits: MediaLimits) -> None:
    """Fit Pillow's process-wide settings to ours; once, at start.

    Our own limits come first, but Pillow's bomb check must not be the narrower one. Its warnings are about
    callers' files: nothing for the server's stderr.
    """
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.max_pixels)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def is_instant(source: ImageSource) -> bool:
    """Whether `decode` only wraps the bytes (tight RGB24): not worth a hop to another thread."""
    return isinstance(source, RawImage) and is_view(source)


def decoded_bytes(source: ImageSource, limits: MediaLimits, near: tuple[int, int] = (0, 0)) -> int:
    """Bytes that `decode` will allocate for the pixels, from the header alone; 0 where it allocates none.

    Microseconds for any real picture. Raises the `Failure` that `decode` would, as far as headers tell.
    """
    match source:
        case RawImage():
            check_raw(source, limits)
            return 0 if is_view(source) else source.width * source.height * 3
        case EncodedImage(data):
            header = read_header(data, limits)
            factor = _reduction(header, near)
            return -(-header.width // factor) * -(-header.height // factor) * 3
        case DecodedImage(width, height):
            return width * height * 3
        case UriImage():
            raise _uri_disabled()


def decode(
    source: ImageSource,
    limits: MediaLimits,
    near: tuple[int, int] = (0, 0),
    device: DeviceDecoder | None = None,
) -> ImageInput:
    """The pixels of `source`: uint8, RGB, (rows, columns, 3), upright, contiguous, perhaps read-only.

    near: (width, height) in upright pixels that are enough for the caller: a JPEG may come back reduced to a
        half, a quarter or an eighth, but on neither side below it. (0, 0) asks for the full size.
    device: decodes the JPEGs that it is certain about, in full size: their pixels are a tensor then.

    Raises `Failure`: INPUT_MISSING, FORMAT_UNSUPPORTED, IMAGE_TOO_LARGE, IMAGE_UNDECODABLE, URI_DISABLED,
    MEMORY_LIMIT; nothing else, whatever the bytes. Its field starts at `image`.
    """
    match source:
        case RawImage():
            return decode_raw(source, limits)
        case EncodedImage(data):
            return _decode_file(data, limits, near, device)
        case DecodedImage(to_rgb=to_rgb):
            return to_rgb(near)
        case UriImage():
            raise _uri_disabled()


def _uri_disabled() -> Failure:
    return Failure(
        Reason.URI_DISABLED,
        "This server does not fetch pictures by address; send the bytes of the file in `encoded`.",
        "image.uri",
    )


def _decode_file(
    data: Data, limits: MediaLimits, near: tuple[int, int], device: DeviceDecoder | None
) -> ImageInput:
    header = read_header(data, limits)
    check_work(data, header)
    if device is not None and (there := device.decode(data, header)) is not None:
        return there
    try:
        pixels, turn = _pixels(data, header, near)
    except Failure:
        raise
    except MemoryError as error:
        size = f"{header.width} x {header.height}"
        message = f"There is no memory for a picture of {size} pixels."
        raise Failure(Reason.MEMORY_LIMIT, message, ENCODED, retry_after=1.0) from error
    except (
        Exception
    ) as error:  # decoders raise nearly anything on broken files, struct.error to RecursionError
        undecodable(header.format, _reason(error))
    width, height = upright_size(header.width, header.height, turn)
    return ImageInput(turn_upright(pixels, turn), width, height)


def _reason(error: Exception) -> str:
    """A decoder's own words, as far as they help the caller."""
    words = str(error).partition("\n")[0].removesuffix(".")
    if not words or "<_io" in words or not isinstance(error, OSError | ValueError | SyntaxError):
        return "its structure is broken"
    return words[:QUOTE_LIMIT].encode("ascii", "backslashreplace").decode()


def _pixels(data: Data, header: Header, near: tuple[int, int]) -> tuple[Pixels, int]:
    """Pixels as stored, perhaps reduced, and the orientation that they need."""
    factor = _reduction(header, near)
    if header.format is Format.JPEG:
        pixels = _simplejpeg(data, header, factor)
        if pixels is not None:
            return pixels, header.orientation
    return _pillow(data, header, factor)


def _reduction(header: Header, near: tuple[int, int]) -> int:
    """How many times smaller the picture may be decoded: 1, 2, 4 or 8.

    libjpeg could do any eighth, but only these have fast code: 7/8 of VGA takes twice as long as all of it.
    """
    if header.format is not Format.JPEG or near == (0, 0):
        return 1
    width, height = upright_size(*near, header.orientation)
    shorter = min(header.width, header.height)
    for factor in (8, 4, 2):
        # A side shorter than the factor gains nothing, and Pillow could not be asked for less than one pixel.
        if (
            shorter >= factor
            and -(-header.width // factor) >= width
            and -(-header.height // factor) >= height
        ):
            return factor
    return 1


def _simplejpeg(data: Data, header: Header, factor: int) -> Pixels | None:
    """Pixels by simplejpeg, or None where Pillow shall try.

    Strict: damage that libjpeg would paint over in grey is refused, as nobody could tell what was looked at.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != (header.width, header.height):
            undecodable(Format.JPEG, "it gives its size twice")
        if colours in ("CMYK", "YCCK"):
            return None  # simplejpeg's inks come out one off from Pillow's, nearly everywhere
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, min_width=-(-width // factor), min_height=-(-height // factor)
        )
    except ValueError as error:
        words = str(error)
        if ("orrupt" in words or "Premature" in words) and "extraneous" not in words:
            raise
        return None
    return pixels


def _pillow(data: Data, header: Header, factor: int) -> tuple[Pixels, int]:
    with Image.open(io.BytesIO(data), formats=(header.format.value,)) as picture:
        if picture.size != (header.width, header.height):
            # A file that shows two sizes is out to get past the limit.
            undecodable(header.format, "it gives its size twice")
        if factor > 1:
            picture.draft(None, (header.width // factor, header.height // factor))
        picture.load()
        turn = header.orientation
        if header.format is not Format.JPEG:
            turn = orientation(picture.info.get("exif", b"").removeprefix(b"Exif\0\0"))
        return _to_rgb(picture), turn


def _to_rgb(picture: Image.Image) -> Pixels:
    """Pillow's convert("RGB"), but 16-bit grey scaled by 1/257, where Pillow would cut it off at 255.

    16-bit colour never gets here: Pillow reads it as 8-bit already.
    """
    if picture.mode.startswith("I"):
        wide = np.asarray(picture)
        grey = _SIXTEEN_TO_EIGHT.take(wide, mode="clip")
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode == "RGB":  # which convert() would copy
        return np.ascontiguousarray(picture)
    # Transparency is dropped; left in, it makes convert() warn and look for a spare palette entry.
    picture.info.pop("transparency", None)
    return np.ascontiguousarray(picture.convert("RGB"))
