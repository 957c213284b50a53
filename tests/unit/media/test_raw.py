"""Raw frames: every layout, every stride rule, every way to get them wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsin_server.calls import PixelFormat, RawImage
from opsin_server.errors import Failure, Reason
from opsin_server.media.decode import decode, decoded_bytes
from opsin_server.media.header import MediaLimits
from unit.media.pictures import LIMITS

CHROMA = (PixelFormat.NV12, PixelFormat.I420)


def row_bytes(form: PixelFormat, width: int) -> int:
    return width * 3 if form in (PixelFormat.RGB24, PixelFormat.BGR24) else width


def needed(form: PixelFormat, width: int, height: int, stride: int = 0) -> int:
    rows = height * 3 // 2 if form in CHROMA else height
    return (stride or row_bytes(form, width)) * rows


def noise(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()


def tight(form: PixelFormat, width: int, height: int) -> RawImage:
    return RawImage(noise(needed(form, width, height)), width, height, 0, form)


def widen(raw: RawImage, stride: int) -> RawImage:
    """The same picture with `stride` bytes a row; what lies between the rows is 0xA5."""
    luma = row_bytes(raw.format, raw.width)

    def spread(plane: bytes, row: int, room: int) -> bytes:
        rows = (plane[at : at + row] for at in range(0, len(plane), row))
        return b"".join(line + b"\xa5" * (room - row) for line in rows)

    first, rest = raw.data[: luma * raw.height], raw.data[luma * raw.height :]
    if raw.format is PixelFormat.I420:
        data = spread(first, luma, stride) + spread(rest, luma // 2, stride // 2)
    else:
        data = spread(first, luma, stride) + spread(rest, luma, stride)
    return RawImage(data, raw.width, raw.height, stride, raw.format)


def exact(raw: RawImage) -> np.ndarray:
    """BT.601, limited range, in floating point; chroma repeated."""
    w, h = raw.width, raw.height
    flat = np.frombuffer(raw.data, np.uint8).astype(float)
    y = flat[: w * h].reshape(h, w)
    if raw.format is PixelFormat.NV12:
        u, v = flat[w * h :].reshape(h // 2, w // 2, 2).transpose(2, 0, 1)
    else:
        u, v = flat[w * h :].reshape(2, h // 2, w // 2)
    luma = (y - 16) * 255 / 219
    cb, cr = ((plane.repeat(2, 0).repeat(2, 1) - 128) * 255 / 224 for plane in (u, v))
    red = luma + 1.402 * cr
    green = luma - 0.344136 * cb - 0.714136 * cr
    blue = luma + 1.772 * cb
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 255)


def refusal(raw: RawImage, limits: MediaLimits = LIMITS) -> Failure:
    with pytest.raises(Failure) as caught:
        decode(raw, limits)
    with pytest.raises(Failure):
        decoded_bytes(raw, limits)
    return caught.value


def test_tight_rgb_is_looked_at_where_it_lies() -> None:
    raw = tight(PixelFormat.RGB24, 61, 43)
    image = decode(raw, LIMITS)
    assert np.shares_memory(image.pixels, np.frombuffer(raw.data, np.uint8))
    assert not image.pixels.flags.writeable
    assert image.pixels.tobytes() == raw.data
    assert decoded_bytes(raw, LIMITS) == 0


def test_bgr_and_grey_become_rgb() -> None:
    bgr = tight(PixelFormat.BGR24, 61, 43)
    source = np.frombuffer(bgr.data, np.uint8).reshape(43, 61, 3)
    assert (decode(bgr, LIMITS).pixels == source[..., ::-1]).all()
    grey = tight(PixelFormat.GRAY8, 61, 43)
    plane = np.frombuffer(grey.data, np.uint8).reshape(43, 61, 1)
    assert (decode(grey, LIMITS).pixels == plane).all()


@pytest.mark.parametrize("form", CHROMA)
@pytest.mark.parametrize("size", [(2, 2), (640, 480), (1922, 1082)])
def test_yuv_is_bt601_limited_range_within_one(form: PixelFormat, size: tuple[int, int]) -> None:
    raw = tight(form, *size)
    assert np.abs(decode(raw, LIMITS).pixels - exact(raw)).max() <= 1


def test_every_yuv_value_is_within_one() -> None:
    """All combinations of U and V, at the ends and in the middle of Y."""
    u, v = (plane.astype(np.uint8) for plane in np.mgrid[0:256, 0:256])
    for luma in (0, 16, 100, 128, 235, 255):
        data = bytes([luma]) * (512 * 512) + u.tobytes() + v.tobytes()
        raw = RawImage(data, 512, 512, 0, PixelFormat.I420)
        assert np.abs(decode(raw, LIMITS).pixels - exact(raw)).max() <= 1


def test_i420_agrees_with_ffmpeg_within_three() -> None:
    """Three, because FFmpeg's quick conversion rounds down in several places; `exact` is the closer judge."""
    av = pytest.importorskip("av")
    from av.video.reformatter import ColorRange, Colorspace

    # Legal values only: beyond them FFmpeg clips the planes, not the colours.
    plane = np.clip(np.frombuffer(noise(64 * 72), np.uint8), 16, 235).reshape(72, 64)
    rgb = av.VideoFrame.from_ndarray(plane, format="yuv420p").reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU601,
        dst_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    ours = decode(RawImage(plane.tobytes(), 64, 48, 0, PixelFormat.I420), LIMITS).pixels
    assert np.abs(ours.astype(int) - rgb.to_ndarray()).max() <= 3


