"""Every kind of file becomes upright RGB, or a failure that says why."""

import io
import struct
import threading
import warnings

import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from opsin_server.calls import EncodedImage, RawImage, UriImage
from opsin_server.errors import Failure, Reason
from opsin_server.media import guards
from opsin_server.media.decode import configure_pillow, decode, decoded_bytes, is_instant
from opsin_server.media.guards import MAX_RLE_BYTES, MAX_SCANS
from opsin_server.media.header import MAX_BLOCKS, MediaLimits
from unit.media.pictures import (
    LIMITS,
    PNG_START,
    SAMPLES,
    by_pillow,
    chunk,
    encode,
    exif,
    photo,
    pixels,
    png,
    png_header,
    rle_bmp,
)


def refusal(data: bytes, near: tuple[int, int] = (0, 0)) -> Failure:
    with pytest.raises(Failure) as caught:
        decode(EncodedImage(data), LIMITS, near)
    assert caught.value.field == "image.encoded"
    return caught.value


def translucent() -> Image.Image:
    picture = photo().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def palette_with_alpha() -> bytes:
    picture = photo().quantize(16)
    return encode(picture, "PNG", transparency=bytes(range(0, 256, 16)))


@pytest.mark.parametrize("name", ["astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg"])
def test_photographs_decode_as_pillow_decodes_them(name: str) -> None:
    data = (SAMPLES / name).read_bytes()
    image = decode(EncodedImage(data), LIMITS)
    expected = by_pillow(data)
    assert (image.height, image.width, 3) == image.pixels.shape == expected.shape
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert np.abs(image.pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(photo().convert("1"), "PNG"), id="1-bit png"),
        pytest.param(encode(photo().convert("L"), "PNG"), id="grey png"),
        pytest.param(encode(translucent().convert("LA"), "PNG"), id="grey and alpha png"),
        pytest.param(encode(translucent(), "PNG"), id="rgba png"),
        pytest.param(encode(photo().quantize(16), "PNG"), id="palette png"),
        pytest.param(palette_with_alpha(), id="palette png with alpha"),
        pytest.param(encode(photo().quantize(16), "PNG", transparency=3), id="palette png, one see-through"),
        pytest.param(encode(photo(), "PNG", transparency=(0, 0, 0)), id="rgb png, one see-through"),
        pytest.param(encode(photo(), "GIF"), id="gif"),
        pytest.param(encode(photo(), "GIF", transparency=7), id="gif, one see-through"),
        pytest.param(encode(photo().convert("L"), "GIF"), id="grey gif"),
        pytest.param(encode(photo().convert("1"), "BMP"), id="1-bit bmp"),
        pytest.param(encode(photo().convert("L"), "BMP"), id="grey bmp"),
        pytest.param(encode(photo().quantize(16), "BMP"), id="palette bmp"),
        pytest.param(encode(photo(), "BMP"), id="bmp"),
        pytest.param(encode(translucent(), "BMP"), id="rgba bmp"),
        pytest.param(rle_bmp(4, 2, b"\x04\x07\x00\x00\x02\x09\x02\x03\x00\x01"), id="run-length bmp"),
        pytest.param(encode(photo(), "WEBP", lossless=True), id="webp"),
        pytest.param(encode(translucent(), "WEBP", lossless=True), id="rgba webp"),
        pytest.param(encode(photo().convert("L"), "JPEG"), id="grey jpeg"),
        pytest.param(encode(photo().convert("CMYK"), "JPEG"), id="cmyk jpeg"),
        pytest.param(encode(photo(), "JPEG", progressive=True), id="progressive jpeg"),
        pytest.param(encode(photo(), "JPEG", keep_rgb=True), id="jpeg stored as rgb"),
        pytest.param(encode(photo(), "JPEG", subsampling="4:1:1"), id="jpeg 4:1:1"),
        pytest.param(encode(photo(), "JPEG", subsampling="4:4:4"), id="jpeg 4:4:4"),
        pytest.param(encode(photo(), "JPEG", restart_marker_blocks=1), id="jpeg with restarts"),
    ],
)
def test_every_pixel_layout_becomes_rgb_as_pillow_converts_it(data: bytes) -> None:
    assert np.abs(pixels(data).astype(int) - by_pillow(data)).max() <= 1


