"""A device's decoder gives what the CPU's gives, upright, or leaves the file to it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import device_codec
from opsin_detectors.api import Box, ImageInput
from opsin_server.calls import EncodedImage
from opsin_server.errors import Failure
from opsin_server.media import device
from opsin_server.media.crop import crop
from opsin_server.media.decode import decode
from opsin_server.media.device import Codec, DeviceDecoder, NoCodecError, at_home, is_tensor, open_codec
from opsin_server.media.header import read_header
from opsin_server.streams.similar import thumbnail
from unit.media.pictures import LIMITS, SAMPLES, encode, exif


def coffee(**options: Any) -> bytes:
    return encode(Image.open(SAMPLES / "coffee.png").convert("RGB").resize((301, 203)), "JPEG", **options)


def by(codec: Codec, data: bytes) -> ImageInput:
    return decode(EncodedImage(data), LIMITS, (64, 64), DeviceDecoder("test", "cpu", codec))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright_as_the_cpus_are(orientation: int) -> None:
    data = coffee(exif=exif(orientation))
    there, here = by(device_codec.codec, data), decode(EncodedImage(data), LIMITS)
    assert is_tensor(there.pixels)
    assert there.pixels.is_contiguous()  # type: ignore[attr-defined]
    assert (there.width, there.height) == (here.width, here.height)
    assert np.array_equal(at_home(there).pixels, here.pixels)


def _fails(data: bytes) -> Any:
    raise RuntimeError("nvjpegDecode failed: 6")


def _turned(data: bytes) -> Any:
    return device_codec.codec(data).transpose(0, 1)


@pytest.mark.parametrize("codec", [_fails, _turned])
def test_what_the_device_cannot_decode_the_cpu_does_reduced_as_ever(codec: Codec) -> None:
    data = coffee()
    image = by(codec, data)
    assert np.array_equal(image.pixels, decode(EncodedImage(data), LIMITS, (64, 64)).pixels)
    assert image.pixels.shape[:2] == (102, 151)


def test_a_device_that_fails_every_picture_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    decoder, data = DeviceDecoder("test", "cpu", _fails), coffee()
    header = read_header(data, LIMITS)
    assert [decoder.decode(data, header) for _ in range(3)] == [None] * 3
    assert decoder._failed


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_a_scan_that_ends_early_but_is_ended_properly_is_refused_as_ever(left: float) -> None:
    data = coffee()
    cut = data[: int(len(data) * left)].rstrip(b"\xff") + b"\xff\xd9"
    with pytest.raises(Failure) as ours:
        decode(EncodedImage(cut), LIMITS)
    with pytest.raises(Failure) as theirs:
        by(device_codec.codec, cut)
    assert theirs.value.message == ours.value.message


def test_a_picture_over_the_limit_is_refused_before_the_device_sees_it() -> None:
    def never(data: bytes) -> Any:
        raise AssertionError("decoded")

    data = bytearray(coffee())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(Failure, match="65535 x 65535"):
        by(never, bytes(data))


def test_regions_and_thumbnails_are_the_same_of_a_tensor() -> None:
    data = coffee()
    there, here = by(device_codec.codec, data), decode(EncodedImage(data), LIMITS)
    box = Box(0.1, 0.2, 0.7, 0.9)
    assert np.array_equal(at_home(crop(there, box)).pixels, crop(here, box).pixels)
    assert np.array_equal(thumbnail(there.pixels), thumbnail(here.pixels))


def test_a_tensor_is_at_home_on_its_own_device_only() -> None:
    tensor = torch.zeros((2, 2, 3), dtype=torch.uint8)
    assert DeviceDecoder("test", "cpu", _fails).is_home_of(tensor)
    assert not DeviceDecoder("test", "cuda:0", _fails).is_home_of(tensor)
    meta = tensor.to("meta")
    assert DeviceDecoder("test", "meta", _fails).is_home_of(meta)
    assert not DeviceDecoder("test", "meta:1", _fails).is_home_of(meta)


def test_a_cpu_has_no_codec_of_its_own() -> None:
    with pytest.raises(NoCodecError, match="nothing decodes on cpu"):
        open_codec("cpu")


class Streams:
    """torch.cuda's, taking notes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.made = 0
        monkeypatch.setattr(torch.cuda, "Stream", self.make)
        monkeypatch.setattr(torch.cuda, "stream", self.entered)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda which: self.log.append(f"all of {which} done"))
        monkeypatch.setattr(device, "_own", threading.local())

    def make(self, which: str) -> Any:
        self.made += 1
        stream = SimpleNamespace(name=f"{which} {self.made}")
        stream.synchronize = lambda: self.log.append(f"{stream.name} done")
        return stream

    @contextmanager
    def entered(self, stream: Any) -> Iterator[None]:
        self.log.append(f"{stream.name} in")
        yield
        self.log.append(f"{stream.name} out")


def test_a_threads_work_is_on_its_own_stream_and_done_when_it_hands_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = Streams(monkeypatch)
    for _ in range(2):
        with device.working("cuda:0"):
            streams.log.append("work")
    other = threading.Thread(target=lambda: device.working("cuda:0").__enter__())
    other.start()
    other.join()
    first = ["cuda:0 1 in", "work", "cuda:0 1 done", "cuda:0 1 out"]
    assert streams.log[:8] == first * 2
    assert streams.log[8] == "cuda:0 2 in"


def test_work_that_fails_is_waited_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch)
    with pytest.raises(ValueError, match="odd"), device.working("cuda:0"):
        raise ValueError("odd")
    assert "cuda:0 1 done" in streams.log


def test_after_a_failure_the_device_is_waited_for_before_its_memory_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams, data = Streams(monkeypatch), coffee()
    decoder = DeviceDecoder("test", "cuda:0", _fails)
    assert decoder.decode(data, read_header(data, LIMITS)) is None
    assert streams.log[-2:] == ["cuda:0 1 done", "all of cuda:0 done"]
