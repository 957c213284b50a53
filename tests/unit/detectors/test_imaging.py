"""Resizing equals Pillow's, keeps pixels interleaved, and never copies or warns for nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from opsin_detectors.api import Pixels
from opsin_detectors.imaging import Filter, borrow, center_crop, letterbox, middle, resize, resize_short_side

from .conftest import Picture

sides = st.integers(1, 200)
PILLOW = {Filter.BILINEAR: Image.Resampling.BILINEAR, Filter.BICUBIC: Image.Resampling.BICUBIC}


def noise(rows: int, columns: int) -> Pixels:
    """Of middling contrast, so that bicubic overshoot is not clipped (see `imaging`)."""
    return np.random.default_rng(rows * 1000 + columns).integers(64, 192, (rows, columns, 3), np.uint8)


@pytest.mark.parametrize("how", list(Filter))
@given(rows=sides, columns=sides, width=sides, height=sides)
@settings(max_examples=60, deadline=None)
def test_resizing_equals_pillows(how: Filter, rows: int, columns: int, width: int, height: int) -> None:
    pixels = noise(rows, columns)

    resized = resize(pixels, width, height, how)

    theirs = np.asarray(Image.fromarray(pixels).resize((width, height), PILLOW[how]))
    assert resized.shape == (height, width, 3)
    apart = np.abs(resized.astype(np.int16) - theirs)
    assert apart.max() <= 2
    assert apart.mean() <= 0.6


def test_a_photograph_shrunk_for_a_model_is_pillows_within_a_level(picture: Picture) -> None:
    pixels = picture("coffee.png").pixels

    theirs = np.asarray(Image.fromarray(pixels).resize((416, 416), Image.Resampling.BILINEAR))
    apart = np.abs(resize(pixels, 416, 416).astype(np.int16) - theirs)

    assert apart.max() <= 1


def test_the_result_is_interleaved_and_its_own() -> None:
    resized = resize(noise(90, 70), 32, 16)

    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous
    assert resized.flags.writeable


def test_a_picture_of_the_right_size_is_handed_through() -> None:
    pixels = noise(8, 9)

    assert resize(pixels, 9, 8) is pixels


def test_read_only_and_strided_pixels_are_taken_without_a_warning_or_a_copy() -> None:
    pixels = np.frombuffer(noise(20, 30).tobytes(), np.uint8).reshape(20, 30, 3)
    assert not pixels.flags.writeable

    assert borrow(pixels).data_ptr() == pixels.__array_interface__["data"][0]
    np.testing.assert_array_equal(resize(pixels, 10, 10), resize(pixels.copy(), 10, 10))
    np.testing.assert_array_equal(resize(pixels[::2, ::3], 7, 7), resize(pixels[::2, ::3].copy(), 7, 7))


@given(rows=sides, columns=sides, size=st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_the_short_side_is_what_was_asked_for_and_the_long_one_in_proportion(
    rows: int, columns: int, size: int
) -> None:
    height, width = resize_short_side(noise(rows, columns), size).shape[:2]

    assert min(height, width) == size
    assert max(height, width) == int(size * max(rows, columns) / min(rows, columns))


def test_the_middle_is_cropped() -> None:
    pixels = noise(11, 20)

    np.testing.assert_array_equal(center_crop(pixels, 4, 5), pixels[3:8, 8:12])


@pytest.mark.parametrize("short", [1, 2, 3, 10, 31])
@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("tall", [False, True])
def test_what_is_seen_of_a_strip_is_its_middle_without_the_rest_being_made(
    short: int, odd: int, tall: bool
) -> None:
    smooth = resize(noise(1, 40), 1600 + odd, short)
    strip = np.ascontiguousarray(smooth.transpose(1, 0, 2)) if tall else smooth

    seen = middle(strip, 32, 24, 24)
    cropped = center_crop(resize_short_side(seen, 32), 24, 24)

    assert resize_short_side(seen, 32).size <= 32 * 32 * 24 * 3
    whole = center_crop(resize_short_side(strip, 32), 24, 24)
    assert np.abs(cropped.astype(np.int16) - whole).max() <= 4


@given(rows=sides, columns=sides, size=st.integers(1, 64), seen=st.integers(1, 64))
def test_a_picture_that_is_no_strip_is_taken_whole(rows: int, columns: int, size: int, seen: int) -> None:
    pixels = noise(rows, columns)
    left = middle(pixels, size, seen, seen)

    assert min(left.shape[:2]) == min(rows, columns)
    if max(rows, columns) * size <= 32 * seen * min(rows, columns):
        assert left is pixels


def test_a_crop_larger_than_the_picture_is_black_around_it() -> None:
    cropped = center_crop(np.full((2, 10, 3), 9, np.uint8), 4, 6)

    assert cropped.shape == (6, 4, 3)
    np.testing.assert_array_equal(cropped[:, 0, 0], [0, 0, 9, 9, 0, 0])


@pytest.mark.parametrize(("rows", "columns"), [(50, 100), (100, 50), (7, 1000), (1, 1)])
@pytest.mark.parametrize("centered", [False, True])
def test_a_letterboxed_picture_keeps_its_proportion_and_the_rest_is_fill(
    rows: int, columns: int, centered: bool
) -> None:
    white = np.full((rows, columns, 3), 255, np.uint8)

    canvas, scale, (left, top) = letterbox(white, 64, 64, fill=7, centered=centered)

    width, height = max(1, round(columns * scale)), max(1, round(rows * scale))
    assert max(width, height) == 64
    assert (canvas == 255).sum() == width * height * 3
    assert (canvas[top : top + height, left : left + width] == 255).all()
    assert (canvas == 7).sum() == canvas.size - width * height * 3
    assert (left, top) == (((64 - width) // 2, (64 - height) // 2) if centered else (0, 0))
