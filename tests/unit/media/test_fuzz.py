"""Whatever the bytes, the outcome is pixels or a `Failure`, and never anything else."""

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opsin_server.calls import EncodedImage, ImageSource, PixelFormat, RawImage
from opsin_server.errors import Failure, Reason
from opsin_server.media.decode import decode, decoded_bytes
from opsin_server.media.header import MediaLimits, read_header
from opsin_server.media.plain_jpeg import is_plain
from unit.media.pictures import encode, exif, gif_with_frame, photo, png, rle_bmp

LIMITS = MediaLimits(max_pixels=250_000, max_side=4096)
REASONS = {
    Reason.INPUT_MISSING,
    Reason.FORMAT_UNSUPPORTED,
    Reason.IMAGE_TOO_LARGE,
    Reason.IMAGE_UNDECODABLE,
    Reason.MEMORY_LIMIT,
}
FRAMES = [photo(23, 17), photo(17, 23).resize((23, 17))]
SOUND = [
    encode(photo(48, 40), "JPEG", exif=exif(6)),
    encode(photo(48, 40), "JPEG", progressive=True),
    encode(photo(48, 40).convert("CMYK"), "JPEG"),
    encode(photo(48, 40).convert("L"), "JPEG"),
    encode(photo(23, 17), "PNG", exif=exif(3)),
    encode(photo(23, 17).quantize(8), "PNG", transparency=bytes(range(8))),
    encode(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    png(3, 2, bytes(2 * 19), depth=16),
    encode(photo(23, 17), "WEBP", exif=exif(8)),
    encode(photo(23, 17), "WEBP", lossless=True),
    encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    encode(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    gif_with_frame((5, 5), (1, 1, 3, 3)),
    encode(photo(23, 17), "BMP"),
    encode(photo(23, 17).convert("1"), "BMP"),
    rle_bmp(4, 2, b"\x04\x07\x00\x00\x02\x09\x02\x03\x00\x01"),
]
STARTS = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"GIF89a",
    b"BM",
    b"BM" + bytes(12) + struct.pack("<I", 40),
    *(b"RIFF\x40\0\0\0WEBP" + kind for kind in (b"VP8 ", b"VP8L", b"VP8X")),
]

numbers = st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound file with a few bytes or numbers changed, and pieces cut out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(1, 4))):
        # Most of what a parser decides upon lies in front.
        last = min(len(data), 120) if draw(st.booleans()) else len(data)
        at = draw(st.integers(0, last))
        end = min(len(data), at + draw(st.integers(0, 60)))
        match draw(st.sampled_from(["byte", "number", "cut", "double", "insert", "end"])):
            case "byte":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                data[at : at + 4] = draw(numbers).to_bytes(4, draw(st.sampled_from(["big", "little"])))
            case "cut":
                del data[at:end]
            case "double":
                data[at:at] = data[at:end]
            case "insert":
                data[at:at] = draw(st.binary(max_size=40))
            case "end":
                del data[at:]
    return bytes(data)


def check(source: ImageSource, near: tuple[int, int]) -> None:
    """Decode; hold the outcome, good or bad, to what is promised."""
    try:
        size = decoded_bytes(source, LIMITS, near)
        image = decode(source, LIMITS, near)
    except Failure as failure:
        assert failure.reason in REASONS, failure  # noqa: PT017 - either outcome is right
        assert failure.field.startswith("image."), failure  # noqa: PT017
        assert len(failure.message) < 500  # noqa: PT017
        assert failure.message.isprintable()  # noqa: PT017
        return
    rows, columns, channels = image.pixels.shape
    assert channels == 3
    assert image.pixels.dtype == "uint8"
    assert image.pixels.flags.c_contiguous
    assert image.width * image.height <= LIMITS.max_pixels
    assert rows >= min(near[1], image.height)
    assert columns >= min(near[0], image.width)
    assert size in (0, image.pixels.nbytes)


nears = st.sampled_from([(0, 0), (1, 1), (12, 30)])
fuzz = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@fuzz
@given(data=damaged(), near=nears)
def test_damaged_files_give_pixels_or_a_failure(data: bytes, near: tuple[int, int]) -> None:
    check(EncodedImage(data), near)


def outcome(data: bytes | memoryview, near: tuple[int, int]) -> object:
    """What comes of a file, to be compared."""
    try:
        size = decoded_bytes(EncodedImage(data), LIMITS, near)
        plain = is_plain(data, read_header(data, LIMITS))
        image = decode(EncodedImage(data), LIMITS, near)
    except Failure as failure:
        return failure.reason, failure.message, failure.field
    return size, plain, image.width, image.height, image.pixels.tobytes()


@pytest.mark.parametrize("data", SOUND)
def test_a_view_of_a_file_is_as_good_as_its_bytes(data: bytes) -> None:
    assert outcome(memoryview(data), (0, 0)) == outcome(data, (0, 0))


@fuzz
@given(data=damaged(), near=nears)
def test_a_view_of_a_damaged_file_is_judged_like_its_bytes(data: bytes, near: tuple[int, int]) -> None:
    assert outcome(memoryview(data), near) == outcome(data, near)


@fuzz
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=300), near=nears)
def test_random_bytes_give_pixels_or_a_failure(start: bytes, rest: bytes, near: tuple[int, int]) -> None:
    check(EncodedImage(start + rest), near)


@fuzz
@given(
    data=st.binary(max_size=200),
    width=st.integers(0, 20) | numbers,
    height=st.integers(0, 20) | numbers,
    stride=st.integers(0, 70) | numbers,
    form=st.sampled_from(PixelFormat),
)
def test_random_raw_frames_give_pixels_or_a_failure(
    data: bytes, width: int, height: int, stride: int, form: PixelFormat
) -> None:
    check(RawImage(data, width, height, stride, form), (0, 0))
