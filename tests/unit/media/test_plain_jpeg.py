"""Only JPEGs that mean the same to every decoder, and are whole, go to a device's."""

import re

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from opsin_server.media.header import read_header
from opsin_server.media.plain_jpeg import is_plain
from unit.media.pictures import LIMITS, SAMPLES, encode, exif, photo


def plain(data: bytes) -> bool:
    return is_plain(data, read_header(data, LIMITS))


def big(**options: object) -> bytes:
    return encode(Image.open(SAMPLES / "coffee.png").convert("RGB").resize((300, 200)), "JPEG", **options)


WHOLE = big()


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        big(quality=30),
        big(subsampling="4:4:4"),
        big(subsampling="4:2:2"),
        big(optimize=True),
        big(exif=exif(6)),
        big(restart_marker_rows=1),
        big(icc_profile=b"x" * 150_000),
        simplejpeg.encode_jpeg(np.asarray(photo(200, 100))),
    ],
    ids=["default", "coarse", "444", "422", "optimized", "exif", "restarts", "profile", "turbo"],
)
def test_what_cameras_and_libraries_write_is_plain(data: bytes) -> None:
    assert plain(data)


def _without_app0(data: bytes) -> bytes:
    return data[:2] + data[20:]


def _named(data: bytes, names: bytes) -> bytes:
    """With other names for its colours, in the frame and in the scan."""
    start = data.index(b"\xff\xc0") + 10
    changed = bytearray(_without_app0(data))
    for at in (start - 18, changed.index(b"\xff\xda") + 5):
        step = 3 if at == start - 18 else 2
        changed[at : at + 3 * step : step] = names
    return bytes(changed)


@pytest.mark.parametrize(
    "data",
    [
        big(progressive=True),
        encode(photo(200, 100).convert("CMYK"), "JPEG"),
        encode(photo(200, 100).convert("L"), "JPEG"),
        simplejpeg.encode_jpeg(np.asarray(photo(200, 100)), colorsubsampling="440"),
        simplejpeg.encode_jpeg(np.asarray(photo(200, 100)), colorsubsampling="411"),
        big(keep_rgb=True),
        _named(WHOLE, b"RGB"),
        WHOLE.replace(b"\xff\xc0", b"\xff\xc1"),
        encode(photo(), "PNG"),
    ],
    ids=["progressive", "cmyk", "grey", "440", "411", "rgb", "named", "extended", "png"],
)
def test_the_rare_kinds_are_left_to_the_cpu(data: bytes) -> None:
    assert not plain(data)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _gap(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(400) + data[middle + 400 :]


def _restart_lost(data: bytes) -> bytes:
    first, second = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)][:2]
    return data[:first] + data[second:]


@pytest.mark.parametrize(
    "data",
    [
        _half(WHOLE),
        WHOLE[:-2],
        WHOLE[:-1],
        WHOLE + b"\0",
        WHOLE[:-2] + WHOLE,
        _gap(WHOLE),
        _restart_lost(big(restart_marker_rows=1)),
        WHOLE[:-600] + b"\xff\xc4" + WHOLE[-598:],
        WHOLE[: WHOLE.index(b"\xff\xda") + 3] + b"\xff\xd9",
        WHOLE[: WHOLE.index(b"\xff\xda")] + b"\xff\xd9",
    ],
    ids=["half", "no end", "half an end", "tail", "two", "gap", "restart", "marker", "no scan", "no pixels"],
)
def test_what_is_not_whole_is_left_to_the_cpu(data: bytes) -> None:
    assert not plain(data)


def test_any_bytes_at_all_get_an_answer() -> None:
    noise = np.random.default_rng(7)
    header = read_header(WHOLE, LIMITS)
    for _ in range(300):
        broken = bytearray(WHOLE)
        for at in noise.integers(2, 700, 5):
            broken[at] = noise.integers(0, 256)
        assert is_plain(bytes(broken[: noise.integers(3, len(broken))]), header) in (True, False)
        assert is_plain(bytes(broken), header) in (True, False)
