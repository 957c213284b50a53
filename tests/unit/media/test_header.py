"""What is found out, and what is refused, before any pixel is decoded."""

import contextlib
import io
import struct
import time
import tracemalloc

import pytest
from PIL import Image

from opsin_server.calls import EncodedImage
from opsin_server.errors import Failure, Reason
from opsin_server.media.decode import decode, decoded_bytes
from opsin_server.media.header import MAX_BLOCKS, MAX_SEGMENTS, Format, MediaLimits, read_header
from unit.media.pictures import (
    LIMITS,
    PNG_START,
    encode,
    exif,
    gif_with_frame,
    photo,
    png,
    png_header,
)

FILES = [
    pytest.param("JPEG", {}, id="jpeg"),
    pytest.param("JPEG", {"progressive": True}, id="progressive jpeg"),
    pytest.param("PNG", {}, id="png"),
    pytest.param("WEBP", {}, id="lossy webp"),
    pytest.param("WEBP", {"lossless": True}, id="lossless webp"),
    pytest.param("WEBP", {"exif": exif(6)}, id="extended webp"),
    pytest.param("GIF", {}, id="gif"),
    pytest.param("BMP", {}, id="bmp"),
]


def refusal(data: bytes, limits: MediaLimits = LIMITS) -> Failure:
    with pytest.raises(Failure) as caught:
        read_header(data, limits)
    return caught.value


@pytest.mark.parametrize(("kind", "options"), FILES)
@pytest.mark.parametrize("size", [(1, 1), (61, 43), (300, 7), (257, 1025)])
def test_format_and_size_come_from_the_header(
    kind: str, options: dict[str, object], size: tuple[int, int]
) -> None:
    header = read_header(encode(photo(*size), kind, **options), LIMITS)
    assert (header.format, header.width, header.height) == (Format(kind), *size)


@pytest.mark.parametrize(("kind", "options"), FILES)
def test_a_file_cut_off_anywhere_never_gives_more_than_a_failure(
    kind: str, options: dict[str, object]
) -> None:
    data = encode(photo(), kind, **options)
    for length in range(min(len(data), 700)):
        with contextlib.suppress(Failure):
            header = read_header(data[:length], LIMITS)
            assert (header.width, header.height) == (61, 43)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(photo(), "TIFF"), id="tiff"),
        pytest.param(encode(photo(), "PPM"), id="ppm"),
        pytest.param(encode(photo(), "ICO", sizes=[(16, 16)]), id="ico"),
        pytest.param(b"\0\0\0\x20ftypavif" + bytes(40), id="avif"),
        pytest.param(b"%PDF-1.7\n", id="pdf"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="svg"),
        pytest.param(b"RIFF\0\0\0\0WAVEfmt ", id="wave"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"\xff", id="one byte"),
    ],
)
def test_other_formats_are_refused_by_content(data: bytes) -> None:
    failure = refusal(data)
    assert failure.reason is Reason.FORMAT_UNSUPPORTED
    assert failure.field == "image.encoded"
    assert "WebP" in failure.message


def test_no_bytes_is_missing_input() -> None:
    failure = refusal(b"")
    assert (failure.reason, failure.field) == (Reason.INPUT_MISSING, "image.encoded")


def test_a_12000_x_12000_png_costs_microseconds_and_no_memory() -> None:
    rows = io.BytesIO()
    for _ in range(12_000):
        rows.write(bytes(1501))
    source = EncodedImage(png(12_000, 12_000, rows.getvalue(), depth=1, colour=0))
    with pytest.raises(Failure) as caught:
        decode(source, LIMITS)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE
    assert caught.value.metadata["width"] == "12000"

    tracemalloc.start()
    seconds = []
    for _ in range(200):
        began = time.thread_time()
        with pytest.raises(Failure):
            decode(source, LIMITS)
        seconds.append(time.thread_time() - began)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000  # the picture would take 432 000 000
    assert min(seconds) < 0.05  # a tenth of a millisecond; decoding takes a second


@pytest.mark.parametrize(
    ("size", "fits"),
    [((100, 100), True), ((100, 101), False), ((200, 50), True), ((201, 1), False), ((1, 201), False)],
)
def test_limits_are_inclusive(size: tuple[int, int], fits: bool) -> None:
    limits = MediaLimits(max_pixels=10_000, max_side=200)
    data = encode(photo(*size), "PNG")
    if fits:
        assert read_header(data, limits).width == size[0]
    else:
        assert refusal(data, limits).reason is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(PNG_START + png_header(0, 10), id="png"),
        pytest.param(b"BM" + bytes(12) + struct.pack("<Iii", 40, 0, 10) + bytes(30), id="bmp"),
        pytest.param(b"BM" + bytes(12) + struct.pack("<Iii", 40, -5, 10) + bytes(30), id="bmp, negative"),
        pytest.param(gif_with_frame((0, 0), (0, 0, 0, 0)), id="gif"),
        pytest.param(encode(photo(), "JPEG").replace(struct.pack(">HH", 43, 61), bytes(4), 1), id="jpeg"),
        pytest.param(b"RIFF\0\0\0\0WEBPVP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\0\0\0\0", id="webp"),
    ],
)
def test_a_picture_of_no_size_is_undecodable(data: bytes) -> None:
    assert refusal(data).reason is Reason.IMAGE_UNDECODABLE