def test_nv12_and_i420_of_one_picture_are_the_same() -> None:
    i420 = tight(PixelFormat.I420, 64, 48)
    luma, u, v = np.split(np.frombuffer(i420.data, np.uint8), [64 * 48, 64 * 60])
    nv12 = luma.tobytes() + np.stack([u, v], axis=-1).tobytes()
    pair = decode(i420, LIMITS).pixels, decode(RawImage(nv12, 64, 48, 0, PixelFormat.NV12), LIMITS).pixels
    assert np.array_equal(*pair)


def test_black_white_and_primaries_come_out_as_such() -> None:
    for (y, u, v), rgb in {
        (16, 128, 128): (0, 0, 0),
        (235, 128, 128): (255, 255, 255),
        (81, 90, 240): (255, 0, 0),
        (145, 54, 34): (0, 255, 0),
        (41, 240, 110): (0, 0, 255),
    }.items():
        raw = RawImage(bytes([y] * 4 + [u, v]), 2, 2, 0, PixelFormat.NV12)
        assert np.abs(decode(raw, LIMITS).pixels.astype(int) - rgb).max() <= 2


@settings(max_examples=80, deadline=None)
@given(
    form=st.sampled_from(PixelFormat),
    half=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    gap=st.integers(0, 9).map(lambda n: 2 * n),
    extra=st.integers(0, 5),
)
def test_stride_and_surplus_bytes_do_not_change_the_picture(
    form: PixelFormat, half: tuple[int, int], gap: int, extra: int
) -> None:
    raw = tight(form, 2 * half[0], 2 * half[1])
    wide = widen(raw, row_bytes(form, raw.width) + gap)
    longer = RawImage(wide.data + b"\x5a" * extra, wide.width, wide.height, wide.stride, form)
    expected = decode(raw, LIMITS)
    result = decode(longer, LIMITS)
    assert np.array_equal(result.pixels, expected.pixels)
    assert result.pixels.flags.c_contiguous
    assert (result.width, result.height) == (raw.width, raw.height)


@pytest.mark.parametrize("form", PixelFormat)
def test_too_few_bytes_are_counted(form: PixelFormat) -> None:
    for stride in (0, 40):
        size = needed(form, 8, 6, stride)
        decode(RawImage(bytes(size), 8, 6, stride, form), LIMITS)
        failure = refusal(RawImage(bytes(size - 1), 8, 6, stride, form))
        assert (failure.reason, failure.field) == (Reason.IMAGE_UNDECODABLE, "image.raw.data")
        assert failure.metadata == {"needed": str(size), "given": str(size - 1)}
        assert str(size) in failure.message
        assert str(size - 1) in failure.message


@pytest.mark.parametrize(
    ("raw", "field", "reason"),
    [
        (RawImage(b"", 4, 4), "image.raw.data", Reason.INPUT_MISSING),
        (RawImage(bytes(48), 0, 4), "image.raw.width", Reason.IMAGE_UNDECODABLE),
        (RawImage(bytes(48), 4, 0), "image.raw.height", Reason.IMAGE_UNDECODABLE),
        (RawImage(bytes(48), 4, 4, 11), "image.raw.stride", Reason.IMAGE_UNDECODABLE),
        (RawImage(bytes(48), 4, 4, 3, PixelFormat.GRAY8), "image.raw.stride", Reason.IMAGE_UNDECODABLE),
        (RawImage(bytes(48), 3, 4, 0, PixelFormat.NV12), "image.raw.width", Reason.IMAGE_UNDECODABLE),
        (RawImage(bytes(48), 4, 3, 0, PixelFormat.I420), "image.raw.height", Reason.IMAGE_UNDECODABLE),
        (RawImage(bytes(48), 4, 4, 5, PixelFormat.I420), "image.raw.stride", Reason.IMAGE_UNDECODABLE),
        (RawImage(bytes(48), 4, 4, 0, "YUY2"), "image.raw.format", Reason.FORMAT_UNSUPPORTED),  # type: ignore[arg-type]
        (RawImage(bytes(48), 20_000, 1), "image.raw.width", Reason.IMAGE_TOO_LARGE),
        (RawImage(bytes(48), 10_000, 10_000), "image.raw", Reason.IMAGE_TOO_LARGE),
        (RawImage(bytes(48), 1 << 31, 1 << 31), "image.raw.width", Reason.IMAGE_TOO_LARGE),
    ],
)
def test_what_is_wrong_is_named(raw: RawImage, field: str, reason: Reason) -> None:
    failure = refusal(raw)
    assert (failure.field, failure.reason) == (field, reason)


def test_an_odd_stride_is_fine_for_nv12() -> None:
    raw = tight(PixelFormat.NV12, 6, 4)
    assert np.array_equal(decode(widen(raw, 7), LIMITS).pixels, decode(raw, LIMITS).pixels)
