"""Packets to pictures: what is shown is right, and what is not right is said, whatever comes in."""

import random
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import simplejpeg

from opsin_detectors.api import Pixels
from opsin_server.errors import Failure, Reason
from opsin_server.media.bitstream import H264Syntax, HevcSyntax, Size
from opsin_server.media.header import MediaLimits
from opsin_server.media.video import PACKET, Codec, Picture, VideoDecoder, open_decoder

av = pytest.importorskip("av")

LIMITS = MediaLimits()
ENCODERS = {Codec.H264: "libx264", Codec.HEVC: "libx265"}
CHAINED = [Codec.H264, Codec.HEVC]


def scene(count: int = 20, width: int = 160, height: int = 96, seed: int = 0) -> list[Pixels]:
    """Frames that each show something else: coarse blocks that move."""
    blocks = np.random.default_rng(seed).integers(30, 220, (height // 8, width // 8, 3), np.uint8)
    base = blocks.repeat(8, 0).repeat(8, 1)
    return [np.roll(base, 4 * i, 1) for i in range(count)]


def encode(codec: Codec, frames: Sequence[Pixels], *, gop: int = 1000, **options: str) -> list[bytes]:
    context = av.CodecContext.create(ENCODERS[codec], "w")
    context.height, context.width = frames[0].shape[:2]
    context.pix_fmt, context.time_base, context.gop_size = "yuv420p", Fraction(1, 30), gop
    context.max_b_frames = int(options.pop("bframes", "0"))
    context.options = {"preset": "ultrafast", "crf": "10", **options}
    if context.max_b_frames == 0:
        context.options = {**context.options, "tune": "zerolatency"}
    if codec is Codec.HEVC:
        bframes = f":bframes={context.max_b_frames}" if context.max_b_frames else ""
        context.options = {**context.options, "x265-params": "log-level=none" + bframes}
    packets = []
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = number
        packets += [bytes(p) for p in context.encode(frame)]
    return packets + [bytes(p) for p in context.encode(None)]


@cache
def clip(codec: Codec, gop: int = 1000) -> tuple[bytes, ...]:
    return tuple(encode(codec, scene(), gop=gop))


def attempt(decoder: VideoDecoder, packet: bytes) -> Picture | Failure | None:
    """Feed a packet; nothing but a `Failure` that blames the packet may be raised."""
    try:
        return decoder.feed(packet)
    except Failure as failure:
        if failure.field != PACKET:
            raise
        return failure


def feed(decoder: VideoDecoder, packet: bytes) -> str:
    """What became of a packet, in a word."""
    match attempt(decoder, packet):
        case None:
            return "none"
        case Failure(reason=reason):
            return reason.value
        case _:
            return "picture"


def likeness(a: Pixels, b: Pixels) -> float:
    """Mean difference of two pictures, 0..255."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


# What is shown.


@pytest.mark.parametrize("codec", CHAINED)
def test_each_packet_gives_its_picture_at_once_and_in_true_colours(codec: Codec) -> None:
    decoder = open_decoder(codec, LIMITS)
    for pixels, packet in zip(scene(), clip(codec), strict=True):
        picture = decoder.feed(packet)
        assert picture is not None
        image = picture.to_rgb()
        assert image.pixels.shape == (96, 160, 3)
        assert image.pixels.dtype == np.uint8
        assert image.pixels.flags.c_contiguous
        assert likeness(image.pixels, pixels) < 12
    assert not decoder.key_frame_wanted


@pytest.mark.parametrize("codec", CHAINED)
def test_a_picture_may_come_reduced_but_never_below_what_is_needed(codec: Codec) -> None:
    picture = open_decoder(codec, LIMITS).feed(clip(codec)[0])
    assert picture is not None
    whole = picture.to_rgb().pixels
    half = picture.to_rgb((80, 40))
    assert half.pixels.shape == (48, 80, 3)
    assert (half.width, half.height) == (160, 96)
    assert likeness(half.pixels, whole.reshape(48, 2, 80, 2, 3).mean((1, 3))) < 4
    assert picture.to_rgb((81, 10)).pixels.shape == (96, 160, 3)


def test_a_picture_outlives_its_decoder() -> None:
    decoder = open_decoder(Codec.H264, LIMITS)
    pictures = [decoder.feed(p) for p in clip(Codec.H264)]
    decoder.close()
    del decoder
    for pixels, picture in zip(scene(), pictures, strict=True):
        assert picture is not None
        assert likeness(picture.to_rgb().pixels, pixels) < 12


@pytest.mark.parametrize("codec", CHAINED)
def test_pictures_that_nobody_wants_are_decoded_for_those_that_follow(codec: Codec) -> None:
    decoder = open_decoder(codec, LIMITS)
    *unwanted, last = clip(codec)
    assert [decoder.feed(p, keep=False) for p in unwanted] == [None] * len(unwanted)
    picture = decoder.feed(last)
    assert picture is not None
    assert likeness(picture.to_rgb().pixels, scene()[-1]) < 12


@pytest.mark.parametrize("profile", ["baseline", "main", "high"])
def test_every_usual_profile_is_read(profile: str) -> None:
    packets = encode(Codec.H264, scene(5, width=144, height=64), profile=profile, preset="medium")
    assert H264Syntax().read(packets[0]).sizes == (Size(144, 64),)
    decoder = open_decoder(Codec.H264, LIMITS)
    assert [feed(decoder, p) for p in packets] == ["picture"] * 5


# Parameter sets and sizes.


def split_sets(packet: bytes) -> tuple[bytes, bytes]:
    """A key packet's parameter sets, and the rest."""
    at = packet.index(b"\0\0\1\x68")  # H.264's second set is the last
    end = packet.index(b"\0\0\1", at + 3)
    return packet[:end], packet[end:]


def test_parameter_sets_may_come_alone_and_are_no_picture() -> None:
    sets, rest = split_sets(clip(Codec.H264)[0])
    decoder = open_decoder(Codec.H264, LIMITS)
    assert feed(decoder, sets) == "none"
    assert feed(decoder, rest) == "picture"
    assert feed(decoder, sets) == "none"
    assert [feed(decoder, p) for p in clip(Codec.H264)[1:5]] == ["picture"] * 4


@pytest.mark.parametrize("codec", CHAINED)
def test_the_resolution_may_change_at_a_key_frame(codec: Codec) -> None:
    decoder = open_decoder(codec, LIMITS)
    for width, height in ((160, 96), (320, 192), (64, 64)):
        frames = scene(3, width, height)
        for pixels, packet in zip(frames, encode(codec, frames), strict=True):
            picture = decoder.feed(packet)
            assert picture is not None
            assert likeness(picture.to_rgb().pixels, pixels) < 12


@pytest.mark.parametrize("codec", CHAINED)
def test_a_stream_over_the_limit_is_refused_by_its_header(codec: Codec) -> None:
    decoder = open_decoder(codec, MediaLimits(max_pixels=100 * 100))
    first, second, *_ = clip(codec)
    with pytest.raises(Failure) as caught:
        decoder.feed(first)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE
    assert decoder.key_frame_wanted
    assert feed(decoder, second) == "IMAGE_UNDECODABLE", "its key frame was not let in"
    assert feed(decoder, encode(codec, scene(1, 64, 64))[0]) == "picture"


def test_a_header_of_a_giant_costs_nothing() -> None:
    """A sequence parameter set that says 65 536 x 65 536; FFmpeg never sees it."""
    bits = "01000010" + "0" * 8 + "00011110" + "1" + "1" + "1" * 2 + "010" + "0"
    side = format(4096, "b").zfill(25)  # ue(4095)
    bits += side + side + "1"
    packet = b"\0\0\1\x67" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(
        -(-len(bits) // 8), "big"
    )
    with pytest.raises(Failure) as caught:
        open_decoder(Codec.H264, LIMITS).feed(packet)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE
    assert caught.value.metadata["width"] == "65536"


# What cannot be shown.


@pytest.mark.parametrize("codec", CHAINED)
@pytest.mark.parametrize("bframes", ["1", "3"])
def test_b_frames_are_refused_with_the_setting_to_use(codec: Codec, bframes: str) -> None:
    decoder = open_decoder(codec, LIMITS)
    for packet in encode(codec, scene(), bframes=bframes, preset="veryfast"):
        found = attempt(decoder, packet)
        if isinstance(found, Failure):
            break
        assert codec is Codec.H264, "HEVC tells in its header"
    assert isinstance(found, Failure)
    assert found.reason is Reason.CODEC_UNSUPPORTED
    assert "bframes=0" in found.message


@pytest.mark.parametrize("codec", CHAINED)
def test_a_lost_packet_fails_what_refers_to_it_until_the_next_key_frame(codec: Codec) -> None:
    decoder = open_decoder(codec, LIMITS)
    packets = list(clip(codec, gop=10))
    del packets[5]
    words = [feed(decoder, p) for p in packets[:6]]
    assert words == ["picture"] * 5 + ["IMAGE_UNDECODABLE"]
    assert decoder.key_frame_wanted
    words = [feed(decoder, p) for p in packets[6:]]
    assert words == ["IMAGE_UNDECODABLE"] * 3 + ["picture"] * 10
    assert not decoder.key_frame_wanted


@pytest.mark.parametrize("codec", CHAINED)
def test_a_stream_that_does_not_begin_with_a_key_frame_waits_for_one(codec: Codec) -> None:
    decoder = open_decoder(codec, LIMITS)
    assert decoder.key_frame_wanted
    words = [feed(decoder, p) for p in clip(codec, gop=10)[3:]]
    assert words == ["IMAGE_UNDECODABLE"] * 7 + ["picture"] * 10


@pytest.mark.parametrize("codec", CHAINED)
@pytest.mark.parametrize("harm", ["cut", "noise", "nothing like it", "empty units"])
def test_a_broken_packet_fails_and_the_next_key_frame_mends_it(codec: Codec, harm: str) -> None:
    packets = list(clip(codec, gop=10))
    packets[5] = {
        "cut": packets[5][: len(packets[5]) // 2],
        "noise": random.Random(7).randbytes(100_000),
        "nothing like it": b"\0\0\1" + random.Random(8).randbytes(100_000),
        "empty units": b"\0\0\1" * 5000,
    }[harm]
    decoder = open_decoder(codec, LIMITS)
    words = [feed(decoder, p) for p in packets]
    assert words[:5] == ["picture"] * 5
    if (codec, harm) != (Codec.HEVC, "cut"):  # what is left of it can be decoded, to something
        assert words[5] in ("IMAGE_UNDECODABLE", "none", "CODEC_UNSUPPORTED")
    assert words[10:] == ["picture"] * 10
    for number, packet in enumerate(clip(codec, gop=10)):
        picture = decoder.feed(packet)
        assert picture is not None
        assert likeness(picture.to_rgb().pixels, scene()[number]) < 12, "and shows what it should"


def test_length_prefixes_instead_of_start_codes_are_told_as_such() -> None:
    with pytest.raises(Failure, match="Annex B start code"):
        open_decoder(Codec.H264, LIMITS).feed(b"\0\0\x10\0" + bytes(range(1, 100)))


@pytest.mark.parametrize("codec", CHAINED)
def test_an_empty_packet_holds_no_picture(codec: Codec) -> None:
    assert open_decoder(codec, LIMITS).feed(b"") is None


@pytest.mark.parametrize("codec", CHAINED)
@pytest.mark.parametrize("seed", range(6))
def test_no_bytes_raise_anything_but_a_failure_or_kill_the_decoder(codec: Codec, seed: int) -> None:
    dice = random.Random(seed)
    decoder = open_decoder(codec, LIMITS)
    packets = clip(codec, gop=5)
    for _ in range(15):
        for packet in packets:
            feed_to_the_end(decoder, harmed(packet, dice))
    for pixels, packet in zip(scene(), packets, strict=True):
        picture = decoder.feed(packet)
        assert picture is not None
        assert likeness(picture.to_rgb().pixels, pixels) < 12


def feed_to_the_end(decoder: VideoDecoder, packet: bytes) -> None:
    found = attempt(decoder, packet)
    if found is not None and not isinstance(found, Failure):
        with suppress(Failure):
            found.to_rgb()


def harmed(packet: bytes, dice: random.Random) -> bytes:
    match dice.randrange(6):
        case 0:
            return packet[: dice.randrange(len(packet))]
        case 1:
            return dice.randbytes(dice.randrange(1, 20_000))
        case 2:
            return b"\0\0\0\1" + dice.randbytes(dice.randrange(1, 2000))
        case 3:
            return b""
        case 4:
            return packet
    data = bytearray(packet)
    for _ in range(dice.randrange(1, 20)):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


# Motion JPEG.


def test_motion_jpeg_packets_stand_for_themselves() -> None:
    decoder = open_decoder(Codec.MJPEG, LIMITS)
    assert not decoder.chained
    for pixels in scene(3):
        picture = decoder.feed(simplejpeg.encode_jpeg(pixels, quality=95))
        assert picture is not None
        assert (picture.width, picture.height) == (160, 96)
        assert likeness(picture.to_rgb().pixels, pixels) < 12


def test_motion_jpeg_takes_nothing_else_and_recovers_at_once() -> None:
    decoder = open_decoder(Codec.MJPEG, MediaLimits(max_pixels=200 * 100))
    good = simplejpeg.encode_jpeg(scene(1)[0])
    assert feed(decoder, b"\x89PNG\r\n\x1a\n") == "IMAGE_UNDECODABLE"
    assert feed(decoder, random.Random(3).randbytes(100_000)) == "IMAGE_UNDECODABLE"
    assert feed(decoder, simplejpeg.encode_jpeg(scene(1, 320, 240)[0])) == "IMAGE_TOO_LARGE"
    assert feed(decoder, b"") == "none"
    assert not decoder.key_frame_wanted
    assert feed(decoder, good) == "picture"
    cut = decoder.feed(good[: len(good) // 2])
    assert cut is not None
    with pytest.raises(Failure) as caught:
        cut.to_rgb()
    assert caught.value.field == PACKET


def test_hevc_sizes_are_read_from_the_header() -> None:
    assert HevcSyntax().read(clip(Codec.HEVC)[0]).sizes == (Size(160, 96),)