def test_a_second_size_in_a_png_does_not_get_past_the_limit() -> None:
    large = png(300, 200, bytes(200 * 901))
    data = PNG_START + png_header(8, 8) + large[len(PNG_START) :]
    with pytest.raises(Failure) as caught:
        decode(EncodedImage(data), MediaLimits(max_pixels=100))
    assert caught.value.reason is Reason.IMAGE_UNDECODABLE
    assert "twice" in caught.value.message


def test_a_second_size_in_a_jpeg_is_refused() -> None:
    data = encode(photo(), "JPEG")
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 19]
    assert refusal(data[:at] + frame + data[at:]).reason is Reason.IMAGE_UNDECODABLE


def test_a_jpeg_may_have_some_fill_bytes_but_not_any_number() -> None:
    data = encode(photo(), "JPEG")
    filled = data[:2] + b"\xff" * 100 + data[2:]
    assert read_header(filled, LIMITS).width == 61
    assert refusal(data[:2] + b"\xff" * 5000 + data[2:]).reason is Reason.IMAGE_UNDECODABLE


def test_a_gif_frame_larger_than_its_screen_counts() -> None:
    failure = refusal(gif_with_frame((1, 1), (0, 0, 65_535, 65_535)))
    assert failure.reason is Reason.IMAGE_TOO_LARGE
    assert read_header(gif_with_frame((5, 9), (2, 3, 10, 4)), LIMITS).width == 12


def test_a_gif_extension_that_decoders_read_differently_is_refused() -> None:
    data = gif_with_frame((1, 1), (0, 0, 1, 1)).replace(b"\x21\xf9", b"\x21\xf9\x00\x21\xf9", 1)
    assert refusal(data).reason is Reason.IMAGE_UNDECODABLE


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xd8" + b"\xff\x01" * 8_000_000, id="jpeg markers"),
        pytest.param(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 4_000_000, id="jpeg segments"),
        pytest.param(b"\xff\xd8" + b"\xff" * 32_000_000, id="jpeg fill bytes"),
        pytest.param(b"\xff\xd8" + (b"\xff" * 255 + b"\xd0") * 120_000, id="jpeg filled markers"),
        pytest.param(b"GIF89a" + bytes(7) + b"\x21\xfe" + b"\x01a" * 8_000_000, id="gif sub-blocks"),
        pytest.param(b"GIF89a" + bytes(7) + b"\x21\xfe\x01a\x00" * 3_000_000, id="gif extensions"),
    ],
)
def test_endless_structure_is_given_up_on_soon(data: bytes) -> None:
    seconds = []
    for _ in range(5):
        began = time.thread_time()
        failure = refusal(data)
        seconds.append(time.thread_time() - began)
    assert failure.reason is Reason.IMAGE_UNDECODABLE
    assert min(seconds) < 0.1  # it runs on the event loop; to go through it all would take seconds
    limit = MAX_BLOCKS if data.startswith(b"GIF") else MAX_SEGMENTS
    assert str(limit) in failure.message or "ends" in failure.message


def test_a_jpeg_with_a_large_colour_profile_and_metadata_is_read() -> None:
    data = encode(photo(), "JPEG")
    profile = b"\xff\xe2" + struct.pack(">H", 65_535) + b"ICC_PROFILE\0" + bytes(65_521)
    xmp = b"\xff\xe1" + struct.pack(">H", 65_535) + b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_498)
    header = read_header(data[:2] + profile * 255 + xmp * 200 + data[2:], LIMITS)
    assert header.width == 61


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_jpeg_header_tells_the_orientation(orientation: int, order: str) -> None:
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(
        order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0
    )
    header = read_header(encode(photo(), "JPEG", exif=b"Exif\0\0" + tiff), LIMITS)
    assert header.orientation == orientation


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"II*\0", id="cut off"),
        pytest.param(b"II*\0\xff\xff\xff\xff", id="directory outside"),
        pytest.param(b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 9, 0, 0), id="orientation 9"),
        pytest.param(b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 2, 1, 6), id="of type text"),
        pytest.param(b"II*\0" + struct.pack("<IH", 8, 65_535) + bytes(60_000), id="very many tags"),
    ],
)
def test_exif_that_cannot_be_read_means_upright(block: bytes) -> None:
    header = read_header(encode(photo(), "JPEG", exif=b"Exif\0\0" + block), LIMITS)
    assert (header.width, header.height, header.orientation) == (61, 43, 1)


def test_rows_from_top_to_bottom_and_old_headers_are_read_in_bmp() -> None:
    data = bytearray(encode(photo(), "BMP"))
    struct.pack_into("<i", data, 22, -43)
    assert read_header(bytes(data), LIMITS).height == 43
    old = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 61, 43, 1, 24)
    assert read_header(old, LIMITS).width == 61


def test_the_bytes_to_reserve_come_from_the_header() -> None:
    data = encode(Image.new("RGB", (1600, 1200)), "JPEG")
    assert decoded_bytes(EncodedImage(data), LIMITS) == 1600 * 1200 * 3
    assert decoded_bytes(EncodedImage(data), LIMITS, near=(416, 416)) == 800 * 600 * 3
    assert decoded_bytes(EncodedImage(data), LIMITS, near=(100, 100)) == 200 * 150 * 3