@pytest.mark.parametrize("side", range(1, 18))
def test_tiny_jpegs_are_decoded_whole(side: int) -> None:
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "JPEG")
    assert np.abs(pixels(data).astype(int) - by_pillow(data)).max() <= 1


def test_ycck_jpeg_is_decoded_like_the_cmyk_it_stands_for() -> None:
    data = encode(photo().convert("CMYK"), "JPEG", quality=95)
    at = data.index(b"Adobe")
    assert data[at + 11] in (0, 2)  # the colour transform that libjpeg goes by
    other = data[: at + 11] + bytes([2 - data[at + 11]]) + data[at + 12 :]
    for version in (data, other):
        assert np.array_equal(pixels(version), by_pillow(version))


def test_16_bit_grey_is_scaled_by_1_257() -> None:
    wide = np.linspace(0, 65_535, 61 * 43).astype(np.uint16).reshape(43, 61)
    result = pixels(encode(Image.fromarray(wide), "PNG"))
    expected = np.rint(wide / 257).astype(np.uint8)
    assert (result == expected[..., None]).all()


def test_16_bit_colour_is_scaled_by_1_257_give_or_take_one() -> None:
    wide = np.random.default_rng(3).integers(0, 65_536, (43, 61, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    result = pixels(png(61, 43, rows, depth=16))
    assert np.abs(result - wide / 257).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encode(photo(), kind, exif=exif(orientation), **lossless)
    image = decode(EncodedImage(data), LIMITS)
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    assert (image.height, image.width, 3) == image.pixels.shape == expected.shape
    assert image.pixels.flags.c_contiguous
    assert np.abs(image.pixels.astype(int) - expected).max() <= 2


def test_png_orientation_is_found_behind_the_pixels() -> None:
    data = encode(photo(), "PNG", exif=exif(6))
    at = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[at : at + 4], "big")
    moved = data[:at] + data[at + length : -12] + data[at : at + length] + data[-12:]
    assert pixels(moved).shape == (61, 43, 3)


@settings(max_examples=200, deadline=None)
@example(size=(1, 1), near=(0, 1), orientation=1, mode="CMYK")
@example(size=(7, 120), near=(1, 1), orientation=6, mode="CMYK")
@example(size=(7, 120), near=(1, 1), orientation=6, mode="RGB")
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    near=st.tuples(st.integers(0, 120), st.integers(0, 120)),
    orientation=st.integers(1, 8),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
)
def test_a_reduced_jpeg_never_falls_below_what_was_asked_for(
    size: tuple[int, int], near: tuple[int, int], orientation: int, mode: str
) -> None:
    data = encode(photo(*size).convert(mode), "JPEG", exif=exif(orientation))
    image = decode(EncodedImage(data), LIMITS, near)
    rows, columns, _ = image.pixels.shape
    assert (image.width, image.height) == (size if orientation < 5 else size[::-1])
    assert columns >= min(near[0], image.width)
    assert rows >= min(near[1], image.height)
    assert image.pixels.nbytes == decoded_bytes(EncodedImage(data), LIMITS, near)


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        ((0, 0), (640, 480)),
        ((321, 10), (640, 480)),
        ((320, 240), (320, 240)),
        ((320, 241), (640, 480)),
        ((161, 0), (320, 240)),
        ((160, 120), (160, 120)),
        ((1, 1), (80, 60)),
        ((5000, 5000), (640, 480)),
    ],
)
def test_a_large_jpeg_is_decoded_at_the_smallest_size_that_will_do(
    near: tuple[int, int], expected: tuple[int, int]
) -> None:
    rows, columns, _ = pixels(encode(photo(640, 480), "JPEG"), near).shape
    assert (columns, rows) == expected


