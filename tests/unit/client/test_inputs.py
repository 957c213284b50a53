"""Whatever holds a picture or a text travels as it should, and what does not is told before sending."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import opsin
from opsin import PixelFormat, RawFrame
from opsin._inputs import load
from opsin._requests import image

LIMIT = 1 << 20
RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def refused(source: object, limit: int = LIMIT) -> str:
    with pytest.raises(opsin.InvalidInput) as caught:
        load(source, limit=limit)
    assert caught.value.code is opsin.Code.INVALID_ARGUMENT
    assert caught.value.violations
    return str(caught.value)


def test_a_file_is_read_and_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "noise.jpg").write_bytes(b"not a picture at all")
    assert load(tmp_path / "noise.jpg", limit=LIMIT) == b"not a picture at all"
    assert load(str(tmp_path / "noise.jpg"), limit=LIMIT) == b"not a picture at all"


def test_bytes_and_what_behaves_like_them_are_encoded_pictures() -> None:
    for source in (b"abc", bytearray(b"abc"), memoryview(b"abc"), io.BytesIO(b"abc")):
        assert load(source, limit=LIMIT) == b"abc"


def test_an_array_travels_as_its_own_pixels() -> None:
    assert load(RGB, limit=LIMIT) == RawFrame(RGB.tobytes(), 6, 4)
    assert load(RGB[:, ::-1], limit=LIMIT) == RawFrame(RGB[:, ::-1].tobytes(), 6, 4)
    grey = RawFrame(RGB[..., 0].tobytes(), 6, 4, PixelFormat.GRAY8)
    assert load(RGB[..., 0], limit=LIMIT) == grey
    assert load(RGB[..., :1], limit=LIMIT) == grey
    assert load(np.dstack([RGB, RGB[..., 0]]), limit=LIMIT) == RawFrame(RGB.tobytes(), 6, 4)


def test_a_pil_image_travels_upright_as_its_own_pixels() -> None:
    assert load(Image.fromarray(RGB), limit=LIMIT) == RawFrame(RGB.tobytes(), 6, 4)
    turned = Image.fromarray(RGB)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn by 270 degrees
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    loaded = load(Image.open(file), limit=LIMIT)
    assert loaded == RawFrame(np.rot90(RGB, -1).tobytes(), 4, 6)


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_of_pil_becomes_pixels(mode: str) -> None:
    loaded = load(Image.fromarray(RGB).convert("RGB").convert(mode), limit=LIMIT)
    assert isinstance(loaded, RawFrame)
    assert (loaded.width, loaded.height) == (6, 4)


def test_sixteen_bit_pictures_travel_as_png_so_that_nothing_is_clipped() -> None:
    deep = Image.fromarray(np.full((4, 6), 60_000, np.uint16))
    loaded = load(deep, limit=LIMIT)
    assert isinstance(loaded, bytes)
    assert Image.open(io.BytesIO(loaded)).getpixel((0, 0)) == 60_000


def test_pixels_over_the_message_limit_travel_as_jpeg() -> None:
    big = np.zeros((500, 500, 3), np.uint8)
    loaded = load(big, limit=500_000)
    assert isinstance(loaded, bytes)
    assert Image.open(io.BytesIO(loaded)).size == (500, 500)


@pytest.mark.parametrize("form", [PixelFormat.RGB24, PixelFormat.BGR24, PixelFormat.GRAY8])
def test_a_stream_sends_jpeg_with_the_colours_and_the_stride_right(form: PixelFormat) -> None:
    depth = 1 if form is PixelFormat.GRAY8 else 3
    rows = np.zeros((16, 20, depth), np.uint8)
    rows[:, :16, 0] = 200
    frame = RawFrame(rows.tobytes(), 16, 16, form, stride=20 * depth)
    loaded = load(frame, limit=LIMIT, quality=90)
    assert isinstance(loaded, bytes)
    first = {PixelFormat.BGR24: (0, 0, 200), PixelFormat.GRAY8: (200, 200, 200)}.get(form, (200, 0, 0))
    shown = Image.open(io.BytesIO(loaded)).convert("RGB").getpixel((8, 8))
    assert isinstance(shown, tuple)
    assert np.abs(np.subtract(shown, first)).max() < 12


def test_without_simplejpeg_pillow_encodes_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(__import__("sys").modules, "simplejpeg", None)
        loaded = load(np.full((16, 16, 3), 90, np.uint8), limit=LIMIT, quality=90)
    assert isinstance(loaded, bytes)
    assert np.abs(np.asarray(Image.open(io.BytesIO(loaded))).astype(int) - 90).max() < 4


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no/such/file.jpg", "opsin.Text"),
        ("https://example.org/a.jpg", "opsin.Uri"),
        (".", "folder"),
        (b"", "empty"),
        (io.BytesIO(b""), "empty"),
        (io.StringIO("text"), "binary mode"),
        (None, "give a path"),
        (7, "numpy array"),
        (RGB.astype(np.float32), "float32"),
        (RGB.astype(np.int64), "int64"),
        (RGB.transpose(2, 0, 1), r"transpose(1, 2, 0)"),
        (RGB[None], "one by one"),
        (RGB[0, 0], "(rows, columns, 3)"),
        (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
        (Image.new("F", (3, 3)), "mode F"),
        ("nul\0byte", "cannot read"),
    ],
)
def test_a_wrong_input_is_told_before_sending_with_what_would_be_right(source: object, says: str) -> None:
    assert says in refused(source)


def test_a_file_over_the_limit_is_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(opsin.MessageTooLarge, match="17179869184"):
        load(tmp_path / "huge.jpg", limit=LIMIT)


@pytest.mark.parametrize(
    ("width", "height", "form", "stride", "size", "says"),
    [
        (0, 4, "rgb24", 0, 100, "at least one pixel"),
        (5, 4, "nv12", 0, 100, "even sizes"),
        (4, 4, "rgb24", 11, 100, "a row takes 12"),
        (4, 4, "rgb24", 0, 47, "takes 48 bytes"),
        (4, 4, "i420", 0, 23, "takes 24 bytes"),
    ],
)
def test_raw_frames_are_checked(
    *, width: int, height: int, form: str, stride: int, size: int, says: str
) -> None:
    with pytest.raises(opsin.InvalidInput, match=says):
        RawFrame(bytes(size), width, height, PixelFormat(form), stride)


@given(
    width=st.integers(1, 64),
    height=st.integers(1, 64),
    form=st.sampled_from(list(PixelFormat)),
    padding=st.integers(0, 7),
)
def test_a_raw_frame_of_exactly_the_needed_bytes_is_taken_and_one_byte_less_is_not(
    width: int, height: int, form: PixelFormat, padding: int
) -> None:
    if form in (PixelFormat.NV12, PixelFormat.I420):
        width, height, padding = width * 2, height * 2, padding * 2
    tight = width * (3 if form in (PixelFormat.RGB24, PixelFormat.BGR24) else 1)
    stride = tight + padding
    rows = height * 3 // 2 if form in (PixelFormat.NV12, PixelFormat.I420) else height
    frame = RawFrame(bytes(stride * rows), width, height, form, stride)
    assert image(frame).raw.stride == stride
    with pytest.raises(opsin.InvalidInput):
        RawFrame(bytes(stride * rows - 1), width, height, form, stride)


def test_the_formats_have_the_contracts_numbers() -> None:
    from opsin.v1 import PixelFormat as Wire

    for form in PixelFormat:
        even = RawFrame(bytes(12), 2, 2, form)
        assert Wire.Name(image(even).raw.format) == f"PIXEL_FORMAT_{form.name}"


def test_texts_and_addresses_say_what_they_are() -> None:
    with pytest.raises(opsin.InvalidInput, match="at least one character"):
        opsin.Text("")
    with pytest.raises(opsin.InvalidInput, match="http"):
        opsin.Uri("file:///etc/passwd")
    assert image(opsin.Uri("http://a/b")).uri == "http://a/b"