def test_a_reduced_jpeg_looks_like_the_whole_one() -> None:
    data = encode(Image.open(SAMPLES / "astronaut.png"), "JPEG", quality=95)
    reduced = pixels(data, (200, 200))
    whole = Image.fromarray(pixels(data)).resize((256, 256), Image.Resampling.BOX)
    assert reduced.shape == (256, 256, 3)
    assert np.abs(reduced.astype(int) - np.asarray(whole)).mean() < 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_decoded(kind: str) -> None:
    first, second = Image.new("RGB", (40, 30), (250, 10, 20)), Image.new("RGB", (40, 30), (0, 200, 0))
    data = encode(first, kind, save_all=True, append_images=[second, first], duration=100)
    with Image.open(io.BytesIO(data)) as picture:
        assert getattr(picture, "n_frames", 1) > 1
    assert np.abs(pixels(data).astype(int) - (250, 10, 20)).max() <= 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_garbage_behind_the_picture_is_ignored(kind: str) -> None:
    data = encode(photo(), kind)
    assert (pixels(data + b"\xff\xd8garbage" * 50) == pixels(data)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_undecodable(kind: str, share: float) -> None:
    data = encode(Image.open(SAMPLES / "coffee.png").resize((300, 200)), kind)
    failure = refusal(data[: int(len(data) * share)])
    assert failure.reason is Reason.IMAGE_UNDECODABLE
    assert kind in failure.message
    assert "0x" not in failure.message


def test_a_damaged_jpeg_is_refused_rather_than_painted_grey() -> None:
    data = bytearray(encode(photo(640, 480), "JPEG"))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    assert refusal(bytes(data)).reason is Reason.IMAGE_UNDECODABLE


def test_stray_bytes_between_jpeg_segments_do_no_harm() -> None:
    data = encode(photo(), "JPEG")
    stray = data[:20] + b"abc" + data[20:]  # behind the JFIF segment
    padded = data[:-2] + b"abc" + data[-2:]
    assert (pixels(padded) == pixels(data)).all()
    assert np.abs(pixels(stray).astype(int) - pixels(data)).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_right_beginning_with_nothing_behind_it_is_undecodable(kind: str) -> None:
    start = {"JPEG": b"\xff\xd8\xff\xe0", "PNG": PNG_START, "WEBP": b"RIFF\0\0\0\0WEBP", "GIF": b"GIF89a"}
    assert refusal(start.get(kind, b"BM")).reason is Reason.IMAGE_UNDECODABLE


def test_a_jpeg_of_countless_scans_is_refused_before_decoding() -> None:
    data = encode(photo(), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    bomb = data[:at] + data[at:-2] * (MAX_SCANS + 1) + data[-2:]
    failure = refusal(bomb)
    assert failure.reason is Reason.IMAGE_UNDECODABLE
    assert str(MAX_SCANS) in failure.message


@pytest.mark.parametrize("before", [guards._BLOCK - 3, guards._BLOCK - 2, guards._BLOCK - 1, guards._BLOCK])
def test_scans_are_counted_across_blocks_as_well(before: int) -> None:
    data = bytes(before) + b"\xff\xda\xff\xda" + bytes(guards._BLOCK) + b"\xff\xff\xda\xff"
    assert guards._scans_at_most(data) == data.count(b"\xff\xda") == 3


def test_what_looks_like_scans_in_metadata_or_behind_the_picture_is_none() -> None:
    data = encode(photo(), "JPEG", progressive=True)
    like = b"\xff\xda\x00\x02\x17" * (2 * MAX_SCANS)
    noted = data[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(like)) + like + data[2:]
    for more in (data + like, noted):  # a phone's film behind its picture; a maker's notes
        assert (pixels(more) == pixels(data)).all()


def test_scans_behind_an_end_marker_that_is_none_are_counted() -> None:
    data = encode(photo(), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    comment = b"\xff\xfe\x00\x04\xff\xd9"
    bomb = data[:at] + comment + data[at:-2] * (MAX_SCANS + 1) + data[-2:]
    assert str(MAX_SCANS) in refusal(bomb).message


def test_a_png_of_countless_chunks_is_refused_before_decoding() -> None:
    sound = png(1, 1, bytes(4))
    bomb = sound[:-12] + chunk(b"tEXt", b"a\0") * 2_000_000 + sound[-12:]
    failure = refusal(bomb)
    assert failure.reason is Reason.IMAGE_UNDECODABLE
    assert str(MAX_BLOCKS) in failure.message, "it counted no further"


def test_a_png_of_compressed_text_does_not_blow_up() -> None:
    import zlib

    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    sound = png(1, 1, bytes(4))
    assert refusal(sound[:33] + text + sound[33:]).reason is Reason.IMAGE_UNDECODABLE


def test_a_large_run_length_bmp_is_refused_before_decoding() -> None:
    failure = refusal(rle_bmp(2000, 2000, b"\x01\x05" * (MAX_RLE_BYTES // 2)))
    assert failure.reason is Reason.IMAGE_TOO_LARGE


def test_a_large_bmp_with_an_old_header_is_not_taken_for_a_run_length_one() -> None:
    size, start = 1200 * 1200 * 3, 26
    head = (
        b"BM" + struct.pack("<IHHI", start + size, 0, 0, start) + struct.pack("<IHHHH", 12, 1200, 1200, 1, 24)
    )
    data = head + bytes(4) + b"\x01" + bytes(size - 5)
    assert len(data) > MAX_RLE_BYTES
    assert pixels(data).shape == (1200, 1200, 3)


def test_decoders_that_disagree_about_the_size_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", lambda _: (9000, 9000, "YCbCr", "420"))
    assert "twice" in refusal(encode(photo(), "JPEG")).message


def test_pillows_warnings_stay_inside() -> None:
    data = PNG_START + png_header(1, 1) + chunk(b"acTL", bytes(8)) + png(1, 1, bytes(4))[33:]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
        assert caught  # Pillow does warn about this file
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        configure_pillow(LIMITS)
        assert pixels(data).shape == (1, 1, 3)
        assert not caught


def test_pillows_own_pixel_limit_is_never_the_narrower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encode(photo(), "PNG")
    assert refusal(data).reason is Reason.IMAGE_UNDECODABLE
    with warnings.catch_warnings():
        configure_pillow(MediaLimits(max_pixels=61 * 43))
        assert pixels(data).shape == (43, 61, 3)


def test_running_out_of_memory_is_said_to_be_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(simplejpeg, "decode_jpeg", full)
    assert refusal(encode(photo(), "JPEG")).reason is Reason.MEMORY_LIMIT


def test_an_address_is_not_fetched() -> None:
    for attempt in (decode, decoded_bytes):
        with pytest.raises(Failure) as caught:
            attempt(UriImage("https://example.org/a.jpg"), LIMITS)
        assert (caught.value.reason, caught.value.field) == (Reason.URI_DISABLED, "image.uri")


def test_only_tight_rgb_is_instant() -> None:
    assert is_instant(RawImage(bytes(12), 2, 2))
    assert not is_instant(RawImage(bytes(16), 2, 2, stride=8))
    assert not is_instant(EncodedImage(b""))


def test_many_threads_decode_at_once() -> None:
    files = [encode(photo(97, 61 + n), kind) for n, kind in enumerate(["JPEG", "PNG", "WEBP", "GIF", "BMP"])]
    expected = [pixels(data) for data in files]
    wrong: list[int] = []

    def decode_all() -> None:
        for _ in range(10):
            wrong.extend(n for n, data in enumerate(files) if not np.array_equal(pixels(data), expected[n]))

    threads = [threading.Thread(target=decode_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_pixels_that_are_rgb_already_are_not_converted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo(), kind)
    expected = by_pillow(data)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("every pixel was copied once more")

    monkeypatch.setattr(Image.Image, "copy", refuse)
    monkeypatch.setattr(Image.Image, "convert", refuse)
    assert np.array_equal(pixels(data), expected)
